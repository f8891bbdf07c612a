// Memory of large results. What a process frees in blocks of this size goes back to the system, which clears each
// page anew when the next block is first written: that takes longer than to compute a latent. Here it is kept for
// the next results instead, as CUDA's allocator keeps it.
//
// Kept memory is a set of pieces, by address; neighbours are one piece. A result takes the smallest piece that has
// room for it, and what it leaves stays a piece. Memory comes from the system, and goes back to it, in units of
// 2 MB, and is counted so: a unit is in use as long as a part of it is. What bounds the rest is said at
// `give_back_excess`.
//
// The system may take the pages of a piece whenever it is short of memory (MADV_FREE); until then they are written
// again without a page fault. So nobody has to watch how much memory is free.
#pragma once

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_cpu_dispatch.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "torch/common.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fr::ops {

class Memory final : public c10::Allocator {
 public:
  // Smaller results are PyTorch's allocator's, as all other tensors are.
  static constexpr size_t least = size_t{1} << 20;

  struct Stats {
    size_t bound, in_use, kept, recent_peak, results, reused;
  };

  // It outlives all tensors, those included that are freed while the process ends.
  static Memory& instance() {
    static Memory& it = *new Memory;
    return it;
  }

  // Whether a result of so many bytes gets its memory here. A small one costs two comparisons.
  bool serves(size_t bytes) {
    if (bytes >= least) return bound_.load(std::memory_order_relaxed) > 0;
    if (kept_.load(std::memory_order_relaxed) > 0 && now() >= next_look_.load(std::memory_order_relaxed)) look();
    return false;
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes >= least && bound_ > 0)
      data = take(bytes);
    else if (bytes > 0)  // of a storage that is resized
      data = c10::alloc_cpu(bytes);
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  // At most so many bytes are kept; with none, results get their memory as all other tensors do.
  void set_bound(size_t bytes) {
    bound_ = bytes;
    look();
  }
  void give_back_all() {
    std::lock_guard<std::mutex> lock(mutex_);
    give_back(everything);
  }
  Stats stats() {
    look();
    std::lock_guard<std::mutex> lock(mutex_);
    return {bound_, in_use_, kept_, recent_peak(), results_, reused_};
  }

 private:
  using Address = uintptr_t;
  // What is in use, or a piece that is kept.
  struct Block {
    size_t size;
    int64_t since;  // of a piece: its number in the order in which they came; in_use: it is none
  };
  using Blocks = std::map<Address, Block>;

  static constexpr size_t unit = size_t{1} << 21, everything = std::numeric_limits<size_t>::max();
  static constexpr int64_t in_use = -1;
  static constexpr int64_t period = 10;  // seconds

  Memory() {
    // A child of a fork has only the thread that forked, and would wait for ever for what another had locked.
    // What is kept stays the parent's: while the child had it too, each page that the parent writes were copied.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] {
                     instance().give_back(everything);
                     instance().mutex_.unlock();
                   });
  }

  static void release(void* data) {
    if (!data) return;
    c10::profiledCPUMemoryReporter().Delete(data);
    if (!instance().put_back(data)) c10::free_cpu(data);
  }

  void* take(size_t bytes) {
    // What is large begins with a unit, so that a huge page belongs to one result.
    const size_t size = up(bytes, bytes >= 4 * unit ? unit : size_t{1} << 16);
    std::unique_lock<std::mutex> lock(mutex_);
    auto best = blocks_.end();
    for (auto it = blocks_.begin(); it != blocks_.end(); ++it)
      if (it->second.since != in_use && it->second.size >= size &&
          (best == blocks_.end() || it->second.size < best->second.size))
        best = it;
    if (best != blocks_.end()) {
      ++reused_;
    } else {
      best = mapped(size);
      if (best == blocks_.end()) {
        const int error = errno;
        lock.unlock();
        c10::profiledCPUMemoryReporter().OutOfMemory(bytes);
        TORCH_CHECK(false, "fused_reparam: can't allocate memory: you tried to allocate ", bytes,
                    " bytes. Error code ", error, " (", std::strerror(error), ")");
      }
    }
    // What is small is taken from the end, so that the rest still begins with a unit.
    const size_t rest = best->second.size - size;
    if (rest > 0) {
      const Address middle = best->first + (size % unit == 0 ? size : rest);
      const auto behind = split(best, middle);
      if (size % unit != 0) best = behind;
    }
    best->second.since = in_use;
    const size_t units = alone(best);
    kept_ -= units;
    in_use_ += units;
    ++results_;
    give_back_excess();
    poison(best->first, bytes, false);
    return reinterpret_cast<void*>(best->first);
  }

  // False of what PyTorch's allocator gave. It allocates nothing: a destructor calls it.
  bool put_back(void* data) {
    const auto begin = reinterpret_cast<Address>(data);
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = blocks_.find(begin);
    if (it == blocks_.end()) return false;
    const size_t size = it->second.size, units = alone(it);
    begin_period();
    in_use_ -= units;
    kept_ += units;
    it->second.since = ++order_;
    poison(begin, size, true);
    it = joined(it);
    // The units that are now free as a whole.
    const Address from = std::max(up(it->first, unit), down(begin, unit)),
                  to = std::min(down(it->first + it->second.size, unit), up(begin + size, unit));
#if defined(MADV_FREE)
    if (from < to) (void)madvise(reinterpret_cast<void*>(from), to - from, MADV_FREE);
#endif
    give_back_excess();
    return true;
  }

  // ---- with the lock ----------------------------------------------------------------------------------

  // Makes two blocks of one and returns the second.
  Blocks::iterator split(Blocks::iterator it, Address middle) {
    const Address end = it->first + it->second.size;
    const auto behind = blocks_.emplace_hint(std::next(it), middle, Block{end - middle, it->second.since});
    it->second.size = middle - it->first;
    return behind;
  }

  // A piece with its neighbours, where they are pieces too.
  Blocks::iterator joined(Blocks::iterator it) {
    const auto next = std::next(it);
    if (next != blocks_.end() && next->second.since != in_use && next->first == it->first + it->second.size) {
      it->second.size += next->second.size;
      blocks_.erase(next);
    }
    if (it == blocks_.begin()) return it;
    const auto before = std::prev(it);
    if (before->second.since == in_use || before->first + before->second.size != it->first) return it;
    before->second = {before->second.size + it->second.size, it->second.since};
    blocks_.erase(it);
    return before;
  }

  // The bytes of units that a block has a part of and nothing else in use has.
  size_t alone(Blocks::iterator it) {
    Address from = down(it->first, unit), to = up(it->first + it->second.size, unit);
    for (auto b = it; b != blocks_.begin();) {
      --b;
      if (b->first + b->second.size <= from) break;
      if (b->second.since != in_use) continue;
      from += unit;
      break;
    }
    for (auto b = std::next(it); b != blocks_.end() && b->first < to; ++b)
      if (b->second.since == in_use) {
        to -= unit;
        break;
      }
    return from < to ? to - from : 0;
  }

  // The most that was in use at once in this period and the last.
  size_t recent_peak() const { return std::max(peak_, last_peak_); }

  void begin_period() {
    const int64_t time = now(), end = next_look_;
    if (time >= end) {
      last_peak_ = time >= end + period ? in_use_ : peak_;
      peak_ = in_use_;
      next_look_ = time + period;
    }
    peak_ = std::max(peak_, in_use_);
  }

  // What is kept is at most the bound, and together with what is in use at most what was in use at once in the
  // last 10 to 20 seconds. The oldest pieces go first.
  void give_back_excess() {
    begin_period();
    const size_t allowed = std::min<size_t>(bound_, recent_peak() - in_use_);
    if (kept_ > allowed) give_back(kept_ - allowed);
  }

  // So many bytes, or as many as there are, in whole units.
  void give_back(size_t excess) noexcept {
    while (excess > 0) {
      auto oldest = blocks_.end();
      for (auto it = blocks_.begin(); it != blocks_.end(); ++it)
        if (it->second.since != in_use && whole_units(*it) > 0 &&
            (oldest == blocks_.end() || it->second.since < oldest->second.since))
          oldest = it;
      if (oldest == blocks_.end()) return;
      const size_t size = std::min(whole_units(*oldest), (excess - 1) / unit + 1) * unit;
      const Address to = down(oldest->first + oldest->second.size, unit), from = to - size;
      try {
        if (to < oldest->first + oldest->second.size) split(oldest, to);
        if (from > oldest->first) oldest = split(oldest, from);
      } catch (const std::bad_alloc&) {
        return;
      }
      poison(from, size, false);
      if (munmap(reinterpret_cast<void*>(from), size) != 0) return;
      blocks_.erase(oldest);
      kept_ -= size;
      excess -= std::min(excess, size);
    }
  }
  static size_t whole_units(const Blocks::value_type& piece) {
    const Address from = up(piece.first, unit), to = down(piece.first + piece.second.size, unit);
    return from < to ? (to - from) / unit : 0;
  }

  void look() {
    std::lock_guard<std::mutex> lock(mutex_);
    give_back_excess();
  }

  // A new piece that has room for so many bytes; blocks_.end() where there is no memory.
  Blocks::iterator mapped(size_t size) {
    const size_t whole = up(size, unit);
    const auto from_system = [&] {
      return mmap(nullptr, whole + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    };
    void* all = from_system();
    if (all == MAP_FAILED) {
      give_back(everything);
      all = from_system();
    }
    if (all == MAP_FAILED) return blocks_.end();
    const auto begin = reinterpret_cast<Address>(all), data = up(begin, unit), end = data + whole;
    if (data > begin) munmap(all, data - begin);
    if (end < begin + whole + unit) munmap(reinterpret_cast<void*>(end), begin + whole + unit - end);
    poison(data, whole, true);
    kept_ += whole;
    return blocks_.emplace(data, Block{whole, ++order_}).first;
  }

  // ---- without it -------------------------------------------------------------------------------------

  static Address up(Address x, size_t to) { return (x + to - 1) & ~(to - 1); }
  static Address down(Address x, size_t to) { return x & ~(to - 1); }

  static int64_t now() {
#if defined(CLOCK_MONOTONIC_COARSE)
    constexpr clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
    constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
    timespec time{};
    clock_gettime(clock, &time);
    return time.tv_sec;
  }

  static void poison([[maybe_unused]] Address begin, [[maybe_unused]] size_t size, [[maybe_unused]] bool on) {
#if defined(__SANITIZE_ADDRESS__)
    if (on)
      ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(begin), size);
    else
      ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(begin), size);
#endif
  }

  std::mutex mutex_;
  Blocks blocks_;
  std::atomic<size_t> bound_{0}, kept_{0};
  std::atomic<int64_t> next_look_{0};
  size_t in_use_ = 0, peak_ = 0, last_peak_ = 0, results_ = 0, reused_ = 0;
  int64_t order_ = 0;
};

// at::cpu::empty, with the memory of a large result from here.
inline Tensor empty_result(IntArrayRef shape, const at::TensorOptions& options) {
  const auto dtype = options.dtype();
  const auto bytes = static_cast<size_t>(c10::multiply_integers(shape)) * dtype.itemsize();
  Memory& memory = Memory::instance();
  if (!memory.serves(bytes)) return at::cpu::empty(shape, options);
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CPU);
  Tensor found(at::detail::empty_generic(shape, &memory, keys, dtype.toScalarType(), std::nullopt));
  const auto& context = at::globalContext();
  if (context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory())
    found.fill_(std::numeric_limits<double>::quiet_NaN());
  return found;
}

// ---- Python ------------------------------------------------------------------------------------------

// bound_cache(bytes): at most so many are kept.
inline PyObject* bound_cache(PyObject*, PyObject* bytes) {
  HANDLE_TH_ERRORS
  const size_t bound = PyLong_AsSize_t(bytes);
  if (PyErr_Occurred()) return nullptr;
  Memory::instance().set_bound(bound);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

inline PyObject* empty_cache(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS {
    pybind11::gil_scoped_release others;
    Memory::instance().give_back_all();
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

// As fused_reparam/backends/cpu/memory.py names them.
inline PyObject* memory_stats(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  const auto found = Memory::instance().stats();
  return Py_BuildValue("(nnnnnn)", found.bound, found.in_use, found.kept, found.recent_peak, found.results,
                       found.reused);
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::ops
