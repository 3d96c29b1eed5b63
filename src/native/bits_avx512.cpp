// The scan of rows of bits with VPOPCNTDQ. A file of its own, because not every processor with AVX-512 and VNNI has it.
#if defined(__x86_64__)
#include "avx512.h"

namespace shortlist {
namespace {

constexpr int kScanRows = 8;

// sum += the query's numbers at the bits of `bits`, in each of eight lanes: ((-2 c3 + c2) 2 + c1) 2 + c0, c the bits of a plane.
ALWAYS_INLINE __m512i add_planes(__m512i sum, __m512i bits, const __m512i (&planes)[kPlanes]) {
    __m512i counts[kPlanes];
    UNROLL
    for (size_t p = 0; p < kPlanes; p++) counts[p] = _mm512_popcnt_epi64(_mm512_and_si512(bits, planes[p]));
    __m512i total = _mm512_sub_epi64(counts[2], _mm512_slli_epi64(counts[3], 1));
    total = _mm512_add_epi64(counts[1], _mm512_slli_epi64(total, 1));
    total = _mm512_add_epi64(counts[0], _mm512_slli_epi64(total, 1));
    return _mm512_add_epi64(sum, total);
}

// Lane r: the sum of sums[r].
ALWAYS_INLINE __m512i row_sums(const __m512i (&sums)[kScanRows]) {
    __m512i pairs[4], fours[2];
    UNROLL
    for (int r = 0; r < 4; r++)   // lanes of rows 2r and 2r + 1 in turn
        pairs[r] = _mm512_add_epi64(_mm512_unpacklo_epi64(sums[2 * r], sums[2 * r + 1]),
                                    _mm512_unpackhi_epi64(sums[2 * r], sums[2 * r + 1]));
    UNROLL
    for (int r = 0; r < 2; r++)   // lane groups of two: rows 4r, 4r + 1 | the same | rows 4r + 2, 4r + 3 | the same
        fours[r] = _mm512_add_epi64(_mm512_shuffle_i64x2(pairs[2 * r], pairs[2 * r + 1], 0x88),
                                    _mm512_shuffle_i64x2(pairs[2 * r], pairs[2 * r + 1], 0xdd));
    return _mm512_add_epi64(_mm512_shuffle_i64x2(fours[0], fours[1], 0x88), _mm512_shuffle_i64x2(fours[0], fours[1], 0xdd));
}

}   // namespace

// Eight rows at a time, so that their sums are added up together.
void bit_dots_avx512(const Rows& rows, size_t first, size_t count, const BitQuery& query, int32_t* out) {
    const size_t bytes = rows.stride - kBitHeader;
    for (size_t i = 0; i < count; i += kScanRows) {
        const size_t left = count - i;
        const uint8_t* row[kScanRows];
        __m512i sums[kScanRows];
        UNROLL
        for (size_t r = 0; r < kScanRows; r++) {
            row[r] = rows.data + (first + i + (r < left ? r : left - 1)) * rows.stride + kBitHeader;
            sums[r] = _mm512_setzero_si512();
            __builtin_prefetch(row[r] + kAhead);
        }
        for (size_t j = 0; j < bytes; j += 64) {
            const __mmask16 lanes = first_lanes(static_cast<int>((bytes - j) / 4));
            __m512i planes[kPlanes];
            UNROLL
            for (size_t p = 0; p < kPlanes; p++) planes[p] = _mm512_loadu_si512(query.planes + p * query.width + j);
            UNROLL
            for (size_t r = 0; r < kScanRows; r++) sums[r] = add_planes(sums[r], _mm512_maskz_loadu_epi32(lanes, row[r] + j), planes);
        }
        const __m256i dots = _mm512_cvtepi64_epi32(row_sums(sums));
        _mm256_mask_storeu_epi32(out + i, left >= kScanRows ? 0xff : static_cast<__mmask8>((1u << left) - 1), dots);
    }
}

}   // namespace shortlist
#endif
