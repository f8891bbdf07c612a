"""One command that tests and measures the package on a GPU and writes a report.

It needs a checkout, PyTorch and a GPU, and no set-up. Each step is a process of its own with a
limit of time, most important first: a crash or a hang costs that step and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import outcomes, pages, processes, report, results, tables, targets
from bench.machine import folder_name
from bench.ops import BOTH, OPS
from bench.results import TESTS_FILE, Result, Row, machine_words, rows_of

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
# Seconds for all, and those kept back for pictures and the report.
BUDGET, KEPT_BACK = 540.0, 40.0
# A step is not begun with less: importing PyTorch alone takes some seconds.
LEAST = 8.0
GPU_TESTS, NUMERIC_TESTS = "GPU tests", "numeric tests"
# Seconds of the default budget after which they are ended. With what is measured between them, they
# fit into it: that gets its time, however long the tests take.
MOST = {GPU_TESTS: 180.0, NUMERIC_TESTS: 63.0}
# What pytest ends with where none was selected.
NO_TESTS = 5
TOOLS = ("numpy", "triton", "pytest", "xdist", "matplotlib", "scipy")
PROBE = f"""
import importlib, json, sys, torch
device = torch.device(sys.argv[1])
if device.type == "cuda" and not torch.cuda.is_available():
    sys.exit("this PyTorch (" + torch.__version__ + ") sees no CUDA GPU")
from bench import machine
tools = {{}}
for name in {TOOLS!r}:
    try:
        tools[name] = getattr(importlib.import_module(name), "__version__", "at hand")
    except Exception as error:
        tools[name] = None
print(json.dumps([machine.describe(device), tools]))
"""
SMI_FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit"
NEXT = (
    f"With this folder in `{pages.RESULTS}`, `make pages` renews the figures of "
    f"{' and '.join(pages.PAGES)}."
)


# --- the plan -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One run of the bench."""

    name: str
    words: tuple[str, ...]
    most: float
    """Seconds after which it is ended, of the default budget; of another in proportion."""

    @property
    def op(self) -> str:
        return self.name.split()[0]


def _step_of(op: str, sizes: str, most: float = 90.0) -> Step:
    return Step(f"{op} {sizes}", ("--op", op, "--quick", "--sizes", sizes), most)


# What the targets ask for; then how time grows and all else, most important first.
FIRST = [_step_of("gaussian_latent", "64M", 130), _step_of("gaussian_latent", "128x20")]
THEN = [
    Step("training_step --quick", ("--op", "training_step", "--quick"), 120),
    *(_step_of("gaussian_latent", size) for size in ("1M", "256M", "16M")),
    *(_step_of(op, "64M") for op in ("gaussian_latent_from_moments", "gaussian_rsample",
                                     "gaussian_kl", "normal")),
    _step_of("gaussian_latent", "1G"),
    # With the whole Bayesian layer, in place of the smaller one.
    Step("training_step", ("--op", "training_step"), 150),
    _step_of("gaussian_latent", "16k,128k"),
    *(_step_of(op, "128x20,1M") for op in ("gaussian_rsample", "gaussian_latent_from_moments",
                                           "gaussian_kl", "normal")),
    _step_of("gumbel_softmax", "4096x1024,4x8192x16x16"),
    _step_of("sample_weight", "1e7"),
    _step_of("gaussian_latent_samples", "8x128x1024"),
    _step_of("tanh_normal_rsample", "256x6"),
]  # fmt: skip
THEN += [_step_of(name, op.sizes[-1], 45) for name, op in OPS.items()
         if name not in {step.op for step in (*FIRST, *THEN)}]  # fmt: skip
REHEARSAL = Step(
    "gaussian_latent 16x20",
    ("--op", "gaussian_latent", "--quick", "--sizes", "16x20", "--dtype", "float32",
     "--variants", "distributions,reference", "--work", BOTH), 400,
)  # fmt: skip


@dataclass
class Run:
    """What is known so far."""

    device: str
    deadline: float
    start: float
    folder: Path
    machine: dict[str, Any]
    tools: dict[str, str | None]
    smi: str
    tests: dict[str, Any] | None = None
    results: dict[str, Result] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is missing, failed or cut, one sentence each."""
    failed: bool = False
    """Something broke that no outcome of a test and no row says."""
    budget: float = BUDGET

    def note(self, note: str, failed: bool = False) -> None:
        self.failed |= failed
        if note not in self.notes:
            self.notes.append(note)

    @property
    def rehearsed(self) -> bool:
        """On a CPU it is a rehearsal, of one op, whose figures are not to be kept."""
        return bool(self.machine["device_type"] == "cpu")


def main(words: Sequence[str]) -> int:
    """Measures, draws and reports.

    Returns:
        0: all that ran is right; 1: a test or a check failed, a run of the tests or of the bench
        broke, or nothing was measured; 2: no GPU
    """
    options = _options(words)
    start = time.monotonic()
    probe = processes.run([PYTHON, "-c", PROBE, options.device], 90, ROOT)
    if probe.code:
        print(f"gpu-report: {probe.last_line() or 'PyTorch did not start'}", file=sys.stderr)
        return 2
    machine, tools = probe.json()
    folder = options.out.resolve() / folder_name(machine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"gpu-report: --out {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    end = start + options.budget
    run = Run(options.device, end - KEPT_BACK * options.budget / BUDGET, start, folder, machine,
              tools, _smi())  # fmt: skip
    run.budget = options.budget
    run.notes += [f"{name} is not installed" for name in tools if tools[name] is None]
    print("\n".join(environment(run)), flush=True)
    # Written first and rewritten after each step, so that the report outlives this process.
    write(run)
    first, then = ([REHEARSAL], []) if run.rehearsed else (FIRST, THEN)
    _test(run, GPU_TESTS, [*options.tests, "-m", "gpu"])
    _measure(run, first)
    on_device = ["-k", run.device.split(":")[0]]
    _test(run, NUMERIC_TESTS, [*options.tests, "-m", "not gpu and not slow", *on_device])
    _measure(run, then)
    if run.results:
        run.deadline = end - 2  # the report comes after the pictures, and takes no time
        done = _step(run, "plots", [PYTHON, "-m", "bench", "plots", str(folder)], KEPT_BACK)
        if done is not None and done.code not in (0, processes.TIMED_OUT):
            run.note(f"plots: {done.last_line()}")
    return finish(run)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu-report", description="Tests, results, pictures, report of a GPU."
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds for all (default: %(default).0f)"
    )
    parser.add_argument(
        "--out", type=Path, help="results go to <out>/<machine>/ (default: bench/results)"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu rehearses, tiny sizes")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="only these files of tests")
    options = parser.parse_args(words)
    kept = ("out", "gpu-report") if options.device == "cpu" else ("bench", "results")
    options.out = options.out or ROOT.joinpath(*kept)
    return options


def _smi() -> str:
    words = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"]
    done = processes.run(words, 20, ROOT)
    said = done.output.strip() if done.code == 0 else done.last_line()
    return f"nvidia-smi: {said.removeprefix('nvidia-smi: ')}".replace("\n", "; ")


# --- steps ----------------------------------------------------------------------------------------


def _step(
    run: Run, name: str, command: Sequence[str], most: float, more: dict[str, str] | None = None
) -> processes.Done | None:
    """Runs a command within its time and what is left of all; None where that is too little."""
    seconds = min(most * run.budget / BUDGET, run.deadline - time.monotonic())
    if seconds < LEAST:
        run.note(f"{name}: not begun, for lack of time")
        return None
    # The CPU's library has no part in this, and would be compiled at the cost of a minute.
    kept = {} if run.device == "cpu" else {"FUSED_REPARAM_NO_JIT": "1"}
    done = processes.run(command, seconds, ROOT, kept | (more or {}))
    with (run.folder / "log.txt").open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.output}\n[ended with {done.code}]\n\n")
    word = f"ended with {done.code}" if done.code else "done"
    if done.code == processes.TIMED_OUT:
        word = f"cut after {seconds:.0f} s"
        run.note(f"{name}: {word}")
    print(f"{time.monotonic() - run.start:4.0f} s  {name}: {word}", flush=True)
    return done


def _test(run: Run, name: str, words: Sequence[str]) -> None:
    """Runs tests, and adds how they ended to those of the run."""
    if run.tools["pytest"] is None:
        run.note("no tests were run")
        return
    command = [PYTHON, "-m", "pytest", *words, "-p", "bench.outcomes", "-p", "no:cacheprovider"]
    command += ["--tb=short", "-q", "--continue-on-collection-errors"]
    # Workers take long to start; tests that need the GPU to themselves have it.
    if run.tools["xdist"] and name != GPU_TESTS and (os.cpu_count() or 1) >= 8:
        command += ["-n", "8"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes"
        done = _step(run, name, command, MOST[name], {outcomes.VARIABLE: str(path)})
        found = outcomes.summary(path, targets.TESTED)
    kept = run.tests or {"passed": 0, "failed": {}, "skipped": {}, "shown": {}, "cut": []}
    if done is None or done.code == processes.TIMED_OUT:
        counts = f"{found['passed']} passed and {len(found['failed'])} failed"
        kept["cut"].append(f"NOT ALL {name} were run: {counts} before the time was up")
        # Those that need the GPU show what is asked of it. The numeric ones are many, and the bench
        # checks what it measures by itself.
        run.note(kept["cut"][-1], failed=name == GPU_TESTS)
    elif done.code not in (0, 1, NO_TESTS) or (done.code == 1 and not found["failed"]):
        run.note(f"{name}: pytest ended with {done.code}: {done.last_line()}", failed=True)
    kept["passed"] += found["passed"]
    kept["failed"] |= found["failed"]
    for reason, count in found["skipped"].items():
        kept["skipped"][reason] = kept["skipped"].get(reason, 0) + count
    if name == GPU_TESTS:
        kept["shown"] = found["shown"]
    run.tests = kept
    results.replace(run.folder / TESTS_FILE, json.dumps(kept, indent=1) + "\n")
    write(run)


def _measure(run: Run, steps: Sequence[Step]) -> None:
    for step in steps:
        name, found = f"bench {step.name}", []
        with tempfile.TemporaryDirectory() as out:
            command = [PYTHON, "-m", "bench", "--device", run.device, *step.words, "--out", out]
            done = _step(run, name, command, step.most)
            for path in sorted(Path(out).glob("*/*.json")):
                try:
                    found.append(results.read(path))
                except ValueError as error:  # it was cut while it was written
                    run.note(f"{name}: {path.name} can't be read: {error}")
        # 1: a variant failed its check, which its rows say.
        ends = (0, 1, processes.TIMED_OUT) if found else (processes.TIMED_OUT,)
        if done is not None and done.code not in ends:
            run.note(f"{name}: ended with {done.code}: {done.last_line()}", failed=True)
        for result in found:
            _keep(run, step, result)
        write(run)


def _keep(run: Run, step: Step, result: Result) -> None:
    """Adds a result to those of its op, and writes them."""
    for row in result["rows"]:
        # Noted here too: a row of another step may stand in its place.
        if row["ours"] and row["status"] == "failed":
            run.note(_reason(row), failed=True)
    try:
        results.check_alike(run.machine, result["machine"])
    except ValueError as error:
        run.note(f"bench {step.name}: {error}; its results are left out", failed=True)
        return
    if not run.results:  # an earlier run's, maybe of another commit
        for path in run.folder.iterdir():
            old = path.suffix in (".json", ".csv", ".png", ".svg")
            if old and (path.name != TESTS_FILE or run.tests is None):
                path.unlink()
    op = result["settings"]["op"]
    run.results[op] = results.merged(run.results[op], result) if op in run.results else result
    results.write(run.results[op], run.folder.parent)


# --- the report -----------------------------------------------------------------------------------


def write(run: Run) -> Path | None:
    """Writes `report.md` from what is known so far; what can't be shown costs no other step."""
    path = run.folder / "report.md"
    try:
        results.replace(path, "\n\n".join(_parts(run)) + "\n")
    except Exception as error:
        run.note(f"report.md is not of all results: {type(error).__name__}: {error}", failed=True)
        traceback.print_exc()
        return None
    return path


def _parts(run: Run) -> list[str]:
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
    parts.append(f"Written {time.monotonic() - run.start:.0f} s after the start.")
    return parts if run.rehearsed else [*parts, NEXT]


def environment(run: Run) -> list[str]:
    """Device, versions and tools, one fact a line."""
    tools = ", ".join(f"{name} {version}" for name, version in run.tools.items() if version)
    return [machine_words(run.machine), run.smi, f"at hand: {tools}"]


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
    reasons = [_reason(row) for row in rows_of(run.results.values()) if row["status"] != "ok"]
    left = [name for name in OPS if name not in run.results]
    words = [f"not measured: {', '.join(left)}"] if left and not run.rehearsed else []
    return list(dict.fromkeys([*run.notes, *words, *reasons]))


def _reason(row: Row) -> str:
    """Why a row was not timed, with what it is."""
    head = f"{row['op']} {row['size']} {row['dtype']}, {row['variant']}"
    return f"{head}: {row['status']}: {_plain(row['reason'])}"


def finish(run: Run) -> int:
    """Says what came of it; returns the exit status."""
    path = write(run)
    lines = [f"wrote {path}"] if path else []
    print("\n".join([*lines, *remarks(run), *([] if run.rehearsed else [NEXT])]))
    found = targets.judge(run.results.values(), str(run.machine["device_type"]))
    cells = [tables.verdict_cells(one) for one in found
             if not run.rehearsed or one.target.op in run.results]  # fmt: skip
    if not run.rehearsed:
        shown = run.tests["shown"] if run.tests else {}
        cells += [tables.tested_cells(what, shown.get(what)) for what in targets.TESTED]
    plain = [[re.sub("[*`]", "", cell) for cell in line] for line in cells]
    report.print_table(f"targets, {run.machine['device']}", tables.TARGETS_HEADER, plain, True)
    failed = run.failed or bool(run.tests and run.tests["failed"])
    return int(failed or not run.results)


def _list(lines: list[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _plain(text: str) -> str:
    """One line that Markdown leaves as it is."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
