// What the CPU kernels share: torch's thread pool and short vectors.
//
// Vectors are the compiler's own (GCC, Clang), sixteen lanes of whatever the target has: one AVX-512
// register, two of AVX2, four of SSE2 or NEON. Arithmetic is lane by lane and never contracted
// or reassociated, so all instruction sets give the same bits.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "platform.h"

#define FW_EXPORT extern "C" __attribute__((visibility("default")))

namespace flowwarp {

// torch_parallel_for of libtorch_cpu; null runs serially.
typedef int (*ParallelFor)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
extern ParallelFor torch_pool;

// Call body(begin, end) over [0, count), `grain` items at least in each call.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
    if (count <= 0) return;
    if (torch_pool == nullptr || count <= grain) {
        body((int64_t)0, count);
        return;
    }
    torch_pool(
        0, count, grain,
        [](int64_t begin, int64_t end, void* context) {
            (*static_cast<const Body*>(context))(begin, end);
        },
        const_cast<Body*>(&body));
}

const int LANES = 16;

template <typename S>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(4 * LANES)));
    typedef int32_t bits __attribute__((vector_size(4 * LANES)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(8 * LANES)));
    typedef int64_t bits __attribute__((vector_size(8 * LANES)));
};
template <typename S>
using Vector = typename VectorOf<S>::type;
template <typename S>
using Bits = typename VectorOf<S>::bits;

template <typename V>
FW_HD V load_as(const void* from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <typename S>
FW_HD Vector<S> broadcast(S value) {
    return value - Vector<S>{};  // not `+`: -0.0 must stay
}

// Sixteen values from memory, widened. Overloads on the storage type.
FW_HD Vector<float> load(const float* from) { return load_as<Vector<float>>(from); }
FW_HD Vector<double> load(const double* from) { return load_as<Vector<double>>(from); }
template <typename T>
FW_HD Vector<float> load_half(const T* from) {
    Vector<float> value;
    for (int k = 0; k < LANES; ++k) value[k] = widen(from[k]);
    return value;
}
FW_HD Vector<float> load(const bfloat_t* from) {
    typedef uint16_t U16 __attribute__((vector_size(2 * LANES)));
    typedef uint32_t U32 __attribute__((vector_size(4 * LANES)));
    U32 bits = __builtin_convertvector(load_as<U16>(from), U32) << 16;
    return load_as<Vector<float>>(&bits);
}
FW_HD Vector<float> load(const half_t* from) { return load_half(from); }

template <typename T, typename V>
FW_HD void store(T* to, V value) {
    typedef typename Accumulate<T>::type S;
    if (sizeof(T) == sizeof(S)) {
        memcpy(to, &value, sizeof value);
    } else {
        for (int k = 0; k < LANES; ++k) to[k] = narrow<T>(value[k]);
    }
}

// The first `count` lanes only; the others are 0 and nothing beyond is touched.
template <typename T>
FW_HD Vector<typename Accumulate<T>::type> load_part(const T* from, int count) {
    if (count >= LANES) return load(from);
    typename Accumulate<T>::type part[LANES] = {};
    for (int k = 0; k < count; ++k) part[k] = widen(from[k]);
    return load(part);
}
template <typename T, typename V>
FW_HD void store_part(T* to, V value, int count) {
    if (count >= LANES) {
        store(to, value);
        return;
    }
    for (int k = 0; k < count; ++k) to[k] = narrow<T>(value[k]);
}

}  // namespace flowwarp
