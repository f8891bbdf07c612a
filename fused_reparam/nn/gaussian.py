"""The Gaussian latent as a ``torch.nn`` module."""

from typing import TYPE_CHECKING, Any, NamedTuple, Never

import torch
from torch import Tensor

from .. import functional
from ..core.mistakes import described, names_mistakes, unknown
from ..core.noise_options import Generators
from ..core.scalars import integer
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, node_of
from ..functional import arguments
from ..functional.divergence import PriorArgument, divergence, prior_of
from ..ops.elementwise_spec import halves
from .scales import clamp_of_layer, scale_by_keyword
from .stochastic import Stochastic, changed
from .tensor_numbers import hold, number_of_prior, own, release

__all__ = ["FusedGaussianLatent"]


class _Attributes(NamedTuple):
    """Of a layer, all that its forward pass reads."""

    scale: str
    reduction: str
    clamp: tuple[float, float] | None
    dim: int | None
    rng: str
    prior: PriorArgument
    free_bits: float | Tensor | None
    free_bits_per: str
    beta: Tensor | float
    num_samples: int | None
    draws: bool


class FusedGaussianLatent(Stochastic):
    r"""The latent of a VAE: a reparameterized sample and its KL to the prior, in one fused op.

    .. math::
        z = \mu + \sigma \epsilon, \qquad KL = \tfrac12 \sum (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

    Drops in for a hand-written ``reparameterize()`` and its KL term. It has no parameters. In
    ``eval()`` mode z is the mean, ``mu`` itself and not a copy, whatever noise is given; the KL is
    the same. A loss of the mean is no ELBO: the mean is reconstructed better than a sample is. To
    measure one on held-out data, let the latent draw: ``with fused_reparam.sampling(model):``. To
    anneal ``beta``, set it or give it at the call.

    Args:
        scale: what the second argument is: "logvar", "log_std", "std", "var" or "rho".
        reduction: of the KL: "batchmean" (summed, then averaged over dim 0), "sum", "mean",
            "sample" (a sum for each entry of dim 0) or "none". It must be that of the loss which
            this replaces: a script that sums its KL takes "sum".
        clamp: (low, high) bounds on logvar or log_std.
        dim: along which a single argument holds both parameters; without it there must be two.
        rng: "philox", or "torch" for the very numbers of ``torch.randn_like``.
        prior: None for N(0, I), (mean, std), ``(mean, {"logvar": logvar})`` with any of the five
            scales, or a ``torch.distributions.Normal``: of numbers, of tensors, which are buffers
            ``prior_mean`` and ``prior_std`` (``prior_logvar``) of the layer, or of parameters,
            which are learned. A 0-d tensor on the CPU that has no gradient is read as a number.
            A prior that another layer computes is given at the call.
        free_bits, free_bits_per: the least KL that counts, of each "sample" or "element"; a number
            or a tensor, which is a buffer of the layer, or a parameter.
        beta: factor of the KL, a number or a 0-d tensor, whose value may be set.
        num_samples: K samples of each element.

    Shape:
        ``layer(mu, scale)``, or ``layer(mu, std=std)`` with any of the five scales by its keyword:
        any shapes that broadcast; z has the broadcast shape.
        ``layer(moments)``, of a layer with ``dim``: even size along it, means first; z has half.
        With ``num_samples`` z is (K, \*shape), in eval K times the mean without a copy.
        All also take ``prior=`` and ``beta=`` in place of the layer's, and ``key=``,
        ``generator=`` and ``eps=``: all as :func:`fused_reparam.gaussian_latent` has them. dtypes:
        float32, float64, float16, bfloat16; the KL is float32 (float64 for float64).

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fused_reparam.gaussian_latent` does.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; free bits: Kingma et al.,
    2016; beta: Higgins et al., 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import FusedGaussianLatent
        >>> latent = FusedGaussianLatent()
        >>> z, kl = latent(torch.zeros(8, 4), torch.zeros(8, 4))
        >>> z.shape, kl.item()
        (torch.Size([8, 4]), 0.0)
        >>> moments = torch.cat((torch.full((8, 4), 3.0), torch.zeros(8, 4)), dim=1)
        >>> z, kl = FusedGaussianLatent(dim=1).eval()(moments)
        >>> z.unique().item(), kl.item()
        (3.0, 18.0)
        >>> latent = FusedGaussianLatent("std", free_bits=2.0, beta=0.5, num_samples=5)
        >>> prior = torch.zeros(4), {"std": torch.ones(4)}  # of another network
        >>> z, kl = latent(torch.zeros(8, 4), torch.ones(8, 4), prior=prior)
        >>> z.shape, kl.item()
        (torch.Size([5, 8, 4]), 1.0)
    """

    @names_mistakes
    def __init__(
        self,
        scale: str = "logvar",
        reduction: str = "batchmean",
        clamp: tuple[float, float] | None = None,
        dim: int | None = None,
        rng: str = "philox",
        *,
        prior: PriorArgument = None,
        free_bits: float | Tensor | None = None,
        free_bits_per: str = "sample",
        beta: Tensor | float = 1,
        num_samples: int | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(FusedGaussianLatent, mistaken)
        super().__init__()
        self.scale = arguments.layer_scale("FusedGaussianLatent", scale)
        arguments.check_reduction(reduction)
        arguments.check_rng(rng)
        tensors = [t for t in (free_bits, beta) if isinstance(t, Tensor)]
        like = torch.empty(0, device=next((t.device for t in tensors if not t.is_cpu), None))
        wanted = divergence(reduction, prior, free_bits, free_bits_per, beta, like=like)
        self.reduction = reduction
        self.clamp = clamp
        self.dim = None if dim is None else integer("dim", dim)
        self.rng = rng
        self.prior = prior
        if free_bits is None:
            self.free_bits = None
        else:
            hold(self, "free_bits", free_bits, arguments.number)
        self.free_bits_per = free_bits_per
        # The user's own tensor, whose value may be set.
        self.beta = beta if isinstance(beta, Tensor) else wanted.beta
        self.num_samples = arguments.sample_count(num_samples) or None

    clamp = clamp_of_layer()

    @property
    def prior(self) -> PriorArgument:
        """The layer's own prior, as a call takes it; another one may be set."""
        kind = self._prior
        if kind is None:
            return None
        scale = getattr(self, f"prior_{kind}")
        number = kind == "std" and not isinstance(scale, Tensor)
        return self.prior_mean, scale if number else {kind: scale}

    @prior.setter
    def prior(self, prior: PriorArgument) -> None:
        found = prior_of(prior)
        kind = SCALE_KINDS[found.kind] if found.parameters else "std"
        checks = arguments.number, arguments.deviation if kind == "std" else arguments.number
        given = [value for _, value in found.parameters] or found.constants
        named = zip(("prior mean", f"prior {kind}"), given, checks, strict=True)
        mean, scale = (number_of_prior(*each) for each in named)
        release(self, "prior_mean", *(f"prior_{kind}" for kind in SCALE_KINDS))
        self._prior = None if prior is None else kind
        if prior is not None:
            # Each by itself: of a tuple's numbers a compiler makes constants.
            hold(self, "prior_mean", own(mean), arguments.number)
            hold(self, f"prior_{kind}", own(scale), arguments.number)

    def forward(
        self,
        mu: Tensor,
        scale: Tensor | float | None = None,
        *,
        logvar: Tensor | float | None = None,
        log_std: Tensor | float | None = None,
        std: Tensor | float | None = None,
        var: Tensor | float | None = None,
        rho: Tensor | float | None = None,
        prior: PriorArgument = None,
        beta: Tensor | float | None = None,
        key: Tensor | None = None,
        generator: Generators | None = None,
        eps: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sample (in eval: the mean) and the KL; of ``layer(moments)`` where it has a dim."""
        if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag:
            given = locals()
            layer = {name: getattr(given["self"], name) for name in _Attributes._fields}
            del given["self"]
            node = node_of(latent_of, {"layer": layer, **given})
            if node is not None:
                return node  # type: ignore[no-any-return]
        kind = self.scale
        if not (logvar is log_std is std is var is rho is None):
            kind, scale = scale_by_keyword(kind, self.clamp, scale, logvar, log_std, std, var, rho)
        elif scale is None and self.dim is None:
            raise _alone(mu, kind)
        options: dict[str, Any] = {
            "reduction": self.reduction,
            "clamp": self.clamp,
            "prior": self.prior if prior is None else prior,
            "free_bits": self.free_bits,
            "free_bits_per": self.free_bits_per,
            "beta": self.beta if beta is None else beta,
        }
        if not self.draws:
            return _mean(mu, scale, kind, self.dim, self.num_samples, options)
        options |= {
            "num_samples": self.num_samples,
            "key": key,
            "generator": generator,
            "rng": self.rng,
            "eps": eps,
        }
        if scale is None:
            assert self.dim is not None
            z, kl = functional.gaussian_latent_from_moments(mu, self.dim, scale=kind, **options)
        else:
            options[kind] = scale
            z, kl = functional.gaussian_latent(mu, **options)
        return z, kl

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__)

    _prior: str | None = None
    """The keyword of the scale that is held with a mean, or None for N(0, 1)."""
    prior_mean: Tensor | float


def _alone(mu: Tensor, kind: str) -> ValueError:
    """The error for one tensor, given to a layer that does not know along which dim to halve it."""
    arguments.check_tensor("mu", mu)
    return ValueError(
        f"the layer got one tensor, {described(mu)}: call layer(mu, {kind}); or, where the tensor "
        "holds means and scales, build the layer with the dim along which it does, as in "
        "FusedGaussianLatent(dim=1)"
    )


def _mean(
    mu: Tensor,
    scale: Tensor | float | None,
    kind: str,
    dim: int | None,
    num_samples: int | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    if scale is None:
        assert dim is not None
        mu, scale = halves(mu, arguments.moments_dim(mu, dim))
    options[kind] = scale
    kl = functional.gaussian_kl(mu, **options)
    # What the training's z is made of; a prior of tensors has a say in its shape and dtype.
    params = arguments.parameters(("mu", mu), (kind, scale), *prior_of(options["prior"]).parameters)
    shape = torch.broadcast_shapes(*(t.shape for t in params))
    if num_samples is not None:
        shape = torch.Size((num_samples, *shape))
    return params[0].expand(shape), kl


def latent_of(
    layer: dict[str, Any],
    mu: Tensor,
    scale: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    prior: PriorArgument = None,
    beta: Tensor | float | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    eps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The forward pass of a layer of these attributes: what its node in a ``torch.fx`` graph calls.

    Which arguments are None is seen only when the graph runs.
    """
    return FusedGaussianLatent.forward(
        _Attributes(**layer),  # type: ignore[arg-type]
        mu, scale, logvar=logvar, log_std=log_std, std=std, var=var, rho=rho, prior=prior,
        beta=beta, key=key, generator=generator, eps=eps,
    )  # fmt: skip
