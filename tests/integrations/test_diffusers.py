"""diffusers' posteriors, patched, against what they were."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("diffusers", reason="diffusers is not installed", exc_type=ImportError)
from diffusers.models.autoencoders import autoencoder_kl, autoencoder_oobleck, vae

Posterior = vae.DiagonalGaussianDistribution
Oobleck = autoencoder_oobleck.OobleckDiagonalGaussianDistribution
MAKES = {"posterior": (Posterior, 4), "video": (Posterior, 5), "oobleck": (Oobleck, 3)}
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def moments(dims, dtype=torch.float32, seed=0, channels_last=False):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 8, 5, 4, 6)[:dims]
    t = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if channels_last:
        t = t.to(memory_format=torch.channels_last)
    return t.requires_grad_()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def both(call, rng="torch"):
    """What a call gives unpatched and patched, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("diffusers", rng=rng) as report:
        new = call()
    return old, new, report


@pytest.mark.parametrize("given", [None, "one", "list of one", "one each"])
@pytest.mark.parametrize("kind", MAKES)
def test_a_sample_of_the_same_noise(kind, given):
    make, dims = MAKES[kind]
    for dtype in FLOATS:
        for channels_last in (False, True) if dims == 4 else (False,):
            m = moments(dims, dtype, channels_last=channels_last)

            def sample(m=m):
                seeds = {"one": (7,), "list of one": (7,), "one each": (7, 8, 9)}.get(given, ())
                generator = generators(*seeds) or None
                z = make(m).sample(generator=generator[0] if given == "one" else generator)
                return z, torch.autograd.grad((z.double() ** 2).sum(), m)[0], z.stride()

            (old, old_grad, stride), (new, new_grad, new_stride), report = both(sample)
            assert report.calls == {"fused": 1}
            assert (new.dtype, new.shape, new_stride) == (old.dtype, old.shape, stride)
            near = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(new, old, rtol=near, atol=near)
            if dtype in FLOATS[:2]:  # which do not round at each step
                assert torch.equal(new, old)
            torch.testing.assert_close(new_grad, old_grad, rtol=8 * near, atol=16 * near)


@pytest.mark.parametrize("kind", MAKES)
def test_the_kl(kind):
    make, dims = MAKES[kind]
    for dtype in FLOATS:
        m, other = moments(dims, dtype), moments(dims, dtype, seed=1)

        def kl(m=m, other=other):
            p = make(m)
            found = [p.kl()] if kind == "oobleck" else [p.kl(), p.kl(make(other))]
            grads = torch.autograd.grad(sum(k.sum() for k in found), (m, other), allow_unused=True)
            return [*found, *(g for g in grads if g is not None)]

        old, new, report = both(kl)
        assert {*report.calls} == {"fused"}
        near = 1e-6 if dtype in FLOATS[:2] else 0.03
        for ours, theirs in zip(new, old, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=near, atol=10 * near)


def test_a_half_precision_kl_is_no_coarser_than_it_was():
    m = moments(4, torch.float16).detach() * 3
    exact = Posterior(m.double()).kl()
    old, new, _ = both(lambda: Posterior(m).kl())
    assert new.dtype == old.dtype == torch.float16
    assert (new - exact).abs().max() <= (old - exact).abs().max()


def test_calls_that_go_to_the_original():
    with integrations.patch("diffusers") as report:
        fixed = Posterior(moments(4), deterministic=True)
        assert torch.equal(fixed.sample(), fixed.mode())
        assert fixed.kl().tolist() == [0.0]
        with pytest.raises(IndexError):
            Posterior(moments(3)).kl()
        with pytest.raises(IndexError):
            Posterior(moments(4)).sample(generator=generators(1, 2))
        Posterior(moments(4)).sample(generator=generators(1, 2, 3, 4))
        Oobleck(moments(3)).kl(Oobleck(moments(3, seed=1)))
        calls = report.calls
    assert calls.pop("fused") == 1
    assert calls == {
        "fallback: deterministic": 1,
        "fallback: fewer than four dims, or a scale of another shape than the mean": 1,
        "fallback: another number of generators than items": 2,
        "fallback: to another posterior, where the original's sign of a logarithm is its own": 1,
    }


def test_a_model_that_imported_the_class_by_its_name():
    torch.manual_seed(0)
    model = autoencoder_kl.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    image = torch.randn(2, 3, 8, 8)

    def step():
        posterior = model.encode(image).latent_dist
        z = posterior.sample()
        loss = (model.decode(z).sample - image).square().mean() + posterior.kl().mean()
        return [loss, *torch.autograd.grad(loss, list(model.encoder.parameters()))]

    old, new, report = both(step)
    assert report.calls == {"fused": 2}
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(
        lambda m: Posterior(m).sample().sum() + Posterior(m).kl().sum(),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    with integrations.patch("diffusers") as report:
        compiled(moments(4)).backward()
    assert report.calls == {"compiled: fused": 2}
