// The reference kernels: plain loops in C++17 that say what each kernel computes, for any processor.
// The loops over 64 outputs or over a row's columns are written so that compilers turn them into vector code.
#include <cmath>
#include <cstring>

#include "half_dots.h"
#include "kernels.h"

namespace shortlist {
namespace {

// Rounds to nearest, ties to even, as the vector instructions do; |x| < 2^22. (Adding 1.5 * 2^23 leaves no fraction bits.)
inline float round_to_even(float x) {
    constexpr float kShift = 12582912.0f;
    return (x + kShift) - kShift;
}

// The largest |x|; NaN if one is NaN: without the sign, the order of the bits is that of the numbers, and NaN comes last.
float largest_magnitude(const float* x, int count) {
    int32_t largest = 0;
    for (int k = 0; k < count; k++) {
        int32_t bits;
        std::memcpy(&bits, x + k, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float value;
    std::memcpy(&value, &largest, sizeof value);
    return value;
}

// float[width] -> int8[width], scale and offset of the row.
void quantize_row(const float* x, int width, int8_t* values, float* scale, int32_t* offset) {
    float largest = largest_magnitude(x, width);
    if (!(largest < INFINITY)) {   // no integers stand for such a row: its scale makes every product NaN, whatever they are
        *scale = NAN;
        *offset = 0;
        return;
    }
    if (!(largest > 1e-12f)) largest = 1e-12f;
    const float inverse = 127.0f / largest;
    int32_t sum = 0;
    for (int k = 0; k < width; k++) {
        const int32_t q = static_cast<int32_t>(round_to_even(x[k] * inverse));
        values[k] = static_cast<int8_t>(q);
        sum += q;
    }
    *scale = largest / 127.0f;
    *offset = 128 * sum;
}

void quantize(const float* x, int rows, int width, const Int8Rows& out) {
    for (int r = 0; r < rows; r++) {
        const ptrdiff_t at = static_cast<ptrdiff_t>(r) * width;
        quantize_row(x + at, width, out.values + at, out.scales + r, out.offsets + r);
    }
}

float gelu(float x, const GeluCurve& curve) {
    const float z = x < -curve.limit ? -curve.limit : x > curve.limit ? curve.limit : x;
    const float t = z * z * (2.0f / (curve.limit * curve.limit)) - 1.0f;
    float p = curve.terms[kGeluTerms - 1];
    for (int i = kGeluTerms - 2; i >= 0; i--) p = p * t + curve.terms[i];
    return x * (z * p + 0.5f);
}

void gelu_quantize(float* x, int rows, int width, const GeluCurve& curve, const Int8Rows& out) {
    for (int r = 0; r < rows; r++) {
        const ptrdiff_t at = static_cast<ptrdiff_t>(r) * width;
        for (int k = 0; k < width; k++) x[at + k] = gelu(x[at + k], curve);
        quantize_row(x + at, width, out.values + at, out.scales + r, out.offsets + r);
    }
}

// For each output n of a panel: sum over k of byte[n][k] * row[k], exact in int32.
void dot_panel_int8(const uint8_t* panel, const int8_t* row, int inputs, int32_t* sums) {
    for (int n = 0; n < kPanel; n++) sums[n] = 0;
    for (int k = 0; k < inputs; k += 4, panel += 4 * kPanel) {
        for (int n = 0; n < kPanel; n++) {
            const uint8_t* w = panel + 4 * n;
            sums[n] += w[0] * row[k] + w[1] * row[k + 1] + w[2] * row[k + 2] + w[3] * row[k + 3];
        }
    }
}

void linear_int8(const Int8Weights& weights, const Int8Rows& rows, int count, const float* residual, float* out,
                 ptrdiff_t stride) {
    for (int first = 0; first < weights.outputs; first += kPanel) {
        const uint8_t* panel = weights.panels + static_cast<ptrdiff_t>(first) * weights.inputs;
        for (int r = 0; r < count; r++) {
            int32_t sums[kPanel];
            dot_panel_int8(panel, rows.values + static_cast<ptrdiff_t>(r) * weights.inputs, weights.inputs, sums);
            const ptrdiff_t at = r * stride + first;
            for (int n = 0; n < kPanel; n++) {
                const float scale = weights.scales[first + n] * rows.scales[r];
                const float value = static_cast<float>(sums[n] - rows.offsets[r]) * scale + weights.bias[first + n];
                out[at + n] = residual ? value + residual[at + n] : value;
            }
        }
    }
}

void linear_float(const FloatWeights& weights, const float* rows, int count, const float* residual, float* out,
                  ptrdiff_t stride) {
    for (int first = 0; first < weights.outputs; first += kPanel) {
        const float* panel = weights.panels + static_cast<ptrdiff_t>(first) * weights.inputs;
        for (int r = 0; r < count; r++) {
            const float* row = rows + static_cast<ptrdiff_t>(r) * weights.inputs;
            float sums[kPanel] = {};
            for (int k = 0; k < weights.inputs; k++) {
                for (int n = 0; n < kPanel; n++) sums[n] += row[k] * panel[static_cast<ptrdiff_t>(k) * kPanel + n];
            }
            const ptrdiff_t at = r * stride + first;
            for (int n = 0; n < kPanel; n++) {
                const float value = sums[n] + weights.bias[first + n];
                out[at + n] = residual ? value + residual[at + n] : value;
            }
        }
    }
}

void layer_norm(const float* x, int rows, int size, int width, const float* gain, const float* shift, float eps, float* out) {
    for (int r = 0; r < rows; r++, x += width, out += width) {
        float sum = 0.0f;
        for (int k = 0; k < size; k++) sum += x[k];
        const float mean = sum / static_cast<float>(size);
        float squares = 0.0f;
        for (int k = 0; k < size; k++) squares += (x[k] - mean) * (x[k] - mean);
        const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
        for (int k = 0; k < width; k++) out[k] = (x[k] - mean) * inverse * gain[k] + shift[k];
    }
}

// scores[j] = exp((query . key j) * scale - maximum); returns 1 / sum of them.
float softmax_scores(const AttentionHead& head, const float* query, float* scores) {
    float largest = -INFINITY;
    for (int j = 0; j < head.length; j++) {
        const float* key = head.keys + j * head.key_stride;
        float dot = 0.0f;
        for (int d = 0; d < head.width; d++) dot += query[d] * key[d];
        scores[j] = dot * head.scale;
        largest = scores[j] > largest ? scores[j] : largest;
    }
    float sum = 0.0f;
    for (int j = 0; j < head.length; j++) {
        scores[j] = std::exp(scores[j] - largest);
        sum += scores[j];
    }
    return 1.0f / sum;
}

void attention(const AttentionHead& head) {
    float* scores = head.scratch;
    for (int i = 0; i < head.queries; i++) {
        const float inverse = softmax_scores(head, head.query + i * head.query_stride, scores);
        float* context = head.context + i * head.query_stride;   // the query row is read: its memory may be overwritten
        for (int d = 0; d < head.width; d++) context[d] = 0.0f;
        for (int j = 0; j < head.length; j++) {
            const float* value = head.values + j * head.key_stride;
            for (int d = 0; d < head.width; d++) context[d] += scores[j] * value[d];
        }
        for (int d = 0; d < head.width; d++) context[d] *= inverse;
    }
}

// float[rows][width], rows `stride` apart -> int16[rows][width] without gaps; returns what one unit is worth: NaN where the rows
// hold NaN or infinity, and then all of `out` is 0.
float round_rows(const float* x, ptrdiff_t stride, int rows, int width, int limit, int16_t* out) {
    float largest = 1e-12f;
    for (int r = 0; r < rows; r++) {
        const float of_row = largest_magnitude(x + r * stride, width);
        largest = of_row <= largest ? largest : of_row;
        if (!(largest < INFINITY)) {
            std::memset(out, 0, static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof *out);
            return NAN;
        }
    }
    const float factor = static_cast<float>(limit) / largest;
    for (int r = 0; r < rows; r++) {
        for (int d = 0; d < width; d++, out++) *out = static_cast<int16_t>(round_to_even(x[r * stride + d] * factor));
    }
    return largest / static_cast<float>(limit);
}

// scores[length] in powers of two -> weights in whole units; returns 1 / sum of them.
float softmax_units(float* scores, int length) {
    float largest = -INFINITY, sum = 0.0f;
    for (int j = 0; j < length; j++) largest = scores[j] > largest ? scores[j] : largest;
    for (int j = 0; j < length; j++) {
        scores[j] = std::exp2(scores[j] - largest);
        sum += scores[j];
    }
    if (!(sum < INFINITY)) {   // scores that are no numbers
        std::memset(scores, 0, static_cast<size_t>(length) * sizeof *scores);
        return NAN;
    }
    const float unit = kWeightSum / sum < kLargestWeight ? kWeightSum / sum : kLargestWeight;
    float units = 0.0f;
    for (int j = 0; j < length; j++) {
        scores[j] = round_to_even(scores[j] * unit);
        units += scores[j];   // whole and below 2^24: exact
    }
    return 1.0f / units;
}

void attention_int16(const AttentionHead& head) {
    constexpr float kLog2E = 1.442695041f;
    const int limit = attention_limit(head.width);
    const ptrdiff_t size = static_cast<ptrdiff_t>(head.length) * head.width;
    float* scores = head.scratch;
    int16_t* keys = reinterpret_cast<int16_t*>(scores + round_up(head.length, kLanes));
    int16_t *values = keys + size, *query = values + size;
    const float key_unit = round_rows(head.keys, head.key_stride, head.length, head.width, limit, keys);
    const float value_unit = round_rows(head.values, head.key_stride, head.length, head.width, kLargestNumber, values);
    for (int i = 0; i < head.queries; i++) {
        const float query_unit = round_rows(head.query + i * head.query_stride, 0, 1, head.width, limit, query);
        const float factor = query_unit * key_unit * head.scale * kLog2E;
        for (int j = 0; j < head.length; j++) {
            int32_t dot = 0;
            for (int d = 0; d < head.width; d++) dot += query[d] * keys[static_cast<ptrdiff_t>(j) * head.width + d];
            scores[j] = static_cast<float>(dot) * factor;
        }
        const float inverse = softmax_units(scores, head.length) * value_unit;
        for (int d = 0; d < head.width; d++) {
            int32_t sum = 0;
            for (int j = 0; j < head.length; j++)
                sum += static_cast<int32_t>(scores[j]) * values[static_cast<ptrdiff_t>(j) * head.width + d];
            head.context[i * head.query_stride + d] = static_cast<float>(sum) * inverse;
        }
    }
}

// Lane l sums the products of the columns l, l + kLanes, ...: sums that stand side by side become vector code.
float dot(const float* a, const float* b, int width) {
    float sums[kLanes] = {};
    for (int k = 0; k < width; k += kLanes) {
        for (int l = 0; l < kLanes; l++) sums[l] += a[k + l] * b[k + l];
    }
    float sum = 0.0f;
    for (int l = 0; l < kLanes; l++) sum += sums[l];
    return sum;
}

void normalize(const float* x, int width, float* out) {
    const float length = std::sqrt(dot(x, x, width));
    const float inverse = 1.0f / (length > 1e-12f ? length : 1e-12f);
    for (int k = 0; k < width; k++) out[k] = x[k] * inverse;
}

void largest_dots(const float* rows, int count, const float* others, int other_count, int width, float* best) {
    for (int i = 0; i < count; i++, rows += width) {
        best[i] = -INFINITY;
        for (int j = 0; j < other_count; j++) {
            const float product = dot(rows, others + static_cast<ptrdiff_t>(j) * width, width);
            best[i] = product > best[i] ? product : best[i];
        }
    }
}

void dots(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out) {
    for (size_t i = 0; i < count; i++) {
        const int8_t* row = reinterpret_cast<const int8_t*>(rows.data + (first + i) * rows.stride + sizeof(float));
        int32_t sum = 0;
        for (size_t j = 0; j < rows.dims; j++) sum += row[j] * query[j];
        out[i] = sum;
    }
}

int32_t bits_in(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    return static_cast<int32_t>(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

void bit_dots(const Rows& rows, size_t first, size_t count, const BitQuery& query, int32_t* out) {
    const size_t bytes = rows.stride - kBitHeader;
    for (size_t i = 0; i < count; i++) {
        const uint8_t* row = rows.data + (first + i) * rows.stride + kBitHeader;
        int32_t sum = 0;
        for (size_t j = 0; j < bytes; j += sizeof(uint64_t)) {
            uint64_t bits = 0;
            std::memcpy(&bits, row + j, bytes - j < sizeof bits ? bytes - j : sizeof bits);
            for (size_t p = 0; p < kPlanes; p++) {
                uint64_t plane;
                std::memcpy(&plane, query.planes + p * query.width + j, sizeof plane);
                const int32_t weight = p + 1 == kPlanes ? -(1 << p) : 1 << p;
                sum += weight * bits_in(bits & plane);
            }
        }
        out[i] = sum;
    }
}

// Eight floats, which the compiler turns into vectors.
struct Plain {
    struct Eight {
        float of[8];
        Eight operator+(const Eight& other) const {
            Eight sum;
            for (int k = 0; k < 8; k++) sum.of[k] = of[k] + other.of[k];
            return sum;
        }
        Eight operator*(const Eight& other) const {
            Eight product;
            for (int k = 0; k < 8; k++) product.of[k] = of[k] * other.of[k];
            return product;
        }
    };

    // The bits of exponent and fraction stand for a float 2^112 times smaller, exactly, numbers below the normal ones too.
    static float one(uint16_t half) {
        const uint32_t size = static_cast<uint32_t>(half & 0x7fff) << 13, sign = static_cast<uint32_t>(half & 0x8000) << 16;
        float value;
        std::memcpy(&value, &size, sizeof value);
        value *= 0x1p112f;
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        bits |= sign;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    static Eight widen(const uint16_t* from) {
        Eight eight;
        for (int k = 0; k < 8; k++) eight.of[k] = one(from[k]);
        return eight;
    }
    static Eight load(const float* from) {
        Eight eight;
        std::memcpy(eight.of, from, sizeof eight.of);
        return eight;
    }
    static void store(float* to, const Eight& eight) { std::memcpy(to, eight.of, sizeof eight.of); }
};

}   // namespace

void half_dots_portable(const uint16_t* rows, size_t count, size_t dims, const float* query, float* out) {
    half_dots_of<Plain>(rows, count, dims, query, out);
}

const Kernels& portable_kernels() {
    static const Kernels kernels{"portable", 128,       quantize,  gelu_quantize, linear_int8, linear_float,
                                 layer_norm, attention, attention_int16, normalize, largest_dots,  dots,
                                 bit_dots,   half_dots_portable};
    return kernels;
}

}   // namespace shortlist
