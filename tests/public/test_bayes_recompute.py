"""Bayesian layers with ``recompute=True``, whose drawn weights are not kept."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fused_reparam as fr
from fused_reparam import BayesianLinear, kl_divergence
from tests.helpers.allocations import peak

# Enough weights that it pays (2^19); odd, so that the last panel is not full.
IN, OUT = 517, 1031
PRIORS = {
    "standard": {},
    "numbers": {"prior_mean": 0.1, "prior_std": 0.4},
    "tensors": {"prior_mean": torch.randn(1) * 0.1, "prior_std": nn.Parameter(torch.tensor(0.3))},
    "mixture": {"mixture": (0.3, 1.5, 0.05)},
    "mixture of one": {"mixture": (1.0, 1.5, 0.05)},
    "mixture of tensors": {"mixture": (0.3, nn.Parameter(torch.tensor(1.5)), 0.05)},
}


def layers(prior="standard", **options):
    """A layer that keeps its weights, and one that does not, of the same parameters."""
    torch.manual_seed(0)
    keeps = BayesianLinear(IN, OUT, rho_init=-3.0, **copy.deepcopy(PRIORS[prior]), **options)
    draws = BayesianLinear(
        IN, OUT, rho_init=-3.0, recompute=True, **copy.deepcopy(PRIORS[prior]), **options
    )
    draws.load_state_dict(keeps.state_dict())
    return keeps, draws


def step(layer, x, call=lambda layer, x: layer(x)):
    """Outputs, KL and gradients of a step, of the same draw each time."""
    torch.manual_seed(1)
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = call(layer, x)
    kl = layer.kl()
    (y.square().mean() + kl / 1000).backward()
    return [y.detach(), kl.detach(), x.grad, *(p.grad for p in layer.parameters())]


def same(found, want, error=2e-5):
    for got, right in zip(found, want, strict=True):
        assert got.dtype == right.dtype
        assert (got - right).norm() <= error * right.norm()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_step_of_weights_that_are_kept(prior, bias, backend):
    keeps, draws = layers(prior, bias=bias)
    x = torch.randn(2, 3, IN)
    same(step(draws, x), step(keeps, x))


def test_memory(backend):
    """Of mu, rho, their gradients and all else at most 4.2 tensors of the weights' size."""
    layer = BayesianLinear(1024, 2048, recompute=True)
    x = torch.randn(8, 1024)

    def run():
        (layer(x).square().mean() + layer.kl()).backward()

    def tensors():
        """How many of the weights' size there are at most in a step."""
        run()
        layer.zero_grad()
        size = layer.weight_mu.nbytes
        return 2 + peak(run) / size

    if backend == "native":
        assert tensors() <= 4.2
    else:  # the formula in plain PyTorch has some tensors of a panel's size
        assert tensors() <= 4.9
    layer.recompute = False
    assert tensors() > 4.9, "the same measure of the layer that keeps them"


def test_eval_sampling_and_later(backend):
    keeps, draws = layers()
    x = torch.randn(4, IN)
    assert torch.equal(draws.eval()(x), keeps.eval()(x))
    with fr.sampling(keeps, draws):
        same(step(draws, x), step(keeps, x))
    keeps.recompute = True  # an attribute, as the other options
    same(step(keeps.train(), x), step(draws.train(), x))


def test_kl_is_of_the_pass_that_drew():
    _, layer = layers()
    x = torch.randn(4, IN)
    y = layer(x)
    kl = layer.kl()
    drawing = {node for node, _ in kl.grad_fn.next_functions}
    assert y.grad_fn in drawing
    kl.backward()
    y.sum()
    assert {n for n, _ in layer.kl().grad_fn.next_functions}.isdisjoint(drawing), "it is spent"
    torch.testing.assert_close(layer.kl(), kl)
    assert kl_divergence(nn.Sequential(layer)) == layer.kl()


def test_checkpoint_compile_and_autocast(backend):
    keeps, draws = layers("numbers")
    x = torch.randn(4, IN)
    want = step(keeps, x)
    same(step(draws, x, lambda layer, x: checkpoint(layer, x, use_reentrant=False)), want)

    def mixed(layer, x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    same(step(draws, x, mixed), step(keeps, x, mixed))
    compiled = [torch.compile(layer, backend="aot_eager", fullgraph=True) for layer in layers()]
    found = []
    for layer in compiled:
        torch.manual_seed(1)
        y = layer(x)
        y.square().mean().backward()
        found.append([y.detach(), *(p.grad for p in layer.parameters())])
    same(*found)


def test_what_keeps_its_weights():
    """Small layers, and transforms of ``torch.func``."""
    small = BayesianLinear(4, 3, recompute=True)
    assert "Sampled" not in small(torch.ones(2, 4)).grad_fn.name()
    large = BayesianLinear(2048, 2048, recompute=True)
    assert "Sampled" in large(torch.ones(2, 2048)).grad_fn.name()
    _, layer = layers()
    parameters = dict(layer.named_parameters())
    x = torch.randn(3, 2, IN)

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().mean()

    found = torch.vmap(torch.func.grad(loss), (None, 0), randomness="different")(parameters, x)
    assert found["weight_rho"].shape == (3, OUT, IN)


def test_copies_print_and_refuse():
    layer = BayesianLinear(4, 3, recompute=True)
    assert "recompute=True" in repr(layer)
    assert copy.deepcopy(layer).recompute
    assert BayesianLinear.from_linear(nn.Linear(4, 3), recompute=True).recompute
    assert not fr.bayesianize(nn.Linear(4, 3)).recompute
    with pytest.raises(ValueError, match="local_reparameterization and recompute"):
        BayesianLinear(4, 3, recompute=True, local_reparameterization=True)
    with pytest.raises(TypeError, match="recompute must be"):
        BayesianLinear(4, 3, recompute="yes")


def test_bayesianize(backend):
    def converted(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(3, IN, 1), nn.Flatten(), nn.Linear(IN, OUT))
        return fr.bayesianize(model, rho_init=-3.0, **options)

    keeps, draws = converted(), converted(recompute=True)
    assert draws[2].recompute
    assert not keeps[2].recompute
    x = torch.randn(4, 3, 1)
    assert "Sampled" in draws(x).grad_fn.name()

    def of_model(model):
        torch.manual_seed(1)
        (model(x).square().mean() + kl_divergence(model) / 1000).backward()
        return [p.grad for p in model.parameters()]

    same(of_model(draws), of_model(keeps))
    assert copy.deepcopy(draws)[2].recompute
    assert "recompute=True" in repr(draws)
    for mistaken in (nn.Conv1d(3, 4, 1), nn.Embedding(3, 4)):
        with pytest.raises(ValueError, match="recompute=True is for"):
            fr.bayesianize(mistaken, recompute=True)
        assert type(mistaken).__module__.startswith("torch.nn"), "nothing is converted"
    with pytest.raises(TypeError, match="recompute must be"):
        fr.bayesianize(nn.Linear(3, 4), recompute="yes")
