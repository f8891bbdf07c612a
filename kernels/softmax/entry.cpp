// The entry points of the Gumbel-softmax, plain C functions as in common/normal.cpp; sizes and layouts are
// promised in fused_reparam/backends/reference/softmax.py.
#include <limits>
#include <utility>

#include "common/c_api.h"
#include "common/isa.h"
#include "common/huge_pages.h"
#include "common/parallel.h"
#include "softmax/driver.h"

namespace fr {
namespace {

template <class F>
void for_units(const SoftmaxCall& c, const F& run) {
  constexpr int64_t kElements = 16384;                      // not worth waking another thread
  const Cut cut(c.outer, c.classes, c.inner, c.turned, c.dtype);
  const int64_t grain = kElements / cut.unit_elements();
  for_ranges(cut.units(), grain > 0 ? grain : 1, [&](int64_t begin, int64_t end) {
    SoftmaxPanels panels(FR_CURRENT(elementwise_kernels), FR_CURRENT(softmax_kernels), c, cut);
    for (int64_t unit = begin; unit < end; ++unit) run(panels, unit);
  });
}

}  // namespace
}  // namespace fr

namespace {

int run(const fused_reparam_softmax& p, bool forward) {
  if (p.classes > std::numeric_limits<int32_t>::max()) return 1;  // steps are counted in 32 bits
  fr::SoftmaxCall c{};
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.mode = static_cast<fr::Mode>(p.mode);
  c.outer = p.outer;
  c.classes = p.classes;
  c.inner = p.inner;
  c.turned = c.inner == 1 && c.classes <= fr::Cut::kTurned;
  if (c.turned) std::swap(c.outer, c.inner);
  c.number = c.mode == fr::Mode::one_hot ? p.unimix : p.tau;
  c.mixes = c.mode == fr::Mode::one_hot && (p.control || p.unimix > 0);
  if (p.controls == 1)
    c.number = c.dtype == fr::Dtype::f64 ? *static_cast<const double*>(p.control) : *static_cast<const float*>(p.control);
  else
    c.each = p.control;
  const auto strided = [&](void* data, int64_t outer, int64_t cls, int64_t inner) {
    return c.turned ? fr::Strided{data, inner, cls, outer} : fr::Strided{data, outer, cls, inner};
  };
  const auto dense = [&](void* data) { return strided(data, p.classes * p.inner, p.inner, 1); };
  const auto& of_logits = p.logits_strides;
  const bool repeats = p.logits_outer < p.outer, one = p.logits_outer == 1;
  c.logits = strided(p.logits, one ? 0 : of_logits.outer, of_logits.cls, of_logits.inner);
  c.logits.repeats = repeats && !one ? p.logits_outer : 0;
  c.soft = dense(p.soft);
  const int64_t bytes = p.outer * p.classes * p.inner * fr::kItemSize[p.dtype];
  if (forward) {
    c.noise = dense(p.noise);
    c.y = dense(p.y_or_grad_y);
    c.kl = p.kl_or_grad_kl;
    if (p.key) {
      c.seed = p.key[0];
      c.offset = p.key[1];
    }
    fr::prefer_huge_pages(p.y_or_grad_y, bytes);
    fr::prefer_huge_pages(p.soft, bytes);
    fr::for_units(c, [](fr::SoftmaxPanels& panels, int64_t unit) { panels.forward(unit); });
  } else {
    const auto& of_grad = p.grad_strides;
    c.grad_y = strided(p.y_or_grad_y, of_grad.outer, of_grad.cls, of_grad.inner);
    c.grad_kl = p.kl_or_grad_kl;
    c.grad_logits = dense(p.grad_logits);
    fr::prefer_huge_pages(p.grad_logits, bytes);
    fr::for_units(c, [](fr::SoftmaxPanels& panels, int64_t unit) { panels.backward(unit); });
  }
  return 0;
}

int guarded(const fused_reparam_softmax* p, bool forward) {
  try {
    return run(*p, forward);
  } catch (...) {
    return 1;
  }
}

}  // namespace

#define FR_API __attribute__((visibility("default")))

extern "C" {

// 0 is success.
FR_API int fused_reparam_softmax_forward(const fused_reparam_softmax* p) { return guarded(p, true); }
FR_API int fused_reparam_softmax_backward(const fused_reparam_softmax* p) { return guarded(p, false); }

}  // extern "C"
