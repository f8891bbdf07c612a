"""Numbers of samples, dims, offsets and sizes near 2^63: a result, or an error that says why."""

from __future__ import annotations

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.backends import native_extension
from fused_reparam.families import FAMILIES

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


@pytest.fixture(params=["host", "python", "reference"], autouse=True)
def way(request, monkeypatch):
    """The native backend by its extension and without it, and the reference."""
    name = "reference" if request.param == "reference" else "native"
    with fr.backend(name):
        fr.gaussian_latent(torch.zeros(1), torch.zeros(1))  # loads the library
        if request.param == "python":
            monkeypatch.setattr(native_extension, "module", None)
        yield request.param


def draw_arguments(family, samples, shapes, sample, keep):
    member = FAMILIES[family]
    if member.parameters == 1:
        shapes = shapes[::-1]
    params = [torch.full(shapes[i % 2], 0.5) for i in range(member.parameters)]
    return params, [
        *params, *[None] * (4 - len(params)), KEY, None, [], family, 0, 0, [0.5] * member.numbers,
        samples, sample, keep, 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_the_op(family, samples):
    """3 of 2^58 - 1 are too many already: no memory is asked for, and nothing is multiplied."""
    for shapes in SHAPES:
        for sample in (True, False):
            for keep in (-1, 0, 1):
                _, args = draw_arguments(family, samples, shapes, sample, keep)
                with pytest.raises(ValueError, match=TOO_MANY) as error:
                    OPS.draw(*args)
                assert f"{samples} samples of shape (3,)" in str(error.value)


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_the_backward_op(family, samples):
    """With the gradient of a value alone no tensor of the samples' size is needed."""
    for shapes in SHAPES:
        params, args = draw_arguments(family, samples, shapes, False, 0)
        of_value = torch.zeros(()).expand(samples if FAMILIES[family].sampled else ())
        grads = [of_value if i < FAMILIES[family].values else None for i in range(2)]
        needs = [*[True] * len(params), *[False] * (5 - len(params))]
        with pytest.raises(ValueError, match=TOO_MANY):
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


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("call", CALLS)
def test_samples_of_the_functions(call, samples):
    with pytest.raises(ValueError, match=TOO_MANY) as error:
        CALLS[call](samples)
    assert f"{samples} samples of shape (" in str(error.value)


@pytest.mark.parametrize("call", CALLS)
def test_samples_that_no_integer_holds(call):
    for samples in BEYOND:
        if samples > 0:
            with pytest.raises(ValueError, match=r"num_samples must be below 2\^63, got"):
                CALLS[call](samples)


def test_as_many_as_may_be_are_a_matter_of_memory():
    for call in (
        lambda: fr.gaussian_rsample(X[:1], X[:1], num_samples=2**58 - 1),
        lambda: OPS.draw(*draw_arguments("laplace", 2**58, ((1,), (1,)), True, -1)[1]),
    ):
        with pytest.raises(RuntimeError, match=r"memory|overflow"):
            call()


def test_no_elements_are_no_fault_however_many_samples():
    z, kl = fr.gaussian_latent(X[:0], X[:0], num_samples=2**62, reduction="sum")
    assert z.shape == (2**62, 0)
    assert kl == 0


@pytest.mark.parametrize("dim", DIMS)
def test_dims(dim):
    one = torch.zeros(())
    latent = ([], 0, -1.0, 1.0, "sum", True, dim)
    with pytest.raises(ValueError, match=f"got dim {dim} of shape"):
        OPS.gaussian_latent(M, None, KEY, None, *latent)
    with pytest.raises(ValueError, match=f"got dim {dim} of shape"):
        OPS.gaussian_latent_backward(M, one, M, None, KEY, None, *latent, [True, False, False])
    for mode in range(3):
        spec = ([], mode, 0.7, 0.0, dim, True, False, False)
        with pytest.raises(ValueError, match=f"got dim {dim} of shape"):
            OPS.relaxed_categories(M, KEY, None, *spec)
        with pytest.raises(ValueError, match=f"got dim {dim} of shape"):
            OPS.relaxed_categories_backward(M, None, M, M, *spec)
    with pytest.raises(ValueError, match="permutation"):
        OPS.normal(KEY, [2, 2], [0, dim], torch.float32)


@pytest.mark.parametrize("dim", [*DIMS, *BEYOND])
def test_dims_of_the_functions(dim):
    for call in (fr.gumbel_softmax, fr.categorical_latent, fr.one_hot_categorical):
        with pytest.raises(ValueError, match=f"have no dim {dim}"):
            call(M, dim=dim)
    with pytest.raises(ValueError, match=f"have no dim {dim}"):
        fr.gaussian_latent_from_moments(M, dim)


@pytest.mark.parametrize("number", [-(2**63), -(2**32), -2, 5, 2**31, 2**32, 2**63 - 1])
def test_other_integers_of_the_ops(number):
    """What C++ keeps in 32 bits must not be cut off on its way."""
    for place, value in ((8, number), (9, number), (13, number)):  # kind, prior_kind, keep
        args = draw_arguments("gaussian", 0, ((3,), (3,)), True, -1)[1]
        args[place] = value
        with pytest.raises(ValueError, match=f"got {number}"):
            OPS.draw(*args)
    with pytest.raises(ValueError, match=f"kind must be in .* got {number}"):
        OPS.gaussian_latent(X, X, KEY, None, [], number, -1.0, 1.0, "sum", True, -1)
    with pytest.raises(ValueError, match=f"mode must be one of .* got {number}"):
        OPS.relaxed_categories(X, KEY, None, [], number, 0.7, 0.0, 0, True, False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("near", [2**62, 2**63, 2**64, 2**65, 2**66])
def test_index_offsets(dtype, near):
    """Blocks are counted modulo 2^64, and indices are not: four times as many."""
    lanes = 4 if dtype == torch.float32 else 2
    for first in (near - 5, near - 1, near, near + 3):
        got = noise.normal(KEY, 9, dtype=dtype, index_offset=first)
        seed, offset = KEY.view(torch.int64).tolist()
        key = noise.key(seed, (offset + first // lanes) % 2**64)
        want = noise.normal(key, 9 + lanes, dtype=dtype)[first % lanes :][:9]
        assert torch.equal(got, want)


@pytest.mark.parametrize("shape", [2**63, 2**64, (2, 2**63), (0, 2**63)])
def test_shapes_of_noise(shape):
    for offset in (0, 3):
        with pytest.raises(ValueError, match=r"shape must be of sizes below 2\^63, got"):
            noise.normal(KEY, shape, index_offset=offset)
    with pytest.raises(ValueError, match="shape must be of fewer elements, got"):
        noise.normal(KEY, 2**63 - 1, index_offset=3)
    with pytest.raises(RuntimeError, match="overflow"):
        noise.normal(KEY, (2**62, 4))


EXPANDED = [2**58 + 1, 2**59, 2**60, 2**61, 2**62, 2**63 - 2048, 2**63 - 1]


@pytest.mark.parametrize("n", EXPANDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_expanded_tensors(n, dtype):
    """One element seen as more than 2^58: sums over them would never end, and bytes overflow."""
    t = torch.zeros((), dtype=dtype).expand(n)
    one = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    column, row = t[:, None], torch.zeros(1, 2, dtype=dtype)
    latent = (KEY, None, [], 0, -1.0, 1.0, "sum", False, 0)
    spec = ([], 0, 0.7, 0.0, 1, False, False, False)
    draw = (None, None, KEY, None, [], "laplace", 0, 0, [], 0, False, 0, 1.0)
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
        lambda: OPS.gaussian_latent(t, t, *latent),
        lambda: OPS.gaussian_latent_backward(None, one, t, t, *latent, [True, True, False]),
        lambda: OPS.relaxed_categories(column, KEY, None, *spec),
        lambda: OPS.relaxed_categories_backward(column, None, column, column, *spec),
        lambda: OPS.draw(t, t, *draw),
        lambda: OPS.elementwise_backward(None, one, None, t, t, *draw, [True, True, *[False] * 3]),
    ]
    if n < 2**62:  # more can't be broadcast
        calls += [
            lambda: fr.gaussian_kl(column, row),
            lambda: fr.log_normal_rsample(column, std=row),
            lambda: OPS.gaussian_latent(column, row, *latent),
            lambda: OPS.draw(column, row, *draw),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=TOO_MANY):
            call()
