"""Targets, and tables of what was measured: they show the results' figures, and nothing else."""

from __future__ import annotations

import pytest

from bench import targets
from bench.ops import BOTH
from tests.helpers import invented
from tests.helpers.checkouts import OTHER, frames, pages, tables


def verdict(results, device, dtype, work, measure, op="gaussian_latent", size=None):
    [found] = [
        one
        for one in targets.judge(frames.cases(results).itertuples(), device)
        if one.target[:1] == (measure,)
        and (one.target.dtype, one.target.work, one.target.op) == (dtype, work, op)
        and size in (None, one.target.size)
    ]
    return found


def value_and_answer(*asked, **more):
    found = verdict(*asked, **more)
    return (found.band.value if found.band else None), found.met


def change(result, changes, **which):
    """Sets figures in the rows that match; there must be one at least."""
    chosen = [r for r in result["rows"] if all(r[name] == value for name, value in which.items())]
    assert chosen
    for row in chosen:
        row.update(changes)


def test_cpu_targets():
    result = invented.result()

    def found(dtype, measure, work=BOTH):
        return value_and_answer([result], "cpu", dtype, work, measure)

    # The time of a call adds a little to both.
    assert found("float32", "vs_eager") == (pytest.approx(8, rel=1e-3), False)
    assert found("float32", "vs_compile") == (pytest.approx(4, rel=1e-3), False)
    assert found("bfloat16", "against_float32") == (1.0, True)
    own = {"size": "16M", "variant": "native", "work": BOTH}
    change(result, {"median_s": 0.02, "of_limit": 0.7}, **own)
    change(result, {"median_s": 0.021}, dtype="bfloat16", **own)
    assert found("float32", "vs_eager")[1]
    assert found("float32", "vs_compile")[1]
    assert [found("float32", "of_limit", work)[1] for work in ("forward", BOTH)] == [True, True]
    assert not found("bfloat16", "against_float32")[1]
    change(result, {"of_limit": 0.69}, **own)
    assert not found("float32", "of_limit")[1]


def test_a_target_is_met_within_the_spread_or_beyond_it():
    result = invented.result()
    own = {"size": "16M", "variant": "native", "work": BOTH, "dtype": "float32"}

    def cells(measure):
        return tables.verdict_cells(verdict([result], "cpu", "float32", BOTH, measure))[-2:]

    def word(seconds, eager):
        names = ("median_s", "low_s", "high_s")
        change(result, dict(zip(names, seconds, strict=True)), **own)
        change(result, dict(zip(names, eager, strict=True)), **own | {"variant": "eager"})
        return cells("vs_eager")

    # At least 8 times.
    assert word((1, 1, 1), (8.5, 8.1, 9)) == ["8.5x (8.1-9)", "yes"]
    assert word((1, 1, 1), (8.5, 7.9, 9)) == ["8.5x (7.9-9)", "yes (within spread)"]
    assert word((1, 0.9, 1.1), (8.5, 8.5, 8.5)) == ["8.5x (7.73-9.44)", "yes (within spread)"]
    assert word((1, 1, 1), (7, 6, 7.9)) == ["7x (6-7.9)", "**no**"]
    assert word((1, 1, 1), (7, 6, 8)) == ["7x (6-8)", "**no** (within spread)"]
    # What is counted has no spread; a share of the limit has that of our time.
    change(result, {"of_limit": 0.71, "low_s": 0.5, "high_s": 1.0}, **own)
    assert cells("of_limit") == ["71% (71-142)", "yes"]
    change(result, {"high_s": 1.1}, **own)
    assert cells("of_limit") == ["71% (64.5-142)", "yes (within spread)"]


def test_the_specification_never_stands_for_a_backend_that_was_to_run():
    result = invented.result()
    here = {"size": "16M", "dtype": "float32", "work": BOTH}
    own = {"variant": "native"} | here
    own_row = next(r for r in result["rows"] if all(r[k] == v for k, v in own.items()))

    def shown():
        lines = tables.table(result).splitlines()
        return next(line for line in lines if "4096 x 4096 | fl" in line)

    assert "41.9 ms (native)" in shown()
    change(result, {"median_s": 1e-6}, **here | {"variant": "reference"})
    assert "41.9 ms (native)" in shown()  # though the specification was faster
    for status in ("skipped", "failed"):
        change(result, {"status": status, "reason": "no memory"}, **own)
        assert "reference" not in shown()
        assert verdict([result], "cpu", "float32", BOTH, "vs_eager").met is None
    result["rows"].remove(own_row)
    assert "1.00 us (reference)" in shown()  # nothing else is there, and it says so


def test_where_results_come_from():
    one, two = invented.result(), invented.result(OTHER)
    words = "commit 0123456789ab, 2000-01-01, a rough run (`--quick`)"
    assert tables.origin([one, two]) == f"Measured at {words}."
    two["machine"]["commit"] = "ba9876543210+"
    two["settings"]["quick"] = False
    last = tables.ops([one, two], short=True).splitlines()[-1]
    parts = f"`gaussian_latent` at {words}; `gaussian_kl` at commit ba9876543210+, 2000-01-01."
    assert last.endswith(parts)
    assert f" {words}." in tables.table(one)
    assert tables.steps(invented.steps()).endswith(f"Measured at {words}.")


@pytest.fixture
def families(monkeypatch):
    """Results of two ops at the sizes that something is asked of, each element 1 ns."""
    sizes = {"1e7": (3125, 3200), "4096x1024": (4096, 1024), "128x20": (128, 20)}
    monkeypatch.setattr(invented, "SIZES", sizes)
    return [
        invented.result("sample_weight", sizes=("1e7",)),
        invented.result("gumbel_softmax", sizes=("128x20", "4096x1024")),
    ]


def test_targets_of_the_families(families):
    weight, softmax = families

    def found(op, measure, size=None):
        asked = (families, "cpu", "float32", BOTH, measure)
        return value_and_answer(*asked, op=op, size=size)

    assert found("sample_weight", "vs_eager") == (pytest.approx(8, rel=1e-3), False)
    change(weight, {"median_s": 1e-3}, variant="native", work=BOTH)
    assert found("sample_weight", "vs_eager")[1]
    assert found("sample_weight", "saved_bytes") == (16, True)
    change(weight, {"saved_bytes": 17}, variant="native")
    assert found("sample_weight", "saved_bytes") == (17, False)
    assert found("gumbel_softmax", "vs_compile", "4096x1024")[1]  # 4 times, asked for 2
    assert found("gumbel_softmax", "vs_compile", "4x8192x16x16")[1] is None
    for saved, kept in ((4 * 4096 * 1024 + 16, True), (8 * 4096 * 1024, False)):
        change(softmax, {"saved_bytes": saved}, variant="native", size="4096x1024")
        assert found("gumbel_softmax", "saved_tensors", "4096x1024")[1] is kept


def test_tables_of_the_families(families):
    made = tables.ops(families, short=True).splitlines()
    ratios = "**8.0x** (6.0-10.7) | **4.0x** (3.0-5.3)"
    weight = "| `sample_weight` | 1e7 | float32 | forward+backward | 200 ms | 100 ms |"
    weight += f" 25.0 ms (native) | {ratios} | 10x / 8x | **no** (within spread) / **no** |"
    assert made[2] == f"{weight} 120,000,000 | 16 |"
    softmax = "| `gumbel_softmax` | 4096x1024 | float32 | forward+backward | 83.9 ms | 41.9 ms |"
    softmax += f" 10.5 ms (native) | {ratios} | 6x / 2x | yes (within spread) / yes |"
    assert f"{softmax} 50,331,648 | 16 |" in made
    assert not any("128x20" in line for line in made)
    assert len(tables.ops(families, short=False).splitlines()) == len(made) + 2
    table = pages.target_table(families, {})
    left = "Not measured on this machine: `gaussian_latent`, `tanh_normal_rsample`,"
    assert left + " `gaussian_latent_samples`," in table
    assert table.count("`gumbel_softmax`") == 6
    assert "| at most 16 | 16 | yes |" in table


def test_gpu_targets_take_the_worst_size_and_the_fastest_rival():
    result = invented.result(device_type="cuda")

    def found(dtype, measure):
        return value_and_answer([result], "cuda", dtype, "forward", measure)

    copy = {"dtype": "bfloat16", "work": "forward", "variant": "triton"}
    change(result, {"of_copy": 0.86}, **copy)
    result["rows"] += [row | {"size": "256M", "elements": 1 << 28} for row in result["rows"]
                       if row["size"] == "64M"]  # fmt: skip
    assert found("bfloat16", "of_copy")[1]
    change(result, {"of_copy": 0.84}, size="256M", **copy)
    change(result, {"of_copy": 0.5}, size="16M", **copy)  # below the sizes that count
    assert found("bfloat16", "of_copy") == (0.84, False)
    assert found("float32", "vs_compile")[0] > 3.9
    graphs = [row | {"variant": "torch.compile reduce-overhead", "median_s": row["median_s"] / 2}
              for row in result["rows"] if row["variant"] == "torch.compile"]  # fmt: skip
    result["rows"] += graphs
    assert found("float32", "vs_compile")[0] < 2.1


def test_gpu_targets_of_host_time_graphs_and_memory():
    result = invented.result(device_type="cuda")

    def found(measure, dtype="float32"):
        return value_and_answer([result], "cuda", dtype, BOTH, measure)

    assert found("host_vs_eager") == (None, None)
    small = {"size": "128x20", "dtype": "float32", "work": BOTH}
    change(result, {"host_s": 50e-6, "graph_kernels": 2}, variant="triton", **small)
    change(result, {"host_s": 100e-6}, variant="eager", **small)
    change(result, {"host_s": 40e-6}, variant="torch.compile", **small)
    assert found("host_vs_eager") == (0.5, True)
    assert found("host_vs_compile") == (1.25, False)
    assert found("graph_kernels") == (2, True)
    change(result, {"graph_kernels": 3}, variant="triton", **small)
    assert found("graph_kernels") == (3, False)
    assert found("peak_tensors") == (3.0, True)
    # The same bytes are six tensors of bfloat16.
    assert found("peak_tensors", "bfloat16") == (6.0, False)


def test_share_of_copy_speed_is_shown_where_bytes_decide_and_a_copy_was_timed():
    result = invented.result()

    def shares():
        lines = [line.split(" | ") for line in tables.table(result).splitlines()[2:10]]
        return {(line[0], line[1]): line[9] for line in lines}

    assert shares()["| 1024 x 1024", "float32"] == "40%"
    assert shares()["| 128 x 20", "float32"] == "-"
    change(result, {"of_copy": None, "copy_s": None}, size="1M", dtype="float32")
    assert shares()["| 1024 x 1024", "float32"] == "-"


def test_failed_and_skipped_rows_are_shown_as_not_measured():
    result = invented.result()
    for row in result["rows"]:
        if row["variant"] in ("eager", "native", "reference"):
            for name in ("median_s", "low_s", "high_s", "of_copy", "saved_bytes", "peak_bytes"):
                del row[name]
            row |= {"status": "skipped", "reason": "needs 9 bytes, 8 are free"}
    line = tables.table(result).splitlines()[2]
    times = "| 128 x 20 | float32 | - | 28.1 us | 66.5 us | - |"
    assert line.startswith(f"{times} - | - | - | - | - | - |")
    assert verdict([result], "cpu", "float32", BOTH, "vs_eager").met is None
