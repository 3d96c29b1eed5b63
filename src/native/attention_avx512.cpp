// Attention in whole numbers for AVX512-VNNI, as said at `attention_int16` in kernels.h.
//
// vpdpwssd adds the products of two pairs of int16 to an int32, at twice the rate of float32.
#if defined(__x86_64__)
#include "avx512.h"

namespace shortlist {
namespace {

constexpr float kLog2E = 1.442695041f;

// The parts of AttentionHead::scratch. A pair is two int16 in one int32.
struct Packed {
    int padded;         // keys, a multiple of kLanes
    int pairs;          // of columns, a multiple of kLanes
    int32_t* keys;      // int32[pairs][padded]
    int32_t* values;    // int32[padded / 2][width]: rows 2j and 2j + 1 of one column side by side
    float* scores;      // float[kQueryTile][padded]; becomes int16[padded], the weights, at the start of each row
    int32_t* queries;   // int32[kLanes][pairs]; first used for kLanes rows of keys
    float key_scale, value_scale;

    explicit Packed(const AttentionHead& head)
        : padded(round_up(head.length, kLanes)), pairs(round_up(head.width, 2 * kLanes) / 2) {
        keys = reinterpret_cast<int32_t*>(head.scratch);
        values = keys + static_cast<ptrdiff_t>(pairs) * padded;
        scores = head.scratch + static_cast<ptrdiff_t>(pairs) * padded + static_cast<ptrdiff_t>(padded / 2) * head.width;
        queries = reinterpret_cast<int32_t*>(scores + static_cast<ptrdiff_t>(kQueryTile) * padded);
    }
};

// Largest |x| of float[rows][width], rows `stride` apart; never 0, and NaN or infinity where the rows hold one: then the unit is
// no number either, and nothing that is made of it.
ALWAYS_INLINE float largest_magnitude(const float* x, ptrdiff_t stride, int rows, int width) {
    __m512 largest = all(1e-12f);
    for (int r = 0; r < rows; r++, x += stride) {
        for (int d = 0; d < width; d += kLanes) largest = larger_magnitude(largest, _mm512_loadu_ps(x + d));
    }
    return largest_lane(largest);
}

ALWAYS_INLINE __m512i whole(const float* x, __m512 factor) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), factor));
}

// One row, float[width] -> int32[width / 2] pairs of columns.
ALWAYS_INLINE void pack_row(const float* x, int width, __m512 factor, int32_t* out) {
    for (int d = 0; d < width; d += kLanes)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + d / 2), _mm512_cvtepi32_epi16(whole(x + d, factor)));
}

// Keys, 16 rows at a time: packed, then transposed. Past the end, and in columns past the width, anything finite will do: such
// keys get weight 0, and such columns are 0 in the queries.
void pack_keys(const AttentionHead& head, Packed& packed) {
    const float limit = static_cast<float>(attention_limit(head.width));
    const float largest = largest_magnitude(head.keys, head.key_stride, head.length, head.width);
    const __m512 factor = all(limit / largest);
    packed.key_scale = largest / limit;
    for (int j = 0; j < packed.padded; j += kLanes) {
        const float* rows[kLanes];
        for (int i = 0; i < kLanes; i++) {
            const int row = j + i < head.length ? j + i : head.length - 1;
            int32_t* to = packed.queries + static_cast<ptrdiff_t>(i) * packed.pairs;
            pack_row(head.keys + row * head.key_stride, head.width, factor, to);
            rows[i] = reinterpret_cast<const float*>(to);
        }
        for (int d = 0; d < packed.pairs; d += kLanes) {
            float* out = reinterpret_cast<float*>(packed.keys + static_cast<ptrdiff_t>(d) * packed.padded + j);
            transpose_block(rows, d, out, packed.padded);
        }
    }
}

// Values, two rows at a time; rows past the end are 0.
void pack_values(const AttentionHead& head, Packed& packed) {
    const float largest = largest_magnitude(head.values, head.key_stride, head.length, head.width);
    const __m512 factor = all(static_cast<float>(kLargestNumber) / largest);
    packed.value_scale = largest / static_cast<float>(kLargestNumber);
    const __m512i low_half = _mm512_set1_epi32(0xffff);
    int32_t* out = packed.values;
    for (int j = 0; j < packed.padded; j += 2, out += head.width) {
        const float* first = head.values + j * head.key_stride;
        const __m512 first_factor = j < head.length ? factor : zero(), second_factor = j + 1 < head.length ? factor : zero();
        if (j >= head.length) first = head.values;
        const float* second = j + 1 < head.length ? first + head.key_stride : first;
        for (int d = 0; d < head.width; d += kLanes) {
            const __m512i low = _mm512_and_si512(whole(first + d, first_factor), low_half);
            const __m512i high = _mm512_slli_epi32(whole(second + d, second_factor), 16);
            _mm512_storeu_si512(out + d, _mm512_or_si512(low, high));
        }
    }
}

// sum += the products of two pairs of int16, in each of 16 lanes (as assembly for the reason given at dot_bytes).
ALWAYS_INLINE void dot_pairs(__m512i& sum, __m512i a, __m512i b) { asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

// sums[r][v] = sum over i of left[r][i] * right[i][16v..16v+15], pairs by pairs. left: rows `left_stride` pairs apart;
// right: rows `right_stride` apart.
template <int Rows, int Vectors>
ALWAYS_INLINE void dot_tile(const int32_t* left, ptrdiff_t left_stride, const int32_t* right, ptrdiff_t right_stride, int count,
                            __m512i (&sums)[Rows][Vectors]) {
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int v = 0; v < Vectors; v++) sums[r][v] = _mm512_setzero_si512();
    }
    for (int i = 0; i < count; i++, right += right_stride) {
        __m512i column[Vectors];
        UNROLL
        for (int v = 0; v < Vectors; v++) column[v] = _mm512_loadu_si512(right + kLanes * v);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const __m512i pair = _mm512_set1_epi32(left[r * left_stride + i]);
            UNROLL
            for (int v = 0; v < Vectors; v++) dot_pairs(sums[r][v], pair, column[v]);
        }
    }
}

// scores[r][j..j+16 Vectors-1] = query r . keys * factor[r]
template <int Rows, int Vectors>
ALWAYS_INLINE void score_tile(const AttentionHead& head, const Packed& packed, int j, const float (&factor)[Rows]) {
    __m512i sums[Rows][Vectors];
    dot_tile<Rows, Vectors>(packed.queries, packed.pairs, packed.keys + j, packed.padded, head.width / 2, sums);
    UNROLL
    for (int r = 0; r < Rows; r++) {
        UNROLL
        for (int v = 0; v < Vectors; v++) {
            _mm512_store_ps(packed.scores + static_cast<ptrdiff_t>(r) * packed.padded + j + kLanes * v,
                            _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), all(factor[r])));
        }
    }
}

// 2^x for x <= 0, relative error 4e-6: 2^(part below the next integer), a polynomial, times 2^floor(x).
ALWAYS_INLINE __m512 power_of_two(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = all(1.353416050e-2f);
    p = _mm512_fmadd_ps(p, f, all(5.201147487e-2f));
    p = _mm512_fmadd_ps(p, f, all(2.414427485e-1f));
    p = _mm512_fmadd_ps(p, f, all(6.930038360e-1f));
    p = _mm512_fmadd_ps(p, f, all(1.0000026f));
    return _mm512_scalef_ps(p, x);
}

// scores[length], in powers of two -> int16[padded] weights in their place, zero from length on; returns 1 / sum of them.
ALWAYS_INLINE float softmax_row(float* scores, int length, int padded) {
    const int last = padded - kLanes;
    const __mmask16 tail = first_lanes(length - last);
    __m512 largest = _mm512_mask_loadu_ps(all(-__builtin_inff()), tail, scores + last);
    for (int j = 0; j < last; j += kLanes) largest = _mm512_max_ps(largest, _mm512_load_ps(scores + j));
    const __m512 maximum = all(_mm512_reduce_max_ps(largest));
    __m512 sum = zero();
    for (int j = 0; j < last; j += kLanes) {
        const __m512 e = power_of_two(_mm512_sub_ps(_mm512_load_ps(scores + j), maximum));
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(scores + j, e);
    }
    const __m512 e = _mm512_maskz_mov_ps(tail, power_of_two(_mm512_sub_ps(_mm512_load_ps(scores + last), maximum)));
    _mm512_store_ps(scores + last, e);
    const float all_of_them = _mm512_reduce_add_ps(_mm512_add_ps(sum, e));
    if (!(all_of_them < __builtin_inff())) return __builtin_nanf("");   // scores that are no numbers
    const float unit = kWeightSum / all_of_them;
    const __m512 factor = all(unit < kLargestWeight ? unit : kLargestWeight);
    __m512i total = _mm512_setzero_si512();
    int16_t* weights = reinterpret_cast<int16_t*>(scores);   // each write ends before the next read begins
    for (int j = 0; j < padded; j += kLanes) {
        const __m512i weight = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(scores + j), factor));
        total = _mm512_add_epi32(total, weight);
        _mm256_store_si256(reinterpret_cast<__m256i*>(weights + j), _mm512_cvtepi32_epi16(weight));
    }
    return 1.0f / static_cast<float>(_mm512_reduce_add_epi32(total));
}

// context[r][16 Vectors columns] = (weights[r] . values) * factor[r], for Rows queries of which `rows` are stored.
template <int Rows, int Vectors>
ALWAYS_INLINE void context_tile(const AttentionHead& head, const Packed& packed, int column, const float (&factor)[Rows],
                                int rows, float* context) {
    __m512i sums[Rows][Vectors];
    dot_tile<Rows, Vectors>(reinterpret_cast<const int32_t*>(packed.scores), packed.padded, packed.values + column, head.width,
                            (head.length + 1) / 2, sums);
    UNROLL
    for (int r = 0; r < Rows; r++) {
        if (r >= rows) break;
        UNROLL
        for (int v = 0; v < Vectors; v++) {
            _mm512_storeu_ps(context + r * head.query_stride + column + kLanes * v,
                             _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), all(factor[r])));
        }
    }
}

// Rows queries from `first` on, of which only `rows` exist; the others repeat the last one and are not stored.
template <int Rows>
void attend(const AttentionHead& head, const Packed& packed, int first, int rows) {
    const float limit = static_cast<float>(attention_limit(head.width));
    float factor[Rows];
    for (int r = 0; r < Rows; r++) {
        const float* query = head.query + (first + (r < rows ? r : rows - 1)) * head.query_stride;
        const float largest = largest_magnitude(query, 0, 1, head.width);
        pack_row(query, head.width, all(limit / largest), packed.queries + static_cast<ptrdiff_t>(r) * packed.pairs);
        factor[r] = largest / limit * packed.key_scale * head.scale * kLog2E;
    }
    int j = 0;
    for (; j + 3 * kLanes <= packed.padded; j += 3 * kLanes) score_tile<Rows, 3>(head, packed, j, factor);
    if (j + 2 * kLanes == packed.padded) score_tile<Rows, 2>(head, packed, j, factor);
    if (j + kLanes == packed.padded) score_tile<Rows, 1>(head, packed, j, factor);
    for (int r = 0; r < Rows; r++) {
        float* scores = packed.scores + static_cast<ptrdiff_t>(r) * packed.padded;
        factor[r] = r < rows ? softmax_row(scores, head.length, packed.padded) * packed.value_scale : 0.0f;
    }
    float* context = head.context + first * head.query_stride;
    int d = 0;
    for (; d + 2 * kLanes <= head.width; d += 2 * kLanes) context_tile<Rows, 2>(head, packed, d, factor, rows, context);
    if (d < head.width) context_tile<Rows, 1>(head, packed, d, factor, rows, context);
}

}   // namespace

void attention_int16_avx512(const AttentionHead& head) {
    Packed packed(head);
    pack_keys(head, packed);
    pack_values(head, packed);
    for (int first = 0; first < head.queries; first += kQueryTile) {
        const int rows = head.queries - first < kQueryTile ? head.queries - first : kQueryTile;
        if (rows == 1) {
            attend<1>(head, packed, first, rows);
        } else if (rows <= kQueryTile / 2) {
            attend<kQueryTile / 2>(head, packed, first, rows);
        } else {
            attend<kQueryTile>(head, packed, first, rows);
        }
    }
}

}   // namespace shortlist
#endif
