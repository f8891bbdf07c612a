"""Log-densities of relaxed samples, of bits and of categories, at given points."""

from __future__ import annotations

import math
from typing import Never

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_tensor, class_dim, temperature, widened
from .reduction import Dims, reduced, summed
from .tensor_numbers import number_or_tensor, of_variables

__all__ = ["gumbel_softmax_log_prob", "relaxed_bernoulli_log_prob"]


@names_mistakes
def relaxed_bernoulli_log_prob(
    y: Tensor,
    logits: Tensor | float,
    tau: Tensor | float = 1.0,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-density of the relaxed Bernoulli (binary concrete) distribution at given points.

    .. math::
        \log p(y) = \log \tau + d - 2 \log(1 + e^d) - \log y - \log(1 - y), \qquad
        d = \ell - \tau \log \frac{y}{1 - y}

    That of ``torch.distributions.RelaxedBernoulli(tau, logits=logits).log_prob(y)``. A sample
    may have been rounded to 0 or 1: it is held at the dtype's smallest normal number, and half the
    spacing of its numbers below 1, and has no gradient there.

    Args:
        y: samples, as of :func:`relaxed_bernoulli`, in [0, 1].
        logits: log-odds of 1; broadcast against y, as tau does.
        tau: temperature, a positive number or a tensor.
        reduction: "none" by default, or any other of :func:`gaussian_latent`.
        dims: in place of a reduction, the dims to sum over, see :func:`gaussian_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError, ValueError: as :func:`relaxed_bernoulli` does.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017, appendix B.

    Example:
        >>> import torch
        >>> from fused_reparam import relaxed_bernoulli, relaxed_bernoulli_log_prob
        >>> logits = torch.zeros(4, 3)
        >>> y = relaxed_bernoulli(logits, tau=0.5)
        >>> relaxed_bernoulli_log_prob(y, logits, tau=0.5, dims=-1).shape
        torch.Size([4])
    """
    if not isinstance(y, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(relaxed_bernoulli_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims, "none")
    check_tensor("y", y)
    limits = torch.finfo(y.dtype)
    t = number_or_tensor("tau", tau, y, temperature)
    logits, t, y = widened(("logits", logits), ("tau", t), ("y", y))
    return elementwise.terms_alone(
        "relaxed_bernoulli_density", (("logits", logits), ("tau", t), ("y", y)), 0, 0,
        (limits.tiny, 1.0 - 0.5 * limits.eps), over,
    )[1][0]  # fmt: skip


@names_mistakes
def gumbel_softmax_log_prob(
    y: Tensor,
    logits: Tensor | float,
    tau: Tensor | float = 1.0,
    dim: int = -1,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-density of the relaxed categorical (concrete) distribution at given points.

    .. math::
        \log p(y) = \log \Gamma(C) + (C - 1) \log \tau + \sum_i \big(\log s_i - \log y_i\big),
        \qquad s = \mathrm{softmax}(\ell - \tau \log y)

    of C classes. That of ``torch.distributions.RelaxedOneHotCategorical(tau,
    logits=logits).log_prob(y)``. A share that was rounded to 0 is held at the dtype's smallest
    normal number, and has no gradient there.

    Args:
        y: samples, as of :func:`gumbel_softmax`, which sum to 1 along ``dim``.
        logits: unnormalized log-probabilities, broadcast against y.
        tau: temperature, a positive number; or a tensor without dims, or of one for each variable
            (of y's shape with 1 for ``dim``, or what broadcasts to it).
        dim: of the classes.
        reduction: over the other dims, "none" by default, see :func:`categorical_latent`.
        dims: in place of a reduction, the dims of the variables to sum over, see
            :func:`categorical_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs) of y's shape without ``dim``, or what the
        reduction leaves of it.

    Raises:
        TypeError, ValueError: as :func:`gumbel_softmax` does.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017, definition 1.

    Example:
        >>> import torch
        >>> from fused_reparam import gumbel_softmax, gumbel_softmax_log_prob
        >>> logits = torch.zeros(4, 3, 10)
        >>> y = gumbel_softmax(logits, tau=0.5)
        >>> gumbel_softmax_log_prob(y, logits, tau=0.5, dims=-1).shape
        torch.Size([4])
    """
    if not isinstance(y, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gumbel_softmax_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims, "none")
    check_tensor("y", y)
    least = torch.finfo(y.dtype).tiny
    y, logits = widened(("y", y), ("logits", logits))
    if y.shape != logits.shape:
        y, logits = torch.broadcast_tensors(y, logits)
    dim = class_dim("y", y, dim)
    t = number_or_tensor("tau", tau, y, temperature)
    if isinstance(t, Tensor):
        t = of_variables("tau", t, "y", y.shape, dim)
    classes, log_y = y.shape[dim], torch.log(y.clamp(min=least))
    scores = logits - t * log_y if isinstance(t, Tensor) else torch.sub(logits, log_y, alpha=t)
    log_shares = torch.log_softmax(scores, dim)
    log_t = (t.squeeze(dim) if t.dim() else t).log() if isinstance(t, Tensor) else math.log(t)
    if torch.compiler.is_compiling():  # the number of classes may be a symbol
        log_gamma = torch.lgamma(torch.scalar_tensor(classes, dtype=torch.float64))
    else:
        log_gamma = math.lgamma(classes)  # type: ignore[assignment]
    known = log_gamma + (classes - 1) * log_t
    return reduced(torch.sub(log_shares, log_y).sum(dim) + known, over)
