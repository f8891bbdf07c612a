"""The posteriors of diffusers' autoencoders, patched in the class, which many modules share.

A posterior keeps its attributes; what it computes of them is served: ``sample`` and ``kl``. A list
of generators has one for each item, as before, and a generator of the CPU serves every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as fused
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved

_VAE, _POSTERIOR = "diffusers.models.autoencoders.vae", "DiagonalGaussianDistribution"
_OOBLECK = "diffusers.models.autoencoders.autoencoder_oobleck"
_MINIMAX = "diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio"


def patch(rng: str = "philox") -> Report:
    """Let the ops serve diffusers' posteriors.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`. With "philox" a
    seed means another image than before.
    """
    return apply("diffusers", "diffusers", targets(rng), {"rng": rng})


def targets(rng: str) -> list[Target]:
    """From diffusers 0.31 to 0.42 these are the same, but for the last, which came late."""

    def sample(self: Any, generator: Any = None) -> Tensor | str:
        return _sample(self.mean, self.std, generator, rng)

    init, oobleck = (f"{_POSTERIOR}.__init__",), (f"Oobleck{_POSTERIOR}.__init__",)
    given, minimax = "self, generator", f"MiniMaxH3Audio{_POSTERIOR}"
    return [
        Target(_VAE, f"{_POSTERIOR}.sample", given, "5815cb3660f4", sample, init),
        Target(_VAE, f"{_POSTERIOR}.kl", "self, other", "8ba398a25482", _kl, init),
        Target(_OOBLECK, f"Oobleck{_POSTERIOR}.sample", given, "f88433c9bfa2", sample, oobleck),
        Target(
            _OOBLECK,
            f"Oobleck{_POSTERIOR}.kl",
            "self, other",
            "7aa57cc54159",
            _kl_of_oobleck,
            oobleck,
        ),
        Target(
            _MINIMAX, f"{minimax}.sample", given, "0be25270610f", sample,
            (f"{minimax}.__init__",), optional=True,
        ),
    ]  # fmt: skip


def _sample(mean: Tensor, std: Tensor, generator: Any, rng: str) -> Tensor | str:
    why = unserved(mean, std)
    if why is not None:
        return why
    if mean.shape != std.shape:
        return "a mean and a scale of different shapes"
    if generator is None:
        return fused.loc_scale_rsample(mean, std, rng=rng)
    many = isinstance(generator, list)
    if many and len(generator) != 1 and (not mean.dim() or len(generator) != mean.shape[0]):
        return "another number of generators than items"
    for one in generator if many else (generator,):
        if not isinstance(one, torch.Generator) or one.device.type not in ("cpu", mean.device.type):
            return "a generator of another device"
    return fused.loc_scale_rsample(mean, std, generator=generator, rng=rng)


def _kl(self: Any, other: Any = None) -> Tensor | str:
    """Summed over dims 1 to 3, also of five dims, in the posterior's dtype."""
    mean, logvar = self.mean, self.logvar
    why = unserved(mean, logvar)
    if why is not None:
        return why
    if self.deterministic or (other is not None and other.deterministic):
        return "deterministic"
    if mean.dim() < 4 or mean.shape != logvar.shape:
        return "fewer than four dims, or a scale of another shape than the mean"
    prior = None
    if other is not None:
        why = unserved(mean, other.mean, other.logvar)
        if why is not None:
            return why
        if not (other.mean.shape == other.logvar.shape == mean.shape):
            return "posteriors of different shapes"
        prior = other.mean, {"logvar": other.logvar}
    return as_it_was(fused.gaussian_kl(mean, logvar, prior=prior, dims=(1, 2, 3)), mean)


def _kl_of_oobleck(self: Any, other: Any = None) -> Tensor | str:
    """Twice a KL, summed over dim 1 and averaged over the others."""
    mean, std = self.mean, self.std
    why = unserved(mean, std)
    if why is not None:
        return why
    if self.deterministic:
        return "deterministic"
    if other is not None:
        return "to another posterior, where the original's sign of a logarithm is its own"
    if mean.shape != std.shape:
        return "a mean and a scale of different shapes"
    return as_it_was(2.0 * fused.gaussian_kl(mean, std=std, dims=(1,)).mean(), mean)
