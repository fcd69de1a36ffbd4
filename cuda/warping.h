// Where a pixel of the output reads the image: taps, weights and slopes along one axis.
//
// A tap is a pixel that is read, with the weight it has in the result. Warping is separable: the
// taps in 2D are all pairs of a tap along x and one along y, and their weights are multiplied.
//
// A position x + u is kept as an integer and a fraction, i = x + floor(u) and t = u - floor(u).
// Both are exact, while x + u in fp32 loses up to 3e-5 px at x = 1000. With u = 0 the fraction is
// exactly 0, the weights are exactly 0 and 1, and the image comes back bit for bit.
#pragma once

#include "platform.h"

namespace flowwarp {

// What lies outside the image. The one list of these modes in C++: flowwarp/ops/padding.py has the
// same names in the same order, and a test compares both. Each mode is defined by its PaddingRules.
enum Padding { BORDER, ZEROS, REFLECTION, WRAP, PADDING_COUNT };
// The number of taps along an axis names the mode.
enum Mode { NEAREST = 1, BILINEAR = 2, BICUBIC = 4 };

// R: float, double or a SIMD vector of them; R{} + c broadcasts c.
template <typename R, int N>
struct AxisTaps {
    IntegerOf<R> index[N];  // always inside the image
    R weight[N];            // exactly 0 where the tap is outside under ZEROS
    R slope[N];             // d weight / d u
};

// A displaced coordinate, split into whole pixels and a fraction in [0, 1).
template <typename R>
struct Position {
    IntegerOf<R> whole;
    R fraction;
};

template <typename R>
FW_HD Position<R> position(IntegerOf<R> x, R u) {
    // Beyond 2^30 px the value is clamped, so that the integer cannot overflow; NaN becomes -2^30.
    const R limit = R{} + 1073741824.0f;
    u = select(u > -limit, select(u < limit, u, limit), -limit);
    // Truncates towards zero; for negative u that can exceed u, then floor is 1 less.
    const IntegerOf<R> truncated = to_integer(u);
    const MaskOf<R> above = to_real(truncated, u) > u;
    const IntegerOf<R> whole = truncated - as_count(above);
    Position<R> p;
    p.whole = x + whole;
    p.fraction = u - to_real(whole, u);
    return p;
}

// The two bilinear taps along an axis.
template <typename R>
struct TapPair {
    IntegerOf<R> left, right;  // inside the image
    R left_weight, right_weight;
    R left_slope, right_slope;
};

// A pair of neighbours, left and left + 1.
template <typename R>
FW_HD TapPair<R> neighbours(IntegerOf<R> left, R left_weight, R right_weight, R left_slope,
                            R right_slope) {
    return {left, left + 1, left_weight, right_weight, left_slope, right_slope};
}

// What a padding mode has to define. There is no general version: a mode without rules does not
// compile.
//
//   DROPS_OUTSIDE    a tap outside the image has weight 0, instead of reading another pixel
//   HAS_OUTSIDE      there are positions outside, for which the mask is false
//   ALWAYS_PAIRS     right == left + 1 in every TapPair, so that both are read as one piece of memory
//   KEEPS_ORDER      index() is monotone: neighbouring positions read neighbouring pixels, so that a
//                    range of rows is read from a range of rows
//   index(i, size)   the pixel that a tap at the whole position i reads, in [0, size)
//   pair(p, size)    the bilinear taps at p, for size > 1; bilinear_taps() handles size 1
//
// Slopes are 0 where the position is clamped and where reflection turns, as in torch's grid_sample.
template <int PAD>
struct PaddingRules;

// Repeats the outer pixel.
template <>
struct PaddingRules<BORDER> {
    static constexpr bool DROPS_OUTSIDE = false, HAS_OUTSIDE = true, ALWAYS_PAIRS = true,
                          KEEPS_ORDER = true;

    template <typename I>
    static FW_HD I index(I i, int size) {
        const I zero = I{}, last = zero + (size - 1);
        return select(i < zero, zero, select(i > last, last, i));
    }
    template <typename R>
    static FW_HD TapPair<R> pair(Position<R> p, int size) {
        typedef IntegerOf<R> I;
        typedef MaskOf<R> M;
        const I i = p.whole, zero_index = I{}, last = zero_index + (size - 1);
        const R t = p.fraction, zero = R{}, one = zero + 1.0f;
        // Beyond an edge the pair stays inside, and the outer pixel takes all of the weight.
        const M below = (i < zero_index) | ((i == zero_index) & (t == zero)), above = i >= last;
        const R slope = select(below | above, zero, one);
        return neighbours<R>(select(below, zero_index, select(above, last - 1, i)),
                             select(below, one, select(above, zero, one - t)),
                             select(below, zero, select(above, one, t)), -slope, slope);
    }
};

// Black outside.
template <>
struct PaddingRules<ZEROS> {
    static constexpr bool DROPS_OUTSIDE = true, HAS_OUTSIDE = true, ALWAYS_PAIRS = true,
                          KEEPS_ORDER = true;

    template <typename I>
    static FW_HD I index(I i, int size) {
        return PaddingRules<BORDER>::index(i, size);  // read nowhere: the weight is 0
    }
    template <typename R>
    static FW_HD TapPair<R> pair(Position<R> p, int size) {
        typedef IntegerOf<R> I;
        typedef MaskOf<R> M;
        const I i = p.whole, zero_index = I{}, last = zero_index + (size - 1);
        const R t = p.fraction, zero = R{}, one = zero + 1.0f;
        // Between -1 and 0 only pixel 0 counts, with weight t: it is then the left one of the pair
        // (0, 1). Between last and last + 1 it is the right one of (last - 1, last).
        const M inside = (i >= zero_index) & (i < last), before_first = i == zero_index - 1,
                at_last = i == last;
        return neighbours<R>(select(inside, i, select(at_last, last - 1, zero_index)),
                             select(inside, one - t, select(before_first, t, zero)),
                             select(inside, t, select(at_last, one - t, zero)),
                             select(inside, -one, select(before_first, one, zero)),
                             select(inside, one, select(at_last, -one, zero)));
    }
};

// Mirrors about the centre of the outer pixel: d c b | a b c d | c b a.
template <>
struct PaddingRules<REFLECTION> {
    static constexpr bool DROPS_OUTSIDE = false, HAS_OUTSIDE = true, ALWAYS_PAIRS = true,
                          KEEPS_ORDER = false;

    // i within one period, in [0, 2 (size - 1)): rising until size - 1, then falling.
    template <typename I>
    static FW_HD I phase_of(I i, int size) {
        const int period = size > 1 ? 2 * (size - 1) : 1;
        const I phase = i % period;
        return select(phase < 0, phase + period, phase);
    }
    template <typename I>
    static FW_HD I index(I i, int size) {
        const I last = I{} + (size - 1), phase = phase_of(i, size);
        return PaddingRules<BORDER>::index(select(phase < last, phase, 2 * last - phase), size);
    }
    template <typename R>
    static FW_HD TapPair<R> pair(Position<R> p, int size) {
        typedef IntegerOf<R> I;
        typedef MaskOf<R> M;
        const R t = p.fraction, zero = R{}, one = zero + 1.0f;
        const I zero_index = I{}, last = zero_index + (size - 1), phase = phase_of(p.whole, size);
        const M falling = phase >= last;
        const M turning = (t == zero) & ((phase == zero_index) | (phase == last));
        const R slope = select(turning, zero, select(falling, one, -one));
        return neighbours<R>(select(falling, 2 * last - phase - 1, phase),
                             select(falling, t, one - t), select(falling, one - t, t), slope,
                             -slope);
    }
};

// Repeats the whole image: b c d | a b c d | a b c. The pair across the edge is (size - 1, 0).
template <>
struct PaddingRules<WRAP> {
    static constexpr bool DROPS_OUTSIDE = false, HAS_OUTSIDE = false, ALWAYS_PAIRS = false,
                          KEEPS_ORDER = false;

    template <typename I>
    static FW_HD I index(I i, int size) {
        const I rest = i % size;  // has the sign of i
        return select(rest < 0, rest + size, rest);
    }
    template <typename R>
    static FW_HD TapPair<R> pair(Position<R> p, int size) {
        typedef IntegerOf<R> I;
        const I left = index(p.whole, size), right = select(left == size - 1, I{}, left + 1);
        const R t = p.fraction, one = R{} + 1.0f;
        return {left, right, one - t, t, -one, one};
    }
};

// A padding as a type, for with_padding.
template <int PAD>
struct PaddingTag {
    static constexpr int value = PAD;
};

// Call body(PaddingTag<PAD>()) for a padding that is known at run time only. Every mode of the enum
// is tried; where there is no such mode, the result is false and nothing is called.
template <int PAD = 0, typename Body>
FW_HD bool with_padding(int padding, const Body& body) {
    if constexpr (PAD < PADDING_COUNT) {
        if (padding != PAD) return with_padding<PAD + 1>(padding, body);
        body(PaddingTag<PAD>());
        return true;
    } else {
        return false;
    }
}

template <int PAD, typename R>
FW_HD MaskOf<R> is_inside(Position<R> p, int size) {
    if constexpr (PaddingRules<PAD>::HAS_OUTSIDE)
        return (p.whole >= 0) & ((p.whole < size - 1) | ((p.whole == size - 1) & (p.fraction == 0)));
    else
        return p.fraction >= 0;  // always
}

// Bilinear: two taps. Most modes keep them neighbours wherever the position lies and move the
// weights at the edges instead, so that callers may always read a pair.
template <int PAD, typename R>
FW_HD AxisTaps<R, 2> bilinear_taps(Position<R> p, int size) {
    typedef PaddingRules<PAD> Rules;
    const R zero = R{}, one = zero + 1.0f;
    TapPair<R> pair = Rules::pair(p, size);
    if (size == 1) {  // one pixel: it takes the weight of both taps
        pair.left = pair.right = IntegerOf<R>{};
        pair.left_weight = Rules::DROPS_OUTSIDE ? pair.left_weight + pair.right_weight : one;
        pair.left_slope = Rules::DROPS_OUTSIDE ? pair.left_slope + pair.right_slope : zero;
        pair.right_weight = pair.right_slope = zero;
    }
    AxisTaps<R, 2> taps;
    taps.index[0] = pair.left;
    taps.index[1] = pair.right;
    taps.weight[0] = pair.left_weight;
    taps.weight[1] = pair.right_weight;
    taps.slope[0] = pair.left_slope;
    taps.slope[1] = pair.right_slope;
    return taps;
}

// Nearest: halves go up, so that a shift of the image shifts the result.
template <int PAD, typename R>
FW_HD AxisTaps<R, 1> nearest_taps(Position<R> p, int size) {
    const IntegerOf<R> i = p.whole + as_count(p.fraction >= R{} + 0.5f);
    const MaskOf<R> outside = (i < 0) | (i >= size);
    const R one = R{} + 1.0f;
    AxisTaps<R, 1> taps;
    taps.index[0] = PaddingRules<PAD>::index(i, size);
    taps.weight[0] = PaddingRules<PAD>::DROPS_OUTSIDE ? select(outside, R{}, one) : one;
    taps.slope[0] = R{};
    return taps;
}

// Bicubic: cubic convolution with a = -0.75 (Keys, "Cubic Convolution Interpolation for Digital
// Image Processing", 1981, equation 15), as in torch and OpenCV. Padding applies to each tap, not to
// the position.
template <int PAD, typename R>
FW_HD AxisTaps<R, 4> bicubic_taps(Position<R> p, int size) {
    typedef PaddingRules<PAD> Rules;
    const float a = -0.75f;
    AxisTaps<R, 4> taps;
    for (int k = 0; k < 4; ++k) {
        const IntegerOf<R> i = p.whole + (k - 1);
        const bool near = (k == 1) | (k == 2);
        const float sign = k < 2 ? 1.0f : -1.0f;  // d distance / d u
        // Near taps lie at distance d in [0, 1], far ones at d' = 1 + d. For these Keys' polynomial
        // is a (d' - 1) (2 - d')^2 = a d (1 - d)^2; factored, nothing cancels.
        const R d = k < 2 ? p.fraction : 1.0f - p.fraction;
        const R rest = 1.0f - d;
        const R weight = near ? ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f : a * d * rest * rest;
        const R slope = near ? (3.0f * (a + 2.0f) * d - 2.0f * (a + 3.0f)) * d
                             : a * rest * (rest - 2.0f * d);
        const MaskOf<R> outside = (i < 0) | (i >= size);
        taps.index[k] = Rules::index(i, size);
        taps.weight[k] = Rules::DROPS_OUTSIDE ? select(outside, R{}, weight) : weight;
        taps.slope[k] = Rules::DROPS_OUTSIDE ? select(outside, R{}, sign * slope) : sign * slope;
    }
    return taps;
}

// TapsOf<N, PAD, R>::at(p, size): the taps of the mode with N taps along an axis.
template <int N, int PAD, typename R>
struct TapsOf;
template <int PAD, typename R>
struct TapsOf<NEAREST, PAD, R> {
    static FW_HD AxisTaps<R, 1> at(Position<R> p, int size) { return nearest_taps<PAD>(p, size); }
};
template <int PAD, typename R>
struct TapsOf<BILINEAR, PAD, R> {
    static FW_HD AxisTaps<R, 2> at(Position<R> p, int size) { return bilinear_taps<PAD>(p, size); }
};
template <int PAD, typename R>
struct TapsOf<BICUBIC, PAD, R> {
    static FW_HD AxisTaps<R, 4> at(Position<R> p, int size) { return bicubic_taps<PAD>(p, size); }
};

}  // namespace flowwarp
