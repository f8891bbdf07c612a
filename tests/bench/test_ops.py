"""The table of ops: each is its formula, and so are its rivals; and the gate before timing."""

from functools import partial

import pytest
import torch

import fused_reparam
from bench.cases import OpCase
from bench.ops import BACKWARD, OPS
from bench.sizes import shape_of
from bench.steps import WEIGHTS
from bench.variants import Variant
from fused_reparam.backends import dispatch
from tests.helpers import bench_formulas
from tests.helpers.loops import where

CPU = torch.device("cpu")
native = pytest.mark.skipif(
    dispatch.unavailable_reason("native", CPU) is not None, reason="needs the compiled library"
)


@pytest.mark.parametrize("op", [*OPS.values(), WEIGHTS], ids=lambda op: op.name)
def test_ours_is_the_formula(op):
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        for shape in ((128, 20), (7, 3)):
            with where(dtype, shape):
                case = OpCase(op, "x", shape, dtype, CPU)
                like = op.like(*(tensor.detach() for tensor in case.inputs))
                incoming = case.incoming if BACKWARD in op.works else None
                found = bench_formulas.problem(
                    op.ours, op.formula, case.inputs, op.base, like, incoming
                )
                assert found is None


RIVALED = [op for op in (*OPS.values(), WEIGHTS) if op.rival or op.eager]


@pytest.mark.parametrize("op", RIVALED, ids=lambda op: op.name)
def test_what_pytorch_offers_draws_from_the_same_distribution(op):
    """A rival that computes something else would be no rival: compared by means of its results."""
    case, moments = OpCase(op, "x", (64, 2000), "float32", CPU), []
    torch.manual_seed(3)
    others = [partial(op.rival, one) for one in (True, False)] if op.rival else [op.eager]
    for compute in (op.ours, *others):
        outputs = compute(*case.inputs)
        grads = torch.autograd.grad(outputs, case.inputs, case.incoming(outputs))
        # Some of the samples have no mean but for bounds.
        found = [t.double().clamp(-8, 8) if t.ndim else t.double() for t in (*outputs, *grads)]
        spreads = [t.std() for t in found if t.ndim]
        moments.append(torch.stack([*(t.mean() for t in found), *spreads]))
    for other in moments[1:]:
        torch.testing.assert_close(other, moments[0], rtol=0.02, atol=0.02)


def test_every_reparameterized_function_has_an_op():
    named = " ".join(OPS)
    public = [
        n for n in dir(fused_reparam) if n.endswith(("rsample", "rsample_log_prob", "weight"))
    ]
    assert not [name for name in public if name.removesuffix("_rsample") not in named]


# --- the gate -------------------------------------------------------------------------------------

# Each leaves alone what it does not name: values, gradients, elements, noise.
WRONG = {
    "an element": lambda z: z + 10.0 * torch.eye(*z.shape[-2:], dtype=z.dtype),
    "all by a twentieth": lambda z: 1.05 * z,
    "the gradient": lambda z: z + 0.5 * (z - z.detach()),
    "no gradient": lambda z: z.detach() + 0.0 * z,
    "rows in another order": lambda z: z.roll(1, 0),
    "not a number": lambda z: torch.where(torch.rand_like(z) > 0.99, torch.nan, z),
    "another shape": lambda z: z[:-1],
}


def problem(op, spoil):
    """What the gate says of an op that the native backend gets wrong."""

    def compute(*inputs):
        found = op.ours(*inputs)
        return spoil(found) if fused_reparam.current_backend("cpu") == "native" else found

    variant = Variant("native", compute, ours=True)
    return OpCase(op, "x", (128, 20), "float32", CPU).problem(variant)


@native
@pytest.mark.parametrize("wrong", WRONG)
def test_the_gate_trips_on_elements_and_gradients(wrong):
    for name in ("gaussian_latent", "loc_scale_laplace", "gumbel_softmax", "weibull_rsample"):
        with where(name):
            said = problem(OPS[name], lambda found: (WRONG[wrong](found[0]), *found[1:]))
            assert said.startswith(("differs by", "shapes"))
            assert problem(OPS[name], lambda found: found) is None


@native
def test_the_gate_trips_on_a_kl_and_on_noise_of_its_own():
    assert problem(OPS["gaussian_latent"], lambda found: (found[0], 1.001 * found[1]))
    key = fused_reparam.noise.key(1)
    other = fused_reparam.noise.normal(key, (128, 20))
    assert problem(OPS["gaussian_latent"], lambda found: (found[0] + 0.01 * other, found[1]))


@native
def test_of_a_large_latent_the_first_rows_are_compared():
    seen = []

    def compute(mu, logvar):
        seen.append(tuple(mu.shape))
        return OPS["gaussian_latent"].ours(mu, logvar)

    for shape in ((1 << 20, 1 << 10), (3, 1 << 18)):
        case = OpCase(OPS["gaussian_latent"], "x", shape, "float32", CPU)
        assert case.problem(Variant("native", compute, ours=True)) is None
    assert seen == [(128, 1024), (128, 1024), (1, 1 << 18), (1, 1 << 18)]


@native
def test_ours_passes_the_gate_at_the_sizes_that_are_measured():
    for op in OPS.values():
        for size in op.sizes:
            for dtype in ("float32", "bfloat16"):
                with where(op.name, size, dtype):
                    case = OpCase(op, size, shape_of(size), dtype, CPU)
                    assert case.problem(Variant("native", op.ours, ours=True)) is None
