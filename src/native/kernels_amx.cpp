// Kernels for processors with AMX-INT8: linear layers by tiles of 16 rows, all else as on AVX512-VNNI, every bit the same.
//
// Written without such a processor. So the seven tile instructions stand apart, tests/native puts plain loops of the same meaning
// in their place, and amx_kernels() offers them only where they give, on the machine itself, what those loops give.
//
// Compiled with the flags of kernels_avx512.cpp, under the same rule; the tile instructions are assembly.
#if defined(SHORTLIST_AMX)
#include "avx512.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace shortlist {
namespace {

constexpr int kTile = 16;               // rows of a tile, and outputs of one
constexpr int kTileBytes = 64;          // of a row of a tile: so many inputs of one row, or four inputs of 16 outputs
constexpr int kGroup = 4 * kPanel;      // bytes of a panel from one four inputs to the next
constexpr int kRowTiles = 2, kOutputTiles = 2;   // tiles 0..3 hold sums, 4 and 5 rows, 6 and 7 weights

// The instructions. Eight tiles of int8[16][64], or int32[16][16], a thread; rows in memory lie `stride` bytes apart.
struct AmxTiles {
    // 16 rows of 64 bytes for all eight tiles, zeroed; until release() the thread's state is larger by 8 KiB.
    static ALWAYS_INLINE void configure() {
        struct alignas(64) {
            uint8_t palette, start_row, reserved[14];
            uint16_t bytes[16];
            uint8_t rows[16];
        } shape = {1, 0, {}, {}, {}};
        for (int t = 0; t < 8; t++) shape.bytes[t] = kTileBytes, shape.rows[t] = kTile;
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    static ALWAYS_INLINE void release() { asm volatile("tilerelease" ::); }

    template <int Tile>
    static ALWAYS_INLINE void clear() {
        asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
    }
    template <int Tile>
    static ALWAYS_INLINE void load(const void* from, ptrdiff_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
    }
    template <int Tile>
    static ALWAYS_INLINE void store(void* to, ptrdiff_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
    }
    // sums[m][n] += sum over k of signed row[m][k] * unsigned weights[k / 4][4 n + k % 4]
    template <int Sums, int Row, int Weights>
    static ALWAYS_INLINE void dot() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(Row), "i"(Weights));
    }
};

// The same in plain loops.
struct PlainTiles {
    static inline thread_local uint8_t tiles[8][kTile][kTileBytes];

    static void configure() { __builtin_memset(tiles, 0, sizeof tiles); }
    static void release() {}

    template <int Tile>
    static void clear() {
        __builtin_memset(tiles[Tile], 0, sizeof tiles[Tile]);
    }
    template <int Tile>
    static void load(const void* from, ptrdiff_t stride) {
        for (int r = 0; r < kTile; r++) __builtin_memcpy(tiles[Tile][r], static_cast<const uint8_t*>(from) + r * stride, kTileBytes);
    }
    template <int Tile>
    static void store(void* to, ptrdiff_t stride) {
        for (int r = 0; r < kTile; r++) __builtin_memcpy(static_cast<uint8_t*>(to) + r * stride, tiles[Tile][r], kTileBytes);
    }
    template <int Sums, int Row, int Weights>
    static void dot() {
        for (int m = 0; m < kTile; m++) {
            for (int n = 0; n < kTile; n++) {
                int32_t sum;
                __builtin_memcpy(&sum, &tiles[Sums][m][4 * n], sizeof sum);
                for (int k = 0; k < kTileBytes; k++)
                    sum += static_cast<int8_t>(tiles[Row][m][k]) * tiles[Weights][k / 4][4 * n + k % 4];
                __builtin_memcpy(&tiles[Sums][m][4 * n], &sum, sizeof sum);
            }
        }
    }
};

// 16 or 32 rows (RowTiles 1 or 2) of int8[inputs] times 32 outputs of a panel -> sums int32[16 * RowTiles][32].
template <class Tiles, int RowTiles>
ALWAYS_INLINE void dot_tiles(const uint8_t* panel, const int8_t* rows, int inputs, int32_t* sums) {
    constexpr int width = kOutputTiles * kTile * static_cast<int>(sizeof(int32_t));
    Tiles::template clear<0>();
    Tiles::template clear<1>();
    if (RowTiles == 2) {
        Tiles::template clear<2>();
        Tiles::template clear<3>();
    }
    for (int k = 0; k < inputs; k += kTileBytes, panel += kTileBytes / 4 * kGroup) {
        Tiles::template load<6>(panel, kGroup);
        Tiles::template load<7>(panel + 4 * kTile, kGroup);
        Tiles::template load<4>(rows + k, inputs);
        Tiles::template dot<0, 4, 6>();
        Tiles::template dot<1, 4, 7>();
        if (RowTiles == 2) {
            Tiles::template load<5>(rows + static_cast<ptrdiff_t>(kTile) * inputs + k, inputs);
            Tiles::template dot<2, 5, 6>();
            Tiles::template dot<3, 5, 7>();
        }
    }
    Tiles::template store<0>(sums, width);
    Tiles::template store<1>(sums + kTile, width);
    if (RowTiles == 2) {
        Tiles::template store<2>(sums + kTile * kOutputTiles * kTile, width);
        Tiles::template store<3>(sums + kTile * kOutputTiles * kTile + kTile, width);
    }
}

template <class Tiles, int RowTiles>
void linear_tiles(const Int8Weights& weights, const Int8Rows& rows, int first, int row, const float* residual, float* out,
                  ptrdiff_t stride) {
    constexpr int outputs = kOutputTiles * kTile;
    alignas(64) int32_t sums[RowTiles * kTile * outputs];
    for (int half = 0; half < kPanel; half += outputs) {
        dot_tiles<Tiles, RowTiles>(weights.panels + static_cast<ptrdiff_t>(first) * weights.inputs + 4 * half,
                                   rows.values + static_cast<ptrdiff_t>(row) * weights.inputs, weights.inputs, sums);
        for (int r = 0; r < RowTiles * kTile; r++) {
            for (int j = 0; j < outputs; j += kLanes)
                write_outputs(weights, rows, first + half + j, row + r, _mm512_load_si512(sums + r * outputs + j), residual, out,
                              stride);
        }
    }
}

// Rows that do not fill a tile are AVX512-VNNI's: the sums are whole numbers, so nobody can tell.
template <class Tiles>
void linear_int8(const Int8Weights& weights, const Int8Rows& rows, int count, const float* residual, float* out,
                 ptrdiff_t stride) {
    const int tiled = count / kTile * kTile;
    if (tiled > 0) {
        Tiles::configure();
        for (int first = 0; first < weights.outputs; first += kPanel) {
            int row = 0;
            for (; row + kRowTiles * kTile <= tiled; row += kRowTiles * kTile)
                linear_tiles<Tiles, kRowTiles>(weights, rows, first, row, residual, out, stride);
            if (row < tiled) linear_tiles<Tiles, 1>(weights, rows, first, row, residual, out, stride);
        }
        Tiles::release();
    }
    if (tiled == count) return;
    const Int8Rows rest{rows.values + static_cast<ptrdiff_t>(tiled) * weights.inputs, rows.scales + tiled, rows.offsets + tiled};
    avx512vnni_kernels().linear_int8(weights, rest, count - tiled, residual ? residual + tiled * stride : nullptr,
                                     out + tiled * stride, stride);
}

Kernels with(const char* name, decltype(Kernels::linear_int8) linear) {
    Kernels kernels = avx512vnni_kernels();
    kernels.name = name;
    kernels.linear_int8 = linear;
    return kernels;
}

// Linux gives a process the larger registers only when asked; threads and forks have them along.
bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

// Both tile loops over 48 rows of 128 inputs, every byte value among them.
bool tiles_agree() {
    constexpr int inputs = 128, outputs = kPanel, count = 48;
    alignas(64) static uint8_t panel[outputs * inputs];
    alignas(64) static int8_t values[count * inputs];
    alignas(64) static float ones[outputs], zeros[outputs], got[count * outputs], expected[count * outputs];
    float scales[count];
    int32_t offsets[count] = {};
    uint32_t state = 1;
    const auto next = [&] { return static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24); };
    for (uint8_t& byte : panel) byte = next();
    for (int8_t& byte : values) byte = static_cast<int8_t>(next());
    for (float& one : ones) one = 1.0f;
    for (float& scale : scales) scale = 1.0f;
    const Int8Weights weights{outputs, inputs, panel, ones, zeros};
    linear_int8<AmxTiles>(weights, {values, scales, offsets}, count, nullptr, got, outputs);
    linear_int8<PlainTiles>(weights, {values, scales, offsets}, count, nullptr, expected, outputs);
    return __builtin_memcmp(got, expected, sizeof got) == 0;
}

}   // namespace

const Kernels* amx_kernels() {
    static const Kernels kernels = with("amx", linear_int8<AmxTiles>);
    static const bool usable = tiles_granted() && tiles_agree();
    return usable ? &kernels : nullptr;
}

const Kernels& plain_tile_kernels() {
    static const Kernels kernels = with("amx in plain loops", linear_int8<PlainTiles>);
    return kernels;
}

}   // namespace shortlist
#endif
