"""What one logs of a Gaussian latent: how much of it is used."""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..core import scales
from ..core.mistakes import described, names_mistakes, unknown
from ..core.scalars import integer
from ..functional.arguments import check_tensor, clamped, number, one_scale
from ..functional.divergence import PriorArgument
from ..functional.gaussian_kl import gaussian_kl
from ..functional.min_std import raised

__all__ = ["latent_stats"]


@names_mistakes
def latent_stats(
    mu: Tensor,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    dim: int = 1,
    threshold: float = 0.01,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    prior: PriorArgument = None,
    **mistaken: Never,
) -> dict[str, float]:
    r"""How much of a Gaussian latent is used: a dict of floats, ready for any logger.

    .. math::
        KL_d = \frac1B \sum_b KL(q(z_{b,d}) \,\|\, p(z_d)) \qquad
        A_d = \operatorname{Var}_b \mu_{b,d}

    A VAE can leave units of its latent unused: their posterior is the prior for every input, their
    KL and the variance of their mean are 0 (posterior collapse). The numbers are those of one
    batch, d an index along ``dim``; the KL of a unit is summed over the dims that are neither the
    batch's nor ``dim``, and its mean varies over these as well as over the batch.

    Args:
        mu, logvar, log_std, std, var, rho, min_std, clamp, prior: the latent and what its KL is
            measured against, as :func:`gaussian_latent` takes them. mu is a tensor with the batch
            along dim 0.
        dim: along which the units of the latent lie: the features of (B, D), the channels of
            (B, C, H, W).
        threshold: above which a unit is active, in nats for its KL, and in squares of the
            latent's unit for the variance of its mean.

    Returns:
        In this order: "kl", the sum of all :math:`KL_d`; "active_units", the number of units with
        :math:`KL_d` above the threshold, and "active_units_by_mean", that with :math:`A_d` above
        it; "posterior_var", the mean of sigma^2 over everything; "kl_dim/0", "kl_dim/1" and so on,
        each :math:`KL_d` in nats. None has a gradient. The device is waited for once.

    Raises:
        TypeError: mu is no tensor.
        ValueError: mu is empty or has no such dim beside the batch's; or as :func:`gaussian_kl`
            raises it.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016, section 5
    (active units, by the variance of the mean); Lucas et al., "Don't blame the ELBO!", 2019 (by
    the KL).

    Example:
        >>> import torch
        >>> from fused_reparam import latent_stats
        >>> mu = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])  # the second unit is unused
        >>> stats = latent_stats(mu, torch.zeros(2, 2))
        >>> stats["kl"], stats["active_units"], stats["posterior_var"]
        (2.0, 1.0, 1.0)
        >>> stats["kl_dim/0"], stats["kl_dim/1"]
        (2.0, 0.0)
    """
    if mistaken:
        raise unknown(latent_stats, mistaken)
    check_tensor("mu", mu)
    least, along = number("threshold", threshold), integer("dim", dim)
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    name = scales.SCALE_KINDS[kind]
    given = {name: scale, "min_std": min_std, "clamp": clamp, "prior": prior}
    with torch.no_grad():
        kl = gaussian_kl(mu, reduction="none", **given)  # type: ignore[arg-type]
        shape = kl.shape
        if not -len(shape) < along < len(shape) or along % len(shape) == 0 or not kl.numel():
            raise ValueError(
                f"latent_stats takes a latent with the batch along dim 0 and its units along "
                f"dim={along}, and at least one element; got mu {described(mu)}, of "
                f"broadcast shape {tuple(shape)}"
            )
        along %= len(shape)
        others = [other for other in range(len(shape)) if other != along]
        kl_dim = kl.sum(others) / shape[0]
        mean_var = mu.to(kl.dtype).expand(shape).var(others, correction=0)
        if min_std is not None:
            kind, scale = raised(kind, scale, min_std, mu)
        scale, bounds = clamped(scale, clamp, kind)
        x = scales.clamp(torch.as_tensor(scale, dtype=kl.dtype), *bounds)
        posterior_var = scales.sigma_of(x, kind).square().expand(shape).mean()
        active = [(each > least).sum().to(kl.dtype) for each in (kl_dim, mean_var)]
        numbers = torch.cat((torch.stack((kl_dim.sum(), *active, posterior_var)), kl_dim)).tolist()
    names = ["kl", "active_units", "active_units_by_mean", "posterior_var"]
    names += [f"kl_dim/{d}" for d in range(shape[along])]
    return dict(zip(names, numbers, strict=True))
