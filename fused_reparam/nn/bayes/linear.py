"""The Bayesian linear layer."""

from typing import TYPE_CHECKING, Never, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import functional
from ...core.dtypes import compute_dtype
from ...core.mistakes import names_mistakes, unknown
from ...core.modes import eager, exporting
from ...core.scalars import flag, integer
from ...core.scales import RHO, sigma_of
from ...core.tracers import fx, node_of
from ...functional.divergence import PriorArgument
from ...functional.sampled_linear import linear, served
from ..stochastic import changed
from .mean_field import WeightAndBias, has_bias
from .prior import Mixture, PriorOptions, no_prior

__all__ = ["BayesianLinear"]

# From how many weights on ``recompute`` takes no more time: ``python -m bench recompute``.
LEAST_RECOMPUTED = 1 << 19


class BayesianLinear(WeightAndBias):
    r"""A linear layer with weights ``w = mu + softplus(rho) * eps``, drawn at each forward pass.

    .. math::
        y = x w^\top + b, \qquad w \sim N(\mu, \log^2(1 + e^\rho))

    In ``eval()`` mode the weights are their means. That predicts one value, without uncertainty,
    and a loss of it is no ELBO, which is of samples: ``with fused_reparam.sampling(model):`` the
    layer draws in ``eval()`` too.

    ``layer.kl()`` is the divergence of all weights to the prior at any time, see
    :func:`fused_reparam.kl_divergence`. It costs least after a forward pass that drew the weights,
    for it was computed with them; ``backward()`` is then called on the sum of loss and KL.

    Args:
        in_features, out_features, bias, device, dtype: as ``torch.nn.Linear`` has them.
        prior_mean, prior_std: the prior of each weight, N(prior_mean, prior_std^2): numbers or
            tensors that broadcast to each weight and bias. A tensor is a buffer of the layer, of
            its dtype; a ``torch.nn.Parameter`` is one of the layer's, and learned. A 0-d tensor on
            the CPU that has no gradient is read as a number.
        prior: both in one instead, a ``torch.distributions.Normal`` or a pair.
        mixture: (share, std1, std2) of a mixture of two Gaussians as prior instead, numbers or
            tensors likewise. The KL is then an estimate, from the weights that the forward pass
            drew; where there was none to be had (of tensors, in eval, in compiled code, outside a
            reentrant checkpoint), from weights drawn for it.
        rho_init: where rho starts; -5 is sigma = 0.0067.
        noise: of many processes, each with its part of the batch. "shared": a draw has the key that
            the process's generator gives, so that processes which were seeded alike draw the same
            weights. "rank": the process's rank in the default group is folded into it
            (:func:`fused_reparam.noise.for_rank`), so that each draws its own. The mean gradient of
            R processes then has 1/R of the variance that comes of the weights' noise.
            ``docs/distributed.md`` has the rest.
        local_reparameterization: draw the outputs, whose means and variances are two matrix
            products, instead of the weights: each example has noise of its own and gradients vary
            less. Not with a mixture, whose KL needs the weights.
        recompute: keep no drawn weights for the backward pass, but draw them again: a training
            step then needs memory for four tensors of the weights' size (means, scales and their
            gradients) instead of five. The weights are the same bit for bit, and all results are
            but for rounding. It is a matter of large layers: where the weights are few, are no
            contiguous tensor, or have a mixture with tensors in it as prior, under autocast, and
            in transforms of ``torch.func``, they are kept. See ``docs/modules.md``.

    Shape:
        as ``torch.nn.Linear``: (\*batch, in_features) to (\*batch, out_features). Parameters:
        ``weight_mu, weight_rho`` (out_features, in_features), ``bias_mu, bias_rho``
        (out_features,).

    Raises:
        ValueError, TypeError: a prior that :func:`fused_reparam.sample_weight` would refuse, that
            a weight does not have the shape for, or that was computed of other tensors; a mixture
            or ``recompute`` with local reparameterization, which draws no weights.

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
        >>> prior_std = torch.nn.Parameter(torch.tensor(0.5))  # learned
        >>> prior = torch.distributions.Normal(0.0, prior_std)
        >>> BayesianLinear(4, 8, prior=prior).prior_std is prior_std
        True
        >>> x = torch.randn(2, 4)
        >>> torch.equal(model(x), model(x)), torch.equal(model.eval()(x), model(x))
        (False, True)
    """

    _of = nn.Linear
    local_reparameterization = False  # of a layer that was converted
    recompute = False

    @names_mistakes
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        prior_mean: Tensor | float = 0.0,
        prior_std: Tensor | float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        prior: PriorArgument = None,
        noise: str = "shared",
        local_reparameterization: bool = False,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(BayesianLinear, mistaken)
        in_features = integer("in_features", in_features)
        out_features = integer("out_features", out_features)
        layer = nn.Linear(in_features, out_features, bias, device, dtype)
        super().__init__(
            layer, prior=prior, prior_mean=prior_mean, prior_std=prior_std, mixture=mixture,
            rho_init=rho_init, noise=noise,
        )  # fmt: skip
        self._set_ways(local_reparameterization, recompute)

    @classmethod
    def from_linear(
        cls,
        layer: nn.Linear,
        *,
        local_reparameterization: bool = False,
        recompute: bool = False,
        **options: Unpack[PriorOptions],
    ) -> Self:
        """A layer whose means are copies of a ``torch.nn.Linear``'s weights.

        Args:
            layer: whose weights, dtype, device and mode are taken over.
            local_reparameterization, recompute, prior_mean, prior_std, mixture, rho_init: as
                above.

        Raises:
            TypeError: it is no ``torch.nn.Linear`` itself but a subclass or another layer, its
                weight is computed of others (weight norm, pruning), or its dtype is none of the
                four.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianLinear
            >>> trained, x = torch.nn.Linear(4, 2), torch.randn(3, 4)
            >>> layer = BayesianLinear.from_linear(trained, prior_std=0.5)
            >>> torch.equal(layer.eval()(x), trained(x))
            True
        """
        made = cls._from(layer, options)
        made._set_ways(local_reparameterization, recompute)
        return made

    def _set_ways(self, local: bool, recompute: bool) -> None:
        self.local_reparameterization = flag("local_reparameterization", local)
        self.recompute = flag("recompute", recompute)
        if local and recompute:
            raise ValueError(
                "local reparameterization draws no weights that could be drawn again: give one of "
                "local_reparameterization and recompute"
            )
        self._check_mixture(self.mixture)

    def _check_mixture(self, mixture: Mixture | None) -> None:
        if self.local_reparameterization and mixture is not None:
            raise ValueError(
                "local reparameterization draws no weights, and the KL to a mixture needs them: "
                f"give one of local_reparameterization and mixture={mixture}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of freshly drawn weights; in eval, of the means."""
        if self.local_reparameterization and self.draws:
            self._drawn = None
            std = deviation(x, self.weight_rho, self.bias_rho)
            mean = F.linear(x, self.weight_mu, self.bias_mu)
            std = std.to(mean.dtype)
            return functional.gaussian_rsample(mean, std=std, key=self._key(mean))  # type: ignore[return-value]
        if self.recompute and self.draws and self._can_recompute(x):
            return self._recomputed(x)
        return F.linear(x, *self._draw())

    def _can_recompute(self, x: Tensor) -> bool:
        """Whether weights that are drawn twice pay, and one op can do all that this call takes."""
        mu = self.weight_mu
        return (
            mu.numel() >= LEAST_RECOMPUTED
            and isinstance(x, Tensor)
            and x.dtype is mu.dtype
            and mu.is_contiguous()
            and (eager() or (torch.compiler.is_compiling() and not exporting()))
            and not fx._is_fx_tracing_flag
            and not torch.is_autocast_enabled(x.device.type)
            and served(self._numbers())
        )

    def _recomputed(self, x: Tensor) -> Tensor:
        """The same of weights that are drawn again in the backward pass."""
        self._drawn = None
        bias = None if self.bias_mu is None else (self.bias_mu, self.bias_rho)
        key = self._key(self.weight_mu)
        of_bias = None if bias is None else self._key(self.weight_mu)
        y, kl, kl_of_bias = linear(
            x, self.weight_mu, self.weight_rho, bias, self._numbers(), key, of_bias  # type: ignore[arg-type]
        )  # fmt: skip
        kls = {"weight": [kl], "bias": [] if kl_of_bias is None else [kl_of_bias]}
        parameters: list[Tensor] = [self.weight_mu, self.weight_rho, *(bias or ())]  # type: ignore[list-item]
        self._remember(kls, parameters, y)
        return y

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__, bias=has_bias, prior=no_prior)


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
