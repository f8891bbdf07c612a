"""The report of a GPU: what it runs, in which order, for how long, and what it keeps and says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_report, results
from bench.ops import OPS
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
    for words in ("AssertionError: it waited", "GPU tests: 2 passed, 1 failed, 0 skipped",
                  "numeric tests: 1 passed, 1 failed, 1 skipped", "1 skipped: Skipped: no compiler",
                  "times as fast as eager | 16M", "](speedup_eager.png)"):  # fmt: skip
        assert words in text
    assert "-m bench --op gaussian_latent" in (folder / "log.txt").read_text()
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
    for words in ("pandas is not installed", "GPU tests: not run, without pytest"):
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


def test_what_the_targets_ask_for_comes_first_and_fits_the_budget(tmp_path, monkeypatch, capsys):
    order = []

    def run(command, seconds, log=None, **more):
        if "-m" not in command:
            if command[0] != "nvidia-smi":
                Path(command[-1]).write_text(json.dumps(invented.machine("cuda")))
            return gpu_report.Done(0, "")
        order.append((command[2], command, seconds))
        return gpu_report.Done(gpu_report.TIMED_OUT, "")

    monkeypatch.setattr(gpu_report, "run_process", run)
    assert gpu_report.main(["--out", str(tmp_path), "--budget", "1080"]) == 1
    assert [name for name, *_ in order[:5]] == ["pytest", "bench", "bench", "pytest", "bench"]
    assert [seconds for *_, seconds in order[:2]] == [360, 260]  # in proportion to the budget
    before = 30  # the first step: PyTorch's start, twice over
    most = sum(step.most for step in gpu_report.STEPS[:4])
    assert before + most + gpu_report.KEPT_BACK <= gpu_report.BUDGET
    asked = [command[command.index("--op") + 1] for name, command, _ in order if name == "bench"]
    assert {*asked} == {*OPS, "training_step"}
    said = capsys.readouterr().out
    assert "GPU tests: 0 passed, 0 failed, 0 skipped, and NOT ALL were run" in said
    assert f"not measured: {', '.join(OPS)}" in said
    assert "`make pages` renews" in said


ENDS = {
    "right": ("def test_cpu(): pass", False),
    "wrong": ("def test_cpu(): assert 0", True),
    "none": ("def test_other(): pass", False),
    "crash": ("import os\ndef test_cpu(): os.abort()", True),
    "import": ("import no_such_module", True),
    "given up": ("import pytest\ndef test_cpu(): pytest.exit('no more', 3)", True),
}
HANG = """
import time
def test_cpu(): pass
def test_cpu_hangs(): time.sleep(600)
"""


def run_tests(folder, text, monkeypatch, seconds=60.0, name=gpu_report.NUMERIC_TESTS):
    """A report that has had nothing but the tests of one file, which has so many seconds."""
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of those that run this test
    (folder / "pytest.ini").write_text("[pytest]")
    (folder / "test_one.py").write_text(text)
    made = gpu_report.Report(folder / "report.md", gpu_report.BUDGET, rehearsed=True)
    gpu_report.run_tests(made, gpu_report.tests(name, seconds, "-k", "cpu", str(folder)))
    return made


@pytest.mark.parametrize("end", ENDS)
def test_tests_that_do_not_end_well_are_a_failure(end, tmp_path, monkeypatch):
    text, failed = ENDS[end]
    assert bool(run_tests(tmp_path, text, monkeypatch).failed) is failed


def test_how_tests_ended(tmp_path, monkeypatch):
    (tmp_path / "test_a.py").write_text("import no_such_module")
    run_tests(tmp_path, TESTS.replace("def test_", "def test_cpu_"), monkeypatch)
    said = (tmp_path / "report.md").read_text()
    assert "numeric tests: 4 passed, 3 failed, 1 skipped\n" in said
    for line in ("test_a.py`: ImportError", "test_cpu_no_synchronisation`: AssertionError: it wai",
                 "test_cpu_cpu_fixture`: RuntimeError: no memory"):  # fmt: skip
        assert line in said
    assert "- 1 skipped: Skipped: no compiler\n" in said


@pytest.mark.parametrize(
    ("name", "failed"), [(gpu_report.GPU_TESTS, True), (gpu_report.NUMERIC_TESTS, False)]
)
def test_tests_that_are_cut_say_how_many_had_passed(name, failed, tmp_path, monkeypatch):
    assert run_tests(tmp_path, HANG, monkeypatch, 5.0, name).failed is failed
    said = (tmp_path / "report.md").read_text().splitlines()
    assert said[-1] == f"- {name}: 1 passed, 0 failed, 0 skipped, and NOT ALL were run"


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
    ("script", "end", "failed"),
    [
        ("print('fine')", "done", False),
        ("print('FAILED: wrong z'); sys.exit(1)", "ended with 1: FAILED: wrong z", True),
        ("os.abort()", "ended with -6: ", True),
        ("time.sleep(600)", "cut after 3 s", False),
    ],
)
def test_a_bench_that_dies_is_a_failure_and_one_that_is_cut_is_not(
    script, end, failed, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(gpu_report, "PYTHON", str(python))
    made = gpu_report.Report(tmp_path / "report.md", gpu_report.BUDGET, rehearsed=True)
    gpu_report.run_bench(made, gpu_report.bench("one", most=60 if "sleep" not in script else 3))
    assert made.path.read_text().endswith(f" s  bench one: {end}\n")
    assert made.failed is failed


def test_a_process_is_ended_with_all_it_started(tmp_path):
    mark, log = tmp_path / "mark", tmp_path / "log"
    script = f"(sleep 2; touch {mark}) & echo $WORD; sleep 60"
    start = time.monotonic()
    done = gpu_report.run_process(["sh", "-c", script], 0.5, log, WORD="begun")
    assert done == (gpu_report.TIMED_OUT, "begun")
    assert log.read_text().endswith("begun\n\n[ended with 124]\n\n")
    assert time.monotonic() - start < 30
    time.sleep(2.5)
    assert not mark.exists()
    done = gpu_report.run_process(["no-such-command"], 10)
    assert (done.code, done.last_line[:36]) == (127, "no-such-command could not be started")
