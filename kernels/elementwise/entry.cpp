// The entry points of the element-wise families, plain C functions as in common/normal.cpp; their sizes
// and layouts are promised in fused_reparam/backends/reference/elementwise.py.
#include "elementwise/driver.h"
#include "gaussian/driver.h"

#include "common/c_api.h"
#include "common/isa.h"
#include "common/huge_pages.h"
#include "common/parallel.h"

namespace fr {
namespace {

void forward_items(const ElementwiseCall& c) {
  const Kernels& common = FR_CURRENT(kernels);
  const ElementwiseKernels& kernels = FR_CURRENT(elementwise_kernels);
  const int64_t tiles = c.tiles();
  // Of a single tile there are no parts to join.
  const bool sums = c.length > 1 && tiles > 1;
  const PartialSums partial(sums ? c.family.terms * c.runs() * tiles : 0);
  for_tiles(c.items(), c.grain(),
            [&](int64_t i) { forward_item(common, kernels, c, item_of(c, i), partial); });
  for (int term = 0; sums && term < c.family.terms; ++term)
    for (int64_t run = 0; run < c.runs(); ++run)
      join_partial_sums(c.sums(), tiles, pairs_of(c, partial, term, run),
                        [&](int64_t s, double sum) { put_term(c, term, run, s, sum); });
}

void run_forward(const ElementwiseCall& c) {
  if (c.z.data) prefer_huge_pages(c.z.data, c.samples * c.n * c.item());
  if (!Folded::suits(c)) return forward_items(c);
  if (c.length && !c.family.sampled()) {
    ElementwiseCall terms = c;
    terms.z = {};
    terms.samples = 1;
    forward_items(terms);
  }
  if (!c.z.data && !(c.length && c.family.sampled())) return;
  const Folded folded(c);
  if (folded.whole.n) forward_items(folded.whole);
  if (folded.rest.n) forward_items(folded.rest);
}

void run_backward(const ElementwiseCall& c) {
  const ElementwiseKernels& kernels = FR_CURRENT(elementwise_kernels);
  for (const Operand& grad : c.grads)
    if (grad.data && grad.linear) prefer_huge_pages(grad.data, c.n * c.item());
  const bool draws = c.z.data || (c.family.sampled() && (c.terms[0] || c.terms[1]));
  const bool fold = Folded::suits(c);
  const auto finish = [&](const RangeSums* sums, int64_t rows) {
    for_tiles(c.tiles(), c.grain(), [&](int64_t t) { backward_tile(kernels, c, t, sums, rows); });
  };
  if (!draws || (!fold && c.ranges() == 1)) return finish(nullptr, 0);
  if (!fold) {
    RangeSums sums(c.items(), std::min(c.n, c.tile_size()));
    for_tiles(c.items(), c.grain(),
              [&](int64_t i) { backward_item(kernels, c, item_of(c, i), sums, i); });
    return finish(&sums, c.ranges());
  }
  const Folded folded(c);
  const int64_t whole = folded.whole.n ? folded.whole.items() : 0;
  RangeSums sums(whole + 1, c.n);
  for_tiles(whole, folded.whole.n ? folded.whole.grain() : 1, [&](int64_t i) {
    backward_item(kernels, folded.whole, item_of(folded.whole, i), sums, i);
  });
  if (folded.rest.n) backward_item(kernels, folded.rest, item_of(folded.rest, 0), sums, whole);
  finish(&sums, whole + (folded.rest.n > 0));
}

// Base noise is what a draw's tiles take.
void run_noise(Base base, const ElementwiseCall& c) {
  const ElementwiseKernels& kernels = FR_CURRENT(elementwise_kernels);
  prefer_huge_pages(c.z.data, c.n * c.item());
  for_tiles(c.tiles(), c.grain(), [&](int64_t tile) {
    ElementwiseTile t(kernels, c, tile);
    alignas(64) unsigned char buffer[kNoiseBytes];
    t.written(c.z, kernels.noise(c.wide(), base, {c.number}, c.seed, c.offset, t.begin(), t.count(),
                                 buffer, {}));
  });
}

}  // namespace
}  // namespace fr

namespace {

fr::Operand operand(const fused_reparam_elementwise& p, void* data, const fused_reparam_strides* strides) {
  fr::Operand op;
  op.data = data;
  if (p.columns > 0) {
    op.row_stride = strides->row;
    op.column_stride = strides->column;
    op.linear = op.column_stride == 1 && op.row_stride == p.columns;
  }
  return op;
}

fr::ElementwiseCall unpack(const fused_reparam_elementwise& p) {
  fr::ElementwiseCall c{};
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.family = {static_cast<fr::Base>(p.base),    static_cast<fr::Transform>(p.transform),
              static_cast<fr::Term>(p.term),  static_cast<int>(p.parameters),
              static_cast<int>(p.term_count),  p.scaled != 0};
  c.kind = static_cast<fr::Kind>(c.family.scaled ? p.kind : 0);
  c.prior_kind = static_cast<fr::Kind>(p.prior_kind);
  c.number = p.base_number;
  c.n = p.n;
  c.samples = p.samples;
  c.columns = p.columns > 0 ? p.columns : p.n;
  const int64_t of_terms = c.family.sampled() ? p.samples * p.n : p.n;
  c.length = p.segments ? of_terms / p.segments : 0;
  for (int j = 0; j < 4; ++j) c.params[j] = operand(p, p.params[j], &p.param_strides[j]);
  // Of several samples, noise and samples are consecutive whatever the parameters are.
  c.eps.data = p.eps;
  if (p.samples == 1) c.eps = operand(p, p.eps, &p.eps_strides);
  c.z.data = p.z_or_grad_z;
  for (int j = 0; j < 2; ++j) c.terms[j] = p.terms_or_grads[j];
  c.given = p.eps && !p.key;
  if (p.key) {
    c.seed = p.key[0];
    c.offset = p.key[1];
  }
  c.factor = p.factor;
  fr::set_constants(c, p.constants);
  return c;
}

// A sample of a Gaussian and its KL to N(0, 1) has kernels of its own, which take 1.6 to 1.8 times less.
bool is_standard(const fused_reparam_elementwise& p) {
  return static_cast<fr::Transform>(p.transform) == fr::Transform::linear &&
         static_cast<fr::Term>(p.term) == fr::Term::gaussian && p.samples == 1 && p.constants[2] == 0 &&
         p.constants[3] == 1 && p.constants[4] == -fr::kInfinity;
}

template <class Call>
Call standard(const fused_reparam_elementwise& p) {
  Call c{};
  c.dtype = static_cast<fr::Dtype>(p.dtype);
  c.kind = static_cast<fr::Kind>(p.kind);
  c.n = p.n;
  c.columns = p.columns > 0 ? p.columns : p.n;
  c.loc = operand(p, p.params[0], &p.param_strides[0]);
  c.scale = operand(p, p.params[1], &p.param_strides[1]);
  c.eps = operand(p, p.eps, &p.eps_strides);
  c.given = p.eps && !p.key;
  if (p.key) {
    c.seed = p.key[0];
    c.offset = p.key[1];
  }
  c.low = p.constants[0];
  c.high = p.constants[1];
  c.factor = p.factor;
  c.segments = p.segments ? p.segments : 1;
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

// The names of what calls hold as a number, each table in its order: a word for the table, then its words.
FR_API const char* fused_reparam_names() {
#define FR_WORD(name) " " #name
  return "dtype" FR_DTYPES(FR_WORD) "\nscale" FR_KINDS(FR_WORD) "\nmode" FR_MODES(FR_WORD)
         "\nbase" FR_BASES(FR_WORD) "\ntransform" FR_TRANSFORMS(FR_WORD) "\nterm" FR_TERMS(FR_WORD);
}

// 0 is success.
FR_API int fused_reparam_elementwise_forward(const fused_reparam_elementwise* p) {
  return guarded([&] {
    if (!is_standard(*p)) return fr::run_forward(unpack(*p));
    auto c = standard<fr::GaussianForward>(*p);
    c.z.data = p->z_or_grad_z;
    c.kl = p->terms_or_grads[0];
    fr::run(c);
  });
}

FR_API int fused_reparam_elementwise_backward(const fused_reparam_elementwise* p) {
  return guarded([&] {
    if (is_standard(*p)) {
      auto c = standard<fr::GaussianBackward>(*p);
      c.grad_z = operand(*p, p->z_or_grad_z, &p->z_strides);
      c.grad_kl.data = p->terms_or_grads[0];
      c.grad_loc = operand(*p, p->grads[0], &p->grad_strides[0]);
      c.grad_scale = operand(*p, p->grads[1], &p->grad_strides[1]);
      return fr::run(c);
    }
    fr::ElementwiseCall c = unpack(*p);
    if (p->samples == 1) c.z = operand(*p, p->z_or_grad_z, &p->z_strides);
    for (int j = 0; j < 4; ++j) c.grads[j] = operand(*p, p->grads[j], &p->grad_strides[j]);
    fr::run_backward(c);
  });
}

FR_API int fused_reparam_base_noise(const uint64_t* key, int64_t base, double number, int64_t dtype,
                                    int64_t n, void* out) {
  return guarded([&] {
    fr::ElementwiseCall c{};
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
