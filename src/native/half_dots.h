// Kernels::half_dots, written once over a struct V that names the instructions, for a .cpp file with the flags of its
// instruction set. V offers Eight, a vector of eight floats (operators + *), and load(float*), widen(uint16_t*), store, and
// one(uint16_t), the last for columns that are left over.
#pragma once
#include <cstddef>
#include <cstdint>

namespace shortlist {
namespace {

// At most 128 columns: eight sums side by side, then these in pairs.
template <class V>
float half_block(const uint16_t* row, const float* query, size_t count) {
    float sum = 0.0f;
    size_t j = 0;
    if (count >= 8) {
        typename V::Eight sums = V::widen(row) * V::load(query);
        for (j = 8; j + 8 <= count; j += 8) sums = sums + V::widen(row + j) * V::load(query + j);
        float s[8];
        V::store(s, sums);
        sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    }
    for (; j < count; j++) sum += V::one(row[j]) * query[j];
    return sum;
}

template <class V>
float half_dot(const uint16_t* row, const float* query, size_t count) {
    if (count <= 128) return half_block<V>(row, query, count);
    const size_t first = count / 2 - count / 2 % 8;
    return half_dot<V>(row, query, first) + half_dot<V>(row + first, query + first, count - first);
}

template <class V>
void half_dots_of(const uint16_t* rows, size_t count, size_t dims, const float* query, float* out) {
    for (size_t i = 0; i < count; i++) out[i] = half_dot<V>(rows + i * dims, query, dims);
}

}   // namespace
}   // namespace shortlist
