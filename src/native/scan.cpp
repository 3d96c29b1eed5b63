#include "scan.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <thread>

#include "weights.h"

namespace shortlist {

constexpr size_t kBlock = 64;      // rows that all queries see before the next ones are fetched
constexpr size_t kSingly = 20;     // up to so many queries it is faster to multiply one after the other than as a matrix
constexpr size_t kCompared = 16;   // scores that are compared with the k-th best together

static float float_at(const uint8_t* from) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Few scores reach the k-th best: groups without one cost a comparison and no branch each.
static void push_block(const float* scores, size_t first, size_t count, const uint8_t* dead, Best& best) {
    for (size_t i = 0; i < count; i += kCompared) {
        const size_t stop = std::min(i + kCompared, count);
        const float floor = best.floor();
        int any = 0;
        if (stop - i == kCompared)
            for (size_t j = 0; j < kCompared; ++j) any |= scores[i + j] >= floor;
        else any = 1;
        if (!any) continue;
        for (size_t j = i; j < stop; ++j)
            if (scores[j] >= best.floor() && !dead[first + j]) best.push(scores[j], uint32_t(first + j));
    }
}

// Runs block(first, count, bests) over all rows, with one Best a query and thread, and joins what the threads found.
template <typename MakeBlock>
static Lists over_blocks(const Scan& scan, size_t asked, const MakeBlock& make_block) {
    const size_t blocks = (scan.rows.count + kBlock - 1) / kBlock;
    const size_t threads = std::max<size_t>(1, std::min(scan.threads, blocks / 64 + 1));
    std::vector<std::vector<Best>> best(threads, std::vector<Best>(asked, Best(scan.k)));
    const size_t share = (blocks + threads - 1) / threads * kBlock;
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    const auto work = [&] {
        try {
            auto block = make_block();
            for (size_t t = next++; t < threads && !failed; t = next++) {
                const size_t stop = std::min((t + 1) * share, scan.rows.count);
                for (size_t first = t * share; first < stop; first += kBlock)
                    block(first, std::min(kBlock, stop - first), best[t]);
            }
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    std::vector<std::thread> pool;
    pool.reserve(threads);
    try {
        for (size_t t = 1; t < threads; ++t) pool.emplace_back(work);
    } catch (const std::system_error&) {
        // The system gives no more threads: those that started, and this one, do the work.
    }
    work();
    for (std::thread& one : pool) one.join();
    if (failed) throw std::bad_alloc();
    Lists lists;
    for (size_t q = 0; q < asked; ++q) {
        for (size_t t = 1; t < threads; ++t) best[0][q].absorb(best[t][q]);
        lists.push_back(best[0][q].sorted());
    }
    return lists;
}

// The queries one after the other over a block of rows, which the first one brings into the cache.
struct SinglyInt8 {
    const Scan& scan;
    const int8_t* queries;
    const Kernels& kernels;

    void operator()(size_t first, size_t count, std::vector<Best>& best) const {
        const Rows& rows = scan.rows;
        int32_t sums[kBlock];
        float scores[kBlock];
        for (size_t q = 0; q < best.size(); ++q) {
            kernels.dots(rows, first, count, queries + q * rows.dims, sums);
            for (size_t i = 0; i < count; ++i)
                scores[i] = float_at(rows.data + (first + i) * rows.stride) * float(sums[i]);
            push_block(scores, first, count, scan.dead, best[q]);
        }
    }
};

// Many queries packed as the weights of a linear layer: a panel of them multiplies a block of rows as a matrix.
class PackedQueries {
public:
    PackedQueries(const int8_t* queries, size_t asked, size_t dims, const Kernels& kernels)
        : outputs_(round_up(int(asked), kPanel)), inputs_(round_up(int(dims), kPanel)),
          panels_(zeros<uint8_t>(size_t(outputs_) * size_t(inputs_))), scales_(zeros<float>(size_t(outputs_))),
          bias_(zeros<float>(size_t(outputs_))) {
        std::fill_n(panels_.get(), size_t(outputs_) * size_t(inputs_), uint8_t(kernels.added));
        std::fill_n(scales_.get(), asked, 1.0f);
        for (size_t q = 0; q < asked; ++q)
            for (size_t j = 0; j < dims; ++j)
                panels_[q / kPanel * kPanel * size_t(inputs_) + j / 4 * 4 * kPanel + q % kPanel * 4 + j % 4] =
                    uint8_t(queries[q * dims + j] + kernels.added);
    }
    Int8Weights weights() const { return {outputs_, inputs_, panels_.get(), scales_.get(), bias_.get()}; }

private:
    int outputs_, inputs_;
    Buffer<uint8_t> panels_;
    Buffer<float> scales_, bias_;
};

struct TogetherInt8 {
    const Scan& scan;
    const Kernels& kernels;
    Int8Weights weights;
    Buffer<int8_t> values = zeros<int8_t>(kBlock * size_t(weights.inputs));
    std::vector<int8_t> ones = std::vector<int8_t>(scan.rows.dims, 1);
    Buffer<float> out = zeros<float>(kBlock * size_t(weights.outputs));

    void operator()(size_t first, size_t count, std::vector<Best>& best) {
        const Rows& rows = scan.rows;
        float scales[kBlock];
        int32_t offsets[kBlock];
        kernels.dots(rows, first, count, ones.data(), offsets);
        for (size_t i = 0; i < count; ++i) {
            const uint8_t* row = rows.data + (first + i) * rows.stride;
            scales[i] = float_at(row);
            offsets[i] *= kernels.added;
            std::memcpy(values.get() + i * size_t(weights.inputs), row + sizeof(float), rows.dims);
        }
        const Int8Rows block{values.get(), scales, offsets};
        kernels.linear_int8(weights, block, int(count), nullptr, out.get(), weights.outputs);
        float floors[kPanel];
        for (size_t begin = 0; begin < best.size(); begin += kPanel) push_panel(first, count, begin, best, floors);
    }

private:
    void push_panel(size_t first, size_t count, size_t begin, std::vector<Best>& best, float (&floors)[kPanel]) {
        const size_t asked = std::min<size_t>(kPanel, best.size() - begin);
        for (size_t q = 0; q < kPanel; ++q)
            floors[q] = q < asked ? best[begin + q].floor() : std::numeric_limits<float>::infinity();
        for (size_t i = 0; i < count; ++i) {
            if (scan.dead[first + i]) continue;
            const float* scores = out.get() + i * size_t(weights.outputs) + begin;
            int any = 0;
            for (size_t q = 0; q < kPanel; ++q) any |= scores[q] >= floors[q];
            if (!any) continue;
            for (size_t q = 0; q < asked; ++q)
                if (scores[q] >= floors[q]) best[begin + q].push(scores[q], uint32_t(first + i));
        }
    }
};

Lists scan_int8(const Scan& scan, const int8_t* queries, size_t asked, const Kernels& kernels) {
    if (asked <= kSingly) return over_blocks(scan, asked, [&] { return SinglyInt8{scan, queries, kernels}; });
    const PackedQueries packed(queries, asked, scan.rows.dims, kernels);
    return over_blocks(scan, asked, [&] { return TogetherInt8{scan, kernels, packed.weights()}; });
}

// int8[dims] within -7..7 as planes of bits.
static void fill_planes(const int8_t* query, size_t dims, size_t width, uint8_t* planes) {
    for (size_t j = 0; j < dims; ++j)
        for (size_t p = 0; p < kPlanes; ++p)
            planes[p * width + j / 8] |= uint8_t((unsigned(query[j]) >> p & 1u) << (7 - j % 8));
}

Lists scan_bits(const Scan& scan, const int8_t* queries, const float* steps, size_t asked, const Kernels& kernels) {
    const Rows& rows = scan.rows;
    const size_t width = (rows.stride - kBitHeader + kPlaneUnit - 1) / kPlaneUnit * kPlaneUnit;
    const Buffer<uint8_t> planes = zeros<uint8_t>(asked * kPlanes * width);
    std::vector<int32_t> totals(asked, 0);
    for (size_t q = 0; q < asked; ++q) {
        fill_planes(queries + q * rows.dims, rows.dims, width, planes.get() + q * kPlanes * width);
        for (size_t j = 0; j < rows.dims; ++j) totals[q] += queries[q * rows.dims + j];
    }
    const auto block = [&](size_t first, size_t count, std::vector<Best>& best) {
        int32_t sums[kBlock];
        float scores[kBlock];
        for (size_t q = 0; q < asked; ++q) {
            kernels.bit_dots(rows, first, count, {planes.get() + q * kPlanes * width, width}, sums);
            for (size_t i = 0; i < count; ++i) {
                const uint8_t* row = rows.data + (first + i) * rows.stride;
                const float signs = float(2 * sums[i] - totals[q]);
                scores[i] = float_at(row + sizeof(float)) + float_at(row) * (steps[q] * signs);
            }
            push_block(scores, first, count, scan.dead, best[q]);
        }
    };
    return over_blocks(scan, asked, [&] { return block; });
}

void score_int8(const Rows& rows, const int8_t* query, const uint32_t* slots, size_t count, const Kernels& kernels, float* out) {
    constexpr size_t ahead = 8;
    for (size_t i = 0; i < count; ++i) {
        if (i + ahead < count)
            for (size_t j = 0; j < rows.stride; j += 64) __builtin_prefetch(rows.data + slots[i + ahead] * rows.stride + j);
        int32_t sum;
        kernels.dots(rows, slots[i], 1, query, &sum);
        out[i] = float_at(rows.data + slots[i] * rows.stride) * float(sum);
    }
}

}  // namespace shortlist
