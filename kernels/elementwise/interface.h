// What the driver of the element-wise families (elementwise/driver.h) and their kernels of each
// instruction set say to one another. Plain data only: it is compiled for several instruction sets and
// linked together.
//
// All arithmetic is in `Real`: double for float64, else float. 16-bit operands are widened and
// narrowed a tile at a time, so that a formula is compiled twice and not four times, and the scale
// keywords have passes of their own, so that it isn't compiled for each of them either.
#pragma once

#include "common/interface.h"

namespace fr {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

// In the order of fused_reparam/families/__init__.py.
enum class Family : int {
  gaussian, gaussian_prior, log_prob, log_prob_prior, mixture, tanh_normal, log_normal, laplace,
  logistic, gumbel, uniform, cauchy, student_t, relaxed_bernoulli, kumaraswamy
};
constexpr int kFamilies = 15;

// In the order of fused_reparam/rng/bases.py.
enum class Base : int { normal, exponential, gumbel, laplace, logistic, uniform, cauchy, student_t };

// How a parameter and noise become a sample. `linear` serves every loc + scale * noise.
enum class Transform : int {
  linear, log_prob, log_prob_prior, mixture, tanh_normal, exponent, relaxed_bernoulli,
  hard_bernoulli, kumaraswamy
};
constexpr int kTransforms = 9;

// Values that depend on the parameters alone.
enum class Value : int { gaussian, gaussian_prior, laplace, uniform, cauchy, none };
constexpr int kValues = 5;

struct FamilyTraits {
  Base base;
  Transform draw;
  Value value;            // none also where the values depend on the noise
  int parameters, values;
  bool scaled;            // parameter 1 is a scale keyword, bounded by numbers 0 and 1
  bool sampled() const { return values > 0 && value == Value::none; }
};

constexpr FamilyTraits kFamily[kFamilies] = {
    {Base::normal, Transform::linear, Value::gaussian, 2, 1, true},
    {Base::normal, Transform::linear, Value::gaussian_prior, 4, 1, true},
    {Base::normal, Transform::log_prob, Value::none, 2, 2, true},
    {Base::normal, Transform::log_prob_prior, Value::none, 4, 2, true},
    {Base::normal, Transform::mixture, Value::none, 2, 1, true},
    {Base::normal, Transform::tanh_normal, Value::none, 2, 1, true},
    {Base::normal, Transform::exponent, Value::gaussian, 2, 1, true},
    {Base::laplace, Transform::linear, Value::laplace, 2, 1, false},
    {Base::logistic, Transform::linear, Value::none, 2, 0, false},
    {Base::gumbel, Transform::linear, Value::none, 2, 0, false},
    {Base::uniform, Transform::linear, Value::uniform, 2, 1, false},
    {Base::cauchy, Transform::linear, Value::cauchy, 2, 1, false},
    {Base::student_t, Transform::linear, Value::none, 2, 0, false},
    {Base::logistic, Transform::relaxed_bernoulli, Value::none, 1, 0, false},
    {Base::exponential, Transform::kumaraswamy, Value::none, 2, 0, false},
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

constexpr int kConstants = 5;

// One pass over a tile. All operands hold `count` Reals, a multiple of kTileStep, in memory order.
struct TilePass {
  int64_t count;
  const double* constants;  // as set_constants in elementwise/tile.h makes them
  const void *loc, *sigma, *log_sigma;  // log sigma: only where a value (backward: a floor) takes it
  const void *prior_loc, *prior_sigma, *prior_log_sigma;
  const void *dsigma, *dlog_sigma;  // of ScalePass, where gradients are wanted
  bool far;               // as ElementwiseKernels::far says; what follows is there only then
  void *distance, *ratio, *first, *second, *dratio, *unit, *prior_dlog_sigma;  // see `in_prior`
  const void* eps;
  void *z, *value[2];
  // Backward: gradients that came, and sums of those to give, which a pass adds to.
  const void *grad_z, *grad_value[2];
  void *to_loc, *to_sigma, *to_log_sigma, *to_prior_loc, *to_prior_log_sigma, *to_ratio;
};

// From a scale keyword's parameter x, bounded: sigma, log sigma and their derivatives in x, which are
// 0 outside the bounds. A null pointer is not wanted.
struct ScalePass {
  int64_t count;
  double low, high;
  const void* x;
  void *sigma, *log_sigma, *dsigma, *dlog_sigma;
};

struct ElementwiseKernels {
  // Base noise of elements first .. first + count; returns where in the buffer it begins.
  const void* (*noise)(bool wide, Base, double number, uint64_t seed, uint64_t offset, int64_t first,
                       int64_t count, void* buffer, const FetchList& ahead);
  void (*widen)(Dtype, const void* in, void* out, int64_t count);   // 16-bit to float and back
  void (*narrow)(Dtype, const void* in, void* out, int64_t count);
  // [0] for float, [1] for double.
  void (*scale[2][kKinds])(const ScalePass&);
  void (*scale_gradient[2])(const ScalePass&, const void* to_sigma, const void* to_log_sigma,
                            const void* to_ratio, const void* dratio, void* out);
  // Whether any of the first `count` parameters of a pass is so large or so small that a ratio to the
  // prior has to be formed of logarithms.
  bool (*far[2])(const TilePass&, int64_t count);
  // What a pass needs of such parameters: [learned], whether the prior is of tensors.
  void (*in_prior[2][2])(const TilePass&, bool sampled);
  void (*transform[2][kTransforms])(const TilePass&);
  void (*transform_backward[2][kTransforms])(const TilePass&);
  void (*value[2][kValues])(const TilePass&);
  void (*value_backward[2][kValues])(const TilePass&);
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
