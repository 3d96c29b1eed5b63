// First-stage kernels: selection of the best, term dictionaries.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace shortlist {

struct Scored {
    float score;
    uint32_t slot;
};

// Keeps the k best scores seen and everything that ties with the k-th, so that the caller can break ties by its own rule.
class Best {
public:
    explicit Best(size_t k) : k_(k), limit_(2 * k + 64) {}
    void push(float score, uint32_t slot) {
        if (!(score >= floor_)) return;  // NaN, which a damaged file may hold, has no place in an order
        kept_.push_back({score, slot});
        if (kept_.size() >= limit_) shrink();
    }
    void absorb(const Best& other) {
        for (const Scored& one : other.kept_) push(one.score, one.slot);
    }
    float floor() const { return floor_; }  // a score below it has no chance
    std::vector<Scored> sorted();  // score descending, then slot ascending

private:
    void shrink();
    size_t k_, limit_;
    float floor_ = -std::numeric_limits<float>::infinity();
    std::vector<Scored> kept_;
};

// A sorted term dictionary: term i is bytes[offsets[i] .. offsets[i + 1]).
struct Terms {
    const uint64_t* offsets;
    size_t count;
    const uint8_t* bytes;
    size_t size;
};
int64_t find_term(const Terms& terms, const uint8_t* wanted, size_t length);  // its place, or -1

struct Segment {
    Terms terms;
    const uint64_t* starts;  // postings of term i are starts[i] .. starts[i + 1]
    const uint32_t* slots;   // relative to the segment's first slot, ascending within a term
    const void* tf;
    size_t tf_bytes;  // 1, 2 or 4
    size_t postings;
    uint32_t shift;  // added to every slot: where this segment begins in the merged one
};

struct Merged {
    std::vector<uint64_t> offsets, starts;
    std::vector<uint8_t> bytes;
    std::vector<uint32_t> slots, tf;
};

// One segment out of several with ascending shifts. Throws std::runtime_error on offsets that lead outside the arrays.
Merged merge_segments(const std::vector<Segment>& segments);

// What a segment says of the slots whose byte in `kept` is not 0, which are numbered anew from 0 on. Throws likewise, also for
// a slot that is not below `count`.
Merged keep_slots(const Segment& segment, const uint8_t* kept, size_t count);

}  // namespace shortlist
