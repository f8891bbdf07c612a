"""blitz's layers, patched, against what they were."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("blitz", reason="blitz is not installed")
from blitz import modules
from blitz.losses import kl_divergence_from_nn
from blitz.modules.weight_sampler import PriorWeightDistribution, TrainableRandomDistribution
from blitz.utils import variational_estimator

D = torch.distributions
PRIORS = {
    "one normal": {},
    "narrow": {"prior_sigma_1": 0.01},
    "two normals": {"prior_pi": 0.5, "prior_sigma_1": 1.0, "prior_sigma_2": 0.002},
    "only the second": {"prior_pi": 0.0},
    "given": {"prior_dist": D.Normal(0.5, 0.2)},
}
LAYERS = {  # by the arguments of a layer, and the shape of an input
    "BayesianLinear": ((4, 6), (3, 4)),
    "BayesianConv1d": ((4, 6, 3), (2, 4, 5)),
    "BayesianConv2d": ((4, 6, (3, 3)), (2, 4, 5, 5)),
    "BayesianConv3d": ((4, 6, (3, 3, 3)), (2, 4, 5, 5, 5)),
    "BayesianEmbedding": ((7, 6), None),
    "BayesianLSTM": ((4, 6), (3, 2, 4)),
    "BayesianGRU": ((4, 6), (3, 2, 4)),
}
JOINT = [name for name in LAYERS if name not in ("BayesianLSTM", "BayesianGRU")]


def made(name, **options):
    torch.manual_seed(0)
    given, size = LAYERS[name]
    x = torch.tensor([[0, 3], [6, 3]]) if size is None else torch.randn(size)
    return getattr(modules, name)(*given, posterior_rho_init=-3.0, **options), x


def both(call, rng="torch", **options):
    """What a call gives unpatched and patched, of the same noise, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("blitz", rng=rng, **options) as report:
        new = call()
    return old, new, report


def outputs(layer, x):
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


def check(new, old, rtol=2e-5, atol=2e-5):
    for ours, theirs in zip(new, old, strict=True):
        assert ours.dtype == theirs.dtype
        most = theirs.detach().abs().max().clamp_min(1.0).item()
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol * most)


def test_every_target_is_replaced():
    with integrations.patch("blitz", joint=True) as report:
        assert {row.status for row in report.rows} == {"replaced"}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name, prior):
    layer, x = made(name, **PRIORS[prior])

    def call():
        y = outputs(layer, x)
        kl = kl_divergence_from_nn(layer)
        grads = torch.autograd.grad(
            y.square().sum() + 0.01 * kl, list(layer.parameters()), allow_unused=True
        )
        densities = layer.log_variational_posterior, layer.log_prior
        return [*densities, kl, y, *(g for g in grads if g is not None), torch.rand(())]

    old, new, report = both(call)
    assert {*report.calls} == {"fused"}
    check(new, old)
    check(new[:3], old[:3], 1e-6, 1e-6)


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_layer(name):
    layer, x = made(name, prior_dist=D.Normal(0.25, 0.2))

    def call():
        y = outputs(layer, x)
        kl = kl_divergence_from_nn(layer)
        grads = torch.autograd.grad(
            y.square().sum() + 0.01 * kl, list(layer.parameters()), allow_unused=True
        )
        return [kl, y, *(g for g in grads if g is not None), torch.rand(())]

    old, new, report = both(call, joint=True)
    assert report.calls == {"fused": 1}
    check(new, old)
    check(new[:1], old[:1], 1e-6, 1e-6)


def test_a_joint_layer_with_two_normals_is_served_by_its_samplers():
    layer, x = made("BayesianLinear", bias=False, **PRIORS["two normals"])
    old, new, report = both(lambda: (layer(x), kl_divergence_from_nn(layer)), joint=True)
    check(new, old, 1e-6, 1e-6)
    assert report.calls == {
        "fused": 3,
        "fallback: a prior of two normals, which leaves the samplers to be served": 1,
    }


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("sigma", [0.001, 0.1, 10.0])
def test_the_prior_keeps_its_floor(sigma, joint):
    """Far out the original's log-density is log(1e-6) - 1/2, and without a gradient."""
    prior = PriorWeightDistribution(1, sigma)
    w = torch.linspace(-50, 50, 999, dtype=torch.float64).mul(sigma).requires_grad_()
    old, new, report = both(
        lambda: (prior.log_prior(w), *torch.autograd.grad(prior.log_prior(w), w)), joint=joint
    )
    assert report.calls == {"fused": 2}
    check(new, old, 1e-6, 1e-5)
    wide = (w / sigma).abs() > 8
    assert new[1][wide].abs().max() <= 1e-4 / sigma


def test_a_density_in_single_precision_is_no_coarser():
    torch.manual_seed(0)
    w = torch.randn(100_000) * 0.1
    exact = PriorWeightDistribution(1, 0.1).log_prior(w.double())
    prior = PriorWeightDistribution(1, 0.1)
    _, new, _ = both(lambda: prior.log_prior(w))
    assert (new - exact).abs() <= 1e-6 * exact.abs().clamp_min(len(w))


def test_a_sampler():
    torch.manual_seed(0)
    sampler = TrainableRandomDistribution(torch.randn(5, 4), torch.randn(5, 4) - 2)

    def call():
        w = sampler.sample()
        at = sampler.log_posterior(), sampler.log_posterior(w), sampler.log_posterior(w * 2)
        return w, sampler.w, sampler.sigma, sampler.eps_w.clone(), *at

    old, new, report = both(call)
    assert report.calls == {"fused": 4}
    check(new[:4], old[:4], 1e-6, 5e-7)
    check(new[4:], old[4:], 2e-6, 2e-5)
    assert torch.equal(new[3], old[3])
    with integrations.patch("blitz"):
        with torch.no_grad():
            assert not sampler.sample().requires_grad
        assert sampler.sample().requires_grad
        assert sampler.log_posterior().requires_grad


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_a_loss_of_several_samples_has_the_gradient_of_each(rng, joint):
    """The original reads, for every sample, the noise of the last one."""

    @variational_estimator
    class Net(torch.nn.Sequential):
        pass

    layer, x = made("BayesianLinear")
    net = Net(layer)
    target = torch.zeros(3, 6)
    with integrations.patch("blitz", rng=rng, joint=joint) as report:
        torch.manual_seed(1)
        loss = net.sample_elbo(x, target, torch.nn.functional.mse_loss, 2, 1e-3)
        together = torch.autograd.grad(loss, layer.weight_sampler.rho)[0]
        torch.manual_seed(1)
        alone = []
        for _ in range(2):
            loss = net.sample_elbo(x, target, torch.nn.functional.mse_loss, 1, 1e-3)
            alone.append(torch.autograd.grad(loss, layer.weight_sampler.rho)[0])
        torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
        assert {*report.calls} == {"fused"}
        net.freeze_()
        assert torch.equal(net(x), layer.forward_frozen(x))


def test_calls_that_go_to_the_original():
    with integrations.patch("blitz") as report:
        made("BayesianLinear", prior_dist=D.Laplace(0.0, 1.0), bias=False)[0](torch.ones(1, 4))
        assert report["log_prior"].calls == {"fallback: a prior that is no normal distribution": 1}
        prior = PriorWeightDistribution(dist=D.Normal(torch.zeros(4), torch.ones(4)))
        prior.log_prior(torch.zeros(4))
        assert report["log_prior"].calls["fallback: a prior of tensors"] == 1
        sampler = TrainableRandomDistribution(torch.zeros(3), torch.zeros(3))
        with pytest.raises(AssertionError, match="already sampled"):
            sampler.log_posterior()


@pytest.mark.parametrize("joint", [False, True])
def test_compiles(joint):
    layer, x = made("BayesianLinear")
    with integrations.patch("blitz", joint=joint) as report:
        compiled = torch.compile(layer, backend="aot_eager")
        first, second = compiled(x), compiled(x)
        assert not torch.equal(first, second)
        (first.sum() + kl_divergence_from_nn(layer)).backward()
        assert "compiled: fused" in report.calls


def in_place(sampler):
    with torch.no_grad():
        sampler.mu.add_(1.0)


def weights_in_place(sampler):
    with torch.no_grad():
        sampler.w.mul_(2.0)


def another_scale(sampler):
    sampler.sigma = sampler.sigma * 2


def scale_in_place(sampler):
    with torch.no_grad():
        sampler.rho.add_(1.0)


def other_data(sampler):
    sampler.mu.data = sampler.mu.data + 1.0


def another_mean(sampler):
    sampler.mu = torch.nn.Parameter(sampler.mu.detach() + 1.0)


CHANGES = in_place, weights_in_place, another_scale, scale_in_place, other_data, another_mean


@pytest.mark.parametrize("change", CHANGES)
def test_a_log_posterior_is_of_what_a_sampler_holds_by_then(change):
    def call():
        torch.manual_seed(0)
        sampler = TrainableRandomDistribution(torch.randn(5, 4), torch.randn(5, 4) - 2)
        torch.manual_seed(1)
        sampler.sample()
        with torch.no_grad():
            change(sampler)
        return [sampler.log_posterior()]

    old, new, report = both(call)
    assert report.calls == {"fused": 2}
    check(new, old)


@pytest.mark.parametrize("drawn", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("measured", [torch.no_grad, torch.enable_grad])
def test_a_log_posterior_has_a_gradient_where_it_is_asked_for(drawn, measured):
    sampler = TrainableRandomDistribution(torch.zeros(5, 4), torch.zeros(5, 4) - 2)
    if drawn is torch.inference_mode and measured is torch.enable_grad:
        pytest.skip("the original can't save what was drawn")

    def call():
        with drawn():
            sampler.sample()
        with measured():
            log_q = sampler.log_posterior()
        if not log_q.requires_grad:
            return log_q, None
        return log_q, *torch.autograd.grad(log_q, list(sampler.parameters()), allow_unused=True)

    (old, *old_grads), (new, *new_grads), _ = both(call)
    check([new], [old])
    for ours, theirs in zip(new_grads, old_grads, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            check([ours], [theirs])


class Sampler(TrainableRandomDistribution):
    def log_posterior(self, w=None):
        return super().log_posterior(w) * 2


class Prior(PriorWeightDistribution):
    def log_prior(self, w):
        return super().log_prior(w) * 2


class BarePrior(torch.nn.Module):
    def log_prior(self, w):
        return -w.square().sum()


def own_sampler(layer):
    layer.weight_sampler = Sampler(layer.weight_mu, layer.weight_rho)


def own_log_posterior(layer):
    layer.weight_sampler.log_posterior = lambda: layer.weight_sampler.w.sum()


def own_sample(layer):
    layer.weight_sampler.sample = lambda: layer.weight_mu
    layer.weight_sampler.log_posterior = lambda: layer.weight_mu.sum()


def own_prior(layer):
    layer.weight_prior_dist = Prior()


def bare_prior(layer):
    layer.weight_prior_dist = BarePrior()


def own_log_prior(layer):
    layer.weight_prior_dist.log_prior = lambda w: w.sum()


OWN = own_sampler, own_log_posterior, own_sample, own_prior, bare_prior, own_log_prior


@pytest.mark.parametrize("own", OWN)
def test_a_joint_layer_with_parts_of_its_own_keeps_them(own):
    layer, x = made("BayesianLinear", bias=False)
    own(layer)
    old, new, report = both(lambda: (layer(x), kl_divergence_from_nn(layer)), joint=True)
    check(new, old)
    kind = "prior" if "prior" in own.__name__ else "sampler"
    assert report["BayesianLinear.forward"].calls == {f"fallback: a {kind} of its own": 1}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("options", [{"max_norm": 0.1}, {"sparse": True}])
def test_an_embedding_whose_weights_no_op_can_take(options, joint):
    layer, x = made("BayesianEmbedding", **options)

    def call():
        y = layer(x)
        loss = y.square().sum() + 0.01 * kl_divergence_from_nn(layer)
        return [y, *torch.autograd.grad(loss, list(layer.weight_sampler.parameters()))]

    old, new, report = both(call, joint=joint)
    check(new, old)
    assert "fused" not in report.calls
    layer.max_norm, layer.sparse = None, False
    assert {*both(call, joint=joint)[2].calls} == {"fused"}
