"""The element-wise op under torch.compile, opcheck and functorch transforms.

test_public_compile.py has what holds of every family: the same numbers, keys, memory budgets, no
recompilation.
"""

import pytest
import torch
from torch.func import grad, jacrev, vmap
from torch.library import opcheck

from fused_reparam import noise
from fused_reparam.ops.elementwise import elementwise
from tests.helpers.elementwise_cases import (
    FAMILIES,
    cotangents,
    gradients,
    noise_for,
    params,
    results,
    spec,
)

OPS = torch.ops.fused_reparam


def padded(p):
    return (*p, *(None,) * (4 - len(p)))


SPECS = [
    spec("gaussian_prior", 2, "none", order=[1, 0]),
    spec("log_prob", 0, "mean"),
    spec("mixture", reduction=None),
    spec("tanh_normal", 2, "last")._replace(order=None),
]


@pytest.mark.parametrize("s", SPECS, ids=lambda s: s.family)
def test_opcheck(s):
    p, key = params(s.family, (3, 5)), noise.key(1)
    opcheck(OPS.elementwise.default, (*padded(p), key, None, *s))
    eps = noise_for(key, p, s).requires_grad_()
    opcheck(OPS.elementwise.default, (*padded(p), None, eps, *s))
    outputs = [t.detach() for t in OPS.elementwise(*padded(p), key, None, *s)]
    grads = [g if g.numel() else None for g in cotangents(outputs)]
    needs = [i < len(p) for i in range(4)] + [True]
    args = (*grads, *padded([t.detach() for t in p]), None, eps.detach(), *s, needs)
    opcheck(OPS.elementwise_backward.default, args)


def test_opcheck_moments():
    moments, other = (t.detach() for t in params("gaussian_prior", (3, 4, 2))[:2])
    p = (moments.requires_grad_(), None, other[:, :2], other[:, 2:])
    key, s = noise.key(1), spec("gaussian_prior", 2)._replace(split=1, order=None)
    opcheck(OPS.elementwise.default, (*p, key, None, *s))
    grads = [g.detach() if g.numel() else None for g in OPS.elementwise(*p, key, None, *s)]
    saved = [t if t is None else t.detach() for t in (*p, key, None)]
    for needs in ([True, False, True, False, False], [False, False, False, True, False]):
        opcheck(OPS.elementwise_backward.default, (*grads, *saved, *s, needs))


def test_opcheck_broadcast_and_bfloat16():
    p = [t[(slice(None),) if i else (slice(1),)].to(memory_format=torch.preserve_format)
         for i, t in enumerate(params("log_prob_prior", (3, 5), torch.bfloat16))]  # fmt: skip
    key, s = noise.key(1), spec("log_prob_prior", 2)
    opcheck(OPS.elementwise.default, (*padded(p), key, None, *s))
    grads = [g.detach() for g in OPS.elementwise(*p, key, None, *s)]
    needs = [True, False, True, True, False]
    saved = [*(t.detach() for t in p), key, None]
    opcheck(OPS.elementwise_backward.default, (*grads, *saved, *s, needs))
    opcheck(OPS.base_noise.default, (key, [3, 4], [1, 0], torch.float16, "gumbel", 0.0))


@pytest.mark.slow
def test_compiled_equals_eager_for_a_key():
    """By inductor, which also compiles what is around the op."""
    torch._dynamo.reset()
    key, p, s = noise.key(8), params("log_prob", (6, 10)), spec("log_prob", 2)

    def call(*p):
        z, terms = elementwise(p, key, None, s)
        return z, sum(v.sum() for v in terms) + (z * z).sum()

    want, got = call(*p), torch.compile(call, fullgraph=True)(*p)
    assert torch.equal(want[0], got[0])
    grads = cotangents(want)
    for a, b in zip(gradients(want, p, grads), gradients(got, p, grads), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_compiled_views_and_fresh_keys():
    """An intermediate's layout is the compiler's choice; each call and each run has its key."""
    torch._dynamo.reset()

    @torch.compile(fullgraph=True)
    def call(a, b):
        s = spec("laplace", order=[0, 2, 3, 1])
        z, (kl,) = elementwise((2 * a, b.exp()), noise.draw_key("cpu"), None, s)
        other, _ = elementwise((2 * a, b.exp()), noise.draw_key("cpu"), None, s)
        return z, kl, other

    a = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last).requires_grad_()
    b = torch.randn(4, 1, 1, requires_grad=True)
    torch.manual_seed(1)
    z, kl, other = call(a, b)
    again, _, _ = call(a, b)
    torch.manual_seed(1)
    same = call(a, b)[0]
    assert not torch.equal(z, other)
    assert not torch.equal(z, again)
    assert torch.equal(z, same)
    assert z.stride() == a.stride()
    eps = ((z - 2 * a) / b.exp()).detach()
    want = elementwise((2 * a, b.exp()), None, eps, spec("laplace", order=[0, 2, 3, 1]))
    torch.testing.assert_close(kl, want[1][0])
    for g, w in zip(torch.autograd.grad(z.square().sum() + kl.sum(), (a, b)),
                    torch.autograd.grad(want[0].square().sum() + want[1][0].sum(), (a, b)),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


VMAPPED = [("gaussian_prior", 0), ("log_prob", 2), ("tanh_normal", 1), ("relaxed_bernoulli", 0)]


@pytest.mark.parametrize(("family", "samples"), VMAPPED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vmap_over_a_given_key(family, samples, dtype):
    """Each example gets the numbers it would get alone."""
    key = noise.key(2)
    p = [t.detach() for t in params(family, (5, 3, 6), dtype)]
    p[-1] = p[-1][0, 0] if len(p) > 1 else p[-1]  # a row for all
    dims = [0] * len(p)
    dims[-1] = None if len(p) > 1 else 0
    if family == "gaussian_prior":
        p[1], dims[1] = p[1].movedim(0, 2), 2
    for s in (spec(family, samples), spec(family, samples, "none"), spec(family, samples, None)):
        got = vmap(lambda *p, s=s: results(p, s, key), tuple(dims))(*p)
        for i in range(5):
            one = [t if d is None else t.select(d, i) for t, d in zip(p, dims, strict=True)]
            for g, w in zip(got, results(one, s, key), strict=True):
                torch.testing.assert_close(g[i], w)


@pytest.mark.parametrize(("family", "samples"), VMAPPED)
def test_per_sample_gradients(family, samples):
    key = noise.key(2)
    p = [t.detach() for t in params(family, (5, 3, 6))]
    s = spec(family, samples)
    of = tuple(range(len(p)))

    def loss(*p):
        return sum(t.square().sum() for t in results(p, s, key))

    got = vmap(grad(loss, argnums=of))(*p)
    shared = vmap(grad(loss, argnums=of), (0, *(None,) * (len(p) - 1)))(
        p[0], *(t[0] for t in p[1:])
    )
    for i in range(5):
        for inputs, found in (
            ([t[i] for t in p], got),
            ([p[0][i], *(t[0] for t in p[1:])], shared),
        ):
            leaves = [t.clone().requires_grad_() for t in inputs]
            want = torch.autograd.grad(loss(*leaves), leaves)
            for g, w in zip(found, want, strict=True):
                torch.testing.assert_close(g[i], w)


def test_gradient_of_given_noise_under_vmap():
    p = [t.detach() for t in params("tanh_normal", (4,), torch.float64)]
    s = spec("tanh_normal", 2)
    eps = torch.randn(3, 2, 4, dtype=torch.float64)

    def loss(eps):
        return sum(t.square().sum() for t in results(p, s, eps=eps))

    got = vmap(grad(loss))(eps)
    for i in range(3):
        one = eps[i].clone().requires_grad_()
        torch.testing.assert_close(got[i], torch.autograd.grad(loss(one), one)[0])


@pytest.mark.parametrize("family", ["tanh_normal", "kumaraswamy"])
def test_nested_transforms(family):
    key, s = noise.key(2), spec(family)
    a, b = (t.detach() for t in params(family, (3,), torch.float64))

    def loss(b):
        return sum(t.square().sum() for t in results((a, b), s, key))

    leaf = b.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(f, leaf, retain_graph=True)[0] for f in first]
    torch.testing.assert_close(jacrev(jacrev(loss))(b), torch.stack(rows))
    torch.testing.assert_close(jacrev(grad(loss))(b), torch.stack(rows))
    both = torch.stack((b, 1.1 * b))
    torch.testing.assert_close(vmap(jacrev(loss))(both)[0], jacrev(loss)(b))
    torch.testing.assert_close(vmap(jacrev(jacrev(loss)))(both)[0], torch.stack(rows))


def test_fake_tensors_go_through_the_op():
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.ones(6, 2))
    for family in FAMILIES:
        s = spec(family, 3)
        z, terms = elementwise((fake,) * FAMILIES[family].parameters, noise.key(0), None, s)
        assert z.shape == (3, 6, 2)
        for term in terms:
            assert term.shape == ((3, 6) if FAMILIES[family].sampled else (6,))
