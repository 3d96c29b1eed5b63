#include "weights.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

namespace shortlist {

template <class T>
Buffer<T> zeros(size_t count) {
    void* memory = nullptr;   // no byte more than asked for: the sanitizers see what reaches beyond
    if (posix_memalign(&memory, 64, std::max<size_t>(count * sizeof(T), 1)) != 0) throw std::bad_alloc();
    std::memset(memory, 0, count * sizeof(T));
    return Buffer<T>(static_cast<T*>(memory));
}
template Buffer<float> zeros(size_t);
template Buffer<int8_t> zeros(size_t);
template Buffer<uint8_t> zeros(size_t);
template Buffer<int32_t> zeros(size_t);

const Tensor& Tensors::get(const std::string& name, int64_t rows, int64_t columns) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) throw std::invalid_argument("tensor " + name + " is missing");
    const Tensor& tensor = found->second;
    if (tensor.rows != rows || tensor.columns != columns) {
        throw std::invalid_argument("tensor " + name + " has shape [" + std::to_string(tensor.rows) + ", " +
                                    std::to_string(tensor.columns) + "], expected [" + std::to_string(rows) + ", " +
                                    std::to_string(columns) + "]");
    }
    return tensor;
}

namespace {

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

float from_bfloat16(uint16_t half) { return from_bits(static_cast<uint32_t>(half) << 16); }

// IEEE half precision: exponent and mantissa move up; a multiplication by 2^112 sets the exponent's bias right, subnormals
// included. Infinity and NaN become infinity, by a mask that is all ones for them. No branch: the compiler makes vectors of it.
float from_float16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000u : 0u;
    return from_bits(to_bits(from_bits(magnitude) * 5.192296858534828e33f) | sign | special);
}

template <class T>
T element(const void* data, int64_t index) {
    T value;
    std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof value);
    return value;
}

// The bits of the largest |x|. For bit patterns without sign, integer order is the order of the numbers, and infinity
// and NaN come last, so one pass finds the largest and tells whether all are finite.
uint32_t largest_magnitude(const float* x, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return static_cast<uint32_t>(largest);
}

}   // namespace

namespace {

int64_t element_size(Kind kind) { return kind == Kind::kFloat32 ? 4 : kind == Kind::kInt8 ? 1 : 2; }

void to_floats(Kind kind, const void* data, int64_t count, float scale, float* out) {
    switch (kind) {
        case Kind::kFloat32: std::memcpy(out, data, static_cast<size_t>(count) * 4); break;
        case Kind::kFloat16:
            for (int64_t i = 0; i < count; i++) out[i] = from_float16(element<uint16_t>(data, i));
            break;
        case Kind::kBfloat16:
            for (int64_t i = 0; i < count; i++) out[i] = from_bfloat16(element<uint16_t>(data, i));
            break;
        case Kind::kInt8:
            for (int64_t i = 0; i < count; i++) out[i] = static_cast<float>(element<int8_t>(data, i)) * scale;
            break;
    }
}

void read_file(const Tensor& tensor, int64_t at, char* out, int64_t size) {
    while (size > 0) {
        const ssize_t got = pread(tensor.file, out, static_cast<size_t>(size), static_cast<off_t>(tensor.place + at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) throw std::invalid_argument("tensor " + tensor.name + " cannot be read: its file was cut or is gone");
        out += got, at += got, size -= got;
    }
}

}   // namespace

void load_row(const Tensor& tensor, int64_t row, float* out) {
    const int64_t size = element_size(tensor.kind), first = row * tensor.columns * size, end = first + tensor.columns * size;
    const float scale = tensor.kind == Kind::kInt8 ? element<float>(tensor.scales, row) : 1.0f;
    if (tensor.file < 0 || row < kMappedRows) {
        to_floats(tensor.kind, static_cast<const char*>(tensor.data) + first, tensor.columns, scale, out);
    } else {
        char piece[2048];
        float* to = out;
        for (int64_t at = first; at < end; at += static_cast<int64_t>(sizeof piece)) {
            const int64_t bytes = std::min(end - at, static_cast<int64_t>(sizeof piece));
            read_file(tensor, at, piece, bytes);
            to_floats(tensor.kind, piece, bytes / size, scale, to);
            to += bytes / size;
        }
    }
    if (largest_magnitude(out, tensor.columns) >= 0x7f800000) {
        throw std::invalid_argument("tensor " + tensor.name + " holds NaN or infinity in row " + std::to_string(row));
    }
}

Buffer<float> load(const Tensor& tensor, int width) {
    Buffer<float> out = zeros<float>(static_cast<size_t>(tensor.rows) * static_cast<size_t>(width));
    for (int64_t r = 0; r < tensor.rows; r++) load_row(tensor, r, out.get() + r * width);
    return out;
}

Linear::Linear(int padded_outputs, int padded_inputs, const Kernels* int8)
    : outputs_(padded_outputs), inputs_(padded_inputs), int8_kernels_(int8) {
    const size_t size = static_cast<size_t>(outputs_) * static_cast<size_t>(inputs_);
    bias_ = zeros<float>(static_cast<size_t>(outputs_));
    if (int8_kernels_) {
        bytes_ = zeros<uint8_t>(size);
        scales_ = zeros<float>(static_cast<size_t>(outputs_));
    } else {
        floats_ = zeros<float>(size);
    }
}

void Linear::set(const Tensor& weight, const Tensor& bias, const Axis& outputs, const Axis& inputs, int first_output) {
    row_ = zeros<float>(static_cast<size_t>(inputs.count));
    quantized_ = zeros<int8_t>(static_cast<size_t>(inputs_));
    for (int o = 0; o < outputs.count; o++) {
        const int output = first_output + outputs.position(o);
        load_row(bias, o, bias_.get() + output);
        if (int8_kernels_) {
            put_int8(weight, o, inputs, output);
        } else {
            put_float(weight, o, inputs, output);
        }
    }
    row_.reset();
    quantized_.reset();
}

// One output into its panel: bytes [inputs / 4][64][4], weight + added.
void Linear::put_int8(const Tensor& weight, int row, const Axis& inputs, int output) {
    load_row(weight, row, row_.get());
    if (weight.kind == Kind::kInt8) {
        scales_[output] = element<float>(weight.scales, row);
        for (int i = 0; i < inputs.count; i++) {
            quantized_[inputs.position(i)] = element<int8_t>(weight.data, static_cast<int64_t>(row) * inputs.count + i);
        }
    } else {
        const float largest = from_bits(largest_magnitude(row_.get(), inputs.count));
        const float scale = largest / 127.0f;
        const float inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
        scales_[output] = scale;
        constexpr float kShift = 12582912.0f;   // adding 1.5 * 2^23 rounds to the nearest integer, ties to even
        for (int g = 0; g < inputs.count; g += inputs.group) {
            const float* from = row_.get() + g;
            int8_t* to = quantized_.get() + inputs.position(g);
            for (int i = 0; i < inputs.group; i++)
                to[i] = static_cast<int8_t>(static_cast<int32_t>((from[i] * inverse + kShift) - kShift));
        }
    }
    uint8_t* panel =
        bytes_.get() + static_cast<size_t>(output / kPanel * kPanel) * static_cast<size_t>(inputs_) + output % kPanel * 4;
    const uint32_t added = int8_kernels_->added ? 0x80808080u : 0;   // added by exclusive or: 128 to each byte, or nothing
    for (int k = 0; k < inputs_; k += 4) {
        uint32_t four;
        std::memcpy(&four, quantized_.get() + k, sizeof four);
        four ^= added;
        std::memcpy(panel + static_cast<ptrdiff_t>(k) * kPanel, &four, sizeof four);
    }
}

// One output into its panel: floats [inputs][64].
void Linear::put_float(const Tensor& weight, int row, const Axis& inputs, int output) {
    load_row(weight, row, row_.get());
    float* panel =
        floats_.get() + static_cast<size_t>(output / kPanel * kPanel) * static_cast<size_t>(inputs_) + output % kPanel;
    for (int i = 0; i < inputs.count; i++) panel[static_cast<ptrdiff_t>(inputs.position(i)) * kPanel] = row_[i];
}

}   // namespace shortlist
