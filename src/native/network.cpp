#include "network.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace shortlist {
namespace {

constexpr int kBlockTokens = 1024;   // tokens that a thread takes at a time
constexpr int kChunkRows = 96;       // rows that pass through the linear layers together: they stay in the second-level cache

// Both curves are minimax fits on |x| <= 4.5. Largest error of GELU for |x| <= 12: 5e-5 and 1e-4, where one int8 step of
// an activation is 1e-2 and more.
constexpr GeluCurve kExactGelu = {4.5f,
                                  {1.569021114e-01f, -7.717193706e-02f, 5.481859362e-02f, -4.055610002e-02f, 2.762946306e-02f,
                                   -1.674295722e-02f, 1.220790768e-02f, -9.329484881e-03f, 3.354389009e-03f}};
constexpr GeluCurve kTanhGelu = {4.5f,
                                 {1.569347514e-01f, -7.726948773e-02f, 5.494196313e-02f, -4.058122151e-02f, 2.715176422e-02f,
                                  -1.576522909e-02f, 1.199967479e-02f, -1.015603535e-02f, 3.856728323e-03f}};

float exact_gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.7071067811865476f)); }
float tanh_gelu(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x))); }
float softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))); }

// int8: as in the constructor of Linear.
Linear linear(const Tensors& tensors, const std::string& name, const Axis& outputs, const Axis& inputs, const Kernels* int8) {
    Linear result(outputs.padded, inputs.padded, int8);
    result.set(tensors.get(name + ".weight", outputs.count, inputs.count), tensors.get(name + ".bias", outputs.count, 1),
               outputs, inputs);
    return result;
}

Buffer<float> vector(const Tensors& tensors, const std::string& name, int size, int width) {
    const Tensor& tensor = tensors.get(name, size, 1);
    Buffer<float> out = zeros<float>(static_cast<size_t>(width));
    for (int i = 0; i < size; i++) load_row(tensor, i, out.get() + i);
    return out;
}

Layer read_layer(const Tensors& tensors, const std::string& prefix, const Config& config, const Kernels* int8) {
    const Axis hidden = Axis::plain(config.hidden), middle = Axis::plain(config.intermediate);
    const Axis heads = Axis::heads(config.heads, config.hidden / config.heads);
    const std::string self = prefix + "attention.self.";
    Layer layer;
    layer.query = linear(tensors, self + "query", heads, hidden, int8);
    layer.key_value = Linear(2 * heads.padded, hidden.padded, int8);
    for (const auto& [name, first] : {std::pair<const char*, int>{"key", 0}, {"value", heads.padded}}) {
        layer.key_value.set(tensors.get(self + name + ".weight", heads.count, hidden.count),
                            tensors.get(self + name + ".bias", heads.count, 1), heads, hidden, first);
    }
    layer.attention_output = linear(tensors, prefix + "attention.output.dense", hidden, heads, int8);
    layer.attention_gain = vector(tensors, prefix + "attention.output.LayerNorm.weight", config.hidden, hidden.padded);
    layer.attention_shift = vector(tensors, prefix + "attention.output.LayerNorm.bias", config.hidden, hidden.padded);
    layer.up = linear(tensors, prefix + "intermediate.dense", middle, hidden, int8);
    layer.down = linear(tensors, prefix + "output.dense", hidden, middle, int8);
    layer.output_gain = vector(tensors, prefix + "output.LayerNorm.weight", config.hidden, hidden.padded);
    layer.output_shift = vector(tensors, prefix + "output.LayerNorm.bias", config.hidden, hidden.padded);
    return layer;
}

}   // namespace

Network::Network(const Config& config, const Tensors& tensors, const Kernels& kernels) : config_(config), kernels_(&kernels) {
    const Axis hidden = Axis::plain(config.hidden);
    const Axis heads = Axis::heads(config.heads, config.hidden / config.heads);
    width_ = hidden.padded;
    head_width_ = heads.padded_group;
    heads_width_ = heads.padded;
    middle_width_ = round_up(config.intermediate, kPanel);
    table_ = tensors.get("embeddings.word_embeddings.weight", config.vocabulary, config.hidden);
    positions_ = load(tensors.get("embeddings.position_embeddings.weight", config.positions, config.hidden), width_);
    types_ = load(tensors.get("embeddings.token_type_embeddings.weight", config.token_types, config.hidden), width_);
    embedding_gain_ = vector(tensors, "embeddings.LayerNorm.weight", config.hidden, width_);
    embedding_shift_ = vector(tensors, "embeddings.LayerNorm.bias", config.hidden, width_);
    for (int l = 0; l < config.layers; l++) {
        layers_.push_back(
            read_layer(tensors, "encoder.layer." + std::to_string(l) + ".", config, config.int8 ? &kernels : nullptr));
    }
    if (config.labels > 0) {   // small and last: always in float32
        head_dense_ = linear(tensors, "head.dense", hidden, hidden, nullptr);
        head_output_ = linear(tensors, "head.output", Axis::plain(config.labels), hidden, nullptr);
    }
    if (config.maxsim) {
        maxsim_.weight = load(tensors.get("maxsim.weight", 1, config.hidden), width_);
        maxsim_.bias = vector(tensors, "maxsim.bias", 1, 1)[0];
        maxsim_.gain = vector(tensors, "maxsim.gain", 1, 1)[0];
    }
}

// Rows that enter a linear layer; in int8 mode also their quantised form.
struct Operand {
    const float* values;
    Int8Rows quantized;
    int count;
};

// One thread's working memory, and the forward pass of one block of sequences through it.
class Worker {
  public:
    Worker(const Network& network, const Batch& batch, Pooling pooling, int most_tokens, int longest)
        : network_(network),
          config_(network.config_),
          kernels_(*network.kernels_),
          batch_(batch),
          pooling_(pooling),
          only_first_(pooling == Pooling::kCls || (pooling == Pooling::kScore && !network.config_.maxsim)),
          width_(network.width_),
          heads_width_(network.heads_width_) {
        const size_t tokens = static_cast<size_t>(most_tokens), width = static_cast<size_t>(width_);
        const size_t heads = static_cast<size_t>(heads_width_), middle = static_cast<size_t>(network.middle_width_);
        const size_t chunk = static_cast<size_t>(std::min(kChunkRows, most_tokens)), widest = std::max({width, heads, middle});
        states_ = zeros<float>(tokens * width);
        query_ = zeros<float>(tokens * heads);
        key_value_ = zeros<float>(tokens * 2 * heads);
        sums_ = zeros<float>(chunk * width);
        middle_ = zeros<float>(chunk * middle);
        scratch_ = zeros<float>(attention_scratch(longest, network.head_width_));
        if (config_.int8) {
            int8_ = zeros<int8_t>(chunk * widest);
            scales_ = zeros<float>(chunk);
            offsets_ = zeros<int32_t>(chunk);
        }
        if (config_.maxsim && pooling_ == Pooling::kScore) similarities_ = zeros<float>(tokens);
    }

    // Sequences first..last-1 of the batch.
    void run(int first, int last, float* out) {
        first_ = first;
        count_ = last - first;
        embed();
        for (int l = 0; l < config_.layers; l++)
            encode(network_.layers_[static_cast<size_t>(l)], only_first_ && l + 1 == config_.layers);
        if (only_first_ && config_.layers == 0) keep_first_rows();
        pool(out);
    }

  private:
    int start(int i) const { return batch_.offsets[first_ + i] - batch_.offsets[first_]; }   // first row of sequence i
    int tokens() const { return start(count_); }
    float* state(int row) const { return states_.get() + static_cast<ptrdiff_t>(row) * width_; }

    // states = layer norm of (token + position + segment embedding)
    void embed() {
        const int32_t* ids = batch_.ids + batch_.offsets[first_];
        const uint8_t* segments = batch_.segments + batch_.offsets[first_];
        for (int i = 0; i < count_; i++) {
            for (int row = start(i), p = config_.first_position; row < start(i + 1); row++, p++) {
                float* x = state(row);
                const float* position = network_.positions_.get() + static_cast<ptrdiff_t>(p) * width_;
                const float* type =
                    network_.types_.get() + (config_.token_types > 1 ? segments[row] : 0) * static_cast<ptrdiff_t>(width_);
                load_row(network_.table_, ids[row], x);
                std::fill(x + config_.hidden, x + width_, 0.0f);
                for (int k = 0; k < config_.hidden; k++) x[k] += position[k] + type[k];
            }
        }
        kernels_.layer_norm(states_.get(), tokens(), config_.hidden, width_, network_.embedding_gain_.get(),
                            network_.embedding_shift_.get(), config_.eps, states_.get());
    }

    Int8Rows quantized() const { return {int8_.get(), scales_.get(), offsets_.get()}; }

    Operand operand(const float* rows, int count, int width) {
        if (config_.int8) kernels_.quantize(rows, count, width, quantized());
        return {rows, quantized(), count};
    }

    Operand gelu_operand(float* rows, int count, int width) {
        if (config_.int8) {
            kernels_.gelu_quantize(rows, count, width, config_.tanh_gelu ? kTanhGelu : kExactGelu, quantized());
        } else {
            float* end = rows + static_cast<ptrdiff_t>(count) * width;
            std::transform(rows, end, rows, config_.tanh_gelu ? tanh_gelu : exact_gelu);
        }
        return {rows, quantized(), count};
    }

    void multiply(const Linear& linear, const Operand& rows, const float* residual, float* out, int stride) {
        if (config_.int8) {
            kernels_.linear_int8(linear.int8(), rows.quantized, rows.count, residual, out, stride);
        } else {
            kernels_.linear_float(linear.float32(), rows.values, rows.count, residual, out, stride);
        }
    }

    template <class Step>
    void for_chunks(int rows, Step step) {
        for (int row = 0; row < rows; row += kChunkRows) step(row, std::min(kChunkRows, rows - row));
    }

    // One layer. With only_first, just the first token of each sequence is carried on: it still attends to all keys and
    // values, but its query, output and feed-forward rows are the only ones that anybody reads afterwards.
    void encode(const Layer& layer, bool only_first) {
        for_chunks(tokens(), [&](int row, int count) {
            const Operand x = operand(state(row), count, width_);
            multiply(layer.key_value, x, nullptr, key_value_.get() + static_cast<ptrdiff_t>(row) * 2 * heads_width_,
                     2 * heads_width_);
            if (!only_first) project_queries(layer, x, row);
        });
        if (only_first) {
            keep_first_rows();
            for_chunks(count_, [&](int row, int count) { project_queries(layer, operand(state(row), count, width_), row); });
        }
        for (int i = 0; i < count_; i++) attend(i, only_first ? i : start(i), only_first ? 1 : start(i + 1) - start(i));
        for_chunks(only_first ? count_ : tokens(), [&](int row, int count) { feed_forward(layer, row, count); });
    }

    void project_queries(const Layer& layer, const Operand& x, int row) {
        multiply(layer.query, x, nullptr, query_.get() + static_cast<ptrdiff_t>(row) * heads_width_, heads_width_);
    }

    // Moves the first row of each sequence to the front: states[i] = states[start(i)].
    void keep_first_rows() {
        for (int i = 1; i < count_; i++) std::memcpy(state(i), state(start(i)), static_cast<size_t>(width_) * sizeof(float));
    }

    // Attention of sequence i, whose queries lie from `row` on; the context takes their place.
    void attend(int i, int row, int queries) {
        const float* keys = key_value_.get() + static_cast<ptrdiff_t>(start(i)) * 2 * heads_width_;
        float* query = query_.get() + static_cast<ptrdiff_t>(row) * heads_width_;
        const float scale = 1.0f / std::sqrt(static_cast<float>(config_.hidden / config_.heads));
        const auto attention = config_.int8 ? kernels_.attention_int16 : kernels_.attention;
        for (int h = 0; h < config_.heads; h++) {
            const int column = h * network_.head_width_;
            attention({query + column, query + column, heads_width_, queries, keys + column, keys + heads_width_ + column,
                       2 * heads_width_, start(i + 1) - start(i), network_.head_width_, scale, scratch_.get()});
        }
    }

    // From the context to the layer's output, `count` rows from `row` on.
    void feed_forward(const Layer& layer, int row, int count) {
        float* x = state(row);
        multiply(layer.attention_output,
                 operand(query_.get() + static_cast<ptrdiff_t>(row) * heads_width_, count, heads_width_), x, sums_.get(),
                 width_);
        kernels_.layer_norm(sums_.get(), count, config_.hidden, width_, layer.attention_gain.get(), layer.attention_shift.get(),
                            config_.eps, x);
        multiply(layer.up, operand(x, count, width_), nullptr, middle_.get(), network_.middle_width_);
        multiply(layer.down, gelu_operand(middle_.get(), count, network_.middle_width_), x, sums_.get(), width_);
        kernels_.layer_norm(sums_.get(), count, config_.hidden, width_, layer.output_gain.get(), layer.output_shift.get(),
                            config_.eps, x);
    }

    void pool(float* out) {
        const size_t hidden = static_cast<size_t>(config_.hidden);
        switch (pooling_) {
            case Pooling::kNone:
                out += static_cast<size_t>(batch_.offsets[first_] - batch_.offsets[0]) * hidden;
                for (int row = 0; row < tokens(); row++)
                    std::copy_n(state(row), hidden, out + static_cast<size_t>(row) * hidden);
                break;
            case Pooling::kCls:
                out += static_cast<size_t>(first_) * hidden;
                for (int i = 0; i < count_; i++) std::copy_n(state(i), hidden, out + static_cast<size_t>(i) * hidden);
                break;
            case Pooling::kMean:
                for (int i = 0; i < count_; i++) mean(i, out + static_cast<size_t>(first_ + i) * hidden);
                break;
            case Pooling::kScore:
                if (config_.maxsim) {
                    for (int i = 0; i < count_; i++) similarities_[i] = maxsim(i);
                    keep_first_rows();
                }
                for_chunks(count_, [&](int row, int count) { score(row, count, out); });
                break;
        }
    }

    void mean(int i, float* out) const {
        std::fill_n(out, config_.hidden, 0.0f);
        for (int row = start(i); row < start(i + 1); row++) {
            for (int k = 0; k < config_.hidden; k++) out[k] += state(row)[k];
        }
        const float inverse = 1.0f / static_cast<float>(start(i + 1) - start(i));
        for (int k = 0; k < config_.hidden; k++) out[k] *= inverse;
    }

    // The MaxSim part of the score of sequence i (see MaxSim).
    float maxsim(int i) {
        const MaxSim& head = network_.maxsim_;
        const uint8_t* segments = batch_.segments + batch_.offsets[first_];
        float* query = key_value_.get();   // nobody reads keys and values after the last layer; they are wider than states
        const int asked = unit_rows(i, segments, 0, query);
        float* passage = query + static_cast<ptrdiff_t>(asked) * width_;
        const int read = unit_rows(i, segments, 1, passage);
        if (asked == 0 || read == 0) return 0.0f;
        float* best = scratch_.get();
        kernels_.largest_dots(query, asked, passage, read, width_, best);
        float sum = 0.0f, weights = 0.0f;
        for (int row = start(i); row < start(i + 1); row++) {
            if (segments[row] != 0) continue;
            float dot;
            kernels_.largest_dots(state(row), 1, head.weight.get(), 1, width_, &dot);
            const float weight = softplus(dot + head.bias);
            sum += weight * *best++;
            weights += weight;
        }
        return weights > 0.0f ? head.gain * sum / weights : 0.0f;
    }

    // The states of one segment of sequence i, each divided by its length, one after the other; returns how many there are.
    int unit_rows(int i, const uint8_t* segments, int segment, float* out) const {
        int count = 0;
        for (int row = start(i); row < start(i + 1); row++) {
            if (segments[row] == segment)
                kernels_.normalize(state(row), width_, out + static_cast<ptrdiff_t>(count++) * width_);
        }
        return count;
    }

    // out = classifier(tanh(dense(first token))) + MaxSim part, for sequences row..row+count-1 of the block.
    void score(int row, int count, float* out) {
        const Linear &dense = network_.head_dense_, &output = network_.head_output_;
        kernels_.linear_float(dense.float32(), state(row), count, nullptr, sums_.get(), width_);
        float* end = sums_.get() + static_cast<ptrdiff_t>(count) * width_;
        std::transform(sums_.get(), end, sums_.get(), [](float x) { return std::tanh(x); });
        const Buffer<float> labels = zeros<float>(static_cast<size_t>(count) * static_cast<size_t>(output.outputs()));
        kernels_.linear_float(output.float32(), sums_.get(), count, nullptr, labels.get(), output.outputs());
        for (int i = 0; i < count; i++) {
            const float* from = labels.get() + static_cast<ptrdiff_t>(i) * output.outputs();
            const float part = config_.maxsim ? similarities_[row + i] : 0.0f;
            std::transform(from, from + config_.labels, out + static_cast<ptrdiff_t>(first_ + row + i) * config_.labels,
                           [part](float x) { return x + part; });
        }
    }

    const Network& network_;
    const Config& config_;
    const Kernels& kernels_;
    const Batch& batch_;
    const Pooling pooling_;
    const bool only_first_;   // of the last layer nobody reads other rows than the first tokens'
    const int width_, heads_width_;
    int first_ = 0, count_ = 0;   // the block: sequences first_ .. first_ + count_ - 1

    Buffer<float> states_;         // [tokens][width]
    Buffer<float> query_;          // [tokens][heads_width]; becomes the context
    Buffer<float> key_value_;      // [tokens][2 heads_width]; after the last layer, the rows of one sequence for MaxSim
    Buffer<float> sums_;           // [chunk][width]: a linear layer's output plus residual, before its layer norm
    Buffer<float> middle_;         // [chunk][middle_width]
    Buffer<float> scratch_;        // of one head of attention; after the last layer, [longest] largest cosines
    Buffer<float> similarities_;   // [tokens]: the MaxSim part of each sequence
    Buffer<int8_t> int8_;          // the chunk's quantised rows
    Buffer<float> scales_;
    Buffer<int32_t> offsets_;
};

namespace {

// Whole sequences, about `tokens` tokens a block (more when one sequence is longer): the first sequence of each block, then the
// end.
std::vector<int> cut_blocks(const Batch& batch, int64_t tokens) {
    std::vector<int> blocks{0};
    for (int i = 1; i < batch.count; i++) {
        if (batch.offsets[i + 1] - batch.offsets[blocks.back()] > tokens) blocks.push_back(i);
    }
    blocks.push_back(batch.count);
    return blocks;
}

// The first exception of any thread; later work is skipped.
class FirstError {
  public:
    void keep(std::exception_ptr error) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::move(error);
        seen_ = true;
    }
    bool seen() const { return seen_; }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    std::mutex mutex_;
    std::exception_ptr error_;
    std::atomic<bool> seen_{false};
};

}   // namespace

void Network::run(const Batch& batch, Pooling pooling, int threads, float* out, const std::function<void()>& pulse) const {
    if (batch.count == 0) return;
    const int64_t total = batch.offsets[batch.count] - batch.offsets[0];
    // A few blocks a thread, so that a thread that the system slows down leaves work to the others.
    const std::vector<int> blocks =
        cut_blocks(batch, std::min<int64_t>(kBlockTokens, total / (threads > 1 ? 4 * int64_t{threads} : 1) + 1));
    const int count = static_cast<int>(blocks.size()) - 1;
    int most_tokens = 0, longest = 0;
    for (int b = 0; b < count; b++)
        most_tokens = std::max(
            most_tokens, batch.offsets[blocks[static_cast<size_t>(b) + 1]] - batch.offsets[blocks[static_cast<size_t>(b)]]);
    for (int i = 0; i < batch.count; i++) longest = std::max(longest, batch.offsets[i + 1] - batch.offsets[i]);

    std::atomic<int> next{0};
    FirstError error;
    const auto work = [&](bool calling) {
        try {
            Worker worker(*this, batch, pooling, most_tokens, longest);
            for (int b = next++; b < count && !error.seen(); b = next++) {
                worker.run(blocks[static_cast<size_t>(b)], blocks[static_cast<size_t>(b) + 1], out);
                if (calling) pulse();
            }
        } catch (...) {
            error.keep(std::current_exception());
        }
    };
    std::vector<std::thread> helpers;
    const int wanted = std::min(threads, count);
    helpers.reserve(static_cast<size_t>(std::max(wanted, 1)));
    try {
        for (int t = 1; t < wanted; t++) helpers.emplace_back(work, false);
    } catch (const std::system_error&) {
        // The system gives no more threads: those that started, and this one, do the work.
    }
    work(true);
    for (std::thread& helper : helpers) helper.join();
    error.rethrow();
}

}   // namespace shortlist
