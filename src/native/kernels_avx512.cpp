// AVX512-VNNI kernels. What each one computes is said in kernels.h and shown by the plain loops of kernels_portable.cpp.
//
// This file alone is compiled with AVX-512 flags. It must not use inline functions of the standard library: the linker
// could keep this file's copy of one of them and run it on a processor without AVX-512.
#if defined(__x86_64__)
#include "avx512.h"

namespace shortlist {
namespace {

constexpr int kRowTile = 6;                 // rows x 64 outputs: 24 accumulators + 4 weights + 1 input < 32 registers
constexpr int kVectors = kPanel / kLanes;   // vectors of 16 outputs in a panel

// ---------------------------------------------------------------------------------------------- quantisation

// float[width] -> int8[width], scale and offset of the row, when the largest |x| is known.
ALWAYS_INLINE void quantize_row(const float* x, int width, float largest, int8_t* values, float* scale, int32_t* offset) {
    if (!(largest < __builtin_inff())) {
        *scale = __builtin_nanf("");
        *offset = 0;
        return;
    }
    if (!(largest > 1e-12f)) largest = 1e-12f;
    const __m512 inverse = all(127.0f / largest);
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < width; k += kLanes) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + k), inverse));
        sum = _mm512_add_epi32(sum, q);
        _mm_store_si128(reinterpret_cast<__m128i*>(values + k), _mm512_cvtepi32_epi8(q));
    }
    *scale = largest / 127.0f;
    *offset = 128 * _mm512_reduce_add_epi32(sum);
}

void quantize(const float* x, int rows, int width, const Int8Rows& out) {
    for (int r = 0; r < rows; r++) {
        const float* row = x + static_cast<ptrdiff_t>(r) * width;
        __m512 largest[2] = {zero(), zero()};
        for (int k = 0; k < width; k += 2 * kLanes) {
            largest[0] = larger_magnitude(largest[0], _mm512_load_ps(row + k));
            largest[1] = larger_magnitude(largest[1], _mm512_load_ps(row + k + kLanes));
        }
        quantize_row(row, width, largest_lane(larger_magnitude(largest[0], largest[1])),
                     out.values + static_cast<ptrdiff_t>(r) * width, out.scales + r, out.offsets + r);
    }
}

struct GeluVectors {
    __m512 limit, minus_limit, factor, terms[kGeluTerms];
};

ALWAYS_INLINE __m512 gelu(__m512 x, const GeluVectors& curve) {
    const __m512 z = _mm512_max_ps(_mm512_min_ps(x, curve.limit), curve.minus_limit);
    const __m512 t = _mm512_fmsub_ps(_mm512_mul_ps(z, z), curve.factor, all(1.0f));
    __m512 p = curve.terms[kGeluTerms - 1];
    UNROLL
    for (int i = kGeluTerms - 2; i >= 0; i--) p = _mm512_fmadd_ps(p, t, curve.terms[i]);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(z, p, all(0.5f)));
}

// GELU of a row in place; returns the largest |x|. Four vectors at once hide the latency of the polynomial.
ALWAYS_INLINE float gelu_row(float* x, int width, const GeluVectors& curve) {
    __m512 largest = zero();
    for (int k = 0; k < width; k += kPanel) {
        __m512 v[kVectors];
        UNROLL
        for (int j = 0; j < kVectors; j++) v[j] = gelu(_mm512_load_ps(x + k + kLanes * j), curve);
        UNROLL
        for (int j = 0; j < kVectors; j++) {
            _mm512_store_ps(x + k + kLanes * j, v[j]);
            largest = larger_magnitude(largest, v[j]);
        }
    }
    return largest_lane(largest);
}

void gelu_quantize(float* x, int rows, int width, const GeluCurve& curve, const Int8Rows& out) {
    GeluVectors vectors;
    vectors.limit = all(curve.limit);
    vectors.minus_limit = all(-curve.limit);
    vectors.factor = all(2.0f / (curve.limit * curve.limit));
    UNROLL
    for (int i = 0; i < kGeluTerms; i++) vectors.terms[i] = all(curve.terms[i]);
    for (int r = 0; r < rows; r++) {
        const ptrdiff_t at = static_cast<ptrdiff_t>(r) * width;
        const float largest = gelu_row(x + at, width, vectors);
        quantize_row(x + at, width, largest, out.values + at, out.scales + r, out.offsets + r);
    }
}

// ---------------------------------------------------------------------------------------------- linear layers

// sum += four unsigned bytes * four signed bytes, in each of 16 lanes. As assembly because GCC copies the accumulators of
// the intrinsic through memory in a tile of this size.
ALWAYS_INLINE void dot_bytes(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

// Rows x 64 outputs: sums[r][j] = panel outputs 16j..16j+15 times row r, over all inputs.
template <int Rows>
ALWAYS_INLINE void dot_tile_int8(const uint8_t* panel, const int8_t* rows, int inputs, __m512i (&sums)[Rows][kVectors]) {
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int j = 0; j < kVectors; j++) sums[r][j] = _mm512_setzero_si512();
    }
    for (int k = 0; k < inputs; k += 4, panel += 4 * kPanel) {
        __m512i weights[kVectors];
        UNROLL
        for (int j = 0; j < kVectors; j++) weights[j] = _mm512_load_si512(panel + 64 * j);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            int32_t four;
            __builtin_memcpy(&four, rows + static_cast<ptrdiff_t>(r) * inputs + k, sizeof four);
            const __m512i row = _mm512_set1_epi32(four);
            UNROLL
            for (int j = 0; j < kVectors; j++) dot_bytes(sums[r][j], weights[j], row);
        }
    }
}

// Rows x 64 outputs of a linear layer. `first` is the first output, `row` the first row.
template <int Rows>
void linear_tile_int8(const Int8Weights& weights, const Int8Rows& rows, int first, int row, const float* residual, float* out,
                      ptrdiff_t stride) {
    __m512i sums[Rows][kVectors];
    dot_tile_int8<Rows>(weights.panels + static_cast<ptrdiff_t>(first) * weights.inputs,
                        rows.values + static_cast<ptrdiff_t>(row) * weights.inputs, weights.inputs, sums);
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int j = 0; j < kVectors; j++)
            write_outputs(weights, rows, first + kLanes * j, row + r, sums[r][j], residual, out, stride);
    }
}

void linear_int8(const Int8Weights& weights, const Int8Rows& rows, int count, const float* residual, float* out,
                 ptrdiff_t stride) {
    for (int first = 0; first < weights.outputs; first += kPanel) {
        int r = 0;
        for (; r + kRowTile <= count; r += kRowTile) linear_tile_int8<6>(weights, rows, first, r, residual, out, stride);
        switch (count - r) {
            case 5: linear_tile_int8<5>(weights, rows, first, r, residual, out, stride); break;
            case 4: linear_tile_int8<4>(weights, rows, first, r, residual, out, stride); break;
            case 3: linear_tile_int8<3>(weights, rows, first, r, residual, out, stride); break;
            case 2: linear_tile_int8<2>(weights, rows, first, r, residual, out, stride); break;
            case 1: linear_tile_int8<1>(weights, rows, first, r, residual, out, stride); break;
        }
    }
}

// Rows x 64 outputs in float32.
template <int Rows>
void linear_tile_float(const FloatWeights& weights, const float* rows, int first, int row, const float* residual, float* out,
                       ptrdiff_t stride) {
    const float* panel = weights.panels + static_cast<ptrdiff_t>(first) * weights.inputs;
    const float* input = rows + static_cast<ptrdiff_t>(row) * weights.inputs;
    __m512 sums[Rows][kVectors];
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int j = 0; j < kVectors; j++) sums[r][j] = zero();
    }
    for (int k = 0; k < weights.inputs; k++, panel += kPanel) {
        __m512 column[kVectors];
        UNROLL
        for (int j = 0; j < kVectors; j++) column[j] = _mm512_load_ps(panel + kLanes * j);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const __m512 x = all(input[static_cast<ptrdiff_t>(r) * weights.inputs + k]);
            UNROLL
            for (int j = 0; j < kVectors; j++) sums[r][j] = _mm512_fmadd_ps(x, column[j], sums[r][j]);
        }
    }
    UNROLL
    for (int r = 0; r < Rows; r++) {
        const ptrdiff_t at = (row + r) * stride + first;
        UNROLL
        for (int j = 0; j < kVectors; j++) {
            __m512 value = _mm512_add_ps(sums[r][j], _mm512_load_ps(weights.bias + first + kLanes * j));
            if (residual) value = _mm512_add_ps(value, _mm512_load_ps(residual + at + kLanes * j));
            _mm512_store_ps(out + at + kLanes * j, value);
        }
    }
}

void linear_float(const FloatWeights& weights, const float* rows, int count, const float* residual, float* out,
                  ptrdiff_t stride) {
    for (int first = 0; first < weights.outputs; first += kPanel) {
        int r = 0;
        for (; r + kRowTile <= count; r += kRowTile) linear_tile_float<6>(weights, rows, first, r, residual, out, stride);
        switch (count - r) {
            case 5: linear_tile_float<5>(weights, rows, first, r, residual, out, stride); break;
            case 4: linear_tile_float<4>(weights, rows, first, r, residual, out, stride); break;
            case 3: linear_tile_float<3>(weights, rows, first, r, residual, out, stride); break;
            case 2: linear_tile_float<2>(weights, rows, first, r, residual, out, stride); break;
            case 1: linear_tile_float<1>(weights, rows, first, r, residual, out, stride); break;
        }
    }
}

// ---------------------------------------------------------------------------------------------- layer norm

void layer_norm(const float* x, int rows, int size, int width, const float* gain, const float* shift, float eps, float* out) {
    const float count = static_cast<float>(size);
    for (int r = 0; r < rows; r++, x += width, out += width) {
        __m512 sums[2] = {zero(), zero()};   // the padding is zero: it may be summed along
        for (int k = 0; k < width; k += 2 * kLanes) {
            sums[0] = _mm512_add_ps(sums[0], _mm512_load_ps(x + k));
            sums[1] = _mm512_add_ps(sums[1], _mm512_load_ps(x + k + kLanes));
        }
        const __m512 mean = all(_mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / count);
        __m512 squares[2] = {zero(), zero()};   // here the padding must stay out
        for (int k = 0; k < width; k += 2 * kLanes) {
            const __m512 low = _mm512_maskz_sub_ps(first_lanes(size - k), _mm512_load_ps(x + k), mean);
            const __m512 high = _mm512_maskz_sub_ps(first_lanes(size - k - kLanes), _mm512_load_ps(x + k + kLanes), mean);
            squares[0] = _mm512_fmadd_ps(low, low, squares[0]);
            squares[1] = _mm512_fmadd_ps(high, high, squares[1]);
        }
        const float variance = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / count;
        const __m512 inverse = all(1.0f / __builtin_sqrtf(variance + eps));
        for (int k = 0; k < width; k += kLanes) {
            const __m512 centred = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(x + k), mean), inverse);
            _mm512_store_ps(out + k, _mm512_fmadd_ps(centred, _mm512_load_ps(gain + k), _mm512_load_ps(shift + k)));
        }
    }
}

// ---------------------------------------------------------------------------------------------- attention

// e^x for x <= 0, relative error 1e-7: 2^(whole part) * polynomial of the rest (minimax on -1/2..1/2, degree 5). NaN stays NaN,
// because a maximum with NaN is its second operand.
ALWAYS_INLINE __m512 exponential(__m512 x) {
    const __m512 t = _mm512_mul_ps(_mm512_max_ps(all(-87.0f), x), all(1.442695041f));
    const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(t, whole);
    __m512 p = all(1.326697039e-3f);
    p = _mm512_fmadd_ps(p, f, all(9.675459746e-3f));
    p = _mm512_fmadd_ps(p, f, all(5.550742616e-2f));
    p = _mm512_fmadd_ps(p, f, all(2.402212175e-1f));
    p = _mm512_fmadd_ps(p, f, all(6.931469492e-1f));
    p = _mm512_fmadd_ps(p, f, all(1.0f));
    return _mm512_scalef_ps(p, whole);
}

// keys float[length][width] -> transposed float[width][padded]; columns from length on repeat the last key.
void transpose_keys(const AttentionHead& head, int padded, float* transposed) {
    for (int j = 0; j < padded; j += kLanes) {
        const float* rows[kLanes];
        for (int i = 0; i < kLanes; i++)
            rows[i] = head.keys + (j + i < head.length ? j + i : head.length - 1) * head.key_stride;
        for (int d = 0; d < head.width; d += kLanes) {
            transpose_block(rows, d, transposed + static_cast<ptrdiff_t>(d) * padded + j, padded);
        }
    }
}

// scores[r][j..] = query r . keys, for Rows queries and 16 * Vectors keys.
template <int Rows, int Vectors>
ALWAYS_INLINE void score_tile(const float* const (&queries)[Rows], const float* transposed, int width, int padded,
                              float* scores) {
    __m512 sums[Rows][Vectors];
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int v = 0; v < Vectors; v++) sums[r][v] = zero();
    }
    for (int d = 0; d < width; d++, transposed += padded) {
        __m512 keys[Vectors];
        UNROLL
        for (int v = 0; v < Vectors; v++) keys[v] = _mm512_load_ps(transposed + kLanes * v);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const __m512 query = all(queries[r][d]);
            UNROLL
            for (int v = 0; v < Vectors; v++) sums[r][v] = _mm512_fmadd_ps(query, keys[v], sums[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int v = 0; v < Vectors; v++) _mm512_store_ps(scores + static_cast<ptrdiff_t>(r) * padded + kLanes * v, sums[r][v]);
    }
}

// scores[length] -> exp(scores * scale - maximum) in place, zero from length to padded; returns 1 / sum.
ALWAYS_INLINE float softmax_row(float* scores, int length, int padded, float scale) {
    const int last = padded - kLanes;
    const __mmask16 tail = first_lanes(length - last);
    __m512 largest = _mm512_mask_loadu_ps(all(-__builtin_inff()), tail, scores + last);
    for (int j = 0; j < last; j += kLanes) largest = _mm512_max_ps(largest, _mm512_load_ps(scores + j));
    const __m512 maximum = all(_mm512_reduce_max_ps(largest) * scale);
    __m512 sum = zero();
    for (int j = 0; j < padded; j += kLanes) {
        __m512 e = exponential(_mm512_fmsub_ps(_mm512_load_ps(scores + j), all(scale), maximum));
        if (j == last) e = _mm512_maskz_mov_ps(tail, e);
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(scores + j, e);
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}

// context[r][16 * Vectors columns] = (scores[r] . values) * inverse[r], for Rows queries of which `rows` are stored.
template <int Rows, int Vectors>
ALWAYS_INLINE void context_tile(const float* scores, int padded, const float* values, ptrdiff_t value_stride, int length,
                                const float (&inverse)[Rows], int rows, float* context, ptrdiff_t context_stride) {
    __m512 sums[Rows][Vectors];
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int v = 0; v < Vectors; v++) sums[r][v] = zero();
    }
    for (int j = 0; j < length; j++, values += value_stride) {
        __m512 value[Vectors];
        UNROLL
        for (int v = 0; v < Vectors; v++) value[v] = _mm512_loadu_ps(values + kLanes * v);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const __m512 weight = all(scores[static_cast<ptrdiff_t>(r) * padded + j]);
            UNROLL
            for (int v = 0; v < Vectors; v++) sums[r][v] = _mm512_fmadd_ps(weight, value[v], sums[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < Rows; r++) {
        if (r >= rows) break;
        UNROLL
        for (int v = 0; v < Vectors; v++) {
            _mm512_storeu_ps(context + r * context_stride + kLanes * v, _mm512_mul_ps(sums[r][v], all(inverse[r])));
        }
    }
}

// Rows queries from `first` on, of which only `rows` exist; the others repeat the last one and are not stored.
template <int Rows>
void attend(const AttentionHead& head, int first, int rows, int padded, const float* transposed, float* scores) {
    const float* queries[Rows];
    UNROLL
    for (int r = 0; r < Rows; r++) queries[r] = head.query + (first + (r < rows ? r : rows - 1)) * head.query_stride;
    int j = 0;
    for (; j + 3 * kLanes <= padded; j += 3 * kLanes)
        score_tile<Rows, 3>(queries, transposed + j, head.width, padded, scores + j);
    for (; j < padded; j += kLanes) score_tile<Rows, 1>(queries, transposed + j, head.width, padded, scores + j);
    float inverse[Rows];
    for (int r = 0; r < Rows; r++) {
        inverse[r] =
            r < rows ? softmax_row(scores + static_cast<ptrdiff_t>(r) * padded, head.length, padded, head.scale) : 0.0f;
    }
    float* context = head.context + first * head.query_stride;
    int d = 0;
    for (; d + 2 * kLanes <= head.width; d += 2 * kLanes) {
        context_tile<Rows, 2>(scores, padded, head.values + d, head.key_stride, head.length, inverse, rows, context + d,
                              head.query_stride);
    }
    if (d < head.width) {
        context_tile<Rows, 1>(scores, padded, head.values + d, head.key_stride, head.length, inverse, rows, context + d,
                              head.query_stride);
    }
}

void attention(const AttentionHead& head) {
    const int padded = round_up(head.length, kLanes);
    float* transposed = head.scratch;
    float* scores = transposed + static_cast<ptrdiff_t>(head.width) * padded;
    transpose_keys(head, padded, transposed);
    for (int first = 0; first < head.queries; first += kQueryTile) {
        const int rows = head.queries - first < kQueryTile ? head.queries - first : kQueryTile;
        if (rows == 1) {
            attend<1>(head, first, rows, padded, transposed, scores);
        } else {
            attend<kQueryTile>(head, first, rows, padded, transposed, scores);
        }
    }
}

// ---------------------------------------------------------------------------------------------- largest dot products

constexpr int kDotTile = 4;   // rows x others: 16 accumulators + 4 rows + 1 other < 32 registers

void normalize(const float* x, int width, float* out) {
    __m512 squares = zero();
    for (int k = 0; k < width; k += kLanes) squares = _mm512_fmadd_ps(_mm512_load_ps(x + k), _mm512_load_ps(x + k), squares);
    const float length = __builtin_sqrtf(_mm512_reduce_add_ps(squares));
    const __m512 inverse = all(1.0f / (length > 1e-12f ? length : 1e-12f));
    for (int k = 0; k < width; k += kLanes) _mm512_store_ps(out + k, _mm512_mul_ps(_mm512_load_ps(x + k), inverse));
}

// best[r] = max(best[r], rows[r] . others[o]) for each of the rows and others of a tile.
ALWAYS_INLINE void largest_tile(const float* const (&rows)[kDotTile], const float* const (&others)[kDotTile], int width,
                                float (&best)[kDotTile]) {
    __m512 sums[kDotTile][kDotTile];
    UNROLL
    for (int r = 0; r < kDotTile; r++) {
        UNROLL
        for (int o = 0; o < kDotTile; o++) sums[r][o] = zero();
    }
    for (int k = 0; k < width; k += kLanes) {
        __m512 row[kDotTile];
        UNROLL
        for (int r = 0; r < kDotTile; r++) row[r] = _mm512_load_ps(rows[r] + k);
        UNROLL
        for (int o = 0; o < kDotTile; o++) {
            const __m512 other = _mm512_load_ps(others[o] + k);
            UNROLL
            for (int r = 0; r < kDotTile; r++) sums[r][o] = _mm512_fmadd_ps(row[r], other, sums[r][o]);
        }
    }
    UNROLL
    for (int r = 0; r < kDotTile; r++) {
        UNROLL
        for (int o = 0; o < kDotTile; o++) {
            const float product = _mm512_reduce_add_ps(sums[r][o]);
            best[r] = product > best[r] ? product : best[r];
        }
    }
}

// Pointers to kDotTile rows from `first` on; past the end the last row again, which changes no maximum.
ALWAYS_INLINE void tile_rows(const float* rows, int first, int count, int width, const float* (&tile)[kDotTile]) {
    UNROLL
    for (int r = 0; r < kDotTile; r++)
        tile[r] = rows + static_cast<ptrdiff_t>(first + r < count ? first + r : count - 1) * width;
}

void largest_dots(const float* rows, int count, const float* others, int other_count, int width, float* best) {
    for (int i = 0; i < count; i += kDotTile) {
        const float *row[kDotTile], *other[kDotTile];
        float largest[kDotTile] = {-__builtin_inff(), -__builtin_inff(), -__builtin_inff(), -__builtin_inff()};
        tile_rows(rows, i, count, width, row);
        for (int j = 0; j < other_count; j += kDotTile) {
            tile_rows(others, j, other_count, width, other);
            largest_tile(row, other, width, largest);
        }
        for (int r = 0; r < kDotTile && i + r < count; r++) best[i + r] = largest[r];
    }
}

constexpr int kScanRows = 8;

// Lane r: the sum of sums[r].
ALWAYS_INLINE __m256i row_sums(const __m512i (&sums)[kScanRows]) {
    __m256i a[kScanRows];
    UNROLL
    for (int r = 0; r < kScanRows; r++)
        a[r] = _mm256_add_epi32(_mm512_castsi512_si256(sums[r]), _mm512_extracti64x4_epi64(sums[r], 1));
    UNROLL
    for (int r = 0; r < kScanRows; r += 2) a[r / 2] = _mm256_hadd_epi32(a[r], a[r + 1]);
    const __m256i low = _mm256_hadd_epi32(a[0], a[1]), high = _mm256_hadd_epi32(a[2], a[3]);
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}

// The sum of one row's products, lane by lane. Rows are read one after the other: memory serves one stream better than eight.
ALWAYS_INLINE __m512i row_products(const uint8_t* row, size_t dims, const int8_t* query) {
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i sum = _mm512_setzero_si512();
    size_t j = 0;
    for (; j + 64 <= dims; j += 64) {
        __builtin_prefetch(row + j + kAhead);
        const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(row + j), flip);
        sum = _mm512_dpbusd_epi32(sum, bytes, _mm512_loadu_si512(query + j));
    }
    if (j == dims) return sum;
    const __mmask64 lanes = (__mmask64(1) << (dims - j)) - 1;
    const __m512i bytes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(lanes, row + j), flip);
    return _mm512_dpbusd_epi32(sum, bytes, _mm512_maskz_loadu_epi8(lanes, query + j));
}

// The sums of eight rows are added up together.
void dots(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out) {
    int32_t offset = 0;
    for (size_t j = 0; j < rows.dims; j++) offset += 128 * query[j];
    for (size_t i = 0; i < count; i += kScanRows) {
        const size_t left = count - i;
        __m512i sums[kScanRows];
        UNROLL
        for (size_t r = 0; r < kScanRows; r++) {
            const uint8_t* row = rows.data + (first + i + r) * rows.stride + sizeof(float);
            sums[r] = r < left ? row_products(row, rows.dims, query) : _mm512_setzero_si512();
        }
        const __m256i dots = _mm256_sub_epi32(row_sums(sums), _mm256_set1_epi32(offset));
        _mm256_mask_storeu_epi32(out + i, left >= kScanRows ? 0xff : static_cast<__mmask8>((1u << left) - 1), dots);
    }
}

}   // namespace

const Kernels& avx512vnni_kernels() {
    // Cascade Lake has VNNI and no VPOPCNTDQ.
    static const Kernels kernels{
        "avx512vnni", 128,       quantize,  gelu_quantize, linear_int8,        linear_float,
        layer_norm, attention, attention_int16_avx512, normalize, largest_dots,  dots,
        __builtin_cpu_supports("avx512vpopcntdq") ? bit_dots_avx512 : avx2_kernels().bit_dots,
        avx2_kernels().half_dots};
    return kernels;
}

}   // namespace shortlist
#endif
