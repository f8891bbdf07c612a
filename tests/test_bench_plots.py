"""Pictures: they show the results' figures, each line of them, and of what they were made."""

from __future__ import annotations

import shutil
import sys

import invented
import pytest
from checkouts import OTHER, laid_out, section

from bench import __main__ as command_line
from bench import pages, plots, rows


@pytest.fixture
def checkout(tmp_path):
    return laid_out(tmp_path)


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
