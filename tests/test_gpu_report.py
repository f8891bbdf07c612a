"""`gpu-report`, rehearsed on the CPU: what it keeps, and how it does without what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import invented
import pytest
import torch

from bench import files, gpu_report, outcomes, processes, targets
from bench.rows import TESTS_FILE, rows_of

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest

@pytest.mark.gpu
def test_replays_draw_new_noise(): pass

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
    assert kept["passed"] == 2
    assert sorted(name.split("::")[1] for name in kept["failed"]) == [
        "test_cpu_fixture",
        "test_no_synchronisation",
        "test_wrong[reference-cpu]",
    ]
    assert kept["skipped"] == {"no compiler": 1}
    assert list(kept["shown"].values()) == [True, False]
    assert "AssertionError: wrong sum" in text
    assert "2 passed, 3 failed, 1 skipped" in text
    log = (folder / "log.txt").read_text()
    assert "it waited" in log
    assert "-m bench --device cpu" in log

    [result] = [files.read(path) for path in folder.glob("gaussian*.json")]
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
    first, second = gpu_report._plan("cuda")[:2]
    assert first.words == ("--op", "gaussian_latent", "--quick", "--sizes", "64M")
    assert second.words == ("--op", "gaussian_latent", "--quick", "--sizes", "128x20")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    folder, notes = gpu_report._folder(tmp_path / "file", "machine")
    assert folder.is_dir()
    assert folder.name == "machine"
    assert "can't be written" in notes[0]
    assert str(folder) in notes[0]
    assert gpu_report._folder(tmp_path, "machine") == (tmp_path / "machine", [])


def test_results_of_one_op_are_merged():
    first, second = invented.result(sizes=("1M",)), invented.result(sizes=("128x20", "1M"))
    for row in second["rows"]:
        row["median_s"] = 7.0
    second["limits"]["copy_gb_per_s"] = 1.0
    both = files.merged(first, second)
    assert len(both["rows"]) == len(second["rows"])
    assert {row["median_s"] for row in both["rows"]} == {7.0}
    assert both["settings"]["sizes"] == ["128x20", "1M"]
    assert both["limits"]["copy_gb_per_s"] == 10.0
    assert [row["size"] for row in both["rows"][:16]] == ["128x20"] * 15 + ["1M"]
    again = files.merged(second, first)
    assert sorted({row["median_s"] for row in again["rows"] if row["size"] == "128x20"}) == [7.0]
    assert 7.0 not in {row["median_s"] for row in again["rows"] if row["size"] == "1M"}


def test_what_an_earlier_run_left_is_removed_with_the_first_result(tmp_path):
    result = invented.result(sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(result["machine"])
    invented.write(folder, invented.result("gaussian_kl"))
    for name in ("copy.png", "notes.md"):
        (folder / name).write_text("")
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, result["machine"], {}, "")
    gpu_report._keep(run, result)
    gpu_report._keep(run, invented.result("normal", sizes=("1M",)))
    names = ["gaussian_latent.csv", "gaussian_latent.json", "normal.csv", "normal.json"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "notes.md"]
    assert len(rows_of(run.results.values())) == 2 * len(result["rows"])


def begun(folder, seconds=60.0):
    """A run that has a result, and all of whose tools are at hand but xdist."""
    tools = dict.fromkeys(gpu_report.TOOLS, "1") | {"xdist": None}
    deadline = time.monotonic() + seconds
    run = gpu_report.Run("cpu", deadline, time.monotonic(), folder, invented.machine(), tools, "")
    run.results = {"gaussian_latent": invented.result(sizes=("1M",))}
    return run


ENDS = {
    "right": ("def test_cpu(): pass", 0),
    "wrong": ("def test_cpu(): assert 0", 1),
    "none": ("def test_other(): pass", 0),
    "crash": ("import os\ndef test_cpu(): os.abort()", 1),
    "import": ("import no_such_module", 1),
    "given up": ("import pytest\ndef test_cpu(): pytest.exit('no more', 3)", 1),
    "hang": ("import time\ndef test_cpu(): time.sleep(600)", 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_tests_that_do_not_end_well_are_a_failure(end, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "LEAST", 0.1)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of those that run this test
    text, code = ENDS[end]
    (tmp_path / "pytest.ini").write_text("[pytest]")
    path = tmp_path / "test_one.py"
    path.write_text(text)
    run = begun(tmp_path)
    gpu_report._pytest(run, [str(path), "-k", "cpu"], 4 if end == "hang" else 60, "numeric tests")
    assert gpu_report._finish(run) == code, capsys.readouterr().out


def test_a_file_that_cannot_be_imported_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_a.py").write_text("import no_such_module")
    (tmp_path / "test_b.py").write_text("def test_cpu(): pass")
    run = begun(tmp_path)
    gpu_report._pytest(run, [str(tmp_path), "-k", "cpu"], 60, "numeric tests")
    assert run.tests["passed"] == 1
    assert list(run.tests["failed"]) == ["test_a.py"]


@pytest.mark.slow
def test_tests_can_be_collected_without_what_a_gpu_machine_may_lack(tmp_path):
    for name in ("numpy", "scipy", "expecttest", "rich", "matplotlib", "sklearn"):
        text = f"raise ModuleNotFoundError('no {name}', name={name!r})"
        (tmp_path / f"{name}.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "--collect-only", "-q", "-p", "no:cacheprovider"],
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
    monkeypatch.setattr(gpu_report, "_plan", lambda device: [step])
    folder = tmp_path / "out" / "machine"
    folder.mkdir(parents=True)
    run = begun(folder)
    gpu_report._measure(run)
    assert gpu_report._finish(run) == code
    assert ("bench one: ended with" in (folder / "report.md").read_text()) == bool(code)


@pytest.mark.parametrize("ran", [True, False])
def test_outcomes_of_an_earlier_run_do_not_stand_beside_new_results(ran, tmp_path):
    result = invented.result(sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(result["machine"])
    folder.mkdir()
    (folder / TESTS_FILE).write_text("{}")
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, result["machine"], {}, "")
    run.tests = {"passed": 1, "failed": {}, "skipped": {}, "shown": {}} if ran else None
    gpu_report._keep(run, result)
    assert (folder / TESTS_FILE).exists() == ran


def failed(result, variant):
    """The result with all rows of a variant failed."""
    rows = [row | {"status": "failed", "reason": "wrong z"} if row["variant"] == variant else row
            for row in result["rows"]]  # fmt: skip
    return result | {"rows": rows}


def test_a_row_that_was_not_timed_does_not_replace_one_that_was(tmp_path):
    right = invented.result(sizes=("1M",))
    wrong = failed(right, "native")
    assert files.merged(right, wrong)["rows"] == right["rows"]
    assert files.merged(wrong, right)["rows"] == right["rows"]
    assert files.merged(wrong, wrong)["rows"] == wrong["rows"]
    # That it failed once is not lost.
    folder = tmp_path / gpu_report.folder_name(right["machine"])
    folder.mkdir()
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, right["machine"], {}, "")
    gpu_report._keep(run, right)
    assert not run.failed
    gpu_report._keep(run, wrong)
    assert gpu_report._finish(run) == 1
    line = "- gaussian_latent 1M float32, native: failed: wrong z"
    assert (folder / "report.md").read_text().splitlines().count(line) == 1


def test_results_that_cannot_be_read_are_noted(tmp_path):
    run = begun(tmp_path)
    step = gpu_report.Step("one", (), 9)
    (tmp_path / "machine").mkdir()
    texts = {"a": '{"format": 1, "rows', "b": '{"other": 1}', "c": "[]"}
    for name, text in texts.items():
        (tmp_path / "machine" / f"{name}.json").write_text(text)
    whole = invented.result()
    (tmp_path / "machine" / "d.json").write_text(json.dumps(whole))
    assert gpu_report._read(run, step, tmp_path) == [whole]
    assert [note.split(": ")[1] for note in run.notes] == [f"{n}.json can't be read" for n in texts]


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


# --- tests' outcomes, processes -------------------------------------------------------------------


def test_summary_of_outcomes(tmp_path):
    lines = [
        ("a::test_graph", "passed", ""),
        ("a::test_sync[1]", "passed", ""),
        ("a::test_sync[2]", "failed", "it waited"),
        ("a::test_left", "skipped", "no GPU"),
        ("b.py", "skipped", "no GPU"),
        ("a::test_down", "passed", ""),
        ("a::test_down", "failed", "in its tear-down"),
    ]
    path = tmp_path / "outcomes"
    names = ("name", "outcome", "reason")
    path.write_text("".join(json.dumps(dict(zip(names, x, strict=True))) + "\n" for x in lines))
    shown = {"graphs": "graph", "waits": "sync", "others": "left|absent"}
    assert outcomes.summary(path, shown) == {
        "passed": 2,
        "failed": {"a::test_sync[2]": "it waited", "a::test_down": "in its tear-down"},
        "skipped": {"no GPU": 2},
        "shown": {"graphs": True, "waits": False, "others": None},
    }
    assert outcomes.summary(tmp_path / "absent", {})["passed"] == 0
    path.write_text(path.read_text() + '{"name": "a::test_cut", "outc')
    assert outcomes.summary(path, {})["passed"] == 2


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


def test_a_process_is_ended_with_all_it_started(tmp_path):
    mark, log = tmp_path / "mark", tmp_path / "log"
    script = f"(sleep 2; touch {mark}) & echo begun; sleep 60"
    start = time.monotonic()
    done = processes.run(["sh", "-c", script], 0.5, tmp_path, log=log)
    assert (done.code, done.output) == (processes.TIMED_OUT, "begun\n")
    assert time.monotonic() - start < 30
    assert "begun" in log.read_text()
    time.sleep(2.5)
    assert not mark.exists()


def test_json_among_what_a_process_said():
    said = 'first\n[1]\n[{"a": 1}, {}]\n[W1122 21:00:00 a.cpp:1] Warning: left\nsome warning\n'
    assert processes.Done(0, said).json() == [{"a": 1}, {}]
    with pytest.raises(ValueError, match="expected a line of JSON"):
        processes.Done(0, "[W1122] Warning\n").json()


def test_how_processes_end(tmp_path):
    command = ["sh", "-c", "echo $WORD; echo last >&2; exit 3"]
    done = processes.run(command, 10, tmp_path, {"WORD": "first"})
    assert (done.code, done.output, done.last_line()) == (3, "first\nlast\n", "last")
    done = processes.run(["no-such-command"], 10, tmp_path)
    assert (done.code, done.output) == (
        processes.NOT_STARTED,
        "no-such-command could not be started",
    )
