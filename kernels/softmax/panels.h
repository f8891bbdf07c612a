// How the logits of Gumbel-softmax are cut into panels and blocks (softmax/interface.h), and blocks
// brought together as Reals and back to their places.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise/interface.h"
#include "common/operand.h"
#include "softmax/interface.h"

namespace fr {

// An (O, C, I) operand: strides in elements. Null data is an operand that is absent.
struct Strided {
  void* data = nullptr;
  int64_t outer = 0, cls = 0, inner = 0;
  int64_t repeats = 0;      // after so many outers the same numbers come again; 0: they do not
};

// Softmaxes side by side: columns inner .. inner + columns of one outer index. Of rows there is one.
struct Panel {
  int64_t outer, inner, columns;
};

// Fixed by the shape and the dtype alone: so are the order of every sum and all results.
struct Cut {
  static constexpr int64_t kBlockBytes = 8192;                   // of a block as Reals
  // Bytes of a step as Reals. Columns are as wide as can be, for what is read then lies together: [4,
  // 8192, 16, 16] took 2.0 times as long with 64 bytes and 1.3 times with 256, though a panel of 64
  // columns stays in the second-level cache and one of 256 does not.
  static constexpr int64_t kLeastBytes = 64, kRowBytes = 256, kWidthBytes = 1024;
  static constexpr int64_t kUnit = 4096;                         // elements not worth dividing further

  // Rows of so few classes are turned: seen as columns, several side by side. For 32 classes that takes
  // less than half the time. `inner` then counts rows.
  static constexpr int64_t kTurned = kBlockBytes / kLeastBytes;

  Cut(int64_t outer, int64_t classes, int64_t inner, bool turned, Dtype dtype)
      : rows(inner == 1 && !turned), turned(turned), outer(outer), classes(classes), inner(inner),
        real(dtype == Dtype::f64 ? 8 : 4), lanes(16 / real) {
    const int64_t least = kLeastBytes / real, block = kBlockBytes / real;
    const int64_t most = (rows || turned ? kRowBytes : kWidthBytes) / real;
    if (turned) {
      width = least;
      while (width < most && width < inner && 2 * width * classes <= block) width *= 2;
      columns = width < inner ? width : inner;
      steps = classes;
      units_of = 1;
    } else if (rows) {
      width = classes < most ? whole(classes, least) : most;
      columns = 1;
      steps = (classes + width - 1) / width;
      units_of = classes < kUnit ? kUnit / classes : 1;
    } else {
      // Steps of 2^shift Philox blocks. Where a step may begin within a block, some elements less.
      const int64_t spare = inner % lanes ? lanes - 1 : 0;
      width = least;
      while (width < most && width - spare < inner) width *= 2;
      for (shift = 0; lanes << shift < width;) ++shift;
      columns = width - spare < inner ? width - spare : inner;
      steps = classes;
      units_of = 1;
    }
    block_steps = kBlockBytes / (width * real);
    if (block_steps > steps) block_steps = steps;
  }

  static int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
  int64_t blocks() const { return (steps + block_steps - 1) / block_steps; }
  Block block(int64_t i) const {
    const int64_t first = i * block_steps, left = steps - first;
    return {left < block_steps ? left : block_steps, width, first};
  }
  // Units of work: some rows, or a panel of columns.
  int64_t across() const { return (inner + columns - 1) / columns; }
  int64_t units() const { return rows ? (outer + units_of - 1) / units_of : outer * across(); }
  int64_t unit_elements() const { return rows ? units_of * classes : columns * classes; }
  template <class F>
  void for_panels(int64_t unit, const F& f) const {
    if (rows) {
      const int64_t end = (unit + 1) * units_of < outer ? (unit + 1) * units_of : outer;
      for (int64_t o = unit * units_of; o < end; ++o) f(Panel{o, 0, 1});
    } else {
      const int64_t i = unit % across() * columns, left = inner - i;
      f(Panel{unit / across(), i, left < columns ? left : columns});
    }
  }

  bool rows;                // the classes are last in memory,
  bool turned;              // and few
  int64_t outer, classes, inner, real;
  int64_t lanes;            // Reals of a Philox block
  int64_t width, columns, steps, block_steps, units_of;
  int shift = 0;
};

enum StageSlot : int { kLogits, kGrad, kSoft, kScore, kOut, kSlots };

class SoftmaxStage {
 public:
  SoftmaxStage(const ElementwiseKernels& kernels, Dtype dtype, const Cut& cut)
      : k_(kernels), dtype_(dtype), item_(kItemSize[static_cast<int>(dtype)]), cut_(cut) {
    std::memset(noise_, 0, sizeof noise_);                  // what lies past a step is read too
  }

  void begin() {
    for (int64_t& block : held_) block = -1;
  }

  Steps slot(int i, const Block& b) { return {slots_[i].bytes, b.width}; }

  // A block of an operand as Reals, where it lies or a copy; `filler` for what no element fills. A slot
  // serves one operand during a panel, so that a copy that it holds is not made again.
  Steps read(const Strided& op, const Panel& p, const Block& b, int slot, double filler) {
    if (direct(op, p, b)) return where(op, p, b);
    const Steps copy = this->slot(slot, b);
    if (held_[slot] == b.first) return copy;
    held_[slot] = b.first;
    if (item_ == 2) {
      const void* raw = where(op, p, b).data;
      // Widening takes 32 elements at a time.
      if (!packed(op, p, b) || b.steps * b.width % 32) {
        gather<uint16_t>(op, p, b, raw_.bytes);
        raw = raw_.bytes;
      }
      k_.widen(dtype_, raw, copy.data, b.steps * b.width);
    } else if (item_ == 4) {
      gather<uint32_t>(op, p, b, copy.data);
    } else {
      gather<uint64_t>(op, p, b, copy.data);
    }
    fill_up(copy, p, b, filler);
    return copy;
  }
  // What no element fills of a block that lies in a slot.
  void fill_up(const Steps& reals, const Panel& p, const Block& b, double filler) const {
    if (item_ == 8)
      fill_up_as(p, b, static_cast<double*>(reals.data), filler);
    else
      fill_up_as(p, b, static_cast<float*>(reals.data), static_cast<float>(filler));
  }

  // Where a block of an operand may be computed; `written` brings it to its place.
  Steps room(const Strided& op, const Panel& p, const Block& b, int slot) {
    return direct(op, p, b) ? where(op, p, b) : this->slot(slot, b);
  }
  void written(const Steps& reals, const Strided& op, const Panel& p, const Block& b) {
    if (direct(op, p, b)) return;
    const int64_t n = b.steps * b.width;
    if (item_ == 2) {
      const bool here = packed(op, p, b) && n % 32 == 0;
      k_.narrow(dtype_, reals.data, here ? where(op, p, b).data : raw_.bytes, n);
      if (!here) scatter<uint16_t>(raw_.bytes, op, p, b);
    } else if (item_ == 4) {
      scatter<uint32_t>(reals.data, op, p, b);
    } else {
      scatter<uint64_t>(reals.data, op, p, b);
    }
  }

  // A number for each softmax of a panel, from (O, I) and back. A row's is the same for all its width.
  void read_inner(const void* from, const Panel& p, void* out) const {
    std::memset(out, 0, static_cast<size_t>(cut_.width * cut_.real));
    const char* first = static_cast<const char*>(from) + (p.outer * cut_.inner + p.inner) * cut_.real;
    for (int64_t i = 0; cut_.rows && i < cut_.width; ++i)
      std::memcpy(static_cast<char*>(out) + i * cut_.real, first, static_cast<size_t>(cut_.real));
    if (!cut_.rows) std::memcpy(out, first, static_cast<size_t>(p.columns * cut_.real));
  }
  void write_inner(const void* numbers, void* to, const Panel& p) const {
    std::memcpy(static_cast<char*>(to) + (p.outer * cut_.inner + p.inner) * cut_.real, numbers,
                static_cast<size_t>(p.columns * cut_.real));
  }

  template <class Make>
  NoiseSteps noise(const Make& make, uint64_t seed, uint64_t offset, const Panel& p, const Block& b) {
    if (cut_.turned) return turned_noise(make, seed, offset, p, b);
    const int64_t row = p.outer * cut_.classes;
    if (!cut_.rows) {
      const int64_t first = (row + b.first) * cut_.inner + p.inner, width = cut_.lanes << cut_.shift;
      make(seed, offset, static_cast<uint64_t>(first), static_cast<uint64_t>(cut_.inner), cut_.shift,
           b.steps * width, noise_);
      return {noise_, width, first % cut_.lanes, cut_.inner % cut_.lanes, cut_.lanes - 1};
    }
    // Rows follow one another in the stream, so short ones share what is made in one go.
    const int64_t begin = row + b.first * b.width, room = Cut::kBlockBytes / cut_.real;
    const int64_t left = cut_.classes - b.first * b.width;
    const int64_t wanted = left < b.steps * b.width ? left : b.steps * b.width;
    if (begin < made_ || begin + wanted > made_end_) {
      const int64_t many = cut_.classes <= room ? room / cut_.classes * cut_.classes : wanted;
      const int64_t end = (cut_.outer * cut_.classes) - begin;
      const int64_t count = many < end ? many : end;
      make(seed, offset, static_cast<uint64_t>(begin), 0, kNeverNext, count + begin % cut_.lanes, noise_);
      made_ = begin;
      made_end_ = begin + count;
    }
    return {noise_ + (made_ % cut_.lanes + begin - made_) * cut_.real, b.width, 0, 0, 0};
  }

  // Rows follow one another in the stream.
  template <class Make>
  NoiseSteps turned_noise(const Make& make, uint64_t seed, uint64_t offset, const Panel& p, const Block& b) {
    const int64_t begin = p.inner * cut_.classes, lead = begin % cut_.lanes;
    make(seed, offset, static_cast<uint64_t>(begin), 0, kNeverNext, p.columns * cut_.classes + lead, noise_);
    const Strided made{noise_ + lead * cut_.real, 0, 1, cut_.classes};
    void* out = slots_[kSoft].bytes;                        // which serves the backward pass only
    if (cut_.real == 8)
      gather_from(static_cast<const uint64_t*>(made.data), made, p, b, out);
    else
      gather_from(static_cast<const uint32_t*>(made.data), made, p, b, out);
    return {out, b.width, 0, 0, 0};
  }

  // Where a block begins, and whether it lies there as Reals and in whole registers.
  Steps where(const Strided& op, const Panel& p, const Block& b) const {
    const int64_t outer = op.repeats && !cut_.turned ? p.outer % op.repeats : p.outer;
    const int64_t inner = op.repeats && cut_.turned ? p.inner % op.repeats : p.inner;
    const int64_t at = outer * op.outer + inner * op.inner + b.first * step_stride(op);
    return {static_cast<char*>(op.data) + at * item_, step_stride(op)};
  }
  bool direct(const Strided& op, const Panel& p, const Block& b) const {
    return item_ > 2 && unit_stride(op) == 1 && full(p, b) && !(op.repeats && cut_.turned);
  }

 private:
  static constexpr int kNeverNext = 62;                     // log2 of the blocks in a step: just one step

  int64_t count(const Panel& p, const Block& b, int64_t step) const {
    if (!cut_.rows) return p.columns;
    const int64_t left = cut_.classes - (b.first + step) * b.width;
    return left < b.width ? left : b.width;
  }
  bool full(const Panel& p, const Block& b) const {
    return count(p, b, 0) == b.width && count(p, b, b.steps - 1) == b.width;
  }
  int64_t step_stride(const Strided& op) const { return cut_.rows ? cut_.width * op.cls : op.cls; }
  int64_t unit_stride(const Strided& op) const { return cut_.rows ? op.cls : op.inner; }
  bool packed(const Strided& op, const Panel& p, const Block& b) const {
    return unit_stride(op) == 1 && step_stride(op) == b.width && full(p, b) && !(op.repeats && cut_.turned);
  }

  template <class T>
  void gather(const Strided& op, const Panel& p, const Block& b, void* to) const {
    if (op.repeats && cut_.turned) return gather_again<T>(op, p, b, to);
    gather_from(static_cast<const T*>(where(op, p, b).data), op, p, b, to);
  }
  template <class T>
  void gather_from(const T* from, const Strided& op, const Panel& p, const Block& b, void* to) const {
    const int64_t stride = unit_stride(op);
    for (int64_t s = 0; s < b.steps; ++s, from += step_stride(op)) {
      T* out = static_cast<T*>(to) + s * b.width;
      const int64_t n = count(p, b, s);
      if (stride == 1)
        std::memcpy(out, from, static_cast<size_t>(n) * sizeof(T));
      else
        for (int64_t i = 0; i < n; ++i) out[i] = from[i * stride];
    }
  }
  // The same of rows side by side that repeat. Apart, for it is seldom called.
  template <class T>
  __attribute__((noinline)) void gather_again(const Strided& op, const Panel& p, const Block& b,
                                              void* to) const {
    const int64_t begin = p.inner % op.repeats;
    const T* from = static_cast<const T*>(where(op, p, b).data) - begin * op.inner;
    for (int64_t s = 0; s < b.steps; ++s, from += step_stride(op)) {
      T* out = static_cast<T*>(to) + s * b.width;
      for (int64_t left = count(p, b, s), row = begin; left > 0; row = 0) {
        const int64_t run = op.repeats - row < left ? op.repeats - row : left;
        for (int64_t j = 0; j < run; ++j) out[j] = from[(row + j) * op.inner];
        out += run;
        left -= run;
      }
    }
  }
  template <class T>
  void scatter(const void* from, const Strided& op, const Panel& p, const Block& b) const {
    T* to = static_cast<T*>(where(op, p, b).data);
    const int64_t stride = unit_stride(op);
    for (int64_t s = 0; s < b.steps; ++s, to += step_stride(op)) {
      const T* in = static_cast<const T*>(from) + s * b.width;
      const int64_t n = count(p, b, s);
      if (stride == 1)
        std::memcpy(to, in, static_cast<size_t>(n) * sizeof(T));
      else
        for (int64_t i = 0; i < n; ++i) to[i * stride] = in[i];
    }
  }
  template <class T>
  void fill_up_as(const Panel& p, const Block& b, T* reals, T filler) const {
    for (int64_t s = 0; s < b.steps; ++s)
      for (int64_t i = count(p, b, s); i < b.width; ++i) reals[s * b.width + i] = filler;
  }

  const ElementwiseKernels& k_;
  const Dtype dtype_;
  const int64_t item_;
  const Cut& cut_;
  int64_t held_[kSlots] = {}, made_ = 0, made_end_ = 0;
  // Not a multiple of 4096 apart, as Slot.
  struct alignas(64) Room {
    unsigned char bytes[Cut::kBlockBytes + 192];
  };
  Room slots_[kSlots], raw_;
  // Room for the lead of the first step, for whole groups, and for a register past the end.
  alignas(64) unsigned char noise_[Cut::kBlockBytes + 2048];
};

}  // namespace fr
