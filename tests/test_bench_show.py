"""Tables, pages and pictures: they show the results' figures, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import invented
import pytest

from bench import __main__ as command_line
from bench import markdown, outcomes, pages, plots, report, rows, targets
from bench.machine import folder_name
from bench.ops import OPS

ROOT = Path(__file__).parent.parent
OTHER = "gaussian_kl"


@pytest.fixture
def checkout(tmp_path):
    """Pages and invented results of two CPU runs, laid out as in the repository."""
    for name in pages.PAGES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        # What the committed pages still lack is no matter of these tests.
        path.write_text(pages.PLACEHOLDER.sub("", (ROOT / name).read_text()))
    results = tmp_path / pages.RESULTS
    invented.write(results / "two", invented.result(), invented.result(OTHER), invented.steps())
    invented.write(results / "one", invented.result(threads=1))
    assert command_line.main(["pages", "--root", str(tmp_path)]) == 0
    return tmp_path


def section(path, name):
    return path.read_text().split(f"<!-- {name}: ")[1].split(f"<!-- end of {name} -->")[0]


def test_the_committed_pages_are_what_the_committed_results_make(capsys):
    assert command_line.main(["pages", "--check"]) == 0, capsys.readouterr().out


def test_check_finds_a_figure_typed_by_hand(checkout, capsys):
    check = ["pages", "--check", "--root", str(checkout)]
    assert command_line.main(check) == 0
    page = checkout / "README.md"
    before = page.read_text()
    page.write_text(before.replace("**8.0x**", "**9.0x**", 1))
    assert page.read_text() != before
    assert command_line.main(check) == 1
    assert "README.md is not what the results make" in capsys.readouterr().out
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    assert page.read_text() == before


def test_check_refuses_a_place_that_was_not_filled_in(checkout, capsys):
    check = ["pages", "--check", "--root", str(checkout)]
    page = checkout / "docs" / "performance.md"
    page.write_text(page.read_text() + "\n@@LIMITS@@\n")
    capsys.readouterr()
    assert command_line.main(check) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line == f"{page}: @@LIMITS@@ stands where something is to be filled in"
    page.write_text(page.read_text().replace("@@LIMITS@@", "user@@host"))
    assert command_line.main(check) == 0


def test_readme_shows_the_machine_with_most_threads(checkout):
    made = section(checkout / "README.md", "tables")
    # 16M elements at 8, 4 and 1 ns, times 2.5 for forward and backward, and 2.5 us for the calls.
    # The quartiles are 0.9 and 1.2 medians, so ratios go from 3/4 to 4/3 of theirs.
    line = "| 4096 x 4096 | float32 | 336 ms | 168 ms | 419 ms | - | 41.9 ms (native) |"
    line += " **8.0x** (6.0-10.7) | **4.0x** (3.0-5.3) | 40% | 201,326,592 | 16 |"
    assert line + " 640 MiB | 192 MiB |" in made
    assert made.count("### Invented CPU, 2 threads, AVX2") == 1
    assert "1 thread," not in made
    # The largest size alone; its time is 8, 4 and 1 ns of each element.
    kl = "| `gaussian_kl` | 64M | bfloat16 | forward+backward | 1.34 s | 671 ms | 168 ms (native) |"
    assert kl + " **8.0x** (6.0-10.7) | **4.0x** (3.0-5.3) |  |  |" in made
    assert "| `gaussian_kl` | 1M |" not in made
    every = section(checkout / "docs/performance.md", "ops")
    assert kl in every
    assert every.count("| `gaussian_kl` | 1M |") == 2
    step = "| mlp-vae | 128 x 20 | float32 | 2.00 ms | 1.60 ms | - | - |"
    step += " 1.40 ms (native) | 1.00 ms (native) |"
    assert step + " **1.4x** (1.1-1.9) | **1.6x** (1.2-2.1) |" in made
    assert pages.NO_GPU in made


def test_targets_of_gpus_are_named_as_not_measured(checkout):
    made = section(checkout / "docs/performance.md", "targets")
    made = made.split("### GPUs: not measured")[1]
    assert pages.NO_GPU in made
    assert "`make gpu-report`" in made
    assert made.count("| - | not measured |") == 18
    assert made.count("| shown by GPU tests |  | not run |") == len(targets.TESTED)


def test_scaling_compares_runs_of_one_cpu(checkout):
    made = section(checkout / "docs/performance.md", "scaling")
    line = "| 16M | bfloat16 | 83.9 ms (native) | 41.9 ms (native) |"
    assert line + " **2.0x** (1.5-2.7) | **1.0x** (0.8-1.3) |" in made


def test_a_gpu_result_takes_the_place_of_the_line_that_there_is_none(checkout):
    folder = checkout / pages.RESULTS / "gpu"
    invented.write(folder, invented.result(device_type="cuda"))
    shown = {"replays of a CUDA graph draw new noise": True}
    (folder / rows.TESTS_FILE).write_text(json.dumps({"shown": shown}))
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    for page, name in zip(pages.PAGES, ("tables", "targets"), strict=True):
        made = section(checkout / page, name)
        assert pages.NO_GPU not in made
        assert "GPUs: not measured" not in made
        assert "### Invented GPU, driver 1.2" in made
    ending = "|  |  | shown by GPU tests |  |"
    assert f"|  | replays of a CUDA graph draw new noise {ending} yes |" in made
    assert f"|  | no synchronisation with the device {ending} not run |" in made


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("no markers", "expected pairs"),
        ("<!-- tables: a -->\n", "expected pairs"),
        ("<!-- tables: a -->\n<!-- end of tables -->\n<!-- end of targets -->\n", "expected pairs"),
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


def verdict(results, device, dtype, work, measure, op="gaussian_latent", size=None):
    [found] = [
        one
        for one in targets.judge(results, device)
        if (one.target.dtype, one.target.work, one.target.measure) == (dtype, work, measure)
        and one.target.op == op
        and size in (None, one.target.size)
    ]
    return found


def change(result, changes, **which):
    """Sets figures in the rows that match; there must be one at least."""
    chosen = [r for r in result["rows"] if all(r[name] == value for name, value in which.items())]
    assert chosen
    for row in chosen:
        row.update(changes)


def test_cpu_targets():
    result = invented.result()
    eager = verdict([result], "cpu", "float32", rows.BOTH, "vs_eager")
    # The time of a call adds a little to both.
    assert (eager.size, eager.value, eager.met) == ("16M", pytest.approx(8, rel=1e-3), False)
    compiled = verdict([result], "cpu", "float32", rows.BOTH, "vs_compile")
    assert (compiled.value, compiled.met) == (pytest.approx(4, rel=1e-3), False)
    half = verdict([result], "cpu", "bfloat16", rows.BOTH, "against_float32")
    assert (half.value, half.met) == (1.0, True)
    own = {"size": "16M", "variant": "native", "work": rows.BOTH}
    change(result, {"median_s": 0.02, "of_limit": 0.7}, **own)
    change(result, {"median_s": 0.021}, dtype="bfloat16", **own)
    assert verdict([result], "cpu", "float32", rows.BOTH, "vs_eager").met
    assert verdict([result], "cpu", "float32", rows.BOTH, "vs_compile").met
    limits = [verdict([result], "cpu", "float32", w, "of_limit") for w in ("forward", rows.BOTH)]
    assert [limit.met for limit in limits] == [True, True]
    assert not verdict([result], "cpu", "bfloat16", rows.BOTH, "against_float32").met
    change(result, {"of_limit": 0.69}, **own)
    assert not verdict([result], "cpu", "float32", rows.BOTH, "of_limit").met


def test_a_target_is_met_within_the_spread_or_beyond_it():
    result = invented.result()
    own = {"size": "16M", "variant": "native", "work": rows.BOTH, "dtype": "float32"}

    def word(seconds, eager):
        names = ("median_s", "low_s", "high_s")
        change(result, dict(zip(names, seconds, strict=True)), **own)
        change(result, dict(zip(names, eager, strict=True)), **own | {"variant": "eager"})
        cells = markdown.verdict_cells(verdict([result], "cpu", "float32", rows.BOTH, "vs_eager"))
        return cells[-2:]

    # At least 8 times.
    assert word((1, 1, 1), (8.5, 8.1, 9)) == ["8.5x (8.1-9)", "yes"]
    assert word((1, 1, 1), (8.5, 7.9, 9)) == ["8.5x (7.9-9)", "yes (within spread)"]
    assert word((1, 0.9, 1.1), (8.5, 8.5, 8.5)) == ["8.5x (7.73-9.44)", "yes (within spread)"]
    assert word((1, 1, 1), (7, 6, 7.9)) == ["7x (6-7.9)", "**no**"]
    assert word((1, 1, 1), (7, 6, 8)) == ["7x (6-8)", "**no** (within spread)"]
    # What is counted has no spread; a share of the limit has that of our time.
    change(result, {"of_limit": 0.71, "low_s": 0.5, "high_s": 1.0}, **own)
    limit = verdict([result], "cpu", "float32", rows.BOTH, "of_limit")
    assert markdown.verdict_cells(limit)[-2:] == ["71% (71-142)", "yes"]
    change(result, {"high_s": 1.1}, **own)
    limit = verdict([result], "cpu", "float32", rows.BOTH, "of_limit")
    assert markdown.verdict_cells(limit)[-2:] == ["71% (64.5-142)", "yes (within spread)"]


def test_of_several_sizes_each_has_its_spread():
    result = invented.result(device_type="cuda")
    big = [row | {"size": "256M", "elements": 1 << 28} for row in result["rows"]
           if row["size"] == "64M"]  # fmt: skip
    result["rows"] += big

    def judged(*sizes):
        for size, (share, low, high) in zip(("64M", "256M"), sizes, strict=True):
            copy = {"of_copy": share, "median_s": 1.0, "low_s": share / high, "high_s": share / low}
            change(result, copy, size=size, dtype="float32", work="forward", variant="triton")
        found = verdict([result], "cuda", "float32", "forward", "of_copy")
        return found.size, found.met, found.within_spread

    # At least 90%.
    assert judged((0.92, 0.91, 0.93), (0.94, 0.93, 0.95)) == ("64M", True, False)
    assert judged((0.92, 0.91, 0.93), (0.94, 0.88, 0.95)) == ("64M", True, True)
    assert judged((0.92, 0.85, 0.93), (0.8, 0.75, 0.95)) == ("256M", False, True)
    assert judged((0.89, 0.88, 0.895), (0.8, 0.75, 0.95)) == ("256M", False, False)


def test_the_specification_never_stands_for_a_backend_that_was_to_run():
    result = invented.result()
    here = {"size": "16M", "dtype": "float32", "work": rows.BOTH}
    own = {"variant": "native"} | here
    own_row = next(r for r in result["rows"] if all(r[k] == v for k, v in own.items()))

    def shown(variants):
        return next(
            line for line in markdown.table(variants).splitlines() if "4096 x 4096 | fl" in line
        )

    assert "41.9 ms (native)" in shown(result)
    change(result, {"median_s": 1e-6}, **here | {"variant": "reference"})
    assert "41.9 ms (native)" in shown(result)  # though the specification was faster
    for status in ("skipped", "failed"):
        change(result, {"status": status, "reason": "no memory"}, **own)
        assert "reference" not in shown(result)
        assert verdict([result], "cpu", "float32", rows.BOTH, "vs_eager").met is None
    result["rows"].remove(own_row)
    assert "1.00 us (reference)" in shown(result)  # nothing else is there, and it says so


def test_a_compiled_model_with_the_specification_stands_for_none():
    result = invented.steps()
    change(result, {"status": "failed", "reason": "wrong"}, variant="native, compiled model")
    [step] = [r for r in result["rows"] if (r["size"], r["variant"]) == ("mlp-vae", "native")]
    for name in ("reference", "reference, compiled model"):
        result["rows"].append(step | {"variant": name, "median_s": 1e-6})
    line = next(line for line in markdown.steps(result).splitlines() if "mlp-vae" in line)
    assert "| 1.40 ms (native) | - | **1.4x** (1.1-1.9) | - |" in line


def test_torch_distributions_are_shown_with_and_without_checks():
    latent, steps = invented.result(), invented.steps()
    for result, seconds in ((latent, 1.0), (steps, 3.0)):
        rows_of_eager = [row for row in result["rows"] if row["variant"] == "eager"]
        for row in rows_of_eager:
            changed = {"variant": "distributions unchecked", "median_s": seconds}
            result["rows"] += [row | changed]
    result["rows"] += [row | {"variant": "distributions", "median_s": 2.0} for row in rows_of_eager]
    made = markdown.table(latent).splitlines()
    assert made[0].startswith("| latent | dtype | eager | torch.compile | torch.distributions | un")
    assert made[2].startswith("| 128 x 20 | float32 | 53.7 us | 28.1 us | 66.5 us | 1.00 s |")
    made = markdown.steps(steps).splitlines()[2]
    assert made.startswith("| mlp-vae | 128 x 20 | float32 | 2.00 ms | 1.60 ms | 2.00 s | 3.00 s |")


def test_where_results_come_from():
    one, two = invented.result(), invented.result(OTHER)
    words = "commit 0123456789ab, 2000-01-01, a rough run (`--quick`)"
    assert markdown.origin([one, two]) == f"Measured at {words}."
    two["machine"]["commit"] = "ba9876543210+"
    two["settings"]["quick"] = False
    assert (
        markdown.ops([one, two], short=True)
        .splitlines()[-1]
        .endswith(
            f"`gaussian_latent` at {words}; `gaussian_kl` at commit ba9876543210+, 2000-01-01."
        )
    )
    assert f" {words}." in markdown.table(one)
    assert markdown.steps(invented.steps()).endswith(f"Measured at {words}.")


def test_check_names_a_folder_with_results_of_several_commits(checkout, capsys):
    check = ["pages", "--check", "--root", str(checkout)]
    folder = checkout / pages.RESULTS / "two"
    other = invented.result(OTHER)
    other["machine"]["commit"] = "ba9876543210+"
    invented.write(folder, other)
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    capsys.readouterr()
    assert command_line.main(check) == 0
    note = f"note: {folder} has results of 2 commits: 0123456789ab, ba9876543210+"
    assert capsys.readouterr().out.splitlines() == [note]


def test_limits_of_each_op_and_dtype():
    kl = invented.result(OTHER)
    change(kl, {"noise_s": 0.0}, op=OTHER)
    latent = invented.result()
    change(latent, {"noise_s": 0.25 * 8192**2 * 1e-9, "of_limit": 0.5}, size="64M")
    made = markdown.limits([latent, kl, invented.steps()]).splitlines()[2:]
    # At 64M; 1 ns is what a copy takes for an element, ours 2.5.
    line = "64M | float32 | forward+backward | 32 | 1 | 0.25 | 2.5 | 50% |"
    assert made[0] == f"| `gaussian_latent` | {line}"
    assert [row.split(" | ")[2] for row in made] == ["float32", "bfloat16"] * 2
    assert made[2].split(" | ")[5:7] == ["1", "0"]
    # On a GPU the noise is not timed by itself, whatever the rows hold.
    gpu = invented.result(device_type="cuda")
    change(gpu, {"noise_s": 1.0}, size="64M")
    assert markdown.limits([gpu]).splitlines()[2].endswith("| 32 | 1 | - | 2.5 | - |")


def test_bytes_and_noise_of_each_op():
    made = markdown.bytes_and_noise(OPS.values()).splitlines()[2:]
    assert len(made) == len(OPS)
    assert "| `gaussian_latent` | normal | 12 | 6 | 20 | 10 | 1 | 1 |" in made
    assert "| `gaussian_kl` |  | 8 | 4 | 16 | 8 | 0 | 0 |" in made
    assert "| `normal` | normal | 4 | 2 | - | - | 1 | - |" in made
    assert "| `loc_scale_student_t` | student t | 12 | 6 | 12 | 6 | 1 | 1 |" in made


@pytest.mark.parametrize(("device_type", "share"), [("cpu", True), ("cuda", False)])
def test_the_share_of_the_limit_is_shown_where_both_limits_are_known(device_type, share, capsys):
    result = invented.result(device_type=device_type, sizes=("1M",))
    report.print_result(result, use_rich=False)
    table, legend = capsys.readouterr().out.split("\ntime ", 1)
    assert ("of limit" in table) == share
    assert "of limit     against the larger of" in legend
    assert "blank where that is not timed: on a GPU" in legend


def test_all_named_tests_must_have_passed(tmp_path):
    def shown(**outcome):
        path = tmp_path / "outcomes"
        lines = [{"name": f"tests/a.py::{name}", "outcome": outcome[name], "reason": ""}
                 for name in outcome]  # fmt: skip
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return list(outcomes.summary(path, targets.TESTED)["shown"].values())

    graphs = {"test_a_graphs_replays_draw_new_noise": "passed", "test_in_a_cuda_graph": "passed"}
    waits = dict.fromkeys(("test_no_synchronisation", "test_no_synchronisation_and_two_kernels"),
                          "passed")  # fmt: skip
    assert shown(**graphs, **waits) == [True, True]
    for group, place in ((graphs, 0), (waits, 1)):
        for name in group:
            left = {one: "passed" for one in graphs | waits if one != name}
            assert shown(**left)[place] is None
            assert shown(**left, **{name: "skipped"})[place] is None
            assert shown(**left, **{name: "failed"})[place] is False
            assert shown(**left)[1 - place] is True


@pytest.fixture
def families():
    """Results of two ops at the sizes that something is asked of, each element 1 ns."""
    sizes = {"1e7": (3125, 3200), "4096x1024": (4096, 1024), "128x20": (128, 20)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invented, "SIZES", sizes)
        yield [
            invented.result("sample_weight", sizes=("1e7",)),
            invented.result("gumbel_softmax", sizes=("128x20", "4096x1024")),
        ]


def test_targets_of_the_families(families):
    weight, softmax = families
    asked = {"device": "cpu", "dtype": "float32", "work": rows.BOTH}
    eager = verdict(families, **asked, measure="vs_eager", op="sample_weight")
    assert (eager.size, eager.value, eager.met) == ("1e7", pytest.approx(8, rel=1e-3), False)
    change(weight, {"median_s": 1e-3}, variant="native", work=rows.BOTH)
    assert verdict(families, **asked, measure="vs_eager", op="sample_weight").met
    assert verdict(families, **asked, measure="saved_bytes", op="sample_weight").met
    change(weight, {"saved_bytes": 17}, variant="native")
    assert not verdict(families, **asked, measure="saved_bytes", op="sample_weight").met

    compiled = {"measure": "vs_compile", "op": "gumbel_softmax"}
    assert verdict(families, **asked, **compiled, size="4096x1024").met  # 4 times, asked for 2
    assert verdict(families, **asked, **compiled, size="4x8192x16x16").met is None
    kept = {"measure": "saved_tensors", "op": "gumbel_softmax", "size": "4096x1024"}
    change(softmax, {"saved_bytes": 4 * 4096 * 1024 + 16}, variant="native", size="4096x1024")
    assert verdict(families, **asked, **kept).met
    change(softmax, {"saved_bytes": 8 * 4096 * 1024}, variant="native", size="4096x1024")
    assert not verdict(families, **asked, **kept).met


def test_tables_of_the_families(families):
    made = markdown.ops(families, short=True).splitlines()
    ratios = "**8.0x** (6.0-10.7) | **4.0x** (3.0-5.3)"
    weight = "| `sample_weight` | 1e7 | float32 | forward+backward | 200 ms | 100 ms |"
    weight += f" 25.0 ms (native) | {ratios} | 10x / 8x | **no** (within spread) / **no** |"
    assert made[2] == f"{weight} 120,000,000 | 16 |"
    softmax = "| `gumbel_softmax` | 4096x1024 | float32 | forward+backward | 83.9 ms | 41.9 ms |"
    softmax += f" 10.5 ms (native) | {ratios} | 6x / 2x | yes (within spread) / yes |"
    softmax += " 50,331,648 | 16 |"
    assert softmax in made
    assert not any("128x20" in line for line in made)
    assert len(markdown.ops(families, short=False).splitlines()) == len(made) + 2
    table = pages.target_table(families, {})
    left = "Not measured on this machine: `gaussian_latent`, `tanh_normal_rsample`,"
    assert left + " `gaussian_latent_samples`," in table
    assert table.count("`gumbel_softmax`") == 6
    assert "| at most 16 | 16 | yes |" in table


def test_gpu_targets_take_the_worst_size_and_the_fastest_rival():
    result = invented.result(device_type="cuda")
    copy = {"dtype": "bfloat16", "work": "forward", "variant": "triton"}
    change(result, {"of_copy": 0.86}, **copy)
    big = [row | {"size": "256M", "elements": 1 << 28} for row in result["rows"]
           if row["size"] == "64M"]  # fmt: skip
    result["rows"] += big
    assert verdict([result], "cuda", "bfloat16", "forward", "of_copy").met
    change(result, {"of_copy": 0.84}, size="256M", **copy)
    worst = verdict([result], "cuda", "bfloat16", "forward", "of_copy")
    assert (worst.size, worst.value, worst.met) == ("256M", 0.84, False)
    change(result, {"of_copy": 0.5}, size="16M", **copy)  # below the sizes that count
    assert verdict([result], "cuda", "bfloat16", "forward", "of_copy").value == 0.84

    assert verdict([result], "cuda", "float32", "forward", "vs_compile").value > 3.9
    graphs = [row | {"variant": "torch.compile reduce-overhead", "median_s": row["median_s"] / 2}
              for row in result["rows"] if row["variant"] == "torch.compile"]  # fmt: skip
    result["rows"] += graphs
    assert verdict([result], "cuda", "float32", "forward", "vs_compile").value < 2.1


def test_gpu_targets_of_host_time_graphs_and_memory():
    result = invented.result(device_type="cuda")
    assert verdict([result], "cuda", "float32", rows.BOTH, "host_vs_eager").met is None
    small = {"size": "128x20", "dtype": "float32", "work": rows.BOTH}
    change(result, {"host_s": 50e-6, "graph_kernels": 2}, variant="triton", **small)
    change(result, {"host_s": 100e-6}, variant="eager", **small)
    change(result, {"host_s": 40e-6}, variant="torch.compile", **small)
    host = verdict([result], "cuda", "float32", rows.BOTH, "host_vs_eager")
    assert (host.value, host.met) == (0.5, True)
    host = verdict([result], "cuda", "float32", rows.BOTH, "host_vs_compile")
    assert (host.value, host.met) == (1.25, False)
    assert verdict([result], "cuda", "float32", rows.BOTH, "graph_kernels").met
    change(result, {"graph_kernels": 3}, variant="triton", **small)
    assert not verdict([result], "cuda", "float32", rows.BOTH, "graph_kernels").met
    memory = verdict([result], "cuda", "float32", rows.BOTH, "peak_tensors")
    assert (memory.size, memory.value, memory.met) == ("64M", 3.0, True)
    # The same bytes are six tensors of bfloat16.
    memory = verdict([result], "cuda", "bfloat16", rows.BOTH, "peak_tensors")
    assert (memory.value, memory.met) == (6.0, False)


def test_every_target_of_a_gpu_has_a_line():
    made = markdown.verdicts(targets.judge([], "cuda")).splitlines()[2:]
    assert len(made) == 18
    assert all(line.endswith("| - | not measured |") for line in made)
    latent = "| `gaussian_latent` |"
    first = f"{latent} forward: share of copy bandwidth | 64M and more | float32 | at least 90% |"
    assert made[0] == f"{first} - | not measured |"
    last = f"{latent} forward+backward: kernels in a CUDA graph | 128x20 | bfloat16 |"
    assert made[-1].startswith(last)


def test_share_of_copy_speed_is_shown_where_bytes_decide_and_a_copy_was_timed():
    result = invented.result()

    def shares():
        lines = [line.split(" | ") for line in markdown.table(result).splitlines()[2:10]]
        return {(line[0], line[1]): line[9] for line in lines}

    assert shares()["| 1024 x 1024", "float32"] == "40%"
    assert shares()["| 128 x 20", "float32"] == "-"
    change(result, {"of_copy": None, "copy_s": None}, size="1M", dtype="float32")
    assert shares()["| 1024 x 1024", "float32"] == "-"
    assert shares()["| 1024 x 1024", "bfloat16"] == "40%"


def test_failed_and_skipped_rows_are_shown_as_not_measured():
    result = invented.result()
    for row in result["rows"]:
        if row["variant"] in ("eager", "native", "reference"):
            for name in ("median_s", "low_s", "high_s", "of_copy", "saved_bytes", "peak_bytes"):
                del row[name]
            row |= {"status": "skipped", "reason": "needs 9 bytes, 8 are free"}
    line = markdown.table(result).splitlines()[2]
    times = "| 128 x 20 | float32 | - | 28.1 us | 66.5 us | - |"
    assert line.startswith(f"{times} - | - | - | - | - | - |")
    assert verdict([result], "cpu", "float32", rows.BOTH, "vs_eager").met is None


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("drawn")
    skipped = invented.result(sizes=("128x20", "1M"))
    skipped["rows"][-1] = {
        name: skipped["rows"][-1][name]
        for name in ("op", "size", "shape", "elements", "dtype", "work", "variant", "ours")
    } | {"status": "skipped", "reason": "no memory"}
    invented.write(folder, skipped, invented.steps())
    assert command_line.main(["plots", str(folder)]) == 0
    return folder


def test_pictures_are_made_and_say_where(drawn):
    names = ["copy", "memory_kept", "memory_peak", "speedup_compile", "speedup_eager", "steps"]
    assert sorted(path.stem for path in drawn.glob("*.svg")) == names
    assert sorted(path.stem for path in drawn.glob("*.png")) == names
    assert set(names) == set(pages.PICTURES)
    for name in names:
        text = (drawn / f"{name}.svg").read_text()
        assert "Invented CPU, 2 threads, AVX2" in text
        assert ">python 3.12.0, torch 2.11.0<" in text
        assert ">commit 0123456789ab, 2000-01-01<" in text
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (drawn / "speedup_eager.svg").read_text()
    for words in ("gaussian_latent", "forward+backward, bfloat16", "128x20", "8x"):
        assert f">{words}<" in text
    text = (drawn / "steps.svg").read_text().replace("\u00a0", " ")
    for words in ("  1.40 ms, 1.43x", "  300 ms, 1.00x", "mlp-vae, float32", "latent 128 x 20"):
        assert f">{words}<" in text


@pytest.fixture
def panel():
    """The panels of a picture, by the op, as matplotlib has them."""
    pytest.importorskip("matplotlib")

    def drawn(figure, *words):
        return {axes.get_title(): axes for axes in figure(*words).axes}

    return drawn


def marks(axes):
    """Where targets stand: elements, bound and colour."""
    lines = [line for line in axes.lines if line.get_marker() == "_" and len(line.get_xdata())]
    return {(*line.get_xdata(), *line.get_ydata(), line.get_color()) for line in lines}


def test_a_target_stands_at_its_size_in_the_colour_of_its_work(panel):
    result = invented.result()
    axes = panel(plots._speedup, [result], "eager", "eager")["gaussian_latent"]
    assert marks(axes) == {(4096**2, 8, plots.GREEN)}
    gpu = invented.result(device_type="cuda", sizes=("1M", "64M"))
    axes = panel(plots._copy, [gpu])["gaussian_latent"]
    size = 8192**2
    assert marks(axes) == {
        (size, 0.9, plots.BLUE), (size, 0.85, plots.BLUE),
        (size, 0.9, plots.ORANGE), (size, 0.88, plots.ORANGE),
    }  # fmt: skip
    small = invented.result(sizes=("1M",))
    assert marks(panel(plots._speedup, [small], "eager", "eager")["gaussian_latent"]) == set()


def test_only_the_lowest_panels_name_their_axis(panel):
    names = ["gaussian_latent", "normal", OTHER]
    axes = panel(plots._copy, [invented.result(name, sizes=("1M",)) for name in names])
    words = [axes[name].get_xlabel() for name in names]
    assert words == ["", "elements of the latent", "elements of the latent"]


def test_memory_lines_that_coincide_can_all_be_seen(panel):
    result = invented.result(sizes=("1M",))
    for row in result["rows"]:
        row["peak_bytes"] = row["elements"]
    axes = panel(plots._memory, [result], "peak_bytes", "peak")["gaussian_latent"]
    lines = axes.get_lines()
    assert len(lines) == 6
    wide = [line.get_linewidth() for line in lines]
    assert wide == sorted(wide, reverse=True)
    looks = {(line.get_marker(), line.get_markersize()) for line in lines}
    assert len(looks) == 6  # of who and dtype, where there is one size and no line
    hollow = {line.get_label() for line in lines if line.get_markerfacecolor() == "none"}
    assert hollow == {"fused, float32", "fused, bfloat16"}


def test_an_op_that_keeps_nothing_has_no_panel_of_it(tmp_path):
    pytest.importorskip("matplotlib")
    nothing = invented.result(OTHER, sizes=("1M",))
    for row in nothing["rows"]:
        row["saved_bytes"] = 0
    invented.write(tmp_path, invented.result(sizes=("1M",)), nothing)
    assert command_line.main(["plots", str(tmp_path)]) == 0
    titles = [f">{OTHER}<" in (tmp_path / f"memory_{name}.svg").read_text()
              for name in ("kept", "peak")]  # fmt: skip
    assert titles == [False, True]


def test_pictures_of_results_that_are_gone_are_removed(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.svg").write_text("<svg/>")
    (tmp_path / "training_step.json").unlink()
    assert command_line.main(["plots", str(tmp_path)]) == 0
    left = {path.name for path in (*tmp_path.glob("*.svg"), *tmp_path.glob("*.png"))}
    assert left == {"mine.svg"} | {
        path.name for path in (*drawn.glob("*.svg"), *drawn.glob("*.png")) if path.stem != "steps"
    }


def test_a_picture_of_several_commits_names_each():
    results = [invented.result(), invented.result(OTHER)]
    results[1]["machine"] |= {"commit": "ba9876543210+", "time": "2000-01-02T00:00:00+00:00"}
    words = "commits 0123456789ab, ba9876543210+, 2000-01-01, 2000-01-02"
    assert rows.commit_words(results) == words
    results += [invented.result(str(index)) for index in range(rows.MOST_COMMITS)]
    for index, result in enumerate(results):
        result["machine"]["commit"] = str(index)
    assert rows.commit_words(results) == "several commits, 2000-01-01, 2000-01-02"


def test_one_thread_is_no_threads():
    assert rows.machine_words(invented.machine(threads=1)).startswith(
        "Invented CPU, 1 thread, AVX2;"
    )
    # Folders keep their names.
    assert folder_name(invented.machine(threads=1)) == "invented-1-threads"


def test_the_same_results_make_the_same_files(drawn, tmp_path):
    for path in drawn.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert command_line.main(["plots", str(tmp_path)]) == 0
    for path in (*drawn.glob("*.svg"), *drawn.glob("*.png")):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_a_picture_of_other_results_is_found(drawn, checkout, capsys):
    folder = checkout / pages.RESULTS / "two"
    check = ["pages", "--check", "--root", str(checkout)]
    shutil.copy(drawn / "copy.svg", folder)
    assert command_line.main(check) == 1
    assert "copy.svg was made from other results" in capsys.readouterr().out
    for path in drawn.glob("*.json"):
        shutil.copy(path, folder)
    (folder / f"{OTHER}.json").unlink()
    command_line.main(["pages", "--root", str(checkout)])
    assert command_line.main(check) == 0


def test_pages_show_the_pictures_there_are(drawn, checkout):
    shutil.copytree(drawn, checkout / pages.RESULTS / "two", dirs_exist_ok=True)
    command_line.main(["pages", "--root", str(checkout)])
    made = section(checkout / "README.md", "tables")
    assert "](bench/results/two/speedup_eager.png)" in made
    assert "[training steps](bench/results/two/steps.png)" in made
    made = section(checkout / "docs/performance.md", "pictures")
    assert made.count("](../bench/results/two/") == made.count("![") == 6


def test_without_matplotlib_one_line_says_so(checkout, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    capsys.readouterr()
    assert command_line.main(["plots", str(checkout / pages.RESULTS / "two")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("no plots: matplotlib can't be imported here")
    # Pages need none.
    assert command_line.main(["pages", "--check", "--root", str(checkout)]) == 0


def test_plots_of_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command_line.main(["plots", str(tmp_path / "absent")])
    assert "absent: No such file or directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        command_line.main(["plots", str(tmp_path)])
    assert end.value.code == 2
    line = f"python -m bench plots: no result of python -m bench in {tmp_path}\n"
    assert capsys.readouterr().err == line
