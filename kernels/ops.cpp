// The native backend's entry points, on the LibTorch stable ABI: the operator
// fused_reparam_native::normal, and gaussian_forward and gaussian_backward as plain C functions,
// since on small latents the cost of a call is all there is and PyTorch's dispatcher takes four
// times as long. What they compute and what they are promised (layouts, dtypes, sizes) is written
// in fused_reparam/backends/reference/.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>

#include "calls.h"
#include "cpu.h"
#include "gaussian_driver.h"
#include "pages.h"
#include "parallel.h"

namespace fr {
namespace {

using torch::stable::Tensor;

// Work below this many tiles is not worth waking another thread.
constexpr int64_t kGrain = 8;

void run_normal(Dtype dtype, const uint64_t* key, int64_t n, void* out) {
  const Kernels& kernels = FR_CURRENT(kernels);
  prefer_huge_pages(out, n * kItemSize[static_cast<int>(dtype)]);
  for_tiles((n + kTile - 1) / kTile, kGrain, [&](int64_t t) {
    const int64_t first = t * kTile, count = n - first < kTile ? n - first : kTile;
    char* p = static_cast<char*>(out) + first * kItemSize[static_cast<int>(dtype)];
    kernels.normal(dtype, key[0], key[1], first, count, p);
  });
}

void run_forward(const GaussianForward& c) {
  const Kernels& kernels = FR_CURRENT(kernels);
  const int64_t tiles = c.tiles();
  if (c.z.linear) prefer_huge_pages(c.z.data, c.n * c.item());
  PartialSums partial(c.kl && c.segments != c.n ? tiles : 0);
  for_tiles(tiles, kGrain, [&](int64_t t) { forward_tile(kernels, c, t, partial); });
  if (c.kl && c.segments != c.n)
    join_partial_sums({c.n, c.n / c.segments}, tiles, partial.pairs,
                      [&](int64_t segment, double total) { put_kl(c, segment, total); });
}

void run_backward(const GaussianBackward& c) {
  const Kernels& kernels = FR_CURRENT(kernels);
  if (c.grad_loc.linear) prefer_huge_pages(c.grad_loc.data, c.n * c.item());
  if (c.grad_scale.linear) prefer_huge_pages(c.grad_scale.data, c.n * c.item());
  for_tiles(c.tiles(), kGrain, [&](int64_t t) { backward_tile(kernels, c, t); });
}

Dtype dtype_of(const Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::Double: return Dtype::f64;
    default: STD_TORCH_CHECK(false, "fused_reparam_native::normal: out must be float32, bfloat16, float16 or float64"); __builtin_unreachable();
  }
}

bool held(const Tensor& t) {
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &bytes));
  const int64_t size = static_cast<int64_t>(t.element_size());
  return t.numel() == 0 || (t.storage_offset() + t.numel()) * size <= bytes;
}

void normal(Tensor key, Tensor out) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(key.defined() && key.is_cpu() && key.dim() == 1 && key.numel() == 2 && key.is_contiguous() &&
                      (key.scalar_type() == ScalarType::UInt64 || key.scalar_type() == ScalarType::Long) &&
                      held(key),
                  "fused_reparam_native::normal: key must be a contiguous uint64 or int64 tensor of "
                  "shape (2,) on the CPU");
  STD_TORCH_CHECK(out.defined() && out.is_cpu() && out.is_contiguous() && held(out),
                  "fused_reparam_native::normal: out must be a contiguous tensor on the CPU whose "
                  "storage holds all its elements");
  const Dtype dtype = dtype_of(out);
  // A copy: out may lie where the key does.
  const auto* given = static_cast<const uint64_t*>(key.data_ptr());
  const uint64_t copy[2] = {given[0], given[1]};
  run_normal(dtype, copy, out.numel(), out.data_ptr());
}

}  // namespace

STABLE_TORCH_LIBRARY(fused_reparam_native, m) {
  m.def("normal(Tensor key, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fused_reparam_native, CPU, m) {
  m.impl("normal", TORCH_BOX(&normal));
}

}  // namespace fr

// ---- plain C -------------------------------------------------------------------------------------

namespace {

fr::Operand operand(const fused_reparam_call& p, void* data, const fused_reparam_strides& strides) {
  fr::Operand op;
  op.data = data;
  if (p.columns > 0) {
    op.row_stride = strides.row;
    op.column_stride = strides.column;
    op.linear = op.column_stride == 1 && op.row_stride == p.columns;
  }
  return op;
}

void unpack(const fused_reparam_call& p, fr::GaussianCall& c) {
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.kind = static_cast<fr::Kind>(p.kind);
  c.n = p.n;
  c.columns = p.columns > 0 ? p.columns : p.n;
  c.loc = operand(p, p.loc, p.loc_strides);
  c.scale = operand(p, p.scale, p.scale_strides);
  c.eps = operand(p, p.eps, p.eps_strides);
  if (p.key) {
    c.seed = p.key[0];
    c.offset = p.key[1];
  }
  c.low = p.low;
  c.high = p.high;
  c.weight = p.weight;
  c.segments = p.segments;
}

}  // namespace

#define FR_API __attribute__((visibility("default")))

extern "C" {

FR_API int fused_reparam_isa() { return fr::isa(); }
FR_API int fused_reparam_set_isa(int level) { return fr::set_isa(level); }

// 0 is success.
FR_API int fused_reparam_gaussian_forward(const fused_reparam_call* p) {
  fr::GaussianForward c{};
  unpack(*p, c);
  c.z.data = p->z_or_grad_z;  // always dense
  c.kl = p->kl_or_grad_kl;
  try {
    fr::run_forward(c);
  } catch (...) {
    return 1;
  }
  return 0;
}

FR_API int fused_reparam_gaussian_backward(const fused_reparam_call* p) {
  fr::GaussianBackward c{};
  unpack(*p, c);
  c.grad_z = operand(*p, p->z_or_grad_z, p->z_strides);
  c.grad_kl = operand(*p, p->kl_or_grad_kl, p->kl_strides);
  c.grad_loc = operand(*p, p->grad_loc, p->grad_loc_strides);
  c.grad_scale = operand(*p, p->grad_scale, p->grad_scale_strides);
  try {
    fr::run_backward(c);
  } catch (...) {
    return 1;
  }
  return 0;
}

}  // extern "C"
