// The native backend's operators, on the LibTorch stable ABI: fused_reparam_native::normal,
// gaussian_forward and gaussian_backward. What they compute and what they are promised (layouts,
// dtypes, sizes) is written in fused_reparam/backends/reference.py.
//
// The same calls can be made without PyTorch's dispatcher through the plain C functions at the end,
// for operands that are dense: the Python side uses those where the cost of a call matters.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <optional>

#include "cpu.h"
#include "gaussian_driver.h"
#include "pages.h"

namespace fr {
namespace {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Work below this many tiles is not worth waking another thread.
constexpr int64_t kGrain = 8;

template <class F>
void for_tiles(int64_t tiles, const F& f) {
  if (tiles <= kGrain) {
    for (int64_t t = 0; t < tiles; ++t) f(t);
    return;
  }
  torch::stable::parallel_for(0, tiles, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t);
  });
}

void run_normal(Dtype dtype, const uint64_t* key, int64_t n, void* out) {
  const Kernels& kernels = current_kernels();
  prefer_huge_pages(out, n * kItemSize[static_cast<int>(dtype)]);
  for_tiles((n + kTile - 1) / kTile, [&](int64_t t) {
    const int64_t first = t * kTile, count = n - first < kTile ? n - first : kTile;
    char* p = static_cast<char*>(out) + first * kItemSize[static_cast<int>(dtype)];
    kernels.normal(dtype, key[0], key[1], first, count, p);
  });
}

void run_forward(const GaussianForward& c) {
  const Kernels& kernels = current_kernels();
  const int64_t tiles = c.tiles();
  if (c.z.linear) prefer_huge_pages(c.z.data, c.n * c.item());
  PartialSums partial(c.kl && c.segments != c.n ? tiles : 0);
  for_tiles(tiles, [&](int64_t t) { forward_tile(kernels, c, t, partial); });
  if (c.kl && c.segments != c.n)
    join_partial_sums({c.n, c.n / c.segments}, tiles, partial,
                      [&](int64_t segment, double total) { put_kl(c, segment, total); });
}

void run_backward(const GaussianBackward& c) {
  const Kernels& kernels = current_kernels();
  if (c.grad_loc.linear) prefer_huge_pages(c.grad_loc.data, c.n * c.item());
  if (c.grad_scale.linear) prefer_huge_pages(c.grad_scale.data, c.n * c.item());
  for_tiles(c.tiles(), [&](int64_t t) { backward_tile(kernels, c, t); });
}

Dtype dtype_of(const Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::Double: return Dtype::f64;
    default: STD_TORCH_CHECK(false, "expected float32, bfloat16, float16 or float64"); __builtin_unreachable();
  }
}

Operand operand(const MaybeTensor& t, bool dense) {
  Operand op;
  if (!t) return op;
  op.data = t->data_ptr();
  if (!dense && t->dim() == 2) {
    op.row_stride = t->stride(0);
    op.column_stride = t->stride(1);
    op.linear = op.column_stride == 1 && op.row_stride == t->size(1);
  }
  return op;
}

void set_key(GaussianCall& c, const uint64_t* key) {
  if (!key) return;
  c.seed = key[0];
  c.offset = key[1];
}
const uint64_t* key_of(const MaybeTensor& key) {
  return key ? static_cast<const uint64_t*>(key->data_ptr()) : nullptr;
}

void set_call(GaussianCall& c, const Tensor& loc, const Tensor& scale, const MaybeTensor& key,
              const MaybeTensor& eps, int64_t kind, bool dense) {
  STD_TORCH_CHECK(kind >= 0 && kind < kKinds, "unknown kind of scale: ", kind);
  c.dtype = dtype_of(loc);
  c.kind = static_cast<Kind>(kind);
  c.n = loc.numel();
  c.columns = dense ? c.n : loc.size(1);
  c.loc = operand(loc, dense);
  c.scale = operand(scale, dense);
  c.eps = operand(eps, dense);
  set_key(c, key_of(key));
}

void normal(Tensor key, Tensor out) {
  run_normal(dtype_of(out), key_of(key), out.numel(), out.data_ptr());
}

void gaussian_forward(Tensor loc, Tensor scale, MaybeTensor key, MaybeTensor eps, int64_t kind,
                      double low, double high, double weight, bool dense, MaybeTensor z,
                      MaybeTensor kl) {
  GaussianForward c{};
  set_call(c, loc, scale, key, eps, kind, dense);
  c.low = low;
  c.high = high;
  c.weight = weight;
  c.z = operand(z, dense);
  c.kl = kl ? kl->data_ptr() : nullptr;
  c.segments = kl ? kl->numel() : 1;
  run_forward(c);
}

void gaussian_backward(MaybeTensor grad_z, MaybeTensor grad_kl, Tensor loc, Tensor scale,
                       MaybeTensor key, MaybeTensor eps, int64_t kind, double low, double high,
                       double weight, bool dense, MaybeTensor grad_loc, MaybeTensor grad_scale) {
  GaussianBackward c{};
  set_call(c, loc, scale, key, eps, kind, dense);
  c.low = low;
  c.high = high;
  c.weight = weight;
  c.segments = grad_kl ? grad_kl->numel() : 1;
  c.grad_z = operand(grad_z, dense);
  c.grad_kl = operand(grad_kl, dense);
  c.grad_loc = operand(grad_loc, dense);
  c.grad_scale = operand(grad_scale, dense);
  run_backward(c);
}

}  // namespace

STABLE_TORCH_LIBRARY(fused_reparam_native, m) {
  m.def("normal(Tensor key, Tensor(a!) out) -> ()");
  m.def(
      "gaussian_forward(Tensor loc, Tensor scale, Tensor? key, Tensor? eps, int kind, float low, "
      "float high, float weight, bool dense, Tensor(a!)? z, Tensor(b!)? kl) -> ()");
  m.def(
      "gaussian_backward(Tensor? grad_z, Tensor? grad_kl, Tensor loc, Tensor scale, Tensor? key, "
      "Tensor? eps, int kind, float low, float high, float weight, bool dense, "
      "Tensor(a!)? grad_loc, Tensor(b!)? grad_scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fused_reparam_native, CPU, m) {
  m.impl("normal", TORCH_BOX(&normal));
  m.impl("gaussian_forward", TORCH_BOX(&gaussian_forward));
  m.impl("gaussian_backward", TORCH_BOX(&gaussian_backward));
}

}  // namespace fr

// ---- plain C -------------------------------------------------------------------------------------

// A call on dense operands, packed by fused_reparam/backends/native.py: only 8-byte fields.
struct fused_reparam_call {
  void *loc, *scale;
  const uint64_t* key;
  void *eps, *z_or_grad_z, *kl_or_grad_kl, *grad_loc, *grad_scale;
  int64_t n, segments, dtype, kind;
  double low, high, weight;
};

namespace {

void unpack(const fused_reparam_call& p, fr::GaussianCall& c) {
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.kind = static_cast<fr::Kind>(p.kind);
  c.n = c.columns = p.n;
  c.loc.data = p.loc;
  c.scale.data = p.scale;
  c.eps.data = p.eps;
  fr::set_key(c, p.key);
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
  c.z.data = p->z_or_grad_z;
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
  c.grad_z.data = p->z_or_grad_z;
  c.grad_kl.data = p->kl_or_grad_kl;
  c.grad_loc.data = p->grad_loc;
  c.grad_scale.data = p->grad_scale;
  try {
    fr::run_backward(c);
  } catch (...) {
    return 1;
  }
  return 0;
}

}  // extern "C"
