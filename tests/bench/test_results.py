"""Result files, and what labels them: commit and machine."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from bench import limits, machine, measure, report, results
from tests.helpers import invented

ROOT = Path(__file__).parents[2]


@pytest.fixture
def result():
    return invented.result(sizes=("128x20",))


def test_json_and_csv_round_trip(result, tmp_path):
    json_path, csv_path = results.write(result, tmp_path)
    assert json_path == tmp_path / "invented-2-threads" / "gaussian_latent.json"
    assert results.read(json_path) == result
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    for line, row in zip(lines, result["rows"], strict=True):
        assert (line["variant"], line["device"]) == (row["variant"], "Invented CPU")
        assert float(line["median_s"]) == row["median_s"]


def test_who_dies_while_writing_leaves_the_old_file(result, tmp_path, monkeypatch):
    paths = results.write(result, tmp_path)
    before = [path.read_text() for path in paths]
    write = Path.write_text

    def half(path, text, **more):
        write(path, text[: len(text) // 2], **more)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        results.write(result | {"rows": result["rows"][:1]}, tmp_path)
    assert [path.read_text() for path in paths] == before
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)


def test_merging_adds_sizes_and_replaces_what_was_measured_again(result, capsys):
    second = json.loads(json.dumps(result))
    for row in second["rows"]:
        row["median_s"] = -1.0
    larger = [dict(row, size="1M", shape="1024x1024", elements=1 << 20) for row in result["rows"]]
    second["rows"] = [*larger, second["rows"][0]]
    merged = results.merged(result, second)
    assert len(merged["rows"]) == 2 * len(result["rows"])
    assert sum(row.get("median_s") == -1.0 for row in merged["rows"]) == 1
    assert merged["settings"]["sizes"] == ["128x20", "1M"]
    report.print_result(results.merged(result, second | {"complete": False}))
    assert "NOT ALL: the run ended" in capsys.readouterr().out
    # A row that failed replaces none that was timed.
    bad = [row | {"status": "failed", "reason": "wrong z"} for row in result["rows"]]
    assert results.merged(result, result | {"rows": bad})["rows"] == result["rows"]


def test_results_of_a_gpu_are_filed_by_driver_and_versions():
    described = {"device": "NVIDIA H100 80GB HBM3", "device_type": "cuda", "driver": "550.54.15",
                 "versions": {"torch": "2.11.0+cu128", "triton": "3.6.0"}}  # fmt: skip
    expected = "nvidia-h100-80gb-hbm3-driver-550.54.15-torch-2.11.0-cu128-triton-3.6.0"
    assert machine.folder_name(described) == expected
    words = results.machine_words(invented.machine(threads=1))
    assert words.startswith("Invented CPU, 1 thread, AVX2;")


# --- the commit -----------------------------------------------------------------------------------

MEASURED = ("bench/timing.py", "bench/ops/one.py", "fused_reparam/noise.py", "kernels/simd/noise.h",
            "setup.py", "pyproject.toml")  # fmt: skip
OTHERS = ("README.md", "docs/performance.md", "tests/test_one.py", "examples/vae.py",
          "bench/results/some-cpu/one.json")  # fmt: skip


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a file of each kind, and what runs git in it."""
    for name in list(os.environ):
        if name.startswith("GIT_"):  # a hook's are of another repository
            monkeypatch.delenv(name)

    def git(*words):
        identity = ["-c", "user.name=some", "-c", "user.email=some@example.com"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    for name in (*MEASURED, *OTHERS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    return tmp_path, git


def test_what_is_measured_and_differs_is_marked(checkout):
    root, git = checkout
    head = git("rev-parse", "--short=12", "HEAD")
    for name in (*MEASURED, *OTHERS):
        mark = "+" if name in MEASURED else ""
        (root / name).write_text("second\n")
        assert machine.commit_of(root) == head + mark, name
        git("checkout", "--quiet", name)
        new = (root / name).with_name("new.py")
        new.write_text("")
        # Beside setup.py and pyproject.toml, at the top, nothing else is measured.
        assert machine.commit_of(root) == (head + mark if "/" in name else head), name
        new.unlink()


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit_of(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit_of(tmp_path) == "unknown"


def test_a_run_takes_its_commit_before_it_measures(checkout, monkeypatch):
    root, git = checkout
    monkeypatch.setattr(machine, "__file__", str(root / "bench" / "machine.py"))
    machine.commit.cache_clear()

    def commits(*_):
        (root / "setup.py").write_text("second\n")
        git("commit", "--quiet", "--all", "--message", "second")
        raise RuntimeError("no limits here")

    first = git("rev-parse", "--short=12", "HEAD")
    monkeypatch.setattr(limits, "measure_limits", commits)
    try:
        with pytest.raises(RuntimeError, match="no limits here"):
            next(measure.measure_all([measure.Settings(op="gaussian_latent")]))
        assert machine.commit() == first != machine.commit_of(root)
    finally:
        machine.commit.cache_clear()
