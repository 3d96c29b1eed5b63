// Every kernel of every instruction set that runs here against the portable one, over many shapes, and each row alone
// against the same row among others. Integers must be equal, floats near, a row's bits independent of its company.
//
// Prints one line an instruction set, and the first differences before it; exit code 1 if there is one.
// kernels_test [NAME...] tests these instruction sets only.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "weights.h"

using namespace shortlist;

namespace {

constexpr int kWidths[] = {64, 128, 192, 384, 768, 1536};
constexpr int kCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 25, 33, 64};

class Report {
  public:
    void check(bool right, const std::string& what) {
        checks_++;
        if (!right && ++wrong_ <= 10) std::printf("  differs: %s\n", what.c_str());
    }
    // Ends the instruction set's line; true if nothing differs.
    bool finish(const char* name) const {
        std::printf("%s: %ld comparisons, %ld differ\n", name, checks_, wrong_);
        return wrong_ == 0;
    }

  private:
    long checks_ = 0, wrong_ = 0;
};

// Aligned memory between two borders; a kernel that writes past its end changes a border.
template <class T>
class Array {
  public:
    explicit Array(size_t count) : count_(count), memory_(zeros<T>(count + 2 * kBorder)) {
        std::fill_n(memory_.get(), kBorder, kMark);
        std::fill_n(memory_.get() + kBorder + count, kBorder, kMark);
    }
    Array(const Array& other) : Array(other.count_) { std::copy_n(other.get(), count_, get()); }

    T* get() const { return memory_.get() + kBorder; }
    T& operator[](size_t i) const { return get()[i]; }
    size_t size() const { return count_; }
    bool whole() const {
        const auto marked = [](T x) { return x == kMark; };
        return std::all_of(memory_.get(), memory_.get() + kBorder, marked) &&
               std::all_of(get() + count_, get() + count_ + kBorder, marked);
    }
    bool operator==(const Array& other) const {
        return count_ == other.count_ && std::memcmp(get(), other.get(), count_ * sizeof(T)) == 0;
    }

  private:
    static constexpr size_t kBorder = 64;
    static constexpr T kMark = 77;
    size_t count_;
    Buffer<T> memory_;
};

using Floats = Array<float>;

// Numbers around zero, mostly below `size`; the same ones on every machine.
class Numbers {
  public:
    explicit Numbers(unsigned seed) : engine_(seed) {}
    float real(float size) {   // a sum of uniform numbers: near enough to a bell
        float sum = 0.0f;
        for (int i = 0; i < 4; i++) sum += static_cast<float>(engine_() % 20001) / 10000.0f - 1.0f;
        return sum * size;
    }
    int8_t byte() { return static_cast<int8_t>(static_cast<int>(engine_() % 255) - 127); }
    int below(int limit) { return static_cast<int>(engine_() % static_cast<unsigned>(limit)); }
    void fill(const Floats& array, float size) {
        for (size_t i = 0; i < array.size(); i++) array[i] = real(size);
    }

  private:
    std::mt19937 engine_;
};

bool near(const Floats& a, const Floats& b, float tolerance) {
    for (size_t i = 0; i < a.size(); i++) {
        if (!(std::fabs(a[i] - b[i]) <= tolerance * (1.0f + std::fabs(b[i])))) return false;
    }
    return a.whole() && b.whole();
}

// Rows in int8 with room for their results.
struct Quantized {
    Array<int8_t> values;
    Floats scales;
    Array<int32_t> offsets;

    Quantized(int rows, int width) : values(size_t(rows) * width), scales(rows), offsets(rows) {}
    Int8Rows rows(int first = 0, int width = 0) const {
        return {values.get() + ptrdiff_t(first) * width, scales.get() + first, offsets.get() + first};
    }
    bool whole() const { return values.whole() && scales.whole() && offsets.whole(); }
};

// How the bytes of a test are drawn: at random, all at an end, ends of alternating sign, zeros.
enum Fill { kRandom, kLargest, kSmallest, kAlternating, kZero, kFills };

int8_t byte(Fill fill, Numbers& numbers, int i) {
    switch (fill) {
        case kLargest: return 127;
        case kSmallest: return -127;
        case kAlternating: return i % 2 ? 127 : -127;
        case kZero: return 0;
        default: return numbers.byte();
    }
}

std::string at(const char* kernel, std::initializer_list<int> sizes) {
    std::string text = kernel;
    for (int size : sizes) text += " " + std::to_string(size);
    return text;
}

// ---------------------------------------------------------------------------------------------- quantisation

// The offsets that belong to the values.
bool offsets_fit(const Kernels& kernels, const Quantized& got, int rows, int width) {
    for (int r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (int k = 0; k < width; k++) sum += got.values[size_t(r) * width + k];
        if (kernels.added && got.offsets[r] != kernels.added * sum) return false;
    }
    return true;
}

// Rounding is the same everywhere, so the bytes are equal. The rows differ in size; one is zero.
void test_quantize(const Kernels& kernels, Report& report) {
    Numbers numbers(1);
    for (int width : kWidths) {
        constexpr int rows = 7;
        Floats x(size_t(rows) * width);
        for (int r = 0; r < rows; r++) {
            for (int k = 0; k < width; k++) x[r * width + k] = r == 3 ? 0.0f : numbers.real(std::pow(10.0f, float(r - 3)));
        }
        Quantized got(rows, width), expected(rows, width);
        kernels.quantize(x.get(), rows, width, got.rows());
        portable_kernels().quantize(x.get(), rows, width, expected.rows());
        report.check(got.values == expected.values && got.scales == expected.scales && got.whole(), at("quantize", {width}));
        report.check(offsets_fit(kernels, got, rows, width), at("offsets of quantize", {width}));
    }
}

// The floats are near; the bytes are those of the floats.
void test_gelu_quantize(const Kernels& kernels, Report& report) {
    constexpr GeluCurve curve = {4.5f, {1.5690e-1f, -7.7172e-2f, 5.4819e-2f, -4.0556e-2f, 2.7629e-2f,
                                        -1.6743e-2f, 1.2208e-2f, -9.3295e-3f, 3.3544e-3f}};
    Numbers numbers(2);
    for (int width : kWidths) {
        constexpr int rows = 5;
        Floats x(size_t(rows) * width);
        numbers.fill(x, 3.0f);
        x[1] = 30.0f, x[2] = -30.0f;   // where x times nearly 0 is to be nearly 0
        Floats ours = x, theirs = x;
        Quantized got(rows, width), expected(rows, width);
        kernels.gelu_quantize(ours.get(), rows, width, curve, got.rows());
        portable_kernels().gelu_quantize(theirs.get(), rows, width, curve, expected.rows());
        report.check(near(ours, theirs, 1e-5f), at("gelu", {width}));
        portable_kernels().quantize(ours.get(), rows, width, expected.rows());
        report.check(got.values == expected.values && got.scales == expected.scales && got.whole(),
                     at("gelu_quantize", {width}));
        report.check(offsets_fit(kernels, got, rows, width), at("offsets of gelu_quantize", {width}));
    }
}

// ---------------------------------------------------------------------------------------------- linear layers

// A matrix and a bias as a file holds them. With `plain` all scales are 1 and the bias 0: the layer gives integer sums.
struct Matrix {
    Array<int8_t> bytes;
    Floats scales, floats, bias;
    int outputs, inputs;

    Matrix(int outputs, int inputs, Fill fill, bool plain, Numbers& numbers)
        : bytes(size_t(outputs) * inputs), scales(outputs), floats(size_t(outputs) * inputs), bias(outputs), outputs(outputs),
          inputs(inputs) {
        for (int i = 0; i < outputs * inputs; i++) bytes[i] = byte(fill, numbers, i);
        numbers.fill(floats, 0.5f);
        for (int o = 0; o < outputs; o++) scales[o] = plain ? 1.0f : 0.01f + std::fabs(numbers.real(0.01f));
        if (!plain) numbers.fill(bias, 1.0f);
    }

    Linear packed(const Kernels* int8) const {
        Linear linear(round_up(outputs, kPanel), round_up(inputs, kPanel), int8);
        const Tensor weight = int8 ? Tensor{"w", bytes.get(), Kind::kInt8, outputs, inputs, scales.get()}
                                   : Tensor{"w", floats.get(), Kind::kFloat32, outputs, inputs, nullptr};
        linear.set(weight, {"b", bias.get(), Kind::kFloat32, outputs, 1, nullptr}, Axis::plain(outputs), Axis::plain(inputs));
        return linear;
    }
};

Quantized random_rows(const Kernels& kernels, int count, int width, Fill fill, bool plain, Numbers& numbers) {
    Quantized rows(count, width);
    for (int r = 0; r < count; r++) {
        int32_t sum = 0;
        for (int k = 0; k < width; k++) sum += rows.values[size_t(r) * width + k] = byte(fill, numbers, k);
        rows.scales[r] = plain ? 1.0f : 0.01f + std::fabs(numbers.real(0.01f));
        rows.offsets[r] = kernels.added * sum;
    }
    return rows;
}

// One layer of both kernels; with scales of 1 the results are integer sums and must be equal.
void test_linear_int8(const Kernels& kernels, Report& report, int outputs, int inputs, int count, Fill weights, Fill rows,
                      bool plain) {
    const unsigned seed = unsigned(outputs * 31 + inputs * 7 + count);
    Numbers numbers(seed);
    const Matrix matrix(outputs, inputs, weights, plain, numbers);
    const Linear ours = matrix.packed(&kernels), theirs = matrix.packed(&portable_kernels());
    Numbers again(seed), same(seed);
    const Quantized mine = random_rows(kernels, count, inputs, rows, plain, again);
    const Quantized portable = random_rows(portable_kernels(), count, inputs, rows, plain, same);
    const int stride = ours.outputs() + 64;
    Floats residual(size_t(count) * stride), got(residual.size()), expected(residual.size()), alone(residual.size());
    numbers.fill(residual, 1.0f);
    const float* added = plain ? nullptr : residual.get();
    kernels.linear_int8(ours.int8(), mine.rows(), count, added, got.get(), stride);
    portable_kernels().linear_int8(theirs.int8(), portable.rows(), count, added, expected.get(), stride);
    for (int r = 0; r < count; r++) {
        kernels.linear_int8(ours.int8(), mine.rows(r, inputs), 1, added ? added + r * stride : nullptr,
                            alone.get() + r * stride, stride);
    }
    report.check(near(got, expected, plain ? 0.0f : 2e-6f), at("linear_int8", {outputs, inputs, count, weights, rows, plain}));
    report.check(got == alone, at("linear_int8 alone", {outputs, inputs, count}));
}

void test_linears_int8(const Kernels& kernels, Report& report) {
    for (int count : kCounts) {
        for (bool plain : {true, false}) test_linear_int8(kernels, report, 128, 192, count, kRandom, kRandom, plain);
    }
    for (int inputs : kWidths) test_linear_int8(kernels, report, 64, inputs, 13, kRandom, kRandom, true);
    for (int outputs : {1, 63, 65, 384}) test_linear_int8(kernels, report, outputs, 64, 7, kRandom, kRandom, false);
    for (int weights = 0; weights < kFills; weights++) {
        for (int rows = 0; rows < kFills; rows++)
            test_linear_int8(kernels, report, 64, 1536, 7, Fill(weights), Fill(rows), true);
    }
}

void test_linear_float(const Kernels& kernels, Report& report, int outputs, int inputs, int count) {
    Numbers numbers(unsigned(outputs + inputs + count));
    const Matrix matrix(outputs, inputs, kRandom, false, numbers);
    const Linear linear = matrix.packed(nullptr);
    const int stride = linear.outputs() + 64;
    Floats rows(size_t(count) * inputs), residual(size_t(count) * stride), got(residual.size()), expected(residual.size()),
        alone(residual.size());
    numbers.fill(rows, 0.5f);
    numbers.fill(residual, 1.0f);
    for (const float* added : {static_cast<const float*>(nullptr), static_cast<const float*>(residual.get())}) {
        kernels.linear_float(linear.float32(), rows.get(), count, added, got.get(), stride);
        portable_kernels().linear_float(linear.float32(), rows.get(), count, added, expected.get(), stride);
        for (int r = 0; r < count; r++) {
            kernels.linear_float(linear.float32(), rows.get() + r * inputs, 1, added ? added + r * stride : nullptr,
                                 alone.get() + r * stride, stride);
        }
        report.check(near(got, expected, 1e-6f * std::sqrt(float(inputs))), at("linear_float", {outputs, inputs, count}));
        report.check(got == alone, at("linear_float alone", {outputs, inputs, count}));
    }
}

void test_linears_float(const Kernels& kernels, Report& report) {
    for (int count : kCounts) test_linear_float(kernels, report, 128, 64, count);
    for (int inputs : kWidths) test_linear_float(kernels, report, 65, inputs, 7);
}

// ---------------------------------------------------------------------------------------------- layer norm

void test_layer_norm(const Kernels& kernels, Report& report, int size, float mean) {
    const int width = round_up(size, kPanel), rows = 5;
    Numbers numbers{unsigned(size)};
    Floats x(size_t(rows) * width), gain(width), shift(width), got(x.size()), expected(x.size());
    for (int k = 0; k < size; k++) {
        gain[k] = numbers.real(1.0f), shift[k] = numbers.real(1.0f);
        for (int r = 0; r < rows; r++) x[r * width + k] = numbers.real(1.0f) + mean;
    }
    kernels.layer_norm(x.get(), rows, size, width, gain.get(), shift.get(), 1e-5f, got.get());
    portable_kernels().layer_norm(x.get(), rows, size, width, gain.get(), shift.get(), 1e-5f, expected.get());
    report.check(near(got, expected, 2e-6f * (1.0f + 10.0f * mean)), at("layer_norm", {size, int(mean)}));
    Floats alone = x;
    for (int r = 0; r < rows; r++) {
        float* row = alone.get() + r * width;
        kernels.layer_norm(row, 1, size, width, gain.get(), shift.get(), 1e-5f, row);
    }
    report.check(got == alone, at("layer_norm alone and in place", {size}));
}

void test_layer_norms(const Kernels& kernels, Report& report) {
    for (int size = 2; size <= 130; size++) test_layer_norm(kernels, report, size, 0.0f);
    for (int size : {383, 384, 768, 1535, 1536}) {
        for (float mean : {0.0f, 3.0f}) test_layer_norm(kernels, report, size, mean);
    }
}

// ---------------------------------------------------------------------------------------------- attention

// One head among two. `size` is that of the numbers: large ones leave one key all the weight.
using Attention = void (*Kernels::*)(const AttentionHead&);

// `loss` is what a unit more or less of a rounded weight may change.
void test_attention(const Kernels& kernels, Attention attention, float loss, Report& report, int length, int queries, int width,
                    float size) {
    const int stride = 2 * width;
    Numbers numbers(unsigned(length * 67 + width));
    Floats query(size_t(queries) * stride), keys(size_t(length) * stride), values(keys.size());
    for (const Floats* array : {&query, &keys, &values}) numbers.fill(*array, size);
    Floats got = query, expected = query, alone = query, scratch(attention_scratch(length, width));
    const auto head = [&](const float* from, float* to, int count) {
        return AttentionHead{from,  to,    stride,        count, keys.get() + width, values.get() + width, stride, length,
                             width, 0.25f, scratch.get()};
    };
    (kernels.*attention)(head(got.get() + width, got.get() + width, queries));   // in place
    (portable_kernels().*attention)(head(query.get() + width, expected.get() + width, queries));
    for (int i = 0; i < queries; i++) {
        (kernels.*attention)(head(query.get() + i * stride + width, alone.get() + i * stride + width, 1));
    }
    // Of a score, hence of e to its power; in int16 a score is a large whole number times a factor that is rounded itself.
    const float error = loss + 1e-6f + (loss > 0 ? 4e-7f : 1e-7f) * size * size * float(width);
    const std::string name = loss > 0 ? "attention_int16" : "attention";
    report.check(near(got, expected, error) && scratch.whole(), at(name.c_str(), {length, queries, width, int(size)}));
    report.check(got == alone, at((name + " alone").c_str(), {length, queries, width}));
}

void test_attentions(const Kernels& kernels, Attention attention, float loss, Report& report) {
    for (int length = 1; length <= 300; length++) {
        test_attention(kernels, attention, loss, report, length, std::min(length, 1 + length % 13), 16 * (1 + length % 4), 1.0f);
    }
    for (int width : {16, 32, 48, 64, 80, 128, 144}) {
        for (int length : {1, 7, 16, 17, 33, 64}) {
            for (float size : {0.0f, 0.1f, 8.0f})
                test_attention(kernels, attention, loss, report, length, length, width, size);
        }
    }
}

void test_both_attentions(const Kernels& kernels, Report& report) {
    test_attentions(kernels, &Kernels::attention, 0.0f, report);
    test_attentions(kernels, &Kernels::attention_int16, 1e-4f, report);
}

// ---------------------------------------------------------------------------------------------- dot products

void test_normalize(const Kernels& kernels, Report& report) {
    Numbers numbers(5);
    for (int width : kWidths) {
        for (float size : {0.0f, 1e-3f, 1.0f, 1e3f}) {
            Floats x(width), got(width), expected(width);
            numbers.fill(x, size);
            kernels.normalize(x.get(), width, got.get());
            portable_kernels().normalize(x.get(), width, expected.get());
            report.check(near(got, expected, 1e-6f), at("normalize", {width}));
        }
    }
}

void test_largest_dots(const Kernels& kernels, Report& report, int count, int others, int width) {
    Numbers numbers(unsigned(count + 17 * others + width));
    Floats a(size_t(count) * width), b(size_t(others) * width), got(count), expected(count), alone(count);
    numbers.fill(a, 0.5f);
    numbers.fill(b, 0.5f);
    kernels.largest_dots(a.get(), count, b.get(), others, width, got.get());
    portable_kernels().largest_dots(a.get(), count, b.get(), others, width, expected.get());
    for (int i = 0; i < count; i++) kernels.largest_dots(a.get() + i * width, 1, b.get(), others, width, alone.get() + i);
    report.check(near(got, expected, 1e-6f * std::sqrt(float(width))), at("largest_dots", {count, others, width}));
    report.check(got == alone, at("largest_dots alone", {count, others, width}));
}

// The index scan, exact.
void test_dots(const Kernels& kernels, Report& report, int dims, Fill fill) {
    constexpr int count = 9;
    const size_t stride = size_t(round_up(dims + 4, 4));
    Numbers numbers{unsigned(dims)};
    Array<uint8_t> data(stride * count);
    for (size_t i = 0; i < data.size(); i++) data[i] = uint8_t(byte(fill, numbers, int(i % stride)));
    Array<int8_t> query(dims);
    for (int j = 0; j < dims; j++) query[j] = byte(fill == kRandom ? kRandom : Fill(1 + numbers.below(kFills - 1)), numbers, j);
    Array<int32_t> got(count), expected(count);
    kernels.dots({data.get(), count, stride, size_t(dims)}, 0, count, query.get(), got.get());
    portable_kernels().dots({data.get(), count, stride, size_t(dims)}, 0, count, query.get(), expected.get());
    report.check(got == expected && got.whole(), at("dots", {dims, fill}));
}

// The scan of rows of bits, exact, from every first row on. Headers and the bits behind a row are not to be read.
void test_bit_dots(const Kernels& kernels, Report& report, int dims) {
    constexpr size_t count = 19;
    const size_t stride = kBitHeader + size_t(round_up((dims + 7) / 8, 4)), bytes = stride - kBitHeader;
    const size_t width = (bytes + kPlaneUnit - 1) / kPlaneUnit * kPlaneUnit;
    Numbers numbers{unsigned(dims)};
    Array<uint8_t> data(stride * count), planes(kPlanes * width);
    for (size_t i = 0; i < data.size(); i++) data[i] = uint8_t(numbers.byte());
    for (size_t p = 0; p < kPlanes; p++)
        for (size_t j = 0; j < bytes; j++) planes[p * width + j] = dims % 3 ? uint8_t(numbers.byte()) : 0xff;
    for (size_t first : {0, 1, 7, 18}) {
        Array<int32_t> got(count - first), expected(count - first);
        const Rows rows{data.get(), count, stride, size_t(dims)};
        kernels.bit_dots(rows, first, count - first, {planes.get(), width}, got.get());
        portable_kernels().bit_dots(rows, first, count - first, {planes.get(), width}, expected.get());
        report.check(got == expected && got.whole(), at("bit_dots", {dims, int(first)}));
    }
}

void test_all_dots(const Kernels& kernels, Report& report) {
    for (int count = 1; count <= 9; count++) {
        for (int others : {1, 2, 3, 4, 5, 9, 40}) test_largest_dots(kernels, report, count, others, 64);
    }
    for (int width : kWidths) test_largest_dots(kernels, report, 6, 7, width);
    for (int fill = 0; fill < kFills; fill++) {
        for (int dims = 1; dims <= 200; dims++) test_dots(kernels, report, dims, Fill(fill));
        for (int dims : {384, 768, 1021, 65536}) test_dots(kernels, report, dims, Fill(fill));
    }
    for (int dims = 1; dims <= 200; dims++) test_bit_dots(kernels, report, dims);
    for (int dims : {384, 511, 512, 513, 768, 1021, 65536}) test_bit_dots(kernels, report, dims);
}

bool test(const Kernels& kernels) {
    Report report;
    for (auto one : {test_quantize, test_gelu_quantize, test_linears_int8, test_linears_float, test_layer_norms,
                     test_both_attentions, test_normalize, test_all_dots}) {
        one(kernels, report);
    }
    return report.finish(kernels.name);
}

// Those that run here, and AMX's with loops for its instructions: few machines have them.
std::vector<const Kernels*> testable_kernels() {
    std::vector<const Kernels*> found = available_kernels();
#if defined(SHORTLIST_AMX)
    const auto avx512 = [](const Kernels* kernels) { return std::strcmp(kernels->name, "avx512vnni") == 0; };
    if (std::any_of(found.begin(), found.end(), avx512)) found.push_back(&plain_tile_kernels());
#endif
    return found;
}

}   // namespace

int main(int count, char** names) {
    bool right = true;
    for (const Kernels* kernels : testable_kernels()) {
        const bool wanted = count == 1 || std::any_of(names + 1, names + count, [&](const char* name) {
            return std::strcmp(name, kernels->name) == 0;
        });
        if (wanted) right = test(*kernels) && right;
    }
    return right ? 0 : 1;
}
