// Kernels for 64-bit ARM processors with the dot product of bytes; this file alone is compiled with its flags.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels_vector.h"

namespace shortlist {
namespace {

struct Neon {
    static constexpr const char* kName = "neon";
    static constexpr int kWidth = 4, kAdded = 0, kSteps = 4;
    static constexpr int kRowTile = 6;   // x 16 outputs: 24 accumulators + 6 rows + 1 vector of weights < 32 registers
    using Floats = float32x4_t;
    using Ints = int32x4_t;
    using Bytes = int8x16_t;
    using Row = int8x16_t;   // sixteen bytes: lane by lane, they meet four vectors of weights

    static constexpr auto half_dots = half_dots_portable;
    static ALWAYS_INLINE Floats load(const float* x) { return vld1q_f32(x); }
    static ALWAYS_INLINE void store(float* to, Floats x) { vst1q_f32(to, x); }
    static ALWAYS_INLINE Floats all(float x) { return vdupq_n_f32(x); }
    static ALWAYS_INLINE Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
    static ALWAYS_INLINE Floats min(Floats a, Floats b) { return vminq_f32(a, b); }
    static ALWAYS_INLINE Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
    static ALWAYS_INLINE Floats abs(Floats x) { return vabsq_f32(x); }
    // max(largest, |x|), NaN if one is NaN.
    static ALWAYS_INLINE Floats larger(Floats largest, Floats x) { return vmaxq_f32(largest, abs(x)); }
    static ALWAYS_INLINE float largest_magnitude(Floats x) { return vmaxvq_f32(x); }
    static ALWAYS_INLINE Floats round(Floats x) { return vrndnq_f32(x); }
    static ALWAYS_INLINE Ints to_ints(Floats x) { return vcvtnq_s32_f32(x); }
    static ALWAYS_INLINE Floats to_floats(Ints x) { return vcvtq_f32_s32(x); }

    // 2^x for whole x from -126 to 127: the exponent's bits.
    static ALWAYS_INLINE Floats power_of_two(Floats x) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(to_ints(x), all_ints(127)), 23));
    }

    // x in the first `count` lanes, else zero.
    static ALWAYS_INLINE Floats first_lanes(Floats x, int count) {
        const uint32x4_t kept = vcltq_s32(Ints{0, 1, 2, 3}, all_ints(count));
        return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), kept));
    }

    static ALWAYS_INLINE float sum(Floats x) { return vaddvq_f32(x); }
    static ALWAYS_INLINE float largest(Floats x) { return vmaxvq_f32(x); }

    // A 4 x 4 block between registers: pairs, then halves change places.
    static ALWAYS_INLINE void transpose(Floats (&x)[kWidth]) {
        const float32x4x2_t low = vtrnq_f32(x[0], x[1]), high = vtrnq_f32(x[2], x[3]);
        UNROLL
        for (int i = 0; i < 2; i++) {
            x[i] = vcombine_f32(vget_low_f32(low.val[i]), vget_low_f32(high.val[i]));
            x[i + 2] = vcombine_f32(vget_high_f32(low.val[i]), vget_high_f32(high.val[i]));
        }
    }

    static ALWAYS_INLINE Ints all_ints(int32_t x) { return vdupq_n_s32(x); }
    static ALWAYS_INLINE Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }
    static ALWAYS_INLINE int32_t sum(Ints x) { return vaddvq_s32(x); }

    static ALWAYS_INLINE Ints load_ints(const int32_t* x) { return vld1q_s32(x); }
    static ALWAYS_INLINE void store_ints(int32_t* to, Ints x) { vst1q_s32(to, x); }
    static ALWAYS_INLINE Floats bits(Ints x) { return vreinterpretq_f32_s32(x); }

    // Two numbers that fit in int16 in one lane.
    static ALWAYS_INLINE Ints pair(Ints low, Ints high) {
        return vorrq_s32(vandq_s32(low, all_ints(0xffff)), vshlq_n_s32(high, 16));
    }

    // sum += the two products of two pairs, in each lane.
    static ALWAYS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) {
        const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
        const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
        return vaddq_s32(sum, vpaddq_s32(low, high));
    }

    // 16 int32 within -128..127 as bytes.
    static ALWAYS_INLINE void store_bytes(int8_t* to, const Ints (&x)[4]) {
        const int16x8_t low = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]));
        const int16x8_t high = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
        vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }

    static ALWAYS_INLINE Bytes load_bytes(const void* x) { return vld1q_s8(static_cast<const int8_t*>(x)); }
    static ALWAYS_INLINE Row load_row(const int8_t* x) { return vld1q_s8(x); }

    // int8 weights as `dot_bytes` takes them.
    static ALWAYS_INLINE Bytes pack(Bytes x) { return x; }

    // sum += four products of signed bytes in each lane.
    static ALWAYS_INLINE Ints dot_bytes(Ints sum, Bytes weights, Bytes x) { return vdotq_s32(sum, weights, x); }
    // The same with the Lane-th four bytes of a row in every lane.
    template <int Lane>
    static ALWAYS_INLINE Ints dot_lane(Ints sum, Bytes weights, Row x) {
        return vdotq_laneq_s32(sum, weights, x, Lane);
    }

    // The first `count` bytes, a multiple of four, and zeros; nothing behind them is read.
    static ALWAYS_INLINE Bytes load_first(const uint8_t* x, size_t count) {
        uint8_t kept[16] = {};
        __builtin_memcpy(kept, x, count);
        return load_bytes(kept);
    }

    static ALWAYS_INLINE Bytes all_bytes(int8_t x) { return vdupq_n_s8(x); }
    static ALWAYS_INLINE Bytes both(Bytes a, Bytes b) { return vandq_s8(a, b); }
    static ALWAYS_INLINE Bytes count_bits(Bytes x) { return vcntq_s8(x); }
    static ALWAYS_INLINE Bytes plus_twice(Bytes a, Bytes b) { return vaddq_s8(a, vaddq_s8(b, b)); }
    static ALWAYS_INLINE Bytes minus_twice(Bytes a, Bytes b) { return vsubq_s8(a, vaddq_s8(b, b)); }
};

}   // namespace

const Kernels& neon_kernels() { return VectorKernels<Neon>::kTable; }

}   // namespace shortlist
#endif
