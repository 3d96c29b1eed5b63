// Python face of the first-stage kernels. Arrays are checked here, once; the kernels check what they read out of files.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "bm25.h"
#include "cpu.h"
#include "scan.h"
#include "search.h"

namespace nb = nanobind;
using namespace shortlist;

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Frequencies = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu, nb::ro>;
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

static void require(bool fine, const char* message) {
    if (!fine) throw nb::value_error(message);
}

template <typename T>
static Out<T> give(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}

// The first `size` bytes of a file, mapped for reading. They may reach beyond its end, where bytes can be read once the file
// has them; before that the system kills whoever tries. (Python's mmap refuses such a size.)
static nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> map_file(int file, size_t size) {
    struct Mapping {
        void* data;
        size_t size;
    };
    void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        throw nb::python_error();
    }
    nb::capsule owner(new Mapping{data, size}, [](void* p) noexcept {
        auto* mapping = static_cast<Mapping*>(p);
        munmap(mapping->data, mapping->size);
        delete mapping;
    });
    return {static_cast<const uint8_t*>(data), {size}, owner};
}

static nb::tuple give(const std::vector<Scored>& best) {
    std::vector<uint32_t> slots;
    std::vector<float> scores;
    for (const Scored& one : best) slots.push_back(one.slot), scores.push_back(one.score);
    return nb::make_tuple(give(std::move(slots)), give(std::move(scores)));
}

// The kernels of an instruction set; "" means what SHORTLIST_ISA asks for, else the best that this processor has.
static const Kernels& choose(std::string level) {
    const std::vector<const Kernels*> known = available_kernels();
    const char* wanted = std::getenv("SHORTLIST_ISA");
    if (level.empty()) level = wanted && *wanted ? wanted : known.front()->name;
    const auto found = std::find_if(known.begin(), known.end(), [&](const Kernels* one) { return one->name == level; });
    require(found != known.end(), "this processor has no such instruction set");
    return **found;
}

static std::vector<nb::tuple> give(const Lists& lists) {
    std::vector<nb::tuple> given;
    for (const std::vector<Scored>& one : lists) given.push_back(give(one));
    return given;
}

// The rows of a scan, `header` bytes before the dims numbers of `bits` bits each.
static Rows rows_of(const In<uint8_t>& rows, size_t dims, size_t stride, size_t header, size_t bits) {
    require(dims >= 1 && dims <= 65536, "dims must be 1 to 65,536");
    require(stride % sizeof(float) == 0 && stride >= header + (dims * bits + 7) / 8,
            "stride must be a multiple of 4 that holds the header and dims numbers");
    require(rows.size() % stride == 0, "rows must hold whole rows of stride bytes");
    return {rows.data(), rows.size() / stride, stride, dims};
}

static Scan scan_of(const Rows& rows, const In2<int8_t>& queries, const In<uint8_t>& dead, size_t k, size_t threads) {
    require(queries.shape(1) == rows.dims, "queries must hold rows of dims bytes");
    require(dead.size() == rows.count, "dead must hold one byte a row");
    require(k >= 1, "k must be at least 1");
    return {rows, dead.data(), k, threads};
}

static std::vector<nb::tuple> scan_rows_int8(In<uint8_t> rows, size_t dims, size_t stride, In2<int8_t> queries, In<uint8_t> dead,
                                             size_t k, size_t threads, const std::string& level) {
    const Scan scan = scan_of(rows_of(rows, dims, stride, sizeof(float), 8), queries, dead, k, threads);
    const Kernels& kernels = choose(level);
    Lists lists;
    {
        nb::gil_scoped_release free;
        lists = scan_int8(scan, queries.data(), queries.shape(0), kernels);
    }
    return give(lists);
}

static std::vector<nb::tuple> scan_rows_bits(In<uint8_t> rows, size_t dims, size_t stride, In2<int8_t> queries, In<float> steps,
                                             In<uint8_t> dead, size_t k, size_t threads, const std::string& level) {
    const Scan scan = scan_of(rows_of(rows, dims, stride, kBitHeader, 1), queries, dead, k, threads);
    require(steps.size() == queries.shape(0), "steps must hold one number a query");
    const auto small = [](int8_t x) { return -7 <= x && x <= 7; };
    require(std::all_of(queries.data(), queries.data() + queries.size(), small), "queries must hold numbers from -7 to 7");
    const Kernels& kernels = choose(level);
    Lists lists;
    {
        nb::gil_scoped_release free;
        lists = scan_bits(scan, queries.data(), steps.data(), queries.shape(0), kernels);
    }
    return give(lists);
}

static Out<float> score_rows_int8(In<uint8_t> rows, size_t dims, size_t stride, In<int8_t> query, In<uint32_t> slots,
                                  const std::string& level) {
    const Rows view = rows_of(rows, dims, stride, sizeof(float), 8);
    require(query.size() == dims, "query must hold dims bytes");
    const auto inside = [&](uint32_t slot) { return slot < view.count; };
    require(std::all_of(slots.data(), slots.data() + slots.size(), inside), "a slot lies outside the rows");
    const Kernels& kernels = choose(level);
    std::vector<float> scores(slots.size());
    {
        nb::gil_scoped_release free;
        score_int8(view, query.data(), slots.data(), slots.size(), kernels, scores.data());
    }
    return give(std::move(scores));
}

static Out<float> half_products(In2<uint16_t> rows, In<float> query, const std::string& level) {
    require(query.size() == rows.shape(1), "query must hold as many numbers as a row");
    const Kernels& kernels = choose(level);
    std::vector<float> products(rows.shape(0));
    {
        nb::gil_scoped_release free;
        kernels.half_dots(rows.data(), rows.shape(0), rows.shape(1), query.data(), products.data());
    }
    return give(std::move(products));
}

// Lists: (slots, tf, weight, bounds as bytes or None, skew). Each segment: (first slot, lengths, its lists).
static SegmentLists segment_lists(const nb::tuple& segment) {
    const auto lengths = nb::cast<In<uint32_t>>(segment[1], false);
    SegmentLists made{nb::cast<uint32_t>(segment[0]), lengths.size(), lengths.data(), 0, {}};
    for (const nb::handle& item : nb::cast<nb::list>(segment[2])) {
        const auto list = nb::cast<nb::tuple>(item);
        const auto slots = nb::cast<In<uint32_t>>(list[0], false);
        const auto tf = nb::cast<Frequencies>(list[1], false);
        const auto skew = nb::cast<size_t>(list[4]);
        require(tf.size() == slots.size(), "slots and tf must have the same length");
        require(tf.itemsize() == 1 || tf.itemsize() == 2 || tf.itemsize() == 4, "tf must be uint8, uint16 or uint32");
        require(made.tf_bytes == 0 || made.tf_bytes == tf.itemsize(), "all lists of a segment must have the same type of tf");
        made.tf_bytes = tf.itemsize();
        const Bound* bounds = nullptr;
        if (!list[3].is_none()) {
            const auto bytes = nb::cast<In<uint8_t>>(list[3], false);
            const size_t blocks = (skew + slots.size() + block_postings - 1) / block_postings;
            require(bytes.size() >= blocks * sizeof(Bound), "bounds must hold one for each block of postings");
            bounds = reinterpret_cast<const Bound*>(bytes.data());
            require(reinterpret_cast<uintptr_t>(bounds) % alignof(Bound) == 0, "bounds must be aligned");
        }
        made.lists.push_back({slots.data(), tf.data(), slots.size(), nb::cast<float>(list[2]), bounds, skew});
    }
    return made;
}

static nb::tuple best_lists(const std::vector<nb::tuple>& segments, float base, float slope, std::optional<In<uint8_t>> hidden,
                            size_t k) {
    require(k >= 1, "k must be at least 1");
    std::vector<SegmentLists> lists;
    for (const nb::tuple& segment : segments) {
        lists.push_back(segment_lists(segment));
        const SegmentLists& last = lists.back();
        require(!hidden || last.first + last.count <= hidden->size(), "hidden must hold one byte a slot");
    }
    std::vector<Scored> best;
    {
        nb::gil_scoped_release free;
        best = best_bm25(lists, {base, slope}, hidden ? hidden->data() : nullptr, k);
    }
    return give(best);
}

// uint8[blocks * 8], as they stand in the file.
template <typename Tf>
static Out<uint8_t> bounds_of(In<uint32_t> slots, In<Tf> tf, In<uint32_t> lengths) {
    require(tf.size() == slots.size(), "slots and tf must have the same length");
    std::vector<Bound> bounds;
    {
        nb::gil_scoped_release free;
        bounds = block_bounds<Tf>(slots.data(), tf.data(), slots.size(), lengths.data(), lengths.size());
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(bounds.data());
    return give(std::vector<uint8_t>(bytes, bytes + bounds.size() * sizeof(Bound)));
}

static size_t common(In<uint32_t> slots, In<uint32_t> others) {
    return count_common(slots.data(), slots.size(), others.data(), others.size());
}

static Terms terms_of(const In<uint64_t>& offsets, const In<uint8_t>& bytes) {
    require(offsets.size() >= 1, "offsets must hold one number more than there are terms");
    return {offsets.data(), offsets.size() - 1, bytes.data(), bytes.size()};
}

static std::vector<int64_t> find_terms(In<uint64_t> offsets, In<uint8_t> bytes, const std::vector<nb::bytes>& wanted) {
    const Terms terms = terms_of(offsets, bytes);
    std::vector<int64_t> places;
    for (const nb::bytes& one : wanted)
        places.push_back(find_term(terms, reinterpret_cast<const uint8_t*>(one.c_str()), one.size()));
    return places;
}

// (offsets, bytes, starts, slots, tf, shift).
static Segment segment_of(const nb::tuple& part) {
    auto offsets = nb::cast<In<uint64_t>>(part[0], false);
    auto bytes = nb::cast<In<uint8_t>>(part[1], false);
    auto starts = nb::cast<In<uint64_t>>(part[2], false);
    auto slots = nb::cast<In<uint32_t>>(part[3], false);
    auto tf = nb::cast<Frequencies>(part[4]);
    const size_t tf_bytes = tf.itemsize();
    require(starts.size() == offsets.size(), "starts must hold one number more than there are terms");
    require(tf.size() == slots.size(), "slots and tf must have the same length");
    require(tf_bytes == 1 || tf_bytes == 2 || tf_bytes == 4, "tf must be uint8, uint16 or uint32");
    return {terms_of(offsets, bytes), starts.data(), slots.data(), tf.data(), tf_bytes, slots.size(), nb::cast<uint32_t>(part[5])};
}

static nb::tuple give(Merged&& merged) {
    return nb::make_tuple(give(std::move(merged.offsets)), give(std::move(merged.bytes)), give(std::move(merged.starts)),
                          give(std::move(merged.slots)), give(std::move(merged.tf)));
}

static nb::tuple merge_terms(const std::vector<nb::tuple>& parts) {
    std::vector<Segment> segments;
    for (const nb::tuple& part : parts) segments.push_back(segment_of(part));
    Merged merged;
    {
        nb::gil_scoped_release free;
        merged = merge_segments(segments);
    }
    return give(std::move(merged));
}

static nb::tuple keep_terms(const nb::tuple& part, In<uint8_t> kept) {
    const Segment segment = segment_of(part);
    Merged merged;
    {
        nb::gil_scoped_release free;
        merged = keep_slots(segment, kept.data(), kept.size());
    }
    return give(std::move(merged));
}

template <typename Tf>
static void bind_bounds(nb::module_& m) {
    m.def("block_bounds", &bounds_of<Tf>, nb::arg("slots").noconvert(), nb::arg("tf").noconvert(),
          nb::arg("lengths").noconvert());
}

// noconvert: a silent copy would lose bits (tf) or time.
void bind_search(nb::module_& m) {
    m.def("scan_int8", &scan_rows_int8, nb::arg("rows").noconvert(), nb::arg("dims"), nb::arg("stride"),
          nb::arg("queries").noconvert(), nb::arg("dead").noconvert(), nb::arg("k"), nb::arg("threads") = 1, nb::arg("level") = "");
    m.def("scan_bits", &scan_rows_bits, nb::arg("rows").noconvert(), nb::arg("dims"), nb::arg("stride"),
          nb::arg("queries").noconvert(), nb::arg("steps").noconvert(), nb::arg("dead").noconvert(), nb::arg("k"),
          nb::arg("threads") = 1, nb::arg("level") = "");
    m.def("score_int8", &score_rows_int8, nb::arg("rows").noconvert(), nb::arg("dims"), nb::arg("stride"),
          nb::arg("query").noconvert(), nb::arg("slots").noconvert(), nb::arg("level") = "");
    m.def("map_file", &map_file, nb::arg("file"), nb::arg("size"));
    m.def("half_dots", &half_products, nb::arg("rows").noconvert(), nb::arg("query").noconvert(), nb::arg("level") = "");
    m.def("best_bm25", &best_lists, nb::arg("segments"), nb::arg("base"), nb::arg("slope"),
          nb::arg("hidden").noconvert().none(), nb::arg("k"));
    bind_bounds<uint8_t>(m);
    bind_bounds<uint16_t>(m);
    bind_bounds<uint32_t>(m);
    m.def("count_common", &common, nb::arg("slots").noconvert(), nb::arg("others").noconvert());
    m.def("find_terms", &find_terms, nb::arg("offsets").noconvert(), nb::arg("bytes").noconvert(), nb::arg("wanted"));
    m.def("merge_terms", &merge_terms, nb::arg("parts"));
    m.def("keep_terms", &keep_terms, nb::arg("part"), nb::arg("kept").noconvert());
}
