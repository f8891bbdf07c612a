// The ways to parameterize sigma: from the (bounded) parameter x to sigma, to sigma^2 - 1 - log
// sigma^2 (the part of twice the KL that is not loc^2), and to their derivatives. sigma^2 comes from
// sigma, never from a second exponential.
#pragma once

#include "common/interface.h"
#include "simd/math.h"

namespace fr::FR_NS {

// Intermediate values of one softplus.
template <class V>
struct Softplus {
  V sigma, log_sigma, sigmoid, ratio;  // ratio = sigmoid / sigma
};

// sigma = ln(1 + e^x). Below -9, where e^x (and further down sigma) is small, log sigma = x - e^x / 2
// and sigmoid / sigma = 1 - e^x / 2 to within rounding for float, with one more term for double,
// which takes these from -20; both stay right where e^x underflows.
template <class V>
FR_INLINE Softplus<V> softplus(V x, bool want_log, bool want_gradient) {
  using T = typename Scalar<V>::type;
  constexpr double far = sizeof(T) == 4 ? -9.0 : -20.0;
  const V one = num<V>(1.0), zero = V{};
  const V e = exp_within(max_keep_nan(num<V>(sizeof(T) == 4 ? -128.0 : -1100.0), -abs(x)));
  Softplus<V> s{};
  s.sigma = (x < zero ? zero : x) + log1p_unit(e);          // NaN stays: x < 0 is false
  const V half = num<V>(0.5) * e;
  if (want_log) s.log_sigma = x < num<V>(far) ? x - half : log_positive(s.sigma);
  if (want_gradient) {
    const V inverse = reciprocal(one + e);
    const V finite = min_keep_nan(num<V>(sizeof(T) == 4 ? __FLT_MAX__ : __DBL_MAX__), s.sigma);
    s.sigmoid = x < zero ? e * inverse : inverse;
    s.ratio = x < num<V>(far) ? one - half : s.sigmoid * reciprocal(finite);
  }
  return s;
}

// kCoarse: for 16-bit elements, see exp_coarse.
template <Kind kind, bool kCoarse, class V>
FR_INLINE V sigma_of(V x) {
  if constexpr (kind == Kind::logvar && kCoarse) return exp_coarse<2>(x);
  if constexpr (kind == Kind::log_std && kCoarse) return exp_coarse<1>(x);
  if constexpr (kind == Kind::logvar) return exp<2>(x);
  if constexpr (kind == Kind::log_std) return exp(x);
  if constexpr (kind == Kind::std) return x;
  if constexpr (kind == Kind::var) return sqrt(x);
  if constexpr (kind == Kind::rho) return softplus(x, false, false).sigma;
}

// A prior's parameter; NaN, as the divergence and all gradients then are, where it has no sigma above 0.
template <Kind kind, class V>
FR_INLINE V of_prior(V x) {
  if constexpr (kind != Kind::std && kind != Kind::var) return x;
  return x > V{} ? x : num<V>(__builtin_nan(""));
}

// sigma, and rest = sigma^2 - 1 - log sigma^2.
template <Kind kind, bool kCoarse, class V>
FR_INLINE void sigma_and_rest(V x, V& sigma, V& rest) {
  const V minus = num<V>(-1.0), two = num<V>(-2.0);
  if constexpr (kind == Kind::rho) {
    const Softplus<V> s = softplus(x, true, false);
    sigma = s.sigma;
    rest = fma(two, s.log_sigma, fma(sigma, sigma, minus));
  } else {
    sigma = sigma_of<kind, kCoarse>(x);
    if constexpr (kind == Kind::logvar) rest = fma(sigma, sigma, minus) - x;
    if constexpr (kind == Kind::log_std) rest = fma(two, x, fma(sigma, sigma, minus));
    if constexpr (kind == Kind::std) rest = fma(two, log(x), fma(x, x, minus));
    if constexpr (kind == Kind::var) rest = (x + minus) - log(x);
  }
}

// The gradient of x: from_z * eps * dsigma/dx + from_kl * dKL/dx, each part if it is there.
// With kMayBeZero an element's z_times_eps or from_kl may be 0, which stays 0 where its slope is infinite.
template <Kind kind, bool kCoarse, bool kMayBeZero, class V>
FR_INLINE V scale_gradient(V x, bool has_z, V z_times_eps, bool has_kl, V from_kl) {
  const V one = num<V>(1.0), half = num<V>(0.5);
  V sigma, dsigma, dlog;
  if constexpr (kind == Kind::logvar) {
    sigma = sigma_of<kind, kCoarse>(x);
    dsigma = half * sigma;
    dlog = half;
  } else if constexpr (kind == Kind::log_std) {
    sigma = dsigma = sigma_of<kind, kCoarse>(x);
    dlog = one;
  } else if constexpr (kind == Kind::std) {
    if (!has_kl) return z_times_eps;
    // The parameter divides the gradient: a gradient of 0 stays 0 where 1 / x is infinite.
    const V of_kl = fma(from_kl, x, -(from_kl / x));
    return has_z ? z_times_eps + of_kl : of_kl;
  } else if constexpr (kind == Kind::var) {
    const V half_kl = half * from_kl, of_kl = half_kl - half_kl / x;
    if (!has_z && has_kl) return of_kl;
    const V of_z = z_times_eps * (half / sqrt(x));
    return has_kl ? of_z + of_kl : of_z;
  } else {
    const Softplus<V> s = softplus(x, false, true);
    sigma = s.sigma;
    dsigma = s.sigmoid;
    dlog = s.ratio;
  }
  // Both parts are added before dsigma multiplies them, which may be infinite: a sample's gradient of 0
  // must not meet it alone.
  V to_sigma = has_z ? z_times_eps : V{};
  if (has_kl) {
    V more = fma(from_kl, sigma, to_sigma);
    if constexpr (kMayBeZero) more = from_kl == V{} ? to_sigma : more;
    to_sigma = more;
  }
  if constexpr (kMayBeZero) dsigma = to_sigma == V{} ? V{} : dsigma;
  return has_kl ? fma(to_sigma, dsigma, -(from_kl * dlog)) : to_sigma * dsigma;
}

// sigma and log sigma and their derivatives in x.
template <class V>
struct Scaled {
  V sigma, log_sigma, dsigma, dlog_sigma;
};
template <Kind kind, class V>
FR_INLINE Scaled<V> scaled(V x, bool want_log, bool want_gradient) {
  const V one = num<V>(1.0), half = num<V>(0.5);
  if constexpr (kind == Kind::rho) {
    const Softplus<V> s = softplus(x, want_log, want_gradient);
    return {s.sigma, s.log_sigma, s.sigmoid, s.ratio};
  } else {
    const V sigma = sigma_of<kind, false>(x);
    if constexpr (kind == Kind::logvar) return {sigma, half * x, half * sigma, half};
    if constexpr (kind == Kind::log_std) return {sigma, x, sigma, one};
    const V log_x = want_log ? log(x) : x, inverse = want_gradient ? one / x : x;
    if constexpr (kind == Kind::std) return {sigma, log_x, one, inverse};
    return {sigma, half * log_x, half / sigma, half * inverse};
  }
}

}  // namespace fr::FR_NS
