"""Layers whose weights are sampled at each forward pass: Bayes by backprop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import arguments, functional
from ..backends.reference import RHO, sigma_of
from ..functional.weights import mixture_numbers
from ..ops.gaussian_call import compute_dtype

__all__ = ["BayesianConv2d", "BayesianLinear", "kl_divergence"]

Mixture = tuple[float, float, float]


class _MeanField(nn.Module):
    """A weight and perhaps a bias, each element of its own Gaussian, and their KL."""

    weight_mu: nn.Parameter
    weight_rho: nn.Parameter
    bias_mu: nn.Parameter | None
    bias_rho: nn.Parameter | None

    def __init__(
        self,
        weight_shape: Sequence[int],
        bias: bool,
        prior_mean: float,
        prior_std: float,
        mixture: Mixture | None,
        rho_init: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.prior_mean = arguments.number("prior_mean", prior_mean)
        self.prior_std = arguments.positive("prior_std", prior_std)
        self.mixture = None if mixture is None else mixture_numbers(mixture, self.prior_std)
        self.rho_init = arguments.number("rho_init", rho_init)
        for name, shape in (("weight", weight_shape), ("bias", weight_shape[:1])):
            for part in ("mu", "rho"):
                made = torch.empty(tuple(shape), device=device, dtype=dtype)
                wanted = name == "weight" or bias
                self.register_parameter(f"{name}_{part}", nn.Parameter(made) if wanted else None)
        self._kl: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Means as PyTorch's layers start, scales at ``rho_init``."""
        bound = 1.0 / math.sqrt(max(1, self.weight_mu[0].numel()))
        for mu, rho in self._pairs():
            nn.init.uniform_(mu, -bound, bound)
            nn.init.constant_(rho, self.rho_init)

    def kl(self) -> Tensor:
        """The KL of all weights to their prior: one number.

        In training that of the last forward pass (with a mixture prior: of the weights drawn then),
        whose graph it shares: one ``backward()`` for the loss and the KL, as of their sum, and a
        new forward pass after parameters have changed.
        In eval, and where that pass recorded no gradient, it is computed now; with a mixture prior
        from weights drawn now.
        """
        kept = self._kl
        if self.training and kept is not None and (kept.requires_grad or not self._learns()):
            return kept
        if self.mixture is None:
            prior = self.prior_mean, self.prior_std
            kls = [functional.gaussian_kl(mu, rho=rho, reduction="sum", prior=prior)
                   for mu, rho in self._pairs()]  # fmt: skip
        else:
            kls = [self._sampled(mu, rho)[1] for mu, rho in self._pairs()]
        return _total(kls)

    def _draw(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias: drawn, and their KL kept, in training; the means in eval."""
        if not self.training:
            return self.weight_mu, self.bias_mu
        (weight, *bias), kls = zip(*(self._sampled(*pair) for pair in self._pairs()), strict=True)
        self._kl = _total(kls)
        return weight, bias[0] if bias else None

    def _sampled(self, mu: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        return functional.sample_weight(
            mu, rho, self.prior_mean, self.prior_std, mixture=self.mixture
        )

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        pairs: list[tuple[Tensor, Tensor]] = [(self.weight_mu, self.weight_rho)]
        if self.bias_mu is not None and self.bias_rho is not None:
            pairs.append((self.bias_mu, self.bias_rho))
        return pairs

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def __getstate__(self) -> dict[str, Any]:
        # A tensor with a history can be neither copied nor pickled.
        return self.__dict__ | {"_kl": None}

    def _about_prior(self) -> str:
        if self.mixture is not None:
            return f"prior_mean={self.prior_mean}, mixture={self.mixture}"
        return f"prior_mean={self.prior_mean}, prior_std={self.prior_std}"


class BayesianLinear(_MeanField):
    r"""A linear layer with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    .. math::
        y = x w^\top + b, \qquad w \sim N(\mu, \log^2(1 + e^\rho))

    In ``eval()`` mode the weights are their means. ``layer.kl()`` is the divergence of all weights
    to the prior, see :func:`fused_reparam.kl_divergence`: call the layer first, for in training it
    is the one that the last forward pass computed while it drew the weights.

    Args:
        in_features, out_features, bias, device, dtype: as ``torch.nn.Linear`` has them.
        prior_mean, prior_std: the prior of each weight, N(prior_mean, prior_std^2).
        mixture: (share, std1, std2) of a mixture of two Gaussians as prior instead.
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
    ) -> None:
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
        if self.local_reparameterization and self.training:
            self._kl = None
            variance = self._variance(x)
            mean = F.linear(x, self.weight_mu, self.bias_mu)
            return functional.gaussian_rsample(mean, std=variance.sqrt().to(mean.dtype))  # type: ignore[return-value]
        return F.linear(x, *self._draw())

    def _variance(self, x: Tensor) -> Tensor:
        """Of the outputs, in float32: float16 has no room for the squares of small scales."""
        dtype = compute_dtype(self.weight_mu.dtype)
        x2, *variances = (t.to(dtype).square() for t in (x, *self._sigmas()))
        with torch.autocast(x.device.type, enabled=False):
            variance = F.linear(x2, *variances)
        # An input of zeros has no variance, where the square root has no gradient.
        return variance.clamp_min(torch.finfo(dtype).tiny)

    def _sigmas(self) -> list[Tensor]:
        dtype = compute_dtype(self.weight_mu.dtype)
        return [sigma_of(rho.to(dtype), RHO) for _, rho in self._pairs()]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias_mu is not None}, {self._about_prior()}, "
            f"local_reparameterization={self.local_reparameterization}"
        )


class BayesianConv2d(_MeanField):
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
    ) -> None:
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

    def extra_repr(self) -> str:
        return f"{self._about}, {self._about_prior()}"


def kl_divergence(model: nn.Module) -> Tensor:
    """The KL divergence of all sampled weights of a model to their priors: what the loss adds.

    The sum of ``layer.kl()`` over all :class:`BayesianLinear` and :class:`BayesianConv2d` in it.
    Divide by the number of examples where the loss is a mean over them.

    Args:
        model: any module; layers that appear twice are counted once.

    Returns:
        A 0-d tensor, float32 or float64, on the first layer's device.

    Raises:
        ValueError: the model has no such layer.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015, equation 2.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianLinear, kl_divergence
        >>> layer = BayesianLinear(2, 2)
        >>> bool(kl_divergence(torch.nn.Sequential(layer, layer)) == layer.kl())
        True
    """
    kls = [layer.kl() for layer in model.modules() if isinstance(layer, _MeanField)]
    if not kls:
        raise ValueError(
            "kl_divergence adds up the KL of Bayesian layers (BayesianLinear, BayesianConv2d), and "
            f"this {type(model).__name__} has none"
        )
    return _total(kls)


def _total(kls: Sequence[Tensor]) -> Tensor:
    total = kls[0]
    for kl in kls[1:]:
        total = total + kl.to(total.device)
    return total
