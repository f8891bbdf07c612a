"""Pictures: they show the results' figures, each as a bar, and of what they were made."""

import shutil
import struct

import pytest

from bench import __main__ as command_line
from tests.helpers import invented
from tests.helpers.checkouts import OTHER, laid_out, pages, plots, section


@pytest.fixture
def checkout(tmp_path):
    return laid_out(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    invented.write(folder, invented.result(sizes=("128x20", "1M")), invented.steps())
    assert command_line.main(["plots", str(folder)]) == 0
    return folder


def test_pictures_are_made_and_say_where(drawn):
    for ending in ("svg", "png"):
        assert {path.stem for path in drawn.glob(f"*.{ending}")} == set(plots.PICTURES)
    for name in plots.PICTURES:
        text = (drawn / f"{name}.svg").read_text()
        assert "Invented CPU, 2 threads, AVX2" in text
        assert ">commit 0123456789ab, 2000-01-01<" in text
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (drawn / "speedup_eager.svg").read_text()
    for words in (">gaussian_latent, bfloat16, 1M<", ">8.0x<", ">Times as fast as eager PyTorch<"):
        assert words in text
    assert "128x20" not in text  # the largest size alone
    text = (drawn / "steps.svg").read_text()
    for words in (
        "1.43x, 1.40 ms",
        "mlp-vae, float32",
        "bayes-linear, float32",
        "latent 128 x 20",
        "eager PyTorch",
        "torch.compile",
        "fused_reparam",
        "fused_reparam, compiled model",
    ):
        assert f">{words}<" in text  # fmt: skip


def test_no_picture_is_taller_than_wide(drawn):
    for name in plots.PICTURES:
        width, height = png_size(drawn / f"{name}.png")
        assert width >= height
    many = [plots.Bar(f"op {i}", plots.Band(1, 1, 1), "", plots.OURS) for i in range(100)]
    width, height = plots._figure(plots.PICTURES["copy"], ["words"], many).get_size_inches()
    assert width >= height > 20


def png_size(path):
    """Width and height, which a PNG has in its first chunk."""
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_bars_have_the_figures_and_their_quartiles():
    charts = plots.charts([invented.result(), invented.result("gaussian_latent", sizes=("16M",))])
    bars = charts["speedup_eager"]
    assert [bar.label for bar in bars] == [
        "gaussian_latent, float32, 64M", "gaussian_latent, bfloat16, 64M"]  # fmt: skip
    assert bars[0].band == pytest.approx((8, 6, 10.67), rel=1e-2)
    kept = charts["memory_kept"][:3]
    assert [bar.style for bar in kept] == [plots.EAGER, plots.COMPILE, plots.OURS]
    assert [bar.band.value for bar in kept] == pytest.approx([12, 12, 16 / (1 << 26)])


def test_the_specification_is_never_in_the_colour_of_the_fused_backends():
    result = invented.result(sizes=("1M",))
    [bar, _] = plots.charts([result])["speedup_eager"]
    assert bar.style == plots.OURS
    result["rows"] = [row for row in result["rows"] if row["variant"] != "native"]
    [bar, _] = plots.charts([result])["speedup_eager"]
    assert bar.style == plots.SPECIFICATION
    own = [bar.style for bar in plots.charts([invented.steps()])["steps"]]
    assert own == [plots.EAGER, plots.COMPILE, plots.OURS, plots.OURS_COMPILED] * 2


def test_no_two_styles_are_told_apart_by_colour_alone():
    styles = (plots.EAGER, plots.COMPILE, plots.OURS, plots.OURS_COMPILED, plots.SPECIFICATION)
    for of_each in zip(*styles, strict=True):
        assert len(set(of_each)) == len(styles)


def test_pictures_of_results_that_are_gone_are_removed(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.svg").write_text("<svg/>")
    (tmp_path / "training_step.json").unlink()
    assert command_line.main(["plots", str(tmp_path)]) == 0
    left = {path.name for path in (*tmp_path.glob("*.svg"), *tmp_path.glob("*.png"))}
    made = {path.name for path in (*drawn.glob("*.svg"), *drawn.glob("*.png"))}
    assert left == {"mine.svg"} | made - {"steps.svg", "steps.png"}


def test_a_picture_of_several_commits_names_each():
    found = [invented.result(), invented.result(OTHER)]
    assert plots.commits(found) == "commit 0123456789ab, 2000-01-01"
    found[1]["machine"] |= {"commit": "ba9876543210+"}
    assert plots.commits(found).endswith(", commit ba9876543210+, 2000-01-01")


def test_the_same_results_make_the_same_files(drawn, tmp_path):
    for path in drawn.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert command_line.main(["plots", str(tmp_path)]) == 0
    for path in (*drawn.glob("*.svg"), *drawn.glob("*.png")):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_pages_show_the_pictures_there_are_and_a_stale_one_is_found(drawn, checkout, capsys):
    folder = checkout / pages.RESULTS / "two"
    check = ["pages", "--check", "--root", str(checkout)]
    shutil.copy(drawn / "copy.svg", folder)
    assert command_line.main(check) == 1
    assert "copy.svg was made from other results" in capsys.readouterr().out
    (folder / f"{OTHER}.json").unlink()
    shutil.copytree(drawn, folder, dirs_exist_ok=True)
    command_line.main(["pages", "--root", str(checkout)])
    assert command_line.main(check) == 0
    made = section(checkout / "README.md", "gains")
    assert "eager PyTorch](bench/results/two/steps.png)" in made
    made = section(checkout / "docs/performance.md", "pictures")
    assert made.count("](../bench/results/two/") == made.count("![") == 6
