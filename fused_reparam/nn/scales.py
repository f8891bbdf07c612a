"""A layer's bounds of its scale, and the scale that a call gives: second, or by its keyword."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.scales import SCALE_KINDS
from ..functional.arguments import clamp_of

__all__ = ["clamp_of_layer", "scale_by_keyword"]

Scale = Tensor | float | None


def clamp_of_layer() -> property:
    """The attribute ``clamp`` of a layer that has a ``scale``: two numbers, or None.

    They are held each by itself: of a tuple's numbers a compiler makes constants.
    """

    def get(layer: Any) -> tuple[float, float] | None:
        low = layer._clamp_low
        return None if low is None else (low, layer._clamp_high)

    def put(layer: Any, clamp: tuple[float, float] | None) -> None:
        layer._clamp_low, layer._clamp_high = clamp_of(clamp, layer.scale) or (None, None)

    return property(get, put)


def scale_by_keyword(
    built: str,
    clamp: tuple[float, float] | None,
    scale: Scale,
    logvar: Scale,
    log_std: Scale,
    std: Scale,
    var: Scale,
    rho: Scale,
) -> tuple[str, Tensor | float]:
    """Keyword and value of the one scale given, at least one by keyword.

    ``built`` and ``clamp`` are the layer's: what its second argument is, and its bounds.
    """
    values = (scale, logvar, log_std, std, var, rho)
    given = {
        name: value
        for name, value in zip(("scale", *SCALE_KINDS), values, strict=True)
        if value is not None
    }
    if len(given) > 1:
        raise ValueError(
            f"give exactly one of scale (here: {built}), {', '.join(SCALE_KINDS)}; got "
            + " and ".join(given)
        )
    ((kind, found),) = given.items()
    if clamp is not None and kind != built:
        raise ValueError(
            f"the layer's clamp={clamp} bounds {built}, and the call gives {kind}: build the layer "
            f"with scale={kind!r} and bounds of that"
        )
    return kind, found
