"""Bounded actions as a ``torch.nn`` module."""

from typing import TYPE_CHECKING, Any, Never

import torch
from torch import Tensor, nn

from .. import functional
from ..core.mistakes import names_mistakes, not_scriptable, unknown
from ..functional import arguments
from ..functional.tanh_normal import without_noise

__all__ = ["FusedTanhNormal"]


class FusedTanhNormal(nn.Module):
    r"""The head of a policy: a bounded action and its log-density, in one fused op.

    .. math::
        a = m + h \tanh(\mu + \sigma \epsilon)

    with m and h the bounds' mean and half their distance. It has no parameters. In ``eval()`` mode
    the action is the one of ``eps = 0``, and the log-density is that action's.

    Args:
        scale: what the second argument is: "log_std", "std", "logvar", "var" or "rho".
        low, high: bounds of the action.
        clamp: (low, high) bounds on log_std or logvar.

    Shape:
        ``layer(mean, scale)``: shapes (\*batch, actions) that broadcast; the action has the
        broadcast shape, the log-density that without its last dim. Also takes ``key=`` and
        ``generator=``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.tanh_normal_rsample` does.

    Source: Haarnoja et al., "Soft actor-critic", 2018.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedTanhNormal
        >>> head = FusedTanhNormal(low=-2.0, high=2.0, clamp=(-20.0, 2.0))
        >>> action, log_prob = head(torch.zeros(8, 3), torch.zeros(8, 3))
        >>> action.shape, log_prob.shape
        (torch.Size([8, 3]), torch.Size([8]))
        >>> head.eval()(torch.zeros(8, 3), torch.zeros(8, 3))[0].unique()
        tensor([0.])
    """

    __prepare_scriptable__ = not_scriptable

    @names_mistakes
    def __init__(
        self,
        scale: str = "log_std",
        low: float = -1.0,
        high: float = 1.0,
        clamp: tuple[float, float] | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(FusedTanhNormal, mistaken)
        super().__init__()
        self.scale = arguments.layer_scale("FusedTanhNormal", scale)
        self.low, self.high = arguments.interval(low, high)
        self.clamp = arguments.clamp_of(clamp, scale)

    def forward(
        self,
        mean: Tensor,
        scale: Tensor | float,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The action (in eval: without noise) and its log-density."""
        if not self.training:
            return without_noise(mean, scale, self.scale, self.low, self.high, self.clamp)
        options: dict[str, Any] = {"key": key, "generator": generator, self.scale: scale}
        return functional.tanh_normal_rsample(
            mean, low=self.low, high=self.high, clamp=self.clamp, **options
        )

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}, low={self.low}, high={self.high}, clamp={self.clamp}"
