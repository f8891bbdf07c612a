"""One command that tests and measures the package on a GPU and writes a report.

It needs a checkout, PyTorch and a GPU, and no set-up. Each step is a process of its own with a
limit of time, most important first: a crash or a hang costs that step and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import outcomes, processes, reporting, results, targets
from bench.machine import folder_name
from bench.plan import Step, steps
from bench.results import TESTS_FILE, Result

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
# Seconds for all.
BUDGET = 540.0
# Kept back for pictures and the report: this share of the budget, and so many seconds at most.
KEPT_BACK, MOST_KEPT_BACK = 0.15, 40.0
# A step is not begun with less: importing PyTorch alone takes some seconds.
LEAST = 8.0
GPU_TESTS, NUMERIC_TESTS = "GPU tests", "numeric tests"
# Seconds of the default budget after which they are ended. With what is measured between them, they
# fit into it: that gets its time, however long the tests take.
MOST = {GPU_TESTS: 180.0, NUMERIC_TESTS: 63.0}
# Results that don't belong with the others go here, in a machine's folder.
APART = "apart"
# What pytest ends with where none was selected.
NO_TESTS = 5
TOOLS = ("numpy", "triton", "pytest", "xdist", "matplotlib", "rich", "scipy")
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
    cleared: bool = False
    """What an earlier run left in the folder is gone."""

    def note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def fail(self, note: str) -> None:
        self.failed = True
        self.note(note)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


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
    folder, moved = _folder(options.out, folder_name(machine))
    back = min(KEPT_BACK * options.budget, MOST_KEPT_BACK)
    run = Run(options.device, start + options.budget - back, start, folder, machine, tools, _smi())
    run.budget = options.budget
    run.notes += moved + [f"{name} is not installed" for name in tools if tools[name] is None]
    print("\n".join(reporting.environment(run)), flush=True)
    # Written first and rewritten after each step, so that the report outlives this process.
    _report(run)
    first, rest = steps(run.device)
    _test(run, GPU_TESTS, [*options.tests, "-m", "gpu"])
    _measure(run, first)
    on_device = ["-k", run.device.split(":")[0]]
    _test(run, NUMERIC_TESTS, [*options.tests, "-m", "not gpu and not slow", *on_device])
    _measure(run, rest)
    _draw(run, start + options.budget)
    return _finish(run)


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
    # A rehearsal's figures are not to be kept.
    rehearsal = ROOT / "out" / "gpu-report"
    kept = ROOT / "bench" / "results"
    options.out = options.out or (rehearsal if options.device == "cpu" else kept)
    return options


def _folder(parent: Path, name: str) -> tuple[Path, list[str]]:
    """The machine's folder, or a temporary one and a note where that can't be written."""
    folder = parent.resolve() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, []
    except OSError as error:
        other = Path(tempfile.mkdtemp(prefix="gpu-report-")) / name
        other.mkdir()
        return other, [f"{folder} can't be written ({error.strerror}): results are in {other}"]


def _smi() -> str:
    words = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"]
    done = processes.run(words, 20, ROOT)
    return done.output.strip() if done.code == 0 else f"nvidia-smi: {done.last_line()}"


# --- tests ----------------------------------------------------------------------------------------


def _test(run: Run, name: str, words: Sequence[str]) -> None:
    """Runs tests, and adds how they ended to those of the run."""
    if run.tools["pytest"] is None:
        run.note("no tests were run")
        return
    with _noted(run, name), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes"
        done = _pytest(run, name, words, path)
        found = outcomes.summary(path, targets.TESTED)
        _add(run, name, done, found)
        with _noted(run, TESTS_FILE):
            results.replace(run.folder / TESTS_FILE, json.dumps(run.tests, indent=1) + "\n")
    _report(run)


def _pytest(run: Run, name: str, words: Sequence[str], path: Path) -> processes.Done | None:
    command = [PYTHON, "-m", "pytest", *words, "-p", "bench.outcomes", "-p", "no:cacheprovider"]
    command += ["--tb=short", "-q", "--continue-on-collection-errors"]
    # Workers take long to start; tests that need the GPU to themselves have it.
    if run.tools["xdist"] and name != GPU_TESTS and (os.cpu_count() or 1) >= 8:
        command += ["-n", "8"]
    return _step(run, name, command, MOST[name], {outcomes.VARIABLE: str(path)})


def _add(run: Run, name: str, done: processes.Done | None, found: dict[str, Any]) -> None:
    if run.tests is None:
        run.tests = {"passed": 0, "failed": {}, "skipped": {}, "shown": {}, "cut": []}
    if done is None or done.code == processes.TIMED_OUT:
        counts = f"{found['passed']} passed and {len(found['failed'])} failed"
        run.tests["cut"].append(f"NOT ALL {name} were run: {counts} before the time was up")
        run.note(run.tests["cut"][-1])
        # Those that need the GPU show what is asked of it. The numeric ones are many, and the bench
        # checks what it measures by itself.
        run.failed |= name == GPU_TESTS
    elif done.code not in (0, 1, NO_TESTS) or (done.code == 1 and not found["failed"]):
        run.fail(f"{name}: pytest ended with {done.code}: {done.last_line()}")
    run.tests["passed"] += found["passed"]
    run.tests["failed"] |= found["failed"]
    for reason, count in found["skipped"].items():
        run.tests["skipped"][reason] = run.tests["skipped"].get(reason, 0) + count
    if name == GPU_TESTS:
        run.tests["shown"] = found["shown"]


# --- measurements ---------------------------------------------------------------------------------


def _measure(run: Run, steps: Sequence[Step]) -> None:
    for step in steps:
        name = f"bench {step.name}"
        with _noted(run, name), tempfile.TemporaryDirectory() as out:
            command = [PYTHON, "-m", "bench", "--device", run.device, *step.words]
            done = _step(run, name, [*command, "--out", out], step.most)
            found = _read(run, step, Path(out))
            # 1: a variant failed its check, which its rows say.
            ends = (0, 1, processes.TIMED_OUT) if found else (processes.TIMED_OUT,)
            if done is not None and done.code not in ends:
                run.fail(f"{name}: ended with {done.code}: {done.last_line()}")
            for result in found:
                _keep(run, step, result)
        _report(run)


def _read(run: Run, step: Step, out: Path) -> list[Result]:
    """The results that a step wrote; one that was cut while it was written is a note."""
    found = []
    for path in sorted(out.glob("*/*.json")):
        try:
            found.append(results.read(path))
        except ValueError as error:
            run.note(f"bench {step.name}: {path.name} can't be read: {error}")
    return found


def _keep(run: Run, step: Step, result: Result) -> None:
    """Adds a result to those of its op, and writes them."""
    for row in result["rows"]:
        # Noted here too: a row of another step may stand in its place.
        if row["ours"] and row["status"] == "failed":
            run.fail(reporting.reason(row))
    try:
        results.check_alike(run.machine, result["machine"])
    except ValueError as error:
        where = Path(APART, step.name.replace(" ", "-"))
        run.fail(f"bench {step.name}: {error}; its results are in {where}")
        with _noted(run, str(where)):
            results.write(result, run.folder / where)
        return
    op = result["settings"]["op"]
    run.results[op] = results.merged(run.results[op], result) if op in run.results else result
    with _noted(run, op):
        written = results.write(run.results[op], run.folder.parent)
        _clear(run, written)


def _clear(run: Run, written: Sequence[Path]) -> None:
    """Removes an earlier run's results, maybe of another commit, once there are new ones."""
    if run.cleared:
        return
    kept = [*written, *([] if run.tests is None else [run.folder / TESTS_FILE])]
    for path in run.folder.iterdir():
        if path.suffix in (".json", ".csv", ".png", ".svg") and path not in kept:
            path.unlink()
    run.cleared = True


# --- steps ----------------------------------------------------------------------------------------


def _step(
    run: Run, name: str, command: Sequence[str], most: float, more: dict[str, str] | None = None
) -> processes.Done | None:
    """Runs a command within its time and what is left of all; None where that is too little."""
    seconds = min(most * run.budget / BUDGET, run.left)
    if seconds < LEAST:
        run.note(f"{name}: not begun, for lack of time")
        return None
    # The CPU's library has no part in this, and would be compiled at the cost of a minute.
    kept = {} if run.device == "cpu" else {"FUSED_REPARAM_NO_JIT": "1"}
    done = processes.run(command, seconds, ROOT, kept | (more or {}))
    _log(run, f"$ {' '.join(command)}\n{done.output}\n[ended with {done.code}]\n")
    word = "done"
    if done.code == processes.TIMED_OUT:
        word = f"cut after {seconds:.0f} s"
        run.note(f"{name}: {word}")
    elif done.code:
        word = f"ended with {done.code}"
    print(f"{time.monotonic() - run.start:4.0f} s  {name}: {word}", flush=True)
    return done


def _log(run: Run, text: str) -> None:
    with _noted(run, "log.txt"), (run.folder / "log.txt").open("a") as log:
        log.write(f"{text}\n")


@contextmanager
def _noted(run: Run, what: str) -> Iterator[None]:
    """A file that can't be written, as on a full disk, costs nothing but itself."""
    try:
        yield
    except OSError as error:
        run.fail(f"{what}: can't be written: {error.strerror or error}")


def _report(run: Run) -> Path | None:
    """Writes the report; what can't be shown costs no other step, nor the table at the end."""
    try:
        return reporting.write(run)
    except Exception as error:
        note = f"report.md is not of all results: {type(error).__name__}: {error}"
        if note not in run.notes:
            run.fail(note)
            _log(run, traceback.format_exc())
        return None


# --- the end --------------------------------------------------------------------------------------


def _draw(run: Run, deadline: float) -> None:
    if not run.results:
        return
    # The report comes after the pictures, and takes no time.
    run.deadline = deadline - 2
    command = [PYTHON, "-m", "bench", "plots", str(run.folder)]
    done = _step(run, "plots", command, MOST_KEPT_BACK)
    if done is not None and done.code not in (0, processes.TIMED_OUT):
        run.notes.append(f"plots: {done.last_line()}")


def _finish(run: Run) -> int:
    path = _report(run)
    if path is not None:
        print(f"wrote {path}")
    for line in [*reporting.remarks(run), *reporting.next_steps(run)]:
        print(line)
    reporting.print_targets(run)
    failed = run.failed or bool(run.tests and run.tests["failed"])
    return int(failed or not run.results)
