"""Categories, relaxed or straight-through: checks the arguments, finds the noise, calls an op."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scalars import flag
from ..core.tracers import fx, node_of, special
from ..families.categorical import HARD, ONE_HOT, SOFT
from ..ops import softmax
from ..ops.softmax_check import MOST_CLASSES
from .arguments import check_tensor, class_dim, share, temperature
from .categories import draw
from .reduction import Dims, Reduction, settled, summed
from .sources import Sources, sources_of
from .tensor_numbers import Number, check_broadcasts, number_or_tensor, of_variables

__all__ = ["categorical_latent", "gumbel_softmax", "one_hot_categorical"]


@names_mistakes
def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    dim: int = -1,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
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
        tau: temperature, a positive number; below 2^-126 it is taken as that. Or a tensor, which
            may require grad and is read on its device: without dims, one for each variable (of the
            logits' shape with 1 for ``dim``, or what broadcasts to it), or one for each class,
            which takes the noise and some of PyTorch's operators. Where it is not positive y is
            NaN. Under ``torch.compile`` a number that changes is one graph for all values.
        hard: whether to sample one-hot vectors.
        dim: of the classes.
        key: noise key, see :func:`fused_reparam.noise.key`. When None, one is drawn. Noise of a
            float64 call is another draw of the key than that of the other three dtypes.
        generator, sample_shape: where the key is drawn from, and how many samples, see
            :func:`gaussian_latent`. The KL of :func:`categorical_latent` is one, of the logits.
        rng: "philox", or "torch" for the very numbers that ``torch.nn.functional.gumbel_softmax``
            would draw, the generator left in the same state. ``RelaxedOneHotCategorical`` of
            ``torch.distributions`` makes its Gumbel noise of other numbers.
        eps: standard Gumbel noise to use instead of drawing any, of y's shape; it may require grad.

    Returns:
        y, of the logits' shape behind the samples', their dtype and memory format; it sums to 1
        along ``dim``. Finite for all finite logits and every tau.

    Raises:
        TypeError: logits are not a floating tensor of the four dtypes, dim is not an integer, tau
            is neither a number nor a tensor of numbers, or the key's dtype is not uint64.
        ValueError: tau is a number that is not positive or not finite, or a tensor that does not
            broadcast to the logits, logits have no such dim, no class along it or more than 2^31 -
            1, the noise has two sources, the key's shape is not (2,), or a list of generators is
            not one for each item of dim 0.
        RuntimeError: the generator is for another device.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017;
    Maddison, Mnih and Teh, "The concrete distribution", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import gumbel_softmax
        >>> codes = gumbel_softmax(torch.zeros(2, 512, 8, 8), tau=0.5, hard=True, dim=1)
        >>> codes.sum(1).unique()
        tensor([1.])
        >>> one_each = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        >>> gumbel_softmax(torch.zeros(2, 512), sample_shape=(5, 1), generator=one_each).shape
        torch.Size([5, 1, 2, 512])
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(gumbel_softmax, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    mode = HARD if hard is not False and flag("hard", hard) else SOFT
    sources = sources_of(key, generator, noise)
    return _draw(logits, mode, tau, dim, None, sources)[0]


@names_mistakes
def categorical_latent(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    dim: int = -1,
    reduction: str = "batchmean",
    *,
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample Gumbel-softmax and the KL divergence of softmax(logits) to equal shares.

    .. math::
        y = \mathrm{softmax}\big((\ell + g) / \tau\big), \qquad
        KL = \sum_i p_i \log p_i + \log C, \quad p = \mathrm{softmax}(\ell)

    The latent of a discrete VAE: y is that of :func:`gumbel_softmax`, and the KL, which is between
    the categories and not their relaxations, comes from the same pass over the logits.

    Args:
        logits, tau, hard, dim, key, generator, sample_shape, rng, eps: as :func:`gumbel_softmax`
            takes them.
        reduction: of the KL, in nats, over the dims other than ``dim``. "none": one for each
            variable; "sample": summed over all but dim 0; "sum"; "mean": over all variables;
            "batchmean": sum / size of dim 0.
        dims: in place of a reduction, the dims of the variables that the KL is summed over: an int
            or a sequence of ints, negative ones counted from the end, of the logits' shape without
            ``dim``, which is that of "none". Of logits (B, C, H, W) with classes along dim 1 the
            variables are (B, H, W), and ``dims=(1, 2)`` sums over H and W.

    Returns:
        ``(y, kl)``. kl is float32 (float64 for float64 logits), of the logits' shape without
        ``dim`` ("none"), of that without ``dims``, of shape logits.shape[:1] ("sample") or ().

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
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(categorical_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims)
    mode = HARD if hard is not False and flag("hard", hard) else SOFT
    sources = sources_of(key, generator, noise)
    return _draw(logits, mode, tau, dim, over, sources)


@names_mistakes
def one_hot_categorical(
    logits: Tensor,
    unimix: float | Tensor = 0.0,
    dim: int = -1,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample one-hot categories with the gradient of their probabilities (straight-through).

    .. math::
        m = (1 - u)\, \mathrm{softmax}(\ell) + u / C, \qquad
        y = \text{one-hot of } i \sim m, \qquad \partial y := \partial m

    Args:
        logits: as :func:`gumbel_softmax` takes them.
        unimix: the share u of equal chances in the mixture, ``0 <= unimix < 1``; world models take
            0.01, so that no class dies out. Or a tensor, which may require grad: without dims, or
            one for each variable, as tau of :func:`gumbel_softmax`; beyond these bounds it gives
            what the formula does.
        dim: of the classes.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gumbel_softmax`. rng="torch" draws the very classes that
            ``OneHotCategoricalStraightThrough`` would. eps has no gradient.

    Returns:
        y, of the logits' shape, dtype and memory format. Saved for the backward pass: the logits.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gumbel_softmax` does; ValueError also for a
            number unimix outside [0, 1), or a tensor of one for each class.

    Source: Bengio, Leonard and Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013; Hafner et al., "Mastering diverse domains through world models", 2023 (unimix).

    Example:
        >>> import torch
        >>> from fused_reparam import one_hot_categorical
        >>> y = one_hot_categorical(torch.zeros(16, 32, 32), unimix=0.01)
        >>> y.sum(-1).unique(), y.unique()
        (tensor([1.]), tensor([0., 1.]))
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(one_hot_categorical, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return _draw(logits, ONE_HOT, unimix, dim, None, sources_of(key, generator, noise))[0]


def most_likely(
    logits: Tensor, mode: int, number: Number, dim: int, reduction: str | None
) -> tuple[Tensor, Tensor]:
    """What a draw would be without noise, and the KL; for modules in eval mode.

    ``number``: tau, or unimix of ONE_HOT.
    """
    if not isinstance(logits, Tensor):
        node = node_of(most_likely, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("logits", logits)
    return _draw(logits, mode, number, dim, reduction, None)


def _draw(
    logits: Tensor,
    mode: int,
    number: Number,
    dim: int,
    reduction: Reduction | None,
    sources: Sources | None,
) -> tuple[Tensor, Tensor]:
    """y and the KL; without sources y has no noise."""
    dim = _class_dim(logits, dim, reduction)
    left: list[int] = []
    if isinstance(reduction, tuple):
        reduction, left = settled(
            reduction, logits.dim() - 1, lambda: (*logits.shape[:dim], *logits.shape[dim + 1 :])
        )
    if mode == ONE_HOT:
        number = number_or_tensor("unimix", number, logits, share)
    else:
        number = number_or_tensor("tau", number, logits, temperature)
    control = None
    if isinstance(number, Tensor):
        control, number = _beside(number, mode, logits, dim), 0.0 if mode == ONE_HOT else 1.0
    tau, unimix = (1.0, number) if mode == ONE_HOT else (number, 0.0)
    if sources is None:
        silence = torch.zeros_like(logits)
        if control is None or not control.dim() or control.shape[dim] == 1:
            y, kl = softmax.gumbel_softmax(
                logits, None, silence, mode, tau, unimix, dim, reduction, control=control
            )
            return y, kl.sum(left) if left else kl
        sources = Sources(eps=silence)
    y, kl = draw(logits, mode, tau, unimix, dim, reduction, sources, control)
    return y, kl.sum(left) if left else kl


def _beside(number: Tensor, mode: int, logits: Tensor, dim: int) -> Tensor:
    """A tensor of temperatures or shares without dims, or with all the logits have."""
    if not number.dim():
        return number
    if mode == ONE_HOT:
        return of_variables("unimix", number, "logits", logits.shape, dim)
    check_broadcasts("tau", number, "logits", logits.shape)
    return number[(None,) * (logits.dim() - number.dim())]


def _class_dim(logits: Tensor, dim: int, reduction: Reduction | None) -> int:
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
