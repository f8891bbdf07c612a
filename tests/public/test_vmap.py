"""Every public function under functorch: vmap, its randomness, per-sample gradients."""

import pytest
import torch
from torch.func import grad, vjp, vmap

from fused_reparam import kumaraswamy_kl, noise
from tests.helpers.public_cases import (
    EVERY,
    EVERY_NOISY,
    SHAPE,
    given_noise,
    given_noise_params,
    loss,
)

KEY = noise.key(2)
BATCH = 3


def examples(case):
    """A batch of each parameter; of several the last is one for all. Where each is mapped."""
    params = [t.detach() for t in case.params((BATCH, *SHAPE))]
    dims = [0] * len(params)
    params[0], dims[0] = params[0].movedim(0, 2), 2
    if len(params) > 1:
        params[-1], dims[-1] = params[-1][0], None
    return params, dims


def example(params, dims, i):
    return [t if d is None else t.select(d, i) for t, d in zip(params, dims, strict=True)]


@EVERY
def test_each_example_is_as_alone(case):
    """With the numbers that it would get."""
    params, dims = examples(case)
    got = vmap(lambda *p: case(*p, key=KEY), tuple(dims), randomness="error")(*params)
    for i in range(BATCH):
        for g, w in zip(got, case(*example(params, dims, i), key=KEY), strict=True):
            torch.testing.assert_close(g[i], w)


@EVERY
def test_per_sample_gradients(case):
    params, dims = examples(case)

    def number(*p):
        return loss(case(*p, key=KEY))

    every = tuple(range(len(params)))
    got = vmap(grad(number, argnums=every), tuple(dims), randomness="error")(*params)
    for i in range(BATCH):
        leaves = [t.clone().requires_grad_() for t in example(params, dims, i)]
        for g, w in zip(got, torch.autograd.grad(number(*leaves), leaves), strict=True):
            torch.testing.assert_close(g[i], w)


@EVERY_NOISY
def test_randomness_is_followed(case):
    one = [t.detach() for t in case.params()]
    batch = [t.expand(BATCH, *SHAPE) for t in one]

    def first(*p):
        return case(*p)[0]

    same = vmap(first, randomness="same")(*batch)
    assert torch.equal(same, same[:1].expand_as(same))
    assert not torch.equal(same, vmap(first, randomness="same")(*batch)), "a draw of its own"
    different = vmap(first, randomness="different")(*batch)
    assert len({tuple(z.flatten().tolist()) for z in different}) == BATCH
    with pytest.raises(RuntimeError, match="random"):
        vmap(first, randomness="error")(*batch)


@EVERY_NOISY
def test_gradients_of_examples_with_noise_of_their_own(case):
    """Outputs and gradient are those of the key that the example drew."""
    params, dims = examples(case)
    every = tuple(range(len(params)))

    def number(key, *p):
        outputs = case(*p, key=key)
        return loss(outputs), outputs

    def draw(*p):
        key = noise.draw_key()
        of_params = grad(lambda *p: number(key, *p), argnums=every, has_aux=True)
        return *of_params(*p), key

    found, outputs, keys = vmap(draw, tuple(dims), randomness="different")(*params)
    for i in range(BATCH):
        leaves = [t.clone().requires_grad_() for t in example(params, dims, i)]
        total, alone = number(keys[i], *leaves)
        want = *alone, *torch.autograd.grad(total, leaves)
        for g, w in zip((*outputs, *found), want, strict=True):
            torch.testing.assert_close(g[i], w)


def test_given_noise_and_its_gradients():
    batch = [t.detach() for t in given_noise_params(BATCH)]
    every = tuple(range(len(batch)))

    def number(*p):
        return loss(given_noise(*p))

    got = (*vmap(given_noise)(*batch), *vmap(grad(number, argnums=every))(*batch))
    for i in range(BATCH):
        one = [t[i].clone().requires_grad_() for t in batch]
        want = *given_noise(*one), *torch.autograd.grad(number(*one), one)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g[i], w)


@EVERY
def test_an_empty_batch(case):
    """Results and gradients of the usual shapes, with nothing in them, as PyTorch's operators."""
    if case.options.get("beta") or "beta_of_all" in case.names or "free_bits_of_all" in case.names:
        pytest.skip("PyTorch itself multiplies no batch of no numbers")
    if case.function is kumaraswamy_kl or case.options.get("base") == "gumbel":
        pytest.skip("likewise: made of such products")
    params = [t.detach() for t in case.params()]
    none = [t.new_empty(0, *t.shape) for t in params]
    keys = torch.zeros(0, 2, dtype=torch.uint64)

    def pulled(*p, **sources):
        outputs, pull = vjp(lambda *p: case(*p, **sources), *p)
        return *outputs, *pull(tuple(torch.ones_like(o) for o in outputs))

    want = [(torch.Size((0, *t.shape)), t.dtype) for t in pulled(*params, key=KEY)]
    ways = {
        "one key": lambda: vmap(lambda *p: pulled(*p, key=KEY))(*none),
        "a key for each": lambda: vmap(lambda k, *p: pulled(*p, key=k))(keys, *none),
        "drawn": lambda: vmap(pulled, randomness="different")(*none),
        "drawn for all": lambda: vmap(pulled, randomness="same")(*none),
    }
    for call in ways.values():
        assert [(t.shape, t.dtype) for t in call()] == want
