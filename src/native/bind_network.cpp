// The Python face of the networks: shapes and types of arrays are checked here, their values by the Python caller.
#include <fcntl.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu.h"
#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace shortlist;

namespace {

constexpr char kTable[] = "embeddings.word_embeddings.weight";

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Segments = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Kind kind_of(const AnyArray& array, const std::string& name) {
    if (array.dtype() == nb::dtype<float>()) return Kind::kFloat32;
    if (array.dtype() == nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1}) return Kind::kFloat16;
    if (array.dtype() == nb::dtype<uint16_t>()) return Kind::kBfloat16;   // numpy has no bfloat16: raw bits
    if (array.dtype() == nb::dtype<int8_t>()) return Kind::kInt8;
    throw std::invalid_argument("tensor " + name + " has a type other than float32, float16, bfloat16 bits and int8");
}

Tensor tensor_of(const std::string& name, const AnyArray& array, const nb::dict& arrays) {
    if (array.ndim() != 1 && array.ndim() != 2)
        throw std::invalid_argument("tensor " + name + " is neither a vector nor a matrix");
    Tensor tensor{name,
                  array.data(),
                  kind_of(array, name),
                  static_cast<int64_t>(array.shape(0)),
                  array.ndim() == 2 ? static_cast<int64_t>(array.shape(1)) : 1,
                  nullptr};
    if (tensor.kind == Kind::kInt8) {
        const std::string scale_name = name + "_scale";
        if (!arrays.contains(scale_name.c_str()))
            throw std::invalid_argument("tensor " + name + " is int8 and has no " + scale_name);
        const auto scales = nb::cast<AnyArray>(arrays[scale_name.c_str()], false);
        if (kind_of(scales, scale_name) != Kind::kFloat32 || static_cast<int64_t>(scales.size()) != tensor.rows) {
            throw std::invalid_argument("tensor " + scale_name + " is not one float32 for each row of " + name);
        }
        tensor.scales = scales.data();
    }
    return tensor;
}

const Kernels& kernels_named(const std::string& name) {
    for (const Kernels* known : available_kernels()) {
        if (known->name == name) return *known;
    }
    throw std::invalid_argument("instruction set " + name + " is not available here");
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* known : available_kernels()) names.push_back(known->name);
    return names;
}

Pooling pooling_named(const std::string& name) {
    if (name == "cls") return Pooling::kCls;
    if (name == "mean") return Pooling::kMean;
    if (name == "none") return Pooling::kNone;
    if (name == "score") return Pooling::kScore;
    throw std::invalid_argument("pooling " + name + " is none of cls, mean, none, score");
}

// Lets Python handle signals now and then, and passes on what a handler raises (KeyboardInterrupt on Ctrl-C).
class Signals {
  public:
    void operator()() {
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        const nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }

  private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A file that is open for reading; none without a path.
class File {
  public:
    explicit File(const std::string& path) : handle_(path.empty() ? -1 : open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
        if (handle_ < 0 && !path.empty()) throw std::invalid_argument(path + " cannot be opened");
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
        if (handle_ >= 0) close(handle_);
    }
    int handle() const { return handle_; }

  private:
    const int handle_;
};

class PyNetwork {
  public:
    PyNetwork(int hidden, int layers, int heads, int intermediate, int vocabulary, int positions, int first_position,
              int token_types, int labels, float eps, bool tanh_gelu, bool int8, bool maxsim,
              const std::string& instruction_set, const nb::dict& arrays, const std::string& table_file, int64_t table_place)
        : arrays_(arrays), table_file_(table_file) {
        Tensors tensors;
        for (const auto& [key, value] : arrays) {
            const auto name = nb::cast<std::string>(key);
            Tensor tensor = tensor_of(name, nb::cast<AnyArray>(value, false), arrays);
            if (name == kTable) tensor.file = table_file_.handle(), tensor.place = table_place;
            tensors.add(std::move(tensor));
        }
        const Config config{hidden,      layers, heads, intermediate, vocabulary, positions, first_position,
                            token_types, labels, eps,   tanh_gelu,    int8,       maxsim};
        network_ = std::make_unique<Network>(config, tensors, kernels_named(instruction_set));
        keep_table_only();
    }

    void run(const Ids& ids, const Segments& segments, const Ids& offsets, const std::string& pooling, int threads,
             const Output& out) const {
        const Pooling kind = pooling_named(pooling);
        const Config& config = network_->config();
        if (kind == Pooling::kScore && config.labels == 0) throw std::invalid_argument("the network has no score head");
        if (offsets.size() < 1 || segments.size() != ids.size())
            throw std::invalid_argument("ids, segments and offsets do not fit together");
        const size_t rows = kind == Pooling::kNone ? ids.size() : offsets.size() - 1;
        const int columns = kind == Pooling::kScore ? config.labels : config.hidden;
        if (out.shape(0) != rows || out.shape(1) != static_cast<size_t>(columns))
            throw std::invalid_argument("out has the wrong shape");
        const Batch batch{ids.data(), segments.data(), offsets.data(), static_cast<int>(offsets.size()) - 1};
        float* data = out.data();
        const nb::gil_scoped_release release;
        network_->run(batch, kind, threads, data, Signals());
    }

  private:
    // Everything but the token table was copied: the rest of the mapped file may go.
    void keep_table_only() {
        nb::dict kept;
        for (const std::string& name : {std::string(kTable), std::string(kTable) + "_scale"}) {
            if (arrays_.contains(name.c_str())) kept[name.c_str()] = arrays_[name.c_str()];
        }
        arrays_ = kept;
    }

    nb::dict arrays_;
    File table_file_;
    std::unique_ptr<Network> network_;
};

}   // namespace

void bind_network(nb::module_& m) {
    m.def("instruction_sets", &instruction_sets, "Names of the instruction sets that can run here, best first.");
    nb::class_<PyNetwork>(m, "Network")
        .def(nb::init<int, int, int, int, int, int, int, int, int, float, bool, bool, bool, const std::string&,
                      const nb::dict&, const std::string&, int64_t>(),
             nb::kw_only(), "hidden"_a, "layers"_a, "heads"_a, "intermediate"_a, "vocabulary"_a, "positions"_a,
             "first_position"_a, "token_types"_a, "labels"_a, "eps"_a, "tanh_gelu"_a, "int8"_a, "maxsim"_a,
             "instruction_set"_a, "tensors"_a, "table_file"_a, "table_place"_a)
        .def("run", &PyNetwork::run, "ids"_a, "segments"_a, "offsets"_a, "pooling"_a, "threads"_a, "out"_a.noconvert());
}
