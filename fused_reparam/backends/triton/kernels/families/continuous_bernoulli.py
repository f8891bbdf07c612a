"""The continuous Bernoulli distribution: see `fused_reparam.families.continuous_bernoulli`."""

import triton
import triton.language as tl

from .....families.continuous_bernoulli import LANGEVIN
from ..approx import exp, expm1, log, series, sqrt
from ..scale import times
from ..uniform import log_uniform
from .bernoulli import missed_of, missed_weight

# In powers of b^2: L / b with L = coth b - 1 / b, log(sinh b / b) / b^2, and the derivative of L.
_LANGEVIN: tl.constexpr = tl.constexpr(LANGEVIN)
_LOG_SHC: tl.constexpr = tl.constexpr(tuple(c / (2 * n + 2) for n, c in enumerate(LANGEVIN)))
_SLOPE: tl.constexpr = tl.constexpr(tuple(c * (2 * n + 1) for n, c in enumerate(LANGEVIN)))


@triton.jit
def inverse_parts(logits, eps, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(w, 1 - w, a, e^a, 1 - w + w e^a, y) of a = -|logits|: y(a, w) = log(1 - w + w e^a) / a of
    w = u = e^-eps for negative logits, else of w = 1 - u.
    """
    u = exp(-eps, 1.0, 1.0, EXACT, MATH)
    rest = -expm1(-eps, u)
    below = logits < 0.0
    w = tl.where(below, u, rest)
    rest = tl.where(below, rest, u)
    a = -tl.abs(logits)
    e = exp(a, 1.0, 1.0, EXACT, MATH)
    minus = expm1(a, e)
    left = rest + w * e
    lost = -(w * minus)
    # The logarithm from the side on which nothing cancels.
    logarithm = log_uniform(tl.minimum(left, lost), left > lost, MATH)
    tiny = a > -1e-20
    y = tl.minimum(logarithm / tl.where(tiny, -1.0, a), 1.0, propagate_nan=tl.PropagateNan.ALL)
    return w, rest, a, e, left, tl.where(tiny, w, y)


@triton.jit
def continuous_bernoulli_sample(
    logits, _b, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    _, _, _, _, _, y = inverse_parts(logits, eps, EXACT, MATH)
    return tl.where(logits < 0.0, y, 1.0 - y)


@triton.jit
def continuous_bernoulli_sample_gradients(
    logits, _b, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """dy / da on both sides. Near 0 its two terms cancel: there it is of the cumulants of a
    Bernoulli variable of the middle's chance.
    """
    w, rest, a, e, left, y = inverse_parts(logits, eps, EXACT, MATH)
    direct = (w * e / left - y) / a
    up = w * sqrt(e, MATH)
    mean = up / (rest + up)
    other = rest / (rest + up)
    q = mean * other
    b = 0.5 * a
    square = b * b
    odd = (1.0 - 60.0 * q + 360.0 * q * q) * (square / 1680.0) + (1.0 - 12.0 * q) / 60.0
    odd = (odd * square + 1.0 / 6.0) * b
    even = (1.0 - 126.0 * q + 1680.0 * q * q - 5040.0 * q * q * q) * (square / 10080.0)
    even = (even + (1.0 - 30.0 * q + 120.0 * q * q) / 240.0) * square + (1.0 - 6.0 * q) / 12.0
    near = q * (0.5 + (other - mean) * odd + even * square)
    EDGE: tl.constexpr = -0.05 if a.dtype.is_fp64() else -1.0
    return gz * tl.where(a > EDGE, near, direct), 0.0, 0.0


@triton.jit
def langevin_parts(b, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(|b|, e^(-2 |b|), what it leaves of 1, whether b is near 0)."""
    EDGE: tl.constexpr = 0.25 if b.dtype.is_fp64() else 1.0
    size = tl.abs(b)
    e = exp(-size, 2.0, 1.0, EXACT, MATH)
    return size, e, -expm1(-2.0 * size, e), size < EDGE


@triton.jit
def continuous_bernoulli_term(
    logits, _b, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2 .. n4: the prior's b, log(sinh b / b), and that less |b|."""
    b = 0.5 * logits
    size, e, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    square = small * small
    of_small = n3 - square * series(square, 7, _LOG_SHC)
    of_small += small * series(square, 7, _LANGEVIN) * (small - n2)
    size = tl.where(near, 1.0, size)
    grown = 2.0 * e / tl.where(near, 1.0, other)
    more = grown - 1.0 / size
    apart = tl.where((b > 0.0) == (n2 > 0.0), -more, 2.0 + more)
    rest = log(size / tl.where(near, 1.0, other), MATH) + 0.6931471805599453
    of_large = n4 + tl.abs(n2) * apart + rest + (size * grown - 1.0)
    return tl.where(near, of_small, of_large)


@triton.jit
def continuous_bernoulli_term_gradients(
    logits, _b, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    b = 0.5 * logits
    size, e, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    size = tl.where(near, 1.0, size)
    other = tl.where(near, 1.0, other)
    apart = b - n2
    of_small = apart * series(small * small, 7, _SLOPE)
    of_large = apart / size / size - apart * (4.0 * e / (other * other))
    return 0.5 * gk * tl.where(near, of_small, of_large), 0.0, 0.0, 0.0


@triton.jit
def continuous_bernoulli_prior_term(
    logits, prior, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    b = 0.5 * prior
    size, _, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    square = small * small
    of_small = square * series(square, 7, _LOG_SHC)
    whole = tl.where(near, 1.0, other) / tl.where(near, 1.0, size)
    of_large = log(whole, MATH) - 0.6931471805599453
    return continuous_bernoulli_term(
        logits, b, b, b, b, tl.where(near, of_small, size + of_large),
        tl.where(near, of_small - size, of_large), n5, n6, EXACT, MATH,
    )  # fmt: skip


@triton.jit
def langevin(b, EXACT: tl.constexpr, MATH: tl.constexpr):
    """L, 1 - |L| where b is large, and whether it is near 0."""
    size, e, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    less = 1.0 / tl.where(near, 1.0, size) - 2.0 * e / tl.where(near, 1.0, other)
    large = tl.where(b > 0.0, 1.0 - less, less - 1.0)
    return tl.where(near, small * series(small * small, 7, _LANGEVIN), large), less, near


@triton.jit
def continuous_bernoulli_prior_term_gradients(
    logits, prior, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_logits, _, _, _ = continuous_bernoulli_term_gradients(
        logits, prior, prior, prior, gk, 0.5 * prior, n3, n4, n5, n6, EXACT, MATH
    )
    value, less, near = langevin(0.5 * logits, EXACT, MATH)
    prior_value, prior_less, prior_near = langevin(0.5 * prior, EXACT, MATH)
    # Of two large ones of one sign the 1 that both are near to is left out.
    apart = tl.where(prior > 0.0, less - prior_less, prior_less - less)
    alike = (near == 0) & (prior_near == 0) & ((logits > 0.0) == (prior > 0.0))
    slope = tl.where(alike, apart, prior_value - value)
    return to_logits, 0.5 * gk * slope, 0.0, 0.0


@triton.jit
def continuous_bernoulli_density_term(
    x, logits, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    MOST: tl.constexpr = 1.7976931348623157e308 if logits.dtype.is_fp64() else 3.4028234663852886e38
    b = 0.5 * logits
    size, _, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    square = small * small
    of_small = (2.0 * x - 1.0) * small - square * series(square, 7, _LOG_SHC)
    whole = tl.where(near, 1.0, tl.minimum(2.0 * size, MOST, propagate_nan=tl.PropagateNan.ALL))
    log_whole = log(whole / tl.where(near, 1.0, other), MATH)
    return tl.where(near, of_small, log_whole - missed_weight(x, logits))


@triton.jit
def continuous_bernoulli_density_term_gradients(
    x, logits, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    b = 0.5 * logits
    size, e, other, near = langevin_parts(b, EXACT, MATH)
    small = tl.where(near, b, 0.0)
    of_small = x - 0.5 - 0.5 * small * series(small * small, 7, _LANGEVIN)
    of_size = 1.0 / tl.where(near, 1.0, 2.0 * size)
    apart = of_size - e / tl.where(near, 1.0, other) - missed_of(x, logits)
    slope = tl.where(near, of_small, tl.where(logits > 0.0, apart, -apart))
    return times(gk, logits), gk * slope, 0.0, 0.0
