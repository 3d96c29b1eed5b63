// Python face of the Unigram tokenizer.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "unigram.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace shortlist;

namespace {

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Out<T> give(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}

// The UTF-8 of a str, which keeps it for as long as it lives. Raises UnicodeEncodeError for a lone surrogate.
std::string_view utf8(const nb::str& text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (!data) throw nb::python_error();
    return {data, static_cast<size_t>(size)};
}

std::string_view view(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

nb::bytes compile(const std::vector<nb::str>& pieces, const In<double>& scores, uint32_t unknown, const nb::bytes& charsmap,
                  bool split_spaces, bool collapse_spaces, const nb::bytes& note) {
    if (scores.size() != pieces.size()) throw std::invalid_argument("pieces and scores must have the same length");
    UnigramSource source{{}, scores.data(), unknown, view(charsmap), view(note), split_spaces, collapse_spaces};
    for (const nb::str& piece : pieces) source.pieces.push_back(utf8(piece));
    const std::string file = compile_unigram(source);
    return nb::bytes(file.data(), file.size());
}

class PyUnigram {
  public:
    PyUnigram(const In<uint8_t>& file) : file_(file), model_(file.data(), file.size()) {}

    void set_control(const std::vector<int32_t>& ids, const std::vector<std::string>& strings) {
        model_.set_control(ids, strings);
    }

    // All ids one after another, and where each text's begin.
    nb::tuple encode(const std::vector<nb::str>& texts) const {
        std::vector<std::string_view> views;
        for (const nb::str& text : texts) views.push_back(utf8(text));
        std::vector<int32_t> ids;
        std::vector<int64_t> offsets{0};
        {
            const nb::gil_scoped_release release;
            for (const std::string_view text : views) {
                model_.encode(text, ids);
                offsets.push_back(static_cast<int64_t>(ids.size()));
            }
        }
        return nb::make_tuple(give(std::move(ids)), give(std::move(offsets)));
    }

    std::string normalized(const nb::str& text) const { return model_.normalized(utf8(text)); }
    int32_t find(const nb::str& piece) const { return model_.find(utf8(piece)); }
    nb::str piece(uint32_t id) const {
        const std::string_view found = model_.piece(id);
        PyObject* text = PyUnicode_DecodeUTF8(found.data(), static_cast<Py_ssize_t>(found.size()), "replace");
        if (!text) throw nb::python_error();
        return nb::steal<nb::str>(text);
    }
    nb::bytes note() const { return nb::bytes(model_.note().data(), model_.note().size()); }
    uint32_t size() const { return model_.size(); }

  private:
    In<uint8_t> file_;  // keeps the array, and so the mapped file
    Unigram model_;
};

}  // namespace

void bind_unigram(nb::module_& m) {
    m.def("compile_unigram", &compile, "pieces"_a, "scores"_a.noconvert(), "unknown"_a, "charsmap"_a, nb::kw_only(),
          "split_spaces"_a, "collapse_spaces"_a, "note"_a);
    nb::class_<PyUnigram>(m, "Unigram")
        .def(nb::init<const In<uint8_t>&>(), "file"_a.noconvert())
        .def("set_control", &PyUnigram::set_control, "ids"_a, "strings"_a)
        .def("encode", &PyUnigram::encode, "texts"_a)
        .def("normalized", &PyUnigram::normalized, "text"_a)
        .def("find", &PyUnigram::find, "piece"_a)
        .def("piece", &PyUnigram::piece, "id"_a)
        .def_prop_ro("note", &PyUnigram::note)
        .def_prop_ro("size", &PyUnigram::size);
}
