// PASS_EDGE_KERNELS=0 in the environment leaves everything to llama.cpp's own kernels.

#pragma once

#include <cstdlib>

namespace {

inline bool enabled() {
    static const bool on = [] {
        const char * said = std::getenv("PASS_EDGE_KERNELS");
        return said == nullptr || std::atoi(said) != 0;
    }();
    return on;
}

}  // namespace
