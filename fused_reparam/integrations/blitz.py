"""blitz: weights drawn at each forward pass, and the two log-densities at what was drawn.

All of its layers draw by ``TrainableRandomDistribution`` and measure by
``PriorWeightDistribution``; these are served. With ``joint`` the layers are, which take both from
one op. What blitz adds to the densities stays: 1/2 is subtracted from each logarithm, and 1e-6 is
added to the prior's density.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from .. import functional as fused
from ..core.modes import eager
from ..core.storage import TENSOR_TYPES
from ..functional import elementwise
from .layers import Outputs, convolution, embedding, linear
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved

_MODULE = "blitz.modules.weight_sampler"
_SAMPLER, _PRIOR = "TrainableRandomDistribution", "PriorWeightDistribution"
_EMBEDDING = "BayesianEmbedding"
_FLOOR = 1e-6
# That of a normal so wide that its density is the same wherever a weight may be.
_WIDE = 1e6
# One normal and the floor are a mixture of two normals, times this.
_FACTOR = 1.0 + _FLOOR * _WIDE * math.sqrt(2.0 * math.pi)


def patch(rng: str = "philox", joint: bool = False) -> Report:
    """Let the ops serve blitz's layers.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`. With "philox" the
    buffer ``eps_w`` stays as it is: no noise is kept.

    With ``joint`` a layer's ``log_variational_posterior`` is what it was less ``log_prior``, and
    ``log_prior`` is 0: their difference, of which blitz's losses are made, stays. A sampler's
    ``sigma`` isn't set then.
    """
    return apply(
        "blitz", "blitz-bayesian-pytorch", targets(rng, joint), {"rng": rng, "joint": joint}
    )


def targets(rng: str, joint: bool) -> list[Target]:
    """Read in blitz-bayesian-pytorch 0.2.8."""

    def sample(self: Any) -> Tensor | str:
        return _sample(self, rng)

    made = (f"{_SAMPLER}.__init__",)
    layers = LAYERS if joint else [layer for layer in LAYERS if layer[1] == _EMBEDDING]
    return [
        Target(_MODULE, f"{_SAMPLER}.sample", "self", SAMPLE, sample, made),
        Target(
            _MODULE, f"{_SAMPLER}.log_posterior", "self, w", LOG_POSTERIOR, _log_posterior,
            (*made, f"{_SAMPLER}.sample"),
        ),
        Target(
            _MODULE, f"{_PRIOR}.log_prior", "self, w", LOG_PRIOR, _log_prior,
            (f"{_PRIOR}.__init__",),
        ),
        *(_layer(*layer, rng=rng, joint=joint) for layer in layers),
    ]  # fmt: skip


def _unsampled(sampler: Any) -> str | None:
    """Why it can't be sampled by an op."""
    if _left(sampler):
        return _LEFT
    mu, rho, eps = sampler.mu, sampler.rho, sampler.eps_w
    if not (mu.shape == rho.shape == eps.shape):
        return "a mean and a scale of different shapes"
    return unserved(mu, rho, eps)


def _noise(sampler: Any, rng: str) -> dict[str, Any]:
    """A copy, as the next sample overwrites the buffer before a backward pass may come."""
    return {} if rng == "philox" else {"eps": sampler.eps_w.data.normal_().clone()}


def _sample(sampler: Any, rng: str) -> Tensor | str:
    why = _unsampled(sampler)
    if why is not None:
        return why
    mu, rho, noise = sampler.mu, sampler.rho, _noise(sampler, rng)
    everything = tuple(range(mu.dim()))
    w, log_q, _ = fused.gaussian_rsample_log_prob(mu, rho=rho, dims=everything, **noise)
    sampler.sigma = torch.log1p(torch.exp(rho))
    sampler.w = w
    # A plain tuple: it may be pickled with the model.
    sampler._drawn = w, log_q, _state(sampler)
    return w


def _state(sampler: Any) -> tuple[Any, ...] | None:
    """What a log-density at the drawn weights is of, but for writes to ``.data``; None if unknown.

    The original computes it when it is asked for, of what the tensors hold by then.
    """
    tensors = sampler.w, sampler.mu, sampler.rho, sampler.sigma
    if not eager() or any(type(t) not in TENSOR_TYPES or t.is_inference() for t in tensors):
        return None
    seen = [(id(t), t.data_ptr(), t._version, t.requires_grad) for t in tensors]
    return torch.is_grad_enabled(), *seen


def _log_posterior(self: Any, w: Any = None) -> Tensor | str:
    if self.w is None:
        return "nothing was drawn yet"
    if _left(self):
        return _LEFT
    mu, (drawn, log_q, state) = self.mu, self.__dict__.get("_drawn", (None, None, None))
    if w is None:
        w = self.w
    if drawn is not w or state is None or state != _state(self):
        scale = {"rho": self.rho} if self.sigma is None else {"std": self.sigma}
        why = unserved(w, mu, *scale.values())
        if why is not None:
            return why
        if w.shape != mu.shape:
            return "weights of another shape than the mean"
        log_q = fused.gaussian_log_prob(w, mu, reduction="sum", **scale)
    return as_it_was(log_q - 0.5 * w.numel(), mu)


def _log_prior(self: Any, w: Any) -> Tensor | str:
    if _left(self):
        return _LEFT
    why = unserved(w)
    if why is not None:
        return why
    found = _components(self)
    if isinstance(found, str):
        return found
    mean, shares, stds = found
    point = w if mean == 0.0 else w - mean
    if len(shares) == 1:
        log_p = _mixture(point, 1.0 / _FACTOR, stds[0], _WIDE, "sum")
        log_p = log_p + w.numel() * math.log(_FACTOR)
    else:
        log_p = _mixture(point, shares[0], stds[0], stds[1], "none")
        log_floor = math.log(_FLOOR)
        log_p = F.softplus(log_p - log_floor).sum() + w.numel() * log_floor
    return as_it_was(log_p - 0.5 * w.numel(), w)


def _mixture(x: Tensor, share: float, std1: float, std2: float, reduction: str) -> Tensor:
    """The log-density of ``share N(0, std1^2) + (1 - share) N(0, std2^2)``."""
    named = ("w", x), ("mixture share", share), ("mixture std", std1), ("mixture std", std2)
    return elementwise.terms_alone("mixture_density", named, 0, 0, (), reduction)[1][0]


class _Prior(NamedTuple):
    """The normals that count in a prior."""

    mean: float
    shares: list[float]
    stds: list[float]


def _components(prior: Any) -> _Prior | str:
    """What a prior is made of, or why an op can't take it."""
    share = prior.pi
    if not eager():
        return "compiled or transformed, where a prior's numbers can't be read"
    if not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
        return "a share that is no number from 0 to 1"
    normals = [(float(share), prior.dist1), (1.0 - share, prior.dist2)]
    normals = [(part, normal) for part, normal in normals if part > 0.0]
    for _, normal in normals:
        if type(normal) is not Normal:
            return "a prior that is no normal distribution"
        if any(t.dim() or not t.is_cpu or t.requires_grad for t in (normal.loc, normal.scale)):
            return "a prior of tensors"
    means = {normal.loc.item() for _, normal in normals}
    stds = [normal.scale.item() for _, normal in normals]
    if len(means) > 1:
        return "a prior of two means"
    if not 0.0 < min(stds) <= max(stds) <= 1e-3 * _WIDE:
        return "a prior wider than any weights"
    return _Prior(means.pop(), [part for part, _ in normals], stds)


_LEFT = "an embedding whose weights are renormalised in place, or whose gradient is sparse"


def _left(part: Any) -> bool:
    """Whether the layer that was called last with this sampler or prior is left to the original."""
    return part.__dict__.get("_left", False)


def _leave(layer: Any) -> bool:
    """Say to an embedding's sampler and prior whether the ops can take its weights."""
    leave = layer.max_norm is not None or bool(layer.sparse)
    for part in (layer.weight_sampler, layer.weight_prior_dist):
        if leave or "_left" in part.__dict__:
            part._left = leave
    return leave


def _layer(file: str, name: str, outputs: Outputs, known: str, rng: str, joint: bool) -> Target:
    module = f"blitz.modules.{file}_bayesian_layer"

    def forward(self: Any, x: Any) -> Any:
        if self.freeze:
            return "frozen"
        if name == _EMBEDDING and _leave(self):
            return _LEFT
        if not joint:
            # As the original is, whose parts are served.
            w = self.weight_sampler.sample()
            self.log_variational_posterior = self.weight_sampler.log_posterior()
            self.log_prior = self.weight_prior_dist.log_prior(w)
            return outputs(self, x, w, None)
        pairs = [(self.weight_sampler, self.weight_prior_dist)]
        if getattr(self, "bias", False):
            pairs.append((self.bias_sampler, self.bias_prior_dist))
        priors = []
        for sampler, prior in pairs:
            found = _why_not_at_once(sampler, prior) or _components(prior)
            if isinstance(found, str):
                return found
            if len(found.stds) != 1:
                return "a prior of two normals, which leaves the samplers to be served"
            priors.append(found)
        drawn = [
            _weights_and_kl(sampler, prior, rng)
            for (sampler, _), prior in zip(pairs, priors, strict=True)
        ]
        (w, kl), *bias = drawn
        self.log_variational_posterior = kl + bias[0].kl if bias else kl
        self.log_prior = 0
        return outputs(self, x, w, bias[0].w if bias else None)

    return Target(module, f"{name}.forward", "self, x", known, forward)


def _why_not_at_once(sampler: Any, prior: Any) -> str | None:
    if not _is_as_read(sampler, _SAMPLER, "sample", "log_posterior"):
        return "a sampler of its own"
    if not _is_as_read(prior, _PRIOR, "log_prior"):
        return "a prior of its own"
    return _unsampled(sampler)


def _is_as_read(part: Any, name: str, *methods: str) -> bool:
    """Whether neither a subclass nor an instance has methods of its own."""
    read = getattr(sys.modules[_MODULE], name)
    return isinstance(part, read) and all(
        getattr(type(part), method) is getattr(read, method) and method not in part.__dict__
        for method in methods
    )


class _Weights(NamedTuple):
    """Weights, and the log-density of their posterior less that of their prior."""

    w: Tensor
    kl: Tensor


def _weights_and_kl(sampler: Any, prior: _Prior, rng: str) -> _Weights:
    w, kl = fused.sample_weight(
        sampler.mu, sampler.rho, prior.mean, mixture=(1.0 / _FACTOR, prior.stds[0], _WIDE),
        **_noise(sampler, rng),
    )  # fmt: skip
    sampler.w, sampler.sigma, sampler._drawn = w, None, (None, None, None)
    return _Weights(w, as_it_was(kl - w.numel() * math.log(_FACTOR), sampler.mu))


LAYERS = (
    ("linear", "BayesianLinear", linear, "faf8121e21bd"),
    ("conv", "BayesianConv1d", convolution(F.conv1d), "4564ce5bdb70"),
    ("conv", "BayesianConv2d", convolution(F.conv2d), "7e342dcde7fe"),
    ("conv", "BayesianConv3d", convolution(F.conv3d), "4c3fb0c54c3b"),
    ("embedding", _EMBEDDING, embedding, "eeaf4290c342"),
)
SAMPLE = "2a45771a75f0"
LOG_POSTERIOR = "b4656cd070f8"
LOG_PRIOR = "a26fbf2db6db"
