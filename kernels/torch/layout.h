// Where the operands of a call lie: fused_reparam/ops/layout.py in C++. An op's order lists its dims from
// the outermost in memory to the innermost; the empty list means the dims' own order.
#pragma once

#include "torch/common.h"
#include "torch/memory.h"

namespace fr::ops {

inline bool is_permutation(IntArrayRef order, int64_t dims) {
  if (order.empty()) return true;
  if (static_cast<int64_t>(order.size()) != dims) return false;
  uint64_t seen = 0;
  for (int64_t d : order) {
    if (d < 0 || d >= dims || d >= 64 || (seen >> d & 1)) return false;
    seen |= uint64_t{1} << d;
  }
  return true;
}

inline Dims in_order(IntArrayRef x, IntArrayRef order) {
  if (order.empty()) return Dims(x.begin(), x.end());
  Dims found;
  for (int64_t d : order) found.push_back(x[static_cast<size_t>(d)]);
  return found;
}

// The order of a tensor's dims in memory, as at::empty_like would keep it.
inline Dims memory_order(const Tensor& t) {
  Dims order;
  if (t.is_contiguous()) return order;
  for (int64_t d = 0; d < t.dim(); ++d)
    if (t.stride(d) == 0 && t.size(d) != 1) return order;  // expanded: its strides say nothing of the order
  for (int64_t d = 0; d < t.dim(); ++d) {
    auto at = order.end();
    while (at != order.begin() && t.stride(*(at - 1)) < t.stride(d)) --at;
    order.insert(at, d);
  }
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != static_cast<int64_t>(i)) return order;
  return {};
}

// An uninitialised tensor, dense in the given order.
inline Tensor empty_ordered(IntArrayRef shape, IntArrayRef order, const at::TensorOptions& options) {
  if (order.empty()) return empty_result(shape, options);
  Dims inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) inverse[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return empty_result(in_order(shape, order), options).permute(inverse);
}

// As consecutive elements in an order; a copy where they are not.
inline Tensor consecutive(const Tensor& t, IntArrayRef order) {
  return (order.empty() ? t : t.permute(order)).contiguous();
}

// The shape that shapes broadcast to; false where they don't.
inline bool broadcast(Dims& shape, IntArrayRef other) {
  if (shape == other) return true;
  if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
  const size_t ahead = shape.size() - other.size();
  for (size_t i = 0; i < other.size(); ++i) {
    int64_t& size = shape[ahead + i];
    if (size == 1)
      size = other[i];
    else if (other[i] != 1 && other[i] != size)
      return false;
  }
  return true;
}

// The constant stride of dims first .. last - 1 walked in order, or -1 where there is none; 0 of no dims.
inline int64_t run_stride(const Dims& shape, const Dims& strides, size_t first, size_t last) {
  int64_t run = -1, extent = 1;
  for (size_t d = last; d-- > first;) {
    if (shape[d] == 1) continue;
    if (run < 0)
      run = strides[d];
    else if (strides[d] != run * extent)
      return -1;
    extent *= shape[d];
  }
  return run < 0 ? 0 : run;
}

// An operand's memory: a tensor, or one of the two halves of it along a dim.
struct View {
  Tensor tensor;
  int64_t split = -1, half = 0;

  bool defined() const { return tensor.defined(); }
  int64_t size(int64_t d) const { return d == split ? tensor.size(d) / 2 : tensor.size(d); }
  Dims sizes() const {
    Dims found(tensor.sizes().begin(), tensor.sizes().end());
    if (split >= 0) found[static_cast<size_t>(split)] /= 2;
    return found;
  }
  void* data() const {
    if (!defined()) return nullptr;
    char* p = static_cast<char*>(tensor.data_ptr());
    if (half) p += tensor.size(split) / 2 * tensor.stride(split) * tensor.element_size();
    return p;
  }
  Tensor as_tensor() const {
    if (split < 0) return tensor;
    return tensor.narrow(split, half * (tensor.size(split) / 2), tensor.size(split) / 2);
  }
};

// Operands of one shape as the library takes them: dense, or rows of `columns` elements with two strides
// each. An input that no rows can show is copied.
class Operands {
 public:
  Operands(const Dims& shape, IntArrayRef order) : given_(shape), order_(order) {}

  // An undefined tensor is an operand that is absent.
  void add(View view, bool output = false) {
    Operand& op = operands_.emplace_back();
    op.output = output;
    op.data = view.data();
    // As most are: strides need no looking at.
    op.dense = !view.defined() || (order_.empty() && view.split < 0 && view.tensor.is_contiguous() &&
                                   view.tensor.sizes() == given_);
    dense_ = dense_ && op.dense;
    op.view = std::move(view);
  }
  void add(const Tensor& t, bool output = false) { add(View{t}, output); }

  void arrange() {
    if (dense_) return;
    shape_ = in_order(given_, order_);
    for (Operand& op : operands_)
      if (op.data) set_strides(op);
    const size_t dims = shape_.size();
    size_t best = 0;
    int64_t fewest = -1;
    for (size_t split = 0; split <= dims; ++split) {
      int64_t copies = 0;
      bool writable = true;
      for (const Operand& op : operands_) {
        if (!op.data || shows(op, split)) continue;
        ++copies;
        writable = writable && !op.output;
      }
      // The first of the best has the longest columns.
      if (!writable || (fewest >= 0 && copies >= fewest)) continue;
      fewest = copies;
      best = split;
      if (copies == 0) break;
    }
    settle(best);
  }

  // 0: dense.
  int64_t columns() const { return columns_; }
  void* data(size_t i) const { return operands_[i].data; }
  const fused_reparam_strides& strides(size_t i) const { return operands_[i].rows; }

 private:
  struct Operand {
    View view;
    void* data = nullptr;
    Dims strides;
    bool output = false, dense = false;
    fused_reparam_strides rows{};
  };

  void set_strides(Operand& op) const {
    Dims strides(given_.size());
    const Tensor& t = op.view.tensor;
    const size_t ahead = given_.size() - static_cast<size_t>(t.dim());
    for (size_t d = ahead; d < given_.size(); ++d) {
      const int64_t own = static_cast<int64_t>(d - ahead);
      strides[d] = op.view.size(own) == 1 && given_[d] != 1 ? 0 : t.stride(own);
    }
    op.strides = in_order(strides, order_);
  }

  bool shows(const Operand& op, size_t split) const {
    return run_stride(shape_, op.strides, 0, split) >= 0 &&
           run_stride(shape_, op.strides, split, shape_.size()) >= 0;
  }

  void settle(size_t split) {
    const size_t dims = shape_.size();
    int64_t columns = 1;
    for (size_t d = split; d < dims; ++d) columns *= shape_[d];
    bool dense = split == 0;
    for (Operand& op : operands_) {
      if (!op.data) continue;
      if (!shows(op, split)) {
        op.view = View{consecutive(op.view.as_tensor().expand(given_), order_)};
        op.data = op.view.data();
        op.rows = {columns, 1};
        continue;
      }
      op.rows = {run_stride(shape_, op.strides, 0, split), run_stride(shape_, op.strides, split, dims)};
      dense = dense && (op.rows.column == 1 || columns == 1);
    }
    columns_ = dense ? 0 : columns;
  }

  const Dims& given_;
  IntArrayRef order_;
  Dims shape_;
  c10::SmallVector<Operand, 10> operands_;
  int64_t columns_ = 0;
  bool dense_ = true;
};

}  // namespace fr::ops
