// The calls of the library's plain C functions, as fused_reparam/backends/cpu and torch/extension.cpp pack
// them: only 8-byte fields. Dense operands have columns = 0, and what follows is not read; the others
// are rows of `columns` elements, each with its two strides.
#pragma once

#include <cstdint>

struct fused_reparam_strides {
  int64_t row, column;
};

struct fused_reparam_elementwise {
  void* params[4];
  const uint64_t* key;  // null also says of eps that it is the caller's: z is then PyTorch's bit for bit
  void *eps, *z_or_grad_z, *terms_or_grads[2], *grads[4];
  int64_t n, samples, segments, dtype;
  // The family's row: codes as fused_reparam_names has them (a value of -1: none), counts, a flag.
  int64_t base, transform, term, parameters, term_count, scaled;
  int64_t kind, prior_kind;
  double constants[6], base_number, factor;
  int64_t columns;
  fused_reparam_strides param_strides[4], eps_strides, z_strides, grad_strides[4];
};

// Of Gumbel-softmax: everything is three-dimensional, with the classes in the middle.
struct fused_reparam_softmax {
  void *logits, *noise, *y_or_grad_y, *soft, *kl_or_grad_kl, *grad_logits;
  const uint64_t* key;
  // In place of tau, or in mode one_hot of unimix: `controls` numbers of the type of kl, one for all variables or
  // one for each of (outer, inner); null and 0 where tau and unimix count.
  const void* control;
  // The logits repeat where they have fewer than `outer`.
  int64_t controls, dtype, mode, outer, classes, inner, logits_outer;
  double tau, unimix;
  struct { int64_t outer, cls, inner; } logits_strides, grad_strides;
};
