"""Rewrites what README.md and docs/performance.md show of the committed results.

What stands between `<!-- NAME: words -->` and `<!-- end of NAME -->` on a page is made here.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import frames, targets
from bench import tables as made_of
from bench.plots import PICTURES, made_from, place
from bench.results import CALLS, LATENT, STEPS, Result, digest, load, where_words

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/performance.md")
RESULTS = "bench/results"
MARKED = re.compile(r"<!-- (\w+): ([^\n]*?)-->\n(.*?)<!-- end of \1 -->", re.DOTALL)
MARKER = re.compile(r"<!-- (?:end of \w+|\w+: [^\n]*?) ?-->")
NO_GPU = (
    "GPU kernels are executed instruction by instruction in the tests, and not yet timed: "
    "`make gpu-report` on a machine with a GPU and PyTorch times them."
)


class Machine(NamedTuple):
    """A folder of results, all of one machine."""

    folder: Path
    results: list[Result]
    about: dict[str, Any]

    @property
    def is_cuda(self) -> bool:
        return bool(self.about["device_type"] == "cuda")

    @property
    def processor(self) -> object:
        """What machines share that differ by their threads alone."""
        return self.about["cpu"]

    @property
    def title(self) -> str:
        return where_words(self.about).split(";")[0]

    def of(self, op: str) -> list[Result]:
        return [one for one in self.results if one["settings"]["op"] == op and one["rows"]]

    @property
    def others(self) -> list[Result]:
        """In the bench's order."""
        apart = (LATENT, STEPS, CALLS)
        found = [r for r in self.results if r["settings"]["op"] not in apart and r["rows"]]
        return sorted(found, key=place)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench pages", description="Rewrites the figures of README and docs."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(words)
    wrong = 0
    try:
        found = machines(options.root / RESULTS)
        for path in (options.root / name for name in PAGES):
            page = path.read_text()
            made = rewritten(page, found, path.parent, str(path))
            if made != page and options.check:
                wrong += 1
                print(f"{path} is not what the results make")
            elif made != page:
                path.write_text(made)
                print(f"{path} written")
    except ValueError as error:
        print(error)
        return 1
    stale = stale_pictures(found)
    for path in stale:
        print(f"{path} was made from other results: python -m bench plots {path.parent}")
    return int(bool(stale or wrong))


def machines(folder: Path) -> list[Machine]:
    """The machines that results are kept of, CPUs first."""
    folders = sorted({path.parent for path in folder.glob("*/*.json")})
    loaded = [(folder, load(folder)) for folder in folders]
    found = [Machine(folder, results, results[0]["machine"]) for folder, results in loaded]
    return sorted(found, key=lambda machine: machine.is_cuda)


def rewritten(page: str, found: list[Machine], here: Path, name: str = "page") -> str:
    """The page with what stands between its markers made anew; `here` is where its links start.

    Raises:
        ValueError: a page's markers don't pair up, or name something that is not made here.
    """

    def made(match: re.Match[str]) -> str:
        part, words, _ = match.groups()
        if part not in SECTIONS:
            raise ValueError(f"{name}: marker {part!r}: expected one of {', '.join(SECTIONS)}")
        return f"<!-- {part}: {words}-->\n\n{SECTIONS[part](found, here)}\n\n<!-- end of {part} -->"

    markers = MARKER.findall(page)
    if not markers or len(markers) != 2 * len(MARKED.findall(page)):
        pairs = "pairs of <!-- NAME: ... --> and <!-- end of NAME -->"
        raise ValueError(f"{name}: expected {pairs}, found {markers}")
    return MARKED.sub(made, page)


def stale_pictures(found: list[Machine]) -> list[Path]:
    """Pictures that were made from other results than those beside them."""
    return [path for machine in found for path in sorted(machine.folder.glob("*.svg"))
            if made_from(path.read_text()) != digest(machine.results)]  # fmt: skip


# --- what stands between markers ------------------------------------------------------------------

Section = Callable[[list[Machine], Path], str]


def of_each(make: Callable[[Machine, Path], str], empty: str) -> Section:
    """A section with a part for each machine that has something to show, of a CPU with its most
    threads."""

    def section(found: list[Machine], here: Path) -> str:
        most = {m.processor: m for m in sorted(found, key=lambda m: int(m.about["threads"]))}
        shown = [m for m in found if m.is_cuda or m is most[m.processor]]
        parts = [(m.title, make(m, here)) for m in shown]
        return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts if text) or empty

    return section


def gains(found: list[Machine], here: Path) -> str:
    """The front page's picture and its figures, and a line where no GPU is among the machines."""

    def make(machine: Machine, here: Path) -> str:
        parts = list(map(made_of.gains, machine.of(STEPS)))
        return _joined([picture(machine.folder, here, "steps"), *parts]) if parts else ""

    made = of_each(make, "No training step was measured: `python -m bench --op training_step`.")
    gpu = any(machine.is_cuda for machine in found)
    return _joined([made(found, here), "" if gpu else NO_GPU])


def picture(folder: Path, here: Path, name: str) -> str:
    """That of a machine, or nothing where it was not drawn."""
    path = folder / f"{name}.png"
    link = f"![{PICTURES[name].title}]({os.path.relpath(path, here).replace(os.sep, '/')})"
    return link if path.exists() else ""


def pictures(folder: Path, here: Path) -> str:
    return _joined([picture(folder, here, name) for name in PICTURES])


def target_tables(found: list[Machine], here: Path) -> str:
    """What must be reached, and was."""
    parts = [of_each(lambda machine, _: target_table(machine.results), "")(found, here)]
    if not any(machine.is_cuda for machine in found):
        parts += ["### GPUs: not measured", NO_GPU, target_table([])]
    return _joined(parts)


def target_table(results: list[Result]) -> str:
    """One machine's targets with what was measured; of GPUs, where there are no results at all."""
    about = results[0]["machine"] if results else {"device_type": "cuda"}
    found = frames.cases(results).itertuples() if results else ()
    judged = targets.judge(found, about["device_type"])
    if about["device_type"] == "cuda":
        other = str(about.get("compute_capability", "9")).split(".")[0] != "9"
        words = "\n\nThe targets are set for GPUs of the H100 and H200 class; this is another."
        return made_of.verdicts(judged) + words * other
    # Without the ops that were not measured, which a line names.
    ops = {result["settings"]["op"] for result in results}
    kept = [one for one in judged if one.target.op in ops]
    left = dict.fromkeys(f"`{one.target.op}`" for one in judged if one.target.op not in ops)
    words = f"\n\nNot measured on this machine: {', '.join(left)}." if left else ""
    return made_of.verdicts(kept) + words if kept else ""


def scaling(found: list[Machine], here: Path) -> str:
    """A table for each CPU that was measured with several numbers of threads."""
    parts = []
    cpus = [machine for machine in found if not machine.is_cuda and machine.of(LATENT)]
    for processor in dict.fromkeys(machine.processor for machine in cpus):
        same = [machine for machine in cpus if machine.processor == processor]
        if len(same) > 1:
            parts.append(f"`{LATENT}`, forward+backward, {processor}:")
            parts.append(made_of.threads([one for machine in same for one in machine.of(LATENT)]))
    return _joined(parts) or (
        "No CPU was measured with several numbers of threads: `python -m bench --threads 1`."
    )


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, parts))


SECTIONS: dict[str, Section] = {
    "gains": gains,
    "targets": target_tables,
    "latent": of_each(
        lambda machine, _: _joined(list(map(made_of.latent, machine.of(LATENT)))),
        "The latent was not measured.",
    ),
    "steps": of_each(
        lambda machine, _: _joined(list(map(made_of.steps, machine.of(STEPS)))),
        "No training step was measured: `python -m bench --op training_step`.",
    ),
    "ops": of_each(
        lambda machine, _: made_of.ops(machine.others) if machine.others else "",
        "No other op was measured.",
    ),
    "calls": of_each(
        lambda machine, _: _joined(list(map(made_of.calls, machine.of(CALLS)))),
        "No small call was measured: `python -m bench --op calls`.",
    ),
    "limits": of_each(
        lambda machine, _: (
            made_of.limits(found) if (found := [*machine.of(LATENT), *machine.others]) else ""
        ),
        "Nothing was measured.",
    ),
    "scaling": scaling,
    "pictures": of_each(
        lambda machine, here: pictures(machine.folder, here),
        "No pictures are committed: `python -m bench plots` makes them.",
    ),
}
