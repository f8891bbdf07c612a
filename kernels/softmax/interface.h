// What the driver of the Gumbel-softmax (softmax/driver.h) and their kernels of each instruction set
// say to one another. Plain data only: it is compiled for several instruction sets and linked together.
//
// The work is cut into panels: `steps` rows of `width` numbers, which are reduced over the steps.
// - Where the classes are not last in memory, a step is one class, and its numbers belong to `width`
//   neighbouring softmaxes.
// - Where they are last, a panel is one softmax and a step is `width` of its classes. What the steps leave is
//   then reduced over the width too, by the `join` kernels. Rows of few classes are transposed instead, so
//   that they are served as in the first case.
// A block is as many consecutive steps as the nearest cache holds. All arithmetic is in `Real`: double for
// float64, else float.
#pragma once

#include "common/interface.h"

namespace fr {

// Steps of a block, `stride` Reals apart.
struct Steps {
  void* data;
  int64_t stride;
};

// Noise of steps: each begins up to a few elements into its Philox block: where, repeats.
struct NoiseSteps {
  const void* data;
  int64_t stride;
  int64_t lead, lead_step, lead_mask;  // step s begins at s * stride + ((lead + s * lead_step) & lead_mask)
};

// What a panel's steps leave, a Real for each of its width.
struct Reduced {
  void* top;        // largest logit
  void* sum;        // of e^(logit - top)
  void* weighted;   // sum of (logit - top) e^(logit - top)
  void* dot;        // of a gradient with the shares, or with e^(logit - top)
  void* max;        // largest logit - top + noise
  void* soft_sum;   // of e^((logit - top + noise - max) / tau)
  void* best;       // as max; NaN where a score was NaN or infinite
  void* at;         // the step of best (int32 or double); -1 elsewhere once joined
};

// One block. `width` is a multiple of a register, and all operands hold whole registers.
struct Block {
  int64_t steps, width;
  int64_t first;    // the block's first step in the panel
};

// Of what is a list: inverse_tau, keep and even are Reals too, one for each of a panel's width.
struct SoftmaxKernels {
  // Gumbel noise: steps of 2^shift Philox blocks, the first holding element first + s * stride.
  void (*noise[2])(uint64_t seed, uint64_t offset, uint64_t first, uint64_t stride, int shift,
                   int64_t count, void* out);
  // [0] for float, [1] for double.
  void (*top[2])(const Block&, Steps logits, const Reduced&);
  void (*stats[2])(const Block&, Steps logits, Steps grad, const Reduced&);   // grad may be null
  void (*add[2])(const Block&, Steps logits, const void* top, const NoiseSteps&, Steps out);
  void (*mix[2])(const Block&, Steps logits, const void* keep, const void* even, const Reduced&, Steps out);
  void (*choose[2])(const Block&, Steps score, const Reduced&);
  void (*soften[2])(const Block&, Steps score, const void* inverse_tau, const Reduced&, Steps out, void* reference);
  void (*share[2])(const Block&, Steps soft, const void* inverse_tau, const Reduced&, const void* reference,
                   Steps out);
  void (*one_hot[2])(const Block&, const Reduced&, Steps out);
  void (*divergence[2])(int64_t width, double classes, const Reduced&, void* out);
  // Gradients.
  void (*dot[2])(const Block&, Steps grad, Steps soft, const Reduced&);
  void (*soft_gradient[2])(const Block&, Steps grad, Steps soft, const void* inverse_tau, const Reduced&,
                           Steps out);
  // Of the shares (times keep) and of the divergence; grad or kl_weights may be null. Adds to out if asked.
  void (*share_gradient[2])(const Block&, Steps logits, Steps grad, const void* keep, const void* kl_weights,
                            bool add, const Reduced&, Steps out);
  // Over the width: every number becomes the panel's.
  void (*join_top[2])(int64_t width, const Reduced&);
  void (*join_stats[2])(int64_t width, const Reduced&);
  void (*join_dot[2])(int64_t width, const Reduced&);
  void (*join_soft[2])(int64_t width, const void* inverse_tau, const Reduced&);
  void (*join_best[2])(int64_t width, const Reduced&);
};

namespace portable {
const SoftmaxKernels& softmax_kernels();
}
namespace avx2 {
const SoftmaxKernels& softmax_kernels();
}
namespace avx512 {
const SoftmaxKernels& softmax_kernels();
}

}  // namespace fr
