#include "search.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace shortlist {

static bool better(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.slot < b.slot; }

void Best::shrink() {
    if (kept_.size() <= k_) return;
    std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end(), better);
    floor_ = kept_[k_ - 1].score;
    const auto below = [this](const Scored& one) { return one.score < floor_; };
    kept_.erase(std::remove_if(kept_.begin(), kept_.end(), below), kept_.end());
    limit_ = std::max(limit_, 2 * kept_.size());  // many ties: grow, so that the work stays linear
}

std::vector<Scored> Best::sorted() {
    shrink();
    std::sort(kept_.begin(), kept_.end(), better);
    return std::move(kept_);
}

static int compare(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) {
    const int order = std::memcmp(a, b, std::min(a_size, b_size));
    if (order != 0) return order;
    return a_size < b_size ? -1 : a_size > b_size;
}

int64_t find_term(const Terms& terms, const uint8_t* wanted, size_t length) {
    size_t low = 0, high = terms.count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const uint64_t start = terms.offsets[middle], stop = terms.offsets[middle + 1];
        if (start > stop || stop > terms.size) throw std::runtime_error("the term dictionary's offsets lead outside it");
        const int order = compare(terms.bytes + start, stop - start, wanted, length);
        if (order == 0) return int64_t(middle);
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return -1;
}

static uint32_t frequency(const Segment& segment, size_t i) {
    if (segment.tf_bytes == 1) return static_cast<const uint8_t*>(segment.tf)[i];
    if (segment.tf_bytes == 2) return static_cast<const uint16_t*>(segment.tf)[i];
    return static_cast<const uint32_t*>(segment.tf)[i];
}

static void check_offsets(const uint64_t* offsets, size_t count, size_t limit) {
    for (size_t i = 0; i < count; ++i)
        if (offsets[i] > offsets[i + 1]) throw std::runtime_error("a segment's offsets are not ascending");
    if (offsets[count] > limit) throw std::runtime_error("a segment's offsets lead outside it");
}

static void check(const Segment& segment) {
    check_offsets(segment.terms.offsets, segment.terms.count, segment.terms.size);
    check_offsets(segment.starts, segment.terms.count, segment.postings);
}

static void append_postings(const Segment& segment, size_t term, Merged& merged) {
    for (uint64_t i = segment.starts[term]; i < segment.starts[term + 1]; ++i) {
        merged.slots.push_back(segment.slots[i] + segment.shift);
        merged.tf.push_back(frequency(segment, i));
    }
}

Merged merge_segments(const std::vector<Segment>& segments) {
    Merged merged;
    size_t postings = 0;
    for (const Segment& one : segments) {
        check(one);
        postings += one.postings;
    }
    merged.slots.reserve(postings);
    merged.tf.reserve(postings);
    merged.offsets.push_back(0);
    merged.starts.push_back(0);
    std::vector<size_t> at(segments.size(), 0);
    while (true) {
        const uint8_t* least = nullptr;
        size_t least_size = 0;
        for (size_t s = 0; s < segments.size(); ++s) {
            const Terms& terms = segments[s].terms;
            if (at[s] == terms.count) continue;
            const uint8_t* term = terms.bytes + terms.offsets[at[s]];
            const size_t size = terms.offsets[at[s] + 1] - terms.offsets[at[s]];
            if (least == nullptr || compare(term, size, least, least_size) < 0) least = term, least_size = size;
        }
        if (least == nullptr) return merged;
        merged.bytes.insert(merged.bytes.end(), least, least + least_size);
        for (size_t s = 0; s < segments.size(); ++s) {
            const Terms& terms = segments[s].terms;
            if (at[s] == terms.count) continue;
            const uint64_t start = terms.offsets[at[s]], stop = terms.offsets[at[s] + 1];
            if (compare(terms.bytes + start, stop - start, least, least_size) != 0) continue;
            append_postings(segments[s], at[s]++, merged);
        }
        merged.offsets.push_back(merged.bytes.size());
        merged.starts.push_back(merged.slots.size());
    }
}

Merged keep_slots(const Segment& segment, const uint8_t* kept, size_t count) {
    check(segment);
    std::vector<uint32_t> numbers(count);
    for (size_t slot = 0, next = 0; slot < count; ++slot) numbers[slot] = uint32_t(next), next += kept[slot] != 0;
    Merged merged;
    merged.offsets.push_back(0);
    merged.starts.push_back(0);
    for (size_t term = 0; term < segment.terms.count; ++term) {
        for (uint64_t i = segment.starts[term]; i < segment.starts[term + 1]; ++i) {
            const uint32_t slot = segment.slots[i];
            if (slot >= count) throw std::runtime_error("a segment's slots lead outside it");
            if (!kept[slot]) continue;
            merged.slots.push_back(numbers[slot]);
            merged.tf.push_back(frequency(segment, i));
        }
        if (merged.slots.size() == merged.starts.back()) continue;
        const uint8_t* bytes = segment.terms.bytes;
        merged.bytes.insert(merged.bytes.end(), bytes + segment.terms.offsets[term], bytes + segment.terms.offsets[term + 1]);
        merged.offsets.push_back(merged.bytes.size());
        merged.starts.push_back(merged.slots.size());
    }
    return merged;
}

}  // namespace shortlist
