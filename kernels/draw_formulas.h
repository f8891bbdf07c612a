// The element-wise families' formulas, as reference/families.py has them: what becomes of a register
// of parameters and noise, and its gradients. A formula reads its operands from `in` and gives its
// results to `out`; `c` are the constants of the call (draw_call.h makes them).
#pragma once

#include "draw_interface.h"
#include "math.h"

namespace fr::FR_NS {

template <class V>
struct Inverse {
  V first, second;
  __attribute__((always_inline)) V times(V x) const { return x * first * second; }
};

template <class V>
struct Operands {
  using Real = typename Scalar<V>::type;
  const DrawPass& p;
  const V (&c)[kConstants];
  int64_t i;
  __attribute__((always_inline)) V at(const void* x) const { return load<V>((const Real*)x + i); }
  __attribute__((always_inline)) V loc() const { return at(p.loc); }
  __attribute__((always_inline)) V sigma() const { return at(p.sigma); }
  __attribute__((always_inline)) V log_sigma() const { return at(p.log_sigma); }
  __attribute__((always_inline)) V prior_loc() const { return at(p.prior_loc); }
  __attribute__((always_inline)) V prior_sigma() const { return at(p.prior_sigma); }
  __attribute__((always_inline)) V prior_log_sigma() const { return at(p.prior_log_sigma); }
  __attribute__((always_inline)) V eps() const { return at(p.eps); }
  __attribute__((always_inline)) V grad_z() const { return at(p.grad_z); }
  __attribute__((always_inline)) V grad_value(int j) const { return at(p.grad_value[j]); }
  __attribute__((always_inline)) V constant(int j) const { return c[j]; }
  // One over the prior's sigma, in two factors, each one over its root: a division by both neither
  // overflows nor underflows before its result does. Bounded, so that nothing times it is NaN.
  __attribute__((always_inline)) Inverse<V> prior_inverse() const {
    const V one = num<V>(1.0), most = num<V>(sizeof(Real) == 4 ? 87.0 : 700.0);
    const V root = p.prior_is_std ? one / sqrt(prior_sigma())
                                  : exp(min_keep_nan(most, num<V>(-0.5) * prior_log_sigma()));
    return {root, root};
  }
  // sigma / prior sigma: of two numbers as they came, else by the difference of the logarithms, which is
  // right also where either sigma is beyond the dtype.
  __attribute__((always_inline)) V over_prior(const Inverse<V>& inverse, V log_ratio) const {
    return p.by_ratio ? inverse.times(sigma()) : exp(log_ratio);
  }
};

// A gradient times a derivative. A gradient of 0, which is also one that did not come, and a derivative
// of 0, as of a bounded parameter, stay 0 whatever they meet: the other may be infinite.
template <class V>
FR_INLINE V times(V gradient, V slope) {
  const V product = gradient * slope;
  return (gradient == V{}) | (slope == V{}) ? V{} : product;
}

// The gradients of a draw are added to those of a value, or to zeros.
template <class V, bool kAdd>
struct Results {
  using Real = typename Scalar<V>::type;
  const DrawPass& p;
  int64_t i;
  __attribute__((always_inline)) void put(void* x, V v) const { store((Real*)x + i, v); }
  __attribute__((always_inline)) void add(void* x, V v) const {
    Real* to = (Real*)x + i;
    store(to, kAdd ? load<V>(to) + v : v);
  }
  __attribute__((always_inline)) void z(V v) const { put(p.z, v); }
  __attribute__((always_inline)) void value(int j, V v) const { put(p.value[j], v); }
  __attribute__((always_inline)) void loc(V v) const { add(p.to_loc, v); }
  __attribute__((always_inline)) void sigma(V v) const { add(p.to_sigma, v); }
  __attribute__((always_inline)) void log_sigma(V v) const { add(p.to_log_sigma, v); }
  __attribute__((always_inline)) void prior_loc(V v) const { add(p.to_prior_loc, v); }
  __attribute__((always_inline)) void prior_log_sigma(V v) const { add(p.to_prior_log_sigma, v); }
};

template <class V>
FR_INLINE V log_q(V eps, V log_sigma) {
  return fma(num<V>(-0.5) * eps, eps, num<V>(-kHalfLogTwoPi) - log_sigma);
}

// sign(x) of magnitude y.
template <class V>
FR_INLINE V with_sign(V y, V x) {
  using Bits = typename Scalar<V>::Bits;
  const Bits sign = (Bits)num<V>(-0.0);
  return (V)(((Bits)y & ~sign) | ((Bits)x & sign));
}

// ---- draws ---------------------------------------------------------------------------------------

template <Draw>
struct DrawFormula;

template <>
struct DrawFormula<Draw::linear> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(fma(in.sigma(), in.eps(), in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V gz = in.grad_z();
    out.sigma(gz * in.eps());
    out.loc(gz);
  }
};

// log p of z, in the prior's units: d = (loc - prior_mean) / prior_std + eps sigma / prior_std. z itself
// may be beyond the dtype where d is not.
template <class V>
struct InPrior {
  Inverse<V> inverse;
  V d, ratio;
};

// Constants: prior_mean, 1 / prior_std, log prior_std.
template <>
struct DrawFormula<Draw::log_prob> {
  template <class V>
  FR_INLINE InPrior<V> in_prior(const Operands<V>& in) {
    const Inverse<V> inverse{in.constant(1), num<V>(1.0)};
    const V ratio = in.over_prior(inverse, in.log_sigma() - in.constant(2));
    return {inverse, fma(ratio, in.eps(), inverse.times(in.loc() - in.constant(0))), ratio};
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps();
    out.z(fma(in.sigma(), eps, in.loc()));
    out.value(0, log_q(eps, in.log_sigma()));
    out.value(1, log_q(in_prior(in).d, in.constant(2)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), gz = in.grad_z();
    const InPrior<V> prior = in_prior(in);
    const V slope = times(in.grad_value(1), prior.d);
    out.loc(gz - prior.inverse.times(slope));
    out.sigma(gz * eps);
    out.log_sigma(-in.grad_value(0) - times(slope, prior.ratio * eps));
  }
};

template <>
struct DrawFormula<Draw::log_prob_prior> {
  template <class V>
  FR_INLINE InPrior<V> in_prior(const Operands<V>& in) {
    const Inverse<V> inverse = in.prior_inverse();
    const V ratio = in.over_prior(inverse, in.log_sigma() - in.prior_log_sigma());
    return {inverse, fma(ratio, in.eps(), inverse.times(in.loc() - in.prior_loc())), ratio};
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps();
    out.z(fma(in.sigma(), eps, in.loc()));
    out.value(0, log_q(eps, in.log_sigma()));
    out.value(1, log_q(in_prior(in).d, in.prior_log_sigma()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), gz = in.grad_z(), gp = in.grad_value(1);
    const InPrior<V> prior = in_prior(in);
    const V root = prior.inverse.first, slope = times(gp, prior.d), to_prior = slope * root * root;
    out.loc(gz - to_prior);
    out.sigma(gz * eps);
    out.log_sigma(-in.grad_value(0) - times(slope, prior.ratio * eps));
    out.prior_loc(to_prior);
    out.prior_log_sigma(times(slope, prior.d) - gp);
  }
};

// Constants: prior_mean; of the wider member 1 / std and log(share / std) - log(2 pi) / 2; ahead and
// fall, as wider_and_narrower of reference/families.py has them.
template <>
struct DrawFormula<Draw::mixture> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc());
    const V d = (z - in.constant(0)) * in.constant(1), square = d * d;
    const V ahead = fma(-in.constant(4), square, in.constant(3)), more = ahead > V{} ? ahead : V{};
    const V log_wide = fma(num<V>(-0.5), square, in.constant(2));
    out.z(z);
    out.value(0, log_q(eps, in.log_sigma()) - (log_wide + (more + log1p_unit(exp(-abs(ahead))))));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc()), one = num<V>(1.0);
    const V d = (z - in.constant(0)) * in.constant(1);
    const V ahead = fma(-in.constant(4), d * d, in.constant(3)), e = exp(-abs(ahead));
    // The slopes d / std of both by their shares; the narrower one's is `steeper` times as large.
    const V steeper = fma(num<V>(2.0), in.constant(4), one);
    const V both = ahead > V{} ? e + steeper : fma(steeper, e, one);
    const V slope = d * in.constant(1) * (both / (one + e));
    const V g = in.grad_value(0), gz = in.grad_z() + times(g, slope);
    out.loc(gz);
    out.sigma(gz * eps);
    out.log_sigma(-g);
  }
};

// With e = exp(-2 |x|); 1 - e would have no digits left near zero. Constants: middle, half, log_p's
// constant, lowest, highest.
template <>
struct DrawFormula<Draw::tanh_normal> {
  // e, 1 - e and 1 / (1 + e).
  template <class V>
  FR_INLINE void parts(V x, V& e, V& rest, V& inverse) {
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    V minus;
    exp_expm1_within(max_keep_nan(-most, num<V>(-2.0) * abs(x)), e, minus);
    rest = -minus;
    inverse = reciprocal(num<V>(1.0) + e);
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V action = fma(in.constant(1), with_sign(rest * inverse, x), in.constant(0));
    out.z(min_keep_nan(in.constant(4), max_keep_nan(in.constant(3), action)));
    const V known = in.constant(2) - in.log_sigma();
    out.value(0, fma(num<V>(-0.5) * eps, eps, fma(num<V>(2.0), abs(x) + log1p_unit(e), known)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V twice_tanh = with_sign((rest + rest) * inverse, x);
    const V slope = num<V>(4.0) * e * (inverse * inverse) * in.constant(1);
    const V g = in.grad_value(0), gx = fma(in.grad_z(), slope, g * twice_tanh);
    out.loc(gx);
    out.sigma(gx * eps);
    out.log_sigma(-g);
  }
};

template <>
struct DrawFormula<Draw::exponent> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(fma(in.sigma(), in.eps(), in.loc())));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), g = times(in.grad_z(), exp(fma(in.sigma(), eps, in.loc())));
    out.loc(g);
    out.sigma(g * eps);
  }
};

// Constant: 1 / tau.
template <bool kHard>
struct Bernoulli {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V total = in.loc() + in.eps(), one = num<V>(1.0);
    V z;
    if constexpr (kHard) {
      z = total > V{} ? one : V{};
      z = total != total ? total : z;
    } else {
      z = one / (one + exp(-(total * in.constant(0))));
    }
    out.z(z);
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V e = exp(-abs((in.loc() + in.eps()) * in.constant(0))), up = num<V>(1.0) + e;
    out.loc(in.grad_z() * (e / (up * up)) * in.constant(0));  // in this order: 0 times infinity is NaN
  }
};
template <>
struct DrawFormula<Draw::relaxed_bernoulli> : Bernoulli<false> {};
template <>
struct DrawFormula<Draw::hard_bernoulli> : Bernoulli<true> {};

// loc is a, sigma is b: z = exp(ln(1 - e^-t) / a) with t = eps / b.
template <>
struct DrawFormula<Draw::kumaraswamy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(log1mexp(in.eps() / in.sigma()) / in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    // Beyond the bounds nothing is left of z's gradient. The concentrations divide last: their
    // reciprocals are infinite where they are subnormal.
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    const V a = in.loc(), b = in.sigma(), t = min_keep_nan(most, in.eps() / b);
    const V log_z = max_keep_nan(-most, log1mexp(t) / a), gz = in.grad_z() * exp(log_z);
    out.loc(-(gz * log_z / a));
    // d ln(1 - e^-t) / dt = 1 / (e^t - 1).
    out.sigma(-(gz * (t / expm1(t)) / a / b));
  }
};

// ---- values of the parameters alone --------------------------------------------------------------

template <Value>
struct ValueFormula;

// Of d, the distance in the prior's units, and of r = sigma / prior sigma and its logarithm:
// 0.5 (d^2 + r^2 - 1) - log r, at least `floor`.
template <class V>
struct Divergence {
  Inverse<V> inverse;
  V d, square, log_ratio;                                   // square = r^2
  __attribute__((always_inline)) V kl() const {
    return fma(num<V>(0.5), fma(d, d, square - num<V>(1.0)), -log_ratio);
  }
  // What a gradient of it is multiplied by: 0 below the floor.
  template <bool kFloor>
  __attribute__((always_inline)) V gradient(V g, V floor) const {
    if constexpr (kFloor) g = kl() < floor ? V{} : g;
    return g;
  }
};
template <class V>
FR_INLINE Divergence<V> divergence(const Operands<V>& in, V distance, const Inverse<V>& inverse,
                                   V log_prior) {
  const V log_ratio = in.log_sigma() - log_prior, r = in.over_prior(inverse, log_ratio);
  return {inverse, inverse.times(distance), r * r, log_ratio};
}
template <class V>
FR_INLINE V floored(V kl, V floor) {
  return kl < floor ? floor : kl;
}

// Constants: prior_mean, 1 / prior_std, log prior_std, floor.
template <>
struct ValueFormula<Value::gaussian> {
  template <class V>
  FR_INLINE Divergence<V> of(const Operands<V>& in) {
    return divergence(in, in.loc() - in.constant(0), {in.constant(1), num<V>(1.0)}, in.constant(2));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.value(0, floored(of(in).kl(), in.constant(3)));
  }
  template <bool kFloor, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Divergence<V> d = of(in);
    const V g = d.template gradient<kFloor>(in.grad_value(0), in.constant(3));
    out.loc(d.inverse.times(times(g, d.d)));
    out.sigma(V{});
    out.log_sigma(times(g, d.square - num<V>(1.0)));
  }
};

// Constant 3: floor.
template <>
struct ValueFormula<Value::gaussian_prior> {
  template <class V>
  FR_INLINE Divergence<V> of(const Operands<V>& in) {
    return divergence(in, in.loc() - in.prior_loc(), in.prior_inverse(), in.prior_log_sigma());
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.value(0, floored(of(in).kl(), in.constant(3)));
  }
  template <bool kFloor, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Divergence<V> d = of(in);
    const V g = d.template gradient<kFloor>(in.grad_value(0), in.constant(3));
    const V slope = times(g, d.d), to_loc = d.inverse.times(slope);
    const V to_log = times(g, d.square - num<V>(1.0));
    out.loc(to_loc);
    out.prior_loc(-to_loc);
    out.sigma(V{});
    out.log_sigma(to_log);
    out.prior_log_sigma(-to_log - times(slope, d.d));
  }
};

// scale e + |loc| - log scale - 1, e = exp(-|loc| / scale).
template <>
struct ValueFormula<Value::laplace> {
  // size / scale, and at most 1e4: its exponential is nothing by then. 0 for a size of 0.
  template <class V>
  FR_INLINE V in_scales(V size, V inverse) {
    constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
    const V most = num<V>(single ? __FLT_MAX__ : __DBL_MAX__);
    return min_keep_nan(num<V>(1e4), size * min_keep_nan(most, inverse));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V size = abs(in.loc()), scale = in.sigma();
    const V e = exp(-in_scales(size, num<V>(1.0) / scale));
    out.value(0, fma(scale, e, size - log(scale) - num<V>(1.0)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), one = num<V>(1.0), inverse = one / in.sigma(), g = in.grad_value(0);
    const V t = in_scales(abs(loc), inverse), e = exp(-t), sign = loc == V{} ? V{} : with_sign(one, loc);
    out.loc(g * sign * (one - e));
    out.sigma(times(g, fma(e, t, e) - inverse));
  }
};

// -log scale where [loc - scale, loc + scale] lies within [-1, 1], else infinite; NaN of NaN.
template <>
struct ValueFormula<Value::uniform> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    out.value(0, end > num<V>(1.0) ? num<V>(__builtin_inf()) : fma(V{}, end, -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    const auto outside = end > num<V>(1.0);
    out.loc(outside ? V{} : V{} * end);
    out.sigma(outside ? V{} : fma(V{}, end, -times(in.grad_value(0), num<V>(1.0) / scale)));
  }
};

// sqrt(x^2 + y^2) of numbers that are not negative, whose squares may overflow.
template <class V>
FR_INLINE V hypotenuse(V x, V y) {
  const V most = max_keep_nan(x, y), share = min_keep_nan(x, y) / most;
  return most * sqrt(fma(share, share, num<V>(1.0)));
}

// log(((1 + scale)^2 + loc^2) / (4 scale)), of the root and of the scale apart: neither overflows.
template <>
struct ValueFormula<Value::cauchy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), root = hypotenuse(scale + num<V>(1.0), abs(in.loc()));
    out.value(0, fma(num<V>(2.0), log(num<V>(0.5) * root), -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), scale = in.sigma(), one = num<V>(1.0), up = scale + one;
    const V g = in.grad_value(0), inverse = one / hypotenuse(up, abs(loc)), twice = (g + g) * inverse;
    out.loc(twice * (loc * inverse));
    out.sigma(fma(twice, up * inverse, -times(g, one / scale)));
  }
};

}  // namespace fr::FR_NS
