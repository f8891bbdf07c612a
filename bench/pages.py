"""Rewrites what README.md and docs/performance.md show of the committed results.

What stands between `<!-- NAME: words -->` and `<!-- end of NAME -->` on a page is made here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import frames, targets
from bench import tables as made_of
from bench.ops import OPS
from bench.plots import PICTURES, made_from, place
from bench.results import (
    CALLS,
    LATENT,
    STEPS,
    TESTS_FILE,
    Result,
    digest,
    load,
    machine_words,
)

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/performance.md")
RESULTS = "bench/results"
MARKED = re.compile(r"<!-- (\w+): ([^\n]*?)-->\n(.*?)<!-- end of \1 -->", re.DOTALL)
MARKER = re.compile(r"<!-- (?:end of \w+|\w+: [^\n]*?) ?-->")
NO_GPU = (
    "No GPU result is committed, and no GPU time is claimed: `make gpu-report` on a machine with a "
    "GPU and PyTorch measures one."
)


@dataclass(frozen=True)
class Machine:
    """A folder of results, all of one machine."""

    folder: Path
    results: list[Result]

    @property
    def about(self) -> dict[str, object]:
        return dict(self.results[0]["machine"])

    @property
    def is_cuda(self) -> bool:
        return self.about["device_type"] == "cuda"

    @property
    def keeps(self) -> bool:
        return bool(self.about.get("keeps_freed_memory"))

    @property
    def title(self) -> str:
        return machine_words(self.about).split(";")[0]

    def of(self, op: str) -> list[Result]:
        return [result for result in self.results if result["settings"]["op"] == op]


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
    return sorted((Machine(one, load(one)) for one in folders), key=lambda one: one.is_cuda)


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
    return [
        path
        for machine in found
        for path in sorted(machine.folder.glob("*.svg"))
        if made_from(path.read_text()) != digest(machine.results)
    ]


# --- what stands between markers ------------------------------------------------------------------

Section = Callable[[list[Machine], Path], str]


def of_each(make: Callable[[Machine, Path], str], empty: str, kept: bool = True) -> Section:
    """A section with a part for each machine that has something to show, of a CPU with its most
    threads; `kept`: where freed memory is kept, too."""

    def section(found: list[Machine], here: Path) -> str:
        shown = [machine for machine in _most_threads(found) if kept or not machine.keeps]
        parts = [(machine.title, make(machine, here)) for machine in shown]
        return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts if text) or empty

    return section


def tables(found: list[Machine], here: Path) -> str:
    """Each machine's tables and first picture, and a line where no GPU is among them."""

    def make(machine: Machine, here: Path) -> str:
        shown = pictures(machine.folder, here, ("speedup_eager",))
        return "\n\n".join(filter(None, [*machine_tables(machine.results), shown]))

    made = of_each(make, "", kept=False)(found, here)
    return "\n\n".join(filter(None, [made, "" if any(m.is_cuda for m in found) else NO_GPU]))


def machine_tables(results: list[Result], short: bool = True) -> list[str]:
    """The latent, the other ops, and training steps, as far as there are results of them."""
    parts = [made_of.table(r) for r in results if r["settings"]["op"] == LATENT and r["rows"]]
    others = other_ops(results)
    if others:
        words = "The other ops at their largest size, and at those that something is asked of; "
        words += "categories have their classes in dim 1, which is a matrix's last:"
        parts += [words] * short + [made_of.ops(others, short)]
    for result in results:
        if result["settings"]["op"] == STEPS and result["rows"]:
            parts += ["A whole training step of a model:", made_of.steps(result)]
    return parts


def everything(results: list[Result], folder: Path | None = None) -> list[str]:
    """All that one machine's results show, and the pictures in its folder: a list of parts."""
    found = [r for r in results if r["settings"]["op"] == CALLS]
    parts = [*machine_tables(results, short=False), *(made_of.calls(r, 1000) for r in found)]
    parts.append(target_table(results, tests_of(folder) if folder else {}))
    return list(filter(None, [*parts, pictures(folder, folder) if folder else ""]))


def other_ops(results: list[Result]) -> list[Result]:
    """In the bench's order."""
    found = [r for r in results if r["settings"]["op"] not in (LATENT, STEPS, CALLS) and r["rows"]]
    return sorted(found, key=place)


def pictures(folder: Path, here: Path, shown: Sequence[str] = tuple(PICTURES)) -> str:
    """Those of a machine that are `shown`, and links to the others."""
    paths = {name: folder / f"{name}.png" for name in PICTURES}
    links = {name: f"[{PICTURES[name]}]({os.path.relpath(path, here).replace(os.sep, '/')})"
             for name, path in paths.items() if path.exists()}  # fmt: skip
    parts = [f"!{links[name]}" for name in shown if name in links]
    rest = [link for name, link in links.items() if name not in shown]
    return "\n\n".join([*parts, *(["More pictures: " + "; ".join(rest) + "."] if rest else [])])


def target_tables(found: list[Machine], here: Path) -> str:
    """What must be reached, and was."""
    made = of_each(lambda machine, _: target_table(machine.results, tests_of(machine.folder)), "")
    parts = [made(found, here)]
    if not any(machine.is_cuda for machine in found):
        parts += ["### GPUs: not measured", NO_GPU, target_table([], {})]
    return "\n\n".join(filter(None, parts))


def target_table(results: list[Result], tests: dict[str, bool | None]) -> str:
    """Targets with what was measured; of GPUs, where there are no results at all.

    Args:
        results: one machine's.
        tests: what GPU tests say of each of `targets.TESTED`.
    """
    about = results[0]["machine"] if results else {"device_type": "cuda"}
    found = frames.cases(results).itertuples() if results else ()
    judged = targets.judge(found, about["device_type"])
    if about["device_type"] == "cuda":
        made = made_of.verdicts(judged, {what: tests.get(what) for what in targets.TESTED})
        if str(about.get("compute_capability", "9")).split(".")[0] != "9":
            made += "\n\nThe targets are set for GPUs of the H100 and H200 class; this is another."
        return made
    # Without the ops that were not measured, which a line names.
    ops = {result["settings"]["op"] for result in results}
    kept = [one for one in judged if one.target.op in ops]
    left = dict.fromkeys(f"`{one.target.op}`" for one in judged if one.target.op not in ops)
    words = f"\n\nNot measured on this machine: {', '.join(left)}." if left else ""
    return made_of.verdicts(kept, {}) + words if kept else ""


def tests_of(folder: Path) -> dict[str, bool | None]:
    """What the GPU tests beside a machine's results say, as `gpu-report` kept it."""
    path = folder / TESTS_FILE
    return dict(json.loads(path.read_text())["shown"]) if path.exists() else {}


def scaling(found: list[Machine], here: Path) -> str:
    """A table for each CPU that was measured with several numbers of threads."""
    parts = []
    for same in _by_cpu(found).values():
        by_threads = {int(str(m.about["threads"])): m.of(LATENT) for m in same if m.of(LATENT)}
        if len(by_threads) > 1:
            parts.append(f"`{LATENT}`, forward+backward, {same[0].about['cpu']}:")
            parts.append(made_of.scaling(by_threads))
    return "\n\n".join(parts) or (
        "No CPU was measured with several numbers of threads: `python -m bench --threads 1`."
    )


def _by_cpu(found: list[Machine]) -> dict[tuple[str, bool], list[Machine]]:
    """CPU machines by processor and what becomes of freed memory, fewest threads first."""
    by_cpu: dict[tuple[str, bool], list[Machine]] = {}
    for machine in sorted(found, key=lambda machine: int(str(machine.about["threads"]))):
        if not machine.is_cuda:
            by_cpu.setdefault((str(machine.about["cpu"]), machine.keeps), []).append(machine)
    return by_cpu


def _most_threads(found: list[Machine]) -> list[Machine]:
    """All machines, but a CPU only with its most threads."""
    fewer = [machine for same in _by_cpu(found).values() for machine in same[:-1]]
    return [machine for machine in found if machine not in fewer]


def of_ops(table: Callable[[list[Result]], str], latent: bool = False) -> Callable[..., str]:
    """A table of a machine's ops, in the bench's order."""

    def make(machine: Machine, _: Path) -> str:
        found = [*(machine.of(LATENT) if latent else []), *other_ops(machine.results)]
        return table(found) if found else ""

    return make


SECTIONS: dict[str, Section] = {
    "tables": tables,
    "targets": target_tables,
    "ops": of_each(of_ops(partial(made_of.ops, short=False)), "No other op was measured."),
    "calls": of_each(
        lambda machine, _: "\n\n".join(map(made_of.calls, machine.of(CALLS))),
        "No small call was measured: `python -m bench --op calls`.",
    ),
    "bytes": lambda *_: made_of.bytes_and_noise(OPS.values()),
    "limits": of_each(of_ops(made_of.limits, latent=True), "Nothing was measured."),
    "scaling": scaling,
    "pictures": of_each(
        lambda machine, here: pictures(machine.folder, here),
        "No pictures are committed: `python -m bench plots` makes them.",
        kept=False,
    ),
}
