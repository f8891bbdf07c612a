"""stable_baselines3: the Gaussian policies of SAC, PPO and A2C, with and without a tanh.

A policy's distribution keeps the logarithm of its scale, of which the ops compute; its ``scale`` is
made when somebody asks for it. SAC takes an action and its log-density from one call.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.distributions.utils import lazy_property

from .. import functional as fused
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved

_MODULE = "stable_baselines3.common.distributions"
_GAUSSIAN, _SQUASHED = "DiagGaussianDistribution", "SquashedDiagGaussianDistribution"
_PARTS = ("proba_distribution", "sample", "log_prob", "actions_from_params")
_NOT_FINITE = "parameters that are not finite"
_DRAWING = frozenset((*_PARTS, "get_actions"))


def patch(rng: str = "philox", exact: bool = False) -> Report:
    """Let the ops serve stable_baselines3's Gaussian policies.

    Args:
        rng: see :func:`fused_reparam.integrations.patch`, as what is returned.
        exact: whether the log-density of a squashed action that is drawn with it (SAC's step) is
            that of tanh, computed before it rounds, in one op with the sample. Without it, the
            original's ``log(1 - a**2 + 1e-6)`` is kept, which is bounded where tanh is near 1.
    """
    options = {"rng": rng, "exact": exact}
    return apply("stable_baselines3", "stable_baselines3", targets(rng, exact), options)


def targets(rng: str, exact: bool = False) -> list[Target]:
    """From stable_baselines3 1.8 to 2.9 these are the same."""
    noise: dict[str, Any] = {} if rng == "philox" else {"rng": rng}

    def sample(self: Any) -> Tensor | str:
        policy = self.distribution
        why = _other(policy)
        if why is not None:
            return why
        return fused.gaussian_rsample(policy.loc, log_std=policy.log_std, **noise)

    def squashed(self: Any, mean_actions: Any, log_std: Any) -> tuple[Tensor, Tensor] | str:
        if _parts_of_its_own(self):
            return "a distribution with parts of its own"
        why = _of_another_form(mean_actions, log_std)
        if why is not None:
            return why
        if mean_actions.dim() != 2:
            return "another shape than (batch, actions)"
        x = None
        if exact:
            action, log_prob = fused.tanh_normal_rsample(mean_actions, log_std=log_std, **noise)
            log_prob = as_it_was(log_prob, action)
        else:
            x, log_prob, _ = fused.gaussian_rsample_log_prob(mean_actions, log_std=log_std, **noise)
            action = torch.tanh(x)
            slope = torch.log(1 - action**2 + self.epsilon).sum(dim=1)
            log_prob = as_it_was(log_prob, x) - slope
        # Parameters that are not finite are seen in what was made of them; tanh hides an infinity.
        made = (log_prob,) if x is None else (log_prob, x)
        if Normal._validate_args and not _finite(*made) and not _finite(mean_actions, log_std):
            return _NOT_FINITE
        self.distribution, self.gaussian_actions = Policy(mean_actions, log_std), x
        return action, log_prob

    return [
        Target(
            _MODULE, f"{_GAUSSIAN}.proba_distribution", "self, mean_actions, log_std",
            "69c920ceb1f4", _proba_distribution,
        ),
        Target(_MODULE, f"{_GAUSSIAN}.sample", "self", "20a4ef2a5cd2", sample),
        Target(
            _MODULE, f"{_GAUSSIAN}.log_prob", "self, actions", "b061338cdaf3", _log_prob,
            ("sum_independent_dims",),
        ),
        Target(
            _MODULE, f"{_SQUASHED}.log_prob_from_params", "self, mean_actions, log_std",
            "0d62fd050247", squashed,
            (
                *(f"{_SQUASHED}.{name}" for name in ("proba_distribution", "sample", "log_prob")),
                *(f"{_GAUSSIAN}.{name}" for name in _PARTS),
            ),
        ),
    ]  # fmt: skip


def _parts_of_its_own(made: Any) -> bool:
    """Whether an instance, or a class other than those that were read, has one of the parts."""
    module = sys.modules[_MODULE]
    owners = [made]
    if type(made) is not getattr(module, _SQUASHED):
        known = [getattr(module, name) for name in (_SQUASHED, _GAUSSIAN, "Distribution")]
        owners += [owner for owner in type(made).__mro__ if owner not in known]
    return not all(_DRAWING.isdisjoint(owner.__dict__) for owner in owners)


def _other(policy: Any) -> str | None:
    """Why an op can't take its parameters."""
    if type(policy) is not Policy:
        return "a distribution that was made elsewhere"
    # It may have been assigned, or changed in place, since it is a tensor that others hold.
    if "scale" in policy.__dict__:
        return "a scale that has been asked for or set"
    return None


class Policy(Normal):
    """The normal distribution of a logarithm of its scale, which broadcasts against the mean."""

    def __init__(self, loc: Tensor, log_std: Tensor) -> None:
        # A copy, as the logarithm is a policy's parameter, which the next step of an optimizer
        # changes; and without a gradient where none was to be recorded.
        self.loc, self.log_std = loc, log_std.clone()
        # That the parameters are numbers has been seen, once for both.
        Distribution.__init__(self, loc.shape, validate_args=False)
        del self._validate_args

    @lazy_property
    def scale(self) -> Tensor:
        return torch.ones_like(self.loc) * self.log_std.exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Normal:
        return Normal(self.loc, self.scale, False).expand(batch_shape)


def _proba_distribution(self: Any, mean_actions: Any, log_std: Any) -> Any:
    why = _unserved(mean_actions, log_std)
    if why is not None:
        return why
    self.distribution = Policy(mean_actions, log_std)
    return self


def _unserved(mean: Any, log_std: Any) -> str | None:
    why = _of_another_form(mean, log_std)
    if why is None and Normal._validate_args and not _finite(mean, log_std):
        return _NOT_FINITE
    return why


def _of_another_form(mean: Any, log_std: Any) -> str | None:
    why = unserved(mean, log_std)
    if why is not None:
        return why
    if not mean.dim() or log_std.shape not in (mean.shape, mean.shape[-1:]):
        return "a scale of another shape than the mean or its actions"
    return None


def _log_prob(self: Any, actions: Any) -> Tensor | str:
    policy = self.distribution
    why = _other(policy) or unserved(policy.loc, actions)
    if why is not None:
        return why
    if actions.shape != policy.loc.shape:
        return "actions of another shape than the mean"
    dims = 1 if actions.dim() > 1 else 0
    found = fused.gaussian_log_prob(actions, policy.loc, log_std=policy.log_std, dims=dims)
    if Normal._validate_args and not _finite(found):
        return "actions that are not finite"
    return as_it_was(found, actions)


def _finite(*tensors: Tensor) -> bool:
    """Whether numbers are finite, as their sum says; True in code that is being compiled."""
    if torch.compiler.is_compiling():
        return True
    with torch.no_grad():
        first, *others = (t.sum() for t in tensors)
        return math.isfinite(sum(others, first).item())  # one wait for a device
