"""SmolLM2 beside llama.cpp and `transformers`: the same 128 greedy tokens, or the gap where they part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from myna.fetch import data_directory
from myna.generate.replay import _normalize
from myna.models.fetched import resolve_model
from myna.models.gguf_export import export_gguf
from myna.models.gguf_import import import_gguf
from myna.models.pretrained import load_model
from myna.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Water boils when")
TOKENS = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory: that of `myna fetch smollm2`, or made from a GGUF file in the user's data directory."""
    given = find_file()
    if given is not None:
        made = tmp_path_factory.mktemp("smollm2") / "model"
        import_gguf(given, made)
        return made
    found = resolve_model("smollm2") if any(data_directory().glob("smollm2-*/model/config.json")) else None
    if found is None:
        pytest.skip("SmolLM2 is not in the data directory: myna fetch smollm2")
    return found


def find_file() -> Path | None:
    return next(iter(sorted(data_directory().glob("**/smollm2*.gguf"))), None) if data_directory().is_dir() else None


def continue_greedily(path: Path, prompts: list[list[int]]) -> list[tuple[list[int], np.ndarray]]:
    """Let llama.cpp go on from each prompt; its tokens, and its log-probabilities of every place (T, V)."""
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
                             type_k=0, type_v=0)
    found = []
    for text, ids in zip(PROMPTS, prompts, strict=True):
        assert engine.tokenize(text.encode(), add_bos=True, special=False) == ids
        engine.reset()
        stream = engine.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        tokens = [next(stream) for _ in range(TOKENS)]
        found.append((tokens, _normalize(np.array(engine.scores[: len(ids) + TOKENS - 1], dtype=np.float32))))
    return found


def compare(model, ids: list[int], tokens: list[int], theirs: np.ndarray) -> tuple[int, float, float]:
    """How many greedy tokens are the same, how far apart ours says the two are where they part, and the largest difference."""
    ours = model.step([[*ids, *tokens[:-1]]], model.start(), last=False)[0]
    chosen = ours[len(ids) - 1 :].argmax(axis=-1).tolist()
    same = next((place for place, pair in enumerate(zip(chosen, tokens, strict=True)) if pair[0] != pair[1]), len(tokens))
    row = ours[len(ids) - 1 + same] if same < len(tokens) else None
    gap = 0.0 if row is None else float(row[chosen[same]] - row[tokens[same]])
    return same, gap, float(np.abs(theirs - ours)[ours > -9.2].max())


def test_llama_cpp_gives_the_same_greedy_tokens_from_our_file(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(folder), Tokenizer.open(folder)
    export_gguf(folder, tmp_path / "x.gguf", tokenizer, "f32")
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    for ids, (tokens, theirs) in zip(prompts, continue_greedily(tmp_path / "x.gguf", prompts), strict=True):
        same, gap, largest = compare(model, ids, tokens, theirs)
        print(f"float32: {same} of {TOKENS} tokens, gap {gap:.4f}, largest difference {largest:.2g}")
        assert same == TOKENS or gap < 1e-3
        assert largest < 0.02


def test_the_file_itself_gives_the_same_greedy_tokens_or_nearly_tied_ones(folder: Path) -> None:
    given = find_file()
    if given is None:
        pytest.skip("the GGUF file itself is not in the data directory")
    model, tokenizer = load_model(folder), Tokenizer.open(folder)
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    for ids, (tokens, theirs) in zip(prompts, continue_greedily(given, prompts), strict=True):
        same, gap, largest = compare(model, ids, tokens, theirs)
        print(f"{given.name}: {same} of {TOKENS} tokens, gap {gap:.4f}, largest difference {largest:.2g}")
        assert same == TOKENS or gap < 0.5  # llama.cpp rounds activations to 8 bits before it multiplies them by 4-bit weights


def test_transformers_opens_it_with_the_same_logits_and_ids(folder: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, tokenizer = load_model(folder), Tokenizer.open(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder)
    for text in PROMPTS:
        ids = tokenizer.encode(text)
        assert read(text)["input_ids"] == ids
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        np.testing.assert_allclose(model.step([ids], model.start(), last=False)[0], wanted, atol=1e-3)
