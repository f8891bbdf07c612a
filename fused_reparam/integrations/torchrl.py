"""torchrl: bounded and unbounded Gaussian policies, drawn and scored in one call.

``TanhNormal.rsample_and_log_prob`` and ``sample_and_log_prob``, of which the losses of SAC and the
actors are made, take one op. What torchrl builds of ``torch.distributions.Normal`` is served there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Normal
from torch.distributions.utils import _sum_rightmost

from .. import functional as fused
from . import torch_distributions
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved

_MODULE = "torchrl.modules.distributions.continuous"
_NORMAL = ("Normal.rsample", "Normal.log_prob", "_kl_normal_normal")


def patch(rng: str = "philox", relaxed: bool = False) -> Report:
    """Let the ops serve torchrl's distributions.

    Args:
        rng: see :func:`fused_reparam.integrations.patch`, as what is returned.
        relaxed: whether ``OneHotCategorical.rsample`` is served, where its gradient is that of the
            relaxed sample. Then the gradient is another: the original writes the one-hot sample
            over the relaxed one, of whose values PyTorch makes the gradient; here the gradient is
            that of the relaxed values.
    """
    options = {"rng": rng, "relaxed": relaxed}
    return apply("torchrl", "torchrl", targets(rng, relaxed), options)


def targets(rng: str, relaxed: bool = False) -> list[Target]:
    """Read in torchrl 0.14."""
    noise = {} if rng == "philox" else {"rng": rng}
    of_normal = [t for t in torch_distributions.targets(rng) if t.attribute in _NORMAL]
    found = [
        *of_normal,
        _drawn("rsample_and_log_prob", fused.tanh_normal_rsample, "933a8bbf07da", noise),
        _drawn("sample_and_log_prob", fused.tanh_normal_sample, "0fa85d63c108", noise),
    ]
    if relaxed:
        found.append(
            Target(
                "torchrl.modules.distributions.discrete", "OneHotCategorical.rsample",
                "self, sample_shape", "6f280e22636d", _one_hot(noise),
            )
        )  # fmt: skip
    return found


def _drawn(
    name: str, draw: Callable[..., tuple[Tensor, ...]], known: str, noise: dict[str, Any]
) -> Target:
    grad = name.startswith("rsample")  # whether an action has a gradient, also in its bounds

    def draw_and_score(self: Any, sample_shape: Any = ()) -> tuple[Tensor, Tensor] | str:
        base = self.root_dist
        if type(base) is not Normal:
            return "another base than a normal distribution"
        loc, scale = base.loc, base.scale
        why = unserved(loc, scale)
        if why is not None:
            return why
        if loc.shape != scale.shape:
            return "parameters that are not of the distribution's shape"
        first, *others = getattr(self.transforms[0], "parts", self.transforms)
        safe = sys.modules[_MODULE].SafeTanhTransform  # type: ignore[attr-defined]
        if type(first) not in (safe, torch.distributions.TanhTransform):
            return "another transform than tanh"
        event = len(self.event_shape)
        dims = tuple(range(-event, 0))
        shape = {"sample_shape": sample_shape} if len(sample_shape) else {}
        action, log_prob = draw(loc, std=scale, dims=dims, **shape, **noise)
        if type(first) is safe:  # as far from the ends as the original's, whose gradient goes on
            limit = 1.0 - torch.finfo(action.dtype).resolution
            action.detach().clamp_(-limit, limit)
        log_prob = as_it_was(log_prob, action)
        for affine in others:
            before = action
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                action = affine(before)
            log_prob = log_prob - _sum_rightmost(affine.log_abs_det_jacobian(before, action), event)
        return action, log_prob

    return Target(
        _MODULE, f"TanhNormal.{name}", "self, sample_shape", known, draw_and_score,
        ("TanhNormal.__init__", "TanhNormal.update", "SafeTanhTransform._call"),
    )  # fmt: skip


def _one_hot(noise: dict[str, Any]) -> Callable[..., Tensor | str]:
    def rsample(self: Any, sample_shape: Any = None) -> Tensor | str:
        discrete = sys.modules["torchrl.modules.distributions.discrete"]
        if self.grad_method is not discrete.ReparamGradientStrategy.RelaxedOneHot:  # type: ignore[attr-defined]
            return "another gradient than the relaxed sample's"
        logits = self.logits
        why = unserved(logits)
        if why is not None:
            return why
        shape = {"sample_shape": Size(sample_shape)} if sample_shape else {}
        return torch_distributions.relaxed_categories(logits, 1.0, True, **shape, **noise)

    return rsample
