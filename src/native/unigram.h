// Text to token ids by a SentencePiece Unigram model that is read in place from a compiled, usually memory-mapped file:
//
//     Header                      64 bytes, below
//     Unit[units]                 the pieces as a double array
//     double[pieces]              log probability of each piece
//     uint32[pieces + 1]          piece i is bytes [offset[i], offset[i + 1]) of the text below
//     char[piece_bytes]           the pieces' text, UTF-8
//     uint8[charsmap_bytes]       SentencePiece's compiled table of replacements (darts-clone trie and strings)
//     char[note_bytes]            what the caller wants to find again
//
// Each part begins at a multiple of 8 bytes; numbers are in the byte order of the machine. The file is derived, never
// exchanged: a file that this machine did not write in this version fails the checks and is made again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shortlist {

// A node of the double array. The child over byte b of the node at n is at base(n) ^ b, and it is there if its parent is n.
// A node whose base has the bit kEnds is the end of a piece, whose id is the base of its child over byte 0.
struct Unit {
    uint32_t base, parent;
};

struct UnigramHeader {
    char magic[8];
    uint32_t version, flags, unknown, pieces;
    uint64_t units, piece_bytes, charsmap_bytes, note_bytes;
    uint64_t checksum;  // of all bytes behind the header, started from those before this number
};
static_assert(sizeof(UnigramHeader) == 64);

// What is compiled. Pieces are distinct, not empty, and hold no NUL; scores are finite.
struct UnigramSource {
    std::vector<std::string_view> pieces;
    const double* scores;
    uint32_t unknown;
    std::string_view charsmap, note;
    bool split_spaces;     // words are split at white space before "▁" is put in front of each; else only the text gets one
    bool collapse_spaces;  // runs of spaces become one
};

// The bytes of a compiled file. Throws std::invalid_argument.
std::string compile_unigram(const UnigramSource& source);

class Unigram {
  public:
    // Over a compiled file, which must outlive this; nothing is copied. Throws std::invalid_argument if it is damaged.
    Unigram(const uint8_t* data, size_t size);

    // Ids that must not come out of a text, and strings. A text that gave such an id is split after the first character of
    // each of the strings and read again.
    void set_control(std::vector<int32_t> ids, std::vector<std::string> strings);

    // Appends the ids of a text in UTF-8. Every result is that of the tokenizers library, bit for bit the same arithmetic.
    void encode(std::string_view text, std::vector<int32_t>& ids) const;

    // The text after the replacements of the charsmap: a cluster below 6 bytes is replaced as a whole by what its shortest
    // prefix in the table stands for (the rest of the cluster vanishes), any other is replaced character by character.
    std::string normalized(std::string_view text) const;

    int32_t find(std::string_view piece) const;   // its id, or -1
    std::string_view piece(uint32_t id) const;    // empty for an id that there is not
    uint32_t size() const { return header_.pieces; }
    std::string_view note() const { return note_; }

  private:
    struct Step {
        double score;   // of the best way to here
        int32_t start;  // of its last piece, -1 if there is no way yet
        int32_t id;
    };
    struct Scratch {
        std::string word;
        std::vector<Step> steps;
        std::vector<std::pair<int32_t, int32_t>> ends;  // (end, id) of the pieces of a segment, last first
    };

    void place(const uint8_t* body, const size_t* parts);
    void encode(std::string_view normal, bool guarded, std::vector<int32_t>& ids) const;
    void encode_word(std::string_view word, bool guarded, Scratch& scratch, std::vector<int32_t>& ids) const;
    void encode_guarded(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const;
    void encode_segment(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const;
    void reach(std::string_view segment, size_t start, std::vector<Step>& steps) const;
    bool replacement(std::string_view text, std::string_view& found) const;
    bool ends_piece(uint32_t node, int32_t& id) const;
    bool child(uint32_t& node, uint8_t byte) const;

    UnigramHeader header_;
    const Unit* units_;
    const double* scores_;
    const uint32_t* offsets_;
    std::string_view text_, replacements_, note_;
    const uint8_t* charsmap_;
    size_t charsmap_units_;
    double unknown_score_;
    std::vector<int32_t> control_;
    std::vector<std::string> guarded_;
};

}  // namespace shortlist
