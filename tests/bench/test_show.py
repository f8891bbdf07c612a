"""Tables, pages and pictures: they show the results' figures, and nothing else."""

from __future__ import annotations

import json

import pytest

from bench import __main__ as command_line
from bench import compare, results, targets
from tests.helpers import invented
from tests.helpers.checkouts import ROOT, laid_out, pages, section


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
    page.write_text(before.replace("**8.0x**", "**9.0x**", 1))
    assert page.read_text() != before
    assert command_line.main(check) == 1
    assert "README.md is not what the results make" in capsys.readouterr().out
    assert command_line.main(["pages", "--root", str(checkout)]) == 0
    assert page.read_text() == before


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
    (folder / results.TESTS_FILE).write_text(json.dumps({"shown": shown}))
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


def test_compare_shows_what_a_gpus_targets_need(capsys):
    before, after = (invented.result(device_type="cuda", sizes=("128x20",)) for _ in range(2))
    old, new = (
        next(row for row in result["rows"] if row["variant"] == "triton")
        for result in (before, after)
    )
    old |= {"host_s": 40e-6, "graph_s": 5e-6, "graph_kernels": 2, "of_copy": 0.9}
    new |= {"host_s": 30e-6, "graph_s": 6e-6, "graph_kernels": 3, "of_copy": 0.8}
    after["settings"]["quick"], after["machine"]["keeps_freed_memory"] = False, True
    compare.print_comparison(before, after, wide=True)
    said = capsys.readouterr().out
    assert "freed memory: given back -> kept\neffort: quick -> thorough\n" in said
    [line] = [line for line in said.splitlines() if "MORE KERNELS" in line]
    for change in ("2 -> 3", "40.0 us -> 30.0 us", "5.00 us -> 6.00 us", "90% -> 80%"):
        assert change in line
    compare.print_comparison(before, before)
    assert "of copy" not in capsys.readouterr().out  # of nothing that did not change
