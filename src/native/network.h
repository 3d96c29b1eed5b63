// A frozen BERT or XLM-RoBERTa network: from ragged token ids to vectors or scores.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"
#include "weights.h"

namespace shortlist {

struct Config {
    int hidden, layers, heads, intermediate, vocabulary;
    int positions;        // rows of the position table
    int first_position;   // row of a sequence's first token: 0 in BERT, pad_id + 1 in RoBERTa
    int token_types;      // with one type, segments are ignored
    int labels;           // outputs of the score head; 0 without one
    float eps;            // of the layer norms
    bool tanh_gelu;       // the tanh approximation of GELU instead of the exact one
    bool int8;            // int8 linear layers; float32 otherwise
    bool maxsim;          // the score head has a MaxSim part
};

// A ragged batch; sequence i is ids[offsets[i]] .. ids[offsets[i + 1] - 1]. Checked by the caller: ids < vocabulary,
// segments < token_types, no empty sequence, none longer than positions - first_position.
struct Batch {
    const int32_t* ids;
    const uint8_t* segments;
    const int32_t* offsets;
    int count;
};

enum class Pooling {
    kCls,     // out float[count][hidden]: the state of the first token
    kMean,    // out float[count][hidden]: the mean of all states
    kNone,    // out float[total][hidden]: all states
    kScore,   // out float[count][labels]: dense, tanh and classifier over the first token, plus the MaxSim part
};

struct Layer {
    Linear query;              // hidden -> heads, each padded to kLanes
    Linear key_value;          // hidden -> keys of all heads, then values of all heads
    Linear attention_output;   // heads -> hidden
    Buffer<float> attention_gain, attention_shift;
    Linear up, down;   // hidden -> intermediate -> hidden
    Buffer<float> output_gain, output_shift;
};

// Late interaction (ColBERT; Khattab and Zaharia, SIGIR 2020) over states that were encoded together. With the states h of a
// sequence's last layer, Q its rows of segment 0, P its rows of segment 1 and w_i = softplus(weight . h_i + bias) it adds
//     gain * sum over i in Q of w_i * max over j in P of cos(h_i, h_j) / sum over i in Q of w_i
// to the score; 0 where Q or P is empty.
struct MaxSim {
    Buffer<float> weight;   // [width]
    float bias, gain;
};

class Network {
  public:
    // Keeps pointing at the table "embeddings.word_embeddings.weight", which must outlive the network; everything else
    // is packed and copied. Throws std::invalid_argument for missing, misshapen or non-finite tensors.
    Network(const Config& config, const Tensors& tensors, const Kernels& kernels);

    // Uses up to `threads` threads, whole sequences each; they end with the call. Memory grows with the longest sequence
    // and with the threads, not with the batch. Throws std::invalid_argument when a row of the table is not finite.
    // The calling thread calls `pulse` after each of its blocks; what that throws ends the run and is passed on.
    void run(const Batch& batch, Pooling pooling, int threads, float* out, const std::function<void()>& pulse) const;

    const Config& config() const { return config_; }
    const Kernels& kernels() const { return *kernels_; }

  private:
    friend class Worker;

    Config config_;
    const Kernels* kernels_;
    int width_;          // hidden, padded
    int head_width_;     // columns of one head, padded
    int heads_width_;    // columns of all heads, padded
    int middle_width_;   // intermediate, padded
    Tensor table_;       // float[vocabulary][hidden], not owned
    Buffer<float> positions_, types_, embedding_gain_, embedding_shift_;
    std::vector<Layer> layers_;
    Linear head_dense_, head_output_;
    MaxSim maxsim_;
};

}   // namespace shortlist
