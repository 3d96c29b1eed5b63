// The Python face of the native core. Each part registers its own functions.
#include <nanobind/nanobind.h>

void bind_network(nanobind::module_& m);  // bind_network.cpp: BERT-family networks
void bind_search(nanobind::module_& m);   // bind_search.cpp: vector scan, posting sums
void bind_text(nanobind::module_& m);     // bind_text.cpp: words of texts
void bind_unigram(nanobind::module_& m);  // bind_unigram.cpp: Unigram tokenizer

NB_MODULE(_native, m) {
    bind_network(m);
    bind_search(m);
    bind_text(m);
    bind_unigram(m);
}
