"""Categories, relaxed or straight-through: checks the arguments, finds the noise, calls an op."""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.scalars import flag
from ..core.tracers import fx, node_of, special
from ..families.categorical import HARD, ONE_HOT, SOFT
from ..ops import softmax
from ..ops.softmax_check import MOST_CLASSES
from .arguments import check_reduction, class_dim, share, temperature
from .sources import key_of, key_source

__all__ = ["categorical_latent", "gumbel_softmax", "one_hot_categorical"]


@names_mistakes
def gumbel_softmax(
    logits: Tensor,
    tau: float = 1.0,
    hard: bool = False,
    dim: int = -1,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    **mistaken: Never,
) -> Tensor:
    r"""Sample Gumbel-softmax (Gumbel-softmax, concrete).

    .. math::
        y = \mathrm{softmax}\big((\ell + g) / \tau\big), \qquad g = -\log(-\log u)

    As tau falls, y moves to the corners of the simplex; its largest entry is class i with the
    probability softmax(logits)_i at any tau. With ``hard`` y is exactly that corner, and its
    gradient is the relaxed one's (straight-through): names, defaults and meaning are those of
    ``torch.nn.functional.gumbel_softmax``, without its ``eps``, which has no effect. Classes along
    any dim are read in place, without a transposed copy. Saved for the backward pass is y (its
    relaxed values where ``hard``), nothing more.

    Args:
        logits: unnormalized log-probabilities, at least one dim; float32, float64, float16 or
            bfloat16. -inf is a class that is never drawn, as long as the row has another.
        tau: temperature, a positive number; below 2^-126 it is taken as that. ``torch.compile``
            compiles anew for each value: anneal compiled code in few steps.
        hard: whether to sample one-hot vectors.
        dim: of the classes.
        key: noise key, see :func:`fused_reparam.noise.key`. When None, one is drawn. Noise of a
            float64 call is another draw of the key than that of the other three dtypes.
        generator: where the key is drawn from; the default generator of logits' device when None.

    Returns:
        y, of the logits' shape, dtype and memory format; it sums to 1 along ``dim``. Finite for
        all finite logits and every tau.

    Raises:
        TypeError: logits are not a floating tensor of the four dtypes, dim is not an integer, tau
            is not a number, or the key's dtype is not uint64.
        ValueError: tau is not positive or not finite, logits have no such dim, no class along it
            or more than 2^31 - 1, both key and generator were given, or the key's shape is not
            (2,).
        RuntimeError: the generator is for another device.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017;
    Maddison, Mnih and Teh, "The concrete distribution", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import gumbel_softmax
        >>> codes = gumbel_softmax(torch.zeros(2, 512, 8, 8), tau=0.5, hard=True, dim=1)
        >>> codes.sum(1).unique()
        tensor([1.])
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gumbel_softmax, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    tau = temperature(tau)
    return _draw(logits, HARD if flag("hard", hard) else SOFT, tau, 0.0, dim, None, key, generator)[
        0
    ]


@names_mistakes
def categorical_latent(
    logits: Tensor,
    tau: float = 1.0,
    hard: bool = False,
    dim: int = -1,
    reduction: str = "batchmean",
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    **mistaken: Never,
) -> tuple[Tensor, Tensor]:
    r"""Sample Gumbel-softmax and the KL divergence of softmax(logits) to equal shares.

    .. math::
        y = \mathrm{softmax}\big((\ell + g) / \tau\big), \qquad
        KL = \sum_i p_i \log p_i + \log C, \quad p = \mathrm{softmax}(\ell)

    The latent of a discrete VAE: y is that of :func:`gumbel_softmax`, and the KL, which is between
    the categories and not their relaxations, comes from the same pass over the logits.

    Args:
        logits, tau, hard, dim, key, generator: as :func:`gumbel_softmax` takes them.
        reduction: of the KL, in nats, over the dims other than ``dim``. "none": one for each
            variable; "sample": summed over all but dim 0; "sum"; "mean": over all variables;
            "batchmean": sum / size of dim 0.

    Returns:
        ``(y, kl)``. kl is float32 (float64 for float64 logits), of the logits' shape without
        ``dim`` ("none"), of shape logits.shape[:1] ("sample") or ().

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gumbel_softmax` does; ValueError also for an
            unknown reduction, and for "sample" and "batchmean" where dim 0 holds the classes.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import categorical_latent
        >>> y, kl = categorical_latent(torch.zeros(2, 512, 8, 8), dim=1)
        >>> y.shape, bool(kl.abs() < 1e-3)
        (torch.Size([2, 512, 8, 8]), True)
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(categorical_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_reduction(reduction)
    tau = temperature(tau)
    return _draw(
        logits, HARD if flag("hard", hard) else SOFT, tau, 0.0, dim, reduction, key, generator
    )


@names_mistakes
def one_hot_categorical(
    logits: Tensor,
    unimix: float = 0.0,
    dim: int = -1,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    **mistaken: Never,
) -> Tensor:
    r"""Sample one-hot categories with the gradient of their probabilities (straight-through).

    .. math::
        m = (1 - u)\, \mathrm{softmax}(\ell) + u / C, \qquad
        y = \text{one-hot of } i \sim m, \qquad \partial y := \partial m

    Args:
        logits: as :func:`gumbel_softmax` takes them.
        unimix: the share u of equal chances in the mixture, ``0 <= unimix < 1``; world models take
            0.01, so that no class dies out.
        dim: of the classes.
        key, generator: the source of the noise, see :func:`gumbel_softmax`.

    Returns:
        y, of the logits' shape, dtype and memory format. Saved for the backward pass: the logits.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gumbel_softmax` does; ValueError also for
            unimix outside [0, 1).

    Source: Bengio, Leonard and Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013; Hafner et al., "Mastering diverse domains through world models", 2023 (unimix).

    Example:
        >>> import torch
        >>> from fused_reparam import one_hot_categorical
        >>> y = one_hot_categorical(torch.zeros(16, 32, 32), unimix=0.01)
        >>> y.sum(-1).unique(), y.unique()
        (tensor([1.]), tensor([0., 1.]))
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(one_hot_categorical, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return _draw(logits, ONE_HOT, 1.0, share("unimix", unimix), dim, None, key, generator)[0]


def most_likely(
    logits: Tensor, mode: int, tau: float, unimix: float, dim: int, reduction: str | None
) -> tuple[Tensor, Tensor]:
    """What a draw would be without noise, and the KL; for modules in eval mode."""
    if not isinstance(logits, Tensor):
        node = node_of(most_likely, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    dim = _class_dim(logits, dim, reduction)
    silence = torch.zeros_like(logits)
    return softmax.gumbel_softmax(logits, None, silence, mode, tau, unimix, dim, reduction)


def _draw(
    logits: Tensor,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    dim = _class_dim(logits, dim, reduction)
    key = key_of(key_source(key, generator), logits)
    return softmax.gumbel_softmax(logits, key, None, mode, tau, unimix, dim, reduction)


def _class_dim(logits: Tensor, dim: int, reduction: str | None) -> int:
    dim = class_dim("logits", logits, dim)
    if logits.shape[dim] > MOST_CLASSES:
        raise ValueError(
            f"logits must have at most {MOST_CLASSES} classes, got shape {tuple(logits.shape)} "
            f"with the classes along dim {dim}"
        )
    if dim == 0 and reduction in ("sample", "batchmean"):
        raise ValueError(
            f"reduction {reduction!r} takes dim 0 for the batch, but it holds the classes of "
            f"logits {tuple(logits.shape)}"
        )
    return dim
