"""Writes docs/consumers.md of what was measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .steps import BLOCK
from .suites import SUITES, Suite, reason

HEAD = """# Other packages' own tests

`make test-consumers` runs the tests of other packages twice: as they are, and with
`fused_reparam.integrations.patch` in place, with `rng="torch"`, because some replay the noise.
`python -m tests.consumers --only page` writes this page of `tests/consumers/results.json`.

bayesian_torch has no tests, and of diffusers' own few draw. Its row of "drawing" and that of
"layers and models" are of tests that were written here (`tests/consumers/written`). scvi-tools'
tests run with its own integration, and as "drawing" with that of `torch.distributions`.
"""


def write(results: dict[str, Any], page: Path) -> None:
    """Write the page anew."""
    lines = [HEAD, *_suites(results.get("suites", {})), *_steps(results.get("steps", []))]
    page.write_text("\n".join(lines).rstrip() + "\n")


def _suites(found: dict[str, Any]) -> list[str]:
    lines = [
        "| tests of | version | its tests, of | as it is | patched | calls fused | not fused |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for suite in SUITES:
        one = found.get(suite.name)
        if one is None:
            continue
        fused = {k: n for k, n in one["calls"].items() if not k.startswith("fallback")}
        others = sum(one["calls"].values()) - sum(fused.values())
        cells = (
            one["version"],
            one["sources"],
            _said(one["stock"]),
            _said(one["patched"]),
            sum(fused.values()),
        )
        lines.append("| " + " | ".join(map(str, (suite.name, *cells, others))) + " |")
    lines.append("")
    for suite in SUITES:
        one = found.get(suite.name)
        if one is not None:
            lines += _details(suite, one)
    absent = [suite.name for suite in SUITES if suite.name not in found]
    if absent:
        lines += [f"Not run: the suites of {', '.join(absent)}.", ""]
    return lines


def _said(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items(), key=_passed_first))


def _passed_first(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] != "passed", item[0]


def _details(suite: Suite, one: dict[str, Any]) -> list[str]:
    lines = []
    reasons = {k.removeprefix("fallback: "): n for k, n in one["calls"].items() if k[:4] == "fall"}
    if reasons:
        said = ", ".join(f"{why} ({n})" for why, n in reasons.items())
        lines += [f"{suite.name}: what the ops left to the original: {said}.", ""]
    by_reason: dict[str, list[str]] = {}
    for test, error in one["only patched"].items():
        by_reason.setdefault(reason(suite, test, error) or "not known why", []).append(test)
    for why, tests in by_reason.items():
        lines += [f"{suite.name}: do worse patched, {why}: {_named(tests)}.", ""]
    if one["failed"]:
        lines += [f"{suite.name}: fail as it is, too: {_named(one['failed'])}.", ""]
    return lines


def _named(tests: list[str]) -> str:
    """The tests' functions, and of how many parameters where there are several."""
    found = Counter(test.split("::")[-1].split("[")[0] for test in tests)
    return ", ".join(f"`{test}`" + (f" ({n})" if n > 1 else "") for test, n in found.items())


STEPS = """## A training step

The processor time of one thread, a step as it is over the patched one (with its own noise), in
turns: above 1 is faster. The range is of the middle half of the pairs.

| package | step | as it is, ms | ratio | range | pairs | calls a step |
| --- | --- | --- | --- | --- | --- | --- |"""


def _steps(found: list[dict[str, Any]]) -> list[str]:
    lines = [STEPS] if found else []
    for one in found:
        low, high = one["quartiles"]
        calls = ", ".join(f"{n / BLOCK:g} {what}" for what, n in one["calls"].items())
        cells = (
            f"{one['name']} {one['version']}", one["what"], f"{one['milliseconds']:.2f}",
            f"{one['ratio']:.2f}", f"{low:.2f} to {high:.2f}", one["pairs"], calls,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]
