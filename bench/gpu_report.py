"""One command that tests and measures the package on a GPU and writes a report.

It needs a checkout, PyTorch and a GPU, and no set-up; the report has the tables that the bench
prints and, with pandas and matplotlib, targets and pictures. Each step is a process of its own with
a limit of time, most important first: a crash or a hang costs that step and no other.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from bench import outcomes, results
from bench.machine import folder_name
from bench.ops import BOTH, OPS
from bench.report import print_results
from bench.results import LATENT, machine_words

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
# Seconds for all, and those kept back for pictures and the report.
BUDGET, KEPT_BACK = 540.0, 40.0
# A step is not begun with less: importing PyTorch alone takes some seconds.
LEAST = 8.0
GPU_TESTS, NUMERIC_TESTS = "GPU tests", "numeric tests"
# What pytest ends with where none was selected, and a process that was ended or never began.
NO_TESTS, TIMED_OUT, NOT_STARTED = 5, 124, 127
TOOLS = ("numpy", "triton", "pytest", "xdist", "pandas", "matplotlib", "scipy")
PROBE = """
import json, sys, torch
device = torch.device(sys.argv[1])
if device.type == "cuda" and not torch.cuda.is_available():
    sys.exit("this PyTorch (" + torch.__version__ + ") sees no CUDA GPU")
from bench import machine
open(sys.argv[2], "w").write(json.dumps(machine.describe(device)))
"""
NEXT = (
    "With this folder in `bench/results`, `make pages` renews the figures of README.md and "
    "docs/performance.md."
)


class Step(NamedTuple):
    """A run of the bench or of the tests."""

    name: str
    most: float
    """Seconds after which it is ended, of the default budget; of another in proportion."""
    words: tuple[str, ...]

    def more(self, *words: str) -> Step:
        return self._replace(words=(*self.words, *words))


def tests(name: str, most: float, *words: str) -> Step:
    return Step(name, most, words)


def bench(
    op: str, sizes: str = "", most: float = 90.0, words: tuple[str, ...] = ("--quick",)
) -> Step:
    words = ("--op", op, *(("--sizes", sizes) if sizes else ()), *words)
    return Step(f"bench {op} {sizes}".strip(), most, words)


# What the targets ask for comes before the many numeric tests, and fits into the budget with them:
# it gets its time, however long the tests take. Then how time grows, and all else.
STEPS = [
    tests(GPU_TESTS, 180, "-m", "gpu"),
    bench(LATENT, "64M", 130),
    bench(LATENT, "128x20"),
    tests(NUMERIC_TESTS, 63, "-m", "not gpu and not slow", "-k", "cuda"),
    bench("training_step", "", 120),
    *(bench(LATENT, size) for size in ("1M", "256M", "16M", "1G", "16k,128k")),
    # With the whole Bayesian layer, in place of the smaller one.
    bench("training_step", "", 150, words=()),
    # The smallest and the largest, which is to be more than the caches hold.
    *(bench(name, f"{op.sizes[0]},{'64M' if '16M' in op.sizes else op.sizes[-1]}")
      for name, op in OPS.items() if name != LATENT),
]  # fmt: skip
# On a CPU it is a rehearsal, of one op, whose figures are not to be kept.
REHEARSAL = [
    STEPS[0],
    bench(LATENT, "16x20", 400, ("--quick", "--dtype", "float32", "--work", BOTH,
                                            "--variants", "distributions,reference")),
    tests(NUMERIC_TESTS, 63, "-m", "not gpu and not slow", "-k", "cpu"),
]  # fmt: skip


class Done(NamedTuple):
    """How a command ended, and the last line that it said."""

    code: int
    last_line: str


def run_process(
    command: Sequence[str], seconds: float, log: Path | None = None, **more: str
) -> Done:
    """Runs a command, and ends it with all it started when its time is up.

    Args:
        log: all that it says is added to this file.
        more: environment variables beside this process's.
    """
    # pytest's are its own, and say that reports go elsewhere.
    inherited = {n: value for n, value in os.environ.items() if not n.startswith("PYTEST_")}
    # Nothing is written into the checkout, nor into a home that can't be written.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if not os.access(Path.home(), os.W_OK):
        cache = f"{tempfile.gettempdir()}/fused_reparam-{os.getuid()}"
        quiet |= {n: os.environ.get(n, cache) for n in ("FUSED_REPARAM_CACHE", "TRITON_CACHE_DIR")}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=inherited | quiet | more, stdout=output,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Done(NOT_STARTED, f"{command[0]} could not be started: {error.strerror}")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            # Its group is its own: workers that outlive it go too.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        said = output.read()
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{said}\n[ended with {code}]\n\n")
    return Done(code, (said.strip().splitlines() or [""])[-1].strip("= "))  # which pytest draws


class Report:
    """What is said on the terminal stands in `report.md`, too, from the moment that it is said."""

    def __init__(self, path: Path, budget: float, rehearsed: bool) -> None:
        self.path, self.budget, self.rehearsed = path, budget, rehearsed
        self.start, self.failed = time.monotonic(), False
        path.write_text("")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def say(self, text: str, failed: bool = False) -> None:
        self.failed |= failed
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(text + "\n")

    def item(self, text: str, failed: bool = False) -> None:
        """A line of a list in Markdown, which leaves it as it is."""
        self.say(f"- {text}".replace("|", "\\|").replace("<", "&lt;"), failed)


def main(words: Sequence[str]) -> int:
    """Measures, draws and reports.

    Returns:
        0: all that ran is right; 1: a test or a check failed, a run of the tests or of the bench
        broke, or nothing was measured; 2: no GPU
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu-report", description="Tests, results, pictures, report of a GPU."
    )
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all")
    parser.add_argument("--out", type=Path, help="results go to <out>/<machine>/")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu rehearses, tiny sizes")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="only these files of tests")
    options = parser.parse_args(words)
    with tempfile.NamedTemporaryFile("r") as file:
        probe = run_process([PYTHON, "-c", PROBE, options.device, file.name], 90)
        if probe.code:
            print(f"gpu-report: {probe.last_line or 'PyTorch did not start'}", file=sys.stderr)
            return 2
        machine = json.load(file)
    rehearsed = machine["device_type"] == "cpu"
    kept = ROOT / ("out/gpu-report" if rehearsed else "bench/results")
    folder = (options.out or kept).resolve() / folder_name(machine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"gpu-report: --out {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    for path in folder.iterdir():  # an earlier run's, maybe of another commit
        if path.suffix in (".json", ".csv", ".png", ".svg") or path.name == "log.txt":
            path.unlink()
    report = Report(folder / "report.md", options.budget, rehearsed)
    report.say(f"# {machine['device']}\n")
    report.item(f"{machine_words(machine)}; clocks: {machine.get('clocks', 'unknown')}")
    lacking = [name for name in TOOLS if not _can_be_imported(name)]
    for name in lacking:
        report.item(f"{name} is not installed")
    for step in REHEARSAL if rehearsed else STEPS:
        if step.name not in (GPU_TESTS, NUMERIC_TESTS):
            words = ("--device", options.device, "--add", "--out", str(folder.parent))
            run_bench(report, step.more(*words))
        elif "pytest" in lacking:
            report.item(f"{step.name}: not run, without pytest")
        else:
            # Workers take long to start; tests that need the GPU to themselves have it.
            many = "xdist" not in lacking and step.name != GPU_TESTS and (os.cpu_count() or 1) >= 8
            words = (*options.tests, *(("-n", "8") if many else ()))
            run_tests(report, step.more(*words))
    return finish(report, lacking)


def _can_be_imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True


# --- steps ----------------------------------------------------------------------------------------


def execute(
    report: Report, step: Step, module: str, kept_back: float = KEPT_BACK, **more: str
) -> Done | None:
    """Runs a module within its time and what is left of all; None where that is too little."""
    share = report.budget / BUDGET
    seconds = min(step.most * share, report.budget - kept_back * share - report.seconds)
    if seconds < LEAST:
        report.item(f"{step.name}: not begun, for lack of time")
        return None
    if not report.rehearsed:  # the CPU's library has no part in this, and takes long to compile
        more["FUSED_REPARAM_NO_JIT"] = "1"
    command = [PYTHON, "-m", module, *step.words]
    done = run_process(command, seconds, report.path.with_name("log.txt"), **more)
    word = f"ended with {done.code}: {done.last_line}" if done.code else "done"
    word = f"cut after {seconds:.0f} s" if done.code == TIMED_OUT else word
    report.item(f"{report.seconds:4.0f} s  {step.name}: {word}")
    return done


def run_tests(report: Report, step: Step) -> None:
    """Runs tests and says how they ended: the counts, each failure, and each reason of skips."""
    words = ("-p", "bench.outcomes", "-p", "no:cacheprovider", "--tb=short",
             "--continue-on-collection-errors")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes"
        done = execute(report, step.more(*words), "pytest", **{outcomes.FILE: str(path)})
        passed, failed, skipped = outcomes.read(path)
    cut = done is None or done.code == TIMED_OUT
    counts = f"{passed} passed, {len(failed)} failed, {sum(skipped.values())} skipped"
    # Those that need the GPU show what is asked of it. The numeric ones are many, and the bench
    # checks what it measures by itself.
    report.item(f"{step.name}: {counts}{', and NOT ALL were run' if cut else ''}",
                cut and step.name == GPU_TESTS)  # fmt: skip
    for name, why in failed.items():
        report.item(f"FAILED `{name}`: {why}", True)
    for why, count in skipped.items():
        report.item(f"{count} skipped: {why}")
    # 1: a test failed, which is said.
    report.failed |= not cut and done.code not in (0, NO_TESTS) and not (done.code == 1 and failed)


def run_bench(report: Report, step: Step) -> None:
    """Adds what a run of the bench shows to the results."""
    done = execute(report, step, "bench")
    report.failed |= done is not None and done.code not in (0, TIMED_OUT)


def finish(report: Report, lacking: Sequence[str]) -> int:
    """Draws and shows the results; returns the exit status."""
    folder = report.path.parent
    try:
        found = results.load(folder)
    except ValueError:
        found, report.failed = [], True
    if found and not {"pandas", "matplotlib"} & {*lacking}:
        execute(report, Step("plots", KEPT_BACK, ("plots", str(folder))), "bench", kept_back=2.0)
        from bench import pages

        report.say(f"\n## Targets\n\n{pages.target_table(found)}")
        report.say(f"\n{pages.pictures(folder, folder)}")
    with redirect_stdout(StringIO()) as text:
        print_results(found)
    report.say(f"\n## Results\n\n```\n{text.getvalue().strip()}\n```\n")
    left = [name for name in OPS if name not in {one["settings"]["op"] for one in found}]
    report.item(f"not measured: {', '.join(left) or 'none'}")
    report.item(f"{report.seconds:.0f} s in all; what the steps said is in [log.txt](log.txt)")
    if not report.rehearsed:
        report.say(NEXT)
    print(f"wrote {report.path}")
    return int(report.failed)
