"""Bounded actions as a ``torch.nn`` module."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Never

import torch
from torch import Tensor

from .. import functional
from ..core.mistakes import names_mistakes, unknown
from ..core.modes import eager
from ..core.noise_options import Generators
from ..core.tracers import fx, node_of
from ..functional import arguments
from ..functional.tanh_normal import without_noise
from ..functional.tensor_numbers import listed
from .scales import clamp_of_layer, scale_by_keyword
from .stochastic import Stochastic, changed
from .tensor_numbers import hold

__all__ = ["FusedTanhNormal"]


class _Attributes(NamedTuple):
    """Of a layer, all that its forward pass reads."""

    scale: str
    low: float
    high: float
    clamp: tuple[float, float] | None
    draws: bool


class FusedTanhNormal(Stochastic):
    r"""The head of a policy: a bounded action and its log-density, in one fused op.

    .. math::
        a = m + h \tanh(\mu + \sigma \epsilon)

    with m and h the bounds' mean and half their distance. It has no parameters. In ``eval()`` mode
    the action is the one of ``eps = 0``, and the log-density is that action's: an entropy or an
    ELBO is an average over samples, which the layer draws ``with fused_reparam.sampling(model):``.

    Args:
        scale: what the second argument is: "log_std", "std", "logvar", "var" or "rho".
        low, high: bounds of the action: numbers, or tensors, lists or arrays of one for each
            action, which are buffers of the layer.
        clamp: (low, high) bounds on log_std or logvar.

    Shape:
        ``layer(mean, scale)``, or ``layer(mean, std=std)`` with any of the five scales by its
        keyword: shapes (\*batch, actions) that broadcast; the action has the broadcast shape, the
        log-density that without its last dim. Also takes ``key=`` and ``generator=``.

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

    low: float | Tensor
    high: float | Tensor
    clamp = clamp_of_layer()

    @names_mistakes
    def __init__(
        self,
        scale: str = "log_std",
        low: float | Tensor | Sequence[float] = -1.0,
        high: float | Tensor | Sequence[float] = 1.0,
        clamp: tuple[float, float] | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(FusedTanhNormal, mistaken)
        super().__init__()
        self.scale = arguments.layer_scale("FusedTanhNormal", scale)
        numbers = not isinstance(low, Tensor) and not isinstance(high, Tensor)
        low = listed("low", low, torch.empty(0), arguments.number)
        high = listed("high", high, torch.empty(0), arguments.number)
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            arguments.check_together("low", low, "high", high)
        if not isinstance(low, Tensor) and not isinstance(high, Tensor):
            arguments.interval(low, high)  # type: ignore[arg-type]
        elif numbers and eager() and not torch.all(torch.as_tensor(low < high)):  # type: ignore[operator]
            raise ValueError(f"low must be below high, got low {low} and high {high}")
        hold(self, "low", low, arguments.number)
        hold(self, "high", high, arguments.number)
        self.clamp = clamp

    def forward(
        self,
        mean: Tensor,
        scale: Tensor | float | None = None,
        *,
        logvar: Tensor | float | None = None,
        log_std: Tensor | float | None = None,
        std: Tensor | float | None = None,
        var: Tensor | float | None = None,
        rho: Tensor | float | None = None,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The action (in eval: without noise) and its log-density."""
        if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag:
            given = locals()
            layer = {name: getattr(given["self"], name) for name in _Attributes._fields}
            del given["self"]
            node = node_of(action_of, {"layer": layer, **given})
            if node is not None:
                return node  # type: ignore[no-any-return]
        kind = self.scale
        if not (logvar is log_std is std is var is rho is None):
            kind, scale = scale_by_keyword(kind, self.clamp, scale, logvar, log_std, std, var, rho)
        elif scale is None:
            raise ValueError(f"call layer(mean, {kind}), or name the scale: layer(mean, std=...)")
        if not self.draws:
            return without_noise(mean, scale, kind, self.low, self.high, self.clamp)
        options: dict[str, Any] = {"key": key, "generator": generator, kind: scale}
        return functional.tanh_normal_rsample(
            mean, low=self.low, high=self.high, clamp=self.clamp, **options
        )

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)


def action_of(
    layer: dict[str, Any],
    mean: Tensor,
    scale: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
) -> tuple[Tensor, Tensor]:
    """The forward pass of a layer of these attributes: what its node in a ``torch.fx`` graph calls.

    Which arguments are None is seen only when the graph runs.
    """
    return FusedTanhNormal.forward(
        _Attributes(**layer),  # type: ignore[arg-type]
        mean, scale, logvar=logvar, log_std=log_std, std=std, var=var, rho=rho, key=key,
        generator=generator,
    )  # fmt: skip
