// MaxScore (Turtle and Flood, Query Evaluation: Strategies and Optimizations, 1995) over windows of slots, with bounds of
// blocks (Ding and Suel, Faster Top-k Document Retrieval Using Block-Max Indexes, 2011). In a window the lists are divided
// anew: a passage that only the last lists hold cannot be among the best, so the first ones are added up into an array of
// scores, and the last ones are asked about the passages that still have a chance.
#include "bm25.h"

#include <algorithm>
#include <stdexcept>

namespace shortlist {

namespace {

constexpr uint32_t window_slots = 4096;  // 16 KiB of scores
constexpr size_t probe_cost = 12;        // looking up one posting costs about as much as adding up this many
constexpr uint16_t most = 65535;

[[noreturn]] void outside() { throw std::runtime_error("a posting names a slot outside its segment"); }

float part(float weight, float tf, float norm) { return weight * tf / (tf + norm); }

// The first place in begin..count whose slot is not below `slot`, found in steps that double.
size_t first_from(const uint32_t* slots, size_t begin, size_t count, uint32_t slot) {
    size_t low = begin, step = 1;
    while (low + step <= count && slots[low + step - 1] < slot) low += step, step *= 2;
    return std::lower_bound(slots + low, slots + std::min(low + step, count), slot) - slots;
}

float bound_of(const Bound& bound, float weight, LengthNorm norm) {
    if (bound.tf == most) return weight;
    const float tf = bound.tf;
    const float one = part(weight, 1.0f, norm(bound.length[0]));
    const float two = part(weight, std::min(2.0f, tf), norm(bound.length[1]));
    const float more = part(weight, tf, norm(bound.length[2]));
    return std::max(one, std::max(two, more));
}

// A list and the part of it that lies in the window.
template <typename Tf>
struct Cursor {
    explicit Cursor(const PostingList& list) : list(list), tf(static_cast<const Tf*>(list.tf)) {}

    const PostingList& list;
    const Tf* tf;
    size_t begin = 0, end = 0;

    void move(uint32_t window, uint32_t next) {
        begin = first_from(list.slots, end, list.count, window);
        end = first_from(list.slots, begin, list.count, next);
    }
};

template <typename Tf>
class Search {
public:
    Search(const SegmentLists& segment, LengthNorm norm, const uint8_t* hidden, Best& best)
        : segment_(segment), norm_(norm), hidden_(hidden), best_(best), scores_(window_slots), rest_(segment.lists.size() + 1) {
        for (const PostingList& list : segment.lists) cursors_.emplace_back(list);
        // Sums of floats in different order differ by less than this share, and bounds are as inexact as scores.
        slack_ = 1.0 + 2e-7 * double(segment.lists.size() + 2);
    }

    void run() {
        for (uint32_t window = 0; window < segment_.count; window += window_slots) {
            size_ = uint32_t(std::min<size_t>(window_slots, segment_.count - window));
            window_ = window;
            const size_t visible = hidden_ ? size_t(std::count(hidden_ + window, hidden_ + window + size_, uint8_t(0))) : size_;
            if (visible) search_window(visible);
        }
        for (const Cursor<Tf>& cursor : cursors_)
            if (cursor.list.count && cursor.list.slots[cursor.list.count - 1] >= segment_.count) outside();
    }

private:
    void search_window(size_t visible) {
        size_t postings = 0;
        for (Cursor<Tf>& cursor : cursors_) {
            cursor.move(window_, window_ + size_);
            postings += cursor.end - cursor.begin;
        }
        if (postings == 0) return;
        bound_rests();
        need_ = double(best_.floor()) / slack_;
        if (rest_[0] < need_) return;
        std::fill_n(scores_.begin(), size_, 0.0f);
        size_t next = 0;
        if (visible * probe_cost * cursors_.size() < postings) {
            take_visible();
        } else {
            while (next < cursors_.size() && rest_[next] >= need_) add(cursors_[next++]);
            take_promising(rest_[next]);
        }
        for (; next < cursors_.size() && !candidates_.empty(); ++next) look_up(cursors_[next], rest_[next + 1]);
        for (const uint32_t at : candidates_)
            if (scores_[at] > 0.0f) best_.push(scores_[at], segment_.first + window_ + at);
    }

    // rest_[i]: what lists i and after can add to a score in this window.
    void bound_rests() {
        rest_.back() = 0.0;
        for (size_t i = cursors_.size(); i-- > 0;) rest_[i] = rest_[i + 1] + bound_within(cursors_[i]);
    }

    float bound_within(const Cursor<Tf>& cursor) const {
        const PostingList& list = cursor.list;
        if (cursor.begin == cursor.end) return 0.0f;
        float bound = 0.0f;
        if (cursor.end - cursor.begin <= 8) {
            for (size_t i = cursor.begin; i < cursor.end; ++i) bound = std::max(bound, score(cursor, i));
        } else if (list.bounds) {
            const size_t last = (list.skew + cursor.end - 1) / block_postings;
            for (size_t i = (list.skew + cursor.begin) / block_postings; i <= last; ++i)
                bound = std::max(bound, bound_of(list.bounds[i], list.weight, norm_));
        } else {
            bound = list.weight;
        }
        return bound;
    }

    float score(const Cursor<Tf>& cursor, size_t i) const {
        const uint32_t slot = cursor.list.slots[i];
        if (slot >= segment_.count) outside();
        return part(cursor.list.weight, float(cursor.tf[i]), norm_(segment_.lengths[slot]));
    }

    // In steps that a compiler can turn into vectors.
    void add(const Cursor<Tf>& cursor) {
        const uint32_t* slots = cursor.list.slots;
        const uint32_t* lengths = segment_.lengths + window_;
        const float weight = cursor.list.weight, base = norm_.base, slope = norm_.slope;
        for (size_t first = cursor.begin; first < cursor.end; first += block_postings) {
            const size_t count = std::min(block_postings, cursor.end - first);
            int32_t length[block_postings];
            float parts[block_postings];
            for (size_t i = 0; i < count; ++i) {
                const uint32_t at = slots[first + i] - window_;
                if (at >= size_) outside();
                length[i] = int32_t(lengths[at]);
            }
            for (size_t i = 0; i < count; ++i)
                parts[i] = part(weight, float(cursor.tf[first + i]), base + slope * float(length[i]));
            for (size_t i = 0; i < count; ++i) scores_[slots[first + i] - window_] += parts[i];
        }
    }

    bool shown(uint32_t at) const { return !hidden_ || !hidden_[window_ + at]; }

    void take_visible() {
        candidates_.clear();
        for (uint32_t at = 0; at < size_; ++at)
            if (shown(at)) candidates_.push_back(at);
    }

    // Passages whose score so far and `rest` reach the best.
    void take_promising(double rest) {
        candidates_.clear();
        const float least = float(std::max(need_ - rest, 0.0));
        for (uint32_t group = 0; group < size_; group += 16) {
            const uint32_t stop = std::min(group + 16, size_);
            bool any = false;
            for (uint32_t at = group; at < stop; ++at) any |= scores_[at] >= least && scores_[at] > 0.0f;
            for (uint32_t at = group; any && at < stop; ++at)
                if (scores_[at] >= least && scores_[at] > 0.0f && shown(at)) candidates_.push_back(at);
        }
    }

    // Adds a list to the candidates' scores, and drops those that it and `rest` leave below the best.
    void look_up(const Cursor<Tf>& cursor, double rest) {
        const uint32_t* slots = cursor.list.slots;
        if (candidates_.size() * probe_cost > cursor.end - cursor.begin) {
            add(cursor);
        } else {
            size_t place = cursor.begin;
            for (const uint32_t at : candidates_) {
                place = first_from(slots, place, cursor.end, window_ + at);
                if (place < cursor.end && slots[place] == window_ + at) scores_[at] += score(cursor, place);
            }
        }
        const auto hopeless = [&](uint32_t at) { return double(scores_[at]) + rest < need_; };
        candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), hopeless), candidates_.end());
    }

    const SegmentLists& segment_;
    const LengthNorm norm_;
    const uint8_t* hidden_;
    Best& best_;
    std::vector<Cursor<Tf>> cursors_;
    std::vector<float> scores_;
    std::vector<double> rest_;
    std::vector<uint32_t> candidates_;  // slots relative to the window's first, ascending
    double slack_, need_ = 0.0;
    uint32_t window_ = 0, size_ = 0;
};

template <typename Tf>
void search(const SegmentLists& segment, LengthNorm norm, const uint8_t* hidden, Best& best) {
    Search<Tf>(segment, norm, hidden ? hidden + segment.first : nullptr, best).run();
}

}  // namespace

template <typename Tf>
std::vector<Bound> block_bounds(const uint32_t* slots, const Tf* tf, size_t postings, const uint32_t* lengths, size_t count) {
    std::vector<Bound> bounds((postings + block_postings - 1) / block_postings, Bound{0, {most, most, most}});
    for (size_t i = 0; i < postings; ++i) {
        if (slots[i] >= count) outside();
        Bound& bound = bounds[i / block_postings];
        uint16_t& length = bound.length[std::clamp<uint32_t>(tf[i], 1, 3) - 1];
        bound.tf = std::max(bound.tf, uint16_t(std::min<uint32_t>(tf[i], most)));
        length = std::min(length, uint16_t(std::min<uint32_t>(lengths[slots[i]], most)));
    }
    return bounds;
}
template std::vector<Bound> block_bounds(const uint32_t*, const uint8_t*, size_t, const uint32_t*, size_t);
template std::vector<Bound> block_bounds(const uint32_t*, const uint16_t*, size_t, const uint32_t*, size_t);
template std::vector<Bound> block_bounds(const uint32_t*, const uint32_t*, size_t, const uint32_t*, size_t);

std::vector<Scored> best_bm25(const std::vector<SegmentLists>& segments, LengthNorm norm, const uint8_t* hidden, size_t k) {
    Best best(k);
    for (const SegmentLists& segment : segments) {
        if (segment.tf_bytes == 1) search<uint8_t>(segment, norm, hidden, best);
        else if (segment.tf_bytes == 2) search<uint16_t>(segment, norm, hidden, best);
        else search<uint32_t>(segment, norm, hidden, best);
    }
    return best.sorted();
}

size_t count_common(const uint32_t* slots, size_t size, const uint32_t* others, size_t others_size) {
    if (size > others_size) return count_common(others, others_size, slots, size);
    size_t common = 0, place = 0;
    for (size_t i = 0; i < size && place < others_size; ++i) {
        place = first_from(others, place, others_size, slots[i]);
        common += place < others_size && others[place] == slots[i];
    }
    return common;
}

}  // namespace shortlist
