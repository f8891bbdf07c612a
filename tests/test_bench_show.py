"""Tables, pages and pictures: they show the results' figures, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import invented
import pytest

from bench import __main__ as command_line
from bench import markdown, pages, rows, targets

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
    line = "| 4096 x 4096 | float32 | 336 ms | 168 ms | 419 ms | 41.9 ms (native) | **8.0x** |"
    assert line + " **4.0x** | 40% | 201,326,592 | 16 | 640 MiB | 192 MiB |" in made
    assert made.count("### Invented CPU, 2 threads, AVX2") == 1
    assert "1 threads" not in made
    # The largest size alone; its time is 8, 4 and 1 ns of each element.
    kl = "| `gaussian_kl` | 64M | bfloat16 | forward+backward | 1.34 s | 671 ms | 168 ms |"
    assert kl + " **8.0x** | **4.0x** |  |  |" in made
    assert "| `gaussian_kl` | 1M |" not in made
    every = section(checkout / "docs/performance.md", "ops")
    assert kl in every
    assert every.count("| `gaussian_kl` | 1M |") == 2
    step = "| mlp-vae | 128 x 20 | float32 | 2.00 ms | 1.60 ms | 1.40 ms | 1.00 ms |"
    assert step + " **1.4x** | **1.6x** |" in made
    assert pages.NO_GPU in made


def test_scaling_compares_runs_of_one_cpu(checkout):
    made = section(checkout / "docs/performance.md", "scaling")
    line = "| 16M | bfloat16 | 83.9 ms | 41.9 ms | **2.0x** | **1.0x** |"
    assert line in made


def test_a_gpu_result_takes_the_place_of_the_line_that_there_is_none(checkout):
    folder = checkout / pages.RESULTS / "gpu"
    invented.write(folder, invented.result(device_type="cuda"))
    shown = {"replays of a CUDA graph draw new noise": True}
    (folder / rows.TESTS_FILE).write_text(json.dumps({"shown": shown}))
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    for page, name in zip(pages.PAGES, ("tables", "targets"), strict=True):
        made = section(checkout / page, name)
        assert pages.NO_GPU not in made
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
    change(result, {"ns_per_element": 3.0}, dtype="bfloat16", **own)
    assert verdict([result], "cpu", "float32", rows.BOTH, "vs_eager").met
    assert verdict([result], "cpu", "float32", rows.BOTH, "vs_compile").met
    limits = [verdict([result], "cpu", "float32", w, "of_limit") for w in ("forward", rows.BOTH)]
    assert [limit.met for limit in limits] == [True, True]
    assert not verdict([result], "cpu", "bfloat16", rows.BOTH, "against_float32").met
    change(result, {"of_limit": 0.69}, **own)
    assert not verdict([result], "cpu", "float32", rows.BOTH, "of_limit").met


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
    weight = "| `sample_weight` | 1e7 | float32 | forward+backward | 200 ms | 100 ms | 25.0 ms |"
    weight += " **8.0x** | **4.0x** | 10x / 8x | **no** / **no** | 120,000,000 | 16 |"
    assert made[2] == weight
    softmax = "| `gumbel_softmax` | 4096x1024 | float32 | forward+backward | 83.9 ms | 41.9 ms |"
    softmax += " 10.5 ms | **8.0x** | **4.0x** | 6x / 2x | yes / yes | 50,331,648 | 16 |"
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
        return {(line[0], line[1]): line[8] for line in lines}

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
    assert line.startswith("| 128 x 20 | float32 | - | 28.1 us | 66.5 us | - | - | - | - | - | - |")
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
        assert "torch 2.11.0; commit 0123456789ab" in text
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (drawn / "speedup_eager.svg").read_text()
    for words in ("gaussian_latent", "forward+backward, bfloat16", "128x20", "8x", "target"):
        assert f">{words}<" in text
    assert ">1.43x<" in (drawn / "steps.svg").read_text().replace("1.4 ms, ", ">")


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
    assert "does not exist" in capsys.readouterr().err
