"""What a user calls: checks the arguments, finds the noise, calls an op."""

from __future__ import annotations

import torch
from torch import Tensor

from . import noise
from .arguments import (
    bounds_of,
    check_reduction,
    check_sources,
    given_noise,
    moments_dim,
    one_scale,
    pair,
    scale_kind,
)
from .ops import gaussian_short, gaussian_torch
from .ops.gaussian import gaussian_latent as _latent_op
from .ops.gaussian_call import Inputs, Spec, halves
from .ops.layout import empty_ordered, memory_order
from .ops.library import plain

__all__ = ["gaussian_kl", "gaussian_latent", "gaussian_latent_from_moments", "gaussian_rsample"]


def gaussian_latent(
    mu: Tensor,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "batchmean",
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
) -> tuple[Tensor, ...]:
    r"""Sample a diagonal Gaussian by reparameterization and its KL divergence to N(0, I).

    .. math::
        z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, 1) \qquad
        KL = \tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2) \text{ per element, reduced}

    Noise, sample and KL take one pass over memory, and so does the backward pass, which makes the
    noise again from a 16-byte key: nothing of the latent's size is saved but the inputs.

    Args:
        mu: means, any shape; float32, float64, float16 or bfloat16.
        logvar: log sigma^2. Exactly one of the five scales must be given. Tensors broadcast
            against ``mu``; a python number stands for a 0-d tensor.
        log_std: log sigma.
        std: sigma.
        var: sigma^2.
        rho: sigma = softplus(rho) = log(1 + exp(rho)).
        reduction: of the KL, in nats. "none": element-wise; "sample": summed over all dims but the
            first; "sum"; "mean": over all elements; "batchmean": sum / size of dim 0.
        clamp: (low, high) bounds on logvar or log_std, the same in z, in the KL and in the gradient
            (1 at and inside the bounds, 0 outside).
        key: noise key, see :func:`fused_reparam.noise.key`. When None, one is drawn.
        generator: where the key (or, with ``rng="torch"``, the noise) is drawn from; the default
            generator of mu's device when None.
        rng: "philox": this package's stream. "torch": the very numbers that
            ``torch.randn_like(mu)`` would draw, the generator left in the same state; the noise is
            then saved for the backward pass, except where the kernel can make it again (CUDA,
            contiguous float32, float16 or bfloat16 tensors, a summed KL, eager mode).
        eps: noise to use instead of drawing any, of the sample's shape; it may require grad.
        return_eps: also return the noise.

    Returns:
        ``(z, kl)``, or ``(z, kl, eps)`` with ``return_eps``. z has the broadcast shape, the inputs'
        promoted dtype and mu's memory format. kl is float32 (float64 for float64 inputs) of
        shape z.shape ("none"), z.shape[:1] ("sample") or (). eps is like z, and detached unless
        it was given.

    Raises:
        TypeError: an input is not a floating tensor of the four dtypes, or the key's dtype is not
            uint64.
        ValueError: no scale or several, shapes that do not broadcast, an unknown reduction or rng,
            different devices, a clamp that is not two numbers low <= high, or conflicting sources
            of noise.
        RuntimeError: the backend asked for can't serve mu's device.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4 and appendix B.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent, noise
        >>> mu = torch.zeros(4, 3, requires_grad=True)
        >>> z, kl = gaussian_latent(mu, logvar=torch.zeros(4, 3), key=noise.key(0))
        >>> z.shape, kl.item()
        (torch.Size([4, 3]), 0.0)
        >>> z.sum().backward()
        >>> mu.grad.unique()
        tensor([1.])
    """
    kind, scale = one_scale(logvar, log_std, std, var, rho)
    check_reduction(reduction)
    check_sources(key, generator, rng, eps)
    bounds = bounds_of(clamp, kind)
    if eps is None and rng == "philox" and not return_eps:
        if key is not None:
            noise.check_key(key)
        short = gaussian_short.latent(mu, scale, -1, kind, bounds, reduction, key, generator)
        if short is not None:
            return short  # type: ignore[return-value]  # there is a KL
    if rng == "torch" and not return_eps:
        fused = gaussian_torch.latent(mu, scale, kind, bounds, reduction, generator)
        if fused is not None:
            return fused
    loc, x = pair(mu, scale, kind)
    return _latent(loc, x, -1, kind, bounds, reduction, key, generator, rng, eps, return_eps)


def gaussian_rsample(
    mu: Tensor,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sample ``z = mu + sigma * eps`` without the KL.

    Arguments, dtypes and errors are those of :func:`gaussian_latent`.

    Returns:
        z, or ``(z, eps)`` with ``return_eps``.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_rsample, noise
        >>> z = gaussian_rsample(torch.zeros(3), std=2.0, key=noise.key(1))
        >>> torch.equal(z, 2.0 * noise.normal(noise.key(1), 3))
        True
    """
    kind, scale = one_scale(logvar, log_std, std, var, rho)
    check_sources(key, generator, rng, eps)
    bounds = bounds_of(clamp, kind)
    if eps is None and rng == "philox" and not return_eps:
        if key is not None:
            noise.check_key(key)
        short = gaussian_short.latent(mu, scale, -1, kind, bounds, None, key, generator)
        if short is not None:
            return short[0]
    loc, x = pair(mu, scale, kind)
    z, _, *noise_used = _latent(
        loc, x, -1, kind, bounds, None, key, generator, rng, eps, return_eps
    )  # fmt: skip
    return (z, *noise_used) if return_eps else z  # type: ignore[return-value]


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "batchmean",
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """KL divergence of N(mu, sigma^2) to N(0, 1), in nats, without a sample.

    ``0.5 * (mu^2 + sigma^2 - 1 - log sigma^2)`` per element, reduced. Arguments, dtypes and errors
    are those of :func:`gaussian_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs), shaped as ``reduction`` says.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, appendix B.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_kl
        >>> gaussian_kl(torch.ones(2, 5), std=torch.ones(5), reduction="sample")
        tensor([2.5000, 2.5000])
    """
    kind, scale = one_scale(logvar, log_std, std, var, rho)
    check_reduction(reduction)
    loc, x = pair(mu, scale, kind)
    bounds = bounds_of(clamp, kind)
    spec = Spec(_order(loc, x, -1), kind, *bounds, reduction, False, -1)
    return _latent_op(Inputs(loc, x, None, None), spec)[1]


def gaussian_latent_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    scale: str = "logvar",
    reduction: str = "batchmean",
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
) -> tuple[Tensor, ...]:
    """:func:`gaussian_latent` of the two halves of one tensor: means first, then scales.

    The halves are read in place, and the backward pass writes one gradient in the layout of
    ``moments``.

    Args:
        moments: tensor whose size along ``dim`` is even.
        dim: the dim to halve.
        scale: what the second half is: "logvar", "log_std", "std", "var" or "rho".
        reduction, clamp, key, generator, rng, eps, return_eps: see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)`` or ``(z, kl, eps)``, see :func:`gaussian_latent`.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for an
            odd size along ``dim``, a dim that moments does not have, or an unknown scale.

    Source: the layout is that of latent-diffusion autoencoders (Rombach et al., 2022).

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent_from_moments
        >>> z, kl = gaussian_latent_from_moments(torch.zeros(2, 8, 4, 4))
        >>> z.shape
        torch.Size([2, 4, 4, 4])
    """
    kind = scale_kind(scale)
    check_reduction(reduction)
    check_sources(key, generator, rng, eps)
    bounds = bounds_of(clamp, kind)
    dim = moments_dim(moments, dim)
    if eps is None and rng == "philox" and not return_eps:
        if key is not None:
            noise.check_key(key)
        short = gaussian_short.latent(moments, None, dim, kind, bounds, reduction, key, generator)
        if short is not None:
            return short  # type: ignore[return-value]  # there is a KL
    return _latent(
        moments, None, dim, kind, bounds, reduction, key, generator, rng, eps, return_eps
    )


def _latent(
    loc: Tensor,
    scale: Tensor | None,
    dim: int,
    kind: int,
    bounds: tuple[float, float],
    reduction: str | None,
    key: Tensor | None,
    generator: torch.Generator | None,
    rng: str,
    eps: Tensor | None,
    return_eps: bool,
) -> tuple[Tensor, ...]:
    order = _order(loc, scale, dim)
    if eps is not None:
        eps = given_noise(eps, loc, _shape(loc, scale, dim))
    elif rng == "torch":
        eps = _torch_noise(loc, _shape(loc, scale, dim), order, generator)
    elif key is None:
        key = _drawn_key(loc, generator)
    else:
        noise.check_key(key)
        if not (key.is_cpu and plain(loc)):
            key = noise.on_device(key, loc.device)
    spec = Spec(order, kind, *bounds, reduction, True, dim)
    z, kl = _latent_op(Inputs(loc, scale, key, eps), spec)
    if not return_eps:
        return z, kl
    if eps is None:
        assert key is not None
        shape = _shape(loc, scale, dim)
        key = noise.on_device(key, loc.device)
        eps = torch.ops.fused_reparam.normal(key, shape, order, loc.dtype)
    return z, kl, eps


def _drawn_key(loc: Tensor, generator: torch.Generator | None) -> Tensor:
    """A fresh key: where kernels take it by value, on the host."""
    if plain(loc):
        return noise.draw_bits(loc.device, generator)
    return noise.draw_key(loc.device, generator)


def _shape(loc: Tensor, scale: Tensor | None, dim: int) -> torch.Size:
    if scale is None:
        return torch.Size((*loc.shape[:dim], loc.shape[dim] // 2, *loc.shape[dim + 1 :]))
    return loc.shape if loc.shape == scale.shape else torch.broadcast_shapes(loc.shape, scale.shape)


def _order(loc: Tensor, scale: Tensor | None, dim: int) -> list[int]:
    """Memory order of the sample: mu's, or the scale's where mu is broadcast."""
    if scale is None:
        return memory_order(halves(loc, dim)[0])
    if loc.shape == scale.shape:
        return memory_order(loc)
    shape = torch.broadcast_shapes(loc.shape, scale.shape)
    for t in (loc, scale):
        if t.shape == shape:
            return memory_order(t)
    return []


def _torch_noise(
    loc: Tensor, shape: torch.Size, order: list[int], generator: torch.Generator | None
) -> Tensor:
    like = loc if loc.shape == shape else empty_ordered(shape, order, loc.dtype, loc.device)
    if generator is None:
        return torch.randn_like(like)
    return torch.empty_like(like).normal_(generator=generator)
