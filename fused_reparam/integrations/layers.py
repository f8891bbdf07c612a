"""How a layer of another package makes its outputs of weights that were drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

# Of a layer: its outputs of an input, a weight and a bias.
Outputs = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


def linear(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def convolution(convolve: Callable[..., Tensor]) -> Outputs:
    def outputs(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(
            x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )  # fmt: skip

    return outputs


def transposed(convolve: Callable[..., Tensor]) -> Outputs:
    def outputs(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups,
            layer.dilation,
        )  # fmt: skip

    return outputs


def embedding(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.embedding(
        x, weight, layer.padding_idx, layer.max_norm, layer.norm_type, layer.scale_grad_by_freq,
        layer.sparse,
    )  # fmt: skip
