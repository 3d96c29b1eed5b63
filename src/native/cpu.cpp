#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace shortlist {

#if defined(__x86_64__)
// __builtin_cpu_supports asks the processor (cpuid) and whether the operating system saves the registers (xgetbv).
// Not every compiler's knows F16C, which no processor with AVX2 lacks, but a virtual machine may.
static bool has_avx2() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c;
}

#if defined(SHORTLIST_AVXVNNI)
// Not every compiler's __builtin_cpu_supports knows this name. The registers are those of AVX2.
static bool has_avxvnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

static bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

#if defined(SHORTLIST_AMX)
// What the processor has and the system saves; whether this process may use it, amx_kernels() finds out.
static bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0, saved = 0, high = 0;
    constexpr unsigned tiles_and_int8 = 3u << 24, tile_registers = 3u << 17;
    if (!has_avx512vnni() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles_and_int8) != tiles_and_int8) return false;
    asm("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return (saved & tile_registers) == tile_registers;
}
#endif
#elif defined(__aarch64__) && defined(__APPLE__)
static bool has_dot_product() {
    int there = 0;
    size_t size = sizeof there;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &there, &size, nullptr, 0) == 0 && there;
}
#elif defined(__aarch64__)
static bool has_dot_product() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(SHORTLIST_AMX)
    if (has_amx() && amx_kernels()) found.push_back(amx_kernels());
#endif
    if (has_avx512vnni()) found.push_back(&avx512vnni_kernels());
#if defined(SHORTLIST_AVXVNNI)
    if (has_avxvnni()) found.push_back(&avxvnni_kernels());
#endif
    if (has_avx2()) found.push_back(&avx2_kernels());
#elif defined(__aarch64__)
    if (has_dot_product()) found.push_back(&neon_kernels());
#endif
    found.push_back(&portable_kernels());
    return found;
}

}  // namespace shortlist
