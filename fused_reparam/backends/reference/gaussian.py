"""The Gaussian latent in plain PyTorch, with its gradients written out.

``draws`` says what a backend is promised, and takes this way for a sample of a Gaussian and its KL
to N(0, 1): written-out gradients take a third of the time of those that autograd makes of the
family's formula.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...rng import stream as noise_stream
from ...rng.keys import on_device
from .memory import elements, flat, store

# The scale keywords; a backend receives the position in this tuple.
SCALE_KINDS = ("logvar", "log_std", "std", "var", "rho")
LOGVAR, LOG_STD, STD, VAR, RHO = range(5)


def forward(
    loc: Tensor,
    scale: Tensor,
    key: Tensor | None,
    eps: Tensor | None,
    kind: int,
    low: float,
    high: float,
    weight: float,
    dense: bool,
    z: Tensor | None,
    kl: Tensor | None,
) -> None:
    """``z = loc + sigma * eps`` and ``kl = weight * sum 0.5 (loc^2 + sigma^2 - 1 - log sigma^2)``.

    ``z`` or ``kl`` may be None.
    """
    mu, x = elements(loc, dense), clamp(elements(scale, dense), low, high)
    sigma = sigma_of(x, kind)
    if z is not None:
        store(z, mu + sigma * _noise(key, eps, mu, dense), dense=True)
    if kl is not None:
        element = kl_element(mu, x, sigma, kind)
        flat(kl).copy_(weight * element.view(kl.numel(), -1).sum(1))


def backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    loc: Tensor,
    scale: Tensor,
    key: Tensor | None,
    eps: Tensor | None,
    kind: int,
    low: float,
    high: float,
    weight: float,
    dense: bool,
    grad_loc: Tensor | None,
    grad_scale: Tensor | None,
) -> None:
    """Gradients of ``forward``, with ``gk = weight * grad_kl`` of the element's sum::

        grad_loc   = grad_z + gk * loc
        grad_scale = inside(scale) * (grad_z * eps * dsigma + gk * dKL)

    ``grad_z`` or ``grad_kl`` may be None (no gradient came), and so may either result.
    """
    mu, raw = elements(loc, dense), elements(scale, dense)
    x = clamp(raw, low, high)
    to_loc, to_scale = torch.zeros_like(mu), torch.zeros_like(mu)
    sigma = sigma_of(x, kind)
    if grad_z is not None:
        gz = elements(grad_z, dense)
        to_loc = gz
        if grad_scale is not None:
            to_scale = gz * _noise(key, eps, mu, dense) * dsigma_of(x, sigma, kind)
    if grad_kl is not None:
        segment = mu.numel() // grad_kl.numel()
        gk = (weight * flat(grad_kl).view(-1, 1)).expand(-1, segment).reshape(-1)
        to_loc = to_loc + gk * mu
        # A gradient of 0 stays 0 where the derivative overflows.
        to_scale = to_scale + torch.where(gk == 0.0, 0.0, gk * dkl_of(x, sigma, kind))
    if grad_loc is not None:
        store(grad_loc, to_loc, dense)
    if grad_scale is not None:
        if x is not raw:
            to_scale = torch.where(inside(raw, low, high), to_scale, 0.0)
        store(grad_scale, to_scale, dense)


# Formulas, element by element. x is the scale parameter after clamping. They are differentiable
# PyTorch code: gradients of the families' formulas are built from them.


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Bound the scale parameter; NaN stays NaN. Its gradient is ``inside``."""
    if low == -torch.inf and high == torch.inf:
        return x
    # torch.clamp's own gradient at the bounds is not the same in every release of PyTorch.
    return torch.where(inside(x, low, high), x, x.detach().clamp(low, high))


def inside(x: Tensor, low: float, high: float) -> Tensor:
    """Where the gradient of the clamp is 1: at and inside the bounds, and at NaN."""
    return ~((x < low) | (x > high))


def sigma_of(x: Tensor, kind: int) -> Tensor:
    """The standard deviation."""
    if kind == LOGVAR:
        return torch.exp(0.5 * x)
    if kind == LOG_STD:
        return torch.exp(x)
    if kind == STD:
        return x
    if kind == VAR:
        return torch.sqrt(x)
    return _softplus(x)


def log_var_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``log sigma^2``."""
    if kind == LOGVAR:
        return x
    if kind == LOG_STD:
        return 2.0 * x
    if kind == STD:
        return 2.0 * torch.log(sigma)
    if kind == VAR:
        return torch.log(x)
    linear = x < -_softplus_edge(x)
    return 2.0 * torch.where(linear, x, torch.log(torch.where(linear, 1.0, sigma)))


def kl_element(mu: Tensor, x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``KL(N(mu, sigma^2) || N(0, 1))``."""
    return 0.5 * (mu * mu + sigma * sigma - 1.0 - log_var_of(x, sigma, kind))


def dsigma_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``d sigma / d x``."""
    if kind == LOGVAR:
        return 0.5 * sigma
    if kind == LOG_STD:
        return sigma
    if kind == STD:
        return torch.ones_like(x)
    if kind == VAR:
        return 0.5 / sigma
    return torch.sigmoid(x)


def dkl_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``d KL / d x``."""
    if kind == LOGVAR:
        return 0.5 * (sigma * sigma - 1.0)
    if kind == LOG_STD:
        return sigma * sigma - 1.0
    if kind == STD:
        return sigma - 1.0 / sigma
    if kind == VAR:
        return 0.5 * (1.0 - 1.0 / x)
    return sigma * torch.sigmoid(x) - _dlog_softplus(x, sigma)


def _softplus(x: Tensor) -> Tensor:
    return softplus(x, threshold=_softplus_edge(x))


def _dlog_softplus(x: Tensor, sigma: Tensor) -> Tensor:
    """``sigmoid(x) / softplus(x)``, which tends to 1 where both underflow."""
    linear = x < -_softplus_edge(x)
    return torch.where(linear, 1.0, torch.sigmoid(x) / torch.where(linear, 1.0, sigma))


def _softplus_edge(x: Tensor) -> float:
    """Beyond it softplus(x) is x, and below its negative exp(x), to the dtype's last bit."""
    return 40.0 if x.dtype == torch.float64 else 20.0


def _noise(key: Tensor | None, eps: Tensor | None, like: Tensor, dense: bool) -> Tensor:
    if eps is not None:
        return elements(eps, dense)
    assert key is not None
    return noise_stream.stream(on_device(key, like.device), like.numel(), like.dtype)
