// The most int8 arithmetic that a processor can do: dot products of registers with registers, no memory at all.
//
//     c++ -O2 -std=c++17 -pthread native_peak.cpp -o native_peak && ./native_peak THREADS
//
// A line for every instruction that this processor has: its name and Gop/s of THREADS threads together, best of five.
// A multiply and an add are two operations; an instruction that also adds neighbours counts its int8 products only.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace {

constexpr long steps = 2'000'000;
constexpr int chains = 12;  // independent sums: more than latency x instructions a cycle of every processor we know

struct Instruction {
    const char* name;
    int products;  // int8 products of one instruction
    void (*loop)();
};

// Twelve instructions that do not wait for one another; the compiler may neither join nor drop them.
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void vnni_zmm() {
    const __m512i a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x02020202);
    __m512i sum[chains] = {};
    for (long i = 0; i < steps; i++) {
#define STEP(n) asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum[n]) : "v"(a), "v"(b));
        CHAINS(STEP)
#undef STEP
    }
}

__attribute__((target("avx2"))) void vnni_ymm() {
    const __m256i a = _mm256_set1_epi32(0x03030303), b = _mm256_set1_epi32(0x02020202);
    __m256i sum[chains] = {};
    for (long i = 0; i < steps; i++) {
#define STEP(n) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[n]) : "x"(a), "x"(b));
        CHAINS(STEP)
#undef STEP
    }
}

// Without VNNI: 32 products in three instructions, summed in 16 bits first.
__attribute__((target("avx2"))) void maddubs_ymm() {
    const __m256i a = _mm256_set1_epi32(0x03030303), b = _mm256_set1_epi32(0x02020202), ones = _mm256_set1_epi16(1);
    __m256i sum[chains] = {}, pairs;
    for (long i = 0; i < steps; i++) {
#define STEP(n)                                                                                        \
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"                   \
                 : "+x"(sum[n]), "=&x"(pairs)                                                          \
                 : "x"(a), "x"(b), "x"(ones));
        CHAINS(STEP)
#undef STEP
    }
}

// AVX-VNNI has no name that every compiler's __builtin_cpu_supports knows: leaf 7.1, bit 4 of eax.
bool has_avx_vnni() {
    unsigned eax = 7, ebx = 0, ecx = 1, edx = 0;
    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return __builtin_cpu_supports("avx2") && (eax >> 4 & 1);
}

std::vector<Instruction> instructions() {
    __builtin_cpu_init();
    std::vector<Instruction> found;
    if (__builtin_cpu_supports("avx512vnni")) found.push_back({"vpdpbusd-zmm", 64, vnni_zmm});
    if (has_avx_vnni()) found.push_back({"vpdpbusd-ymm", 32, vnni_ymm});
    if (__builtin_cpu_supports("avx2")) found.push_back({"vpmaddubsw-ymm", 32, maddubs_ymm});
    return found;
}

#elif defined(__aarch64__)

void sdot() {
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(2);
    int32x4_t sum[chains] = {};
    for (long i = 0; i < steps; i++) {
#define STEP(n) asm volatile(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum[n]) : "w"(a), "w"(b));
        CHAINS(STEP)
#undef STEP
    }
}

std::vector<Instruction> instructions() {
#if defined(__linux__)
    if (!(getauxval(AT_HWCAP) & HWCAP_ASIMDDP)) return {};
#endif
    return {{"sdot", 16, sdot}};
}

#else

std::vector<Instruction> instructions() { return {}; }

#endif

double seconds(void (*loop)(), int threads) {
    std::atomic<int> waiting{threads};
    std::vector<double> taken(threads);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; t++) {
        pool.emplace_back([&, t] {
            waiting--;
            while (waiting > 0) {
            }
            const auto start = std::chrono::steady_clock::now();
            loop();
            taken[t] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        });
    }
    for (auto& thread : pool) thread.join();
    double slowest = 0;
    for (double s : taken) slowest = s > slowest ? s : slowest;
    return slowest;
}

}  // namespace

int main(int count, char** words) {
    const int threads = count > 1 ? std::atoi(words[1]) : 1;
    if (threads < 1 || threads > 1024) return std::fprintf(stderr, "THREADS: expected a number from 1 to 1024.\n"), 2;
    for (const Instruction& instruction : instructions()) {
        double best = 1e9;
        for (int round = 0; round < 5; round++) {
            const double s = seconds(instruction.loop, threads);
            best = s < best ? s : best;
        }
        std::printf("%s %.1f\n", instruction.name, 2e-9 * instruction.products * chains * double(steps) * threads / best);
    }
}
