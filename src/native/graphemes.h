// Extended grapheme clusters (Unicode Standard Annex #29) of Unicode 17.
#pragma once
#include <cstddef>
#include <cstdint>

namespace shortlist {

struct Character {
    uint32_t code;
    size_t bytes;
};

// The first character of well-formed UTF-8; of a damaged one, some character of at most `size` bytes. `size` is at least 1.
Character first_character(const char* text, size_t size);

// Bytes of the first cluster of text[0 .. size); `size` is at least 1.
size_t first_cluster(const char* text, size_t size);

}  // namespace shortlist
