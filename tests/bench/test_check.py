"""The gate before timing: it passes what is right, and trips on what is wrong."""

from __future__ import annotations

import pytest
import torch

import fused_reparam
from bench import check
from bench.cases import OpCase
from bench.ops import OPS, halves, sample
from bench.variants import Variant, using

CPU = torch.device("cpu")
SAMPLING = [name for name, op in OPS.items() if op.base is not None]


def problem(name, compute, dtype="float32", shape=(128, 20), backend="native"):
    variant = Variant("some", compute, using(backend), ours=True)
    return OpCase(OPS[name], "x", shape, dtype, CPU).problem(variant)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OPS)
def test_what_is_right_passes(name, dtype):
    for shape in ((128, 20), (7, 3)):
        for backend in ("native", "reference"):
            assert problem(name, OPS[name].ours, dtype, shape, backend) is None


def test_of_a_large_latent_the_first_rows_are_compared(monkeypatch):
    seen = []

    def compute(mu, logvar):
        seen.append(tuple(mu.shape))
        return OPS["gaussian_latent"].ours(mu, logvar)

    assert problem("gaussian_latent", compute, shape=(1 << 20, 1 << 10)) is None
    assert problem("gaussian_latent", compute, shape=(3, 1 << 18)) is None
    assert seen == [(128, 1024), (1, 1 << 18)]


# Each leaves alone what it does not name: values, gradients, elements, noise.
WRONG = {
    "an element": lambda z: z + 10.0 * torch.eye(*z.shape[-2:], dtype=z.dtype),
    "all by a twentieth": lambda z: 1.05 * z,
    "the gradient": lambda z: z + 0.5 * (z - z.detach()),
    "no gradient": lambda z: z.detach() + 0.0 * z,
    "rows in another order": lambda z: z.roll(1, 0),
    "not a number": lambda z: torch.where(torch.rand_like(z) > 0.99, torch.nan, z),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", SAMPLING)
def test_it_trips_on_elements_and_gradients(name, wrong):
    if name == "normal" and "gradient" in wrong:
        pytest.skip("it has none")

    def compute(*inputs):
        first, *rest = OPS[name].ours(*inputs)
        return WRONG[wrong](first), *rest

    assert str(problem(name, compute)).startswith(("output 0: off by", "gradient"))


@pytest.mark.parametrize("name", ["gaussian_kl", "gaussian_latent", "sample_weight",
                                  "categorical_latent"])  # fmt: skip
def test_a_wrong_kl_trips(name):
    def compute(*inputs):
        *rest, kl = OPS[name].ours(*inputs)
        return *rest, 1.001 * kl

    assert str(problem(name, compute)).startswith("output")


def test_noise_of_its_own_in_the_backward_pass_trips():
    def compute(mu, logvar):
        first, kl = OPS["gaussian_latent"].ours(mu, logvar)
        second = sample(torch.randn_like(mu), mu, logvar)
        return first.detach() + (second - second.detach()), kl

    assert str(problem("gaussian_latent", compute)).startswith("gradient 1")


def test_noise_that_no_generator_decides_trips():
    def compute(mu, logvar):
        return fused_reparam.gaussian_latent(mu, logvar, key=fused_reparam.noise.key(1))

    assert str(problem("gaussian_latent", compute)).startswith("output 0")


def test_shapes_and_missing_gradients_are_told():
    def flat(mu, logvar):
        z, kl = OPS["gaussian_latent"].ours(mu, logvar)
        return z.flatten(), kl

    def detached(loc, scale):
        return OPS["loc_scale_laplace"].ours(loc, scale.detach())

    assert problem("gaussian_latent", flat) == "output 0: shape (2560,), expected (128, 20)"
    said = str(problem("loc_scale_laplace", detached))
    assert said.startswith("gradient 1: got None, expected tensor(")


@pytest.mark.parametrize(("lines", "found"), [
    (["native on cpu: 9 checks agree with the reference"], {}),
    (["triton on cpu: skipped, no GPU", "native on cpu: FAILED noise: differs by 1"],
     {"native": "self-test: noise: differs by 1"}),
])  # fmt: skip
def test_what_the_self_test_finds_wrong(lines, found, monkeypatch):
    def run(devices, say):
        assert devices == [CPU]
        for line in lines:
            say(line)

    monkeypatch.setattr("fused_reparam.selftest.run", run)
    assert check.self_test(CPU) == found
    assert check.self_test(torch.device("cuda")) == {}


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.rival or op.eager])
def test_what_pytorch_offers_draws_from_the_same_distribution(name):
    """A rival that computes something else would be no rival: compared by means of its results."""
    case = OpCase(OPS[name], "x", (64, 2000), "float32", CPU)
    torch.manual_seed(3)
    rival = OPS[name].rival
    others = [lambda *x, v=v: rival(v, *x) for v in (True, False)] if rival else [OPS[name].eager]
    moments = []
    for compute in (OPS[name].ours, *others):
        outputs = compute(*case.inputs)
        grads = torch.autograd.grad(outputs, case.inputs, case.incoming(outputs))
        # Some of the samples have no mean but for bounds.
        found = [t.double().clamp(-8, 8) if t.ndim else t.double() for t in (*outputs, *grads)]
        spreads = [t.std() for t in found if t.ndim]
        moments.append(torch.stack([*(t.mean() for t in found), *spreads]))
    for other in moments[1:]:
        torch.testing.assert_close(other, moments[0], rtol=0.02, atol=0.02)


def test_moments_are_halves_along_dim_1():
    moments = torch.arange(8.0).view(2, 4)
    assert [half.tolist() for half in halves(moments)] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_every_reparameterized_function_has_an_op():
    named = " ".join(OPS)
    public = [n for n in dir(fused_reparam) if n.endswith(("rsample", "log_prob", "weight"))]
    assert not [name for name in public if name.removesuffix("_rsample") not in named]
