"""Which suites there are, where their sources are, and how one is run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

PLUGIN = Path(__file__).parent / "plugin"
# Tests that are ours, for packages whose own have none of what an integration replaces.
WRITTEN = Path(__file__).parent / "written"


class Known(NamedTuple):
    """A test that is known to fail only when patched."""

    error: str
    """Words of its error: with another it is not known."""
    why: str


class Suite(NamedTuple):
    """Tests of another package."""

    name: str
    """The package's, and after a comma what else tells its suites apart."""
    repository: str
    tag: str
    tests: str
    """The files, and pytest's options."""
    consumer: str
    """The integration that is put in place, with rng="torch": some suites replay the noise."""
    folder: str = "."
    """Where in the sources pytest runs: beside the package, where tests import it there."""
    path: str = ""
    """Where in the sources the package is, for tests of another version than is installed."""
    variables: dict[str, str] = {}  # noqa: RUF012  # of the environment
    known: dict[str, Known] = {}  # noqa: RUF012
    """By the names of tests that fail only when patched."""

    @property
    def package(self) -> str:
        return self.name.split(",")[0]


SUITES = (
    Suite(
        "torch", "https://github.com/pytorch/pytorch", "v2.13.0",
        "distributions/test_distributions.py distributions/test_constraints.py "
        "distributions/test_transforms.py",
        "torch_distributions", "test",
    ),
    Suite(
        "stable_baselines3", "https://github.com/DLR-RM/stable-baselines3", "v2.8.0",
        "tests/test_distributions.py tests/test_run.py tests/test_deterministic.py "
        "tests/test_predict.py", "stable_baselines3",
    ),
    Suite(
        "pythae", "https://github.com/clementchadebec/benchmark_VAE", "v0.1.2",
        "test_VAE.py test_BetaVAE.py test_DisentangledBetaVAE.py test_MSSSIMVAE.py "
        "test_BetaTCVAE.py test_IWAE.py test_VAE_IAF.py test_VAMP.py",
        "pythae", "tests",
        # The suite's data are pickled data sets of its own.
        {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    ),
    Suite(
        "blitz", "https://github.com/piEsposito/blitz-bayesian-deep-learning", "0.2.8",
        "-o python_files=*_test.py blitz/modules blitz/losses", "blitz",
    ),
    Suite(
        "torchrl", "https://github.com/pytorch/rl", "v0.14.1",
        "test_distributions.py", "torchrl", "test",
        known={
            "test_tanhnormal_rsample_and_log_prob": Known(
                "Tensor-likes are not close!",
                "the reference gradient of the scale, in float32, is off by 1.3e-4 of the one in "
                "float64, and the op's by 1.5e-7",
            ),
        },
    ),
    Suite(
        "scvi", "https://github.com/scverse/scvi-tools", "1.4.2",
        "tests/distributions tests/nn tests/module", "scvi",
    ),
    Suite(
        "scvi, drawing", "https://github.com/scverse/scvi-tools", "1.4.2",
        "tests/distributions tests/nn tests/module", "torch_distributions",
    ),
    # Not those of models without a posterior, nor of moving weights between devices. VidTok's own
    # take more memory than a small machine has.
    Suite(
        "diffusers", "https://github.com/huggingface/diffusers", "v0.40.0",
        "tests/pipelines/ltx/test_ltx_latent_upsample.py tests/models/autoencoders -k not(Memory) "
        + " ".join(
            f"--ignore=tests/models/autoencoders/test_models_{name}.py"
            for name in (
                "autoencoder_dc", "autoencoder_rae", "autoencoder_same", "autoencoder_tiny",
                "autoencoder_vidtok", "consistency_decoder_vae", "ltx2_diffusion_decoder", "vq",
            )
        ),
        "diffusers", path="src", variables={"HF_HUB_OFFLINE": "1"},
    ),
    Suite(
        "diffusers, drawing", "https://github.com/huggingface/diffusers", "v0.40.0",
        f"{WRITTEN}/test_diffusers.py", "diffusers", path="src", variables={"HF_HUB_OFFLINE": "1"},
    ),
    Suite(
        "bayesian_torch, layers and models", "https://github.com/IntelLabs/bayesian-torch",
        "v0.5.0", f"{WRITTEN}/test_bayesian_torch.py", "bayesian_torch",
    ),
)  # fmt: skip


def worse(stock: dict[str, Any], patched: dict[str, Any]) -> dict[str, str]:
    """The tests of another outcome when patched that is no pass: their error, or else outcome."""
    found = {}
    for test in sorted(stock["tests"] | patched["tests"]):
        outcome = patched["tests"].get(test, "not run")
        if outcome not in ("passed", stock["tests"].get(test)):
            found[test] = patched["errors"].get(test, outcome)
    return found


def new(suite: Suite, found: dict[str, str]) -> list[str]:
    """Those of which nobody knows why."""
    return [test for test, error in found.items() if reason(suite, test, error) is None]


def reason(suite: Suite, test: str, error: str) -> str | None:
    """Why a test fails with this error when patched, where that is known."""
    known = suite.known.get(test.split("::")[-1].split("[")[0])
    return known.why if known is not None and known.error in error else None


def sources(suite: Suite, given: Path | None, to: Path) -> Path:
    """The suite's sources: a folder under what is given, or cloned at its tag.

    A folder that is named with the tag, such as "blitz-0.2.8", says that it is of that.
    """
    name = f"{suite.package}-{suite.tag}"
    if given is not None:
        found = [given / each for each in (name, suite.package) if (given / each).is_dir()]
        if not found:
            raise FileNotFoundError(f"{given} has no folder {name} or {suite.package}")
        return found[0]
    place = to / name
    if not place.is_dir():
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", suite.tag]
        subprocess.run([*clone, suite.repository, str(place)], check=True)
    return place


def version(module: str) -> str:
    """Of the package that a module is installed with."""
    (package, *_) = importlib.metadata.packages_distributions()[module]
    return importlib.metadata.version(package)


def run(suite: Suite, place: Path, patched: bool, out: Path) -> dict[str, Any]:
    """Run a suite's tests; how many passed, which did not, and what the ops served."""
    out.mkdir(parents=True, exist_ok=True)
    name = f"{suite.name.replace(', ', '-')}-{'patched' if patched else 'stock'}".replace(" ", "-")
    lines, about = out / f"{name}.jsonl", out / f"{name}.json"
    lines.unlink(missing_ok=True)
    patch = [suite.consumer, {"rng": "torch"}] if patched else None
    given = {"module": suite.package, "patch": patch, "out": str(lines.resolve())}
    about.write_text(json.dumps(given))
    path = [
        str(PLUGIN),
        *([str((place / suite.path).resolve())] if suite.path else []),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "FUSED_REPARAM_SUITE": str(about.resolve()),
        **suite.variables,
    }
    options = "-m pytest -q -p patched_suite -p no:cacheprovider"
    with (out / f"{name}.log").open("w") as log:
        subprocess.run(
            [sys.executable, *options.split(), *suite.tests.split()], cwd=place / suite.folder,
            env=environment, stdout=log, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    return read(lines)


def read(lines: Path) -> dict[str, Any]:
    """What the plugin has written of a run."""
    found: dict[str, Any] = {"tests": {}, "errors": {}, "failed": [], "version": ""}
    outcomes, calls = Counter[str](), Counter[str]()
    for line in lines.read_text().splitlines() if lines.exists() else ():
        one = json.loads(line)
        if "test" in one:
            outcomes[one["outcome"]] += 1
            found["tests"][one["test"]] = one["outcome"]
            if "error" in one:
                found["errors"][one["test"]] = one["error"]
            calls.update(one["calls"])
            if one["outcome"] == "failed":
                found["failed"].append(one["test"])
        else:
            found |= one
    return found | {"outcomes": dict(outcomes), "calls": dict(calls.most_common())}
