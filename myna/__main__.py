"""Run `python -m myna` as `myna`."""

from myna.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
