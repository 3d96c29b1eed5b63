// The kernels of a BERT-family network and of the index scan: one table of function pointers for each instruction set.
//
// Shapes. A row of numbers is padded with zeros to a multiple of kPanel columns, and every kernel keeps that padding
// zero: packed weights give padded outputs weight, scale and bias 0, and the normalisation gives them gain and shift 0.
// So no kernel has code for the tail of a row, whatever the sizes of the network.
//
// Arithmetic. What a kernel computes for one row does not depend on the other rows of the call: the result of a text is
// the same to the last bit in any batch. Integer sums are exact, hence equal on every instruction set; floating-point
// steps may differ between instruction sets in the last bits (fused multiply-add, order of a sum).
#pragma once
#include <cstddef>
#include <cstdint>

namespace shortlist {

constexpr int kPanel = 64;      // columns that one panel of packed weights produces
constexpr int kLanes = 16;      // head sizes and key counts are padded to this many floats
constexpr int kGeluTerms = 9;   // coefficients of the polynomial in GeluCurve
constexpr int kQueryTile = 8;   // query rows that attention works on together

static constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Rows quantised one by one: real value = values * scale of the row. Row r begins at values + r * width.
struct Int8Rows {
    int8_t* values;     // int8[rows][width], within -127..127
    float* scales;      // float[rows]
    int32_t* offsets;   // int32[rows], Kernels::added * sum of the row: what that adds to each dot product
};

// A linear layer in int8. Panel p holds the outputs 64p..64p+63 as bytes [inputs / 4][64][4]: four inputs of one output
// lie side by side, as the byte dot product wants them. A byte is weight + Kernels::added; real weight = weight * scale.
struct Int8Weights {
    int outputs;   // padded to kPanel
    int inputs;    // padded to kPanel
    const uint8_t* panels;
    const float* scales;   // float[outputs]
    const float* bias;     // float[outputs]
};

// A linear layer in float32. Panel p holds the outputs 64p..64p+63 as floats [inputs][64].
struct FloatWeights {
    int outputs;
    int inputs;
    const float* panels;
    const float* bias;
};

// GELU without exp: x * (1/2 + z * P(2 z^2 / limit^2 - 1)) with z = x clamped to -limit..limit, P of degree kGeluTerms - 1.
struct GeluCurve {
    float limit;
    float terms[kGeluTerms];   // lowest power first
};

// One head of attention over one sequence: context = softmax(query keys' * scale) values.
// All pointers point at the first column of this head. context may be the same memory as query.
struct AttentionHead {
    const float* query;   // float[queries], rows query_stride apart
    float* context;       // the same shape and stride
    ptrdiff_t query_stride;
    int queries;
    const float* keys;     // float[length], rows key_stride apart
    const float* values;   // the same shape and stride
    ptrdiff_t key_stride;
    int length;
    int width;   // columns of the head, a multiple of kLanes
    float scale;
    float* scratch;   // float[attention_scratch(length, width)], 64-byte aligned
};

// Floats of working memory for one AttentionHead: keys and values as a kernel wants them, the scores of one tile, a few rows.
// Linear in length.
static constexpr size_t attention_scratch(int length, int width) {
    return static_cast<size_t>(round_up(width, 2 * kLanes) + kQueryTile) * static_cast<size_t>(round_up(length, kLanes)) +
           static_cast<size_t>(kLanes) * static_cast<size_t>(round_up(width, 2 * kLanes) / 2);
}

constexpr int kLargestNumber = 4095;
constexpr float kWeightSum = 500000.0f;
constexpr float kLargestWeight = 32767.0f;

// How large the whole numbers of a head of this width may be: a sum over its columns stays below 2^31.
static constexpr int attention_limit(int width) {
    int limit = kLargestNumber;
    while (static_cast<int64_t>(limit) * limit * width > 0x7fffffff) limit--;
    return limit;
}

// Rows of a vector file, `stride` bytes each. In int8: a float32 scale, int8[dims], zero bytes up to the stride. In bits: two
// float32 (kBitHeader bytes), then dims bits, the first one the highest of its byte, and zeros up to the stride.
struct Rows {
    const uint8_t* data;
    size_t count, stride, dims;
};
constexpr size_t kBitHeader = 2 * sizeof(float);
constexpr size_t kAhead = 8192;   // bytes that the scans ask memory for in advance: some 300 ns of it

// A query for rows of bits: whole numbers from -7 to 7 as kPlanes planes of bits in the layout of a row, plane p holding bit p of
// the two's complement, so that a dot product is counting bits. Each plane is padded with zeros to `width` bytes.
constexpr size_t kPlanes = 4, kPlaneUnit = 64;
struct BitQuery {
    const uint8_t* planes;   // kPlanes of width bytes
    size_t width;            // a multiple of kPlaneUnit
};

struct Kernels {
    const char* name;
    int added;   // to packed weights: 128 where the byte dot product takes unsigned weights, 0 where it takes signed ones

    // quantized[r] = round(x[r] / scale), scale = max |x[r]| / 127.   x: float[rows][width]
    // A row that holds NaN or infinity gets the scale NaN and offset 0, whatever its values, so that no product of it is a number.
    void (*quantize)(const float* x, int rows, int width, const Int8Rows& quantized);

    // The same after GELU; x is overwritten.
    void (*gelu_quantize)(float* x, int rows, int width, const GeluCurve& curve, const Int8Rows& quantized);

    // out[r] = rows[r] * weights' + bias (+ residual[r]).   rows: [count][inputs]; out and residual: float[count], rows
    // `stride` floats apart, `outputs` columns written. residual may be null.
    void (*linear_int8)(const Int8Weights& weights, const Int8Rows& rows, int count, const float* residual, float* out,
                        ptrdiff_t stride);
    void (*linear_float)(const FloatWeights& weights, const float* rows, int count, const float* residual, float* out,
                         ptrdiff_t stride);

    // out[r] = (x[r] - mean) / sqrt(variance + eps) * gain + shift over the first `size` columns; the other columns of
    // `width` become 0 because gain and shift are 0 there. out may be x.
    void (*layer_norm)(const float* x, int rows, int size, int width, const float* gain, const float* shift, float eps,
                       float* out);

    void (*attention)(const AttentionHead& head);

    // The same in whole numbers, for int8 mode: each query row, all keys and all values of the head are rounded to multiples of
    // their largest magnitude / attention_limit(width); the weights of a query to multiples of 1 / unit, unit the smaller of
    // kWeightSum / their sum and kLargestWeight (the largest weight is 1). No sum can overflow int32: 4095^2 * 128 columns and
    // (kWeightSum + the rounding of 48,000 keys) * 4095 lie below 2^31. The context is divided by the sum of the rounded weights.
    void (*attention_int16)(const AttentionHead& head);

    // out = x / |x|; a row of zeros stays one.   x and out: float[width]
    void (*normalize)(const float* x, int width, float* out);

    // best[i] = max over j of rows[i] . others[j].   rows: float[count][width]; others: float[other_count][width], at least one
    void (*largest_dots)(const float* rows, int count, const float* others, int other_count, int width, float* best);

    // out[i] = sum over j of row[first + i][j] * query[j], exact in int32 (dims <= 65,536; query within -127..127)
    void (*dots)(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out);

    // out[i] = sum of the query's numbers at the bits that are set in row[first + i], exact (dims <= 65,536)
    void (*bit_dots)(const Rows& rows, size_t first, size_t count, const BitQuery& query, int32_t* out);

    // out[i] = sum over j of rows[i][j] * query[j].   rows: float16[count][dims], their bits; query: float[dims], all finite
    // Products are rounded and then added in an order that is the same everywhere, that of numpy's pairwise sum: the score of
    // a passage has the same bits on every processor.
    void (*half_dots)(const uint16_t* rows, size_t count, size_t dims, const float* query, float* out);
};

const Kernels& portable_kernels();
void half_dots_portable(const uint16_t* rows, size_t count, size_t dims, const float* query, float* out);
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avxvnni_kernels();   // where the assembler knows them
const Kernels& avx512vnni_kernels();
const Kernels* amx_kernels();          // null unless the system grants the tiles and they compute what they should
const Kernels& plain_tile_kernels();   // the same with loops for the tile instructions: what they must give, and slow
void attention_int16_avx512(const AttentionHead& head);
void bit_dots_avx512(const Rows& rows, size_t first, size_t count, const BitQuery& query, int32_t* out);   // needs VPOPCNTDQ
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

}   // namespace shortlist
