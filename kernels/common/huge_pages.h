// Memory of large results. A fresh allocation of this size comes from the operating system page by
// page, and on pages of 4 KB the page faults of an output take longer than all the arithmetic. Where
// Linux leaves large pages to those who ask (`madvise`, the usual setting), this asks. Memory that
// is mapped already is not touched.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fr {

inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  if (!data || bytes < static_cast<int64_t>(2 * page)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(page - 1);
  // Only advice: what it returns doesn't matter.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fr
