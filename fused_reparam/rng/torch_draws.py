"""Base noise as PyTorch draws it: the very numbers of ``torch.distributions``, in the same order.

Each function fills an uninitialised tensor from a generator (None: the default one of its device),
and returns noise of its shape, made in place as far as that goes: in a small call each tensor more
costs half a microsecond. A family whose counterpart draws in another way than others of the same
base noise names its own (``Family.draw``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[Tensor, torch.Generator | None, float], Tensor]


def _normal(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    return out.normal_(generator=generator)


def _exponential(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    return out.exponential_(generator=generator)


def _cauchy(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    return out.cauchy_(generator=generator)


def _uniform(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    """2 u - 1, which loc - scale + u (2 scale) is in units of the scale."""
    return out.uniform_(generator=generator).mul_(2.0).sub_(1.0)


def _laplace(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    u = out.uniform_(torch.finfo(out.dtype).eps - 1, 1, generator=generator)
    return u.abs().neg_().log1p_().copysign_(u)  # -sign(u) log1p(-|u|)


def _gumbel(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    limits = torch.finfo(out.dtype)
    u = out.uniform_(generator=generator).mul_(1.0 - limits.eps - limits.tiny).add_(limits.tiny)
    return u.log_().neg_().log_().neg_()


def _gumbel_of_exponential(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    """That of ``torch.nn.functional.gumbel_softmax``."""
    return out.exponential_(generator=generator).log_().neg_()


def _logistic(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    """A uniform distribution through ``SigmoidTransform().inv``."""
    limits = torch.finfo(out.dtype)
    return _logit(out.uniform_(generator=generator).clamp_(limits.tiny, 1.0 - limits.eps))


def _logistic_of_probabilities(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    """That of ``RelaxedBernoulli``."""
    eps = torch.finfo(out.dtype).eps
    return _logit(out.uniform_(generator=generator).clamp_(eps, 1.0 - eps))


def _logit(u: Tensor) -> Tensor:
    return torch.log(u).sub_(u.neg_().log1p_())


def _student_t(out: Tensor, generator: torch.Generator | None, df: float) -> Tensor:
    """A normal over the root of a chi-square by its degrees of freedom."""
    normal = out.normal_(generator=generator)
    # Not full_like: of one tensor for all of a vmap's examples PyTorch draws as vmap is told to.
    half = torch.full(out.shape, 0.5 * df, dtype=out.dtype, device=out.device)
    chi2 = torch._standard_gamma(half, generator) / 0.5
    return normal * torch.rsqrt(chi2.clamp(min=torch.finfo(out.dtype).tiny) / df)


def _exponential_of_uniform(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    return out.uniform_(generator=generator).log_().neg_()


def _exponential_of_rest(out: Tensor, generator: torch.Generator | None, _: float) -> Tensor:
    return out.uniform_(generator=generator).neg_().log1p_().neg_()


DRAWS: dict[str, Draw] = {
    "normal": _normal,
    "exponential": _exponential,
    "cauchy": _cauchy,
    "uniform": _uniform,
    "laplace": _laplace,
    "gumbel": _gumbel,
    "logistic": _logistic,
    "student_t": _student_t,
    "gumbel_of_exponential": _gumbel_of_exponential,
    "logistic_of_probabilities": _logistic_of_probabilities,
    "exponential_of_uniform": _exponential_of_uniform,
    "exponential_of_rest": _exponential_of_rest,
}
"""By the name of the base noise that it is, or by a name of its own."""
