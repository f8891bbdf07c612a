"""Targets, tables and pages: they show the results' figures, and nothing else."""

import pytest

from bench import __main__ as command_line
from bench import targets
from bench.ops import BOTH
from bench.variants import EAGER, EAGER_KEPT
from tests.helpers import invented
from tests.helpers.checkouts import OTHER, ROOT, frames, laid_out, pages, section, tables


@pytest.fixture
def checkout(tmp_path):
    return laid_out(tmp_path)


def test_the_committed_pages_are_what_the_committed_results_make(capsys):
    assert command_line.main(["pages", "--check"]) == 0, capsys.readouterr().out


def test_check_finds_a_figure_typed_by_hand(checkout, capsys):
    check = ["pages", "--check", "--root", str(checkout)]
    assert command_line.main(check) == 0
    page = checkout / "README.md"
    before = page.read_text()
    page.write_text(before.replace("**1.4x**", "**1.9x**", 1))
    assert page.read_text() != before
    assert command_line.main(check) == 1
    assert "README.md is not what the results make" in capsys.readouterr().out
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    assert page.read_text() == before


def test_the_front_page_shows_training_steps_of_the_machine_with_most_threads(checkout):
    made = section(checkout / "README.md", "gains")
    line = "| mlp-vae | 2.00 ms | 1.60 ms | 1.40 ms | 1.00 ms |"
    line += " **1.4x** (1.1-1.9) | **1.6x** (1.2-2.1) |"
    assert line in made
    assert "Fused is by the native backend." in made
    assert made.count("\n| ") == 4  # the heading, its rule, and two models
    assert made.count("### Invented CPU, 2 threads, AVX2") == 1
    assert "1 thread," not in made
    assert pages.NO_GPU in made


def test_the_front_page_shows_its_models_or_else_what_was_measured():
    result = invented.steps()
    more = [row | {"size": "another"} for row in result["rows"] if row["size"] == "mlp-vae"]
    result["rows"] += more
    assert "| another |" not in tables.gains(result)
    assert "| another |" in tables.steps(result)
    result["rows"] = more
    assert "| another |" in tables.gains(result)


def test_performance_shows_the_machine_with_most_threads(checkout):
    page = checkout / "docs/performance.md"
    made = section(page, "latent")
    # 16M elements at 8, 4 and 1 ns, times 2.5 for forward and backward, and 2.5 us for the calls.
    # The quartiles are 0.9 and 1.2 medians, so ratios go from 3/4 to 4/3 of theirs.
    line = "| 4096 x 4096 | float32 | 336 ms | 168 ms | 419 ms | - | 41.9 ms (native) |"
    line += " **8.0x** (6.0-10.7) | **4.0x** (3.0-5.3) | 40% | 201,326,592 | 16 |"
    assert line + " 640 MiB | 192 MiB |" in made
    # Below a million elements a share of copy speed would say nothing.
    assert "| 128 x 20 | float32 | 53.7 us | 28.1 us | 66.5 us | - | 8.90 us (native) |" in made
    assert made.count("| - | 30,720 | 16 |") == 2
    assert made.count("### Invented CPU, 2 threads, AVX2") == 1
    assert "1 thread," not in made
    every = section(page, "ops")
    # Its time is 8, 4 and 1 ns of each element.
    kl = "| `gaussian_kl` | 64M | bfloat16 | forward+backward | 1.34 s | 671 ms | 168 ms (native) |"
    assert kl + " **8.0x** (6.0-10.7) | **4.0x** (3.0-5.3) |" in every
    assert every.count("| `gaussian_kl` | 128x20 |") == 2
    step = "| mlp-vae | 128 x 20 | float32 | 2.00 ms | 1.60 ms | - | - |"
    step += " 1.40 ms (native) | 1.00 ms (native) |"
    assert step + " **1.4x** (1.1-1.9) | **1.6x** (1.2-2.1) |" in section(page, "steps")


def test_eager_that_keeps_its_memory_stands_beside_eager_where_it_was_measured():
    result = invented.result()
    assert EAGER_KEPT not in tables.latent(result) + tables.ops([result])
    for row in [r for r in result["rows"] if r["variant"] == EAGER and r["size"] == "16M"]:
        quarter = {name: row[name] / 4 for name in ("median_s", "low_s", "high_s")}
        result["rows"].append(row | {"variant": EAGER_KEPT} | quarter)
    made = tables.latent(result)
    line = "| 4096 x 4096 | float32 | 336 ms | 83.9 ms | 168 ms | 419 ms | - | 41.9 ms (native) |"
    assert line + " **8.0x** (6.0-10.7) | **2.0x** (1.5-2.7) | **4.0x** (3.0-5.3) |" in made
    assert "| 128 x 20 | float32 | 53.7 us | - | 28.1 us | 66.5 us | - | 8.90 us (native) |" in made
    assert "| 336 ms | 83.9 ms | 168 ms | 41.9 ms (native) |" in tables.ops([result])


def test_several_numbers_of_threads_stand_side_by_side(checkout):
    made = section(checkout / "docs/performance.md", "scaling")
    two = "| 4096 x 4096 | bfloat16 | 2 threads | 336 ms | 168 ms | 41.9 ms (native) | **8.0x**"
    one = "| 4096 x 4096 | bfloat16 | 1 thread | 336 ms | 168 ms | 83.9 ms (native) | **4.0x**"
    assert made.index(one) + 140 > made.index(two) > made.index(one)


def test_a_gpu_result_takes_the_place_of_the_line_that_there_is_none(checkout):
    made = section(checkout / "docs/performance.md", "targets")
    made = made.split("### GPUs: not measured")[1]
    assert pages.NO_GPU in made
    assert made.count("| - | not measured |") == 16
    measured = invented.result(device_type="cuda"), invented.steps("cuda")
    invented.write(checkout / pages.RESULTS / "gpu", *measured)
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    for page, name in zip(pages.PAGES, ("gains", "targets"), strict=True):
        made = section(checkout / page, name)
        assert pages.NO_GPU not in made
        assert "GPUs: not measured" not in made
        assert "### Invented GPU, driver 1.2" in made


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("no markers", "expected pairs"),
        ("<!-- gains: a -->\n", "expected pairs"),
        ("<!-- gains: a -->\n<!-- end of gains -->\n<!-- end of targets -->\n", "expected pairs"),
        ("<!-- prices: a -->\n<!-- end of prices -->\n", "marker 'prices': expected one of"),
    ],
)
def test_markers_that_are_wrong(page, complaint):
    with pytest.raises(ValueError, match=complaint):
        pages.rewritten(page, [], ROOT)


def test_only_what_stands_between_markers_changes():
    page = "a\n<!-- scaling: words -->\nold\n<!-- end of scaling -->\nb\n"
    new = pages.rewritten(page, [], ROOT)
    assert new.startswith("a\n<!-- scaling: words -->\n\nNo CPU was measured")
    assert new.endswith("\n\n<!-- end of scaling -->\nb\n")
    assert pages.rewritten(new, [], ROOT) == new


# --- targets --------------------------------------------------------------------------------------


def cells(result, measure, dtype="float32", work=BOTH, size="16M"):
    """What is measured, and whether that is met."""
    device, op = result["machine"]["device_type"], result["settings"]["op"]
    asked = (measure, dtype, work, op)
    [found] = [
        one for one in targets.judge(frames.cases([result]).itertuples(), device)
        if (one.target.measure, one.target.dtype, one.target.work, one.target.op) == asked
        and size in (one.target.size, "16M")
    ]  # fmt: skip
    return tables.verdict_cells(found)[-2:]


def change(result, changes, **which):
    """Sets figures in the rows that match; there must be one at least."""
    chosen = [r for r in result["rows"] if all(r[name] == value for name, value in which.items())]
    assert chosen
    for row in chosen:
        row.update(changes)


def test_a_target_is_met_or_not_and_its_spread_is_told():
    result = invented.result()
    own = {"size": "16M", "variant": "native", "work": BOTH}
    # The time of a call adds a little to both.
    assert cells(result, "vs_eager") == ["8x (6-10.7)", "**no**"]
    assert cells(result, "against_float32", "bfloat16") == ["1 (0.75-1.33)", "yes"]
    change(result, {"median_s": 0.01, "low_s": 0.01, "high_s": 0.01, "of_limit": 0.8}, **own)
    assert cells(result, "vs_eager")[1] == cells(result, "vs_compile")[1] == "yes"
    assert cells(result, "of_limit") == ["80%", "yes"]
    change(result, {"of_limit": 0.79, "high_s": 0.0125}, **own)
    assert cells(result, "of_limit") == ["79% (63.2-79)", "**no**"]
    change(result, {"status": "failed", "reason": "wrong z"}, **own)
    # Not even the specification stands for a backend that was to run.
    assert cells(result, "of_limit") == ["-", "not measured"]


def test_what_is_asked_of_an_op_stands_in_its_row(monkeypatch):
    sizes = {"1e7": (3125, 3200), "4096x1024": (4096, 1024), "128x20": (128, 20)}
    monkeypatch.setattr(invented, "SIZES", sizes)
    weight = invented.result("sample_weight", sizes=("1e7",))
    softmax = invented.result("gumbel_softmax", sizes=("128x20", "4096x1024"))
    assert cells(weight, "saved_bytes") == ["16", "yes"]
    for saved, met in ((4 * 4096 * 1024 + 16, "yes"), (8 * 4096 * 1024, "**no**")):
        change(softmax, {"saved_bytes": saved}, variant="native", size="4096x1024")
        assert cells(softmax, "saved_tensors", size="4096x1024")[1] == met
    made = tables.ops([weight, softmax]).splitlines()
    line = "| `sample_weight` | 1e7 | float32 | forward+backward | 200 ms | 100 ms |"
    line += " 25.0 ms (native) | **8.0x** (6.0-10.7) | **4.0x** (3.0-5.3) | 120,000,000 | 16 |"
    assert made[2] == line
    left = "Not measured on this machine: `gaussian_latent`, `gaussian_rsample`, `gaussian_kl`,"
    assert left in pages.target_table([weight, softmax])


def test_gpu_targets_take_the_worst_size_and_the_fastest_rival():
    result = invented.result(device_type="cuda")
    copy = {"dtype": "bfloat16", "work": "forward", "variant": "triton"}
    change(result, {"of_copy": 0.86}, **copy)
    result["rows"] += [row | {"size": "256M", "elements": 1 << 28} for row in result["rows"]
                       if row["size"] == "64M"]  # fmt: skip
    assert cells(result, "of_copy", "bfloat16", "forward")[1] == "yes"
    change(result, {"of_copy": 0.84}, size="256M", **copy)
    change(result, {"of_copy": 0.5}, size="16M", **copy)  # below the sizes that count
    assert cells(result, "of_copy", "bfloat16", "forward")[0].startswith("84%")
    assert cells(result, "vs_compile", work="forward")[0].startswith("4x")
    graphs = [row | {"variant": "torch.compile reduce-overhead", "median_s": row["median_s"] / 2}
              for row in result["rows"] if row["variant"] == "torch.compile"]  # fmt: skip
    result["rows"] += graphs
    assert cells(result, "vs_compile", work="forward")[0].startswith("2x")


def test_gpu_targets_of_host_time_and_memory():
    result = invented.result(device_type="cuda")
    assert cells(result, "host_vs_eager") == ["-", "not measured"]
    small = {"size": "128x20", "dtype": "float32", "work": BOTH}
    change(result, {"host_s": 50e-6}, variant="triton", **small)
    change(result, {"host_s": 100e-6}, variant="eager", **small)
    change(result, {"host_s": 40e-6}, variant="torch.compile", **small)
    assert cells(result, "host_vs_eager") == ["0.5", "yes"]
    assert cells(result, "host_vs_compile") == ["1.25", "**no**"]
    assert cells(result, "peak_tensors") == ["3", "yes"]
    # The same bytes are six tensors of bfloat16.
    assert cells(result, "peak_tensors", "bfloat16") == ["6", "**no**"]


# --- tables ---------------------------------------------------------------------------------------


def test_the_specification_stands_only_where_it_is_all_that_there_is():
    result = invented.result(sizes=("16M",))
    here = {"dtype": "float32", "work": BOTH}
    change(result, {"median_s": 1e-6}, variant="reference", **here)
    assert "41.9 ms (native)" in tables.latent(result)  # though the specification was faster
    change(result, {"status": "skipped", "reason": "no memory"}, variant="native", **here)
    assert "reference" not in tables.latent(result)
    result["rows"] = [row for row in result["rows"] if row["variant"] != "native"]
    assert "1.00 us (reference)" in tables.latent(result)  # nothing else is there, and it says so


def test_where_results_come_from():
    one, two = invented.result(), invented.result(OTHER)
    words = "commit 0123456789ab, 2000-01-01, a rough run (`--quick`)"
    assert tables.origin([one, two]) == f"Measured at {words}."
    two["machine"]["commit"] = "ba9876543210+"
    two["settings"]["quick"] = two["complete"] = False
    last = tables.ops([one, two]).splitlines()[-1]
    parts = (
        f"`gaussian_latent` at {words}; `gaussian_kl` at commit ba9876543210+, 2000-01-01, **not"
    )
    assert parts in last
    assert f" {words}." in tables.latent(one)
    assert tables.steps(invented.steps()).endswith(f"Measured at {words}.")
