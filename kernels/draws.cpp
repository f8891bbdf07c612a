// The entry points of the element-wise draws, plain C functions as in ops.cpp; their sizes and layouts
// are promised in fused_reparam/backends/reference/draws.py.
#include "draw_driver.h"

#include "calls.h"
#include "cpu.h"
#include "pages.h"
#include "parallel.h"

namespace fr {
namespace {

// Elements below which another thread is not worth waking.
int64_t grain_of(const DrawCall& c) {
  constexpr int64_t kElements = 16384;
  const int64_t grain = kElements / c.tile_size() / c.samples;
  return grain > 0 ? grain : 1;
}

void run_forward(const DrawCall& c) {
  const Kernels& common = FR_CURRENT(kernels);
  const DrawKernels& kernels = FR_CURRENT(draw_kernels);
  const int64_t tiles = c.tiles();
  if (c.z.data) prefer_huge_pages(c.z.data, c.samples * c.n * c.item());
  const bool sums = c.segments && c.sums().length > 1;
  const PartialSums partial(sums ? c.traits().values * c.runs() * tiles : 0);
  for_tiles(tiles, grain_of(c), [&](int64_t t) { forward_tile(common, kernels, c, t, partial); });
  for (int value = 0; sums && value < c.traits().values; ++value)
    for (int64_t run = 0; run < c.runs(); ++run)
      join_partial_sums(c.sums(), tiles, pairs_of(c, partial, value, run),
                        [&](int64_t s, double sum) { put_value(c, value, run, s, sum); });
}

void run_backward(const DrawCall& c) {
  const DrawKernels& kernels = FR_CURRENT(draw_kernels);
  for (const Operand& grad : c.grads)
    if (grad.data && grad.linear) prefer_huge_pages(grad.data, c.n * c.item());
  for_tiles(c.tiles(), grain_of(c), [&](int64_t t) { backward_tile(kernels, c, t); });
}

// Base noise is what a draw's tiles take.
void run_noise(Base base, const DrawCall& c) {
  const DrawKernels& kernels = FR_CURRENT(draw_kernels);
  prefer_huge_pages(c.z.data, c.n * c.item());
  for_tiles(c.tiles(), grain_of(c), [&](int64_t tile) {
    DrawTile t(kernels, c, tile);
    alignas(64) unsigned char buffer[kNoiseBytes];
    t.written(c.z, kernels.noise(c.wide(), base, c.number, c.seed, c.offset, t.begin(), t.count(),
                                 buffer, {}));
  });
}

}  // namespace
}  // namespace fr

namespace {

fr::Operand operand(const fused_reparam_draw& p, void* data, const fused_reparam_strides* strides) {
  fr::Operand op;
  op.data = data;
  if (p.columns > 0) {
    op.row_stride = strides->row;
    op.column_stride = strides->column;
    op.linear = op.column_stride == 1 && op.row_stride == p.columns;
  }
  return op;
}

fr::DrawCall unpack(const fused_reparam_draw& p) {
  fr::DrawCall c{};
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.family = static_cast<fr::Family>(p.family);
  const bool scaled = c.traits().scaled;
  c.kind = static_cast<fr::Kind>(scaled ? p.kind : 0);
  c.prior_kind = static_cast<fr::Kind>(p.prior_kind);
  c.hard = c.family == fr::Family::relaxed_bernoulli && p.kind == 1;
  c.n = p.n;
  c.samples = p.samples;
  c.columns = p.columns > 0 ? p.columns : p.n;
  c.segments = p.segments;
  for (int j = 0; j < 4; ++j) c.params[j] = operand(p, p.params[j], &p.param_strides[j]);
  // Of several samples, noise and samples are consecutive whatever the parameters are.
  c.eps.data = p.eps;
  if (p.samples == 1) c.eps = operand(p, p.eps, &p.eps_strides);
  c.z.data = p.z_or_grad_z;
  for (int j = 0; j < 2; ++j) c.values[j] = p.values_or_grads[j];
  if (p.key) {
    c.seed = p.key[0];
    c.offset = p.key[1];
  }
  c.weight = p.weight;
  fr::set_constants(c, p.numbers);
  return c;
}

template <class F>
int guarded(const F& f) {
  try {
    f();
  } catch (...) {
    return 1;
  }
  return 0;
}

}  // namespace

#define FR_API __attribute__((visibility("default")))

extern "C" {

// 0 is success.
FR_API int fused_reparam_draw_forward(const fused_reparam_draw* p) {
  return guarded([&] { fr::run_forward(unpack(*p)); });
}

FR_API int fused_reparam_draw_backward(const fused_reparam_draw* p) {
  return guarded([&] {
    fr::DrawCall c = unpack(*p);
    if (p->samples == 1) c.z = operand(*p, p->z_or_grad_z, &p->z_strides);
    for (int j = 0; j < 4; ++j) c.grads[j] = operand(*p, p->grads[j], &p->grad_strides[j]);
    fr::run_backward(c);
  });
}

FR_API int fused_reparam_base_noise(const uint64_t* key, int64_t base, double number, int64_t dtype,
                                    int64_t n, void* out) {
  return guarded([&] {
    fr::DrawCall c{};
    c.dtype = static_cast<fr::Dtype>(dtype);
    c.n = c.columns = n;
    c.samples = 1;
    c.seed = key[0];
    c.offset = key[1];
    c.number = number;
    c.z.data = out;
    fr::run_noise(static_cast<fr::Base>(base), c);
  });
}

}  // extern "C"
