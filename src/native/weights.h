// Weights as a file holds them (Tensor) and as the kernels want them (Linear).
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>

#include "kernels.h"

namespace shortlist {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

// `count` zeros, aligned to 64 bytes. Throws std::bad_alloc.
template <class T>
Buffer<T> zeros(size_t count);

enum class Kind { kFloat32, kFloat16, kBfloat16, kInt8 };

// A matrix that somebody else owns (often a memory-mapped file; it may be unaligned). A vector has one column.
struct Tensor {
    std::string name;
    const void* data;
    Kind kind;
    int64_t rows, columns;
    const void* scales;   // float32[rows] for kInt8: real value = byte * scale of its row; else null
    // Where `data` lies in an open file, if it does: rows from kMappedRows on are read from there (see load_row).
    int file = -1;
    int64_t place = 0;
};

// Vocabularies are sorted by frequency: these rows are what texts touch most, and all that a process keeps mapped.
constexpr int64_t kMappedRows = 16384;

class Tensors {
  public:
    void add(Tensor tensor) { by_name_[tensor.name] = std::move(tensor); }
    // The tensor, which must have this shape. Throws std::invalid_argument.
    const Tensor& get(const std::string& name, int64_t rows, int64_t columns) const;

  private:
    std::unordered_map<std::string, Tensor> by_name_;
};

// One row as floats. Throws std::invalid_argument when a value is NaN or infinite, or when a file is shorter than it was.
//
// A rare row of a tensor with a file is read with a system call (0.4 us) and not through the mapping: a page fault maps the
// 64 KB around a row, so that texts in many languages would soon have the whole of a large table resident.
void load_row(const Tensor& tensor, int64_t row, float* out);

// A whole tensor as floats: float[rows][width], columns from tensor.columns on are zero.
Buffer<float> load(const Tensor& tensor, int width);

// How the rows or columns of a stored matrix are spread over the padded ones: `group` at a time, each group padded to
// `padded_group`. Heads are groups; a plain axis is one group.
struct Axis {
    int count;
    int group;
    int padded_group;
    int padded;   // all of them, a multiple of kPanel

    static Axis plain(int count) { return {count, count, count, round_up(count, kPanel)}; }
    static Axis heads(int heads, int size) {
        return {heads * size, size, round_up(size, kLanes), round_up(heads * round_up(size, kLanes), kPanel)};
    }
    int position(int i) const { return i / group * padded_group + i % group; }
};

// A linear layer, packed for the kernels; either in int8 or in float32.
class Linear {
  public:
    Linear() = default;
    // int8: the kernels that are to read it in int8; null for float32.
    Linear(int padded_outputs, int padded_inputs, const Kernels* int8);

    // Puts weight (float[outputs][inputs]) and bias (float[outputs]) at the padded outputs from `first_output` on.
    void set(const Tensor& weight, const Tensor& bias, const Axis& outputs, const Axis& inputs, int first_output = 0);

    int outputs() const { return outputs_; }
    Int8Weights int8() const { return {outputs_, inputs_, bytes_.get(), scales_.get(), bias_.get()}; }
    FloatWeights float32() const { return {outputs_, inputs_, floats_.get(), bias_.get()}; }

  private:
    void put_int8(const Tensor& weight, int row, const Axis& inputs, int output);
    void put_float(const Tensor& weight, int row, const Axis& inputs, int output);

    int outputs_ = 0, inputs_ = 0;
    const Kernels* int8_kernels_ = nullptr;
    Buffer<uint8_t> bytes_;
    Buffer<float> scales_, floats_, bias_;
    Buffer<float> row_;   // one row of floats while packing
    Buffer<int8_t> quantized_;
};

}   // namespace shortlist
