// The Gaussian latent of one instruction set, and the noise stream alone. Included by avx512.cpp, avx2.cpp and
// portable.cpp of this folder, which set FR_ISA and are compiled with the flags for it.
#include "gaussian/tile.h"

namespace fr::FR_NS {

template <Dtype dtype>
static void normal_tile(uint64_t seed, uint64_t offset, int64_t first, int64_t count, void* out) {
  using E = Element<dtype>;
  constexpr int64_t step = kStep<dtype>;
  Buffer<Real<dtype>> buffer;
  fill_normal<E::order>(seed, offset, first, count, buffer.data);
  auto* p = (Memory<dtype>*)out;
  const int64_t whole = count - count % step;
  Vector<dtype> eps[2];
  for (int64_t i = 0; i < whole; i += step) {
    load_noise<dtype>(nullptr, buffer.data, i, eps);
    E::store2(p + i, eps[0], eps[1]);
  }
  if (whole < count) {
    Memory<dtype> last[step];
    load_noise<dtype>(nullptr, buffer.data, whole, eps);
    E::store2(last, eps[0], eps[1]);
    std::memcpy(p + whole, last, (size_t)(count - whole) * sizeof *p);
  }
}

static void normal(Dtype dtype, uint64_t seed, uint64_t offset, int64_t first, int64_t count,
                   void* out) {
  switch (dtype) {
    case Dtype::f32: return normal_tile<Dtype::f32>(seed, offset, first, count, out);
    case Dtype::bf16: return normal_tile<Dtype::bf16>(seed, offset, first, count, out);
    case Dtype::f16: return normal_tile<Dtype::f16>(seed, offset, first, count, out);
    case Dtype::f64: return normal_tile<Dtype::f64>(seed, offset, first, count, out);
  }
}

template <class V, class T>
static double sum_of(const T* x, int64_t count) {
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    V part{};
    const int64_t stop = count - i < 16 * lanes ? count : i + 16 * lanes;
    for (; i + lanes <= stop; i += lanes) part += load<V>(x + i);
    total += (double)sum(part);
  }
  for (; i < count; ++i) total += (double)x[i];
  return total;
}
static double sum_numbers(Dtype dtype, const void* x, int64_t count) {
  return dtype == Dtype::f64 ? sum_of<f64>((const double*)x, count)
                             : sum_of<f32>((const float*)x, count);
}

#define FR_KINDS(op, d)                                                                      \
  {                                                                                          \
    op<d, Kind::logvar>::tile, op<d, Kind::log_std>::tile, op<d, Kind::std>::tile,           \
        op<d, Kind::var>::tile, op<d, Kind::rho>::tile                                       \
  }
#define FR_DTYPES(op)                                                                        \
  {                                                                                          \
    FR_KINDS(op, Dtype::f32), FR_KINDS(op, Dtype::bf16), FR_KINDS(op, Dtype::f16),           \
        FR_KINDS(op, Dtype::f64)                                                             \
  }

const Kernels& kernels() {
  static constexpr Kernels table = {normal, FR_DTYPES(Forward), FR_DTYPES(Backward), sum_numbers};
  return table;
}

}  // namespace fr::FR_NS
