"""The report of a GPU in Markdown, and its table of targets in the terminal."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import pages, report, results, tables, targets
from bench.ops import BOTH, OPS
from bench.results import Row, machine_words, rows_of

if TYPE_CHECKING:
    from bench.gpu_report import Run

_NEXT = (
    f"With this folder in `{pages.RESULTS}`, `make pages` renews the figures of "
    f"{' and '.join(pages.PAGES)}."
)


def next_steps(run: Run) -> list[str]:
    """What to do with the results; a rehearsal's are not to be kept."""
    return [] if _rehearsed(run) else [_NEXT]


def write(run: Run) -> Path:
    """Writes `report.md` from what is known so far."""
    found = list(run.results.values())
    shown = run.tests["shown"] if run.tests else {}
    parts = [f"# {run.machine['device']}", *_list(environment(run)), "## Targets"]
    parts.append(pages.target_table(found, shown) if found else "Nothing was measured.")
    parts += ["## Tests", *tests(run)]
    if found:
        parts += ["## Results", f"Medians; {BOTH} where nothing else is said."]
        parts += pages.machine_tables(found)
        pictures = pages.pictures(run.folder, run.folder)
        parts += ["## Pictures", pictures] if pictures else []
    if remarks(run):
        parts += ["## Missing, failed or cut", *_list(remarks(run))]
    parts += [f"Written {time.monotonic() - run.start:.0f} s after the start.", *next_steps(run)]
    path = run.folder / "report.md"
    results.replace(path, "\n\n".join(parts) + "\n")
    return path


def environment(run: Run) -> list[str]:
    """Device, versions and tools, one fact a line."""
    tools = ", ".join(f"{name} {version}" for name, version in run.tools.items() if version)
    words = [machine_words(run.machine), f"nvidia-smi: {run.smi}".replace("\n", "; ")]
    words[1] = words[1].replace("nvidia-smi: nvidia-smi: ", "nvidia-smi: ")
    return [*words, f"at hand: {tools}"]


def tests(run: Run) -> list[str]:
    """A line with the counts, then one for each failure and each reason of skips."""
    if run.tests is None:
        return ["No tests were run."]
    failed, skipped = run.tests["failed"], run.tests["skipped"]
    counts = f"{run.tests['passed']} passed, {len(failed)} failed, {sum(skipped.values())} skipped"
    names = [f"FAILED `{name}`: {_plain(reason)}" for name, reason in failed.items()]
    reasons = [f"{count} skipped: {_plain(reason)}" for reason, count in skipped.items()]
    cut = [f"**{note}.**" for note in run.tests["cut"]]
    return [f"{counts}; the log is in [log.txt](log.txt).", *cut, *_list([*names, *reasons])]


def remarks(run: Run) -> list[str]:
    """What is missing, failed or cut, rows that were not timed among it."""
    rows = rows_of(run.results.values())
    reasons = [reason(row) for row in rows if row["status"] != "ok"]
    left = [name for name in OPS if name not in run.results]
    words = [f"not measured: {', '.join(left)}"] if left and not _rehearsed(run) else []
    return list(dict.fromkeys([*run.notes, *words, *reasons]))


def reason(row: Row) -> str:
    """Why a row was not timed, with what it is."""
    head = f"{row['op']} {row['size']} {row['dtype']}, {row['variant']}"
    return f"{head}: {row['status']}: {_plain(row['reason'])}"


def print_targets(run: Run) -> None:
    device_type = str(run.machine["device_type"])
    found = targets.judge(run.results.values(), device_type)
    if _rehearsed(run):
        found = [one for one in found if one.target.op in run.results]
    lines = [tables.verdict_cells(one) for one in found]
    shown = run.tests["shown"] if run.tests else {}
    if device_type == "cuda":
        lines += [tables.tested_cells(what, shown.get(what)) for what in targets.TESTED]
    plain = [[re.sub("[*`]", "", cell) for cell in line] for line in lines]
    report.print_table(f"targets, {run.machine['device']}", tables.TARGETS_HEADER, plain, True)


def _rehearsed(run: Run) -> bool:
    """On a CPU it is a rehearsal, of one op."""
    return bool(run.machine["device_type"] == "cpu")


def _list(lines: list[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _plain(text: str) -> str:
    """One line that Markdown leaves as it is."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
