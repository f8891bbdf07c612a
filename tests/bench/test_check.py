"""The check before timing: it passes what is right, and trips on what is wrong."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

import fused_reparam
from bench import check
from bench.cases import OpCase
from bench.ops import OPS, halves, sample
from bench.variants import Variant, using

CPU = torch.device("cpu")
SAMPLING = [name for name, op in OPS.items() if op.base is not None]
# PyTorch's own overflow there: a KL in float16, and a gradient that is 0 / 0.
OVERFLOWS = {("gaussian_latent_prior", "float16"), ("kumaraswamy_rsample", "bfloat16")}


def judge(name, compute, dtype="float32", shape=(128, 20), ours=False, context=None):
    torch.manual_seed(1)
    more = {} if context is None else {"context": context}
    variant = Variant("some", compute, ours=ours, **more)
    return OpCase(OPS[name], "x", shape, dtype, CPU).verdict(variant)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OPS)
def test_what_is_right_passes(name, dtype):
    op = OPS[name]
    for shape in ((128, 20), (7, 3)):
        for backend in ("native", "reference"):
            assert judge(name, op.ours, dtype, shape, True, using(backend)) is None
        if (name, dtype) not in OVERFLOWS:
            for compute in (op.textbook, partial(op.rival, True), partial(op.rival, False)):
                assert judge(name, compute, dtype, shape) is None


def with_first(name, change):
    """An op of ours whose first output, the sample where there is one, is changed."""

    def compute(*inputs):
        first, *rest = OPS[name].ours(*inputs)
        return change(first), *rest

    return compute


def wrong_by(z):
    """A gradient's share; in 16 bits one of classes is made of rounded shares."""
    return 0.01 if z.dtype == torch.float32 else 0.5


# Each leaves alone what it does not name: values, gradients, elements, noise.
WRONG = {
    "an element": lambda z: z + 0.1 * torch.eye(*z.shape[-2:], dtype=z.dtype),
    "all by a hundredth": lambda z: 1.01 * z,
    "the gradient": lambda z: z + wrong_by(z) * (z - z.detach()),
    "no gradient": lambda z: z.detach() + 0.0 * z,
    "rows in another order": lambda z: z.roll(1, 0),
    "not a number": lambda z: torch.where(torch.rand_like(z) > 0.99, torch.nan, z),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [(n, w) for n in SAMPLING for w in WRONG if n != "normal" or "gradient" not in w],
)
def test_ours_trips_on_each_element_and_gradient(name, wrong, dtype):
    problem = judge(name, with_first(name, WRONG[wrong]), dtype, ours=True)
    assert problem.startswith(("output 0", "gradient"))


@pytest.mark.parametrize("name", ["gaussian_kl", "gaussian_latent", "sample_weight",
                                  "categorical_latent"])  # fmt: skip
@pytest.mark.parametrize("ours", [True, False])
def test_a_wrong_kl_trips(name, ours):
    def compute(*inputs):
        *rest, kl = (OPS[name].ours if ours else OPS[name].textbook)(*inputs)
        return *rest, 1.001 * kl

    assert judge(name, compute, ours=ours).startswith(
        f"output {len(OPS[name].ours(*made(name))) - 1}: "
    )


def made(name):
    return OpCase(OPS[name], "x", (128, 20), "float32", CPU).inputs


@pytest.mark.parametrize("name", SAMPLING)
def test_a_rival_of_another_distribution_trips(name):
    def compute(*inputs):
        first, *rest = OPS[name].textbook(*inputs)
        return 1.2 * first + 0.1, *rest

    assert judge(name, compute, shape=(512, 32)).startswith("output 0: not distributed")


def test_a_rival_whose_gradient_is_another_ones_trips():
    def compute(mu, logvar):
        z, kl = OPS["gaussian_latent"].textbook(mu, logvar)
        return z + 0.5 * (z - z.detach()), kl

    assert judge("gaussian_latent", compute, shape=(512, 32)).startswith("gradient 0: not distrib")


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("name", SAMPLING)
def test_noise_that_comes_again_trips(name, ours):
    def compute(*inputs):
        with torch.random.fork_rng():
            torch.manual_seed(check.SEED)
            return (OPS[name].ours if ours else OPS[name].textbook)(*inputs)

    assert judge(name, compute, ours=ours) == "two calls drew the same noise"


def test_noise_of_its_own_in_the_backward_pass_trips():
    def compute(mu, logvar):
        first, kl = OPS["gaussian_latent"].ours(mu, logvar)
        second = sample(torch.randn_like(mu), mu, logvar)
        return first.detach() + (second - second.detach()), kl

    assert judge("gaussian_latent", compute, ours=True).startswith("gradient 1")


def test_shapes_and_dtypes_are_told():
    latent = OPS["gaussian_latent"].ours
    problem = judge("gaussian_latent", lambda *pair: latent(*pair)[:1], ours=True)
    assert problem == "outputs of shapes ((128, 20),), expected ((128, 20), ())"
    problem = judge(
        "gaussian_rsample", lambda mu, x: (sample(torch.randn_like(mu), mu, x).double(),)
    )
    assert problem == "a sample of torch.float64, expected torch.float32"


SLICED = ("gaussian_latent", "gaussian_latent_samples", "loc_scale_student_t", "gumbel_softmax")


@pytest.mark.parametrize("name", [*SLICED, "gaussian_rsample_log_prob"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_latent_of_many_slices_is_right_and_an_error_in_the_last_one_shows(
    name, dtype, monkeypatch
):
    monkeypatch.setitem(check.SLICE, "cpu", 101)
    shape, change = (66, 33), torch.zeros(66, 33, dtype=getattr(torch, dtype))
    change[-1, -1] = 1.0
    assert judge(name, OPS[name].ours, dtype, shape, ours=True) is None
    problem = judge(name, with_first(name, lambda z: z + change), dtype, shape, ours=True)
    assert problem.startswith("output 0: an element is off by")


def test_slices_cover_each_row_once_and_some_are_spread_from_first_to_last():
    case = OpCase(OPS["gaussian_latent"], "x", (100, 20), "float32", CPU)
    parts = check.slices(case, 60)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(100))
    some = check.spread(parts, 5)
    assert (len(some), some[0], some[-1]) == (5, parts[0], parts[-1])
    assert check.spread(parts, 1000) == parts


@pytest.mark.parametrize("overwrites", [True, False])
def test_results_that_the_next_call_overwrites_are_copied(overwrites):
    held = []

    def compute(mu, logvar):
        z, kl = OPS["gaussian_latent"].textbook(mu, logvar)
        for old in held:
            old.zero_()
        held[:] = [z.detach()] if overwrites else []
        return z, kl

    torch.manual_seed(1)
    variant = Variant("some", compute, overwrites=overwrites)
    assert OpCase(OPS["gaussian_latent"], "x", (64, 20), "float32", CPU).verdict(variant) is None


def test_moments_are_halves_along_dim_1():
    moments = torch.arange(8.0).view(2, 4)
    assert [half.tolist() for half in halves(moments)] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_bytes_that_must_move():
    assert {work: OPS["gaussian_latent"].moved(work) for work in OPS["gaussian_latent"].works} == {
        "forward": 3, "backward": 5, "forward+backward": 8}  # fmt: skip
    samples = OPS["gaussian_latent_samples"]
    assert (samples.made("forward+backward"), samples.noise_passes("forward+backward")) == (10, 16)
    assert OPS["normal"].works == ("forward",)


def test_every_reparameterized_function_has_an_op():
    named = " ".join(OPS)
    public = [n for n in dir(fused_reparam) if n.endswith(("rsample", "log_prob", "weight"))]
    assert not [name for name in public if name.removesuffix("_rsample") not in named]
    assert list(itertools.chain(OPS)) == [op.name for op in OPS.values()]
