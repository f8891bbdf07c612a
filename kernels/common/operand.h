// Operands that are not linear memory: rows with any strides, staged a tile at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/interface.h"

namespace fr {

// A dense operand is n consecutive elements. Otherwise element i is at row i / columns and column
// i % columns, with strides in elements. Null data is an operand that is absent.
struct Operand {
  void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  bool linear = true;  // n consecutive elements, whatever the strides say
};

namespace strided {

template <class T, class Visit>
inline void for_each_piece(const Operand& op, int64_t columns, int64_t first, int64_t count,
                           const Visit& visit) {
  int64_t row = first / columns, column = first % columns;
  for (int64_t done = 0; done < count; ++row, column = 0) {
    const int64_t left = count - done, length = columns - column < left ? columns - column : left;
    visit(static_cast<T*>(op.data) + row * op.row_stride + column * op.column_stride, done, length);
    done += length;
  }
}

template <class T>
inline void gather(const Operand& op, int64_t columns, int64_t first, int64_t count, T* out) {
  // Of a row that stands for all of them the first `columns` elements are repeated, in ever longer copies.
  const int64_t period = op.row_stride ? count : std::min(columns, count);
  for_each_piece<T>(op, columns, first, period, [&](const T* p, int64_t at, int64_t length) {
    if (op.column_stride == 1)
      std::memcpy(out + at, p, static_cast<size_t>(length) * sizeof(T));
    else if (op.column_stride == 0)
      std::fill_n(out + at, length, *p);
    else
      for (int64_t i = 0; i < length; ++i) out[at + i] = p[i * op.column_stride];
  });
  for (int64_t have = period; have < count; have *= 2)
    std::memcpy(out + have, out, static_cast<size_t>(std::min(have, count - have)) * sizeof(T));
}

template <class T>
inline void scatter(const T* in, const Operand& op, int64_t columns, int64_t first, int64_t count) {
  for_each_piece<T>(op, columns, first, count, [&](T* p, int64_t at, int64_t length) {
    if (op.column_stride == 1)
      std::memcpy(p, in + at, static_cast<size_t>(length) * sizeof(T));
    else
      for (int64_t i = 0; i < length; ++i) p[i * op.column_stride] = in[at + i];
  });
}

// The tile itself when it is linear memory already, else null.
inline void* direct(const Operand& op, int64_t item, int64_t columns, int64_t first, int64_t count) {
  char* data = static_cast<char*>(op.data);
  if (op.linear) return data + first * item;
  const int64_t column = first % columns;
  if (op.column_stride != 1 || column + count > columns) return nullptr;
  return data + (first / columns * op.row_stride + column) * item;
}

}  // namespace strided

// Room for one tile of one operand.
struct alignas(64) Stage {
  unsigned char bytes[kTile * 8];
};

// A tile's elements of `item` bytes, brought together and back to their places.
inline void gather(const Operand& op, int64_t item, int64_t columns, int64_t first, int64_t count,
                   void* to) {
  if (item == 2) strided::gather(op, columns, first, count, static_cast<uint16_t*>(to));
  if (item == 4) strided::gather(op, columns, first, count, static_cast<uint32_t*>(to));
  if (item == 8) strided::gather(op, columns, first, count, static_cast<uint64_t*>(to));
}
inline void scatter(const void* from, const Operand& op, int64_t item, int64_t columns, int64_t first,
                    int64_t count) {
  if (item == 2) strided::scatter(static_cast<const uint16_t*>(from), op, columns, first, count);
  if (item == 4) strided::scatter(static_cast<const uint32_t*>(from), op, columns, first, count);
  if (item == 8) strided::scatter(static_cast<const uint64_t*>(from), op, columns, first, count);
}

// The tile of an input as linear memory.
inline const void* tile_in(const Operand& op, int64_t item, int64_t columns, int64_t first,
                           int64_t count, Stage& stage) {
  if (!op.data) return nullptr;
  if (const void* p = strided::direct(op, item, columns, first, count)) return p;
  gather(op, item, columns, first, count, stage.bytes);
  return stage.bytes;
}

// Where the kernel may write the tile of an output; tile_written brings it to its place.
inline void* tile_out(const Operand& op, int64_t item, int64_t columns, int64_t first, int64_t count,
                      Stage& stage) {
  if (!op.data) return nullptr;
  void* p = strided::direct(op, item, columns, first, count);
  return p ? p : stage.bytes;
}
inline void tile_written(const Operand& op, int64_t item, int64_t columns, int64_t first,
                         int64_t count, const void* p, const Stage& stage) {
  if (p == stage.bytes) scatter(p, op, item, columns, first, count);
}

}  // namespace fr
