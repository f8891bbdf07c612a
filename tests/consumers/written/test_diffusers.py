"""What diffusers' autoencoders draw, whose own tests take the mode nearly everywhere.

Run in diffusers' sources, for the small models that its tests make. Nothing here knows of an
integration: as it is and patched, the same is to hold, with the noise that PyTorch draws.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed", exc_type=ImportError)
theirs = pytest.importorskip(
    "tests.models.autoencoders", reason="this runs in diffusers' sources", exc_type=ImportError
)


def _configurations():
    """The classes that say how each model is made, by the model's name."""
    found = {}
    for module in pkgutil.iter_modules(theirs.__path__, theirs.__name__ + "."):
        try:
            one = importlib.import_module(module.name)
        except ImportError:  # of what is not installed
            continue
        for name, value in vars(one).items():
            if name.endswith("TesterConfig") and inspect.isclass(value) and name[:4] != "Base":
                found[name.removesuffix("TesterConfig")] = value
    return found


CONFIGURATIONS = _configurations()


def _posterior(name):
    """A model, its input, and the posterior of that."""
    configuration = CONFIGURATIONS[name]()
    torch.manual_seed(0)
    model = configuration.model_class(**configuration.get_init_dict()).eval()
    x = next(iter(configuration.get_dummy_inputs().values()))
    if "encode" not in dir(model):
        pytest.skip("a model that encodes nothing")
    encoded = model.encode(x)
    if "latent_dist" not in encoded:
        pytest.skip("a model without a posterior")
    posterior = encoded.latent_dist
    if not hasattr(posterior, "std"):
        pytest.skip("a posterior without a scale")
    return model, x, posterior


def _generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_sample_is_the_mean_and_the_scaled_noise_of_the_generator(name):
    _, _, q = _posterior(name)
    noise = torch.randn(q.mean.shape, generator=_generator(5))
    z = q.sample(generator=_generator(5))
    assert torch.equal(z, q.mean + q.std * noise)
    assert torch.equal(z, q.sample(_generator(5)))
    assert not torch.equal(z, q.sample(_generator(6)))
    torch.manual_seed(5)
    assert torch.equal(z, q.sample())  # of the default generator
    many = [_generator(5 + i) for i in range(len(q.mean))]
    shape = q.mean[:1].shape
    noise = torch.cat([torch.randn(shape, generator=g) for g in many])
    many = [_generator(5 + i) for i in range(len(q.mean))]
    assert torch.equal(q.sample(many), q.mean + q.std * noise)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_kl_and_its_gradient(name):
    _, _, q = _posterior(name)
    if not hasattr(q, "kl"):
        pytest.skip("a posterior without a KL")
    mean = q.mean.detach().double()
    if type(q).__name__.startswith("Oobleck"):
        var = q.std.detach().double().square()
        expected = (mean**2 + var - var.log() - 1.0).sum(1).mean()
    else:
        logvar = q.logvar.detach().double()
        expected = 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar).sum((1, 2, 3))
    torch.testing.assert_close(q.kl().double(), expected, rtol=1e-5, atol=1e-6)
    moments = q.parameters.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(type(q)(moments).kl().sum(), moments)
    assert gradient.isfinite().all()
    assert gradient.count_nonzero() >= gradient.numel() // 2  # one variance may serve all


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_forward_with_a_sample_is_the_decoded_sample(name):
    model, x, _ = _posterior(name)
    given = inspect.signature(model.forward).parameters
    if not {"sample_posterior", "generator"} <= set(given):
        pytest.skip("a model whose forward draws nothing")

    def forward(seed):
        torch.manual_seed(0)  # some decoders draw noise of their own
        return model(x, sample_posterior=True, generator=_generator(seed)).sample

    try:
        first, again = forward(3), forward(3)
    except TypeError:
        pytest.skip("a model whose decoder needs more than a sample")
    assert torch.equal(first, again)
    assert not torch.equal(first, forward(4))
    first.square().mean().backward()
    gradients = [p.grad for n, p in model.named_parameters() if "encoder" in n]
    assert any(g is not None and g.count_nonzero() for g in gradients)
