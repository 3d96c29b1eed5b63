// BM25 over posting lists: the exact k best, without looking at passages that cannot be among them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "search.h"

namespace shortlist {

constexpr size_t block_postings = 128;

// What bounds the scores of block_postings neighbouring postings of a segment, whatever N, df, the average length, k1 and b are.
// Blocks are counted over the whole segment: one may hold the end of a term's list and the start of the next one's.
struct Bound {
    uint16_t tf;         // largest tf; 65,535 stands for anything above too
    uint16_t length[3];  // least length, at most 65,535, of the passages with tf = 1, tf = 2, and above
};
static_assert(sizeof(Bound) == 8, "as it stands in the file");

// The bounds of all blocks of a segment. Throws std::runtime_error if a slot is not below `count`.
template <typename Tf>
std::vector<Bound> block_bounds(const uint32_t* slots, const Tf* tf, size_t postings, const uint32_t* lengths, size_t count);

struct PostingList {
    const uint32_t* slots;  // relative to the segment's first slot, ascending
    const void* tf;
    size_t count;
    float weight;         // score = weight * tf / (tf + k1 * (1 - b + b * length / average length))
    const Bound* bounds;  // of the block that slots[0] stands in and all up to that of the last one; null: none are known
    size_t skew;          // place of slots[0] in its block
};

struct SegmentLists {
    uint32_t first;  // slot
    size_t count;    // slots
    const uint32_t* lengths;
    size_t tf_bytes;  // 1, 2 or 4
    std::vector<PostingList> lists;
};

struct LengthNorm {
    float base, slope;  // k1 * (1 - b), k1 * b / average length
    float operator()(uint32_t length) const { return base + slope * float(int32_t(length)); }
};

// The k best slots above zero, and all that tie with the last, of those with hidden[slot] == 0 (null: all).
// A score is the float32 sum over the lists in their order, which must be the same in every segment: it does not depend on
// what was left out. Most is left out where weights descend. Throws std::runtime_error if a list leads outside its segment.
std::vector<Scored> best_bm25(const std::vector<SegmentLists>& segments, LengthNorm norm, const uint8_t* hidden, size_t k);

// How many of the ascending `slots` are in the ascending `others`.
size_t count_common(const uint32_t* slots, size_t size, const uint32_t* others, size_t others_size);

}  // namespace shortlist
