// What the drivers and the kernels of each instruction set say to one another. Plain data
// only: this header is compiled for several instruction sets and linked together.
#pragma once

#include <cstdint>

namespace fr {

// Python's names of the dtypes.
#define FR_DTYPES(X) X(float32) X(bfloat16) X(float16) X(float64)
enum class Dtype : int { f32, bf16, f16, f64 };
constexpr int kDtypes = 4;
constexpr int64_t kItemSize[kDtypes] = {4, 2, 2, 8};

// How sigma is parameterized.
#define FR_KINDS(X) X(logvar) X(log_std) X(std) X(var) X(rho)
enum class Kind : int { logvar, log_std, std, var, rho };
constexpr int kKinds = 5;

// What the Gumbel-softmax gives.
#define FR_MODES(X) X(soft) X(hard) X(one_hot)
enum class Mode : int { soft, hard, one_hot };

// The unit of work, in elements of the linear index. Fixed, so that sums never depend on threads.
constexpr int64_t kTile = 2048;
// Fewer tiles are not worth waking another thread.
constexpr int64_t kTileGrain = 8;

// Bytes of an operand from which on it is fetched ahead: half of a usual second-level cache.
constexpr int64_t kLarge = 1 << 19;

// One tile of at most kTile elements, every operand in linear memory. A null pointer is an operand
// that is absent or not wanted. `first` is the tile's first element in the whole tensor.
struct Common {
  const void* loc;
  const void* scale;
  const void* eps;        // noise in memory; otherwise it is made from the key
  bool given;             // whether it is the caller's: z then has the bits that PyTorch's would have
  uint64_t seed, offset;  // the key
  int64_t first, count;
  double low, high;       // bounds on logvar and log_std
  bool large;             // the whole tensor is too large for the caches
};

struct ForwardTile {
  Common in;
  void* z;
  bool sum_kl;            // return the sum of twice the KL
  void* kl;               // twice the KL of each element (float, or double for f64)
};

struct BackwardTile {
  Common in;
  const void* grad_z;
  const void* grad_kl;    // of each element's KL: one number per element, or
  double one_grad_kl;     // the same for all
  bool has_grad_kl;
  void* grad_loc;
  void* grad_scale;
};

struct Kernels {
  void (*normal)(Dtype, uint64_t seed, uint64_t offset, int64_t first, int64_t count, void* out);
  double (*forward[kDtypes][kKinds])(const ForwardTile&);
  void (*backward[kDtypes][kKinds])(const BackwardTile&);
  // Sum of consecutive numbers (float, or double for f64), always in the same order.
  double (*sum)(Dtype, const void* x, int64_t count);
};

namespace portable {
const Kernels& kernels();
}
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}

}  // namespace fr
