static_assert(sizeof(int) == 4, "the kernels expect 32-bit int");
