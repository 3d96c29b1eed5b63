// Which instruction sets this processor and operating system can run.
#pragma once
#include <string>
#include <vector>

namespace shortlist {

// Names, best first; the last one is always "portable".
std::vector<std::string> instruction_sets();

}  // namespace shortlist
