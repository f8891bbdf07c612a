// What the driver of the element-wise families (elementwise/driver.h) and their kernels of each
// instruction set say to one another. Plain data only: it is compiled for several instruction sets and
// linked together.
//
// All arithmetic is in `Real`: double for float64, else float. 16-bit operands are widened and
// narrowed a tile at a time, so that a formula is compiled twice and not four times, and the scale
// keywords have passes of their own, so that it isn't compiled for each of them either.
#pragma once

#include "common/interface.h"
#include "elementwise/formula_names.h"

namespace fr {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

// The lists of names that C++ shares with Python. entry.cpp tells them to whoever loads the library, which
// looks up its own names in them: no number is written down twice.
#define FR_BASES(X) X(normal) X(exponential) X(gumbel) X(laplace) X(logistic) X(uniform) X(cauchy) X(student_t)
#define FR_ENUMERATOR(name) name,
#define FR_ONE(name) +1

enum class Base : int { FR_BASES(FR_ENUMERATOR) };

// How parameters and noise become a sample. `linear` serves every loc + scale * noise.
enum class Transform : int { FR_TRANSFORMS(FR_ENUMERATOR) };
constexpr int kTransforms = FR_TRANSFORMS(FR_ONE);

// Terms that depend on the parameters alone.
enum class Term : int { none = -1, FR_TERMS(FR_ENUMERATOR) };
constexpr int kTerms = FR_TERMS(FR_ONE);

// What a family's row says (fused_reparam/families/family.py).
struct FamilyFacts {
  Base base;
  Transform transform;
  Term term;            // none also where the terms depend on the noise
  int parameters, terms;
  bool scaled;            // parameter 1 is a scale keyword, bounded by numbers 0 and 1
  bool sampled() const { return terms > 0 && term == Term::none; }
  // Whether parameter 3 is the scale of a prior, of the keyword prior_kind; else it is taken as it is.
  bool prior_scaled() const {
    return parameters > 3 && (transform == Transform::log_prob_prior || term == Term::gaussian_prior);
  }
};

// A tile's elements of one operand as Real: its buffers together stay within the nearest cache.
constexpr int64_t kTileBytes = 4096;
// Passes work on whole steps, and read and write their operands up to the next one.
constexpr int64_t kTileStep = 32;

// Not a multiple of 4096 apart: the processor takes a load there for one of a store just before.
struct alignas(64) Slot {
  unsigned char bytes[kTileBytes + 192];
};

// Operands to bring nearer while noise is made.
struct FetchList {
  const void* operand[9];
  int count;
  int64_t bytes;          // of one element
};

// The number that base noise takes, such as degrees of freedom: one for all elements, or one for each of a
// tile (null: none). `slope`: where the derivative of each element's noise in its number goes, if wanted.
struct BaseNumber {
  double one = 0;
  const void* each = nullptr;
  void* slope = nullptr;
};

constexpr int kConstants = 5;  // of a call, for its formulas

// One pass over a tile. All operands hold `count` Reals, a multiple of kTileStep, in memory order.
struct TilePass {
  int64_t count;
  const double* constants;  // as set_constants in elementwise/tile.h makes them
  const void *loc, *sigma, *log_sigma;  // log sigma: only where a term (backward: a floor) takes it
  const void *prior_loc, *prior_sigma, *prior_log_sigma;
  const void *dsigma, *dlog_sigma;  // of ScalePass, where gradients are wanted
  bool far;               // as ElementwiseKernels::far says; what follows is there only then
  void *distance, *ratio, *first, *second, *dratio, *unit, *prior_dlog_sigma;  // see `in_prior`
  const void* eps;
  bool given;             // whether the noise is the caller's: z then has the bits that PyTorch's would have
  void* slope;            // of the noise in a parameter, where one decides it
  void *z, *term[2];
  // Backward: gradients that came, and sums of those to give, which a pass adds to.
  const void *grad_z, *grad_term[2];
  void *to_loc, *to_sigma, *to_log_sigma, *to_prior_loc, *to_prior_log_sigma, *to_ratio;
  bool first_wanted;      // whether the first parameter's is: a term may leave it out where it is not
};

// From a scale keyword's parameter x, bounded: sigma, log sigma and their derivatives in x, which are
// 0 outside the bounds. A null pointer is not wanted.
struct ScalePass {
  int64_t count;
  double low, high;
  const void* x;
  void *sigma, *log_sigma, *dsigma, *dlog_sigma;
};

using Pass = void (*)(const TilePass&);
struct FormulaPasses {
  Pass transform[kTransforms], transform_backward[kTransforms], term[kTerms], term_backward[kTerms];
};

struct ElementwiseKernels {
  // Base noise of elements first .. first + count; returns where in the buffer it begins.
  const void* (*noise)(bool wide, Base, const BaseNumber& number, uint64_t seed, uint64_t offset,
                       int64_t first, int64_t count, void* buffer, const FetchList& ahead);
  void (*widen)(Dtype, const void* in, void* out, int64_t count);   // 16-bit to float and back
  void (*narrow)(Dtype, const void* in, void* out, int64_t count);
  // [0] for float, [1] for double.
  void (*scale[2][2][kKinds])(const ScalePass&);                    // then [whether of a prior]
  void (*scale_gradient[2])(const ScalePass&, const void* to_sigma, const void* to_log_sigma,
                            const void* to_ratio, const void* dratio, void* out);
  // Whether any of the first `count` parameters of a pass is so large or so small that a ratio to the
  // prior has to be formed of logarithms.
  bool (*far[2])(const TilePass&, int64_t count);
  // What a pass needs of such parameters: [learned], whether the prior is of tensors.
  void (*in_prior[2][2])(const TilePass&, bool sampled);
  FormulaPasses formulas[2];
};

// Room for the noise of a tile: what comes before its first element in a block, and whole groups.
constexpr int64_t kNoiseBytes = kTileBytes + 2048;

namespace portable {
const ElementwiseKernels& elementwise_kernels();
}
namespace avx2 {
const ElementwiseKernels& elementwise_kernels();
}
namespace avx512 {
const ElementwiseKernels& elementwise_kernels();
}

}  // namespace fr
