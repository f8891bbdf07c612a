"""stable_baselines3's Gaussian policies, patched, against what they were."""

import copy
import math

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip(
    "stable_baselines3", reason="stable_baselines3 is not installed", exc_type=ImportError
)
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import Actor

NEAR = {"rtol": 2e-5, "atol": 4e-6}
FUSED = {"fused": 1}


def both(call, **options):
    """What a call gives unpatched and patched, of the same noise, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("stable_baselines3", rng="torch", **options) as report:
        new = call()
    return old, new, report


def parameters(dtype=torch.float32, shape=(6, 3), one_scale=False):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    log_std = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5 - 1
    log_std = log_std.reshape(-1, shape[-1])[0] if one_scale else log_std
    return [p.to(dtype).requires_grad_() for p in (mean, log_std)]


def with_grads(found, given):
    return [*found, *torch.autograd.grad(sum(f.double().square().sum() for f in found), given)]


def close(new, old, rtol=2e-5, atol=4e-6):
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def test_every_target_is_served():
    with integrations.patch("stable_baselines3") as report:
        assert {row.status for row in report.rows} == {"replaced"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_action_and_its_log_density(dtype):
    given = parameters(dtype)
    made = distributions.SquashedDiagGaussianDistribution(3)

    def draw():
        return with_grads(made.log_prob_from_params(*given), given)

    old, new, report = both(draw)
    close(new, old)
    assert report["log_prob_from_params"].calls == FUSED
    assert report.calls == FUSED
    torch.testing.assert_close(new[0], old[0], rtol=2e-6, atol=1e-6)
    assert isinstance(made.distribution, torch.distributions.Normal)
    torch.testing.assert_close(made.distribution.scale, given[1].exp())
    torch.testing.assert_close(made.gaussian_actions.tanh(), new[0])
    again = made.log_prob(new[0], made.gaussian_actions)
    torch.testing.assert_close(again, new[1])


def test_the_log_density_where_tanh_is_near_1_is_the_originals_unless_it_is_to_be_exact():
    given = [torch.full((4, 3), 9.0), torch.full((4, 3), -2.0)]
    made = distributions.SquashedDiagGaussianDistribution(3)
    old, new, _ = both(lambda: made.log_prob_from_params(*given))
    close(new, old, rtol=1e-6)
    found = both(lambda: made.log_prob_from_params(*given), exact=True)[1][1]
    torch.manual_seed(1)
    eps = torch.randn(4, 3).double()
    x = 9.0 + eps * torch.exp(torch.tensor(-2.0).double())
    slope = 2 * (math.log(2.0) - x - torch.log1p(torch.exp(-2 * x)))
    exact = (-0.5 * eps.square() + 2.0 - 0.5 * math.log(2 * math.pi) - slope).sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert (exact - old[1]).abs().min() > 1.0


def test_exact_is_what_it_was_where_tanh_is_not_near_1():
    given = parameters()
    made = distributions.SquashedDiagGaussianDistribution(3)
    old, new, report = both(lambda: made.log_prob_from_params(*given), exact=True)
    close(new, old, rtol=1e-4, atol=1e-3)
    assert report.calls == FUSED


@pytest.mark.parametrize("one_scale", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (3,)])
def test_a_gaussian_policy(shape, one_scale):
    given = parameters(shape=shape, one_scale=one_scale)
    taken = parameters(shape=shape)[1].detach()

    def step():
        made = distributions.DiagGaussianDistribution(3).proba_distribution(*given)
        found = made.get_actions(), made.log_prob(taken), made.entropy(), made.mode()
        return with_grads(found, given)

    old, new, report = both(step)
    close(new, old)
    assert report.calls == {"fused": 3}


def test_a_squashed_policy_called_in_parts():
    given = parameters()
    made = distributions.SquashedDiagGaussianDistribution(3)

    def step():
        action = made.actions_from_params(*given)
        mode = made.actions_from_params(*given, deterministic=True)
        return with_grads([action, mode, made.log_prob(action.detach() * 0.9)], given)

    old, new, report = both(step)
    close(new, old)
    assert report.calls == {"fused": 4}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_are_not_numbers_are_the_originals_matter(bad, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    mean, log_std = (p.detach().clone() for p in parameters())
    mean[0, 0] = bad
    made = distributions.SquashedDiagGaussianDistribution(3)
    gaussian = distributions.DiagGaussianDistribution(3)
    with integrations.patch("stable_baselines3") as report:
        for call in (made.log_prob_from_params, gaussian.proba_distribution):
            if bad != bad:
                with pytest.raises(ValueError, match="satisfy the constraint Real"):
                    call(mean, log_std)
            else:
                call(mean, log_std)
        assert report["log_prob_from_params"].calls == {
            "fallback: parameters that are not finite": 1
        }
        gaussian.proba_distribution(log_std, log_std)
        with pytest.raises(ValueError, match="within the support"):
            gaussian.log_prob(torch.full_like(mean, float("nan")))


def test_what_else_goes_to_the_original():
    mean, log_std = parameters()
    made = distributions.DiagGaussianDistribution(3)
    made.proba_distribution(mean, log_std)
    with integrations.patch("stable_baselines3") as report:
        made.sample()
        made.log_prob(mean)
        made.proba_distribution(mean, log_std[:, :1])
        made.proba_distribution(mean, log_std.double())
        assert "fused" not in report.calls
        made.proba_distribution(mean, log_std)
        kept = made.distribution
    assert made.sample().shape == made.log_prob(mean)[:, None].expand(6, 3).shape
    assert kept.expand((2, 6, 3)).sample().shape == (2, 6, 3)
    assert copy.copy(kept).scale.shape == kept.stddev.shape == kept.variance.shape


def test_policies():
    observed = torch.randn(5, 4)
    space = spaces.Box(-1.0, 1.0, (4,)), spaces.Box(-1.0, 1.0, (2,))
    torch.manual_seed(0)
    actor = Actor(*space, [8], torch.nn.Flatten(), 4)
    critic = ActorCriticPolicy(*space, lambda _: 1e-3)

    def step():
        action, log_prob = actor.action_log_prob(observed)
        taken, _, log_of_taken = critic(observed)
        _, log_of_given, entropy = critic.evaluate_actions(observed, action.detach())
        found = [action, log_prob, actor(observed), taken, log_of_taken, log_of_given, entropy]
        return with_grads(found, [actor.mu.weight, actor.log_std.weight, critic.log_std])

    old, new, report = both(step)
    close(new, old)
    assert set(report.calls) == {"fused"}


def test_a_distribution_keeps_its_scale_when_the_parameter_moves():
    mean, log_std = parameters(one_scale=True)
    taken = mean.detach() + 0.1

    def moved(change):
        def call():
            theirs = log_std.detach().clone().requires_grad_()
            made = distributions.DiagGaussianDistribution(3).proba_distribution(mean, theirs)
            change(theirs)
            log_prob, sample = made.log_prob(taken), made.sample()
            return [log_prob, sample, made.distribution.scale]

        return call

    def in_place(parameter):
        with torch.no_grad():
            parameter.add_(0.5)

    for change in (in_place, lambda parameter: parameter.data.add_(0.5)):
        old, new, report = both(moved(change))
        close(new, old)
        assert report.calls == {"fused": 3}


def test_the_scale_of_a_squashed_distribution_is_kept_too():
    mean, log_std = (p.detach() for p in parameters())
    made = distributions.SquashedDiagGaussianDistribution(3)

    def call():
        theirs = log_std.clone()
        made.log_prob_from_params(mean, theirs)
        theirs.add_(0.5)
        return [made.distribution.scale]

    old, new, report = both(call)
    close(new, old)
    assert report.calls == FUSED


def test_a_distribution_made_without_gradients_has_none():
    def call():
        mean, log_std = (torch.zeros(s, requires_grad=True) for s in ((4, 3), (3,)))
        with torch.no_grad():
            before = distributions.DiagGaussianDistribution(3).proba_distribution(mean, log_std)
        after = distributions.DiagGaussianDistribution(3).proba_distribution(mean + 1, log_std)
        drawn = before.sample(), before.log_prob(torch.ones(4, 3))
        distributions.kl_divergence(after, before).sum().backward()
        return mean.grad, log_std.grad, [found.requires_grad for found in drawn]

    (*old, old_requires), (*new, new_requires), _ = both(call)
    close(new, old)
    assert new_requires == old_requires


def test_the_divergence_of_an_updated_policy_from_what_it_was():
    observed = torch.randn(5, 4)
    space = spaces.Box(-1.0, 1.0, (4,)), spaces.Box(-1.0, 1.0, (2,))

    def call():
        torch.manual_seed(0)
        policy = ActorCriticPolicy(*space, lambda _: 1e-3)
        before = copy.copy(policy.get_distribution(observed))
        policy.log_std.data += 0.5
        return [distributions.kl_divergence(policy.get_distribution(observed), before)]

    old, new, _ = both(call)
    assert old[0].min() > 0.1
    close(new, old)


def test_a_scale_that_is_assigned_counts():
    mean, log_std = parameters()

    def call():
        made = distributions.DiagGaussianDistribution(3).proba_distribution(mean, log_std)
        made.distribution.scale = torch.full((6, 3), 3.0)
        return made.sample(), made.log_prob(mean.detach() + 1)

    old, new, report = both(call)
    close(new, old)
    assert report.calls == {"fused": 1, "fallback: a scale that has been asked for or set": 2}


class Halved:
    def sample(self):
        return super().sample() / 2


class Shifted:
    def log_prob(self, actions, gaussian_actions=None):
        return super().log_prob(actions, gaussian_actions) + 1


class Wider:
    def proba_distribution(self, mean_actions, log_std):
        return super().proba_distribution(mean_actions, log_std + 1)


class Between(distributions.DiagGaussianDistribution):
    def sample(self):
        return super().sample() / 2


Squashed = distributions.SquashedDiagGaussianDistribution


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "bases",
    [(Halved, Squashed), (Shifted, Squashed), (Wider, Squashed), (Squashed, Between)],
    ids=["sample", "log_prob", "proba_distribution", "between"],
)
def test_a_subclass_with_parts_of_its_own_keeps_them(bases, exact):
    given = parameters()
    made = type("Own", bases, {})(3)
    old, new, report = both(lambda: made.log_prob_from_params(*given), exact=exact)
    close(new, old)
    calls = report["log_prob_from_params"].calls
    assert calls == {"fallback: a distribution with parts of its own": 1}


def test_an_instance_with_a_part_of_its_own_keeps_it():
    given = parameters()
    made = distributions.SquashedDiagGaussianDistribution(3)
    made.log_prob = lambda actions, gaussian_actions=None: actions.sum(1)
    old, new, report = both(lambda: made.log_prob_from_params(*given))
    close(new, old)
    assert "fused" not in report["log_prob_from_params"].calls


def test_a_subclass_without_parts_of_its_own_is_served():
    made = type("Own", (Squashed,), {"entropy": lambda self: torch.zeros(())})(3)
    report = both(lambda: made.log_prob_from_params(*parameters()))[2]
    assert report.calls == FUSED
