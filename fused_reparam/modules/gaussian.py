"""The Gaussian latent as a ``torch.nn`` module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import arguments, functional
from ..ops.gaussian_call import halves

__all__ = ["FusedGaussianLatent"]


class FusedGaussianLatent(nn.Module):
    r"""The latent of a VAE: a reparameterized sample and its KL to N(0, I), in one fused op.

    .. math::
        z = \mu + \sigma \epsilon, \qquad KL = \tfrac12 \sum (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

    Drops in for a hand-written ``reparameterize()`` and its KL term. It has no parameters. In
    ``eval()`` mode z is the mean: ``mu`` itself, not a copy.

    Args:
        scale: what the second argument is: "logvar", "log_std", "std", "var" or "rho".
        reduction: of the KL: "batchmean", "sum", "mean", "sample" or "none".
        clamp: (low, high) bounds on logvar or log_std.
        dim: along which a single argument holds both parameters.
        rng: "philox", or "torch" for the very numbers of ``torch.randn_like``.

    Shape:
        ``layer(mu, scale)``: any shapes that broadcast; z has the broadcast shape.
        ``layer(moments)``: even size along ``dim``, means first; z has half of it.
        Both also take ``key=``, ``generator=`` and ``eps=``. dtypes: float32, float64, float16,
        bfloat16; the KL is float32 (float64 for float64).

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.gaussian_latent` does.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedGaussianLatent
        >>> latent = FusedGaussianLatent()
        >>> z, kl = latent(torch.zeros(8, 4), torch.zeros(8, 4))
        >>> z.shape, kl.item()
        (torch.Size([8, 4]), 0.0)
        >>> moments = torch.cat((torch.full((8, 4), 3.0), torch.zeros(8, 4)), dim=1)
        >>> z, kl = latent.eval()(moments)
        >>> z.unique().item(), kl.item()
        (3.0, 18.0)
    """

    def __init__(
        self,
        scale: str = "logvar",
        reduction: str = "batchmean",
        clamp: tuple[float, float] | None = None,
        dim: int = 1,
        rng: str = "philox",
    ) -> None:
        super().__init__()
        arguments.check_options(scale, reduction, clamp, rng)
        self.scale = scale
        self.reduction = reduction
        self.clamp = clamp
        self.dim = dim
        self.rng = rng

    def forward(
        self,
        mu: Tensor,
        scale: Tensor | float | None = None,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        eps: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``layer(mu, scale)`` or ``layer(moments)``: the sample (in eval: the mean) and the KL."""
        if not self.training:
            return self._mean(mu, scale)
        options: dict[str, Any] = {
            "reduction": self.reduction,
            "clamp": self.clamp,
            "key": key,
            "generator": generator,
            "rng": self.rng,
            "eps": eps,
        }
        if scale is None:
            z, kl = functional.gaussian_latent_from_moments(
                mu, self.dim, scale=self.scale, **options
            )
        else:
            options[self.scale] = scale
            z, kl = functional.gaussian_latent(mu, **options)
        return z, kl

    def _mean(self, mu: Tensor, scale: Tensor | float | None) -> tuple[Tensor, Tensor]:
        if scale is None:
            mu, scale = halves(mu, arguments.moments_dim(mu, self.dim))
        parameter: dict[str, Any] = {self.scale: scale}
        kl = functional.gaussian_kl(mu, **parameter, reduction=self.reduction, clamp=self.clamp)
        if isinstance(scale, Tensor):
            shape = torch.broadcast_shapes(mu.shape, scale.shape)
            mu = mu.to(torch.result_type(mu, scale)).expand(shape)
        return mu, kl

    def extra_repr(self) -> str:
        return (
            f"scale={self.scale!r}, reduction={self.reduction!r}, clamp={self.clamp}, "
            f"dim={self.dim}, rng={self.rng!r}"
        )
