// Kernels for processors with AVX2, FMA and AVX-VNNI, compiled with the flags of the first two: the last is assembly.
#if defined(SHORTLIST_AVXVNNI)
#include "vector_avx2.h"

namespace shortlist {
namespace {

struct AvxVnni : Avx2 {
    static constexpr const char* kName = "avxvnni";
    static constexpr int kAdded = 128;

    static ALWAYS_INLINE Bytes pack(Bytes x) { return _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(kAdded))); }

    // sum += four unsigned bytes * four signed bytes in each lane. As assembly because GCC copies the accumulators of the
    // intrinsic from register to register.
    static ALWAYS_INLINE Ints dot_bytes(Ints sum, Bytes weights, Bytes x) {
        asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(x));
        return sum;
    }

    static ALWAYS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) {
        asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        return sum;
    }
};

}   // namespace

const Kernels& avxvnni_kernels() { return VectorKernels<AvxVnni>::kTable; }

}   // namespace shortlist
#endif
