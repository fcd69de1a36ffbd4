// What the CPU kernels share: torch's thread pool and short vectors.
//
// Vectors are the compiler's own (GCC, Clang), sixteen lanes of whatever the target has: one AVX-512
// register, two of AVX2, four of SSE2 or NEON. Arithmetic is lane by lane and never contracted
// or reassociated, so all instruction sets give the same bits.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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

template <>
struct Lanes<Vector<float>> {
    typedef Bits<float> integer;
    typedef Bits<float> mask;
};
template <>
struct Lanes<Vector<double>> {
    typedef Bits<double> integer;
    typedef Bits<double> mask;
};
FW_HD Vector<float> select(Bits<float> mask, Vector<float> yes, Vector<float> no) {
    return mask ? yes : no;
}
FW_HD Vector<double> select(Bits<double> mask, Vector<double> yes, Vector<double> no) {
    return mask ? yes : no;
}
FW_HD Bits<float> select(Bits<float> mask, Bits<float> yes, Bits<float> no) {
    return mask ? yes : no;
}
FW_HD Bits<double> select(Bits<double> mask, Bits<double> yes, Bits<double> no) {
    return mask ? yes : no;
}
FW_HD Bits<float> to_integer(Vector<float> value) { return __builtin_convertvector(value, Bits<float>); }
FW_HD Bits<double> to_integer(Vector<double> value) {
    return __builtin_convertvector(value, Bits<double>);
}
FW_HD Vector<float> to_real(Bits<float> value, Vector<float>) {
    return __builtin_convertvector(value, Vector<float>);
}
FW_HD Vector<double> to_real(Bits<double> value, Vector<double>) {
    return __builtin_convertvector(value, Vector<double>);
}
FW_HD Bits<float> as_count(Bits<float> mask) { return -mask; }  // true is -1 in a lane
FW_HD Bits<double> as_count(Bits<double> mask) { return -mask; }
const Bits<float> LANE_NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The truth values of the lanes as bits, lane 0 lowest.
FW_HD unsigned lane_bits(Bits<float> mask) {
#if defined(__AVX512F__)
    return (unsigned)_mm512_movepi32_mask((__m512i)mask);
#else
    unsigned bits = 0;
    for (int k = 0; k < LANES; ++k) bits |= (unsigned)(mask[k] != 0) << k;
    return bits;
#endif
}
FW_HD unsigned lane_bits(Bits<double> mask) {
    return lane_bits(__builtin_convertvector(mask, Bits<float>));
}

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

// Channel by channel (L vectors of LANES pixels) to pixel by pixel (LANES runs of L channels), and
// back. Each stage halves: it interleaves the first half of all values with the second.
template <int L, typename S>
FW_HD void interleave(const Vector<S>* channels, S* pixels) {
#if defined(__AVX512F__)
    Vector<S> now[L], next[L];
    for (int n = 0; n < L; ++n) now[n] = channels[n];
    for (int stage = 1; stage < L; stage *= 2) {
        for (int n = 0; n < L / 2; ++n) {
            const Vector<S> a = now[n], b = now[n + L / 2];
            next[2 * n] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                                  22, 7, 23);
            next[2 * n + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                                      29, 14, 30, 15, 31);
        }
        for (int n = 0; n < L; ++n) now[n] = next[n];
    }
    for (int n = 0; n < L; ++n) store(pixels + n * LANES, now[n]);
#else
    for (int n = 0; n < L; ++n)
        for (int k = 0; k < LANES; ++k) pixels[k * L + n] = channels[n][k];
#endif
}

template <int L, typename S>
FW_HD void separate(const S* pixels, Vector<S>* channels) {
#if defined(__AVX512F__)
    Vector<S> next[L];
    for (int n = 0; n < L; ++n) channels[n] = load(pixels + n * LANES);
    for (int stage = 1; stage < L; stage *= 2) {
        for (int n = 0; n < L / 2; ++n) {
            const Vector<S> a = channels[2 * n], b = channels[2 * n + 1];
            next[n] = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,
                                              26, 28, 30);
            next[n + L / 2] = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23,
                                                      25, 27, 29, 31);
        }
        for (int n = 0; n < L; ++n) channels[n] = next[n];
    }
#else
    for (int n = 0; n < L; ++n)
        for (int k = 0; k < LANES; ++k) channels[n][k] = pixels[k * L + n];
#endif
}

}  // namespace flowwarp
