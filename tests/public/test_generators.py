"""A generator for each item of a batch, and a CPU's generator for tensors elsewhere."""

from itertools import product

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.laws import LAWS, SHAPE
from tests.helpers.loops import where
from tests.helpers.public_cases import leaves

EVERY_LAW = pytest.mark.parametrize("name", LAWS)
BATCH = SHAPE[0]


def generators(count=BATCH, device="cpu"):
    return [torch.Generator(device).manual_seed(seed) for seed in range(count)]


def same(got, want, backend):
    """Bit for bit, but where PyTorch's own operators leave the last bit to a place in memory."""
    if backend == "native":
        assert torch.equal(got, want)
    else:
        eps = 2.0 * torch.finfo(got.dtype).eps
        torch.testing.assert_close(got, want, rtol=eps, atol=eps)


def item(params, i):
    """Parameters of one item, as a batch of one."""
    return [t if t.dim() < 2 else t[i : i + 1] for t in params]


@EVERY_LAW
@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_each_item_is_as_drawn_alone(backend, name, rng):
    names, ours, _ = LAWS[name]
    for dtype, shape in ((torch.float32, ()), (torch.bfloat16, (2, 2)), (torch.float64, (3,))):
        if rng == "torch" and name == "student_t" and dtype == torch.bfloat16:
            continue  # PyTorch has no gamma variates of 16 bits on a CPU
        with where(dtype, shape):
            params = leaves(names.split(), SHAPE, dtype)
            many, alone = generators(), generators()
            z = ours(*params, generator=many, rng=rng, sample_shape=shape)
            assert z.dtype == dtype
            assert z.shape == (*shape, *SHAPE)
            weights = torch.linspace(0.5, 1.5, z.numel()).view(z.shape).to(dtype)
            grads = torch.autograd.grad(z, params, weights)
            for i, generator in enumerate(alone):
                one = [t.detach().requires_grad_() for t in item(params, i)]
                want = ours(*one, generator=generator, rng=rng, sample_shape=shape)
                same(z.select(len(shape), i), want.select(len(shape), 0), backend)
                assert torch.equal(many[i].get_state(), generator.get_state())
                of_item = weights.narrow(len(shape), i, 1)
                for g, w in zip(grads, torch.autograd.grad(want, one, of_item), strict=True):
                    eps = 4.0 * torch.finfo(dtype).eps
                    torch.testing.assert_close(g[i], w[0], rtol=eps, atol=eps)


def test_of_every_backend(device):
    """Of a normal and of another base, with what comes beside the sample."""
    mu, std = (t.to(device) for t in leaves(("mu", "std"), (3, 2, 4)))
    for call in (
        lambda m, s, g: fr.gaussian_latent(m, std=s, reduction="sample", generator=g),
        lambda m, s, g: fr.tanh_normal_rsample(m, std=s, generator=g),
        lambda m, s, g: (fr.weibull_rsample(s, s, generator=g), s),
        lambda m, s, g: fr.categorical_latent(m, reduction="sample", generator=g),
    ):
        found = call(mu, std, generators(device=device))
        for i, generator in enumerate(generators(device=device)):
            for got, want in zip(
                found, call(mu[i : i + 1], std[i : i + 1], generator), strict=True
            ):
                torch.testing.assert_close(got[i : i + 1], want)


def test_broadcast_parameters_moments_and_memory_formats(backend):
    mu, row = torch.randn(3, 4, 2, 5), torch.randn(5)
    last = mu.to(memory_format=torch.channels_last)
    for rng in ("philox", "torch"):
        for call in (
            lambda t, g: fr.gaussian_rsample(t, logvar=row, generator=g, rng=rng),
            lambda t, g: fr.gaussian_rsample(row[None], logvar=t, generator=g, rng=rng),
            lambda t, g: fr.gaussian_latent_from_moments(t, generator=g, rng=rng)[0],
            lambda t, g: fr.gumbel_softmax(t, dim=1, generator=g, rng=rng),
        ):
            for t in (mu, last):
                z = call(t, generators())
                for i, generator in enumerate(generators()):
                    assert torch.equal(z[i : i + 1], call(t[i : i + 1], generator))


def test_the_noise_is_returned(backend):
    mu = torch.zeros(3, 4, dtype=torch.float16)
    z, _, eps = fr.gaussian_latent(mu, std=1.0, generator=generators(), return_eps=True)
    assert eps.dtype == torch.float16
    assert torch.equal(z, eps)


def test_a_list_of_one_is_that_generator(backend):
    loc = torch.zeros(3, 4)
    one = torch.Generator().manual_seed(7)
    got = fr.loc_scale_rsample(loc, 1.0, "cauchy", generator=[one])
    assert torch.equal(got, fr.loc_scale_rsample(loc, 1.0, "cauchy", generator=one.manual_seed(7)))


def test_no_items(backend):
    loc = torch.zeros(0, 4, requires_grad=True)
    assert fr.loc_scale_rsample(loc, 1.0, generator=[]).shape == (0, 4)
    assert fr.one_hot_categorical(loc, generator=()).shape == (0, 4)


@pytest.mark.parametrize(
    "layer",
    [fr.FusedGumbelSoftmax(), fr.FusedRelaxedBernoulli(), fr.FusedOneHotCategorical(),
     fr.FusedCategoricalLatent(reduction="none")],
)  # fmt: skip
def test_modules_pass_them_on(layer):
    x = torch.randn(3, 4)
    found = layer(x, generator=generators())
    found = found if isinstance(found, tuple) else (found,)
    for i, generator in enumerate(generators()):
        wants = layer(x[i : i + 1], generator=generator)
        for got, want in zip(found, wants if isinstance(wants, tuple) else (wants,), strict=True):
            assert torch.equal(got[i : i + 1], want)


def test_latents_and_policies_pass_them_on():
    mu, x = torch.randn(3, 4), torch.randn(3, 4)
    for layer in (
        fr.FusedGaussianLatent(),
        fr.FusedGaussianLatent(rng="torch"),
        fr.FusedTanhNormal(),
    ):
        z = layer(mu, x, generator=generators())[0]
        for i, generator in enumerate(generators()):
            assert torch.equal(
                z[i : i + 1], layer(mu[i : i + 1], x[i : i + 1], generator=generator)[0]
            )


@EVERY_LAW
def test_examples_of_a_vmap_draw_from_them(name):
    names, ours, _ = LAWS[name]
    params = [t.detach() for t in leaves(names.split(), SHAPE)]
    params = [torch.stack((t, t)) for t in params]
    for rng, shape, make in product(
        ("philox", "torch"), ((), (2,)), (generators, torch.Generator)
    ):  # fmt: skip

        def draw(*p, rng=rng, shape=shape, make=make):
            return ours(*p, rng=rng, sample_shape=shape, generator=make())

        z = torch.func.vmap(draw, randomness="different")(*params)
        assert z.shape == (2, *shape, *SHAPE)
        assert not torch.equal(z[0], z[1])


def test_wrong_lists():
    loc = torch.zeros(3, 4)
    for call, shape in (
        (lambda g: fr.loc_scale_rsample(loc, 1.0, generator=g), r"\(3, 4\)"),
        (lambda g: fr.gumbel_softmax(loc, generator=g, sample_shape=2), r"\(3, 4\)"),
        (lambda g: fr.one_hot_categorical(loc, generator=g, rng="torch"), r"\(3, 4\)"),
        (lambda g: fr.gaussian_rsample(loc[0, 0], std=1.0, generator=g), r"\(\)"),
    ):
        with pytest.raises(
            ValueError, match=f"each item of the batch, dim 0 of shape {shape}, got 2"
        ):
            call(generators(2))
    with pytest.raises(TypeError, match="a list whose item 1 is 3 of type int"):
        fr.exponential_rsample(loc + 1.0, generator=[torch.Generator(), 3, None])
    with pytest.raises(ValueError, match=r"dim 0, which holds the classes of logits \(3, 4\)"):
        fr.gumbel_softmax(loc, dim=0, generator=generators())
    with pytest.raises(ValueError, match="at most one of key, generator and eps"):
        fr.exponential_rsample(loc + 1.0, generator=generators(), key=noise.key(0))


def test_a_generator_of_the_cpu_serves_another_device():
    """Whose kernels need not run for that: a meta tensor has only a shape."""
    generator, twin = generators(1)[0], generators(1)[0]
    key = noise.draw_key("meta", generator)
    assert key.device.type == "meta"
    noise.draw_key("cpu", twin)
    assert torch.equal(generator.get_state(), twin.get_state())
    loc = torch.zeros(3, 4, device="meta")
    for rng in ("philox", "torch"):
        z = fr.loc_scale_rsample(loc, 1.0, "laplace", generator=generator, rng=rng)
        assert z.device.type == "meta"
        fr.loc_scale_rsample(torch.zeros(3, 4), 1.0, "laplace", generator=twin, rng=rng)
        assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.gpu
def test_a_generator_of_the_cpu_draws_its_own_numbers_for_a_gpu():
    for (name, (names, ours, _)), rng in product(LAWS.items(), ("philox", "torch")):
        with where(name, rng):
            params = leaves(names.split(), SHAPE)
            there = [t.cuda() for t in params]
            for make in (lambda: generators(1)[0], generators):
                want = ours(*params, generator=make(), rng=rng)
                got = ours(*there, generator=make(), rng=rng)
                torch.testing.assert_close(got.cpu(), want)
