// The kernels for processors whose vectors hold less than 16 floats, written once over a struct V that names the
// instructions. What each one computes is said in kernels.h and shown by the plain loops of kernels_portable.cpp.
//
// A .cpp file that includes this is compiled with the flags of its instruction set. Everything is in an anonymous
// namespace and nothing here is an inline function of the standard library: else the linker could keep one file's copy
// of a function and run it on a processor without those instructions.
//
// V offers
//   kName, kWidth        its name; floats in a vector
//   kRowTile             rows that a linear layer works on together with 16 outputs: as many as the registers hold
//   kAdded               what is added to packed weights: 128 where the byte dot product takes unsigned weights, else 0
//   Floats, Ints, Bytes  vectors of kWidth float32 (with operators + - *), kWidth int32, 4 * kWidth int8
//   half_dots            Kernels::half_dots
//   Row, kSteps          kSteps times four bytes of a row: in lanes, or four bytes in every lane (kSteps = 1)
// and the functions that are called below.
#pragma once
#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
// The compiler must turn every array of accumulators into registers, so all loops over them are unrolled.
#define UNROLL _Pragma("GCC unroll 16")

namespace shortlist {
namespace {

template <int N>
struct Size {
    static constexpr int value = N;
};

template <class V>
struct VectorKernels {
    using Floats = typename V::Floats;
    using Ints = typename V::Ints;
    using Bytes = typename V::Bytes;
    static constexpr int kVectors = kLanes / V::kWidth;   // vectors in a block of 16 columns

    // ------------------------------------------------------------------------------------------ quantisation

    // Row r of x, whose largest |x| is known, into row r of `out`.
    static ALWAYS_INLINE void quantize_row(const float* x, int width, float largest, const Int8Rows& out, int r) {
        if (!(largest < __builtin_inff())) {
            out.scales[r] = __builtin_nanf("");
            out.offsets[r] = 0;
            return;
        }
        if (!(largest > 1e-12f)) largest = 1e-12f;
        const Floats inverse = V::all(127.0f / largest);
        int8_t* values = out.values + static_cast<ptrdiff_t>(r) * width;
        Ints sum = V::all_ints(0);
        for (int k = 0; k < width; k += kLanes) {
            Ints q[kVectors];
            UNROLL
            for (int v = 0; v < kVectors; v++) {
                q[v] = V::to_ints(V::load(x + k + v * V::kWidth) * inverse);
                sum = V::add(sum, q[v]);
            }
            V::store_bytes(values + k, q);
        }
        out.scales[r] = largest / 127.0f;
        out.offsets[r] = V::kAdded * V::sum(sum);
    }

    static void quantize(const float* x, int rows, int width, const Int8Rows& out) {
        for (int r = 0; r < rows; r++, x += width) {
            Floats largest[kVectors];
            UNROLL
            for (int v = 0; v < kVectors; v++) largest[v] = V::all(0.0f);
            for (int k = 0; k < width; k += kLanes) {
                UNROLL
                for (int v = 0; v < kVectors; v++) largest[v] = V::larger(largest[v], V::load(x + k + v * V::kWidth));
            }
            UNROLL
            for (int v = 1; v < kVectors; v++) largest[0] = V::larger(largest[0], largest[v]);
            quantize_row(x, width, V::largest_magnitude(largest[0]), out, r);
        }
    }

    static ALWAYS_INLINE Floats gelu(Floats x, const GeluCurve& curve) {
        const Floats z = V::max(V::min(x, V::all(curve.limit)), V::all(-curve.limit));
        const Floats t = V::fma(z * z, V::all(2.0f / (curve.limit * curve.limit)), V::all(-1.0f));
        Floats p = V::all(curve.terms[kGeluTerms - 1]);
        UNROLL
        for (int i = kGeluTerms - 2; i >= 0; i--) p = V::fma(p, t, V::all(curve.terms[i]));
        return x * V::fma(z, p, V::all(0.5f));
    }

    // GELU of a row in place; returns the largest |x|. Several vectors at once hide the latency of the polynomial.
    static ALWAYS_INLINE float gelu_row(float* x, int width, const GeluCurve& curve) {
        Floats largest = V::all(0.0f);
        for (int k = 0; k < width; k += 4 * V::kWidth) {
            Floats y[4];
            UNROLL
            for (int v = 0; v < 4; v++) y[v] = gelu(V::load(x + k + v * V::kWidth), curve);
            UNROLL
            for (int v = 0; v < 4; v++) {
                V::store(x + k + v * V::kWidth, y[v]);
                largest = V::larger(largest, y[v]);
            }
        }
        return V::largest_magnitude(largest);
    }

    static void gelu_quantize(float* x, int rows, int width, const GeluCurve& curve, const Int8Rows& out) {
        const GeluCurve local = curve;   // that no store to x can change
        for (int r = 0; r < rows; r++, x += width) quantize_row(x, width, gelu_row(x, width, local), out, r);
    }

    // ------------------------------------------------------------------------------------------ linear layers

    // Blocks of 16 outputs that a tile of so many rows takes together: enough sums to hide the latency of each.
    static constexpr int blocks_of(int rows) { return rows <= 2 ? 2 : 1; }

    // Calls tile(Size<rows>, first output, first row) until all rows and outputs are covered.
    template <class Tile>
    static ALWAYS_INLINE void for_tiles(int outputs, int rows, Tile tile) {
        for (int first = 0; first < outputs; first += kPanel) {
            for (int row = 0; row < rows; row += V::kRowTile) for_blocks<V::kRowTile>(first, row, rows - row, tile);
        }
    }

    template <int Rows, class Tile>
    static ALWAYS_INLINE void for_blocks(int first, int row, int left, Tile tile) {
        if (left >= Rows) {
            constexpr int kStep = blocks_of(Rows) * kLanes;
            for (int n = 0; n < kPanel; n += kStep) tile(Size<Rows>{}, first + n, row);
        } else if constexpr (Rows > 1) {
            for_blocks<Rows - 1>(first, row, left, tile);
        }
    }

    // Adds the products of four inputs of each row, the Step-th four in `rows`; then those of the next Step. The same
    // weights of the next panel, `ahead` bytes from here, are asked for: reading 64 bytes of every 256, as this does, is
    // no order that the processor foresees, and a short query would wait half of its time.
    template <int Step, int Rows, int Count>
    static ALWAYS_INLINE void dot_steps(const uint8_t* panel, ptrdiff_t ahead, const typename V::Row (&rows)[Rows],
                                        Ints (&sums)[Rows][Count]) {
        UNROLL
        for (int n = 0; n < 4 * V::kWidth * Count; n += 64) __builtin_prefetch(panel + ahead + n);
        UNROLL
        for (int v = 0; v < Count; v++) {
            const Bytes weights = V::load_bytes(panel + 4 * V::kWidth * v);
            UNROLL
            for (int r = 0; r < Rows; r++) {
                if constexpr (V::kSteps == 1) sums[r][v] = V::dot_bytes(sums[r][v], weights, rows[r]);
                else sums[r][v] = V::template dot_lane<Step>(sums[r][v], weights, rows[r]);
            }
        }
        if constexpr (Step + 1 < V::kSteps) dot_steps<Step + 1>(panel + 4 * kPanel, ahead, rows, sums);
    }

    // Outputs from `first` on of Rows rows from `row` on.
    template <int Rows>
    static void linear_tile_int8(const Int8Weights& weights, const Int8Rows& rows, int first, int row, const float* residual,
                                 float* out, ptrdiff_t stride) {
        constexpr int kCount = blocks_of(Rows) * kVectors;
        const int column = first % kPanel, inputs = weights.inputs;
        const uint8_t* panel = weights.panels + static_cast<ptrdiff_t>(first - column) * inputs + 4 * column;
        const int8_t* input = rows.values + static_cast<ptrdiff_t>(row) * inputs;
        Ints sums[Rows][kCount];
        UNROLL
        for (int r = 0; r < Rows; r++) {
            UNROLL
            for (int v = 0; v < kCount; v++) sums[r][v] = V::all_ints(0);
        }
        for (int k = 0; k < inputs; k += 4 * V::kSteps, panel += 4 * kPanel * V::kSteps) {
            typename V::Row four[Rows];
            UNROLL
            for (int r = 0; r < Rows; r++) four[r] = V::load_row(input + static_cast<ptrdiff_t>(r) * inputs + k);
            dot_steps<0>(panel, static_cast<ptrdiff_t>(kPanel) * inputs, four, sums);
        }
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const Ints offset = V::all_ints(V::kAdded == 0 ? 0 : -rows.offsets[row + r]);
            const Floats row_scale = V::all(rows.scales[row + r]);
            const ptrdiff_t at = (row + r) * stride + first;
            UNROLL
            for (int v = 0; v < kCount; v++) {
                const int n = v * V::kWidth;
                const Floats scale = V::load(weights.scales + first + n) * row_scale;
                Floats value = V::fma(V::to_floats(V::add(sums[r][v], offset)), scale, V::load(weights.bias + first + n));
                if (residual) value = value + V::load(residual + at + n);
                V::store(out + at + n, value);
            }
        }
    }

    static void linear_int8(const Int8Weights& weights, const Int8Rows& rows, int count, const float* residual, float* out,
                            ptrdiff_t stride) {
        for_tiles(weights.outputs, count, [&](auto size, int first, int row) {
            linear_tile_int8<decltype(size)::value>(weights, rows, first, row, residual, out, stride);
        });
    }

    // sums[r][v] += weights[r] * vectors v of `row`.
    template <int Rows, int Count>
    static ALWAYS_INLINE void add_products(const float* const (&weights)[Rows], ptrdiff_t at, const float* row,
                                           Floats (&sums)[Rows][Count]) {
        Floats vectors[Count];
        UNROLL
        for (int v = 0; v < Count; v++) vectors[v] = V::load(row + v * V::kWidth);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const Floats weight = V::all(weights[r][at]);
            UNROLL
            for (int v = 0; v < Count; v++) sums[r][v] = V::fma(weight, vectors[v], sums[r][v]);
        }
    }

    // sums[r] = sum over k of weights[r][k] * matrix[k], for vectors of Count * kWidth columns. This is a linear layer,
    // the scores of attention and its weighted values.
    template <int Rows, int Count>
    static ALWAYS_INLINE void multiply(const float* const (&weights)[Rows], const float* matrix, ptrdiff_t stride, int inputs,
                                       Floats (&sums)[Rows][Count]) {
        UNROLL
        for (int r = 0; r < Rows; r++) {
            UNROLL
            for (int v = 0; v < Count; v++) sums[r][v] = V::all(0.0f);
        }
        for (int k = 0; k < inputs; k++, matrix += stride) add_products(weights, k, matrix, sums);
    }

    template <int Rows>
    static void linear_tile_float(const FloatWeights& weights, const float* rows, int first, int row, const float* residual,
                                  float* out, ptrdiff_t stride) {
        constexpr int kCount = blocks_of(Rows) * kVectors;
        const int column = first % kPanel, inputs = weights.inputs;
        const float* input[Rows];
        UNROLL
        for (int r = 0; r < Rows; r++) input[r] = rows + static_cast<ptrdiff_t>(row + r) * inputs;
        Floats sums[Rows][kCount];
        multiply(input, weights.panels + static_cast<ptrdiff_t>(first - column) * inputs + column, kPanel, inputs, sums);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            const ptrdiff_t at = (row + r) * stride + first;
            UNROLL
            for (int v = 0; v < kCount; v++) {
                const int n = v * V::kWidth;
                Floats value = sums[r][v] + V::load(weights.bias + first + n);
                if (residual) value = value + V::load(residual + at + n);
                V::store(out + at + n, value);
            }
        }
    }

    static void linear_float(const FloatWeights& weights, const float* rows, int count, const float* residual, float* out,
                             ptrdiff_t stride) {
        for_tiles(weights.outputs, count, [&](auto size, int first, int row) {
            linear_tile_float<decltype(size)::value>(weights, rows, first, row, residual, out, stride);
        });
    }

    // ------------------------------------------------------------------------------------------ layer norm

    static void layer_norm(const float* x, int rows, int size, int width, const float* gain, const float* shift, float eps,
                           float* out) {
        const float count = static_cast<float>(size);
        for (int r = 0; r < rows; r++, x += width, out += width) {
            Floats sums[2] = {V::all(0.0f), V::all(0.0f)};   // the padding is zero: it may be summed along
            for (int k = 0; k < width; k += 2 * V::kWidth) {
                sums[0] = sums[0] + V::load(x + k);
                sums[1] = sums[1] + V::load(x + k + V::kWidth);
            }
            const Floats mean = V::all(V::sum(sums[0] + sums[1]) / count);
            Floats squares[2] = {V::all(0.0f), V::all(0.0f)};   // here the padding must stay out
            for (int k = 0; k < width; k += 2 * V::kWidth) {
                UNROLL
                for (int v = 0; v < 2; v++) {
                    const int at = k + v * V::kWidth;
                    const Floats centred = V::first_lanes(V::load(x + at) - mean, size - at);
                    squares[v] = V::fma(centred, centred, squares[v]);
                }
            }
            const float variance = V::sum(squares[0] + squares[1]) / count;
            const Floats inverse = V::all(1.0f / __builtin_sqrtf(variance + eps));
            for (int k = 0; k < width; k += V::kWidth) {
                const Floats centred = (V::load(x + k) - mean) * inverse;
                V::store(out + k, V::fma(centred, V::load(gain + k), V::load(shift + k)));
            }
        }
    }

    // ------------------------------------------------------------------------------------------ attention

    static constexpr int kQueryRows = 6;   // queries x 16 keys: the registers hold no full kQueryTile
    static_assert(kQueryRows <= kQueryTile, "the scratch holds the scores of kQueryTile queries");

    // e^x for x <= 0, relative error 1e-7: 2^(whole part) * polynomial of the rest (minimax on -1/2..1/2, degree 5). NaN stays
    // NaN, here and in softmax_row: a maximum or minimum with NaN is its second operand, or NaN.
    static ALWAYS_INLINE Floats exponential(Floats x) {
        const Floats t = V::max(V::all(-87.0f), x) * V::all(1.442695041f);
        const Floats whole = V::round(t), f = t - whole;
        Floats p = V::all(1.326697039e-3f);
        p = V::fma(p, f, V::all(9.675459746e-3f));
        p = V::fma(p, f, V::all(5.550742616e-2f));
        p = V::fma(p, f, V::all(2.402212175e-1f));
        p = V::fma(p, f, V::all(6.931469492e-1f));
        p = V::fma(p, f, V::all(1.0f));
        return p * V::power_of_two(whole);
    }

    // keys float[length][width] -> transposed float[width][padded]; columns from length on repeat the last key.
    static void transpose_keys(const AttentionHead& head, int padded, float* transposed) {
        for (int j = 0; j < padded; j += V::kWidth) {
            const float* rows[V::kWidth];
            UNROLL
            for (int i = 0; i < V::kWidth; i++)
                rows[i] = head.keys + (j + i < head.length ? j + i : head.length - 1) * head.key_stride;
            for (int d = 0; d < head.width; d += V::kWidth) {
                Floats block[V::kWidth];
                UNROLL
                for (int i = 0; i < V::kWidth; i++) block[i] = V::load(rows[i] + d);
                V::transpose(block);
                UNROLL
                for (int i = 0; i < V::kWidth; i++) V::store(transposed + static_cast<ptrdiff_t>(d + i) * padded + j, block[i]);
            }
        }
    }

    // scores[r][16 * Blocks keys] = query r . keys, for Rows queries.
    template <int Rows, int Blocks>
    static ALWAYS_INLINE void score_tile(const float* const (&queries)[Rows], const float* transposed, int width, int padded,
                                         float* scores) {
        constexpr int kCount = Blocks * kVectors;
        Floats sums[Rows][kCount];
        multiply(queries, transposed, padded, width, sums);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            UNROLL
            for (int v = 0; v < kCount; v++) V::store(scores + static_cast<ptrdiff_t>(r) * padded + v * V::kWidth, sums[r][v]);
        }
    }

    // scores[length] -> exp(scores * scale - maximum) in place, zero from length to padded; returns 1 / sum. The scores
    // from length on are those of the last key, which change no maximum.
    static ALWAYS_INLINE float softmax_row(float* scores, int length, int padded, float scale) {
        Floats largest = V::load(scores);
        for (int j = V::kWidth; j < padded; j += V::kWidth) largest = V::max(largest, V::load(scores + j));
        const Floats maximum = V::all(-V::largest(largest) * scale);
        Floats sums[2] = {V::all(0.0f), V::all(0.0f)};
        for (int j = 0; j < padded; j += 2 * V::kWidth) {
            UNROLL
            for (int v = 0; v < 2; v++) {
                float* at = scores + j + v * V::kWidth;
                const Floats below = V::min(V::all(0.0f), V::fma(V::load(at), V::all(scale), maximum));   // but for rounding
                const Floats e = exponential(below);
                const Floats kept = V::first_lanes(e, length - j - v * V::kWidth);
                sums[v] = sums[v] + kept;
                V::store(at, kept);
            }
        }
        return 1.0f / V::sum(sums[0] + sums[1]);
    }

    // context[r][16 * Blocks columns] = (scores[r] . values) * inverse[r], for Rows queries of which `rows` are stored.
    template <int Rows, int Blocks>
    static ALWAYS_INLINE void context_tile(const float* scores, int padded, const float* values, ptrdiff_t value_stride,
                                           int length, const float (&inverse)[Rows], int rows, float* context,
                                           ptrdiff_t context_stride) {
        constexpr int kCount = Blocks * kVectors;
        const float* weights[Rows];
        UNROLL
        for (int r = 0; r < Rows; r++) weights[r] = scores + static_cast<ptrdiff_t>(r) * padded;
        Floats sums[Rows][kCount];
        multiply(weights, values, value_stride, length, sums);
        UNROLL
        for (int r = 0; r < Rows; r++) {
            if (r >= rows) break;
            UNROLL
            for (int v = 0; v < kCount; v++) {
                V::store(context + r * context_stride + v * V::kWidth, sums[r][v] * V::all(inverse[r]));
            }
        }
    }

    // Rows queries from `first` on, of which only `rows` exist; the others repeat the last one and are not stored.
    template <int Rows>
    static void attend(const AttentionHead& head, int first, int rows, int padded, const float* transposed, float* scores) {
        constexpr int kBlocks = blocks_of(Rows);
        const float* queries[Rows];
        UNROLL
        for (int r = 0; r < Rows; r++) queries[r] = head.query + (first + (r < rows ? r : rows - 1)) * head.query_stride;
        int j = 0;
        for (; j + kBlocks * kLanes <= padded; j += kBlocks * kLanes)
            score_tile<Rows, kBlocks>(queries, transposed + j, head.width, padded, scores + j);
        if (j < padded) score_tile<Rows, 1>(queries, transposed + j, head.width, padded, scores + j);
        float inverse[Rows];
        UNROLL
        for (int r = 0; r < Rows; r++) {
            float* row = scores + static_cast<ptrdiff_t>(r) * padded;
            inverse[r] = r < rows ? softmax_row(row, head.length, padded, head.scale) : 0.0f;
        }
        float* context = head.context + first * head.query_stride;
        for (int d = 0; d < head.width; d += kLanes) {
            context_tile<Rows, 1>(scores, padded, head.values + d, head.key_stride, head.length, inverse, rows, context + d,
                                  head.query_stride);
        }
    }

    static void attention(const AttentionHead& head) {
        const int padded = round_up(head.length, kLanes);
        float* transposed = head.scratch;
        float* scores = transposed + static_cast<ptrdiff_t>(head.width) * padded;
        transpose_keys(head, padded, transposed);
        for (int first = 0; first < head.queries; first += kQueryRows) {
            const int left = head.queries - first;
            if (left == 1) {
                attend<1>(head, first, 1, padded, transposed, scores);
            } else {
                attend<kQueryRows>(head, first, left < kQueryRows ? left : kQueryRows, padded, transposed, scores);
            }
        }
    }

    // ------------------------------------------------------------------------------------------ attention in int16

    // Two numbers of 16 bits in one int32: column d beside column d + width / 2, key j beside key j + padded / 2. Sums of their
    // products are exact, so any two may stand together, and these need no moves between lanes.
    struct Pairs {
        int padded, columns, keys_half;   // keys, pairs of columns, pairs of keys
        int32_t *keys, *values;           // int32[columns][padded], int32[keys_half][width]
        float* scores;                    // float[kQueryTile][padded]; each row becomes int32[keys_half], its weights
        int32_t* queries;                 // int32[kQueryTile][columns]
        float key_unit, value_unit;

        explicit Pairs(const AttentionHead& head)
            : padded(round_up(head.length, kLanes)), columns(head.width / 2), keys_half(padded / 2) {
            keys = reinterpret_cast<int32_t*>(head.scratch);
            values = keys + static_cast<ptrdiff_t>(columns) * padded;
            scores = head.scratch + static_cast<ptrdiff_t>(columns) * padded + static_cast<ptrdiff_t>(keys_half) * head.width;
            queries = reinterpret_cast<int32_t*>(scores + static_cast<ptrdiff_t>(kQueryTile) * padded);
        }
    };

    // Largest |x| of float[rows][width], rows `stride` apart; never 0, and NaN or infinity where the rows hold one: then the
    // unit is no number either, and nothing that is made of it.
    static ALWAYS_INLINE float largest_magnitude(const float* x, ptrdiff_t stride, int rows, int width) {
        Floats largest = V::all(1e-12f);
        for (int r = 0; r < rows; r++, x += stride) {
            for (int d = 0; d < width; d += V::kWidth) largest = V::larger(largest, V::load(x + d));
        }
        return V::largest_magnitude(largest);
    }

    static ALWAYS_INLINE Ints whole(const float* x, Floats factor) { return V::to_ints(V::load(x) * factor); }

    static void pack_keys(const AttentionHead& head, Pairs& pairs) {
        const float limit = static_cast<float>(attention_limit(head.width));
        const float largest = largest_magnitude(head.keys, head.key_stride, head.length, head.width);
        const Floats factor = V::all(limit / largest);
        pairs.key_unit = largest / limit;
        for (int j = 0; j < pairs.padded; j += V::kWidth) {
            for (int d = 0; d < pairs.columns; d += V::kWidth) {
                Floats block[V::kWidth];   // of bits: the transposition only moves them
                UNROLL
                for (int i = 0; i < V::kWidth; i++) {   // past the end the last key again, which changes no maximum
                    const float* row = head.keys + (j + i < head.length ? j + i : head.length - 1) * head.key_stride + d;
                    block[i] = V::bits(V::pair(whole(row, factor), whole(row + pairs.columns, factor)));
                }
                V::transpose(block);
                float* out = reinterpret_cast<float*>(pairs.keys) + static_cast<ptrdiff_t>(d) * pairs.padded + j;
                UNROLL
                for (int i = 0; i < V::kWidth; i++) V::store(out + static_cast<ptrdiff_t>(i) * pairs.padded, block[i]);
            }
        }
    }

    // Rows past the end are 0.
    static void pack_values(const AttentionHead& head, Pairs& pairs) {
        const float largest = largest_magnitude(head.values, head.key_stride, head.length, head.width);
        const float factor = static_cast<float>(kLargestNumber) / largest;
        pairs.value_unit = largest / static_cast<float>(kLargestNumber);
        for (int j = 0; j < pairs.keys_half; j++) {
            const int other = j + pairs.keys_half;
            const float* low = head.values + (j < head.length ? j : 0) * head.key_stride;
            const float* high = head.values + (other < head.length ? other : 0) * head.key_stride;
            const Floats low_factor = V::all(j < head.length ? factor : 0.0f);
            const Floats high_factor = V::all(other < head.length ? factor : 0.0f);
            int32_t* out = pairs.values + static_cast<ptrdiff_t>(j) * head.width;
            for (int d = 0; d < head.width; d += V::kWidth)
                V::store_ints(out + d, V::pair(whole(low + d, low_factor), whole(high + d, high_factor)));
        }
    }

    // sums[r][v] = sum over i of the products of the pairs rows[r][i] and columns[i][v].
    template <int Rows, int Count>
    static ALWAYS_INLINE void multiply_pairs(const int32_t* rows, ptrdiff_t row_stride, const int32_t* columns, ptrdiff_t stride,
                                             int count, Ints (&sums)[Rows][Count]) {
        UNROLL
        for (int r = 0; r < Rows; r++) {
            UNROLL
            for (int v = 0; v < Count; v++) sums[r][v] = V::all_ints(0);
        }
        for (int i = 0; i < count; i++, columns += stride) {
            Ints column[Count];
            UNROLL
            for (int v = 0; v < Count; v++) column[v] = V::load_ints(columns + v * V::kWidth);
            UNROLL
            for (int r = 0; r < Rows; r++) {
                const Ints pair = V::all_ints(rows[r * row_stride + i]);
                UNROLL
                for (int v = 0; v < Count; v++) sums[r][v] = V::dot_pairs(sums[r][v], pair, column[v]);
            }
        }
    }

    // scores[length] -> weights in whole units, as pairs at the start of the row; returns 1 / sum of them. `scale` makes the
    // exponent of the score.
    static ALWAYS_INLINE float softmax_pairs(float* scores, int length, int padded, float scale) {
        const float sum = 1.0f / softmax_row(scores, length, padded, scale);
        if (!(sum < __builtin_inff())) return __builtin_nanf("");   // scores that are no numbers
        const Floats unit = V::all(kWeightSum / sum < kLargestWeight ? kWeightSum / sum : kLargestWeight);
        int32_t* pairs = reinterpret_cast<int32_t*>(scores);
        Ints total = V::all_ints(0);
        for (int j = 0; j < padded / 2; j += V::kWidth) {   // what a step writes, it or an earlier one has read
            const Ints low = whole(scores + j, unit), high = whole(scores + padded / 2 + j, unit);
            total = V::add(total, V::add(low, high));
            V::store_ints(pairs + j, V::pair(low, high));
        }
        return 1.0f / static_cast<float>(V::sum(total));
    }

    // Rows queries from `first` on, of which only `rows` exist; the others repeat the last one and are not stored.
    template <int Rows>
    static void attend_int16(const AttentionHead& head, const Pairs& pairs, int first, int rows) {
        const float limit = static_cast<float>(attention_limit(head.width));
        float factor[Rows];
        for (int r = 0; r < Rows; r++) {
            const float* query = head.query + (first + (r < rows ? r : rows - 1)) * head.query_stride;
            const float largest = largest_magnitude(query, 0, 1, head.width);
            const Floats unit = V::all(limit / largest);
            int32_t* out = pairs.queries + static_cast<ptrdiff_t>(r) * pairs.columns;
            for (int d = 0; d < pairs.columns; d += V::kWidth)
                V::store_ints(out + d, V::pair(whole(query + d, unit), whole(query + pairs.columns + d, unit)));
            factor[r] = largest / limit * pairs.key_unit * head.scale;
        }
        for (int j = 0; j < pairs.padded; j += kLanes) {
            Ints sums[Rows][kVectors];
            multiply_pairs(pairs.queries, pairs.columns, pairs.keys + j, pairs.padded, pairs.columns, sums);
            UNROLL
            for (int r = 0; r < Rows; r++) {
                float* out = pairs.scores + static_cast<ptrdiff_t>(r) * pairs.padded + j;
                UNROLL
                for (int v = 0; v < kVectors; v++) V::store(out + v * V::kWidth, V::to_floats(sums[r][v]));
            }
        }
        for (int r = 0; r < rows; r++) {
            float* row = pairs.scores + static_cast<ptrdiff_t>(r) * pairs.padded;
            factor[r] = softmax_pairs(row, head.length, pairs.padded, factor[r]) * pairs.value_unit;
        }
        float* context = head.context + first * head.query_stride;
        for (int d = 0; d < head.width; d += kLanes) {
            Ints sums[Rows][kVectors];
            multiply_pairs(reinterpret_cast<const int32_t*>(pairs.scores), pairs.padded, pairs.values + d, head.width,
                           pairs.keys_half, sums);
            UNROLL
            for (int r = 0; r < Rows; r++) {
                if (r >= rows) break;
                float* out = context + r * head.query_stride + d;
                UNROLL
                for (int v = 0; v < kVectors; v++)
                    V::store(out + v * V::kWidth, V::to_floats(sums[r][v]) * V::all(factor[r]));
            }
        }
    }

    static void attention_int16(const AttentionHead& head) {
        Pairs pairs(head);
        pack_keys(head, pairs);
        pack_values(head, pairs);
        for (int first = 0; first < head.queries; first += kQueryRows) {
            const int left = head.queries - first;
            if (left == 1) {
                attend_int16<1>(head, pairs, first, 1);
            } else {
                attend_int16<kQueryRows>(head, pairs, first, left < kQueryRows ? left : kQueryRows);
            }
        }
    }

    // ------------------------------------------------------------------------------------------ largest dot products

    static constexpr int kDotRows = 4, kDotOthers = 2;   // 8 sums + 4 rows + 1 other

    static void normalize(const float* x, int width, float* out) {
        Floats squares[2] = {V::all(0.0f), V::all(0.0f)};
        for (int k = 0; k < width; k += 2 * V::kWidth) {
            UNROLL
            for (int v = 0; v < 2; v++) {
                const Floats one = V::load(x + k + v * V::kWidth);
                squares[v] = V::fma(one, one, squares[v]);
            }
        }
        const float length = __builtin_sqrtf(V::sum(squares[0] + squares[1]));
        const Floats inverse = V::all(1.0f / (length > 1e-12f ? length : 1e-12f));
        for (int k = 0; k < width; k += V::kWidth) V::store(out + k, V::load(x + k) * inverse);
    }

    // best[r] = max(best[r], rows[r] . others[o]) for each of the rows and others of a tile.
    static ALWAYS_INLINE void largest_tile(const float* const (&rows)[kDotRows], const float* const (&others)[kDotOthers],
                                           int width, float (&best)[kDotRows]) {
        Floats sums[kDotRows][kDotOthers];
        UNROLL
        for (int r = 0; r < kDotRows; r++) {
            UNROLL
            for (int o = 0; o < kDotOthers; o++) sums[r][o] = V::all(0.0f);
        }
        for (int k = 0; k < width; k += V::kWidth) {
            Floats row[kDotRows];
            UNROLL
            for (int r = 0; r < kDotRows; r++) row[r] = V::load(rows[r] + k);
            UNROLL
            for (int o = 0; o < kDotOthers; o++) {
                const Floats other = V::load(others[o] + k);
                UNROLL
                for (int r = 0; r < kDotRows; r++) sums[r][o] = V::fma(row[r], other, sums[r][o]);
            }
        }
        UNROLL
        for (int r = 0; r < kDotRows; r++) {
            UNROLL
            for (int o = 0; o < kDotOthers; o++) {
                const float product = V::sum(sums[r][o]);
                best[r] = product > best[r] ? product : best[r];
            }
        }
    }

    // Pointers to Count rows from `first` on; past the end the last row again, which changes no maximum.
    template <int Count>
    static ALWAYS_INLINE void tile_rows(const float* rows, int first, int count, int width, const float* (&tile)[Count]) {
        UNROLL
        for (int r = 0; r < Count; r++)
            tile[r] = rows + static_cast<ptrdiff_t>(first + r < count ? first + r : count - 1) * width;
    }

    static void largest_dots(const float* rows, int count, const float* others, int other_count, int width, float* best) {
        for (int i = 0; i < count; i += kDotRows) {
            const float *row[kDotRows], *other[kDotOthers];
            float largest[kDotRows];
            UNROLL
            for (int r = 0; r < kDotRows; r++) largest[r] = -__builtin_inff();
            tile_rows(rows, i, count, width, row);
            for (int j = 0; j < other_count; j += kDotOthers) {
                tile_rows(others, j, other_count, width, other);
                largest_tile(row, other, width, largest);
            }
            for (int r = 0; r < kDotRows && i + r < count; r++) best[i + r] = largest[r];
        }
    }

    // ------------------------------------------------------------------------------------------ index scan

    // Two vectors of bytes at a time; the columns that are left one by one.
    static void dots(const Rows& rows, size_t first, size_t count, const int8_t* query, int32_t* out) {
        constexpr size_t kBytes = 4 * V::kWidth;
        const size_t whole = rows.dims / (2 * kBytes) * (2 * kBytes);
        int32_t offset = 0;
        for (size_t j = 0; j < whole; j++) offset += V::kAdded * query[j];
        for (size_t i = 0; i < count; i++) {
            const int8_t* row = reinterpret_cast<const int8_t*>(rows.data + (first + i) * rows.stride + sizeof(float));
            Ints sums[2] = {V::all_ints(0), V::all_ints(0)};
            for (size_t j = 0; j < whole; j += 2 * kBytes) {
                UNROLL
                for (size_t v = 0; v < 2; v++) {
                    __builtin_prefetch(row + j + v * kBytes + kAhead);
                    const Bytes weights = V::pack(V::load_bytes(row + j + v * kBytes));
                    sums[v] = V::dot_bytes(sums[v], weights, V::load_bytes(query + j + v * kBytes));
                }
            }
            int32_t sum = V::sum(V::add(sums[0], sums[1])) - offset;
            for (size_t j = whole; j < rows.dims; j++) sum += row[j] * query[j];
            out[i] = sum;
        }
    }

    // Bits are counted byte by byte: with the weights of the planes that makes -64 to 56.
    static void bit_dots(const Rows& rows, size_t first, size_t count, const BitQuery& query, int32_t* out) {
        constexpr size_t kBytes = 4 * V::kWidth;
        const size_t bytes = rows.stride - kBitHeader;
        const Bytes ones = V::all_bytes(1);
        for (size_t i = 0; i < count; i++) {
            const uint8_t* row = rows.data + (first + i) * rows.stride + kBitHeader;
            Ints sum = V::all_ints(0);
            __builtin_prefetch(row + kAhead);
            for (size_t j = 0; j < bytes; j += kBytes) {
                const Bytes bits = j + kBytes <= bytes ? V::load_bytes(row + j) : V::load_first(row + j, bytes - j);
                Bytes counts[kPlanes];
                UNROLL
                for (size_t p = 0; p < kPlanes; p++)
                    counts[p] = V::count_bits(V::both(bits, V::load_bytes(query.planes + p * query.width + j)));
                Bytes total = V::minus_twice(counts[2], counts[3]);
                total = V::plus_twice(counts[1], total);
                total = V::plus_twice(counts[0], total);
                sum = V::dot_bytes(sum, ones, total);
            }
            out[i] = V::sum(sum);
        }
    }

    static constexpr Kernels kTable{V::kName,   V::kAdded,       quantize,  gelu_quantize, linear_int8, linear_float, layer_norm,
                                    attention,  attention_int16, normalize, largest_dots,  dots,        bit_dots,
                                    V::half_dots};
};

}   // namespace
}   // namespace shortlist
