#include "unigram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "graphemes.h"

namespace shortlist {

namespace {

constexpr char kMagic[8] = {'s', 'h', 'l', 'u', 'n', 'i', 'g', 'r'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kSplitSpaces = 1, kCollapseSpaces = 2;
constexpr uint32_t kEnds = 0x80000000u, kNobody = 0xffffffffu;
constexpr std::string_view kMark = "\xe2\x96\x81";   // "▁", U+2581
constexpr double kUnknownPenalty = 10.0;             // below the worst piece, as in SentencePiece

size_t padded(size_t bytes) { return (bytes + 7) / 8 * 8; }

// Four lanes of xor and multiplication by an odd number: a change within one word is always seen. `size` is a multiple of 8.
uint64_t checksum(const uint8_t* data, size_t size, uint64_t seed) {
    constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ull;
    uint64_t lanes[4] = {seed, seed + 1, seed + 2, seed + 3};
    for (size_t at = 0, lane = 0; at + 8 <= size; at += 8, lane = (lane + 1) % 4) {
        uint64_t word;
        std::memcpy(&word, data + at, sizeof word);
        lanes[lane] = (lanes[lane] ^ word) * kOdd;
        lanes[lane] ^= lanes[lane] >> 29;
    }
    for (int i = 1; i < 4; i++) lanes[0] = (lanes[0] ^ lanes[i]) * kOdd;
    return lanes[0];
}

uint64_t checksum(const UnigramHeader& header, const uint8_t* body, size_t size) {
    const auto* start = reinterpret_cast<const uint8_t*>(&header);
    return checksum(body, size, checksum(start, offsetof(UnigramHeader, checksum), 0));
}

// Bytes of each part behind the header, in their order.
struct Sizes {
    explicit Sizes(const UnigramHeader& h)
        : parts{padded(h.units * sizeof(Unit)),         padded(h.pieces * sizeof(double)),
                padded((h.pieces + size_t{1}) * 4),     padded(h.piece_bytes),
                padded(h.charsmap_bytes),               padded(h.note_bytes)} {}
    size_t total() const { return std::accumulate(parts, parts + 6, size_t{0}); }
    size_t parts[6];
};

// Lays out the double array, depth first. New children go where they fit into the last blocks of 256 units.
class Builder {
  public:
    explicit Builder(const std::vector<std::string_view>& pieces) : pieces_(pieces), order_(pieces.size()) {
        std::iota(order_.begin(), order_.end(), 0u);
        std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) { return pieces_[a] < pieces_[b]; });
        take(0, kNobody);
    }

    std::vector<Unit> build() {
        std::vector<Job> jobs{{0, 0, order_.size(), 0}};
        while (!jobs.empty()) {
            const Job job = jobs.back();
            jobs.pop_back();
            expand(job, jobs);
        }
        return std::move(units_);
    }

  private:
    // All pieces from `first` to `last` of the order share their first `depth` bytes, which lead to `node`.
    struct Job {
        uint32_t node;
        size_t first, last, depth;
    };

    void expand(const Job& job, std::vector<Job>& jobs) {
        const std::string_view shortest = pieces_[order_[job.first]];
        const bool ends = shortest.size() == job.depth;
        if (ends && job.last - job.first > 1 && pieces_[order_[job.first + 1]] == shortest)
            throw std::invalid_argument("a piece occurs twice");
        std::vector<uint8_t> bytes;
        std::vector<size_t> starts;
        if (ends) bytes.push_back(0), starts.push_back(job.first);
        for (size_t i = job.first + ends; i < job.last; i++) {
            const auto byte = static_cast<uint8_t>(pieces_[order_[i]][job.depth]);
            if (byte == 0) throw std::invalid_argument("a piece holds NUL");
            if (bytes.empty() || bytes.back() != byte) bytes.push_back(byte), starts.push_back(i);
        }
        const uint32_t base = room(bytes);
        for (const uint8_t byte : bytes) take(base ^ byte, job.node);
        units_[job.node].base = base | (ends ? kEnds : 0);
        if (ends) units_[base].base = order_[job.first];
        starts.push_back(job.last);
        for (size_t i = bytes.size(); i-- > size_t{ends};) jobs.push_back({base ^ bytes[i], starts[i], starts[i + 1], job.depth + 1});
    }

    // A base under which the units of all these bytes are free.
    uint32_t room(const std::vector<uint8_t>& bytes) {
        constexpr size_t kOpenBlocks = 16;
        for (size_t block = blocks() > kOpenBlocks ? blocks() - kOpenBlocks : 0; block < blocks(); block++) {
            if (free_[block] < bytes.size()) continue;
            for (uint32_t unit = static_cast<uint32_t>(block * 256); unit < (block + 1) * 256; unit++) {
                const uint32_t base = unit ^ bytes[0];
                const auto fits = [&](uint8_t byte) { return !taken_[base ^ byte]; };
                if (std::all_of(bytes.begin(), bytes.end(), fits)) return base;
            }
        }
        add_block();
        return static_cast<uint32_t>((blocks() - 1) * 256);
    }

    void take(uint32_t unit, uint32_t parent) {
        while (unit >= units_.size()) add_block();
        units_[unit].parent = parent;
        taken_[unit] = true;
        free_[unit / 256]--;
    }

    void add_block() {
        units_.resize(units_.size() + 256, Unit{0, kNobody});
        taken_.resize(units_.size(), false);
        free_.push_back(256);
    }

    size_t blocks() const { return free_.size(); }

    const std::vector<std::string_view>& pieces_;
    std::vector<uint32_t> order_;
    std::vector<Unit> units_;
    std::vector<bool> taken_;
    std::vector<uint16_t> free_;   // units a block
};

void check(const UnigramSource& source) {
    if (source.pieces.empty() || source.pieces.size() > 0x7ffffff0u) throw std::invalid_argument("no pieces, or too many");
    if (source.unknown >= source.pieces.size()) throw std::invalid_argument("the unknown piece is not there");
    size_t bytes = 0;
    for (size_t i = 0; i < source.pieces.size(); i++) {
        if (source.pieces[i].empty()) throw std::invalid_argument("a piece is empty");
        if (!std::isfinite(source.scores[i])) throw std::invalid_argument("a score is not finite");
        bytes += source.pieces[i].size();
    }
    if (bytes > 0xffffffffu) throw std::invalid_argument("the pieces are too long");
}

void append(std::string& out, const void* data, size_t bytes) {
    out.append(static_cast<const char*>(data), bytes);
    out.resize(padded(out.size()), '\0');
}

// White_Space of the Unicode Character Database.
bool is_space(uint32_t c) {
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

void collapse_spaces(std::string& text) {
    text.erase(std::unique(text.begin(), text.end(), [](char a, char b) { return a == ' ' && b == ' '; }), text.end());
}

void replace_spaces(std::string_view text, std::string& out) {
    for (const char c : text) {
        if (c == ' ') {
            out += kMark;
        } else {
            out += c;
        }
    }
}

}  // namespace

std::string compile_unigram(const UnigramSource& source) {
    check(source);
    const std::vector<Unit> units = Builder(source.pieces).build();
    std::vector<uint32_t> offsets{0};
    std::string text;
    for (const std::string_view piece : source.pieces) {
        text += piece;
        offsets.push_back(static_cast<uint32_t>(text.size()));
    }
    UnigramHeader header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.flags = (source.split_spaces ? kSplitSpaces : 0) | (source.collapse_spaces ? kCollapseSpaces : 0);
    header.unknown = source.unknown;
    header.pieces = static_cast<uint32_t>(source.pieces.size());
    header.units = units.size();
    header.piece_bytes = text.size();
    header.charsmap_bytes = source.charsmap.size();
    header.note_bytes = source.note.size();
    std::string body;
    append(body, units.data(), units.size() * sizeof(Unit));
    append(body, source.scores, source.pieces.size() * sizeof(double));
    append(body, offsets.data(), offsets.size() * sizeof(uint32_t));
    append(body, text.data(), text.size());
    append(body, source.charsmap.data(), source.charsmap.size());
    append(body, source.note.data(), source.note.size());
    header.checksum = checksum(header, reinterpret_cast<const uint8_t*>(body.data()), body.size());
    return std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
}

Unigram::Unigram(const uint8_t* data, size_t size) {
    if (size < sizeof header_ || reinterpret_cast<uintptr_t>(data) % 8) throw std::invalid_argument("too short, or not aligned");
    std::memcpy(&header_, data, sizeof header_);
    if (std::memcmp(header_.magic, kMagic, sizeof kMagic) != 0 || header_.version != kVersion)
        throw std::invalid_argument("not a compiled Unigram model of this version");
    for (const uint64_t part : {header_.units, header_.piece_bytes, header_.charsmap_bytes, header_.note_bytes})
        if (part > size) throw std::invalid_argument("cut short");
    const Sizes sizes(header_);
    if (sizes.total() != size - sizeof header_) throw std::invalid_argument("cut short, or too long");
    const uint8_t* body = data + sizeof header_;
    if (header_.checksum != checksum(header_, body, sizes.total())) throw std::invalid_argument("damaged (checksum)");
    if (!header_.units || !header_.pieces || header_.unknown >= header_.pieces)
        throw std::invalid_argument("no pieces, or no unknown piece");
    place(body, sizes.parts);
    unknown_score_ = *std::min_element(scores_, scores_ + header_.pieces) - kUnknownPenalty;
}

void Unigram::place(const uint8_t* body, const size_t* parts) {
    const auto text = [](const uint8_t* start, size_t bytes) {
        return std::string_view(reinterpret_cast<const char*>(start), bytes);
    };
    units_ = reinterpret_cast<const Unit*>(body);
    scores_ = reinterpret_cast<const double*>(body += parts[0]);
    offsets_ = reinterpret_cast<const uint32_t*>(body += parts[1]);
    text_ = text(body += parts[2], header_.piece_bytes);
    charsmap_ = body += parts[3];
    note_ = text(body += parts[4], header_.note_bytes);
    uint32_t trie_bytes = 0;
    const size_t rest = header_.charsmap_bytes - sizeof trie_bytes;
    if (header_.charsmap_bytes >= sizeof trie_bytes) std::memcpy(&trie_bytes, charsmap_, sizeof trie_bytes);
    if (trie_bytes < 4 || trie_bytes % 4 || trie_bytes > rest) throw std::invalid_argument("the charsmap is cut short");
    charsmap_ += sizeof trie_bytes;
    charsmap_units_ = trie_bytes / 4;
    replacements_ = text(charsmap_ + trie_bytes, rest - trie_bytes);
}

void Unigram::set_control(std::vector<int32_t> ids, std::vector<std::string> strings) {
    control_ = std::move(ids);
    std::sort(control_.begin(), control_.end());
    const auto single = [](const std::string& s) { return s.empty() || first_character(s.data(), s.size()).bytes >= s.size(); };
    strings.erase(std::remove_if(strings.begin(), strings.end(), single), strings.end());
    guarded_ = std::move(strings);
}

bool Unigram::child(uint32_t& node, uint8_t byte) const {
    const uint32_t next = (units_[node].base & ~kEnds) ^ byte;
    if (byte == 0 || next >= header_.units || units_[next].parent != node) return false;
    node = next;
    return true;
}

bool Unigram::ends_piece(uint32_t node, int32_t& id) const {
    if (!(units_[node].base & kEnds)) return false;
    const uint32_t end = units_[node].base & ~kEnds;
    if (end >= header_.units || units_[end].base >= header_.pieces) return false;
    id = static_cast<int32_t>(units_[end].base);
    return true;
}

int32_t Unigram::find(std::string_view piece) const {
    uint32_t node = 0;
    for (const char byte : piece)
        if (!child(node, static_cast<uint8_t>(byte))) return -1;
    int32_t id = -1;
    return ends_piece(node, id) ? id : -1;
}

std::string_view Unigram::piece(uint32_t id) const {
    if (id >= header_.pieces || offsets_[id] > offsets_[id + 1] || offsets_[id + 1] > text_.size()) return {};
    return text_.substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

// The replacement of the shortest prefix of `text` that the charsmap knows. Units are those of darts-clone: bits 0 to 7 and
// 31 the label, bit 8 "a value follows", bits 10 to 30 the offset, shifted by 8 more if bit 9 is set.
bool Unigram::replacement(std::string_view text, std::string_view& found) const {
    const auto unit = [this](size_t place) {
        uint32_t value;
        std::memcpy(&value, charsmap_ + 4 * place, sizeof value);
        return value;
    };
    const auto offset = [](uint32_t u) { return static_cast<size_t>(u >> 10) << ((u & 0x200) >> 6); };
    size_t node = offset(unit(0));
    for (const char c : text) {
        const auto byte = static_cast<uint8_t>(c);
        node ^= byte;
        if (byte == 0 || node >= charsmap_units_) return false;
        const uint32_t u = unit(node);
        if ((u & 0x800000ffu) != byte) return false;
        node ^= offset(u);
        if (!(u & 0x100)) continue;
        if (node >= charsmap_units_) return false;
        const size_t start = unit(node) & 0x7fffffffu;
        if (start > replacements_.size()) return false;
        const std::string_view rest = replacements_.substr(start);
        found = rest.substr(0, rest.find('\0'));
        return true;
    }
    return false;
}

std::string Unigram::normalized(std::string_view text) const {
    constexpr size_t kWholeBelow = 6;
    std::string out;
    out.reserve(text.size() + text.size() / 4 + 16);
    std::string_view found;
    for (size_t at = 0; at < text.size();) {
        const std::string_view cluster = text.substr(at, first_cluster(text.data() + at, text.size() - at));
        at += cluster.size();
        if (cluster.size() < kWholeBelow && replacement(cluster, found)) {
            out += found;
            continue;
        }
        for (size_t i = 0; i < cluster.size();) {
            const std::string_view one = cluster.substr(i, first_character(cluster.data() + i, cluster.size() - i).bytes);
            out += replacement(one, found) ? found : one;
            i += one.size();
        }
    }
    return out;
}

void Unigram::encode(std::string_view text, std::vector<int32_t>& ids) const {
    std::string normal = normalized(text);
    if (header_.flags & kCollapseSpaces) collapse_spaces(normal);
    const size_t before = ids.size();
    encode(normal, false, ids);
    const auto is_control = [this](int32_t id) { return std::binary_search(control_.begin(), control_.end(), id); };
    if (std::none_of(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), is_control)) return;
    ids.resize(before);
    encode(normal, true, ids);
}

void Unigram::encode(std::string_view normal, bool guarded, std::vector<int32_t>& ids) const {
    Scratch scratch;
    if (!(header_.flags & kSplitSpaces)) return encode_word(normal, guarded, scratch, ids);
    size_t start = 0;
    for (size_t at = 0; at < normal.size();) {
        const Character character = first_character(normal.data() + at, normal.size() - at);
        if (is_space(character.code)) {
            encode_word(normal.substr(start, at - start), guarded, scratch, ids);
            start = at + character.bytes;
        }
        at += character.bytes;
    }
    encode_word(normal.substr(start), guarded, scratch, ids);
}

// Puts "▁" in front and for each space, and cuts before every "▁".
void Unigram::encode_word(std::string_view word, bool guarded, Scratch& scratch, std::vector<int32_t>& ids) const {
    if (word.empty()) return;
    scratch.word.clear();
    if (word[0] != ' ' && word.substr(0, kMark.size()) != kMark) scratch.word = kMark;
    replace_spaces(word, scratch.word);
    const std::string_view marked = scratch.word;
    for (size_t start = 0; start < marked.size();) {
        const size_t end = std::min(marked.find(kMark, start + kMark.size()), marked.size());
        const std::string_view segment = marked.substr(start, end - start);
        if (guarded) {
            encode_guarded(segment, scratch, ids);
        } else {
            encode_segment(segment, scratch, ids);
        }
        start = end;
    }
}

void Unigram::encode_guarded(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const {
    size_t start = 0;
    for (size_t at = 0; at < segment.size();) {
        const std::string_view rest = segment.substr(at);
        const auto begins = [rest](const std::string& s) { return rest.substr(0, s.size()) == s; };
        const bool cut = std::any_of(guarded_.begin(), guarded_.end(), begins);
        at += first_character(rest.data(), rest.size()).bytes;
        if (!cut) continue;
        encode_segment(segment.substr(start, at - start), scratch, ids);
        start = at;
    }
    encode_segment(segment.substr(start), scratch, ids);
}

// Viterbi: the most probable pieces that make up the segment. Neighbouring unknown characters become one token.
void Unigram::encode_segment(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const {
    if (segment.empty()) return;
    std::vector<Step>& steps = scratch.steps;
    steps.assign(segment.size() + 1, Step{0.0, -1, 0});
    for (size_t start = 0; start < segment.size();) {
        reach(segment, start, steps);
        start += first_character(segment.data() + start, segment.size() - start).bytes;
    }
    const auto unknown = static_cast<int32_t>(header_.unknown);
    scratch.ends.clear();
    for (auto end = static_cast<int32_t>(segment.size()); end > 0; end = steps[static_cast<size_t>(end)].start) {
        const int32_t id = steps[static_cast<size_t>(end)].id;
        const bool fused = id == unknown && !scratch.ends.empty() && scratch.ends.back().second == unknown;
        if (!fused) scratch.ends.emplace_back(end, id);
    }
    size_t start = 0;
    for (auto last = scratch.ends.rbegin(); last != scratch.ends.rend(); ++last) {
        const auto end = static_cast<size_t>(last->first);
        const int32_t whole = last->second == unknown ? find(segment.substr(start, end - start)) : last->second;
        ids.push_back(whole < 0 ? unknown : whole);
        start = end;
    }
}

// The steps that pieces beginning at `start` improve; of equally good ways the one found first stays.
void Unigram::reach(std::string_view segment, size_t start, std::vector<Step>& steps) const {
    const double here = steps[start].score;
    const auto offer = [&](size_t end, double score, int32_t id) {
        Step& step = steps[end];
        if (step.start < 0 || score > step.score) step = {score, static_cast<int32_t>(start), id};
    };
    const size_t one = start + first_character(segment.data() + start, segment.size() - start).bytes;
    bool single = false;
    uint32_t node = 0;
    int32_t id = 0;
    for (size_t end = start; end < segment.size() && child(node, static_cast<uint8_t>(segment[end]));) {
        end++;
        if (!ends_piece(node, id)) continue;
        offer(end, scores_[id] + here, id);
        single |= end == one;
    }
    if (!single) offer(one, unknown_score_ + here, static_cast<int32_t>(header_.unknown));
}

}  // namespace shortlist
