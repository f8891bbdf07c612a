"""The relaxed Bernoulli as a ``torch.nn`` module."""

from typing import TYPE_CHECKING, Never

from torch import Tensor

from .. import functional
from ..core.mistakes import names_mistakes, unknown
from ..core.noise_options import Generators
from ..core.scalars import flag
from ..functional import arguments
from ..functional.unit_interval import without_noise
from .stochastic import Stochastic, changed
from .tensor_numbers import hold

__all__ = ["FusedRelaxedBernoulli"]


class FusedRelaxedBernoulli(Stochastic):
    r"""Gates between 0 and 1, or straight-through 0 and 1, in one fused op.

    .. math::
        z = \mathrm{sigmoid}\big((\ell + g) / \tau\big), \quad g \text{ standard logistic}

    It has no parameters. In ``eval()`` mode there is no noise: g is 0. A loss of that is no ELBO,
    which is of samples: ``with fused_reparam.sampling(model):`` the layer draws in ``eval()`` too.
    To anneal, set ``tau``; compiled, see :class:`FusedGumbelSoftmax`.

    Args:
        tau: temperature, see :class:`FusedGumbelSoftmax`.
        hard: whether to give ``[logits + g > 0]``, with the relaxed one's gradient.

    Shape:
        ``layer(logits)``: any shape. Also takes ``key=`` and ``generator=``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.relaxed_bernoulli` does.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedRelaxedBernoulli
        >>> gates = FusedRelaxedBernoulli(tau=0.5, hard=True)
        >>> gates(torch.zeros(100)).unique()
        tensor([0., 1.])
        >>> gates.eval()(torch.tensor([-3.0, 3.0]))
        tensor([0., 1.])
    """

    tau: float | Tensor

    @names_mistakes
    def __init__(self, tau: float | Tensor = 1.0, hard: bool = False, **mistaken: Never) -> None:
        if mistaken:
            raise unknown(FusedRelaxedBernoulli, mistaken)
        super().__init__()
        hold(self, "tau", tau, arguments.temperature)
        self.hard = flag("hard", hard)

    def forward(
        self,
        logits: Tensor,
        *,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """A draw; in eval what it is without noise."""
        if self.draws:
            return functional.relaxed_bernoulli(
                logits, self.tau, self.hard, key=key, generator=generator
            )
        return without_noise(logits, self.tau, self.hard)

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)
