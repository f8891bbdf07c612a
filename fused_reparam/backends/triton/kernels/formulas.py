"""The element-wise families of `fused_reparam.families`, each chosen by a compile-time number.

A family is five functions of tiles: what is the same for every sample (`prepare`), a term that
needs no noise (`divergence`), one sample (`draw`), one sample's part of the gradient (`pull`), and
the gradients from the sums of those parts (`finish`). Most families draw loc + sigma eps and then
map it; `sigma` is then the standard deviation or the scale itself.

Constants, as `triton.elementwise.kernel_constants` makes them: bounds of the scale, then n2 .. n6
by family.
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import triton
import triton.language as tl

from .... import families
from .approx import exp, expm1, reciprocal, sqrt
from .scale import (
    LOG_STD,
    LOGVAR,
    RHO,
    STD,
    VAR,
    clamp,
    inverse_of,
    is_number,
    ratio_to,
    sigma_squares,
    slopes,
    times,
)
from .uniform import fast_log, log_uniform

_INDEX = {name: index for index, name in enumerate(families.FAMILIES)}
GAUSSIAN: tl.constexpr = tl.constexpr(_INDEX["gaussian"])
GAUSSIAN_PRIOR: tl.constexpr = tl.constexpr(_INDEX["gaussian_prior"])
LOG_PROB: tl.constexpr = tl.constexpr(_INDEX["log_prob"])
LOG_PROB_PRIOR: tl.constexpr = tl.constexpr(_INDEX["log_prob_prior"])
MIXTURE: tl.constexpr = tl.constexpr(_INDEX["mixture"])
TANH_NORMAL: tl.constexpr = tl.constexpr(_INDEX["tanh_normal"])
LOG_NORMAL: tl.constexpr = tl.constexpr(_INDEX["log_normal"])
LAPLACE: tl.constexpr = tl.constexpr(_INDEX["laplace"])
UNIFORM: tl.constexpr = tl.constexpr(_INDEX["uniform"])
CAUCHY: tl.constexpr = tl.constexpr(_INDEX["cauchy"])
RELAXED_BERNOULLI: tl.constexpr = tl.constexpr(_INDEX["relaxed_bernoulli"])
KUMARASWAMY: tl.constexpr = tl.constexpr(_INDEX["kumaraswamy"])
HALF_LOG_2PI: tl.constexpr = tl.constexpr(families.HALF_LOG_2PI)


@triton.jit
def prepare(
    a, b, c, d, n2, n3, n4,
    FAMILY: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """(sigma, log sigma^2, the prior's mean, 1 / its sigma in two factors, sigma / its sigma, and
    the log of its sigma^2).

    b is bounded already. The logarithms are meaningful only with LOGS. Kumaraswamy has (1 / a,
    1 / b) in the first two places. For a prior of numbers PRIOR_KIND says whether its std is far
    out; there is one factor then, n3.
    """
    if FAMILY == RELAXED_BERNOULLI:
        return a, a, n2, n3, n3, n4, n4
    elif FAMILY == KUMARASWAMY:
        return finite(reciprocal(a, MATH)), finite(reciprocal(b, MATH)), n2, n3, n3, n4, n4
    elif FAMILY == GAUSSIAN_PRIOR or FAMILY == LOG_PROB_PRIOR:
        sigma, _, log_square = sigma_squares(b, KIND, EXACT, MATH, LOGS)
        prior, _, prior_log = sigma_squares(d, PRIOR_KIND, EXACT, MATH, LOGS)
        inverse, unit = inverse_of(d, prior, PRIOR_KIND, EXACT, MATH)
        ratio = ratio_to(b, sigma, d, prior, inverse, unit, KIND, PRIOR_KIND, EXACT, MATH)
        return sigma, log_square, c, inverse, unit, ratio, prior_log
    elif FAMILY == GAUSSIAN or FAMILY == LOG_PROB:
        if PRIOR_KIND != 0:
            n3 = finite(n3)
        BY_LOGS: tl.constexpr = PRIOR_KIND != 0 and KIND != STD and KIND != VAR
        sigma, _, log_square = sigma_squares(b, KIND, EXACT, MATH, LOGS or BY_LOGS)
        if BY_LOGS:  # noqa: SIM108  # sigma may be beyond the dtype where the ratio is not
            ratio = exp(log_square - n4, 0.5, 1.0, EXACT, MATH)
        else:
            ratio = sigma * n3
        return sigma, log_square, n2, n3, n3, ratio, n4
    else:
        sigma, _, log_square = sigma_squares(b, KIND, EXACT, MATH, LOGS)
        return sigma, log_square, n2, n3, n3, sigma, n4


@triton.jit
def over_sigma(x, inverse, unit, FAMILY: tl.constexpr):
    """x / the prior's sigma, by the two factors that `prepare` gives."""
    if FAMILY == GAUSSIAN or FAMILY == LOG_PROB:
        return x * inverse
    else:
        return x * inverse * unit


@triton.jit
def finite(x):
    """Bounded, so that nothing times it is NaN; NaN stays NaN."""
    MOST: tl.constexpr = 1e308 if x.dtype.is_fp64() else 3e38
    return tl.minimum(x, MOST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def of_log(gradient, to_log, KIND: tl.constexpr):
    """The gradient of log sigma times its slope, which is infinite only where it is 1 / x."""
    if KIND == STD or KIND == VAR:
        return times(gradient, to_log)
    else:
        return gradient * to_log


@triton.jit
def divergence(
    a, sigma, log_square, mean, inverse, unit, ratio, prior_log, floor,
    FAMILY: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The term of a family whose term needs no noise."""
    if FAMILY == GAUSSIAN or FAMILY == GAUSSIAN_PRIOR:
        distance = over_sigma(a - mean, inverse, unit, FAMILY)
        twice = distance * distance + (ratio * ratio - 1.0) - (log_square - prior_log)
        if FLOOR:
            return tl.where(twice * 0.5 < floor, floor, twice * 0.5)
        else:
            return twice * 0.5
    elif FAMILY == LOG_NORMAL:
        return 0.5 * (a * a + (sigma * sigma - 1.0) - log_square)
    elif FAMILY == LAPLACE:
        size = tl.abs(a)
        shrunk = exp(-in_scales(size, reciprocal(sigma, MATH)), 1.0, 1.0, EXACT, MATH)
        return sigma * shrunk + size - 0.5 * log_square - 1.0
    elif FAMILY == UNIFORM:
        end = tl.abs(a) + sigma
        return tl.where(end > 1.0, float("inf"), 0.0 * end - 0.5 * log_square)
    else:
        tl.static_assert(FAMILY == CAUCHY)
        return (
            2.0 * fast_log(0.5 * hypotenuse(1.0 + sigma, tl.abs(a), MATH), MATH) - 0.5 * log_square
        )


@triton.jit
def hypotenuse(x, y, MATH: tl.constexpr):
    """sqrt(x^2 + y^2) of numbers that are not negative, whose squares may overflow."""
    most = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    share = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL) * reciprocal(most, MATH)
    return most * sqrt(1.0 + share * share, MATH)


@triton.jit
def two_normals(z, mean, n3, n4, n5, n6):
    """Both parts of a mixture, see `families.mixture`: of the wider one d and the
    logarithm without log 2 pi, of the narrower one's logarithm how far it is ahead.

    n3: 1 / std; n4: constant; n5: ahead; n6: fall.
    """
    d = (z - mean) * n3
    square = d * d
    return d, n4 - 0.5 * square, n5 - n6 * square


@triton.jit
def in_scales(size, inverse):
    """size / scale, and at most 1e4: its exponential is nothing by then. inverse: 1 / scale."""
    return tl.minimum(size * finite(inverse), 1e4, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def kumaraswamy_parts(inverse_b, eps, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(t, e, base, log base): t = eps / b, e = exp(-t), base = 1 - e, each to its last bits."""
    t = in_scales(eps, inverse_b)
    e = exp(-t, 1.0, 1.0, EXACT, MATH)
    base = -expm1(-t, e)
    return t, e, base, log_uniform(tl.minimum(e, base), base > e, MATH)


@triton.jit
def draw(
    a, sigma, log_square, mean, inverse, unit, ratio, prior_log, eps, n2, n3, n4, n5, n6,
    FAMILY: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """(z, terms): as many terms as depend on the noise, anything in the other places."""
    if FAMILY == RELAXED_BERNOULLI:
        total = a + eps
        if KIND == 1:
            hard = tl.where(total > 0.0, 1.0, 0.0).to(total.dtype)
            z = tl.where(total == total, hard, total)
        else:
            t = total * n2
            e = exp(-tl.abs(t), 1.0, 1.0, EXACT, MATH)
            share = reciprocal(1.0 + e, MATH)
            z = tl.where(t >= 0.0, share, e * share)
        return z, z, z
    elif FAMILY == KUMARASWAMY:
        _, _, _, log_base = kumaraswamy_parts(log_square, eps, EXACT, MATH)
        z = exp(log_base * sigma, 1.0, 1.0, EXACT, MATH)
        return z, z, z
    else:
        x = a + sigma * eps
        if FAMILY == LOG_NORMAL:
            z = exp(x, 1.0, 1.0, EXACT, MATH)
            return z, z, z
        elif FAMILY == LOG_PROB or FAMILY == LOG_PROB_PRIOR:
            log_q = -0.5 * (eps * eps + log_square) - HALF_LOG_2PI
            distance = over_sigma(a - mean, inverse, unit, FAMILY) + ratio * eps
            return x, log_q, -0.5 * (distance * distance + prior_log) - HALF_LOG_2PI
        elif FAMILY == MIXTURE:
            _, log_wide, ahead = two_normals(x, mean, n3, n4, n5, n6)
            e = exp(-tl.abs(ahead), 1.0, 1.0, EXACT, MATH)
            log_p = log_wide + (tl.maximum(ahead, 0.0) + fast_log(1.0 + e, MATH))
            return x, -0.5 * (eps * eps + log_square) - log_p, x
        elif FAMILY == TANH_NORMAL:
            size = tl.abs(x)
            e = exp(-size, 2.0, 1.0, EXACT, MATH)
            # 1 - e would have no digits left near zero.
            tanh = -expm1(-2.0 * size, e) * reciprocal(1.0 + e, MATH)
            action = clamp(n2 + n3 * tl.where(x >= 0.0, tanh, -tanh), n5, n6)
            term = 2.0 * (size + fast_log(1.0 + e, MATH)) - 0.5 * (eps * eps + log_square) - n4
            return action, term, x
        else:
            return x, x, x


@triton.jit
def pull(
    a, sigma, inverse_b, mean, inverse, unit, ratio,
    eps, gz, g0, g1, sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log, n2, n3, n4,
    n5, n6,
    FAMILY: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The five sums with one sample's part of the gradients added.

    gz is the gradient of z; g0 and g1 are the scaled gradients of the terms, or None. The sums
    are the gradients of loc (sum_loc), of sigma through the sample (sum_sigma), of the density's
    -log sigma (sum_log_sigma), of the prior's mean (sum_prior_loc) and of its -log sigma
    (sum_prior_log). Of Kumaraswamy sum_loc is of 1 / a, and sum_sigma, times a, of log t.
    """
    if FAMILY == RELAXED_BERNOULLI:
        e = exp(-tl.abs((a + eps) * n2), 1.0, 1.0, EXACT, MATH)
        share = reciprocal(1.0 + e, MATH)
        return (
            sum_loc + gz * (e * share) * share * n2,
            sum_sigma,
            sum_log_sigma,
            sum_prior_loc,
            sum_prior_log,
        )
    elif FAMILY == KUMARASWAMY:
        t, e, base, log_base = kumaraswamy_parts(inverse_b, eps, EXACT, MATH)
        gz *= exp(log_base * sigma, 1.0, 1.0, EXACT, MATH)
        return (
            sum_loc + gz * log_base,
            sum_sigma + gz * (e * t * reciprocal(base, MATH)),
            sum_log_sigma,
            sum_prior_loc,
            sum_prior_log,
        )
    else:
        x = a + sigma * eps
        dx = gz
        to_eps = None  # the gradient of sigma eps where it is not dx, as z is not what p is made of
        if FAMILY == LOG_NORMAL:
            dx = times(gz, exp(x, 1.0, 1.0, EXACT, MATH))
        elif FAMILY == LOG_PROB or FAMILY == LOG_PROB_PRIOR:
            if g0 is not None:
                sum_log_sigma += g0
            if g1 is not None:
                # Nothing infinite is left for a gradient of 0 to meet.
                spread = tl.where(g1 == 0.0, 0.0, ratio * eps)
                distance = tl.where(g1 == 0.0, 0.0, over_sigma(a - mean, inverse, unit, FAMILY))
                distance += spread
                slope = g1 * distance
                to_mean = over_sigma(slope, inverse, unit, FAMILY)
                # Through sigma where it is a number, or it would lose or overflow by way of its
                # logarithm; else through log sigma, which is right where sigma is not.
                dx = gz - to_mean
                if KIND == RHO:
                    to_eps = tl.where(sigma > 1.0, dx, gz)
                    sum_log_sigma += tl.where(sigma > 1.0, 0.0, slope * spread)
                elif not is_number(KIND):
                    to_eps = gz
                    sum_log_sigma += slope * spread
                if FAMILY == LOG_PROB_PRIOR:
                    sum_prior_loc += to_mean
                    sum_prior_log += g1 - slope * distance
        elif FAMILY == MIXTURE:
            if g0 is not None:
                sum_log_sigma += g0
                d, _, ahead = two_normals(x, mean, n3, n4, n5, n6)
                e = exp(-tl.abs(ahead), 1.0, 1.0, EXACT, MATH)
                # The slopes d / std of both by their shares; the narrower one's is steeper times
                # as large.
                steeper = 2.0 * n6 + 1.0
                both = tl.where(ahead > 0.0, e + steeper, 1.0 + steeper * e)
                dx = gz + times(g0, d * n3 * (both * reciprocal(1.0 + e, MATH)))
        elif FAMILY == TANH_NORMAL:
            e = exp(-tl.abs(x), 2.0, 1.0, EXACT, MATH)
            share = reciprocal(1.0 + e, MATH)
            dx = gz * (4.0 * n3) * (e * share) * share
            if g0 is not None:
                sum_log_sigma += g0
                tanh = -expm1(-2.0 * tl.abs(x), e) * share
                dx += 2.0 * g0 * tl.where(x >= 0.0, tanh, -tanh)
        return (
            sum_loc + dx,
            sum_sigma + (dx if to_eps is None else to_eps) * eps,
            sum_log_sigma,
            sum_prior_loc,
            sum_prior_log,
        )


@triton.jit
def finish(
    a, b, d, sigma, log_square, mean, inverse, unit, ratio,
    prior_log, gk, sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log, floor,
    FAMILY: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, FLOOR: tl.constexpr,
    SAMPLED: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The gradients of the four parameters; gk: the scaled gradient of `divergence`, or None."""
    if FAMILY == RELAXED_BERNOULLI:
        return sum_loc, sum_loc, sum_loc, sum_loc
    elif FAMILY == KUMARASWAMY:
        # here sigma = 1 / a and log_square = 1 / b
        return -sum_loc * sigma * sigma, -sum_sigma * sigma * log_square, sum_loc, sum_loc
    else:
        LOC_SCALE: tl.constexpr = FAMILY == LAPLACE or FAMILY == UNIFORM or FAMILY == CAUCHY
        to_sigma, to_log = slopes(b, sigma, KIND, MATH, not LOC_SCALE)
        # Only these may be infinite where no gradient of a sample came.
        to_b = (
            times(sum_sigma, to_sigma)
            if KIND == LOGVAR or KIND == LOG_STD
            else sum_sigma * to_sigma
        )
        if FAMILY == GAUSSIAN or FAMILY == GAUSSIAN_PRIOR:
            if gk is not None:
                if FLOOR:
                    kl = divergence(
                        a, sigma, log_square, mean, inverse, unit, ratio,
                        prior_log, floor, FAMILY, False,
                        EXACT,
                        MATH,
                    )  # fmt: skip
                    gk = tl.where(kl < floor, 0.0, gk)
                # Nothing infinite is left for a gradient of 0 to meet.
                distance = tl.where(gk == 0.0, 0.0, over_sigma(a - mean, inverse, unit, FAMILY))
                ratio = tl.where(gk == 0.0, 1.0, ratio)
                slope = gk * distance
                to_mean = over_sigma(slope, inverse, unit, FAMILY)
                grown = gk * (ratio * ratio - 1.0)
                sum_loc += to_mean
                # The ratio's square may overflow before a large number divides it.
                if is_number(KIND):
                    grown_b = over_sigma(gk * ratio, inverse, unit, FAMILY) * to_sigma
                    to_b += grown_b - times(gk, to_log)
                elif KIND == RHO:
                    to_b += gk * (ratio * (ratio * to_log) - to_log)
                else:
                    to_b += grown * to_log
                sum_prior_loc -= to_mean
                sum_prior_log += slope * distance + grown
        elif FAMILY == LOG_NORMAL:
            if gk is not None:
                sum_loc += gk * a
                to_b += times(gk, sigma * to_sigma - to_log)
        elif FAMILY == LAPLACE:
            if gk is not None:
                t = in_scales(tl.abs(a), to_log)
                shrunk = exp(-t, 1.0, 1.0, EXACT, MATH)
                sum_loc += gk * tl.where(a >= 0.0, 1.0 - shrunk, shrunk - 1.0)
                to_b += times(gk, shrunk + shrunk * t - to_log)
        elif FAMILY == UNIFORM:
            if gk is not None:
                end = tl.abs(a) + sigma
                sum_loc += tl.where(end > 1.0, 0.0, 0.0 * end)
                to_b += tl.where(end > 1.0, 0.0, 0.0 * end - times(gk, to_log))
        elif FAMILY == CAUCHY:
            if gk is not None:
                inverse = reciprocal(hypotenuse(1.0 + sigma, tl.abs(a), MATH), MATH)
                twice = 2.0 * gk * inverse
                sum_loc += twice * (a * inverse)
                to_b += twice * ((1.0 + sigma) * inverse) - times(gk, to_log)
        elif SAMPLED:
            to_b -= of_log(sum_log_sigma, to_log, KIND)
        if FAMILY == GAUSSIAN_PRIOR or FAMILY == LOG_PROB_PRIOR:
            _, prior_to_log = slopes(d, d, PRIOR_KIND, MATH)
            return sum_loc, to_b, sum_prior_loc, -of_log(sum_prior_log, prior_to_log, PRIOR_KIND)
        else:
            return sum_loc, to_b, sum_loc, sum_loc
