"""Categories, relaxed or straight-through, as ``torch.nn`` modules."""

from typing import TYPE_CHECKING, Never

from torch import Tensor

from .. import functional
from ..core.mistakes import names_mistakes, unknown
from ..core.noise_options import Generators
from ..core.scalars import flag, integer
from ..families.categorical import HARD, ONE_HOT, SOFT
from ..functional import arguments
from ..functional.categorical import most_likely
from .stochastic import Stochastic, changed
from .tensor_numbers import hold

__all__ = ["FusedCategoricalLatent", "FusedGumbelSoftmax", "FusedOneHotCategorical"]


class FusedGumbelSoftmax(Stochastic):
    r"""Gumbel-softmax, or straight-through one-hot ones, in one fused op.

    .. math::
        y = \mathrm{softmax}\big((\ell + g) / \tau\big), \quad g \text{ standard Gumbel}

    It has no parameters. In ``eval()`` mode there is no noise: y is softmax(logits / tau), or with
    ``hard`` the one-hot vector of the largest logit. A loss of that is no ELBO, which is of
    samples: ``with fused_reparam.sampling(model):`` the layer draws in ``eval()`` too.

    To anneal, set ``tau``: ``torch.compile`` makes two graphs for any number of values. To learn
    it, give a parameter.

    Args:
        tau: temperature, a positive number, or a tensor as :func:`fused_reparam.gumbel_softmax`
            takes it. A tensor is a buffer of the layer, and a parameter is one.
        hard: whether to sample one-hot vectors, with the relaxed one's gradient.
        dim: of the classes.

    Shape:
        ``layer(logits)``: any shape with at least one class along ``dim``; y has the same. Also
        takes ``key=`` and ``generator=``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.gumbel_softmax` does.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedGumbelSoftmax
        >>> choose = FusedGumbelSoftmax(tau=0.5, hard=True)
        >>> choose(torch.zeros(4, 10)).sum(-1)
        tensor([1., 1., 1., 1.])
        >>> choose.eval()(torch.tensor([0.0, 2.0, 1.0]))
        tensor([0., 1., 0.])
    """

    tau: float | Tensor

    @names_mistakes
    def __init__(
        self, tau: float | Tensor = 1.0, hard: bool = False, dim: int = -1, **mistaken: Never
    ) -> None:
        if mistaken:
            raise unknown(FusedGumbelSoftmax, mistaken)
        super().__init__()
        hold(self, "tau", tau, arguments.temperature)
        self.hard = flag("hard", hard)
        self.dim = integer("dim", dim)

    def forward(
        self,
        logits: Tensor,
        *,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """A draw; in eval what it is without noise."""
        if self.draws:
            return functional.gumbel_softmax(
                logits, self.tau, self.hard, self.dim, key=key, generator=generator
            )
        mode = HARD if self.hard else SOFT
        return most_likely(logits, mode, self.tau, self.dim, None)[0]

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)


class FusedCategoricalLatent(Stochastic):
    r"""The latent of a discrete VAE: Gumbel-softmax and their KL to equal shares, in one op.

    .. math::
        y = \mathrm{softmax}\big((\ell + g) / \tau\big), \qquad
        KL = \sum_i p_i \log p_i + \log C, \quad p = \mathrm{softmax}(\ell)

    It has no parameters. In ``eval()`` mode there is no noise, as in :class:`FusedGumbelSoftmax`;
    the KL is the same. A loss of that is no ELBO, which is of samples: to measure one on held-out
    data, let the latent draw, ``with fused_reparam.sampling(model):``. To anneal, set ``tau``.

    Args:
        tau: temperature, see :class:`FusedGumbelSoftmax`.
        hard: whether to sample one-hot vectors, with the relaxed one's gradient.
        dim: of the classes.
        reduction: of the KL: "batchmean", "sum", "mean", "sample" or "none".

    Shape:
        ``layer(logits)``: any shape with at least one class along ``dim``; ``(y, kl)`` with y of
        the same. Also takes ``key=`` and ``generator=``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.categorical_latent` does.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedCategoricalLatent
        >>> latent = FusedCategoricalLatent(tau=0.7, dim=1)
        >>> y, kl = latent(torch.zeros(2, 16, 4, 4))
        >>> y.shape, kl.shape
        (torch.Size([2, 16, 4, 4]), torch.Size([]))
    """

    tau: float | Tensor

    @names_mistakes
    def __init__(
        self,
        tau: float | Tensor = 1.0,
        hard: bool = False,
        dim: int = -1,
        reduction: str = "batchmean",
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(FusedCategoricalLatent, mistaken)
        super().__init__()
        arguments.check_reduction(reduction)
        hold(self, "tau", tau, arguments.temperature)
        self.hard = flag("hard", hard)
        self.dim = integer("dim", dim)
        self.reduction = reduction

    def forward(
        self,
        logits: Tensor,
        *,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A draw (in eval what it is without noise) and the KL."""
        if self.draws:
            return functional.categorical_latent(
                logits, self.tau, self.hard, self.dim, self.reduction,
                key=key, generator=generator,
            )  # fmt: skip
        mode = HARD if self.hard else SOFT
        return most_likely(logits, mode, self.tau, self.dim, self.reduction)

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)


class FusedOneHotCategorical(Stochastic):
    r"""One-hot categories with the gradient of their probabilities (straight-through), in one op.

    .. math::
        m = (1 - u)\, \mathrm{softmax}(\ell) + u / C, \qquad y = \text{one-hot of } i \sim m

    It has no parameters. In ``eval()`` mode y is the one-hot vector of the largest logit. A loss of
    that is no ELBO, which is of samples: ``with fused_reparam.sampling(model):`` the layer draws in
    ``eval()`` too.

    Args:
        unimix: the share u of equal chances, ``0 <= unimix < 1``, or a tensor, which is a buffer of
            the layer, as :func:`fused_reparam.one_hot_categorical` takes it.
        dim: of the classes.

    Shape:
        ``layer(logits)``: any shape with at least one class along ``dim``; y has the same. Also
        takes ``key=`` and ``generator=``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.one_hot_categorical` does.

    Source: Hafner et al., "Mastering diverse domains through world models", 2023.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedOneHotCategorical
        >>> state = FusedOneHotCategorical(unimix=0.01)
        >>> state(torch.zeros(16, 32, 32)).sum(-1).unique()
        tensor([1.])
    """

    unimix: float | Tensor

    @names_mistakes
    def __init__(self, unimix: float | Tensor = 0.0, dim: int = -1, **mistaken: Never) -> None:
        if mistaken:
            raise unknown(FusedOneHotCategorical, mistaken)
        super().__init__()
        hold(self, "unimix", unimix, arguments.share)
        self.dim = integer("dim", dim)

    def forward(
        self,
        logits: Tensor,
        *,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """A draw; in eval the most likely category."""
        if self.draws:
            return functional.one_hot_categorical(
                logits, self.unimix, self.dim, key=key, generator=generator
            )
        return most_likely(logits, ONE_HOT, self.unimix, self.dim, None)[0]

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)
