"""``rng="torch"`` and ``eps=`` in every family: PyTorch's own numbers, and noise that is given."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import vmap
from torch.utils.checkpoint import checkpoint

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.laws import LAWS, SHAPE, noise_of
from tests.helpers.loops import where
from tests.helpers.public_cases import leaves

EVERY_LAW = pytest.mark.parametrize("name", LAWS)
# Where both make the same operations of a drawn number, or the noise alone decides.
EXACT = ("half_normal", "half_cauchy", "hard gumbel_softmax", "one_hot_categorical")


# PyTorch's ContinuousBernoulli divides what has cancelled by small logits.
TOLERANCE = dict.fromkeys(LAWS, 16.0) | {"continuous_bernoulli": 4000.0}


def close(got, want, dtype, name="gaussian"):
    eps = TOLERANCE[name] * torch.finfo(dtype).eps
    torch.testing.assert_close(got, want, rtol=eps, atol=eps)


@EVERY_LAW
def test_the_numbers_of_the_counterpart_and_its_gradients(target, name):
    names, ours, law = LAWS[name]
    for dtype, shape in ((torch.float64, ()), (torch.float32, (2, 3))):
        with where(dtype, shape):
            params = [t.to(target[1]) for t in leaves(names.split(), SHAPE, dtype)]
            found = []
            for draw in (
                lambda: ours(*params, rng="torch", sample_shape=shape),
                lambda: law(*params).rsample(torch.Size(shape)),
            ):
                torch.manual_seed(3)
                z = draw()
                weights = torch.linspace(0.5, 1.5, z.numel(), dtype=dtype, device=z.device)
                grads = torch.autograd.grad(z, params, weights.view(z.shape))
                found.append((z, *grads, torch.rand(2, device=target[1])))
            (got, *grads, after), (want, *wants, later) = found
            assert torch.equal(after, later), "the generator's state"
            close(got, want, dtype, name)
            if name in EXACT:
                assert torch.equal(got, want)
            for g, w in zip(grads, wants, strict=True):
                close(g, w, dtype, name)


@EVERY_LAW
def test_a_generator_draws_them_too(backend, name):
    names, ours, _ = LAWS[name]
    params = leaves(names.split(), SHAPE)
    torch.manual_seed(4)
    want = ours(*params, rng="torch")
    generator = torch.Generator().manual_seed(4)
    assert torch.equal(ours(*params, rng="torch", generator=generator), want)
    assert torch.equal(generator.get_state(), torch.get_rng_state())


@EVERY_LAW
def test_given_noise_in_place_of_a_keys(target, name):
    names, ours, _ = LAWS[name]
    key = noise.key(5)
    for shape in ((), (2, 3)):
        with where(shape):
            params = [t.to(target[1]) for t in leaves(names.split(), SHAPE)]
            eps = noise_of(name, key.to(target[1]), (*shape, *SHAPE), torch.float32)
            got, want = ours(*params, eps=eps, sample_shape=shape), ours(
                *params, key=key, sample_shape=shape
            )  # fmt: skip
            close(got, want, torch.float32)


@EVERY_LAW
def test_gradients_for_the_noise(backend, name):
    """By the formula, where it has one; the choice of a class has none."""
    names, ours, _ = LAWS[name]
    params = leaves(names.split(), (2, 3), torch.float64)
    eps = noise_of(name, noise.key(6), (2, 2, 3), torch.float64).requires_grad_()
    if "hard" in name or "one_hot" in name:
        z = ours(*params, eps=eps, sample_shape=2)
        found = torch.autograd.grad(z.sin().sum(), eps, materialize_grads=True)[0]
        assert bool(found.any()) == ("hard" in name)
        return
    gradcheck(lambda eps, *p: ours(*p, eps=eps, sample_shape=2), (eps, *params))


@EVERY_LAW
def test_pytorchs_numbers_under_vmap_and_in_traced_graphs(name):
    names, ours, _ = LAWS[name]
    params = [t.detach() for t in leaves(names.split(), SHAPE)]

    def draw(*p):
        return ours(*p, rng="torch", sample_shape=2)

    batch = [t.expand(4, *SHAPE) for t in params]
    if name != "one_hot_categorical":  # which PyTorch draws for different examples alone
        same = vmap(draw, randomness="same")(*batch)
        assert torch.equal(same, same[:1].expand_as(same))
    different = vmap(draw, randomness="different")(*batch)
    assert different.shape == (4, 2, *SHAPE)
    assert len({tuple(z.flatten().tolist()) for z in different}) == 4
    with pytest.raises(RuntimeError, match="random"):
        vmap(draw, randomness="error")(*batch)
    graph = torch.jit.trace(draw, tuple(params), check_trace=False)
    assert not torch.equal(graph(*params), graph(*params))
    longer = [torch.cat((t, t)) for t in params]
    assert graph(*longer).shape == (2, 2 * SHAPE[0], *SHAPE[1:])


@EVERY_LAW
def test_a_checkpoint_draws_the_numbers_again(name):
    names, ours, _ = LAWS[name]
    params, found = leaves(names.split(), SHAPE), []

    def draw(*p):
        return ours(*p, rng="torch", sample_shape=(2, 1)).sin()

    for call in (draw, lambda *p: checkpoint(draw, *p, use_reentrant=False)):
        torch.manual_seed(8)
        found.append(torch.autograd.grad(call(*params).sum(), params))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


def test_noise_counts_among_the_largest_logits(backend):
    """A float32 logit of 1e8 has no digits for the noise that is added to it."""
    logits = torch.tensor([1e8, 1e8, 0.0])
    eps = torch.tensor([0.25, 0.5, 9.0])
    want = torch.softmax(eps[:2], 0)
    torch.testing.assert_close(fr.gumbel_softmax(logits, eps=eps)[:2], want)


def test_the_kl_of_categories_is_that_of_the_logits(backend):
    logits, eps = torch.randn(3, 5, requires_grad=True), torch.randn(2, 3, 5)
    for options in ({"eps": eps}, {"rng": "torch"}, {}):
        with where(options):
            _, kl = fr.categorical_latent(logits, sample_shape=2, **options)
            want = fr.categorical_latent(logits)[1]
            assert torch.equal(kl, want)
            for got, expected in zip(
                torch.autograd.grad(kl, logits), torch.autograd.grad(want, logits), strict=True
            ):
                assert torch.equal(got, expected)


@pytest.mark.parametrize("shape", [(), (4,), (2, 0), (2, 3)])
def test_one_variable_has_the_counterparts_class(backend, shape):
    """Logits of one dim: a class of no dims."""
    logits = torch.tensor([0.5, -1.0, 0.0, 2.0], requires_grad=True)
    torch.manual_seed(2)
    y = fr.one_hot_categorical(logits, rng="torch", sample_shape=shape)
    assert y.shape == (*shape, 4)
    if y.numel():
        torch.manual_seed(2)
        law = torch.distributions.OneHotCategoricalStraightThrough(logits=logits)
        want = law.rsample(torch.Size(shape))
        assert torch.equal(y, want.round())
        weights = torch.linspace(-1.0, 1.0, y.numel()).view(y.shape)
        grads = (torch.autograd.grad(found, logits, weights)[0] for found in (y, want))
        torch.testing.assert_close(*grads)


def test_memory_formats_have_the_counterparts_numbers(backend):
    """torch.distributions draws into contiguous memory, torch.randn_like as its tensor lies."""
    loc = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    z = fr.loc_scale_rsample(loc, 1.0, rng="torch")
    torch.manual_seed(1)
    close(z, torch.distributions.Normal(loc, 1.0).rsample(), torch.float32)
    assert z.stride() == loc.stride()
    torch.manual_seed(1)
    z = fr.gaussian_rsample(loc, std=1.0, rng="torch")
    torch.manual_seed(1)
    close(z, loc + torch.randn_like(loc), torch.float32)


def test_wrong_noise():
    loc = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"sample's shape \(2, 4, 3\), got \(4, 3\)"):
        fr.loc_scale_rsample(loc, 1.0, "laplace", eps=loc, sample_shape=2)
    with pytest.raises(ValueError, match=r"sample's shape \(4, 3\), got \(3,\)"):
        fr.gumbel_softmax(loc, eps=loc[0])
    with pytest.raises(ValueError, match="at most one of key, generator and eps"):
        fr.exponential_rsample(loc + 1.0, eps=loc, key=noise.key(0))
    with pytest.raises(ValueError, match='rng="torch" draws from a generator'):
        fr.weibull_latent(loc + 1.0, 1.0, rng="torch", key=noise.key(0))
    with pytest.raises(ValueError, match="rng must be one of philox, torch, got 'numpy'"):
        fr.one_hot_categorical(loc, rng="numpy")
