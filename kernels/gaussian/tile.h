// The Gaussian latent on one tile: z = loc + sigma * eps with the KL to N(0, 1), and the gradients.
// First the tile's noise goes to a buffer in the nearest cache while the inputs are fetched from
// memory, then one pass over the operands, two registers of elements at a time.
#pragma once

#include "simd/element.h"
#include "simd/scale.h"

namespace fr::FR_NS {

template <class T>
struct alignas(64) Buffer {
  T data[kTile];
};

template <Dtype dtype>
using Memory = typename Element<dtype>::Memory;
template <Dtype dtype>
using Real = typename Element<dtype>::Real;
template <Dtype dtype>
using Vector = typename Element<dtype>::Vector;
// Elements in a step.
template <Dtype dtype>
constexpr int64_t kStep = 2 * (int64_t)sizeof(Vector<dtype>) / (int64_t)sizeof(Real<dtype>);

// One step's noise: given, or from the buffer (which lies in the order of the element type).
template <Dtype dtype>
FR_INLINE void load_noise(const Memory<dtype>* given, const Real<dtype>* made, int64_t i,
                          Vector<dtype> (&eps)[2]) {
  if (given) {
    Element<dtype>::load2(given + i, eps[0], eps[1]);
  } else {
    eps[0] = load<Vector<dtype>>(made + i);
    eps[1] = load<Vector<dtype>>(made + i + kStep<dtype> / 2);
  }
}

// The usual call (noise from the key, everything wanted, nothing bounded) has kernels of its own
// without the tests for all else inside their loops: 2.0 instructions per float32 element after the
// noise become 1.5 forward, 2.9 become 1.5 backward (AVX-512, tests/helpers/stepping.py). So has the summed
// KL alone, of which no noise hides those tests.
enum class Form { usual, kl, any };

FR_INLINE bool unbounded(const Common& c) {
  return c.low == -__builtin_inf() && c.high == __builtin_inf();
}

// x within the bounds; NaN stays NaN.
template <Kind kind, class V>
FR_INLINE V bounded(V x, V low, V high) {
  if constexpr (kind == Kind::logvar || kind == Kind::log_std)
    return min_keep_nan(high, max_keep_nan(low, x));
  return x;
}

// The last, partial step works on copies that are filled up with harmless numbers.
template <class T, int64_t kStep>
struct Padded {
  alignas(64) T data[kStep];
  const T* take(const T* p, int64_t count) {
    if (!p) return nullptr;
    for (int64_t i = 0; i < kStep; ++i) data[i] = i < count ? p[i] : T{};
    return data;
  }
};

template <Dtype dtype, Kind kind>
struct Forward {
  using E = Element<dtype>;
  using M = Memory<dtype>;
  using R = Real<dtype>;
  using V = Vector<dtype>;
  static constexpr int64_t step = kStep<dtype>, kRun = 16 * step;

  // Twice the KL of a step goes to kl[], z through its pointer.
  template <Form form>
  FR_INLINE void one_step(const M* loc, const M* scale, const M* eps, bool given, const R* made,
                          int64_t i, M* z, bool want_kl, V low, V high, V (&kl)[2]) {
    V mu[2], x[2], sigma[2];
    E::load2(loc + i, mu[0], mu[1]);
    E::load2(scale + i, x[0], x[1]);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      if constexpr (form == Form::any) x[j] = bounded<kind>(x[j], low, high);
      if (form != Form::any || want_kl) {
        V rest;
        sigma_and_rest<kind, E::coarse>(x[j], sigma[j], rest);
        kl[j] = fma(mu[j], mu[j], rest);
      } else {
        sigma[j] = sigma_of<kind, E::coarse>(x[j]);
      }
    }
    if (form == Form::usual || (form == Form::any && z)) {
      V noise[2];
      load_noise<dtype>(form == Form::usual ? nullptr : eps, made, i, noise);
      if (form == Form::any && given) {  // PyTorch's bits: the product is rounded too
        const V product[2] = {sigma[0] * noise[0], sigma[1] * noise[1]};
        E::store2(z + i, mu[0] + product[0], mu[1] + product[1]);
      } else {
        E::store2(z + i, fma(sigma[0], noise[0], mu[0]), fma(sigma[1], noise[1], mu[1]));
      }
    }
  }

  static double tile(const ForwardTile& t) {
    const bool sum = t.sum_kl && !t.kl && unbounded(t.in);
    if (sum && !t.z) return run<Form::kl>(t);
    return sum && !t.in.eps ? run<Form::usual>(t) : run<Form::any>(t);
  }

  template <Form form>
  FR_INLINE double run(const ForwardTile& t) {
    Buffer<R> buffer;
    const M *loc = (const M*)t.in.loc, *scale = (const M*)t.in.scale, *eps = (const M*)t.in.eps;
    M* z = form == Form::kl ? nullptr : (M*)t.z;
    R* kl_out = form == Form::any ? (R*)t.kl : nullptr;
    const int64_t count = t.in.count, whole = count - count % step;
    const bool want_kl = t.sum_kl || kl_out;
    const V low = num<V>(t.in.low), high = num<V>(t.in.high);
    if (z && !eps && t.in.large)
      fill_normal<E::order>(t.in.seed, t.in.offset, t.in.first, count, buffer.data,
                            Fetch<3>{{loc, scale, z}, sizeof(M)});
    else if (z && !eps)
      fill_normal<E::order>(t.in.seed, t.in.offset, t.in.first, count, buffer.data);

    V total = V{}, kl[2] = {V{}, V{}};
    for (int64_t i = 0; i < whole;) {
      V part[2] = {V{}, V{}};                               // short runs keep the sum's error small
      const int64_t stop = whole - i < kRun ? whole : i + kRun;
      for (; i < stop; i += step) {
        one_step<form>(loc, scale, eps, t.in.given, buffer.data, i, z, want_kl, low, high, kl);
        part[0] += kl[0];
        part[1] += kl[1];
        if (form == Form::any && kl_out) {
          to_natural<E>(kl[0], kl[1]);
          store(kl_out + i, kl[0]);
          store(kl_out + i + step / 2, kl[1]);
        }
      }
      total += part[0] + part[1];
    }
    double tail = 0;
    if (whole < count) {
      Padded<M, step> loc_pad, scale_pad, eps_pad;
      alignas(64) M z_pad[step];
      alignas(64) R kl_pad[step];
      const int64_t rest = count - whole;
      one_step<form>(loc_pad.take(loc + whole, rest), scale_pad.take(scale + whole, rest),
                     eps_pad.take(eps ? eps + whole : nullptr, rest), t.in.given, buffer.data + whole, 0,
                     z ? z_pad : nullptr, want_kl, low, high, kl);
      if (z) std::memcpy(z + whole, z_pad, (size_t)rest * sizeof(M));
      if (want_kl) {
        to_natural<E>(kl[0], kl[1]);
        store(kl_pad, kl[0]);
        store(kl_pad + step / 2, kl[1]);
        if (kl_out) std::memcpy(kl_out + whole, kl_pad, (size_t)rest * sizeof(R));
        for (int64_t i = 0; i < rest; ++i) tail += (double)kl_pad[i];
      }
    }
    return (double)sum(total) + tail;
  }
};

template <Dtype dtype, Kind kind>
struct Backward {
  using E = Element<dtype>;
  using M = Memory<dtype>;
  using R = Real<dtype>;
  using V = Vector<dtype>;
  static constexpr int64_t step = kStep<dtype>;

  template <Form form>
  FR_INLINE void one_step(const BackwardTile& t, const M* loc, const M* scale, const M* eps,
                          const M* grad_z, const R* made, const R* grad_kl, int64_t i, V low, V high,
                          V one_grad_kl, M* grad_loc, M* grad_scale) {
    constexpr bool any = form == Form::any, kl_alone = form == Form::kl;
    const bool has_z = form == Form::usual || (any && grad_z), has_kl = !any || t.has_grad_kl;
    V mu[2], gz[2] = {V{}, V{}}, gk[2] = {one_grad_kl, one_grad_kl};
    E::load2(loc + i, mu[0], mu[1]);
    if (has_z) E::load2(grad_z + i, gz[0], gz[1]);
    if (any && grad_kl) {
      gk[0] = load<V>(grad_kl + i);
      gk[1] = load<V>(grad_kl + i + step / 2);
      from_natural<E>(gk[0], gk[1]);
    }
    if (!any || grad_loc) {
      if (has_kl)
        E::store2(grad_loc + i, fma(gk[0], mu[0], gz[0]), fma(gk[1], mu[1], gz[1]));
      else
        E::store2(grad_loc + i, gz[0], gz[1]);
    }
    if (!any || grad_scale) {
      V x[2], noise[2] = {V{}, V{}}, g[2];
      E::load2(scale + i, x[0], x[1]);
      if (has_z) load_noise<dtype>(any ? eps : nullptr, made, i, noise);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const V inside = any ? bounded<kind>(x[j], low, high) : x[j];
        // One gradient for all is not 0; only a softplus's slope may meet a product that is.
        constexpr bool may_be_zero = any || (kl_alone && kind == Kind::rho);
        g[j] = scale_gradient<kind, E::coarse, may_be_zero>(inside, has_z, gz[j] * noise[j], has_kl, gk[j]);
        if constexpr (any && (kind == Kind::logvar || kind == Kind::log_std)) {
          g[j] = x[j] < low ? V{} : g[j];
          g[j] = x[j] > high ? V{} : g[j];
        }
      }
      E::store2(grad_scale + i, g[0], g[1]);
    }
  }

  static void tile(const BackwardTile& t) {
    const bool all = t.grad_loc && t.grad_scale && t.has_grad_kl && !t.grad_kl && unbounded(t.in);
    if (all && !t.grad_z) return run<Form::kl>(t);
    all && !t.in.eps ? run<Form::usual>(t) : run<Form::any>(t);
  }

  template <Form form>
  FR_INLINE void run(const BackwardTile& t) {
    Buffer<R> buffer;
    const M *loc = (const M*)t.in.loc, *scale = (const M*)t.in.scale, *eps = (const M*)t.in.eps;
    const M* grad_z = (const M*)t.grad_z;
    const R* grad_kl = (const R*)t.grad_kl;
    M *grad_loc = (M*)t.grad_loc, *grad_scale = (M*)t.grad_scale;
    const int64_t count = t.in.count, whole = count - count % step;
    const V low = num<V>(t.in.low), high = num<V>(t.in.high), one_grad_kl = num<V>(t.one_grad_kl);
    const bool make = form != Form::kl && grad_z && grad_scale && !eps;
    if (make && t.in.large)  // to fetch at null does nothing
      fill_normal<E::order>(t.in.seed, t.in.offset, t.in.first, count, buffer.data,
                            Fetch<5>{{loc, scale, grad_z, grad_loc, grad_scale}, sizeof(M)});
    else if (make)
      fill_normal<E::order>(t.in.seed, t.in.offset, t.in.first, count, buffer.data);

    for (int64_t i = 0; i < whole; i += step)
      one_step<form>(t, loc, scale, eps, grad_z, buffer.data, grad_kl, i, low, high, one_grad_kl,
                     grad_loc, grad_scale);
    if (whole < count) {
      Padded<M, step> loc_pad, scale_pad, eps_pad, grad_pad;
      Padded<R, step> grad_kl_pad;
      alignas(64) M out[2][step];
      const int64_t rest = count - whole;
      one_step<form>(t, loc_pad.take(loc + whole, rest), scale_pad.take(scale + whole, rest),
                     eps_pad.take(eps ? eps + whole : nullptr, rest),
                     grad_pad.take(grad_z ? grad_z + whole : nullptr, rest), buffer.data + whole,
                     grad_kl_pad.take(grad_kl ? grad_kl + whole : nullptr, rest), 0, low, high,
                     one_grad_kl, grad_loc ? out[0] : nullptr, grad_scale ? out[1] : nullptr);
      if (grad_loc) std::memcpy(grad_loc + whole, out[0], (size_t)rest * sizeof(M));
      if (grad_scale) std::memcpy(grad_scale + whole, out[1], (size_t)rest * sizeof(M));
    }
  }
};

}  // namespace fr::FR_NS
