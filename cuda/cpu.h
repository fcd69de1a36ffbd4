// What the CPU kernels share: torch's thread pool and short vectors.
//
// Vectors are the compiler's own (GCC, Clang), as many floats as a register holds: GCC takes wider
// ones apart through memory and lane by lane. Arithmetic is lane by lane and never contracted or
// reassociated, so all instruction sets give the same bits.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <type_traits>
#include <utility>

#if defined(__SSE2__)
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

#if defined(__AVX512F__)
const int LANES = 16;
#elif defined(__AVX2__)
const int LANES = 8;
#else
const int LANES = 4;
#endif
// Long sums are kept in so many parts, and those added up, whatever LANES is: the order of a sum
// decides its last bits.
const int PARTIAL_SUMS = 16;

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

// Lanes FIRST, FIRST + STEP ... of the lanes of a and b in a row.
template <int FIRST, int STEP, typename V, int... K>
FW_HD V pick(V a, V b, std::integer_sequence<int, K...>) {
    return __builtin_shufflevector(a, b, (FIRST + STEP * K)...);
}
template <int FIRST, int STEP, typename V>
FW_HD V pick(V a, V b) {
    return pick<FIRST, STEP>(a, b, std::make_integer_sequence<int, LANES>());
}
// Lanes of a and b by turns, from lane FIRST of both on.
template <int FIRST, typename V, int... K>
FW_HD V by_turns(V a, V b, std::integer_sequence<int, K...>) {
    return __builtin_shufflevector(a, b, (FIRST + K / 2 + K % 2 * LANES)...);
}
template <int FIRST, typename V>
FW_HD V by_turns(V a, V b) {
    return by_turns<FIRST>(a, b, std::make_integer_sequence<int, LANES>());
}

template <int... K>
constexpr Bits<float> lane_numbers(std::integer_sequence<int, K...>) {
    return Bits<float>{K...};
}
constexpr Bits<float> LANE_NUMBERS = lane_numbers(std::make_integer_sequence<int, LANES>());

// The truth values of the lanes as bits, lane 0 lowest.
FW_HD unsigned lane_bits(Bits<float> mask) {
#if defined(__AVX512F__)
    return (unsigned)_mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    return (unsigned)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
    return (unsigned)_mm_movemask_ps((__m128)mask);
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

// LANES values from memory, widened. Overloads on the storage type.
FW_HD Vector<float> load(const float* from) { return load_as<Vector<float>>(from); }
FW_HD Vector<double> load(const double* from) { return load_as<Vector<double>>(from); }

typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));  // either half-precision type
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
FW_HD Vector<float> load(const bfloat_t* from) {
    return (Vector<float>)(__builtin_convertvector(load_as<Halves>(from), Words) << 16);
}
FW_HD Vector<float> widen_halves(Words halves) {  // widen(half_t) of each
    const Words magnitude = halves & 0x7fffu;
    const Vector<float> normal = (Vector<float>)(magnitude << 13) * as_float(0x77800000u);
    const Vector<float> subnormal = (Vector<float>)(magnitude + 0x3f000000u) - 0.5f;
    const Words result = (Words)(magnitude < 0x400u ? subnormal : normal);
    const Words special = (Words)(magnitude >= 0x7c00u) & 0x7f800000u;
    return (Vector<float>)(result | special | (halves & 0x8000u) << 16);
}
FW_HD Vector<float> load(const half_t* from) {
    return widen_halves(__builtin_convertvector(load_as<Halves>(from), Words));
}

FW_HD Words narrow_words(Vector<float> value, bfloat_t) {  // narrow<bfloat_t> of each
    const Words bits = (Words)value, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words nan = (bits >> 16 & 0x8000u) | 0x7fc0u;
    return (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}
FW_HD Words narrow_words(Vector<float> value, half_t) {  // narrow<half_t> of each
    const Words bits = (Words)value, magnitude = bits & 0x7fffffffu;
    const Words normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const Words subnormal = (Words)((Vector<float>)magnitude + 0.5f) - 0x3f000000u;
    Words result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x47800000u ? Words{} + 0x7c00u : result;
    result = magnitude > 0x7f800000u ? Words{} + 0x7e00u : result;
    return result | (bits >> 16 & 0x8000u);
}

template <typename T, typename V>
FW_HD void store(T* to, V value) {
    if constexpr (sizeof(T) == sizeof(typename Accumulate<T>::type)) {
        memcpy(to, &value, sizeof value);
    } else {
        const Halves halves = __builtin_convertvector(narrow_words(value, T()), Halves);
        memcpy(to, &halves, sizeof halves);
    }
}

// The first `count` lanes only; the others are 0 and nothing beyond is touched.
template <typename T>
FW_HD Vector<typename Accumulate<T>::type> load_part(const T* from, int count) {
    if (count >= LANES) return load(from);
#if defined(__AVX2__)
    if constexpr (std::is_same<T, float>::value) {
#if defined(__AVX512F__)
        return (Vector<float>)_mm512_maskz_loadu_ps((__mmask16)(0xffff >> (LANES - count)), from);
#else
        return (Vector<float>)_mm256_maskload_ps(from, (__m256i)(LANE_NUMBERS < count));
#endif
    }
#endif
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
    Vector<S> now[L], next[L];
    for (int n = 0; n < L; ++n) now[n] = channels[n];
    for (int stage = 1; stage < L; stage *= 2) {
        for (int n = 0; n < L / 2; ++n) {
            next[2 * n] = by_turns<0>(now[n], now[n + L / 2]);
            next[2 * n + 1] = by_turns<LANES / 2>(now[n], now[n + L / 2]);
        }
        for (int n = 0; n < L; ++n) now[n] = next[n];
    }
    for (int n = 0; n < L; ++n) store(pixels + n * LANES, now[n]);
}

template <int L, typename S>
FW_HD void separate(const S* pixels, Vector<S>* channels) {
    Vector<S> next[L];
    for (int n = 0; n < L; ++n) channels[n] = load(pixels + n * LANES);
    for (int stage = 1; stage < L; stage *= 2) {
        for (int n = 0; n < L / 2; ++n) {
            next[n] = pick<0, 2>(channels[2 * n], channels[2 * n + 1]);
            next[n + L / 2] = pick<1, 2>(channels[2 * n], channels[2 * n + 1]);
        }
        for (int n = 0; n < L; ++n) channels[n] = next[n];
    }
}

}  // namespace flowwarp
