// What a kernel takes from CUDA, for a plain C++ compiler: a kernel body then runs on the host,
// block by block, thread by thread. The tests do so where there is no GPU. Threads run one after
// the other, so a body that waits for its neighbours (__syncthreads) cannot be run this way.
#pragma once

#if !defined(__CUDACC__)

#include <math.h>

#define __device__
#define __forceinline__ inline

namespace flowwarp {

struct Dim3 {
    unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef unsigned long long Word;  // what atomics work on

inline Word atomicAdd(Word* to, Word value) {
    const Word old = *to;
    *to += value;
    return old;
}
inline Word atomicMax(Word* to, Word value) {
    const Word old = *to;
    if (value > old) *to = value;
    return old;
}
inline long long __double2ll_rn(double value) { return llrint(value); }

template <typename Call>
void launch(void (*body)(const Call&), Dim3 grid, Dim3 block, const Call& call) {
    gridDim = grid;
    blockDim = block;
    Dim3& b = blockIdx;
    Dim3& t = threadIdx;
    for (b.z = 0; b.z < grid.z; ++b.z)
        for (b.y = 0; b.y < grid.y; ++b.y)
            for (b.x = 0; b.x < grid.x; ++b.x)
                for (t.z = 0; t.z < block.z; ++t.z)
                    for (t.y = 0; t.y < block.y; ++t.y)
                        for (t.x = 0; t.x < block.x; ++t.x) body(call);
}

}  // namespace flowwarp

#endif
