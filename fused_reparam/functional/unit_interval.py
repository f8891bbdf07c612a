"""Distributions within (0, 1): relaxed Bernoulli, Kumaraswamy, continuous Bernoulli."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scalars import flag
from ..core.tracers import fx, node_of, special
from . import elementwise
from .arguments import (
    check_tensor,
    temperature,
)
from .elementwise import latent, rsample
from .reduction import Dims, summed
from .sources import sources_of
from .tensor_numbers import number_or_tensor

__all__ = [
    "continuous_bernoulli_latent",
    "continuous_bernoulli_rsample",
    "kumaraswamy_rsample",
    "relaxed_bernoulli",
]


@names_mistakes
def relaxed_bernoulli(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample a relaxed Bernoulli variable (binary concrete).

    .. math::
        z = \mathrm{sigmoid}\big((\ell + g) / \tau\big), \qquad g = \log \frac{u}{1 - u}

    As tau falls, z moves to 0 and 1; its chance to round to 1 is sigmoid(logits) at any tau. With
    ``hard`` z is exactly 0 or 1, ``[logits + g > 0]``, and its gradient is the relaxed one's
    (straight-through).

    Args:
        logits: log p / (1 - p), any shape; float32, float64, float16 or bfloat16.
        tau: temperature, a positive number; or a tensor, which broadcasts against logits, may
            require grad and is read on its device: where it is not positive z is NaN. Under
            ``torch.compile`` a number that changes is one graph for all values.
        hard: whether to sample 0 or 1 itself.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard logistic.

    Returns:
        z, of the logits' shape and dtype.

    Raises:
        TypeError, RuntimeError: as :func:`gaussian_latent` does.
        ValueError: tau is not positive, or the noise has two sources.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017, appendix B; Jang, Gu and
    Poole, "Categorical reparameterization with Gumbel-softmax", 2017 (straight-through).

    Example:
        >>> import torch
        >>> from fused_reparam import relaxed_bernoulli
        >>> gate = relaxed_bernoulli(torch.zeros(100), tau=0.5, hard=True)
        >>> gate.unique()
        tensor([0., 1.])
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(relaxed_bernoulli, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    sources = sources_of(key, generator, noise)
    kind = int(flag("hard", hard))
    if type(tau) is not float:
        check_tensor("logits", logits)
    tau = number_or_tensor("tau", tau, logits, temperature)
    if isinstance(tau, Tensor):
        named = ("logits", logits), ("tau", tau.to(logits.dtype))
        return elementwise.sample("relaxed_bernoulli_tau", named, sources, kind)[0]
    return elementwise.sample(
        "relaxed_bernoulli", (("logits", logits),), sources, kind, constants=(tau,)
    )[0]


def without_noise(logits: Tensor, tau: float | Tensor, hard: bool) -> Tensor:
    """What a draw of the relaxed Bernoulli would be without noise; for modules in eval mode."""
    if not isinstance(logits, Tensor):
        node = node_of(without_noise, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("logits", logits)
    return relaxed_bernoulli(logits, tau, hard, eps=torch.zeros_like(logits))


@names_mistakes
def kumaraswamy_rsample(
    concentration1: Tensor,
    concentration0: Tensor | float,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the Kumaraswamy distribution, a stand-in for Beta that can be reparameterized.

    .. math::
        z = \big(1 - e^{-\epsilon / b}\big)^{1 / a}, \quad \epsilon \text{ standard exponential}
        \qquad P(z \le x) = 1 - (1 - x^a)^b

    Args:
        concentration1: a > 0, any shape; float32, float64, float16 or bfloat16.
        concentration0: b > 0, broadcast against a.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential.

    Returns:
        z in [0, 1], of the broadcast shape and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Nalisnick and Smyth, "Stick-breaking variational autoencoders", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import kumaraswamy_rsample
        >>> a, b = torch.full((3, 4), 2.0), torch.full((4,), 5.0)
        >>> kumaraswamy_rsample(a, b).shape
        torch.Size([3, 4])
    """
    if (
        not isinstance(concentration1, Tensor)
        or fx._is_fx_tracing_flag
        or (noise and misnamed(noise))
    ):
        node = special(kumaraswamy_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return elementwise.sample(
        "kumaraswamy",
        (("concentration1", concentration1), ("concentration0", concentration0)),
        sources=sources_of(key, generator, noise),
    )[0]


@names_mistakes
def continuous_bernoulli_rsample(
    logits: Tensor,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the continuous Bernoulli distribution by reparameterization.

    .. math::
        z = \frac{\log(1 - u + u e^{\ell})}{\ell}

    and z = u, smoothly, for logits of 0. Its density on [0, 1] is proportional to
    :math:`e^{\ell z}`.

    Args:
        logits: log p / (1 - p), any shape; float32, float64, float16 or bfloat16.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential, -log u.

    Returns:
        z, of the logits' shape and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders", 2019.

    Example:
        >>> import torch
        >>> from fused_reparam import continuous_bernoulli_rsample
        >>> z = continuous_bernoulli_rsample(torch.linspace(-5.0, 5.0, 100))
        >>> bool(((z >= 0) & (z <= 1)).all())
        True
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(continuous_bernoulli_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample("continuous_bernoulli", (("logits", logits),), key, generator, noise)


@names_mistakes
def continuous_bernoulli_latent(
    logits: Tensor,
    *,
    prior_logits: float | Tensor = 0.0,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the continuous Bernoulli distribution and its KL divergence to another one.

    .. math::
        KL = A(\ell_0) - A(\ell) + A'(\ell) (\ell - \ell_0) \text{ per element, reduced}, \qquad
        A(\ell) = \log \frac{e^\ell - 1}{\ell}

    Args:
        logits, key, generator, sample_shape, rng, eps: see :func:`continuous_bernoulli_rsample`.
        prior_logits: those of the prior, a number, or a tensor as of
            :func:`exponential_latent`; by default 0, of the uniform distribution.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`continuous_bernoulli_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not finite.

    Source: the Bregman divergence of the log-partition function of an exponential family; see
    Loaiza-Ganem and Cunningham, 2019.

    Example:
        >>> import torch
        >>> from fused_reparam import continuous_bernoulli_latent
        >>> z, kl = continuous_bernoulli_latent(torch.zeros(4, 2))
        >>> z.shape, kl.item()
        (torch.Size([4, 2]), 0.0)
    """
    if not isinstance(logits, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(continuous_bernoulli_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (prior_logits,)
    return latent(
        "continuous_bernoulli",
        (("logits", logits),),
        prior,
        summed(reduction, dims),
        key,
        generator,
        noise,
    )
