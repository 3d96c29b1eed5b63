// The vectors of AVX2 with FMA for kernels_vector.h.
#pragma once
#include <immintrin.h>

#include "half_dots.h"
#include "kernels_vector.h"

namespace shortlist {
namespace {

// Eight halves at a time.
struct F16c {
    using Eight = __m256;
    static ALWAYS_INLINE Eight load(const float* from) { return _mm256_loadu_ps(from); }
    static ALWAYS_INLINE void store(float* to, Eight eight) { _mm256_storeu_ps(to, eight); }
    static ALWAYS_INLINE Eight widen(const uint16_t* from) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static ALWAYS_INLINE float one(uint16_t half) { return _cvtsh_ss(half); }
};

struct Avx2 {
    static constexpr const char* kName = "avx2";
    static constexpr int kWidth = 8, kAdded = 0, kSteps = 1;
    static constexpr int kRowTile = 5;   // x 16 outputs: 10 accumulators + 5 rows + 1 vector of weights = 16 registers
    using Floats = __m256;
    using Ints = __m256i;
    using Bytes = __m256i;
    using Row = __m256i;   // the same four bytes in every lane

    static constexpr auto half_dots = half_dots_of<F16c>;
    static ALWAYS_INLINE Floats load(const float* x) { return _mm256_loadu_ps(x); }
    static ALWAYS_INLINE void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
    static ALWAYS_INLINE Floats all(float x) { return _mm256_set1_ps(x); }
    static ALWAYS_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static ALWAYS_INLINE Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
    static ALWAYS_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static ALWAYS_INLINE Floats abs(Floats x) { return _mm256_andnot_ps(all(-0.0f), x); }
    // max(largest, |x|) where NaN is the largest of all: without the sign, the order of the bits is that of the numbers.
    static ALWAYS_INLINE Floats larger(Floats largest, Floats x) {
        return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(largest), _mm256_castps_si256(abs(x))));
    }
    static ALWAYS_INLINE Floats round(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static ALWAYS_INLINE Ints to_ints(Floats x) { return _mm256_cvtps_epi32(x); }
    static ALWAYS_INLINE Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }

    // 2^x for whole x from -126 to 127: the exponent's bits.
    static ALWAYS_INLINE Floats power_of_two(Floats x) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(to_ints(x), _mm256_set1_epi32(127)), 23));
    }

    // x in the first `count` lanes, else zero.
    static ALWAYS_INLINE Floats first_lanes(Floats x, int count) {
        const Ints lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes)));
    }

    static ALWAYS_INLINE float sum(Floats x) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }

    static ALWAYS_INLINE float largest(Floats x) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    // The largest of magnitudes, NaN above all.
    static ALWAYS_INLINE float largest_magnitude(Floats x) {
        const __m256i bits = _mm256_castps_si256(x);
        const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
        const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1))));
    }

    // An 8 x 8 block between registers: pairs, then quads, then halves change places.
    static ALWAYS_INLINE void transpose(Floats (&x)[kWidth]) {
        Floats y[kWidth];
        UNROLL
        for (int i = 0; i < kWidth; i += 2) {
            y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
            y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
        }
        UNROLL
        for (int i = 0; i < kWidth; i += 4) {
            x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
            x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
            x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
            x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            y[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
            y[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
        }
        UNROLL
        for (int i = 0; i < kWidth; i++) x[i] = y[i];
    }

    static ALWAYS_INLINE Ints all_ints(int32_t x) { return _mm256_set1_epi32(x); }
    static ALWAYS_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static ALWAYS_INLINE int32_t sum(Ints x) {
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
    }

    static ALWAYS_INLINE Ints load_ints(const int32_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
    static ALWAYS_INLINE void store_ints(int32_t* to, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
    static ALWAYS_INLINE Floats bits(Ints x) { return _mm256_castsi256_ps(x); }

    // Two numbers that fit in int16 in one lane.
    static ALWAYS_INLINE Ints pair(Ints low, Ints high) {
        return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(high, 16));
    }

    // sum += the two products of two pairs, in each lane.
    static ALWAYS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }

    // 16 int32 within -128..127 as bytes.
    static ALWAYS_INLINE void store_bytes(int8_t* to, const Ints (&x)[2]) {
        const Ints words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x[0], x[1]), 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }

    static ALWAYS_INLINE Bytes load_bytes(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }
    static ALWAYS_INLINE Row load_row(const int8_t* x) {
        int32_t four;
        __builtin_memcpy(&four, x, sizeof four);
        return _mm256_set1_epi32(four);
    }

    // int8 weights as `dot_bytes` takes them.
    static ALWAYS_INLINE Bytes pack(Bytes x) { return x; }

    // sum += four products of signed bytes in each lane. The instruction multiplies unsigned by signed bytes and adds pairs
    // in 16 bits, so the sign of the weight moves to the other factor: 2 * 128 * 127 does not saturate. (With bytes
    // extended to 16 bits and vpmaddwd it is 1.4 times slower.)
    static ALWAYS_INLINE Ints dot_bytes(Ints sum, Bytes weights, Bytes x) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }

    // The first `count` bytes, a multiple of four, and zeros; nothing behind them is read.
    static ALWAYS_INLINE Bytes load_first(const uint8_t* x, size_t count) {
        const Ints lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const Ints kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count / 4)), lanes);
        return _mm256_maskload_epi32(reinterpret_cast<const int*>(x), kept);
    }

    static ALWAYS_INLINE Bytes all_bytes(int8_t x) { return _mm256_set1_epi8(x); }
    static ALWAYS_INLINE Bytes both(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
    static ALWAYS_INLINE Bytes plus_twice(Bytes a, Bytes b) { return _mm256_add_epi8(a, _mm256_add_epi8(b, b)); }
    static ALWAYS_INLINE Bytes minus_twice(Bytes a, Bytes b) { return _mm256_sub_epi8(a, _mm256_add_epi8(b, b)); }

    // How many bits of each byte are set: a table for each half of it.
    static ALWAYS_INLINE Bytes count_bits(Bytes x) {
        const Bytes table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        const Bytes half = _mm256_set1_epi8(15);
        const Bytes low = _mm256_and_si256(x, half), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), half);
        return _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
    }
};

}   // namespace
}   // namespace shortlist
