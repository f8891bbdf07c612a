// The noise stream as the operator fused_reparam_native::normal, on the LibTorch stable ABI, and the
// choice of the instruction set.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>

#include "common/isa.h"
#include "common/interface.h"
#include "common/huge_pages.h"
#include "common/parallel.h"

namespace fr {
namespace {

using torch::stable::Tensor;

void run_normal(Dtype dtype, const uint64_t* key, int64_t n, void* out) {
  const Kernels& kernels = FR_CURRENT(kernels);
  prefer_huge_pages(out, n * kItemSize[static_cast<int>(dtype)]);
  for_tiles((n + kTile - 1) / kTile, kTileGrain, [&](int64_t t) {
    const int64_t first = t * kTile, count = n - first < kTile ? n - first : kTile;
    char* p = static_cast<char*>(out) + first * kItemSize[static_cast<int>(dtype)];
    kernels.normal(dtype, key[0], key[1], first, count, p);
  });
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

#define FR_API __attribute__((visibility("default")))

extern "C" {

FR_API int fused_reparam_isa() { return fr::isa(); }
FR_API int fused_reparam_set_isa(int level) { return fr::set_isa(level); }

}  // extern "C"
