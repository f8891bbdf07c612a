"""Distributions over classes: one-hot, with the gradient of their probabilities, and relaxed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions import Categorical
from torch.distributions.utils import probs_to_logits

from ..functional.categorical import gumbel_softmax, one_hot_categorical
from ..functional.relaxed_log_prob import gumbel_softmax_log_prob
from .base import Fused, Parameter, SomeNoise, Transformed, in_dtype_of, points
from .given import derived
from .unit_interval import Relaxed, chance

__all__ = ["OneHotCategorical", "RelaxedOneHotCategorical"]


class _OfClasses(Fused):
    """Has unnormalized log-probabilities along the last dim, or probabilities."""

    def _of_classes(
        self, probs: Tensor | None, logits: Tensor | None, validate_args: bool | None
    ) -> None:
        name, value = chance(probs, logits)
        if not isinstance(value, Tensor) or not value.dim():
            raise ValueError(f"{name} must be a tensor with the classes along its last dim")
        # As they were given: what PyTorch calls by these names is normalized.
        self._names = (f"_{name}",)
        setattr(self, f"_{name}", value)
        self._batch_shape, self._event_shape = value.shape[:-1], value.shape[-1:]
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._categorical  # noqa: B018  (it is checked when it is made)

    @derived
    def _categorical(self) -> Categorical:
        return Categorical(**self._arguments(), validate_args=self._validate_args)

    def _arguments(self) -> dict[str, Any]:
        return {name[1:]: getattr(self, name) for name in self._names}

    def _scores(self) -> Tensor:
        """Unnormalized log-probabilities."""
        if self._names == ("_logits",):
            return self._logits  # type: ignore[no-any-return]
        return probs_to_logits(self._probs / self._probs.sum(-1, keepdim=True))

    @property
    def logits(self) -> Tensor:
        return self._categorical.logits

    @property
    def probs(self) -> Tensor:
        return self._categorical.probs

    @property
    def param_shape(self) -> torch.Size:
        return self._categorical.param_shape


class OneHotCategorical(_OfClasses, distributions.OneHotCategoricalStraightThrough):
    r"""One-hot categories with a straight-through gradient, in one pass.

    ``torch.distributions.OneHotCategoricalStraightThrough`` of a mixture with equal chances:

    .. math::
        m = (1 - u)\, \mathrm{softmax}(\ell) + u / C, \qquad
        z = \text{one-hot of } i \sim m, \qquad \partial z := \partial m

    Args:
        probs, logits, validate_args: as of ``torch.distributions.OneHotCategorical``.
        unimix: the share u of equal chances, ``0 <= unimix < 1``, or a tensor as of
            :func:`fused_reparam.one_hot_categorical`. ``probs``, ``logits``, densities and
            divergences are those of the mixture.

    Source: Bengio, Leonard and Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013; Hafner et al., "Mastering diverse domains through world models", 2023 (unimix).

    Example:
        >>> import torch
        >>> from torch.distributions import kl_divergence
        >>> from fused_reparam.distributions import OneHotCategorical
        >>> q = OneHotCategorical(logits=torch.zeros(16, 32, 10), unimix=0.01)
        >>> z, kl = q.rsample_and_kl(q)
        >>> z.sum(-1).unique(), kl.shape
        (tensor([1.]), torch.Size([16, 32]))
    """

    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
        *,
        unimix: Parameter = 0.0,
    ) -> None:
        self._unimix = unimix
        self._of_classes(probs, logits, validate_args)

    @property
    def unimix(self) -> Parameter:
        return self._unimix

    def _expand_others(self, new: Any) -> None:
        super()._expand_others(new)
        new._unimix = self._unimix

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        if isinstance(self._unimix, float) and self._unimix == 0.0:
            return arguments
        return {"logits": torch.log(self._mixture())}

    def _mixture(self) -> Tensor:
        """The probabilities of the classes."""
        if self._names == ("_logits",):
            shares = torch.softmax(self._logits, -1)
        else:
            shares = self._probs / self._probs.sum(-1, keepdim=True)
        return (1.0 - self._unimix) * shares + self._unimix / shares.shape[-1]

    def _draw(self, noise: SomeNoise) -> Tensor:
        if self._names == ("_logits",):
            return one_hot_categorical(self._logits, self._unimix, **noise)
        # The gradient of a probability of 0 is no quotient by it.
        mixture = self._mixture()
        drawn = one_hot_categorical(torch.log(mixture.detach()), **noise)
        return drawn + (mixture - mixture.detach())

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._categorical.log_prob(value.max(-1)[1])


class RelaxedOneHotCategorical(
    _OfClasses, Relaxed, Transformed, distributions.RelaxedOneHotCategorical
):
    r"""Gumbel-softmax, ``torch.distributions.RelaxedOneHotCategorical`` in one pass.

    .. math::
        z = \mathrm{softmax}\big((\ell + g) / \tau\big), \quad g = -\log(-\log u)

    Args:
        temperature: tau, positive: a tensor, or a number, which PyTorch does not take everywhere.
        probs, logits, validate_args: as of ``torch.distributions.RelaxedOneHotCategorical``.

    With ``rng="torch"`` its noise is that of ``torch.nn.functional.gumbel_softmax``.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017;
    Maddison, Mnih and Teh, "The concrete distribution", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import RelaxedOneHotCategorical
        >>> q = RelaxedOneHotCategorical(0.5, logits=torch.zeros(4, 10))
        >>> z, log_prob = q.rsample_and_log_prob((3,))
        >>> z.shape, log_prob.shape
        (torch.Size([3, 4, 10]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        temperature: Parameter,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._temperature = temperature
        self._of_classes(probs, logits, validate_args)

    @derived
    def _original(self) -> Any:
        temperature = torch.as_tensor(self._temperature)
        return self._counterpart(temperature, **self._arguments(), validate_args=False)

    def _draw(self, noise: SomeNoise) -> Tensor:
        return gumbel_softmax(self._scores(), self._temperature, **noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        scores = self._scores()
        value = points(value, scores)
        found = gumbel_softmax_log_prob(value, scores, self._temperature)
        return in_dtype_of(found, value, scores)
