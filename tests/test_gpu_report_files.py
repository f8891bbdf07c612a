"""What `gpu-report` keeps of what it measured, and where that can't be written."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import invented
import pytest
from gpu_runs import STEP, begun

from bench import gpu_report, results
from bench.results import TESTS_FILE, rows_of


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
    both = results.merged(first, second)
    assert len(both["rows"]) == len(second["rows"])
    assert {row["median_s"] for row in both["rows"]} == {7.0}
    assert both["settings"]["sizes"] == ["128x20", "1M"]
    assert both["limits"]["copy_gb_per_s"] == 10.0
    assert [row["size"] for row in both["rows"][:16]] == ["128x20"] * 15 + ["1M"]
    again = results.merged(second, first)
    assert sorted({row["median_s"] for row in again["rows"] if row["size"] == "128x20"}) == [7.0]
    assert 7.0 not in {row["median_s"] for row in again["rows"] if row["size"] == "1M"}


def test_what_an_earlier_run_left_is_removed_with_the_first_result(tmp_path):
    result = invented.result(sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(result["machine"])
    invented.write(folder, invented.result("gaussian_kl"))
    for name in ("copy.png", "notes.md"):
        (folder / name).write_text("")
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, result["machine"], {}, "")
    gpu_report._keep(run, STEP, result)
    gpu_report._keep(run, STEP, invented.result("normal", sizes=("1M",)))
    names = ["gaussian_latent.csv", "gaussian_latent.json", "normal.csv", "normal.json"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "notes.md"]
    assert len(rows_of(run.results.values())) == 2 * len(result["rows"])


@pytest.mark.parametrize("ran", [True, False])
def test_outcomes_of_an_earlier_run_do_not_stand_beside_new_results(ran, tmp_path):
    result = invented.result(sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(result["machine"])
    folder.mkdir()
    (folder / TESTS_FILE).write_text("{}")
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, result["machine"], {}, "")
    run.tests = {"passed": 1} if ran else None
    gpu_report._keep(run, STEP, result)
    assert (folder / TESTS_FILE).exists() == ran


@pytest.mark.parametrize("name", ["commit", "device"])
@pytest.mark.parametrize("op", ["gaussian_latent", "normal"])
def test_results_of_another_commit_or_machine_are_kept_apart(name, op, tmp_path, capsys):
    """Of the same op they can't be merged; of another they can't be shown beside the others."""
    first, other = invented.result(sizes=("1M",)), invented.result(op, sizes=("16M",))
    other["machine"][name] = "another"
    folder = tmp_path / gpu_report.folder_name(first["machine"])
    folder.mkdir()
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, first["machine"], {}, "")
    gpu_report._keep(run, STEP, first)
    gpu_report._keep(run, STEP, other)
    assert run.results == {"gaussian_latent": first}
    assert results.read(folder / "gaussian_latent.json") == first
    [path] = folder.glob(f"{gpu_report.APART}/some-op-1M/*/{op}.json")
    assert results.read(path) == other
    assert gpu_report._finish(run) == 1
    assert f"bench some op 1M: results of one {name} can be merged" in capsys.readouterr().out


@pytest.fixture
def full_disk(monkeypatch):
    """Call it with a folder in which no file can be opened for writing any more."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of those that run this test
    open_ = Path.open

    def fill(folder):
        def opened(path, mode="r", *words, **more):
            if folder in path.parents and mode[0] in "wa":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return open_(path, mode, *words, **more)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: opened(path, "w"))

    return fill


def test_on_a_full_disk_nothing_is_lost_and_the_table_is_shown(
    tmp_path, full_disk, monkeypatch, capsys
):
    result = invented.result(sizes=("1M",))
    folder = tmp_path / gpu_report.folder_name(result["machine"])
    invented.write(folder, invented.result("gaussian_kl"), invented.result(sizes=("16M",)))
    before = {path: path.read_text() for path in folder.iterdir()}
    run = begun(folder)
    run.results = {}
    full_disk(folder)
    gpu_report._test(run, gpu_report.NUMERIC_TESTS, ["--version"])
    gpu_report._keep(run, STEP, result)
    assert gpu_report._finish(run) == 1
    said = capsys.readouterr().out
    for name in ("log.txt", TESTS_FILE, "gaussian_latent"):
        assert said.splitlines().count(f"{name}: can't be written: No space left on device") == 1
    assert "report.md is not of all results: OSError" in said
    assert "targets, Invented CPU" in said
    assert {path: path.read_text() for path in folder.iterdir()} == before
    # With room again, the next result is written with those before it.
    monkeypatch.undo()
    gpu_report._keep(run, STEP, invented.result(sizes=("128x20",)))
    assert results.read(folder / "gaussian_latent.json")["settings"]["sizes"] == ["128x20", "1M"]
    assert not (folder / "gaussian_kl.json").exists()


def failed(result, variant):
    """The result with all rows of a variant failed."""
    rows = [row | {"status": "failed", "reason": "wrong z"} if row["variant"] == variant else row
            for row in result["rows"]]  # fmt: skip
    return result | {"rows": rows}


def test_a_row_that_was_not_timed_does_not_replace_one_that_was(tmp_path):
    right = invented.result(sizes=("1M",))
    wrong = failed(right, "native")
    assert results.merged(right, wrong)["rows"] == right["rows"]
    assert results.merged(wrong, right)["rows"] == right["rows"]
    assert results.merged(wrong, wrong)["rows"] == wrong["rows"]
    # That it failed once is not lost.
    folder = tmp_path / gpu_report.folder_name(right["machine"])
    folder.mkdir()
    run = gpu_report.Run("cpu", 0.0, 0.0, folder, right["machine"], {}, "")
    gpu_report._keep(run, STEP, right)
    assert not run.failed
    gpu_report._keep(run, STEP, wrong)
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
