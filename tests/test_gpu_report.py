"""`gpu-report`, rehearsed on the CPU: what it keeps, and how it does without what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import invented
import pytest
import torch
from gpu_runs import begun

from bench import gpu_report, plan, processes, reporting, results, targets
from bench.ops import OPS
from bench.results import TESTS_FILE

ROOT = Path(__file__).parent.parent
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

@pytest.mark.parametrize("target", ["reference-cpu"])
def test_wrong(target): assert 1 + 1 == 3, "wrong sum"

@pytest.mark.parametrize("target", ["native-cpu"])
def test_absent(target): pytest.skip("no compiler")

@pytest.fixture
def broken(): raise RuntimeError("no memory")

def test_cpu_fixture(broken): pass
"""


def report(out, *words, hidden=None, device="cpu"):
    """Runs the command in a process of its own; `hidden` is a folder of modules that don't import.

    Returns:
        the process, the lines of its output, the report's text or None
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if hidden is not None:
        environment["PYTHONPATH"] = str(hidden)
    command = [sys.executable, "-m", "bench", "gpu-report", "--device", device, "--out", str(out)]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    texts = [path.read_text() for path in out.glob("*/report.md")]
    return done, done.stdout.splitlines(), texts[0] if texts else None


@pytest.mark.slow
def test_rehearsal(tmp_path):
    tests = tmp_path / "test_small.py"
    tests.write_text(TESTS)
    out = tmp_path / "out"
    done, lines, text = report(out, "--budget", "240", "--tests", str(tests))
    assert done.returncode == 1, done.stderr  # two tests fail
    [folder] = out.iterdir()

    kept = json.loads((folder / TESTS_FILE).read_text())
    assert kept["passed"] == 3
    assert sorted(name.split("::")[1] for name in kept["failed"]) == [
        "test_cpu_fixture",
        "test_no_synchronisation",
        "test_wrong[reference-cpu]",
    ]
    assert kept["skipped"] == {"no compiler": 1}
    assert list(kept["shown"].values()) == [True, False]
    assert "AssertionError: wrong sum" in text
    assert "3 passed, 3 failed, 1 skipped" in text
    log = (folder / "log.txt").read_text()
    assert "it waited" in log
    assert "-m bench --device cpu" in log

    [result] = [results.read(path) for path in folder.glob("gaussian*.json")]
    assert {row["variant"] for row in result["rows"]} == {"eager", "distributions", "reference"}
    assert (folder / "gaussian_latent.csv").exists()
    [own] = [row for row in result["rows"] if row["variant"] == "reference"]
    assert "| 16 x 20 | float32 |" in text
    assert f"**{own['vs_eager']:.1f}x**" in text
    assert result["machine"]["versions"]["torch"] in text
    if "matplotlib is not installed" not in text:
        assert (folder / "speedup_eager.png").exists()
        assert "](speedup_eager.png)" in text
    assert "| forward+backward: times as fast as eager |" in text

    last = next(index for index, line in enumerate(lines) if line.startswith("targets, "))
    assert any(line.startswith("wrote ") for line in lines[:last])
    assert "against float32's" in "".join(lines[-3:])


@pytest.mark.slow
def test_without_pytest_matplotlib_and_rich(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("pytest", "matplotlib", "rich"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}')")
    out = tmp_path / "out"
    done, lines, text = report(out, "--budget", "120", hidden=hidden)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("pytest", "matplotlib", "rich"):
        assert f"- {name} is not installed" in text
    assert "- no tests were run" in text
    assert "- plots: no plots: matplotlib can't be imported here (no matplotlib)" in text
    assert "| 16 x 20 | float32 |" in text
    assert "Pictures" not in text
    assert "against float32's" in lines[-1]


def test_with_no_time_everything_is_cut_and_the_report_says_so(tmp_path):
    done, _, text = report(tmp_path, "--budget", "5")
    assert done.returncode == 1
    assert "Nothing was measured." in text
    for step in ("GPU tests", "numeric tests", "bench gaussian_latent 16x20"):
        assert f"- {step}: not begun, for lack of time" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path):
    done, lines, text = report(tmp_path, device="cuda")
    assert done.returncode == 2
    assert (lines, text, list(tmp_path.iterdir())) == ([], None, [])
    assert done.stderr.strip() == f"gpu-report: this PyTorch ({torch.__version__}) sees no CUDA GPU"


def test_without_pytorch_one_line_says_so(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    done, lines, text = report(tmp_path / "out", hidden=tmp_path)
    assert done.returncode == 2
    assert (lines, text) == ([], None)
    [line] = done.stderr.splitlines()
    assert "can't import PyTorch (No module named 'torch')" in line


def test_the_plan_begins_with_what_the_targets_ask_for():
    [first, second], _ = plan.steps("cuda")
    assert first.words == ("--op", "gaussian_latent", "--quick", "--sizes", "64M")
    assert second.words == ("--op", "gaussian_latent", "--quick", "--sizes", "128x20")


def test_what_the_targets_ask_for_has_its_time_however_long_the_tests_take():
    first, rest = plan.steps("cuda")
    most = sum(gpu_report.MOST.values()) + sum(step.most for step in first)
    started = 30  # before the first step: PyTorch's start, twice over
    assert most + started + gpu_report.MOST_KEPT_BACK <= gpu_report.BUDGET
    names = [step.name for step in (*first, *rest)]
    assert len(set(names)) == len(names)  # each step has a folder for results that are apart
    assert {step.op for step in (*first, *rest)} == {*OPS, "training_step"}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_report_names_the_ops_that_were_not_reached(device, tmp_path, capsys):
    run = begun(tmp_path)
    run.machine = invented.machine(device)
    left = ", ".join(name for name in OPS if name != "gaussian_latent")
    lines = reporting.write(run).read_text().splitlines()
    assert lines.count(f"- not measured: {left}") == (device == "cuda")
    # Nor are a rehearsal's figures to be kept.
    gpu_report._finish(run)
    said = capsys.readouterr().out + "\n".join(lines)
    assert said.count("`make pages` renews") == (2 if device == "cuda" else 0)
    run.results = {name: invented.result(name, sizes=("1M",)) for name in OPS}
    assert "- not measured:" not in reporting.write(run).read_text()


@pytest.mark.parametrize("budget", [60.0, 540.0, 1080.0])
def test_limits_are_in_proportion_to_the_budget(budget, tmp_path, monkeypatch):
    run = gpu_report.Run("cpu", time.monotonic() + 1e4, 0.0, tmp_path, invented.machine(), {}, "")
    run.budget = budget
    asked = []
    done = processes.Done(0, "")
    monkeypatch.setattr(processes, "run", lambda command, most, *_: (asked.append(most), done)[1])
    gpu_report._step(run, "some", ["true"], 108.0)
    assert asked == [budget / 5]


def test_gpu_tests_come_first_and_then_what_the_targets_ask_for(tmp_path, monkeypatch, capsys):
    order = []
    described = invented.machine("cuda")
    probed = processes.Done(0, json.dumps([described, dict.fromkeys(gpu_report.TOOLS, "1")]))
    monkeypatch.setattr(processes, "run", lambda *_: probed)
    monkeypatch.setattr(gpu_report, "_step", lambda run, name, *_: order.append(name))
    assert gpu_report.main(["--out", str(tmp_path)]) == 1
    assert order[:5] == ["GPU tests", "bench gaussian_latent 64M", "bench gaussian_latent 128x20",
                         "numeric tests", "bench training_step --quick"]  # fmt: skip
    first, rest = plan.steps("cuda")
    assert len(order) == 2 + len(first) + len(rest)
    assert "NOT ALL GPU tests were run" in capsys.readouterr().out


ENDS = {
    "right": ("def test_cpu(): pass", 0),
    "wrong": ("def test_cpu(): assert 0", 1),
    "none": ("def test_other(): pass", 0),
    "crash": ("import os\ndef test_cpu(): os.abort()", 1),
    "import": ("import no_such_module", 1),
    "given up": ("import pytest\ndef test_cpu(): pytest.exit('no more', 3)", 1),
}


def run_tests(folder, text, seconds=60.0, name=gpu_report.NUMERIC_TESTS):
    """A run that has done nothing but the tests of one file, which has so many seconds."""
    (folder / "pytest.ini").write_text("[pytest]")
    path = folder / "test_one.py"
    path.write_text(text)
    run = begun(folder)
    run.budget = seconds * gpu_report.BUDGET / gpu_report.MOST[name]
    gpu_report._test(run, name, [str(path), "-k", "cpu"])
    return run


@pytest.mark.parametrize("end", ENDS)
def test_tests_that_do_not_end_well_are_a_failure(end, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of those that run this test
    text, code = ENDS[end]
    run = run_tests(tmp_path, text)
    assert gpu_report._finish(run) == code, capsys.readouterr().out


HANG = """
import time
def test_cpu(): pass
def test_cpu_hangs(): time.sleep(600)
"""


@pytest.mark.parametrize(
    ("name", "code"), [(gpu_report.GPU_TESTS, 1), (gpu_report.NUMERIC_TESTS, 0)]
)
def test_tests_that_are_cut_say_how_many_had_passed(name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    run = run_tests(tmp_path, HANG, 8.0, name)
    assert gpu_report._finish(run) == code
    said = f"NOT ALL {name} were run: 1 passed and 0 failed before the time was up"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    text = (tmp_path / "report.md").read_text()
    assert f"**{said}.**" in text
    assert f"- {said}\n" in text
    [seconds] = re.findall(r"^Written (\d+) s after the start\.$", text, re.MULTILINE)
    assert 8 <= int(seconds) < 60
    assert json.loads((tmp_path / TESTS_FILE).read_text())["passed"] == 1


def test_a_file_that_cannot_be_imported_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_a.py").write_text("import no_such_module")
    (tmp_path / "test_b.py").write_text("def test_cpu(): pass")
    run = begun(tmp_path)
    gpu_report._test(run, gpu_report.NUMERIC_TESTS, [str(tmp_path), "-k", "cpu"])
    assert run.tests["passed"] == 1
    assert list(run.tests["failed"]) == ["test_a.py"]


@pytest.mark.slow
def test_tests_can_be_collected_without_what_a_gpu_machine_may_lack(tmp_path):
    for name in ("numpy", "scipy", "expecttest", "rich", "matplotlib", "sklearn"):
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
        ("raise SystemExit(1)", 1),
        ("keep()", 0),
        ("keep(); raise SystemExit(1)", 0),  # its rows say what failed
        ("keep(); os.abort()", 1),
        ("keep(); time.sleep(600)", 0),  # cut for lack of time
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
        "def keep():\n"
        "    folder = pathlib.Path(sys.argv[-1]) / 'machine'\n"
        "    folder.mkdir()\n"
        f"    (folder / 'one.json').write_text(open({str(source)!r}).read())\n"
        f"{script}\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(gpu_report, "PYTHON", str(python))
    step = gpu_report.Step("one", (), 3 if "sleep" in script else 60)
    folder = tmp_path / "out" / "machine"
    folder.mkdir(parents=True)
    run = begun(folder)
    gpu_report._measure(run, [step])
    assert gpu_report._finish(run) == code
    assert ("bench one: ended with" in (folder / "report.md").read_text()) == bool(code)


def test_a_report_that_cannot_be_written_leaves_the_log_and_the_table(
    tmp_path, monkeypatch, capsys
):
    run = begun(tmp_path)

    def broken(*_):
        raise KeyError("of_copy")

    monkeypatch.setattr(gpu_report.reporting.pages, "machine_tables", broken)
    assert gpu_report._report(run) is None
    assert gpu_report._finish(run) == 1
    said = capsys.readouterr().out
    assert said.count("report.md is not of all results: KeyError: 'of_copy'") == 1
    assert "targets, Invented CPU" in said
    assert (tmp_path / "log.txt").read_text().count("Traceback") == 1


@pytest.mark.parametrize(("device", "said"), [("cpu", ""), ("cuda", "1")])
def test_steps_on_a_gpu_do_not_compile_the_cpu_library(device, said, tmp_path, monkeypatch):
    monkeypatch.delenv("FUSED_REPARAM_NO_JIT", raising=False)
    deadline = time.monotonic() + 60
    run = gpu_report.Run(device, deadline, 0.0, tmp_path, invented.machine(), {}, "")
    done = gpu_report._step(run, "say", ["sh", "-c", "echo $FUSED_REPARAM_NO_JIT"], 30)
    assert done.output.strip() == said
    assert run.notes == []


def test_a_step_that_hangs_is_cut_and_noted(tmp_path, monkeypatch):
    run = gpu_report.Run("cpu", time.monotonic() + 60, 0.0, tmp_path, invented.machine(), {}, "")
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    assert gpu_report._step(run, "hang", ["sleep", "60"], 0.4).code == processes.TIMED_OUT
    assert run.notes == ["hang: cut after 0 s"]


def test_the_gpu_tests_that_show_a_target():
    found = {what: set() for what in targets.TESTED}
    for path in (ROOT / "tests").glob("test_*.py"):
        for name in re.findall(r"def (test_\w+)", path.read_text()):
            for what, pattern in targets.TESTED.items():
                if path.stem.endswith("_gpu") and re.search(pattern, f"{path}::TestGpu::{name}"):
                    found[what].add(name)
    assert list(found.values()) == [
        {"test_a_graphs_replays_draw_new_noise", "test_in_a_cuda_graph"},
        {"test_no_synchronisation", "test_no_synchronisation_and_two_kernels"},
    ]
