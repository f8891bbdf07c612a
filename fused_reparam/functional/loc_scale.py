"""Location-scale families: ``z = loc + scale * eps``, eps of a standard distribution."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.mistakes import described, names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scales import STD
from ..core.tracers import fx, special
from ..families import FAMILIES
from . import elementwise
from .arguments import check_choice, check_tensor, parameters, positive
from .divergence import usual
from .latent import latent as gaussian_way
from .reduction import Dims, Reduction, reduced, summed
from .sources import sources_of
from .student_t import student_t
from .tensor_numbers import Number, number_or_tensor

__all__ = ["loc_scale_latent", "loc_scale_rsample"]

BASES = ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t")
_EULER = 0.57721566490153286


@names_mistakes
def loc_scale_rsample(
    loc: Tensor,
    scale: Tensor | float,
    base: str = "normal",
    *,
    df: float | Tensor | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample a location-scale family by reparameterization.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \cdot \epsilon

    with, of uniform numbers u and u' in (0, 1):

    ============= ===================================================================
    base          eps
    ============= ===================================================================
    normal        Box-Muller of two uniforms, see :func:`fused_reparam.noise.normal`
    laplace       log 2u below u = 1/2, -log 2(1 - u) above
    logistic      log u / (1 - u)
    gumbel        -log(-log u)
    uniform       2u - 1: z is uniform on [loc - scale, loc + scale]
    cauchy        tan(pi (u - 1/2))
    student_t     sqrt(df (u^(-2/df) - 1)) cos(2 pi u')
    ============= ===================================================================

    Args:
        loc: location, any shape; float32, float64, float16 or bfloat16.
        scale: scale, positive, broadcast against loc.
        base: one of the names above.
        df: degrees of freedom, a positive number; of "student_t" alone. Or a tensor, which
            broadcasts against the others, may require grad (that of the formula above at the same u
            and u'; of ``rng="torch"`` that of ``torch.distributions``) and is read on its device:
            where it is not positive z is NaN. Under ``torch.compile`` a number that changes is one
            graph for all values.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is the standard noise of the table.

    Returns:
        z, of the broadcast shape behind ``sample_shape``, and the inputs' dtype. The heavy tails of
        "cauchy" and "student_t" may exceed float16's range.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for an
            unknown base, and for a df that is missing, not positive, or not used.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2; Student's t: Bailey,
    "Polar generation of random variates with the t-distribution", 1994.

    Example:
        >>> import torch
        >>> from fused_reparam import loc_scale_rsample, noise
        >>> loc = torch.zeros(1000, requires_grad=True)
        >>> z = loc_scale_rsample(loc, 2.0, "laplace", key=noise.key(0))
        >>> z.sum().backward()
        >>> loc.grad.unique(), bool(z.abs().mean().sub(2.0).abs() < 0.2)
        (tensor([1.]), True)
        >>> loc_scale_rsample(torch.zeros(2, 3), torch.ones(3), "student_t", df=4.0).shape
        torch.Size([2, 3])
        >>> _ = torch.manual_seed(0)
        >>> z = loc_scale_rsample(loc, 2.0, "laplace", rng="torch", sample_shape=5)
        >>> _ = torch.manual_seed(0)
        >>> torch.allclose(z, torch.distributions.Laplace(loc, 2.0).rsample((5,)), atol=1e-5)
        True
    """
    if not isinstance(loc, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(loc_scale_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    sources, named = sources_of(key, generator, noise), (("loc", loc), ("scale", scale))
    degrees = _degrees(base, df, loc)
    if isinstance(degrees, Tensor):
        return student_t(loc, scale, degrees, sources)
    constants: tuple[float, ...] = () if degrees is None else (degrees,)
    if base == "normal":
        constants = *elementwise.UNBOUNDED, *usual(None).constants
        return elementwise.sample("gaussian", named, sources, STD, constants=constants)[0]
    return elementwise.sample(base, named, sources, constants=constants)[0]


@names_mistakes
def loc_scale_latent(
    loc: Tensor,
    scale: Tensor | float,
    base: str = "normal",
    *,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample a location-scale family and its KL divergence to the standard member.

    The KL per element, of location l and scale s to location 0 and scale 1:

    ============= ===================================================================
    base          KL
    ============= ===================================================================
    normal        (l^2 + s^2 - 1) / 2 - log s
    laplace       s exp(-\|l\| / s) + \|l\| - log s - 1
    gumbel        l - log s + g (s - 1) + exp(-l) Gamma(s + 1) - 1, g Euler's constant
    uniform       -log s where [l - s, l + s] lies in [-1, 1], else infinite
    cauchy        log(((1 + s)^2 + l^2) / 4s)
    ============= ===================================================================

    Args:
        loc, scale, base, key, generator, sample_shape, rng, eps: see :func:`loc_scale_rsample`.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z of the broadcast shape in the inputs' dtype, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, RuntimeError: as :func:`gaussian_latent` does.
        ValueError: also for "logistic" and "student_t", whose KL is not closed.

    Source: Laplace and Gumbel: Gil, Alajaji and Linder, "Renyi divergence measures for commonly
    used univariate continuous distributions", 2013; Cauchy: Chyzak and Nielsen, "A closed-form
    formula for the Kullback-Leibler divergence between Cauchy distributions", 2019.

    Example:
        >>> import torch
        >>> from fused_reparam import loc_scale_latent
        >>> z, kl = loc_scale_latent(torch.zeros(4, 2), torch.full((4, 2), 1.0), "laplace")
        >>> z.shape, kl.item()
        (torch.Size([4, 2]), 0.0)
    """
    if not isinstance(loc, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(loc_scale_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims)
    check_choice("base", base, BASES)
    if base in ("logistic", "student_t"):
        raise ValueError(
            f"the KL of base {base!r} to its standard member has no closed form: use "
            "loc_scale_rsample and estimate it"
        )
    sources = sources_of(key, generator, noise)
    if base == "normal":
        loc, scale = parameters(("loc", loc), ("scale", scale))
        bounds, to_standard = elementwise.UNBOUNDED, usual(over)
        return gaussian_way(loc, scale, STD, bounds, to_standard, sources, False)  # type: ignore[return-value]
    in_op = FAMILIES[base].terms > 0
    z, found, _ = elementwise.sample(
        base,
        (("loc", loc), ("scale", scale)),
        sources=sources,
        reduction=over if in_op else None,
    )
    if in_op:
        return z, found[0]
    location, spread = parameters(("loc", loc), ("scale", scale))
    shape = z.shape[len(sources.sample_shape) :]
    return z, _gumbel_kl(location, spread, shape, over)


def _degrees(base: str, df: float | Tensor | None, loc: Tensor) -> Number | None:
    check_choice("base", base, BASES)
    if base == "student_t":
        if df is None:
            raise ValueError('base "student_t" needs df, its degrees of freedom')
        check_tensor("loc", loc)
        return number_or_tensor("df", df, loc, positive)
    if df is not None:
        raise ValueError(
            f'df is of base "student_t" alone, got df={described(df)} with base {base!r}'
        )
    return None


def _gumbel_kl(loc: Tensor, scale: Tensor, shape: torch.Size, over: Reduction) -> Tensor:
    """In PyTorch's operators: its lgamma is worth no kernel."""
    dtype = compute_dtype(loc.dtype)
    loc, scale = loc.to(dtype), scale.to(dtype)
    kl = (
        loc - torch.log(scale) + _EULER * (scale - 1.0)
        + torch.exp(torch.lgamma(scale + 1.0) - loc) - 1.0
    )  # fmt: skip
    return reduced(kl.expand(shape), over)
