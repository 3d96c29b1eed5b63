// The int8 scan for processors with AVX512-VNNI; elsewhere the portable one stands in, and nobody asks for it.
#include "search.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>

namespace shortlist {

// VNNI multiplies unsigned by signed bytes: this sums (v + 128) * q, so that 128 * sum(q) must be taken off at the end.
static inline __m512i add64(__m512i sums, __m512i values, __m512i query) {
    return _mm512_dpbusd_epi32(sums, _mm512_xor_si512(values, _mm512_set1_epi8(char(0x80))), query);
}

// Bytes beyond `dims` are masked to zero in the query, so the row's scale and padding never count.
void dots_avx512vnni(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out) {
    const size_t whole = rows.dims / 64 * 64;
    const __mmask64 tail = (uint64_t(1) << (rows.dims - whole)) - 1;
    const __m512i query_tail = _mm512_maskz_loadu_epi8(tail, query + whole);
    int32_t query_sum = 0;
    for (size_t j = 0; j < rows.dims; ++j) query_sum += query[j];
    for (size_t i = 0; i < count; ++i) {
        const uint8_t* row = rows.data + (first + i) * rows.stride + sizeof(float);
        __m512i even = _mm512_setzero_si512(), odd = even;
        size_t j = 0;
        for (; j + 128 <= whole; j += 128) {
            even = add64(even, _mm512_loadu_si512(row + j), _mm512_loadu_si512(query + j));
            odd = add64(odd, _mm512_loadu_si512(row + j + 64), _mm512_loadu_si512(query + j + 64));
        }
        if (j < whole) even = add64(even, _mm512_loadu_si512(row + j), _mm512_loadu_si512(query + j));
        if (tail) odd = add64(odd, _mm512_maskz_loadu_epi8(tail, row + whole), query_tail);
        out[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd)) - 128 * query_sum;
    }
}

}  // namespace shortlist
#else
namespace shortlist {
void dots_avx512vnni(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out) {
    dots_portable(rows, first, count, query, out);
}
}  // namespace shortlist
#endif
