"""A user's type checker sees the types of the public API, in the wheel as it is installed."""

import inspect
import os
import site
import subprocess
import sys
import tarfile
import typing
import zipfile
from pathlib import Path

import pytest

import fused_reparam as fr
from tests.helpers.fake_builds import copied

pytest.importorskip("mypy")
RIGHT = """
import torch
import fused_reparam as fr
x = torch.zeros(4, 6)
latent = fr.FusedGaussianLatent(beta=0.5)
z, kl = latent(x, x)
loss: torch.Tensor = z.sum() + kl + fr.kl_divergence(fr.BayesianLinear(2, 3))
reveal_type(z)
reveal_type(fr.gaussian_latent(x, x))
reveal_type(fr.gaussian_latent(x, std=1.0, return_eps=True))
reveal_type(fr.gaussian_rsample(x, x, num_samples=3))
reveal_type(fr.gaussian_rsample(x, rho=x, return_eps=True))
reveal_type(fr.gaussian_latent_from_moments(x, scale="std"))
reveal_type(fr.FusedGumbelSoftmax(tau=1)(x))
reveal_type(fr.FusedTanhNormal()(x, x))
reveal_type(fr.FusedCategoricalLatent(0.5)(x))
reveal_type(fr.BayesianConv2d(3, 4, 3)(x))
reveal_type(fr.BayesianEmbedding(3, 4)(x.long()))
reveal_type(fr.BayesianLSTM(6, 4)(x)[0])
reveal_type(fr.BayesianLinear.from_linear(torch.nn.Linear(6, 4), prior_std=0.5)(x))
reveal_type(fr.gumbel_softmax(x, 0.5, hard=True))
reveal_type(fr.sample_weight(x, 0.0))
reveal_type(fr.pareto_rsample(x, 2.0))
reveal_type(fr.noise.key(3))
with fr.backend("reference"), fr.sampling(fr.bayesianize(torch.nn.Linear(2, 3))):
    pass
"""
ONE, TWO, THREE = "Tensor", "tuple[Tensor, Tensor]", "tuple[Tensor, Tensor, Tensor]"
REVEALED = [
    ONE, TWO, THREE, ONE, TWO, TWO, ONE, TWO, TWO, ONE, ONE, ONE, ONE, ONE, TWO, ONE, ONE,
]  # fmt: skip
WRONG = """
import torch
import fused_reparam as fr
x = torch.zeros(4, 6)
fr.gaussian_latent(x, sigma=x)
fr.gumbel_softmax(x, tau="1")
fr.gumbel_softmax(x, temperature=1.0)
fr.FusedGaussianLatent(20)
fr.FusedGaussianLatent(latent_dim=20)
fr.FusedTanhNormal()(x, scale="std")
y: torch.Tensor = fr.FusedCategoricalLatent()(x)
z: int = fr.gaussian_rsample(x, x)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The wheel and the source distribution, without compiled parts."""
    made = tmp_path_factory.mktemp("packages")
    source = copied(made / "source")
    code = (
        "from setuptools import build_meta; import sys; folder = sys.argv[1]; "
        "build_meta.build_wheel(folder); build_meta.build_sdist(folder)"
    )
    env = {**os.environ, "PATH": "", "CXX": "", "FUSED_REPARAM_REQUIRE_NATIVE": "0"}
    subprocess.run(
        [sys.executable, "-c", code, str(made)], cwd=source, env=env, check=True,
        capture_output=True,
    )  # fmt: skip
    (wheel,), (sdist,) = made.glob("*.whl"), made.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def check(packages, tmp_path_factory):
    """Runs a user's mypy --strict over a program, with the wheel among the installed packages."""
    home = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    asked = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    installed = Path(asked.stdout.strip())
    zipfile.ZipFile(packages[0]).extractall(installed)
    (installed / "others.pth").write_text("\n".join(site.getsitepackages()))

    def run(program):
        (home / "program.py").write_text(program)
        env = {name: v for name, v in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
        done = subprocess.run(
            [
                sys.executable, "-m", "mypy", "--strict", "--config-file=",
                "--python-executable", str(python), "program.py",
            ],
            cwd=home, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_marker_is_shipped(packages):
    wheel, sdist = packages
    assert "fused_reparam/py.typed" in zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as files:
        names = [name.partition("/")[2] for name in files.getnames()]
    assert "fused_reparam/py.typed" in names


@pytest.mark.slow
def test_programs(check):
    status, said = check(RIGHT)
    assert status == 0, said
    revealed = [line for line in said.splitlines() if "Revealed type" in line]
    types = [line.split('"')[1].replace("torch._tensor.", "") for line in revealed]
    assert types == REVEALED, said

    status, said = check(WRONG)
    assert status == 1
    lines = WRONG.splitlines()
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    # All lines but the imports and the tensor.
    assert found == set(range(5, len(lines) + 1)), said


@pytest.mark.parametrize("function", [fr.gaussian_latent, fr.gaussian_rsample,
                                      fr.gaussian_latent_from_moments])  # fmt: skip
def test_overloads_name_all_keywords(function):
    """What a type checker sees is what the function takes."""
    real = inspect.signature(function).parameters
    for overload in typing.get_overloads(function):
        seen = dict(inspect.signature(overload).parameters)
        (options,) = typing.get_args(typing.get_type_hints(overload)[seen.popitem()[0]])
        hints = typing.get_type_hints(options)
        assert {*seen, *hints} == real.keys()
