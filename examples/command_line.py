"""The options that the examples have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(description: str, name: str, quick: str) -> argparse.ArgumentParser:
    """With --threads, --out and --quick, where `quick` says what that leaves out."""
    made = argparse.ArgumentParser(description=description)
    # Matrices this small gain nothing from a second thread, and lose much where cores are shared.
    made.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    made.add_argument("--out", type=Path, default=Path(f"out/{name}.png"), help="the picture")
    made.add_argument("--quick", action="store_true", help=quick)
    return made


def checked(
    made: argparse.ArgumentParser, options: argparse.Namespace, *counts: str
) -> argparse.Namespace:
    """The options, unless one that counts something is below 1."""
    for name in ("threads", *counts):
        if getattr(options, name) < 1:
            made.error(f"--{name.replace('_', '-')} must be at least 1")
    return options
