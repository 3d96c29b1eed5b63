// Exact scans of vector files: every row against one query or several, which share the pass through memory.
#pragma once
#include <vector>

#include "kernels.h"
#include "search.h"

namespace shortlist {

using Lists = std::vector<std::vector<Scored>>;   // one a query

// What the scans have in common: rows with dead[slot] != 0 are left out, the k best of the others wanted.
struct Scan {
    Rows rows;
    const uint8_t* dead;
    size_t k, threads;
};

// By scale * dot.   queries: int8[asked][dims] within -127..127
Lists scan_int8(const Scan& scan, const int8_t* queries, size_t asked, const Kernels& kernels);

// By offset + factor * step * (dot of the query with the signs of the row); factor and offset are the row's two floats.
// queries: int8[asked][dims] within -7..7; steps: float[asked]
Lists scan_bits(const Scan& scan, const int8_t* queries, const float* steps, size_t asked, const Kernels& kernels);

// out[i] = scale * dot of row slots[i] with the query; the slots must be below rows.count.
void score_int8(const Rows& rows, const int8_t* query, const uint32_t* slots, size_t count, const Kernels& kernels, float* out);

}  // namespace shortlist
