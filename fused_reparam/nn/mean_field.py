"""Weights of independent Gaussians, for layers to draw, and their KL to the prior."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..backends.cpu import extension
from ..core.mistakes import described
from ..core.modes import eager
from ..functional import arguments
from ..functional.sample_weight import mixture_constants
from .stochastic import Stochastic

__all__ = ["MeanField", "Mixture", "kl_divergence"]

Mixture = tuple[float, float, float]


class _Drawn(NamedTuple):
    """The KLs that came with drawn weights, and of what."""

    kls: tuple[Tensor, ...]  # of the weight, of the bias
    state: tuple[tuple[int, ...], ...]
    thread: int

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor with a history can be neither copied nor pickled: a layer's copy has None here.
        return type(None), ()


class MeanField(Stochastic):
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
        self.prior_std = arguments.deviation("prior_std", prior_std)
        self.mixture = None if mixture is None else mixture_constants(mixture, self.prior_std)
        self.rho_init = arguments.number("rho_init", rho_init)
        for name, shape in (("weight", weight_shape), ("bias", weight_shape[:1])):
            for part in ("mu", "rho"):
                made = torch.empty(tuple(shape), device=device, dtype=dtype)
                wanted = name == "weight" or bias
                self.register_parameter(f"{name}_{part}", nn.Parameter(made) if wanted else None)
        self._drawn: _Drawn | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Means as PyTorch's layers start, scales at ``rho_init``."""
        nn.init.kaiming_uniform_(self.weight_mu, a=math.sqrt(5))
        if self.bias_mu is not None:
            inputs = math.prod(self.weight_mu.shape[1:])
            bound = 1.0 / math.sqrt(inputs) if inputs else 0.0
            nn.init.uniform_(self.bias_mu, -bound, bound)
        for _, rho in self._pairs():
            nn.init.constant_(rho, self.rho_init)

    def kl(self) -> Tensor:
        """The KL of all weights to their prior, by the parameters as they are: one number.

        In training, the one that the last forward pass computed as it drew the weights, while the
        parameters are unchanged and no backward pass has been made through it. It then shares
        that pass's graph: call ``backward()`` on the sum of loss and KL, or the loss's first and
        then ``kl()``. Otherwise, and in compiled code and graphs of ``torch.fx``, it is computed
        now, with a graph of its own; to a mixture, where it is an estimate, from weights drawn
        now. A change that autograd does not count, such as ``p.data.fill_()``, is not seen.
        """
        drawn = self._drawn
        if drawn is not None and self.draws and self._holds(drawn):
            return _total(drawn.kls)
        if self.mixture is not None:
            return _total([self._sampled(*pair)[1] for pair in self._pairs()])
        prior = self.prior_mean, self.prior_std
        return _total([
            functional.gaussian_kl(mu, rho=rho, reduction="sum", prior=prior)
            for mu, rho in self._pairs()
        ])  # fmt: skip

    def _draw(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias: drawn, and their KL kept, in training; the means in eval."""
        if not self.draws:
            return self.weight_mu, self.bias_mu
        drawn = [self._sampled(*pair) for pair in self._pairs()]
        (weight, *bias), kls = [d[0] for d in drawn], tuple(d[1] for d in drawn)
        self._drawn = None
        # A compiler or a transform can't see whether one still holds, and a compiled graph would
        # keep all of its region's tensors.
        if eager() and isinstance(weight, Tensor) and any(kl.requires_grad for kl in kls):
            self._drawn = _Drawn(kls, self._state(), threading.get_ident())
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

    def _state(self) -> tuple[tuple[int, ...], ...]:
        """What tells the parameters from other ones, and from themselves before a change."""
        return tuple(
            (id(p), p._version, p.requires_grad, p.data_ptr())
            for pair in self._pairs()
            for p in pair
        )

    def _holds(self, drawn: _Drawn) -> bool:
        """Whether a KL is that of the parameters now, and a backward pass can go through it."""
        if not eager() or not isinstance(self.weight_mu, Tensor):  # a symbolic value of torch.fx
            return False
        here = drawn.thread == threading.get_ident()
        return here and drawn.state == self._state() and all(map(_unspent, drawn.kls))

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        # Other dtypes and devices come without a new version.
        self._drawn = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._drawn = None  # parameters that a graph holds can't be swapped for others
        super()._load_from_state_dict(*args, **kwargs)

    def _about_prior(self) -> str:
        if self.mixture is not None:
            return f"prior_mean={self.prior_mean}, mixture={self.mixture}"
        return f"prior_mean={self.prior_mean}, prior_std={self.prior_std}"


def _unspent(kl: Tensor) -> bool:
    """Whether no backward pass has freed what this KL's would need."""
    if kl.grad_fn is None:
        return True
    spent = extension.spent(kl)
    if spent is not None:
        return not spent
    try:
        # Not unpacked: under a checkpoint that would run the forward pass again.
        kl.grad_fn._raw_saved_tensors  # type: ignore[attr-defined]  # noqa: B018
    except (AttributeError, RuntimeError):
        return False
    return True


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
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    kls = [layer.kl() for layer in model.modules() if isinstance(layer, MeanField)]
    if not kls:
        raise ValueError(
            "kl_divergence adds up the KL of Bayesian layers (BayesianLinear, BayesianConv2d), and "
            f"this {type(model).__name__} has none"
        )
    return _total(kls)


def _total(kls: Sequence[Tensor]) -> Tensor:
    """A new tensor, which the caller may change in place."""
    total, *others = kls
    for kl in others:
        total = total + kl.to(total.device)
    return total if others else total.clone()
