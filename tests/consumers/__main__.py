"""``python -m tests.consumers``: run the suites, time the steps, and write the page of both."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fused_reparam import integrations

from . import page, steps, suites

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs" / "consumers.md"


def main() -> int:
    """1 where a test does worse with the integration, and where a suite was not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.consumers", description=__doc__)
    parser.add_argument("names", nargs="*", help="of packages or suites; all that there are")
    parser.add_argument("--sources", type=Path, help="a folder with one of each package's name")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "consumers")
    parser.add_argument("--only", choices=("suites", "steps", "page"))
    options = parser.parse_args()
    unknown = set(options.names) - {n for s in suites.SUITES for n in (s.name, s.package)}
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wrong = 0
    if options.only in (None, "suites"):
        wrong = _run_suites(results, options.names, options.sources, options.out)
    if options.only in (None, "steps"):
        _time_steps(results, options.names)
    before = RESULTS.read_text() if RESULTS.exists() else "{}"
    if options.only != "page":
        if results == json.loads(before):
            print("the results are what they were, and nothing is written")
            return int(wrong > 0)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page.write(results, PAGE)
    return int(wrong > 0)


def _run_suites(results: dict[str, Any], names: list[str], given: Path | None, out: Path) -> int:
    """How many went worse than without the integration, or were not run."""
    wrong = 0
    for suite in suites.SUITES:
        if names and not {suite.name, suite.package} & set(names):
            continue
        if suite.consumer not in integrations.CONSUMERS:
            print(f"{suite.name}: not run, there is no integration of {suite.consumer}")
            wrong += 1
            continue
        try:
            place = suites.sources(suite, given, out / "sources")
        except (OSError, subprocess.CalledProcessError) as error:  # the others are run all the same
            print(f"{suite.name}: not run, {error}", flush=True)
            wrong += 1
            continue
        stock = suites.run(suite, place, False, out / "runs")
        patched = suites.run(suite, place, True, out / "runs")
        if not (stock["tests"] and patched["tests"]):
            print(f"{suite.name}: not run, see {out / 'runs'}", flush=True)
            wrong += 1
            continue
        only = suites.worse(stock, patched)
        wrong += bool(suites.new(suite, only) or "fused" not in patched["calls"])
        print(f"{suite.name}: as it is {stock['outcomes']}, patched {patched['outcomes']}")
        said = [": ".join((test, *error.splitlines()[:1])) for test, error in only.items()]
        print(f"  {patched['calls']}", *said, sep="\n  ", flush=True)
        results.setdefault("suites", {})[suite.name] = {
            "torch": torch.__version__,
            "sources": suite.tag if place.name.endswith(f"-{suite.tag}") else "given",
            "version": patched["version"] or suites.version(suite.package),
            "stock": stock["outcomes"], "patched": patched["outcomes"],
            "calls": patched["calls"], "only patched": only, "failed": stock["failed"],
        }  # fmt: skip
    return wrong


def _time_steps(results: dict[str, Any], names: list[str]) -> None:
    found = []
    for one in steps.STEPS_OF:
        if names and one.name not in names:
            continue
        try:
            row = steps.measure(one)
        except ImportError as error:
            print(f"{one.name}: not timed, {error}", flush=True)
            continue
        found.append({"name": one.name, "version": suites.version(one.name)} | row)
        print(f"{one.name}, {one.what}: {row['ratio']:.2f} {row['quartiles']}", flush=True)
    if not found:
        return
    kept = [
        row for row in results.get("steps", []) if row["name"] not in {r["name"] for r in found}
    ]
    results["steps"] = kept + found


if __name__ == "__main__":
    sys.exit(main())
