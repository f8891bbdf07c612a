"""The op of a linear layer whose weights are drawn in panels and not kept."""

import math

import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.library import opcheck

import fused_reparam
from fused_reparam import noise, sample_weight
from fused_reparam.ops.sampled_linear import Spec, sampled_linear
from tests.helpers.allocations import peak

OPS = torch.ops.fused_reparam
KEY = noise.key(5, 2**64 - 9)  # the stream's counter carries
RHO, STD = 4, 2  # of SCALE_KINDS
FREE = -math.inf, math.inf
# By name: family, constants, shapes of the prior's tensors for weights (out, in).
PRIORS = {
    "standard": ("gaussian", [*FREE, 0.0, 1.0, -math.inf], lambda out, size: ()),
    "numbers": ("gaussian", [*FREE, 0.1, 0.5, -math.inf], lambda out, size: ()),
    "rows": ("gaussian_prior", [*FREE, -math.inf], lambda out, size: ((out, 1), (size,))),
    "weights": ("gaussian_prior", [*FREE, -math.inf], lambda out, size: ((out, size), ())),
    "mixture": ("mixture", [*FREE, 0.0, 0.3, 1.0, 0.1], lambda out, size: ()),
}


def inputs(prior, out, size, batch, dtype=torch.float32, bias=True, device="cpu"):
    """x, mu, rho, the prior's two tensors, bias: leaves."""
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape):
        t = torch.randn(shape, generator=generator, dtype=torch.float64)
        return t.to(device, dtype)

    x, mu, rho = leaf(*batch, size), 0.1 * leaf(out, size), 0.1 * leaf(out, size) - 2.0
    tensors = [leaf(*shape) for shape in PRIORS[prior][2](out, size)]
    tensors[1:] = [0.5 + t.abs() for t in tensors[1:]]
    found = [x, mu, rho, *(tensors or (None, None)), leaf(out) if bias else None]
    return [t if t is None else t.requires_grad_() for t in found]


def op(prior, given, key=KEY):
    family, constants, _ = PRIORS[prior]
    return OPS.sampled_linear(*given, key, family, RHO, STD, constants)


def kept(prior, given, key=KEY):
    """The same of weights that are drawn at once, and kept."""
    family, constants, _ = PRIORS[prior]
    x, *params, bias = given
    options = family, RHO, STD, constants, 0, True, "sum", -1
    w, kl, _ = OPS.elementwise(*params, key, None, None, *options)
    return torch.nn.functional.linear(x, w, bias), kl


def gradients(found, given):
    y, kl = found
    dy = torch.linspace(-1.0, 1.0, y.numel(), device=y.device).to(y.dtype).view(y.shape)
    leaves = [t for t in given if t is not None]
    return torch.autograd.grad((y, kl), leaves, (dy, torch.full_like(kl, 0.3)))


SIZES = [(1, 5, ()), (37, 129, (3, 2)), (520, 300, (7,))]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_as_of_weights_that_are_kept(prior, dtype, sizes, way):
    given = inputs(prior, *sizes, dtype)
    found, want = op(prior, given), kept(prior, given)
    error = 50 * torch.finfo(dtype).eps
    for got, right in zip(
        (*found, *gradients(found, given)), (*want, *gradients(want, given)), strict=True
    ):
        assert got.shape == right.shape
        assert got.dtype == right.dtype
        assert (got - right).norm() <= error * right.norm()


def test_every_backend(target):
    given = inputs("rows", 24, 20, (3,), device=target[1])
    found, want = op("rows", given), kept("rows", given)
    for got, right in zip(
        (*found, *gradients(found, given)), (*want, *gradients(want, given)), strict=True
    ):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(37, 129), (520, 300)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bits_of_the_weights(sizes, dtype, way):
    """Of an input that picks each weight."""
    out, size = sizes
    given = inputs("standard", out, size, (), dtype, bias=False)
    y, _ = op("standard", [torch.eye(size, dtype=dtype), *given[1:]])
    w = sample_weight(given[1], given[2], key=KEY)[0]
    if way == "reference":  # PyTorch rounds a logarithm by where an element lies
        torch.testing.assert_close(y.t(), w, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(y.t(), w)


@pytest.mark.parametrize("prior", ["rows", "mixture"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(prior, dtype, backend):
    given = inputs(prior, 130, 70, (9,), dtype)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in given]
    w = sample_weight(given[1].float(), given[2].float(), key=KEY)[0]
    eps = (w - given[1].float()) / torch.nn.functional.softplus(given[2].float())
    family, constants, _ = PRIORS[prior]
    options = family, RHO, STD, constants, 0, True, "sum", -1
    w, kl, _ = OPS.elementwise(*exact[1:5], None, eps.double().detach(), None, *options)
    truth = torch.nn.functional.linear(exact[0], w, exact[5]), kl
    plain = kept(prior, given)
    found = op(prior, given)
    for got, other, right in zip(
        (*found, *gradients(found, given)), (*plain, *gradients(plain, given)),
        (*truth, *gradients(truth, exact)), strict=True,
    ):  # fmt: skip
        limit = 2 * (other.double() - right).norm() + 1e-6 * right.norm()
        assert (got.double() - right).norm() <= limit


@pytest.mark.parametrize("missing", ["y", "kl", "x", "mu", "all but x", "bias"])
def test_what_is_not_asked_for(missing, way):
    """Gradients that do not come, and such as nobody wants."""
    given = inputs("rows", 37, 129, (4,))
    if missing in ("x", "mu"):
        given[("x", "mu").index(missing)].requires_grad_(False)
    if missing == "all but x":
        for t in given[1:]:
            t.requires_grad_(False)
    if missing == "bias":
        given[5] = None
    leaves = [t for t in given if t is not None and t.requires_grad]

    def pulled(found):
        total = 0.0 if missing == "y" else found[0].sin().sum()
        total = total if missing in ("kl", "all but x") else total + 0.3 * found[1]
        return torch.autograd.grad(total, leaves, materialize_grads=True)

    for got, right in zip(pulled(op("rows", given)), pulled(kept("rows", given)), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", ["standard", "rows", "mixture"])
def test_gradcheck(prior, way):
    given = inputs(prior, 6, 3, (2,), torch.float64)
    leaves = [t for t in given if t is not None]

    def call(*leaves):
        rest = iter(leaves)
        return op(prior, [None if t is None else next(rest) for t in given])

    torch.autograd.gradcheck(call, leaves)
    torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("prior", ["numbers", "rows"])
def test_opcheck(prior, backend):
    given = inputs(prior, 6, 5, (2,))
    family, constants, _ = PRIORS[prior]
    opcheck(OPS.sampled_linear.default, (*given, KEY, family, RHO, STD, constants))
    bare = [t if t is None else t.detach() for t in given]
    dy, dkl = torch.randn(2, 6), torch.tensor(0.3)
    needs = [t is not None for t in given]
    args = (dy, dkl, *bare, KEY, family, RHO, STD, constants, needs)
    opcheck(OPS.sampled_linear_backward.default, args)


def test_vmap_and_grad(backend):
    given = inputs("standard", 6, 5, (2,))
    bare = [t if t is None else t.detach() for t in given]

    def loss(call):
        return lambda x, mu: sum(t.sin().sum() for t in call(x, [mu, bare[2]], bare[5]))

    family, constants, _ = PRIORS["standard"]
    spec = Spec(family, RHO, STD, tuple(constants))

    def by_parts(x, params, bias):
        w, kl = sample_weight(*params, key=KEY)
        return torch.nn.functional.linear(x, w, bias), kl

    x = torch.randn(3, 2, 5)
    each = loss(lambda x, params, bias: sampled_linear(x, params, bias, KEY, spec))
    found = vmap(grad(each, argnums=(0, 1)), (0, None))(x, bare[1])
    want = [grad(loss(by_parts), argnums=(0, 1))(one, bare[1]) for one in x]
    for got, right in zip(found, zip(*want, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(right), rtol=1e-5, atol=1e-5)


def test_threads_give_the_same(backend):
    """Panels of two threads: sums in a fixed order, and the same weights."""
    given = inputs("rows", *((64, 48) if backend == "reference" else (700, 300)), (5,))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            one = op("rows", given)
            found.append((*one, *gradients(one, given)))
    finally:
        torch.set_num_threads(before)
    for one, two, again in zip(*found, strict=True):
        assert torch.equal(two, again)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_memory(way):
    """Beside the gradients of mu and rho a step has little of the weights' size."""
    given = inputs("standard", 2048, 1024, (8,))

    def step():
        y, kl = op("standard", given)
        (y.sum() + kl).backward()

    step()
    for t in given:
        if t is not None:
            t.grad = None
    if way != "reference":  # whose formula has tensors of a panel's size on the way
        assert peak(step) <= 2.2 * given[1].nbytes
    else:
        assert peak(step) <= 2.9 * given[1].nbytes


def test_what_is_refused(backend):
    x, mu, rho, _, _, bias = inputs("standard", 6, 5, (2,))
    family, constants, _ = PRIORS["standard"]

    def call(*given, family=family, constants=constants):
        OPS.sampled_linear(*given, KEY, family, RHO, STD, constants)

    with pytest.raises(ValueError, match=r"\(2, 4\) and \(6, 5\)"):
        call(x[:, :4], mu, rho, None, None, bias)
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\)"):
        call(x, mu, rho, None, None, bias[:5])
    with pytest.raises(ValueError, match="float64"):
        call(x.double(), mu, rho, None, None, bias)
    with pytest.raises(ValueError, match="rho must have mu's shape"):
        call(x, mu, rho[:1], None, None, bias)
    with pytest.raises(ValueError, match="other noise"):
        call(x, mu, rho, None, None, bias, family="laplace", constants=[])
    with pytest.raises(ValueError, match="needs must have"):
        OPS.sampled_linear_backward(
            x[:, :1].expand(2, 6), None, x, mu, rho, None, None, bias, KEY, family, RHO, STD,
            constants, [True],
        )  # fmt: skip
    with fused_reparam.backend(backend), pytest.raises(ValueError, match="grad_y"):
        OPS.sampled_linear_backward(
            x, None, x, mu, rho, None, None, bias, KEY, family, RHO, STD, constants, [True] * 6
        )


@pytest.mark.parametrize("prior", ["rows", "mixture"])
def test_forward_mode(prior, way):
    """Tangents in float64 are the central differences of the op's own results."""
    given = [t if t is None else t.detach() for t in inputs(prior, 37, 29, (3,), torch.float64)]
    at = [i for i, t in enumerate(given) if t is not None]
    generator = torch.Generator().manual_seed(4)

    def results(*tensors):
        placed = dict(zip(at, tensors, strict=True))
        x, *params, bias = (placed.get(i) for i in range(len(given)))
        params = [t for t in params if t is not None]
        family, constants, _ = PRIORS[prior]
        return sampled_linear(x, params, bias, KEY, Spec(family, RHO, STD, tuple(constants)))

    leaves = [given[i] for i in at]
    along = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in leaves]
    found = jvp(results, tuple(leaves), tuple(along))[1]
    step = 1e-5
    ahead, behind = (
        results(*(t + sign * step * d for t, d in zip(leaves, along, strict=True)))
        for sign in (1, -1)
    )
    for got, after, before in zip(found, ahead, behind, strict=True):
        want = (after - before) / (2 * step)
        assert (got - want).norm() <= 1e-6 * want.norm()
