// How kernels walk their work: loops that any grid serves, wide enough for any tensor.
#pragma once

#include "host_shim.h"

namespace flowwarp {

struct Loop {
    long long first, step;
};

__device__ inline Loop loop_x() {
    return {(long long)blockIdx.x * blockDim.x + threadIdx.x, (long long)gridDim.x * blockDim.x};
}

__device__ inline Loop loop_y() {
    return {(long long)blockIdx.y * blockDim.y + threadIdx.y, (long long)gridDim.y * blockDim.y};
}

// Neighbouring threads take neighbouring memory: pixels of a plane, or channels of a pixel.
struct Walk {
    Loop pixels, channels;
};

__device__ inline Walk walk_of(bool channels_last) {
    if (channels_last) return {loop_y(), loop_x()};
    return {loop_x(), loop_y()};
}

}  // namespace flowwarp
