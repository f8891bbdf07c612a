"""One command that tests and measures the package on a GPU and writes a report.

It needs a checkout, PyTorch and a GPU, and no set-up; the report has the tables that the bench
prints and, with pandas and matplotlib, targets and pictures. Each step is a process of its own with
a limit of time, most important first: a crash or a hang costs that step and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from bench import outcomes, processes, report, results
from bench.machine import folder_name
from bench.ops import BOTH, OPS
from bench.results import TESTS_FILE, Result, machine_words

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
TOOLS = ("numpy", "triton", "pytest", "xdist", "pandas", "matplotlib", "scipy")
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
open(sys.argv[2], "w").write(json.dumps([machine.describe(device), tools]))
"""
SMI_FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit"
NEXT = (
    "With this folder in `bench/results`, `make pages` renews the figures of README.md and "
    "docs/performance.md."
)


class Step(NamedTuple):
    """One run of the bench: an op at some sizes, or what the words say."""

    op: str
    sizes: str = ""
    most: float = 90.0
    """Seconds after which it is ended, of the default budget; of another in proportion."""
    words: tuple[str, ...] = ("--quick",)


# What the targets ask for; then how time grows and all else, most important first.
FIRST = [Step("gaussian_latent", "64M", 130), Step("gaussian_latent", "128x20")]
THEN = [
    Step("training_step", most=120),
    *(Step("gaussian_latent", size) for size in ("1M", "256M", "16M")),
    *(Step(op, "64M") for op in ("gaussian_latent_from_moments", "gaussian_rsample", "gaussian_kl",
                                 "normal")),
    Step("gaussian_latent", "1G"),
    # With the whole Bayesian layer, in place of the smaller one.
    Step("training_step", most=150, words=()),
    Step("gaussian_latent", "16k,128k"),
    *(Step(op, "128x20,1M") for op in ("gaussian_rsample", "gaussian_latent_from_moments",
                                       "gaussian_kl", "normal")),
    Step("gumbel_softmax", "4096x1024,4x8192x16x16"),
    Step("sample_weight", "1e7"),
    Step("gaussian_latent_samples", "8x128x1024"),
    Step("tanh_normal_rsample", "256x6"),
]  # fmt: skip
THEN += [Step(name, op.sizes[-1], 45) for name, op in OPS.items()
         if name not in {step.op for step in (*FIRST, *THEN)}]  # fmt: skip
REHEARSAL = Step(
    "gaussian_latent", "16x20", 400,
    ("--quick", "--dtype", "float32", "--variants", "distributions,reference", "--work", BOTH),
)  # fmt: skip


@dataclass
class Run:
    """What is known so far."""

    device: str
    budget: float
    start: float
    folder: Path
    machine: dict[str, Any]
    tools: dict[str, str | None]
    smi: str
    tests: dict[str, Any] = field(default_factory=dict)
    """How each run of the tests ended."""
    results: dict[str, Result] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is missing, failed or cut, one sentence each."""
    failed: bool = False

    def note(self, note: str, failed: bool = False) -> None:
        self.failed |= failed
        self.notes += [] if note in self.notes else [note]

    @property
    def rehearsed(self) -> bool:
        """On a CPU it is a rehearsal, of one op, whose figures are not to be kept."""
        return bool(self.machine["device_type"] == "cpu")

    @property
    def drawn(self) -> bool:
        """Whether there is what makes targets and pictures, and something to show."""
        return bool(self.results and self.tools["pandas"] and self.tools["matplotlib"])


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
    kind = options.device.split(":")[0]
    start, kept = time.monotonic(), "out/gpu-report" if kind == "cpu" else "bench/results"
    with tempfile.NamedTemporaryFile("r") as file:
        probe = processes.run([PYTHON, "-c", PROBE, options.device, file.name], 90, ROOT)
        if probe.code:
            print(f"gpu-report: {probe.last_line or 'PyTorch did not start'}", file=sys.stderr)
            return 2
        machine, tools = json.load(file)
    folder = (options.out or ROOT / kept).resolve() / folder_name(machine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"gpu-report: --out {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    smi = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"]
    run = Run(options.device, options.budget, start, folder, machine, tools,
              processes.run(smi, 20, ROOT).last_line)  # fmt: skip
    run.notes += [f"{name} is not installed" for name in tools if tools[name] is None]
    print("\n".join(environment(run)), flush=True)
    # Written first and rewritten after each step, so that the report outlives this process.
    write(run)
    first, then = ([REHEARSAL], []) if run.rehearsed else (FIRST, THEN)
    _test(run, GPU_TESTS, [*options.tests, "-m", "gpu"])
    _measure(run, first)
    _test(run, NUMERIC_TESTS, [*options.tests, "-m", "not gpu and not slow", "-k", kind])
    _measure(run, then)
    if run.drawn:
        draw = [PYTHON, "-m", "bench", "plots", str(folder)]
        _step(run, "plots", draw, KEPT_BACK, kept_back=2.0)
    return finish(run)


# --- steps ----------------------------------------------------------------------------------------


def _step(
    run: Run, name: str, command: Sequence[str], most: float, kept_back: float = KEPT_BACK
) -> processes.Done | None:
    """Runs a command within its time and what is left of all; None where that is too little."""
    share, spent = run.budget / BUDGET, time.monotonic() - run.start
    seconds = min(most * share, run.budget - kept_back * share - spent)
    if seconds < LEAST:
        run.note(f"{name}: not begun, for lack of time")
        return None
    # The CPU's library has no part in this, and would be compiled at the cost of a minute. And
    # pytest's lines are not to be cut.
    more = {"COLUMNS": "1000"} | ({} if run.device == "cpu" else {"FUSED_REPARAM_NO_JIT": "1"})
    done = processes.run(command, seconds, ROOT, more)
    with (run.folder / "log.txt").open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.output}\n[ended with {done.code}]\n\n")
    word = f"ended with {done.code}: {done.last_line}" if done.code else "done"
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
    command = [PYTHON, "-m", "pytest", *words, "-p", "no:cacheprovider", "--tb=short", "-v", "-ra"]
    command += ["--continue-on-collection-errors"]
    # Workers take long to start; tests that need the GPU to themselves have it.
    if run.tools["xdist"] and name != GPU_TESTS and (os.cpu_count() or 1) >= 8:
        command += ["-n", "8"]
    done = _step(run, name, command, MOST[name])
    found = outcomes.read("" if done is None else done.output)
    run.tests[name] = found
    run.failed |= bool(found["failed"])
    if done is None or done.code == processes.TIMED_OUT:
        counts = f"{found['passed']} passed and {len(found['failed'])} failed"
        # Those that need the GPU show what is asked of it. The numeric ones are many, and the bench
        # checks what it measures by itself.
        run.note(f"NOT ALL {name} were run: {counts} before the time was up",
                 failed=name == GPU_TESTS)  # fmt: skip
    elif done.code not in (0, 1, NO_TESTS) or (done.code == 1 and not found["failed"]):
        run.note(f"{name}: pytest ended with {done.code}: {done.last_line}", failed=True)
    shown = {"shown": run.tests[GPU_TESTS]["shown"]} | run.tests
    results.replace(run.folder / TESTS_FILE, json.dumps(shown, indent=1) + "\n")
    write(run)


def _measure(run: Run, steps: Sequence[Step]) -> None:
    for step in steps:
        name, found = f"bench {step.op} {step.sizes}".strip(), []
        command = [PYTHON, "-m", "bench", "--device", run.device, "--op", step.op, *step.words]
        command += ["--sizes", step.sizes] if step.sizes else []
        with tempfile.TemporaryDirectory() as out:
            done = _step(run, name, [*command, "--out", out], step.most)
            for path in sorted(Path(out).glob("*/*.json")):
                with suppress(ValueError):  # it was cut while it was written
                    found.append(results.read(path))
        # 1: a variant failed its check, which its rows say.
        ends = (0, 1, processes.TIMED_OUT) if found else (processes.TIMED_OUT,)
        if done is not None and done.code not in ends:
            run.note(f"{name}: ended with {done.code}: {done.last_line}", failed=True)
        for result in found:
            _keep(run, result)
        write(run)


def _keep(run: Run, result: Result) -> None:
    """Adds a result to those of its op, and writes them."""
    wrong = [row for row in result["rows"] if row["ours"] and row["status"] == "failed"]
    for row in wrong:  # said here too: a row of another step may stand in its place
        run.note(
            f"{row['op']} {row['size']} {row['dtype']}, {row['variant']}: {row['reason']}", True
        )
    if not run.results:  # an earlier run's, maybe of another commit
        for path in run.folder.iterdir():
            old = path.suffix in (".json", ".csv", ".png", ".svg")
            if old and (path.name != TESTS_FILE or not run.tests):
                path.unlink()
    op = result["settings"]["op"]
    run.results[op] = results.merged(run.results[op], result) if op in run.results else result
    results.write(run.results[op], run.folder.parent)


# --- the report -----------------------------------------------------------------------------------


def write(run: Run) -> None:
    """Writes `report.md` from what is known so far; what can't be shown costs no other step."""
    try:
        results.replace(run.folder / "report.md", "\n\n".join(_parts(run)) + "\n")
    except Exception as error:
        run.note(f"report.md is not of all results: {type(error).__name__}: {error}", failed=True)


def _parts(run: Run) -> list[str]:
    parts = [f"# {run.machine['device']}", _list(environment(run))]
    parts += ["## Tests", _list(tests(run)), "The log is in [log.txt](log.txt)."]
    if run.drawn:
        from bench import pages

        shown = run.tests.get(GPU_TESTS, {}).get("shown", {})
        parts += ["## Targets", pages.target_table(list(run.results.values()), shown)]
        parts.append(pages.pictures(run.folder, run.folder))
    parts += ["## Results", f"```\n{measured(run)}\n```"]
    parts += ["## Missing, failed or cut", _list(run.notes)] if run.notes else []
    parts.append(f"Written {time.monotonic() - run.start:.0f} s after the start.")
    return parts if run.rehearsed else [*parts, NEXT]


def measured(run: Run) -> str:
    """All results, as the bench prints them."""
    with redirect_stdout(StringIO()) as text:
        for result in run.results.values():
            report.print_result(result)
    left = [name for name in OPS if name not in run.results]
    words = f"\nnot measured: {', '.join(left)}" if left and not run.rehearsed else ""
    return text.getvalue().strip() + words


def environment(run: Run) -> list[str]:
    """Device, versions and tools, one fact a line."""
    tools = ", ".join(f"{name} {version}" for name, version in run.tools.items() if version)
    return [machine_words(run.machine), run.smi, f"at hand: {tools}"]


def tests(run: Run) -> list[str]:
    """The counts, each failure, and each reason of skips."""
    lines = []
    for name, found in run.tests.items():
        counts = f"{found['passed']} passed, {len(found['failed'])} failed"
        lines.append(f"{name}: {counts}, {sum(found['skipped'].values())} skipped")
        lines += [f"FAILED `{one}`: {_one_line(why)}" for one, why in found["failed"].items()]
        lines += [f"{count} skipped: {_one_line(why)}" for why, count in found["skipped"].items()]
    return lines or ["No tests were run."]


def finish(run: Run) -> int:
    """Says what came of it; returns the exit status."""
    write(run)
    print("\n".join([measured(run), "", *tests(run), *run.notes]))
    print(f"wrote {run.folder / 'report.md'}" + ("" if run.rehearsed else f"\n{NEXT}"))
    return int(run.failed or not run.results)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _one_line(text: str) -> str:
    """One line that Markdown leaves as it is."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
