// The noise stream as a tensor, on the CPU: fused_reparam/ops/noise.py in C++.
#pragma once

#include <unordered_map>

#include "torch/layout.h"

namespace fr::ops {

using NoiseEntry = int (*)(const uint64_t*, int64_t base, double number, int64_t dtype, int64_t n, void*);

struct Noise {
  inline static NoiseEntry entry = nullptr;
  inline static std::unordered_map<std::string, int64_t> bases;  // by name
};

// key, shape, order, dtype, and of base_noise the base's name and number. False where Python has to do it.
inline bool noise_here(torch::jit::Stack* stack, bool any_base) {
  const size_t count = any_base ? 6 : 4;
  const IValue* args = stack->data() + (stack->size() - count);
  Tensor key;
  if (!undisturbed() || !args[0].isTensor() || !read(args[0], key) || !is_key(key) || !args[3].isInt())
    return false;
  int64_t base = 0;
  double number = 0;
  if (any_base) {
    const auto found = Noise::bases.find(args[4].toStringRef());
    if (found == Noise::bases.end()) return false;
    base = found->second;
    number = args[5].toDouble();
    if (args[4].toStringRef() == "student_t" && !(number > 0)) return false;
  }
  Dims shape, order;
  int64_t n = 1;
  for (const IValue& size : args[1].toListRef()) {
    if (!size.isInt()) return false;
    shape.push_back(size.toInt());
    if (shape.back() < 1 || __builtin_mul_overflow(n, shape.back(), &n)) return false;
  }
  for (const IValue& d : args[2].toListRef()) order.push_back(d.toInt());
  const auto dtype = args[3].toScalarType();
  if (n > most_elements || !is_permutation(order, static_cast<int64_t>(shape.size())) ||
      (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kHalf && dtype != at::kBFloat16))
    return false;
  {
    pybind11::gil_scoped_acquire ours;
    if (!is_backend()) return false;
  }
  Tensor out = empty_ordered(shape, order, key.options().dtype(dtype));
  int failed;
  const auto* bits = static_cast<const uint64_t*>(key.data_ptr());
  failed = Noise::entry(bits, base, number, dtype_code(out), n, out.data_ptr());
  TORCH_CHECK(!failed, "the native library failed");
  torch::jit::drop(*stack, count);
  stack->emplace_back(std::move(out));
  return true;
}

}  // namespace fr::ops
