// The Python face of the native core. Each part registers its own functions.
#include <nanobind/nanobind.h>

void bind_network(nanobind::module_& m);  // bind_network.cpp: BERT-family networks
void bind_search(nanobind::module_& m);   // bind_search.cpp: vector scan, posting sums

NB_MODULE(_native, m) {
    bind_network(m);
    bind_search(m);
}
