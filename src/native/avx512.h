// What the AVX-512 kernels share. Only for files that are compiled with AVX-512 flags; each gets copies of its own (nothing here
// may be merged by the linker with code for another processor).
#pragma once
#include <immintrin.h>

#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
// The compiler must turn every array of accumulators into registers, so all loops over them are unrolled.
#define UNROLL _Pragma("GCC unroll 16")

namespace shortlist {
namespace {

ALWAYS_INLINE __m512 zero() { return _mm512_setzero_ps(); }
ALWAYS_INLINE __m512 all(float x) { return _mm512_set1_ps(x); }
// Lanes below `count`; all 16 from count = 16 on, none from 0 down.
ALWAYS_INLINE __mmask16 first_lanes(int count) {
    return count >= kLanes ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// max(largest, |x|) where NaN is the largest of all: without the sign, the order of the bits is that of the numbers.
ALWAYS_INLINE __m512 larger_magnitude(__m512 largest, __m512 x) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(largest), _mm512_castps_si512(_mm512_abs_ps(x))));
}

ALWAYS_INLINE float largest_lane(__m512 magnitudes) {
    const int32_t bits = _mm512_reduce_max_epi32(_mm512_castps_si512(magnitudes));
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// Transposes a 16 x 16 block: out[column * out_stride + row] = rows[row][column]. Four rounds of swaps between registers.
ALWAYS_INLINE void transpose_block(const float* const (&rows)[kLanes], ptrdiff_t column, float* out, ptrdiff_t out_stride) {
    __m512 a[kLanes], b[kLanes];
    UNROLL
    for (int i = 0; i < kLanes; i++) a[i] = _mm512_loadu_ps(rows[i] + column);
    UNROLL
    for (int i = 0; i < kLanes; i += 2) {   // pairs of floats
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL
    for (int i = 0; i < kLanes; i += 4) {   // quads of floats: column 4l + c of rows i..i+3 in lane group l
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
    UNROLL
    for (int c = 0; c < 4; c++) {   // lane groups of four rows each
        const __m512 low02 = _mm512_shuffle_f32x4(a[c], a[c + 4], 0x88), low13 = _mm512_shuffle_f32x4(a[c], a[c + 4], 0xdd);
        const __m512 high02 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x88);
        const __m512 high13 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xdd);
        _mm512_store_ps(out + (c + 0) * out_stride, _mm512_shuffle_f32x4(low02, high02, 0x88));
        _mm512_store_ps(out + (c + 4) * out_stride, _mm512_shuffle_f32x4(low13, high13, 0x88));
        _mm512_store_ps(out + (c + 8) * out_stride, _mm512_shuffle_f32x4(low02, high02, 0xdd));
        _mm512_store_ps(out + (c + 12) * out_stride, _mm512_shuffle_f32x4(low13, high13, 0xdd));
    }
}

// The outputs first..first+15 of a row, from their integer sums.
ALWAYS_INLINE void write_outputs(const Int8Weights& weights, const Int8Rows& rows, int first, int row, __m512i sums,
                                 const float* residual, float* out, ptrdiff_t stride) {
    const __m512 scale = _mm512_mul_ps(_mm512_load_ps(weights.scales + first), all(rows.scales[row]));
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(rows.offsets[row])));
    __m512 value = _mm512_fmadd_ps(sum, scale, _mm512_load_ps(weights.bias + first));
    const ptrdiff_t at = row * stride + first;
    if (residual) value = _mm512_add_ps(value, _mm512_load_ps(residual + at));
    _mm512_store_ps(out + at, value);
}

}   // namespace
}   // namespace shortlist
