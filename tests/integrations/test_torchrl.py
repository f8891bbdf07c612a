"""torchrl's distributions, patched, against what they were."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("torchrl", reason="torchrl is not installed", exc_type=ImportError)
from torchrl.modules import IndependentNormal, OneHotCategorical, TanhNormal
from torchrl.modules.distributions import ReparamGradientStrategy

BOUNDS = {"one": {}, "wide": {"low": -2.0, "high": 3.0}, "unsafe": {"safe_tanh": False}}
SHAPE = (6, 3)


def both(call, rng="torch", consumer="torchrl", **options):
    """What a call gives unpatched and patched, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch(consumer, rng=rng, **options) as report:
        new = call()
    return old, new, report


def parameters(dtype=torch.float32, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2
    return [p.to(dtype).requires_grad_() for p in (loc, scale)]


def with_grads(found, given):
    loss = sum(f.double().square().sum() for f in found if f.requires_grad)
    return [*found, *torch.autograd.grad(loss, given)]


def close(new, old, rtol=4e-5, atol=1e-5):
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def test_every_target_is_served():
    with integrations.patch("torchrl", relaxed=True) as report:
        assert {row.status for row in report.rows} == {"replaced"}
    with integrations.patch("torchrl") as report:
        assert {row.status for row in report.rows} == {"replaced"}
        assert not any("OneHot" in row.target.name for row in report.rows)


@pytest.mark.parametrize("method", ["rsample_and_log_prob", "sample_and_log_prob"])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("events", [0, 1, 2])
def test_an_action_and_its_log_density(method, bounds, events):
    for dtype in (torch.float32, torch.float64):
        for sample_shape in ((), (4, 2)):
            given = parameters(dtype)

            def draw(given=given, shape=sample_shape):
                made = TanhNormal(*given, event_dims=events, **BOUNDS[bounds])
                return with_grads(getattr(made, method)(shape), given)

            old, new, report = both(draw)
            close(new, old)
            assert report[f"TanhNormal.{method}"].calls == {"fused": 1}
            near = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(new[0], old[0], rtol=near, atol=near)
            assert new[0].requires_grad == old[0].requires_grad


@pytest.mark.parametrize("method", ["rsample_and_log_prob", "sample_and_log_prob"])
def test_bounds_that_require_a_gradient(method):
    given = parameters()
    high = torch.tensor(2.0, requires_grad=True)

    def draw():
        action, log_prob = getattr(TanhNormal(*given, high=high), method)()
        return with_grads([action, log_prob], [*given, high])

    old, new, report = both(draw)
    assert report[f"TanhNormal.{method}"].calls == {"fused": 1}
    assert new[0].requires_grad == old[0].requires_grad == (method[0] == "r")
    close(new, old)


def test_an_action_stays_as_far_from_its_ends_as_it_did():
    for sign in (-1.0, 1.0):
        given = [torch.full(SHAPE, 12.0 * sign), torch.full(SHAPE, 0.1)]
        given = [p.requires_grad_() for p in given]
        old, new, _ = both(
            lambda given=given: with_grads(TanhNormal(*given).rsample_and_log_prob(), given)
        )
        assert torch.equal(new[0], old[0])
        assert new[0].abs().max() < 1.0
        close(new, old)


def test_normal_policies():
    given = parameters()
    prior = [p.detach() for p in parameters(seed=1)]

    def step():
        policy, bounded = IndependentNormal(*given), TanhNormal(*given)
        z, action = policy.rsample(), bounded.rsample()
        kl = torch.distributions.kl_divergence(policy, IndependentNormal(*prior))
        return with_grads([z, kl, policy.log_prob(prior[0]), action], given)

    old, new, report = both(step)
    close(new, old)
    torch.testing.assert_close(new[1], old[1], rtol=1e-6, atol=1e-6)
    assert report.calls == {"fused": 4}


def one_hot(logits, grad_method=ReparamGradientStrategy.RelaxedOneHot):
    weight = torch.linspace(-1.0, 2.0, logits.shape[-1])
    out = OneHotCategorical(logits=logits, grad_method=grad_method).rsample()
    return out.detach().clone(), torch.autograd.grad((out * weight).sum(), logits)[0]


def test_a_one_hot_sample_that_is_written_over_the_relaxed_one():
    logits = torch.randn(9, 5).requires_grad_()
    old, new, report = both(lambda: one_hot(logits))  # left alone
    assert torch.equal(new[0], old[0])
    assert torch.equal(new[1], old[1])
    assert report.calls == {}

    def relaxed():
        """The gradient of the relaxed sample, and the one-hot sample."""
        weight = torch.linspace(-1.0, 2.0, 5)
        soft = torch.distributions.RelaxedOneHotCategorical(torch.tensor(1.0), logits=logits)
        soft = soft.rsample()
        hard = torch.nn.functional.one_hot(soft.argmax(-1), 5).to(soft)
        return hard, torch.autograd.grad((soft * weight).sum(), logits)[0]

    torch.manual_seed(1)
    straight = relaxed()
    _, served, report = both(lambda: one_hot(logits), relaxed=True)
    close(served, straight)
    assert report.calls == {"fused": 1}
    _, served, report = both(lambda: one_hot(logits), consumer="torch_distributions")
    close(served, straight)
    assert report.calls == {"fused": 1}


def test_what_goes_to_the_original():
    given = parameters(torch.float64)
    with integrations.patch("torchrl", relaxed=True) as report:
        one_hot(torch.randn(4, 3).requires_grad_(), ReparamGradientStrategy.PassThrough)
        TanhNormal(given[0], given[1].float()).rsample_and_log_prob()
        calls = report.calls
    assert "fused" not in calls
    assert calls["fallback: another gradient than the relaxed sample's"] == 1
