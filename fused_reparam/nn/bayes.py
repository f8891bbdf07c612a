"""Layers whose weights are sampled at each forward pass: Bayes by backprop."""

from typing import TYPE_CHECKING, Never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import functional
from ..core.dtypes import compute_dtype
from ..core.mistakes import names_mistakes, unknown
from ..core.scalars import flag, integer
from ..core.scales import RHO, sigma_of
from ..core.tracers import fx, node_of
from .mean_field import MeanField, Mixture

__all__ = ["BayesianConv2d", "BayesianLinear"]


class BayesianLinear(MeanField):
    r"""A linear layer with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    .. math::
        y = x w^\top + b, \qquad w \sim N(\mu, \log^2(1 + e^\rho))

    In ``eval()`` mode the weights are their means. ``layer.kl()`` is the divergence of all weights
    to the prior at any time, see :func:`fused_reparam.kl_divergence`. It costs least in training
    after a forward pass, which computed it as it drew the weights; ``backward()`` is then called on
    the sum of loss and KL.

    Args:
        in_features, out_features, bias, device, dtype: as ``torch.nn.Linear`` has them.
        prior_mean, prior_std: the prior of each weight, N(prior_mean, prior_std^2).
        mixture: (share, std1, std2) of a mixture of two Gaussians as prior instead. The KL is then
            an estimate, from the weights that the forward pass drew; where there was none to be
            had (in eval, in compiled code, outside a reentrant checkpoint), from weights drawn for
            it.
        rho_init: where rho starts; -5 is sigma = 0.0067.
        local_reparameterization: draw the outputs, whose means and variances are two matrix
            products, instead of the weights: each example has noise of its own and gradients vary
            less. Not with a mixture, whose KL needs the weights.

    Shape:
        as ``torch.nn.Linear``: (\*batch, in_features) to (\*batch, out_features). Parameters:
        ``weight_mu, weight_rho`` (out_features, in_features), ``bias_mu, bias_rho``
        (out_features,).

    Raises:
        ValueError, TypeError: a prior that :func:`fused_reparam.sample_weight` would refuse, or a
            mixture with local reparameterization.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015; Kingma, Salimans and
    Welling, "Variational dropout and the local reparameterization trick", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianLinear, kl_divergence
        >>> model = torch.nn.Sequential(BayesianLinear(4, 8), torch.nn.ReLU(), BayesianLinear(8, 1))
        >>> loss = model(torch.randn(16, 4)).square().mean() + kl_divergence(model) / 16
        >>> loss.backward()
        >>> model[0].weight_rho.grad.shape
        torch.Size([8, 4])
        >>> x = torch.randn(2, 4)
        >>> torch.equal(model(x), model(x)), torch.equal(model.eval()(x), model(x))
        (False, True)
    """

    @names_mistakes
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        prior_mean: float = 0.0,
        prior_std: float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        local_reparameterization: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(BayesianLinear, mistaken)
        in_features = integer("in_features", in_features)
        out_features = integer("out_features", out_features)
        local_reparameterization = flag("local_reparameterization", local_reparameterization)
        if local_reparameterization and mixture is not None:
            raise ValueError(
                "local reparameterization draws no weights, and the KL to a mixture needs them: "
                f"give one of local_reparameterization and mixture={mixture}"
            )
        super().__init__(
            (out_features, in_features), bias, prior_mean, prior_std, mixture, rho_init, device,
            dtype,
        )  # fmt: skip
        self.in_features, self.out_features = in_features, out_features
        self.local_reparameterization = local_reparameterization

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of freshly drawn weights; in eval, of the means."""
        if self.local_reparameterization and self.draws:
            self._drawn = None
            std = deviation(x, self.weight_rho, self.bias_rho)
            mean = F.linear(x, self.weight_mu, self.bias_mu)
            return functional.gaussian_rsample(mean, std=std.to(mean.dtype))  # type: ignore[return-value]
        return F.linear(x, *self._draw())

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias_mu is not None}, {self._about_prior()}, "
            f"local_reparameterization={self.local_reparameterization}"
        )


def deviation(x: Tensor, weight_rho: Tensor, bias_rho: Tensor | None) -> Tensor:
    """Of a linear layer's outputs, in float32: float16 has no room for squares of small scales."""
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag:
        node = node_of(deviation, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    dtype = compute_dtype(weight_rho.dtype)
    sigmas = (sigma_of(t.to(dtype), RHO) for t in (weight_rho, bias_rho) if t is not None)
    x2, *variances = (t.to(dtype).square() for t in (x, *sigmas))
    with torch.autocast(x.device.type, enabled=False):
        variance = F.linear(x2, *variances)
    # An input of zeros has no variance, where the square root has no gradient.
    return variance.clamp_min(torch.finfo(dtype).tiny).sqrt()


class BayesianConv2d(MeanField):
    r"""A 2-D convolution with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    One draw serves the whole batch. In ``eval()`` mode the weights are their means. The KL and the
    prior are as in :class:`BayesianLinear`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as ``torch.nn.Conv2d`` has them.
        prior_mean, prior_std, mixture, rho_init: see :class:`BayesianLinear`.

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

    @names_mistakes
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        prior_mean: float = 0.0,
        prior_std: float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(BayesianConv2d, mistaken)
        in_channels, out_channels, groups = (
            integer(name, value)
            for name, value in (
                ("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)
            )
        )  # fmt: skip
        kernel_size, stride, dilation = (
            _sizes(name, value)
            for name, value in (
                ("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)
            )
        )  # fmt: skip
        padding = padding if isinstance(padding, str) else _sizes("padding", padding)
        # PyTorch's own layer checks the arguments and says what they mean.
        like = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        super().__init__(
            like.weight.shape, bias, prior_mean, prior_std, mixture, rho_init, device, dtype
        )
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation
        self.groups, self.padding_mode = groups, padding_mode
        self._around = like._reversed_padding_repeated_twice
        self._about = like.extra_repr()

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of freshly drawn weights; in eval, of the means."""
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._around, mode=self.padding_mode), (0, 0)
        return F.conv2d(x, *self._draw(), self.stride, padding, self.dilation, self.groups)

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    def extra_repr(self) -> str:
        return f"{self._about}, {self._about_prior()}"


def _sizes(name: str, value: int | tuple[int, int]) -> int | tuple[int, int]:
    """One integer, or one for each dim."""
    if isinstance(value, (tuple, list)):
        return tuple(integer(name, size) for size in value)  # type: ignore[return-value]
    return integer(name, value)
