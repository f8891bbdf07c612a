"""Bayesian convolutions in one, two and three dimensions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.mistakes import names_mistakes, unknown
from ...core.scalars import integer
from ...functional.divergence import PriorArgument
from ..stochastic import changed
from .mean_field import WeightAndBias, has_bias
from .prior import Mixture, PriorOptions, no_prior

__all__ = ["BayesianConv1d", "BayesianConv2d", "BayesianConv3d"]

Sizes = int | tuple[int, ...]


class _Convolution(WeightAndBias):
    _convolve: ClassVar[Callable[..., Tensor]]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    @names_mistakes
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        prior_mean: Tensor | float = 0.0,
        prior_std: Tensor | float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        prior: PriorArgument = None,
        noise: str = "shared",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(type(self), mistaken)
        make: Any = self._of
        layer = make(
            integer("in_channels", in_channels),
            integer("out_channels", out_channels),
            _sizes("kernel_size", kernel_size),
            _sizes("stride", stride),
            padding if isinstance(padding, str) else _sizes("padding", padding),
            _sizes("dilation", dilation),
            integer("groups", groups),
            bias,
            padding_mode,
            device,
            dtype,
        )
        super().__init__(
            layer, prior=prior, prior_mean=prior_mean, prior_std=prior_std, mixture=mixture,
            rho_init=rho_init, noise=noise,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_around" in state:  # from older code, which kept less of PyTorch's layer
            self._reversed_padding_repeated_twice = vars(self).pop("_around")
            self.out_channels, channels, *sizes = self.weight_mu.shape
            self.in_channels, self.kernel_size = channels * self.groups, tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of freshly drawn weights; in eval, of the means."""
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * len(self.stride)
        weights = self._draw()
        return self._convolve(x, *weights, self.stride, padding, self.dilation, self.groups)

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__, bias=has_bias, prior=no_prior)


def _sizes(name: str, value: Sizes) -> Sizes:
    """One integer, or one for each dim."""
    if isinstance(value, (tuple, list)):
        return tuple(integer(name, size) for size in value)
    return integer(name, value)


class BayesianConv1d(_Convolution):
    r"""A 1-D convolution with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    One draw serves the whole batch. In ``eval()`` mode the weights are their means, of which a loss
    is no ELBO; :func:`fused_reparam.sampling` lets them be drawn. The KL and the prior are as in
    :class:`BayesianLinear`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as ``torch.nn.Conv1d`` has them.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.

    Shape:
        as ``torch.nn.Conv1d``. Parameters: ``weight_mu, weight_rho`` (out_channels,
        in_channels / groups, kernel), ``bias_mu, bias_rho`` (out_channels,).

    Raises:
        ValueError, TypeError: as ``torch.nn.Conv1d`` and :class:`BayesianLinear` do.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianConv1d
        >>> layer = BayesianConv1d(3, 8, kernel_size=5, padding=2)
        >>> layer(torch.randn(2, 3, 40)).shape
        torch.Size([2, 8, 40])
    """

    _of = nn.Conv1d
    _convolve = staticmethod(F.conv1d)

    @classmethod
    def from_conv1d(cls, layer: nn.Conv1d, **options: Unpack[PriorOptions]) -> Self:
        """A layer whose means are copies of a ``torch.nn.Conv1d``'s weights.

        Arguments and errors are those of :meth:`BayesianLinear.from_linear`.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianConv1d
            >>> trained, x = torch.nn.Conv1d(3, 8, 5), torch.randn(2, 3, 40)
            >>> torch.equal(BayesianConv1d.from_conv1d(trained).eval()(x), trained(x))
            True
        """
        return cls._from(layer, options)


class BayesianConv2d(_Convolution):
    r"""A 2-D convolution with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    One draw serves the whole batch. In ``eval()`` mode the weights are their means, of which a loss
    is no ELBO; :func:`fused_reparam.sampling` lets them be drawn. The KL and the prior are as in
    :class:`BayesianLinear`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as ``torch.nn.Conv2d`` has them.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.

    Shape:
        as ``torch.nn.Conv2d``. Parameters: ``weight_mu, weight_rho`` (out_channels,
        in_channels / groups, \*kernel), ``bias_mu, bias_rho`` (out_channels,).

    Raises:
        ValueError, TypeError: as ``torch.nn.Conv2d`` and :class:`BayesianLinear` do.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianConv2d
        >>> layer = BayesianConv2d(3, 8, kernel_size=3, padding=1, prior_std=0.1)
        >>> y = layer(torch.randn(2, 3, 5, 5))
        >>> y.shape, layer.kl().shape
        (torch.Size([2, 8, 5, 5]), torch.Size([]))
    """

    _of = nn.Conv2d
    _convolve = staticmethod(F.conv2d)

    @classmethod
    def from_conv2d(cls, layer: nn.Conv2d, **options: Unpack[PriorOptions]) -> Self:
        """A layer whose means are copies of a ``torch.nn.Conv2d``'s weights.

        Arguments and errors are those of :meth:`BayesianLinear.from_linear`.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianConv2d
            >>> trained, x = torch.nn.Conv2d(3, 8, 3), torch.randn(2, 3, 5, 5)
            >>> torch.equal(BayesianConv2d.from_conv2d(trained).eval()(x), trained(x))
            True
        """
        return cls._from(layer, options)


class BayesianConv3d(_Convolution):
    r"""A 3-D convolution with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    One draw serves the whole batch. In ``eval()`` mode the weights are their means, of which a loss
    is no ELBO; :func:`fused_reparam.sampling` lets them be drawn. The KL and the prior are as in
    :class:`BayesianLinear`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as ``torch.nn.Conv3d`` has them.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.

    Shape:
        as ``torch.nn.Conv3d``. Parameters: ``weight_mu, weight_rho`` (out_channels,
        in_channels / groups, \*kernel), ``bias_mu, bias_rho`` (out_channels,).

    Raises:
        ValueError, TypeError: as ``torch.nn.Conv3d`` and :class:`BayesianLinear` do.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianConv3d
        >>> layer = BayesianConv3d(1, 4, kernel_size=(1, 3, 3), padding="same")
        >>> layer(torch.randn(2, 1, 4, 5, 5)).shape
        torch.Size([2, 4, 4, 5, 5])
    """

    _of = nn.Conv3d
    _convolve = staticmethod(F.conv3d)

    @classmethod
    def from_conv3d(cls, layer: nn.Conv3d, **options: Unpack[PriorOptions]) -> Self:
        """A layer whose means are copies of a ``torch.nn.Conv3d``'s weights.

        Arguments and errors are those of :meth:`BayesianLinear.from_linear`.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianConv3d
            >>> trained, x = torch.nn.Conv3d(1, 4, 2), torch.randn(2, 1, 3, 3, 3)
            >>> torch.equal(BayesianConv3d.from_conv3d(trained).eval()(x), trained(x))
            True
        """
        return cls._from(layer, options)
