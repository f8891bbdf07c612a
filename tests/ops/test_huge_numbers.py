"""Numbers of samples, dims, offsets and sizes near 2^63: a result, or an error that says why."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.families import FAMILIES
from tests.helpers import op_calls
from tests.helpers.loops import where

OPS = torch.ops.fused_reparam
KEY = noise.key(3)
X = torch.zeros(3)
M = torch.zeros(4, 2)
COUNTS = [2**58 - 1, 2**58, 2**58 + 1, 2**59, 2**60, 2**61, 2**62, 2**63 - 1]
DIMS = [-(2**63), 1 - 2**63, -(2**32), -(2**31), -3, 2, 2**31, 2**32, 2**32 + 1, 2**63 - 1]
BEYOND = [2**63, -(2**63) - 1, 2**64, 2**70]
# 3 elements in both parameters or in one, to which the other is broadcast.
SHAPES = [((3,), (3,)), ((1,), (3,))]
TOO_MANY = r"at most 2\^58 elements, got"


pytestmark = pytest.mark.usefixtures("way")


def arguments(family, shapes, **spec):
    """Parameters and all arguments of a call of the op."""
    count = FAMILIES[family].parameters
    if count == 1:
        shapes = shapes[::-1]
    params = [torch.full(shapes[i % 2], 0.5) for i in range(count)]
    return params, op_calls.elementwise(family, params, KEY, **spec)


def test_samples_of_the_op():
    """3 of 2^58 - 1 are too many already: no memory is asked for, and nothing is multiplied."""
    for family, samples, shapes in product(FAMILIES, COUNTS, SHAPES):
        for sample, reduction in product((True, False), (None, "sum", "sample")):
            spec = {"samples": samples, "sample": sample, "reduction": reduction}
            _, args = arguments(family, shapes, **spec)
            with where(family, shapes, spec):
                with pytest.raises(ValueError, match=TOO_MANY) as error:
                    OPS.elementwise(*args)
                assert f"{samples} samples of shape (3,)" in str(error.value)


def test_samples_of_the_backward_op():
    """With the gradient of a value alone no tensor of the samples' size is needed."""
    for family, samples, shapes in product(FAMILIES, COUNTS, SHAPES):
        params, args = arguments(family, shapes, samples=samples, sample=False, reduction="sum")
        of_term = torch.zeros(()).expand(samples if FAMILIES[family].sampled else ())
        grads = [of_term if i < FAMILIES[family].terms else None for i in range(2)]
        needs = op_calls.needs(*range(len(params)))
        with where(family, samples, shapes), pytest.raises(ValueError, match=TOO_MANY):
            OPS.elementwise_backward(None, *grads, *args, needs)


CALLS = {
    "rsample": lambda n: fr.gaussian_rsample(X, X, num_samples=n),
    "latent": lambda n: fr.gaussian_latent(X, X, num_samples=n),
    "with a gradient": lambda n: fr.gaussian_latent(X.clone().requires_grad_(), X, num_samples=n),
    "broadcast": lambda n: fr.gaussian_latent(X[:1], X, num_samples=n),
    "prior": lambda n: fr.gaussian_latent(X, X, prior=(X, {"logvar": X}), num_samples=n),
    "moments": lambda n: fr.gaussian_latent_from_moments(torch.zeros(1, 6), num_samples=n),
    "log_prob": lambda n: fr.gaussian_rsample_log_prob(X, X, num_samples=n),
    "importance": lambda n: fr.gaussian_rsample_log_prob(X, X[:1], prior=(0.0, 2.0), num_samples=n),
}


@pytest.mark.parametrize("call", CALLS)
def test_samples_of_the_functions(call):
    for samples in COUNTS:
        with where(samples):
            with pytest.raises(ValueError, match=TOO_MANY) as error:
                CALLS[call](samples)
            assert f"{samples} samples of shape (" in str(error.value)
    for samples in BEYOND:
        if samples > 0:
            with pytest.raises(ValueError, match=r"num_samples must be below 2\^63, got"):
                CALLS[call](samples)


def test_as_many_as_may_be_are_a_matter_of_memory():
    for call in (
        lambda: fr.gaussian_rsample(X[:1], X[:1], num_samples=2**58 - 1),
        lambda: OPS.elementwise(*arguments("laplace", ((1,), (1,)), samples=2**58)[1]),
    ):
        with pytest.raises(RuntimeError, match=r"memory|overflow"):
            call()


def test_no_elements_are_no_fault_however_many_samples():
    z, kl = fr.gaussian_latent(X[:0], X[:0], num_samples=2**62, reduction="sum")
    assert z.shape == (2**62, 0)
    assert kl == 0


def test_dims():
    for dim in DIMS:
        args = op_calls.elementwise("gaussian", [M, None], KEY, reduction="sum", split=dim)
        back = None, torch.zeros(()), None, *args, op_calls.needs(0)
        calls = [(OPS.elementwise, args), (OPS.elementwise_backward, back)]
        for mode in range(3):
            spec = op_calls.softmax(mode=mode, dim=dim)
            calls += [
                (OPS.gumbel_softmax, (M, KEY, None, None, *spec)),
                (OPS.gumbel_softmax_backward, (M, None, None, M, M, None, *spec, [True, False])),
            ]
        for op, args in calls:
            says = f"got (dim )?{dim}( of shape|$)"
            with where(op, dim), pytest.raises(ValueError, match=says):
                op(*args)
        with where(dim), pytest.raises(ValueError, match="permutation"):
            OPS.normal(KEY, [2, 2], [0, dim], torch.float32)


def test_dims_of_the_functions():
    functions = (
        fr.gumbel_softmax, fr.categorical_latent, fr.one_hot_categorical,
        fr.gaussian_latent_from_moments,
    )  # fmt: skip
    for function, dim in product(functions, [*DIMS, *BEYOND]):
        with where(function, dim), pytest.raises(ValueError, match=f"have no dim {dim}"):
            function(M, dim=dim)


def test_other_integers_of_the_ops():
    """What C++ keeps in 32 bits must not be cut off on its way."""
    for number in (-(2**63), -(2**32), -2, 5, 2**31, 2**32, 2**63 - 1):
        for field in ("kind", "prior_kind", "split"):
            _, args = arguments("gaussian", SHAPES[0], **{field: number})
            says = f"{field} must be .* got {number}|p0, p2, p3, got 2"
            with where(field, number), pytest.raises(ValueError, match=says):
                OPS.elementwise(*args)
        with where(number), pytest.raises(ValueError, match=f"mode must be one of .* got {number}"):
            OPS.gumbel_softmax(X, KEY, None, None, *op_calls.softmax(mode=number, dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_index_offsets(dtype):
    """Blocks are counted modulo 2^64, and indices are not: four times as many."""
    lanes = 4 if dtype == torch.float32 else 2
    for near, beside in product((2**62, 2**63, 2**64, 2**65, 2**66), (-5, -1, 0, 3)):
        first = near + beside
        got = noise.normal(KEY, 9, dtype=dtype, index_offset=first)
        seed, offset = KEY.view(torch.int64).tolist()
        key = noise.key(seed, (offset + first // lanes) % 2**64)
        want = noise.normal(key, 9 + lanes, dtype=dtype)[first % lanes :][:9]
        assert torch.equal(got, want), first


def test_shapes_of_noise():
    for shape, offset in product((2**63, 2**64, (2, 2**63), (0, 2**63)), (0, 3)):
        says = r"shape must be of sizes below 2\^63, got"
        with where(shape, offset), pytest.raises(ValueError, match=says):
            noise.normal(KEY, shape, index_offset=offset)
    with pytest.raises(ValueError, match="shape must be of fewer elements, got"):
        noise.normal(KEY, 2**63 - 1, index_offset=3)
    with pytest.raises(RuntimeError, match="overflow"):
        noise.normal(KEY, (2**62, 4))


EXPANDED = [2**58 + 1, 2**59, 2**60, 2**61, 2**62, 2**63 - 2048, 2**63 - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_expanded_tensors(dtype):
    for n in EXPANDED:
        with where(n):
            of_expanded(n, dtype)


def of_expanded(n, dtype):
    """One element seen as more than 2^58: sums over them would never end, and bytes overflow."""
    t = torch.zeros((), dtype=dtype).expand(n)
    one = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    column, row = t[:, None], torch.zeros(1, 2, dtype=dtype)
    spec = op_calls.softmax(want_y=False)

    def of_op(*params):
        args = op_calls.elementwise("laplace", params, KEY, sample=False, reduction="sum")
        return *args[:4], None, *args[5:]

    calls = [
        lambda: fr.gaussian_kl(t, t),
        lambda: fr.gaussian_kl(t, t, reduction="none"),
        lambda: fr.gaussian_kl(column, t[:1]),
        lambda: fr.gaussian_kl(t, t, prior=(0.0, 2.0)),
        lambda: fr.gaussian_latent(t, t),
        lambda: fr.gaussian_rsample(t, t),
        lambda: fr.gaussian_rsample_log_prob(t, t),
        lambda: fr.log_normal_rsample(t, std=t),
        lambda: fr.loc_scale_rsample(t, t, "laplace"),
        lambda: fr.gumbel_softmax(column, dim=1),
        lambda: fr.categorical_latent(column, dim=1),
        lambda: OPS.gumbel_softmax(column, KEY, None, None, *spec),
        lambda: OPS.gumbel_softmax_backward(
            column, None, None, column, column, None, *spec, [True, False]
        ),
        lambda: OPS.elementwise(*of_op(t, t)),
        lambda: OPS.elementwise_backward(None, one, None, *of_op(t, t), op_calls.needs(0, 1)),
    ]
    if n < 2**62:  # more can't be broadcast
        calls += [
            lambda: fr.gaussian_kl(column, row),
            lambda: fr.log_normal_rsample(column, std=row),
            lambda: OPS.elementwise(*of_op(column, row)),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=TOO_MANY):
            call()


def test_products_of_sizes_wrap_around():
    """Against a row of 8 they are 2^62, 2^63 and 2^64 + 8, of which 64 bits leave 8."""
    for n in (2**59, 2**60, 2**61 + 1):
        column, row = torch.zeros(()).expand(n, 1), torch.zeros(1, 8)
        for params, key in product(((column, row), (row, column)), (None, KEY)):
            args = op_calls.elementwise("laplace", params, key, sample=False, reduction="sum")
            says = f"{TOO_MANY}|overflow"
            with where(n, key), pytest.raises((ValueError, RuntimeError), match=says):
                OPS.elementwise(*args)
