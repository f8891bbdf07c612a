// The divergence of a Bernoulli distribution, its log-likelihood, and the log-density of its relaxed samples.
#pragma once

#include <limits>

#include "elementwise/formula.h"

namespace fr::FR_NS {

// Of families that have no sample here: z is the first parameter.
template <>
struct TransformFormula<Transform::unsampled> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(in.p0());
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    out.p0(in.grad_z());
  }
};

// e^x of x <= 0.
template <class V>
FR_INLINE V exp_of_negative(V x) {
  return exp_within(max_keep_nan(num<V>(sizeof(typename Scalar<V>::type) == 4 ? -128.0 : -1100.0), x));
}

// sigmoid(a) (a - b) + log(1 + e^b) - log(1 + e^a) of the side with a <= 0.
template <>
struct TermFormula<Term::bernoulli> {
  template <class V>
  FR_INLINE void sides(const Operands<V>& in, V& a, V& b) {
    const auto upper = in.p0() > V{};
    a = upper ? -in.p0() : in.p0();
    b = upper ? -in.p1() : in.p1();
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    V a, b;
    sides(in, a, b);
    const V ea = exp_of_negative(a), eb = exp_of_negative(-abs(b));
    const V rest = max_keep_nan(V{}, b) + log1p_unit(eb) - log1p_unit(ea);
    // To what is certain of the other side it is infinite by the rest alone.
    const V apart = b >= num<V>(std::numeric_limits<double>::infinity()) ? V{} : a - b;
    out.term(0, times(ea * reciprocal(num<V>(1.0) + ea), apart) + rest);
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    V a, b;
    sides(in, a, b);
    const V one = num<V>(1.0), ea = exp_of_negative(a), eb = exp_of_negative(-abs(b));
    const V rest = reciprocal(one + ea), share = ea * rest, other = reciprocal(one + eb);
    const V g = in.p0() > V{} ? -in.grad_term(0) : in.grad_term(0);
    out.p0(times(g * rest, times(share, a - b)));
    out.p1(g * ((b < V{} ? eb * other : other) - share));
  }
};

// A value in [0, 1], p0, beside logits, p1: how far it is from the end that they are for.
template <class V>
FR_INLINE V missed_of(V x, V logits) {
  return logits > V{} ? num<V>(1.0) - x : x;
}

// e^-|x|, for what is added to numbers about 1: of a float x in AVX-512 to within 3e-7 + 6e-8 |x| of itself.
template <class V>
FR_INLINE V exp_of_size(V x) {
  if constexpr (FR_ISA == 2 && sizeof(typename Scalar<V>::type) == 4)
    return exp_coarse<1>(-abs(x));
  else
    return exp_of_negative(-abs(x));
}

// -missed |logits| - log(1 + e^-|logits|).
template <>
struct TermFormula<Term::bernoulli_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V size = abs(in.p1()), missed = missed_of(in.p0(), in.p1());
    const V weight = missed == V{} ? V{} : missed * size;   // of infinite logits too
    out.term(0, -(weight + log1p_unit(exp_of_size(in.p1()))));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V logits = in.p1(), g = in.grad_term(0), e = exp_of_size(logits);
    const V apart = fma(e, reciprocal(num<V>(1.0) + e), -missed_of(in.p0(), logits));
    out.p0(times(g, logits));
    out.p1(g * (logits > V{} ? apart : -apart));
  }
};

// Constants: least, most, which hold the point.
template <>
struct TermFormula<Term::relaxed_bernoulli_density> {
  template <class V>
  FR_INLINE V held(const Operands<V>& in) {
    return min_keep_nan(in.constant(1), max_keep_nan(in.constant(0), in.p2()));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V y = held(in), tau = in.p1();
    const V log_y = log_positive(y), log_rest = log_positive(num<V>(1.0) - y);
    const V size = abs(fma(-tau, log_y - log_rest, in.p0()));
    const V both = fma(num<V>(2.0), log1p_unit(exp_of_negative(-size)), size);
    out.term(0, log(tau) - both - (log_y + log_rest));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V y = held(in), tau = in.p1(), one = num<V>(1.0), rest = one - y, g = in.grad_term(0);
    const V logit = log_positive(y) - log_positive(rest), d = fma(-tau, logit, in.p0());
    const V e = exp_of_negative(-abs(d)), half = with_sign((one - e) * reciprocal(one + e), d);
    const V to_d = -(g * half), of_y = one / y, of_rest = one / rest;
    out.p0(to_d);
    out.p1(fma(-to_d, logit, g / tau));
    const V to_y = fma(-(to_d * tau), of_y + of_rest, g * (of_rest - of_y));
    out.p2((in.p2() < in.constant(0)) | (in.p2() > in.constant(1)) ? V{} : to_y);
  }
};

}  // namespace fr::FR_NS
