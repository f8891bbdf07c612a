"""The report of a GPU: what it runs, in which order, for how long, and what it keeps and says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_report, processes, results, targets
from bench.ops import OPS
from bench.results import TESTS_FILE
from tests.helpers import invented

ROOT = Path(gpu_report.__file__).resolve().parents[1]
TESTS = """
import pytest

@pytest.mark.gpu
def test_replays_draw_new_noise(): pass

@pytest.mark.gpu
def test_in_a_cuda_graph(): pass

@pytest.mark.gpu
def test_no_synchronisation(): assert False, "it waited"

@pytest.mark.parametrize("target", ["reference-cpu", "triton-cuda"])
def test_numbers(target): pass

@pytest.mark.parametrize("target", ["native-cpu"])
def test_absent(target): pytest.skip("no compiler")

@pytest.fixture
def broken(): raise RuntimeError("no memory")

def test_cpu_fixture(broken): pass
"""


def begun(folder, seconds=60.0):
    """A run that has a result, and all of whose tools are at hand but xdist."""
    tools = dict.fromkeys(gpu_report.TOOLS, "1") | {"xdist": None}
    run = gpu_report.Run("cpu", seconds, time.monotonic(), folder, invented.machine(), tools, "smi")
    run.results = {"gaussian_latent": invented.result(sizes=("1M",))}
    return run


def report(out, *words, hidden=None, device="cpu"):
    """Runs the command in a process of its own; `hidden` is a folder of modules that don't import.

    Returns:
        the process, and the report's text or None
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if hidden is not None:
        environment["PYTHONPATH"] = str(hidden)
    command = [sys.executable, "-m", "bench", "gpu-report", "--device", device, "--out", str(out)]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    texts = [path.read_text() for path in out.glob("*/report.md")]
    return done, texts[0] if texts else None


@pytest.mark.slow
def test_rehearsal(tmp_path):
    tests = tmp_path / "test_small.py"
    tests.write_text(TESTS)
    done, text = report(tmp_path / "out", "--budget", "240", "--tests", str(tests))
    assert done.returncode == 1, done.stderr  # two tests fail
    [folder] = (tmp_path / "out").iterdir()
    assert list(json.loads((folder / TESTS_FILE).read_text())["shown"].values()) == [True, False]
    for words in ("AssertionError: it waited", "GPU tests: 2 passed, 1 failed, 0 skipped",
                  "numeric tests: 1 passed, 1 failed, 1 skipped", "1 skipped: no compiler",
                  "times as fast as eager | 16M", "](speedup_eager.png)"):  # fmt: skip
        assert words in text
    assert "-m bench --device cpu" in (folder / "log.txt").read_text()
    [result] = [results.read(path) for path in folder.glob("gaussian*.json")]
    assert {row["variant"] for row in result["rows"]} == {"eager", "distributions", "reference"}
    [own] = [row for row in result["rows"] if row["variant"] == "reference"]
    for said in (text, done.stdout):  # the bench's own table
        assert f"  {own['vs_eager']:.2f}x" in said


@pytest.mark.slow
def test_a_bare_machine_measures_and_prints_its_tables(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("pytest", "matplotlib", "pandas", "rich"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}')")
    done, text = report(tmp_path / "out", "--budget", "120", hidden=hidden)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("pytest is not installed", "pandas is not installed", "no tests were run"):
        assert f"- {words}" in text
    for said in (text, done.stdout):
        assert "gaussian_latent, float32, 16x20" in said
        assert "forward+backward\n  eager " in said
    assert "## Targets" not in text


def test_with_no_time_everything_is_cut_and_the_report_says_so(tmp_path):
    done, text = report(tmp_path, "--budget", "5")
    assert done.returncode == 1
    for step in ("GPU tests", "numeric tests", "bench gaussian_latent 16x20"):
        assert f"- {step}: not begun, for lack of time" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_or_pytorch_one_line_says_so(tmp_path):
    done, text = report(tmp_path / "out", device="cuda")
    assert (done.returncode, done.stdout, text) == (2, "", None)
    assert done.stderr.strip() == f"gpu-report: this PyTorch ({torch.__version__}) sees no CUDA GPU"
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    done, text = report(tmp_path / "out", hidden=tmp_path)
    assert (done.returncode, done.stdout, text) == (2, "", None)
    [line] = done.stderr.splitlines()
    assert "can't import PyTorch (No module named 'torch')" in line


def test_the_plan_has_all_ops_and_what_the_targets_ask_for_has_its_time():
    steps = [*gpu_report.FIRST, *gpu_report.THEN]
    assert [step.sizes for step in gpu_report.FIRST] == ["64M", "128x20"]
    most = sum(gpu_report.MOST.values()) + sum(step.most for step in gpu_report.FIRST)
    started = 30  # before the first step: PyTorch's start, twice over
    assert most + started + gpu_report.KEPT_BACK <= gpu_report.BUDGET
    assert {step.op for step in steps} == {*OPS, "training_step"}
    assert len(set(steps)) == len(steps)


def test_gpu_tests_come_first_and_then_what_the_targets_ask_for(tmp_path, monkeypatch, capsys):
    order = []
    described = [invented.machine("cuda"), dict.fromkeys(gpu_report.TOOLS, "1")]

    def run(command, seconds, *_):
        if "-m" not in command:
            if command[0] != "nvidia-smi":
                Path(command[-1]).write_text(json.dumps(described))
            return processes.Done(0, "")
        order.append((command[2], seconds))
        return processes.Done(processes.TIMED_OUT, "")

    monkeypatch.setattr(processes, "run", run)
    assert gpu_report.main(["--out", str(tmp_path), "--budget", "1080"]) == 1
    assert [name for name, _ in order[:5]] == ["pytest", "bench", "bench", "pytest", "bench"]
    assert [seconds for _, seconds in order[:2]] == [360, 260]  # in proportion to the budget
    assert len(order) == 2 + len(gpu_report.FIRST) + len(gpu_report.THEN)
    said = capsys.readouterr().out
    assert "NOT ALL GPU tests were run" in said
    assert f"not measured: {', '.join(OPS)}" in said
    assert "`make pages` renews" in said


ENDS = {
    "right": ("def test_cpu(): pass", 0),
    "wrong": ("def test_cpu(): assert 0", 1),
    "none": ("def test_other(): pass", 0),
    "crash": ("import os\ndef test_cpu(): os.abort()", 1),
    "import": ("import no_such_module", 1),
    "given up": ("import pytest\ndef test_cpu(): pytest.exit('no more', 3)", 1),
}
HANG = """
import time
def test_cpu(): pass
def test_cpu_hangs(): time.sleep(600)
"""


def run_tests(folder, text, monkeypatch, seconds=60.0, name=gpu_report.NUMERIC_TESTS):
    """A run that has done nothing but the tests of one file, which has so many seconds."""
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of those that run this test
    (folder / "pytest.ini").write_text("[pytest]")
    (folder / "test_one.py").write_text(text)
    run = begun(folder, seconds * gpu_report.BUDGET / gpu_report.MOST[name])
    # Without those that a report of a GPU has: they are drawn, and that is no matter here.
    run.tools["pandas"] = run.tests[gpu_report.GPU_TESTS] = None
    run.tests = {gpu_report.GPU_TESTS: gpu_report.outcomes.read("")}
    gpu_report._test(run, name, [str(folder), "-k", "cpu"])
    return run


@pytest.mark.parametrize("end", ENDS)
def test_tests_that_do_not_end_well_are_a_failure(end, tmp_path, monkeypatch, capsys):
    text, code = ENDS[end]
    assert gpu_report.finish(run_tests(tmp_path, text, monkeypatch)) == code


def test_a_file_that_cannot_be_imported_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "test_a.py").write_text("import no_such_module")
    found = run_tests(tmp_path, "def test_cpu(): pass", monkeypatch).tests["numeric tests"]
    assert (found["passed"], [Path(name).name for name in found["failed"]]) == (1, ["test_a.py"])


@pytest.mark.parametrize(
    ("name", "code"), [(gpu_report.GPU_TESTS, 1), (gpu_report.NUMERIC_TESTS, 0)]
)
def test_tests_that_are_cut_say_how_many_had_passed(name, code, tmp_path, monkeypatch, capsys):
    run = run_tests(tmp_path, HANG, monkeypatch, 8.0, name)
    assert gpu_report.finish(run) == code
    said = f"NOT ALL {name} were run: 1 passed and 0 failed before the time was up"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    assert f"- {said}" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_tests_can_be_collected_without_what_a_gpu_machine_may_lack(tmp_path):
    for name in ("numpy", "scipy", "expecttest", "rich", "matplotlib", "pandas", "sklearn"):
        text = f"raise ModuleNotFoundError('no {name}', name={name!r})"
        (tmp_path / f"{name}.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "--collect-only", "-q", "-p", "no:cacheprovider",
         "--assert=plain"],  # whose rewriting takes a third of the time
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("print('done')", 1),  # and wrote no result
        ("keep()", 0),
        ("keep(); raise SystemExit(1)", 0),  # its rows say what failed
        ("keep(); os.abort()", 1),
        ("keep(); time.sleep(600)", 0),  # cut for lack of time
        ("keep('{')", 1),  # cut while it was written
    ],
)
def test_a_bench_that_dies_is_a_failure(script, code, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    source = tmp_path / "result.json"
    source.write_text(json.dumps(invented.result(sizes=("1M",))))
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys, time\n"
        f"def keep(text=open({str(source)!r}).read()):\n"
        "    folder = pathlib.Path(sys.argv[-1]) / 'machine'\n"
        "    folder.mkdir()\n"
        "    (folder / 'one.json').write_text(text)\n"
        f"{script}\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(gpu_report, "PYTHON", str(python))
    folder = tmp_path / "out" / "machine"
    folder.mkdir(parents=True)
    run = begun(folder, 1e6)
    run.budget = gpu_report.BUDGET * (1 if "sleep" not in script else 0.1)
    gpu_report._measure(run, [gpu_report.Step("one", "1M", 60 if "sleep" not in script else 30)])
    assert gpu_report.finish(run) == code
    assert ("bench one 1M: ended with" in (folder / "report.md").read_text()) == bool(code)


def test_the_gpu_tests_that_show_a_target():
    found = {what: set() for what in targets.TESTED}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"def (test_\w+)", path.read_text()):
            for what, pattern in targets.TESTED.items():
                if path.stem.endswith("_gpu") and re.search(pattern, f"{path}::TestGpu::{name}"):
                    found[what].add(name)
    assert list(found.values()) == [
        {"test_a_graphs_replays_draw_new_noise", "test_in_a_cuda_graph"},
        {"test_no_synchronisation", "test_no_synchronisation_and_two_kernels"},
    ]


def kept(folder, *found):
    """A run that has had these results, in the folder of their machine."""
    path = folder / gpu_report.folder_name(found[0]["machine"])
    path.mkdir(exist_ok=True)
    run = begun(path)
    run.results = {}
    for result in found:
        gpu_report._keep(run, result)
    return run


def test_what_an_earlier_run_left_is_removed_with_the_first_result(tmp_path):
    first, second = invented.result(sizes=("1M",)), invented.result("normal", sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(first["machine"])
    invented.write(folder, invented.result("gaussian_kl"))
    for name in ("copy.png", "notes.md", TESTS_FILE):
        (folder / name).write_text("")
    kept(tmp_path, first, second)
    names = ["gaussian_latent.csv", "gaussian_latent.json", "normal.csv", "normal.json"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "notes.md"]


def test_a_row_that_failed_once_is_a_failure(tmp_path):
    right = invented.result(sizes=("1M",))
    bad = {"status": "failed", "reason": "wrong z"}
    rows = [row | (bad if row["variant"] == "native" else {}) for row in right["rows"]]
    assert not kept(tmp_path, right).failed
    run = kept(tmp_path, right, right | {"rows": rows})
    assert gpu_report.finish(run) == 1
    line = "- gaussian_latent 1M float32, native: wrong z"
    assert (run.folder / "report.md").read_text().splitlines().count(line) == 1
