// What host and device share: decorations, storage types, and conversions. No torch, no STL, so
// that the same text compiles as C++17 for the CPU library and by NVRTC for the GPU.
#pragma once

#if !defined(__CUDACC_RTC__)  // NVRTC knows memcpy and floor without them, and has no headers
#include <math.h>
#include <string.h>
#endif

#if defined(__CUDACC__)
#define FW_HD __host__ __device__ __forceinline__
#else
#define FW_HD inline __attribute__((always_inline))
#endif

namespace flowwarp {

// The codes `flowwarp.ops.native` sends; keep both lists in step.
enum DType { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

// Storage of half precision: bits only, arithmetic is always done in fp32.
struct half_t {
    unsigned short bits;
};
struct bfloat_t {
    unsigned short bits;
};

// The type that sums are kept in.
template <typename T>
struct Accumulate {
    typedef float type;
};
template <>
struct Accumulate<double> {
    typedef double type;
};

FW_HD unsigned as_bits(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

FW_HD float as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

FW_HD float widen(float value) { return value; }
FW_HD double widen(double value) { return value; }
FW_HD float widen(bfloat_t value) { return as_float((unsigned)value.bits << 16); }
FW_HD float widen(half_t value) {
    // Put the 15 magnitude bits where fp32 keeps its own, then move the exponent's bias from 15
    // to 127 by a multiplication; inf and NaN need theirs. Subnormals are counts of 2^-24, the last
    // place of 0.5: their bits in fp32 would be subnormal too, which a thread may be set to flush.
    unsigned magnitude = value.bits & 0x7fffu;
    float normal = as_float(magnitude << 13) * as_float(0x77800000u);  // 2^112
    float subnormal = as_float(0x3f000000u + magnitude) - 0.5f;
    float result = magnitude < 0x400u ? subnormal : normal;
    unsigned special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
    return as_float(as_bits(result) | special | ((value.bits & 0x8000u) << 16));
}

// Round to nearest, ties to even, as torch does.
template <typename T>
FW_HD T narrow(typename Accumulate<T>::type value);
template <>
FW_HD float narrow<float>(float value) {
    return value;
}
template <>
FW_HD double narrow<double>(double value) {
    return value;
}
template <>
FW_HD bfloat_t narrow<bfloat_t>(float value) {
    unsigned bits = as_bits(value);
    unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    unsigned nan = 0x7fc0u | (bits >> 16 & 0x8000u);
    bfloat_t result;
    result.bits = (unsigned short)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    return result;
}
template <>
FW_HD half_t narrow<half_t>(float value) {
    unsigned bits = as_bits(value);
    unsigned magnitude = bits & 0x7fffffffu;
    // Normal halves: drop 13 bits with rounding, and move the bias by 112 exponents.
    unsigned normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    // Subnormal halves (below 2^-14): adding 0.5 leaves the rounded count of 2^-24 in the low bits.
    unsigned subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    unsigned result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x47800000u ? 0x7c00u : result;   // 65536 and beyond, and inf
    result = magnitude > 0x7f800000u ? 0x7e00u : result;    // NaN
    half_t half;
    half.bits = (unsigned short)(result | (bits >> 16 & 0x8000u));
    return half;
}

// The maths in the headers is written once, for one pixel (GPU) and for a vector of them (CPU, see
// cpu.h): R is a real number or a vector of them, and its Lanes say what integers and truth values
// go with it.
template <typename R>
struct Lanes {
    typedef int integer;
    typedef bool mask;
};
template <typename R>
using IntegerOf = typename Lanes<R>::integer;
template <typename R>
using MaskOf = typename Lanes<R>::mask;

FW_HD float select(bool mask, float yes, float no) { return mask ? yes : no; }
FW_HD double select(bool mask, double yes, double no) { return mask ? yes : no; }
FW_HD int select(bool mask, int yes, int no) { return mask ? yes : no; }
FW_HD int to_integer(float value) { return (int)value; }
FW_HD int to_integer(double value) { return (int)value; }
FW_HD float to_real(int value, float) { return (float)value; }
FW_HD double to_real(int value, double) { return (double)value; }
FW_HD int as_count(bool mask) { return mask ? 1 : 0; }

template <typename R>
FW_HD MaskOf<R> is_finite(R value) {
    return value - value == 0;  // inf - inf and NaN - NaN are NaN
}

}  // namespace flowwarp
