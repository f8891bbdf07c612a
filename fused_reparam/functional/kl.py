"""Divergences of categories, of bits and of the Kumaraswamy distribution, without a sample.

Each is made in float32 (float64 for float64 inputs), and is right far out, where the formula as it
is mostly written loses its digits or meets an infinity.
"""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.scalars import integer
from ..core.tracers import fx, special
from ..ops.sharded import beside
from . import elementwise
from .arguments import class_dim, share, widened
from .reduction import Dims, Reduction, reduced, summed
from .tensor_numbers import changing, number_or_tensor, of_variables, tensor_of

__all__ = ["bernoulli_kl", "categorical_kl", "kumaraswamy_kl"]

_EULER = 0.57721566490153286


@names_mistakes
def categorical_kl(
    logits: Tensor,
    prior_logits: Tensor | float = 0.0,
    unimix: float | Tensor = 0.0,
    dim: int = -1,
    *,
    reduction: str = "batchmean",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""KL divergence between two categorical distributions, in nats.

    .. math::
        KL = \sum_i p_i (\log p_i - \log q_i), \qquad
        p = (1 - u)\, \mathrm{softmax}(\ell) + u / C, \quad
        q = (1 - u)\, \mathrm{softmax}(\ell_{prior}) + u / C

    A class of probability 0 adds nothing. Detach one side for the halves of a balanced KL.

    Args:
        logits: unnormalized log-probabilities, at least one dim; float32, float64, float16 or
            bfloat16. -inf is a class of probability 0.
        prior_logits: those of the prior, broadcast against logits. Any number: equal shares.
        unimix: the share u of equal chances in both, ``0 <= unimix < 1``; or a tensor without dims
            or of one share for each variable, as of :func:`one_hot_categorical`. Where it holds 0,
            no probability counts as less than the dtype's smallest normal number.
        dim: of the classes.
        reduction: over the dims other than ``dim``, see :func:`categorical_latent`.
        dims: in place of a reduction, the dims of the variables to sum over, which are those of the
            logits' shape without ``dim``, see :func:`categorical_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs), shaped as ``reduction`` or ``dims`` say.

    Raises:
        TypeError, ValueError: as :func:`categorical_latent` does; ValueError also for unimix
            outside [0, 1).

    Source: Hafner et al., "Mastering diverse domains through world models", 2023 (unimix, balance).

    Example:
        >>> import torch
        >>> from fused_reparam import categorical_kl
        >>> post, prior = torch.randn(16, 32, 32), torch.randn(16, 32, 32)
        >>> dynamics = categorical_kl(post.detach(), prior, 0.01, dims=-1).clamp(min=1.0)
        >>> representation = categorical_kl(post, prior.detach(), 0.01, dims=-1).clamp(min=1.0)
        >>> loss = (0.5 * dynamics + 0.1 * representation).mean()
        >>> dynamics.shape, bool(loss > 0)
        (torch.Size([16]), True)
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(categorical_kl, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims)
    both = widened(("logits", logits), ("prior_logits", prior_logits))
    p, q = both if both[0].shape == both[1].shape else torch.broadcast_tensors(*both)
    dim = class_dim("logits", p, dim)
    u = number_or_tensor("unimix", unimix, p, share)
    classes = p.shape[dim]
    if isinstance(u, Tensor) or changing(classes):
        u = of_variables("unimix", tensor_of(u, p), "logits", p.shape, dim)
        p, q = ((1.0 - u) * x.softmax(dim) + u / classes for x in (p, q))
        least = torch.finfo(p.dtype).tiny
        log_p, log_q = p.clamp_min(least).log(), q.clamp_min(least).log()
        return reduced((p * (log_p - log_q)).sum(dim), over)
    named = ("logits", p.log_softmax(dim)), ("prior_logits", q.log_softmax(dim))
    constants = 1.0 - u, u / classes
    within = _with_classes(over, dim, p.dim())
    found = elementwise.terms_alone(
        "categorical_kl", named, 0, 0, constants, (dim,) if within is None else within
    )[1][0]
    return reduced(found, over) if within is None else found


def _with_classes(over: Reduction, dim: int, dims: int) -> Reduction | None:
    """The sum over the classes and what ``over`` says of the other dims, as one reduction of all.

    None where the op has none; and where the dims are no dims of the variables.
    """
    if over == "none":
        return (dim,)
    if not isinstance(over, tuple):
        # Of dim 0 they take the batch, and a mean is not over the classes.
        return None if over == "mean" or dim == 0 else over
    rest = dims - 1
    found = {d % rest + (d % rest >= dim) for d in over if rest and -rest <= d < rest}
    return tuple(sorted((*found, dim))) if len(found) == len(over) else None


@names_mistakes
def bernoulli_kl(
    logits: Tensor,
    prior_logits: Tensor | float | None = None,
    *,
    prior_probs: Tensor | float | None = None,
    reduction: str = "batchmean",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""KL divergence between two Bernoulli distributions, in nats.

    .. math::
        KL = p \log \frac{p}{q} + (1 - p) \log \frac{1 - p}{1 - q} \text{ per element, reduced},
        \qquad p = \mathrm{sigmoid}(\ell)

    It is formed of the logits, with 0 and 1 exchanged where p is above a half, so that it keeps its
    digits where p and q are both almost 1.

    Args:
        logits: log-odds of 1, any shape; float32, float64, float16 or bfloat16.
        prior_logits: log-odds of the prior, a tensor that broadcasts or a number.
        prior_probs: in place of these, its probability of 1. Neither: one half.
        reduction, dims: see :func:`gaussian_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs), shaped as ``reduction`` or ``dims`` say.

    Raises:
        TypeError, ValueError: as :func:`gaussian_kl` does; ValueError also where both of
            prior_logits and prior_probs are given.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017, appendix C.

    Example:
        >>> import torch
        >>> from fused_reparam import bernoulli_kl
        >>> round(bernoulli_kl(torch.zeros(2, 3), prior_probs=0.25, reduction="mean").item(), 4)
        0.1438
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(bernoulli_kl, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims)
    if prior_logits is not None and prior_probs is not None:
        raise ValueError("give at most one of prior_logits and prior_probs")
    if prior_probs is not None:
        logits, q = widened(("logits", logits), ("prior_probs", prior_probs))
        q = torch.logit(q)
    else:
        given = ("prior_logits", 0.0 if prior_logits is None else prior_logits)
        logits, q = widened(("logits", logits), given)
    named = ("logits", logits), ("prior_logits", q)
    return elementwise.terms_alone("bernoulli", named, 0, 0, (), over)[1][0]


@names_mistakes
def kumaraswamy_kl(
    concentration1: Tensor,
    concentration0: Tensor | float,
    prior_concentration1: Tensor | float = 1.0,
    prior_concentration0: Tensor | float = 1.0,
    *,
    terms: int = 10,
    reduction: str = "batchmean",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""KL divergence of a Kumaraswamy distribution to a Beta distribution, in nats.

    .. math::
        KL = \frac{a - \alpha}{a} \Big(-\gamma - \psi(b) - \frac1b\Big) + \log ab
        + \log B(\alpha, \beta) - \frac{b - 1}{b}
        + (\beta - 1)\, b \sum_{m=1}^{\infty} \frac{B(m/a, b)}{m + ab}
        \text{ per element, reduced}

    with a, b for concentration1 and concentration0, alpha and beta for the prior's, and Euler's
    constant gamma. The first terms of the sum are added up, and the rest is taken for its
    integral by the first terms of its asymptotic series. Relative to the larger of 1 and the
    sum, ten terms are off by at most 0.021 for a and b of 0.1, 0.2, 0.5, 1, 2, 5 and 10, and by
    5e-5 in the median. The sum does not count where beta is 1.

    Args:
        concentration1, concentration0: positive, as of :func:`kumaraswamy_rsample`.
        prior_concentration1, prior_concentration0: alpha and beta of the Beta distribution,
            positive; tensors broadcast and receive gradients. By default it is uniform.
        terms: of the sum, at least 1.
        reduction, dims: see :func:`gaussian_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs), shaped as ``reduction`` or ``dims`` say.

    Raises:
        TypeError, ValueError: as :func:`gaussian_kl` does; ValueError also for terms below 1.

    Source: Nalisnick and Smyth, "Stick-breaking variational autoencoders", 2017, appendix.

    Example:
        >>> import torch
        >>> from fused_reparam import kumaraswamy_kl
        >>> kumaraswamy_kl(torch.ones(2, 3), 1.0, reduction="sum").abs().item() < 1e-5
        True
        >>> kumaraswamy_kl(torch.ones(2, 3), 1.0, 1.0, 5.0, dims=-1).shape
        torch.Size([2])
    """
    if not isinstance(concentration1, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(kumaraswamy_kl, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over, terms = summed(reduction, dims), integer("terms", terms)
    if terms < 1:
        raise ValueError(f"terms must be at least 1, got {terms}")
    a, b, alpha, beta = widened(
        ("concentration1", concentration1), ("concentration0", concentration0),
        ("prior_concentration1", prior_concentration1),
        ("prior_concentration0", prior_concentration0),
    )  # fmt: skip
    log_beta = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    log_mean = (-_EULER - torch.digamma(b) - 1.0 / b) / a
    kl = (
        (a - alpha) * log_mean + torch.log(a) + torch.log(b) + log_beta - (b - 1.0) / b
        + (beta - 1.0) * _series(a, b, terms)
    )  # fmt: skip
    return reduced(kl, over)


def _series(a: Tensor, b: Tensor, terms: int) -> Tensor:
    """-E log(1 - x) = b sum over m of B(m / a, b) / (m + a b) = sum over m of E x^m / m."""
    a, b = torch.broadcast_tensors(a, b)
    m = beside(torch.arange(1, terms + 1, dtype=a.dtype, device=a.device), a)
    ratio, more, log_b = m / a[..., None], b[..., None], torch.log(b) + torch.lgamma(b)
    log_power = torch.lgamma(1.0 + ratio) - torch.lgamma(1.0 + ratio + more) + log_b[..., None]
    found = (torch.exp(log_power) / m).sum(-1)
    # E x^m is about b Gamma(b) (a / (m + c))^b by Stirling's formula.
    c = 0.5 * a * (1.0 + b)
    log_from = torch.log(terms + 0.5 + c)
    for j in range(3):
        log_part = log_b + b * torch.log(a) + j * torch.log(c) - (b + j) * log_from
        found = found + torch.exp(log_part) / (b + j)
    return found
