// Which of the compiled forms runs: the best that the machine has, or a lower one that was asked for
// (by FUSED_REPARAM_ISA=portable|avx2|avx512, or set_isa in tests).
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "common/interface.h"

namespace fr {

inline int best_isa() {
#if defined(FR_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  return avx512 ? 2 : avx2 ? 1 : 0;
#else
  return 0;
#endif
}

inline int first_isa() {
  const int best = best_isa();
  const char* asked = std::getenv("FUSED_REPARAM_ISA");
  if (asked && !std::strcmp(asked, "portable")) return 0;
  if (asked && !std::strcmp(asked, "avx2")) return best < 1 ? best : 1;
  return best;
}

inline std::atomic<int>& isa_state() {
  static std::atomic<int> state{first_isa()};
  return state;
}

inline int isa() { return isa_state().load(std::memory_order_relaxed); }

// Takes the level asked for or the best below it; returns what it took.
inline int set_isa(int level) {
  const int best = best_isa();
  level = level < 0 ? 0 : level > best ? best : level;
  isa_state().store(level);
  return level;
}

// The form in use of a table of kernels that each form has.
#if defined(FR_X86)
#define FR_CURRENT(table) \
  (fr::isa() == 2 ? fr::avx512::table() : fr::isa() == 1 ? fr::avx2::table() : fr::portable::table())
#else
#define FR_CURRENT(table) fr::portable::table()
#endif

}  // namespace fr
