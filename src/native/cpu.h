// Which kernels this processor and operating system can run.
#pragma once
#include <vector>

#include "kernels.h"

namespace shortlist {

// Best first; the last ones are always the portable ones.
std::vector<const Kernels*> available_kernels();

}  // namespace shortlist
