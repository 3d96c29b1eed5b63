#include <nanobind/nanobind.h>

void bind_network(nanobind::module_&) {}
