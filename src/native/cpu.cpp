#include "cpu.h"

namespace shortlist {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
#if defined(__x86_64__)
    // These built-ins ask the processor (cpuid) and whether the operating system saves the registers (xgetbv).
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        names.push_back("avx512vnni");
    }
#endif
    names.push_back("portable");
    return names;
}

}  // namespace shortlist
