// Kernels for processors with AVX2 and FMA; this file alone is compiled with their flags.
#if defined(__x86_64__)
#include "vector_avx2.h"

namespace shortlist {

const Kernels& avx2_kernels() { return VectorKernels<Avx2>::kTable; }

}   // namespace shortlist
#endif
