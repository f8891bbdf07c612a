"""Pages and invented results, laid out as in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as command_line
from tests.helpers import invented

# Without pandas and matplotlib, the tests that import this are skipped.
frames, tables, plots, pages = (
    pytest.importorskip(f"bench.{name}") for name in ("frames", "tables", "plots", "pages")
)

ROOT = Path(__file__).parents[2]
OTHER = "gaussian_kl"


def laid_out(tmp_path):
    """A checkout, with results of two CPU runs."""
    for name in pages.PAGES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((ROOT / name).read_text())
    results = tmp_path / pages.RESULTS
    invented.write(results / "two", invented.result(), invented.result(OTHER), invented.steps())
    invented.write(results / "one", invented.result(threads=1))
    assert command_line.main(["pages", "--root", str(tmp_path)]) == 0
    return tmp_path


def section(path, name):
    return path.read_text().split(f"<!-- {name}: ")[1].split(f"<!-- end of {name} -->")[0]
