"""The evidence lower bound of a VAE as a ``torch.nn`` module."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..core.mistakes import described, not_scriptable, suggestion
from ..core.scales import SCALE_KINDS
from ..functional import arguments
from ..functional.divergence import PriorArgument
from ..ops.elementwise_spec import halves
from .gaussian import FusedGaussianLatent
from .scales import scale_by_keyword
from .stochastic import sampling

__all__ = ["FusedELBO"]

_REDUCTIONS = ("batchmean", "sum", "sample")
_SUFFIX = "_log_prob"
Decoder = Callable[[Tensor], Any]
LogProb = Callable[..., Tensor]


class ELBO(NamedTuple):
    """What one call of :class:`FusedELBO` gives, each reduced as the latent's KL is."""

    elbo: Tensor
    log_likelihood: Tensor
    kl: Tensor


class FusedELBO(nn.Module):
    r"""The evidence lower bound of a VAE, and the two terms that it is made of, in one pass.

    .. math::
        \mathrm{ELBO} = E_{q(z|x)} \log p(x|z) - KL(q(z|x) \,\|\, p(z)) \le \log p(x)

    The loss is ``-elbo``. Latent and likelihood are one fused op each; both are summed over all
    that belongs to an example, so that they keep their proportion. It draws in ``eval()`` too,
    without ``fused_reparam.sampling``: a loss of the latent's mean is no ELBO.

    With ``num_samples=K`` in the latent it is the importance-weighted bound, which is tighter:

    .. math::
        \log \tfrac1K \sum_k \frac{p(x|z_k)\, p(z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    Args:
        likelihood: of x given what the decoder returns: the name of one of this package's
            log-densities without ``_log_prob``, or a function ``f(x, *decoded, dims=dims,
            **options)`` that sums over dims as these do. Of images and bits "bernoulli"; of
            values "gaussian", "laplace" and "student_t"; of 8-bit images "discretized_logistic";
            of classes "categorical"; of counts "negative_binomial" and
            "zero_inflated_negative_binomial".
        latent: a :class:`FusedGaussianLatent`, the default one when None, or another layer that
            returns ``(z, kl)`` and has a ``reduction``. Its reduction is that of all three
            numbers: "batchmean", "sum" or "sample". Its beta and free bits are in ``kl``, and so
            in ``elbo``, which then is an objective and no bound.
        importance_weighted: with False, K samples are averaged instead: the ELBO with less noise.
            Weights need a FusedGaussianLatent with a beta of 1 and no free bits.
        \**options: of the likelihood, by its keywords: ``FusedELBO("gaussian", std=0.1)``. A
            ``torch.nn.Parameter`` is learned: ``log_std=torch.nn.Parameter(torch.zeros(()))``.
            Another tensor is a buffer. Those that no option gives come from the decoder.

    Shape:
        ``elbo, log_likelihood, kl = layer(x, decoder, mu, logvar)``, and whatever else the latent
        takes behind: ``layer(x, decoder, moments)``, ``std=``, ``prior=``, ``key=`` and so on. x is
        (B, \*), and ``decoder(z)`` gives what the likelihood takes behind x: a tensor, a tuple, or
        a dict of its keywords. Of K samples z is (K * B, \*), as a batch of that size. Of classes
        x is integers, and the decoder's logits have a dim more than it. With reduction "sample"
        all three are (B,), otherwise they have no dims; they are float32 (float64 for float64).

        With importance weights ``log_likelihood`` and ``kl`` are means over the samples, the KL
        too, of log q - log p; the bound is at least their difference.

    Raises:
        ValueError: an unknown likelihood, a reduction that weighs the terms differently, weights
            of a latent that has none, or decoded values that have not x's shape.
        TypeError: an option that the likelihood does not take, or something else than a likelihood.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; importance weights: Burda,
    Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016; a learned scale: Rybkin,
    Daniilidis and Levine, "Simple and effective VAE training with calibrated decoders", 2021.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedELBO, FusedGaussianLatent
        >>> decoder = torch.nn.Linear(3, 16)
        >>> x, mu, logvar = torch.rand(8, 16).round(), torch.zeros(8, 3), torch.zeros(8, 3)
        >>> elbo, log_likelihood, kl = FusedELBO()(x, decoder, mu, logvar)
        >>> (-elbo).backward()
        >>> kl.item(), torch.equal(elbo, log_likelihood - kl)
        (0.0, True)
        >>> log_std = torch.nn.Parameter(torch.zeros(()))
        >>> many = FusedGaussianLatent(reduction="sample", num_samples=50)
        >>> FusedELBO("gaussian", many, log_std=log_std)(x, decoder, mu, logvar).elbo.shape
        torch.Size([8])
    """

    __prepare_scriptable__ = not_scriptable

    def __init__(
        self,
        likelihood: str | LogProb = "bernoulli",
        latent: nn.Module | None = None,
        *,
        importance_weighted: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.latent = FusedGaussianLatent() if latent is None else latent
        self.importance_weighted = importance_weighted
        self._from_decoder = _check_likelihood(likelihood, options)
        self._options = tuple(options)
        for name, value in options.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self._check_latent()

    def forward(self, x: Tensor, decoder: Decoder, *parameters: Any, **given: Any) -> ELBO:
        """The bound, the log-likelihood and the KL of examples and of their latent's parameters."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {described(x)}")
        if self._weighs:
            return self._weighted(x, decoder, *parameters, **given)
        reduction = self._check_latent()
        with nullcontext() if getattr(self.latent, "draws", True) else sampling(self.latent):
            z, kl = self.latent(*parameters, **given)
        log_likelihood = self._log_likelihood(x, decoder, z, reduction)
        return ELBO(log_likelihood - kl, log_likelihood, kl)

    def _weighted(self, x: Tensor, decoder: Decoder, *parameters: Any, **given: Any) -> ELBO:
        reduction = self._check_weights()
        z, log_q, log_p = _sample_and_densities(self.latent, *parameters, **given)
        log_likelihood = self._log_likelihood(x, decoder, z, None)
        log_ratio = log_q - log_p
        bound = torch.logsumexp(log_likelihood - log_ratio, 0) - math.log(len(log_ratio))
        means = log_likelihood.mean(0), log_ratio.mean(0)
        return ELBO(*(_over_batch(number, reduction) for number in (bound, *means)))

    def _log_likelihood(
        self, x: Tensor, decoder: Decoder, z: Tensor, reduction: str | None
    ) -> Tensor:
        """Of each example, reduced over the batch; None: of each sample, (K, B)."""
        samples = self._samples
        found = decoder(z if samples is None else z.flatten(0, 1))
        decoded, named = _decoded(found, None if samples is None else z.shape[:2])
        options = {**self._given_options(), **named}
        log_prob = self.likelihood
        if isinstance(log_prob, str):
            if samples is not None and options.get("dim", -1) >= 0:
                options["dim"] += 1  # behind that of the samples
            classes = options.get("dim", -1) if log_prob == "categorical" else None
            _check_decoded(x, samples, (*decoded, *named.values()), classes)
            options |= self._by_name(decoded)
            decoded, log_prob = [], getattr(functional, log_prob + _SUFFIX)
            if samples is None:  # the kernel reduces it
                return log_prob(x, reduction=reduction, **options)
        batch_dims = 1 if samples is None else 2
        dims = tuple(range(batch_dims, x.dim() - 1 + batch_dims))
        found = log_prob(x, *decoded, dims=dims, **options)
        if reduction is None:
            return found
        return _over_batch(found if samples is None else found.mean(0), reduction)

    def _by_name(self, decoded: list[Any]) -> dict[str, Any]:
        """What a decoder gives by position, as the parameters that no option gives."""
        names = self._from_decoder
        if len(decoded) > len(names):
            raise ValueError(
                f"the decoder gives {len(decoded)} values, and the {self.likelihood} likelihood "
                f"takes {', '.join(names) or 'nothing'} from it by position"
            )
        return dict(zip(names, decoded, strict=False))

    @property
    def _samples(self) -> int | None:
        return getattr(self.latent, "num_samples", None)

    @property
    def _weighs(self) -> bool:
        return self.importance_weighted and (self._samples or 1) > 1

    def _given_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._options}

    def _check_latent(self) -> str:
        reduction = getattr(self.latent, "reduction", None)
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"FusedELBO takes a latent whose reduction is one of {', '.join(_REDUCTIONS)}, so "
                "that likelihood and KL are summed over all that belongs to an example; "
                f"{type(self.latent).__name__} has {reduction!r}"
            )
        return reduction

    def _check_weights(self) -> str:
        latent = self.latent
        if not isinstance(latent, FusedGaussianLatent):
            raise ValueError(
                "importance weights need a FusedGaussianLatent, for they take its densities; got "
                f"{type(latent).__name__}: give importance_weighted=False"
            )
        if latent.free_bits is not None or isinstance(latent.beta, Tensor) or latent.beta != 1:
            raise ValueError(
                "importance weights need a latent with beta=1 and without free_bits, for they have "
                f"no KL; got beta={latent.beta}, free_bits={latent.free_bits}: give "
                "importance_weighted=False"
            )
        return self._check_latent()

    def extra_repr(self) -> str:
        shown = [_name(self.likelihood)]
        for name, value in self._given_options().items():
            shown.append(f"{name}={described(value) if isinstance(value, Tensor) else value!r}")
        if not self.importance_weighted:
            shown.append("importance_weighted=False")
        return ", ".join(shown)


def _name(likelihood: str | LogProb) -> str:
    if isinstance(likelihood, str):
        return repr(likelihood)
    return getattr(likelihood, "__name__", type(likelihood).__name__)


def _check_likelihood(likelihood: str | LogProb, options: Iterable[str]) -> list[str]:
    """The parameters that a decoder may give by position, those that no option gives."""
    known = [
        name.removesuffix(_SUFFIX)
        for name in vars(functional)
        if name.endswith(_SUFFIX) and callable(getattr(functional, name)) and "_rsample" not in name
    ]
    if callable(likelihood):
        return []
    if likelihood not in known:
        raise (ValueError if isinstance(likelihood, str) else TypeError)(
            f"unknown likelihood {likelihood!r}{suggestion(likelihood, known)}; it is one of "
            f"{', '.join(known)}, or a function"
        )
    log_prob = inspect.signature(getattr(functional, likelihood + _SUFFIX)).parameters
    takes = [name for name in log_prob if name not in ("reduction", "dims")][1:]
    mistaken = [f"{name!r}{suggestion(name, takes)}" for name in options if name not in takes]
    if mistaken:
        own = [
            n for n, p in inspect.signature(FusedELBO).parameters.items() if p.kind != p.VAR_KEYWORD
        ]
        raise TypeError(
            f"FusedELBO() got an unexpected keyword argument {', '.join(mistaken)}; it takes "
            f"{', '.join(own)}; and of the {likelihood} likelihood: {', '.join(takes)}"
        )
    return [n for n in takes if n not in options and log_prob[n].kind != log_prob[n].KEYWORD_ONLY]


def _decoded(found: Any, of_samples: torch.Size | None) -> tuple[list[Any], dict[str, Any]]:
    """What a decoder returns, by position and by name; a batch of K * B as one of K times B."""

    def split(value: Any) -> Any:
        many = of_samples is not None and isinstance(value, Tensor) and value.dim() > 0
        if many and value.shape[0] == of_samples.numel():  # type: ignore[union-attr]
            return value.unflatten(0, of_samples)
        return value

    if isinstance(found, dict):
        return [], {name: split(value) for name, value in found.items()}
    values = found if isinstance(found, (tuple, list)) else (found,)
    return [split(value) for value in values], {}


def _check_decoded(
    x: Tensor, samples: int | None, decoded: Iterable[Any], classes: int | None
) -> None:
    """Values that broadcast x to another shape would be summed more often than x has elements.

    classes: the dim of the classes, which x does not have.
    """
    shape = [*x.shape] if samples is None else [samples, *x.shape]
    for value in decoded:
        if not isinstance(value, Tensor):
            continue
        own = [*value.shape]
        if classes is not None and -len(own) <= classes < len(own):
            own.pop(classes)
        if len(own) > len(shape) or any(
            n not in (1, m) for n, m in zip(reversed(own), reversed(shape), strict=False)
        ):
            raise ValueError(
                f"the decoder must give values that broadcast to x, {described(x)}"
                + ("" if classes is None else f", but for their classes along dim {classes}")
                + ("" if samples is None else f", for each of {samples} samples")
                + f"; got {described(value)}"
            )


def _over_batch(of_examples: Tensor, reduction: str) -> Tensor:
    if reduction == "sample":
        return of_examples
    return of_examples.sum() if reduction == "sum" else of_examples.mean()


def _of_samples(value: Any, each: torch.Size) -> Any:
    """A tensor of K * B entries, as one of K times B."""
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == each.numel():
        return value.unflatten(0, each)
    return value


def _sample_and_densities(
    latent: Any,
    mu: Tensor,
    scale: Tensor | float | None = None,
    *,
    prior: PriorArgument = None,
    **given: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """A Gaussian latent's samples, and log q and log p where they fell, by the layer's options."""
    keywords = {name: given.pop(name, None) for name in SCALE_KINDS}
    kind = latent.scale
    if scale is None and latent.dim is not None:
        mu, scale = halves(mu, arguments.moments_dim(mu, latent.dim))
    elif any(value is not None for value in keywords.values()):
        kind, scale = scale_by_keyword(kind, latent.clamp, scale, *keywords.values())
    options: dict[str, Any] = {
        kind: scale,
        "clamp": latent.clamp,
        "prior": latent.prior if prior is None else prior,
        "num_samples": latent.num_samples,
        "rng": latent.rng,
        **given,
    }
    return functional.gaussian_rsample_log_prob(mu, **options)
