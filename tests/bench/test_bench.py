"""The bench: its numbers hang together, its gate trips, its files and tables can be read again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import __main__ as command_line
from bench import compare, limits, machine, measure, report, results
from bench.cases import OpCase
from bench.machine import folder_name
from bench.ops import OPS, WORKS
from bench.sizes import shape_of
from bench.timing import CpuClock, Effort
from bench.variants import EAGER, Variant, using
from tests.helpers import invented

OP = OPS["gaussian_latent"]
CPU = torch.device("cpu")
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)
SETTINGS = measure.Settings(OP.name, sizes=("16x20",), dtypes=("float32",), effort=BRIEF)
ELEMENTS = 16 * 20


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sizes are tiny, and threads that wait for a busy core would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wrong_kl(mu, logvar):
    z, kl = OP.ours(mu, logvar)
    return z, 1.1 * kl


REFERENCE = Variant("reference", OP.ours, using("reference"), ours=True)
ENTRIES = [
    Variant(EAGER, OP.textbook), Variant("distributions", partial(OP.rival, True)),
    Variant("wrong", wrong_kl, ours=True), REFERENCE,
]  # fmt: skip


@pytest.fixture(scope="module")
def result():
    """A tiny run over every kind of work, with one wrong variant in it."""
    settings = replace(SETTINGS, dtypes=("float32", "bfloat16"), quick=True)
    limit = limits.measure_limits(CPU, CpuClock(), BRIEF, quick=True)
    [first, last] = measure.measure(settings, CpuClock(), limit, variants=ENTRIES)
    # After each case stands what is there by then.
    assert last["rows"][: len(first["rows"])] == first["rows"]
    assert (first["complete"], last["complete"]) == (False, True)
    return json.loads(json.dumps(last))


def test_a_variant_that_fails_the_gate_gets_no_time(result):
    rows = [row for row in result["rows"] if row["variant"] == "wrong"]
    assert len(rows) == 2 * len(WORKS)
    for row in rows:
        assert row["status"] == "failed"
        assert row["reason"].startswith("output 1")
        assert "median_s" not in row
    assert all(row["status"] == "ok" for row in result["rows"] if row["variant"] != "wrong")


def test_a_backend_that_fails_the_self_test_gets_no_time():
    wrong = {"reference": "bad"}
    rows = measure.measure_case(case(), SETTINGS, [ENTRIES[0], REFERENCE], CpuClock(), wrong)
    assert {(row["variant"], row["status"]) for row in rows} == {
        (EAGER, "ok"), ("reference", "failed")}  # fmt: skip
    assert rows[-1]["reason"] == "bad"


def case(shape=(16, 20), device=CPU):
    return OpCase(OP, "x".join(map(str, shape)), shape, "float32", device)


def test_numbers_are_consistent(result):
    timed = [row for row in result["rows"] if row["status"] == "ok"]
    assert len(timed) == 3 * len(WORKS) * 2
    for row in timed:
        same = [r for r in timed if all(r[n] == row[n] for n in ("dtype", "work"))]
        [eager] = [r for r in same if r["variant"] == EAGER]
        itemsize = 4 if row["dtype"] == "float32" else 2
        tensors = {"forward": 3, "backward": 5, "forward+backward": 8}[row["work"]]
        assert row["moved_bytes"] == tensors * ELEMENTS * itemsize
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["samples"] >= BRIEF.least_rounds
        assert row["vs_eager"] == pytest.approx(eager["median_s"] / row["median_s"])
        assert row["vs_compile"] is None
        assert row["of_copy"] == pytest.approx(row["copy_s"] / row["median_s"])
        assert row["of_fresh"] == pytest.approx(row["fresh_s"] / row["median_s"])
        if row["noise_s"] is None:  # who makes noise in the caches is not there
            assert row["of_limit"] is None
        else:
            bound = max(row["copy_s"], row["noise_s"])
            assert row["of_limit"] == pytest.approx(bound / row["median_s"])
        assert row["ns_per_element"] == pytest.approx(row["median_s"] * 1e9 / ELEMENTS)
        assert row["gb_per_s"] == pytest.approx(row["moved_bytes"] / row["median_s"] / 1e9)
        # The textbook keeps sigma, eps and exp(logvar); ours keeps a key.
        expected = {EAGER: 3 * ELEMENTS * itemsize, "reference": 16}.get(row["variant"])
        assert expected in (None, row["saved_bytes"])
    about = result["machine"]
    assert (about["versions"]["torch"], about["threads"]) == (torch.__version__, 1)
    assert about["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("text", "shape"),
    [("128x20", (128, 20)), ("1M", (1024, 1024)), ("2.5k", (40, 64)), ("1e6", (1000, 1000)),
     ("7", (1, 7)), ("8x16x128x128", (8, 16, 128, 128)), ("1024G", (1 << 20,) * 2)],
)  # fmt: skip
def test_sizes(text, shape):
    assert shape_of(text) == shape


@pytest.mark.parametrize("text", ["", "big", "0", "12x", "-3", "4x0", "1T"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="size"):
        shape_of(text)


@pytest.mark.parametrize("buffer", [1 << 30, 4096, 1000])
def test_copies_move_as_many_bytes_as_said(buffer, monkeypatch):
    monkeypatch.setattr(limits, "BUFFER_BYTES", buffer)
    moved, copy_ = [], torch.Tensor.copy_

    def counting(target, source):
        moved.append(target.nbytes + source.nbytes)
        return copy_(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", counting)
    copy, fresh = limits.copies(16_000, 6_000, CPU)
    copy.call(None)
    assert sum(moved) == 16_000
    moved.clear()
    assert fresh.call(None).nbytes == 6_000
    assert sum(moved) == 12_000
    assert [c.name for c in limits.copies(8000, 0, CPU)] == [limits.COPY]


def test_json_and_csv_round_trip(result, tmp_path):
    json_path, csv_path = results.write(result, tmp_path)
    assert json_path.parent == tmp_path / folder_name(result["machine"])
    assert results.read(json_path) == result
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    for line, row in zip(lines, result["rows"], strict=True):
        assert line["variant"] == row["variant"]
        assert line["device"] == result["machine"]["device"]
        if row["status"] == "ok":
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


@pytest.mark.parametrize("wide", [False, True])
def test_report_shows_every_row(result, wide, capsys):
    report.print_result(result, wide)
    text = capsys.readouterr().out
    tables = [line for line in text.splitlines() if "NOT TIMED" not in line]
    assert (max(map(len, tables)) <= report.WIDTH) is not wide
    assert (" GB/s  of" in text) is wide
    assert text.count("FAILED") == 2 * len(WORKS)
    assert "NOT TIMED, for its result is wrong: wrong, float32, 16x20: output 1" in text
    for row in result["rows"]:
        if row["status"] == "ok":
            assert report.duration(row["median_s"]) in text


def test_compare_tells_what_changed(result, capsys):
    after = json.loads(json.dumps(result))
    compare.print_comparison(result, result, wide=True)
    same = capsys.readouterr().out
    assert "SLOWER" not in same
    assert "MORE" not in same
    row = next(r for r in after["rows"] if r["variant"] == "reference")
    for name in ("median_s", "low_s", "high_s"):
        row[name] *= 100
    row["saved_bytes"], row["peak_bytes"] = 24, 2 * row["peak_bytes"]
    after["rows"].remove(next(r for r in after["rows"] if r["variant"] == "distributions"))
    after["machine"]["commit"] = "another"
    compare.print_comparison(result, after, wide=True)
    said = capsys.readouterr().out
    assert f"commit: {result['machine']['commit']} -> another" in said
    [slower] = [line for line in said.splitlines() if "SLOWER MORE MEMORY" in line]
    assert slower.startswith("  reference")
    assert " 0.01x " in slower
    assert "16 -> 24" in slower
    assert "absent" in said


def test_command_line_from_measuring_to_table(tmp_path, capsys):
    words = "--quick --sizes 16x20 --dtype float32 --work forward --variants reference --out"
    assert command_line.main([*words.split(), str(tmp_path)]) == 0
    [path] = tmp_path.glob("*/*.json")
    assert command_line.main(["compare", str(path), str(path)]) == 0
    assert "1.00x" in capsys.readouterr().out
    pytest.importorskip("bench.pages")
    assert command_line.main(["table", str(path)]) == 0
    assert "| 16 x 20 | float32 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        (measure.DeviceLost("no CUDA any more"), command_line.LOST_DEVICE, "no CUDA any more"),
        (KeyboardInterrupt(), 130, "interrupted; kept: gaussian_kl (4 rows)"),
    ],
)
def test_who_dies_keeps_the_cases_that_were_done(end, code, last, tmp_path, monkeypatch, capsys):
    saved_bytes = OpCase.saved_bytes

    def dies_in_the_third_case(case, variant):
        if case.size == "4x20":
            raise end
        return saved_bytes(case, variant)

    monkeypatch.setattr(OpCase, "saved_bytes", dies_in_the_third_case)
    words = "--quick --op gaussian_kl --sizes 16x20,8x20,4x20 --dtype float32 --work forward"
    assert command_line.main([*words.split(), "--variants", "reference", "--out",
                              str(tmp_path)]) == code  # fmt: skip
    [path] = tmp_path.glob("*/*.json")
    made = results.read(path)
    assert not made["complete"]
    assert [row["size"] for row in made["rows"]] == ["16x20"] * 2 + ["8x20"] * 2
    assert all(row["median_s"] > 0 for row in made["rows"])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == last
    assert said.count("float32, 16x20") == said.count("float32, 8x20") == 1
    assert said.count("wrote ") == 2


def test_merging_adds_sizes_and_replaces_what_was_measured_again(result):
    second = json.loads(json.dumps(result))
    for row in second["rows"]:
        row["median_s"] = -1.0
    larger = [dict(row, size="1M", shape="1024x1024", elements=1 << 20) for row in result["rows"]]
    second["rows"] = [*larger, second["rows"][0]]
    merged = results.merged(result, second)
    assert len(merged["rows"]) == 2 * len(result["rows"])
    assert sum(row.get("median_s") == -1.0 for row in merged["rows"]) == 1
    assert merged["settings"]["sizes"] == ["16x20", "1M"]
    # A row that failed replaces none that was timed.
    bad = [row | {"status": "failed", "reason": "wrong z"} for row in result["rows"]]
    assert results.merged(result, result | {"rows": bad})["rows"][0] == result["rows"][0]


def test_a_result_says_that_it_is_partial_or_of_an_unsteady_machine(capsys):
    first, second = invented.result(sizes=("1M",)), invented.result(sizes=("128x20",))
    assert results.merged(first, second)["complete"] is True
    assert results.merged(first, second)["warnings"] == []
    second["complete"] = False
    for row in second["rows"]:
        row["high_s"] = 2 * row["median_s"]
    merged = results.merged(first, second)
    words = "the machine was not steady: 30 of 60 times have a spread of more than ±25%"
    assert (merged["complete"], merged["warnings"]) == (False, [words])
    report.print_result(merged)
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT ALL: the run ended" in said
    assert f"WARNING: {words}" in said


def test_the_specification_is_not_timed_where_it_takes_too_long(monkeypatch):
    fused = replace(REFERENCE, name="another")

    def statuses(*variants):
        rows = measure.measure_case(case(), SETTINGS, variants, CpuClock())
        return {row["variant"]: row["status"] for row in rows}

    monkeypatch.setattr(measure, "REFERENCE_ELEMENTS", ELEMENTS - 1)
    assert statuses(REFERENCE, fused) == {"reference": "skipped", "another": "ok"}
    assert statuses(REFERENCE) == {"reference": "ok"}  # by itself it is
    monkeypatch.setattr(measure, "REFERENCE_ELEMENTS", ELEMENTS)
    assert statuses(REFERENCE, fused) == {"reference": "ok", "another": "ok"}


def test_results_of_a_gpu_are_filed_by_driver_and_versions():
    described = {"device": "NVIDIA H100 80GB HBM3", "device_type": "cuda", "driver": "550.54.15",
                 "versions": {"torch": "2.11.0+cu128", "triton": "3.6.0"}}  # fmt: skip
    expected = "nvidia-h100-80gb-hbm3-driver-550.54.15-torch-2.11.0-cu128-triton-3.6.0"
    assert machine.folder_name(described) == expected
    words = results.machine_words(invented.machine(threads=1))
    assert words.startswith("Invented CPU, 1 thread, AVX2;")
