// Where a pixel of the output reads the image: taps, weights and slopes along one axis.
//
// A position x + u is kept as an integer and a fraction, i = x + floor(u) and t = u - floor(u).
// Both are exact, while x + u in fp32 loses up to 3e-5 px at x = 1000. With u = 0 the fraction is
// exactly 0, the weights are exactly 0 and 1, and the image comes back bit for bit.
#pragma once

#include "platform.h"

namespace flowwarp {

enum Padding { BORDER = 0, ZEROS = 1, REFLECTION = 2 };
// The number of taps along an axis names the mode.
enum Mode { NEAREST = 1, BILINEAR = 2, BICUBIC = 4 };

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
    const IntegerOf<R> cut = to_integer(u);  // towards zero; one less where that is above u
    const MaskOf<R> above = to_real(cut, u) > u;
    const IntegerOf<R> whole = cut - as_count(above);
    Position<R> p;
    p.whole = x + whole;
    p.fraction = u - to_real(whole, u);
    return p;
}

template <typename R>
FW_HD MaskOf<R> is_inside(Position<R> p, int size) {
    return (p.whole >= 0) & ((p.whole < size - 1) | ((p.whole == size - 1) & (p.fraction == 0)));
}

// i mapped into [0, 2 (size - 1)), the period of reflection about the centres of the outer pixels.
template <typename I>
FW_HD I reflection_phase(I i, int size) {
    const int period = size > 1 ? 2 * (size - 1) : 1;
    const I phase = i % period;
    return select(phase < 0, phase + period, phase);
}

template <int PAD, typename I>
FW_HD I pad_index(I i, int size) {
    const I zero = I{}, last = zero + (size - 1);
    if (PAD == REFLECTION) {
        const I phase = reflection_phase(i, size);
        i = select(phase < last, phase, 2 * last - phase);
    }
    return select(i < zero, zero, select(i > last, last, i));
}

// Bilinear: two neighbouring taps, index[1] == index[0] + 1 (or both 0 in an image of one pixel),
// wherever the position lies; at the edges the weights move instead, so that callers may always
// read a pair. Slopes are 0 where the position is clamped, the edge itself included, as in
// torch's grid_sample.
template <int PAD, typename R>
FW_HD AxisTaps<R, 2> bilinear_taps(Position<R> p, int size) {
    typedef IntegerOf<R> I;
    typedef MaskOf<R> M;
    const I i = p.whole, none = I{}, last = none + (size - 1);
    const R t = p.fraction, zero = R{}, one = zero + 1.0f;
    AxisTaps<R, 2> taps;
    I base;
    R left, right, left_slope, right_slope;
    if (PAD == BORDER) {
        const M below = (i < none) | ((i == none) & (t == zero)), above = i >= last;
        base = select(below, none, select(above, last - 1, i));
        left = select(below, one, select(above, zero, one - t));
        right = select(below, zero, select(above, one, t));
        right_slope = select(below | above, zero, one);
        left_slope = -right_slope;
    } else if (PAD == ZEROS) {
        const M inside = (i >= none) & (i < last), first = i == none - 1, end = i == last;
        base = select(inside, i, select(end, last - 1, none));
        left = select(inside, one - t, select(first, t, zero));
        right = select(inside, t, select(end, one - t, zero));
        left_slope = select(inside, -one, select(first, one, zero));
        right_slope = select(inside, one, select(end, -one, zero));
    } else {
        const I phase = reflection_phase(i, size);
        const M back = phase >= last;
        const M turning = (t == zero) & ((phase == none) | (phase == last));
        base = select(back, 2 * last - phase - 1, phase);
        left = select(back, t, one - t);
        right = select(back, one - t, t);
        left_slope = select(turning, zero, select(back, one, -one));
        right_slope = -left_slope;
    }
    if (size == 1) {  // one pixel: it takes the weight of both taps
        base = none;
        left = PAD == ZEROS ? left + right : one;
        left_slope = PAD == ZEROS ? left_slope + right_slope : zero;
        right = right_slope = zero;
    }
    taps.index[0] = base;
    taps.index[1] = base + (size > 1 ? 1 : 0);
    taps.weight[0] = left;
    taps.weight[1] = right;
    taps.slope[0] = left_slope;
    taps.slope[1] = right_slope;
    return taps;
}

// Nearest: halves go up, so that a shift of the image shifts the result.
template <int PAD, typename R>
FW_HD AxisTaps<R, 1> nearest_taps(Position<R> p, int size) {
    const IntegerOf<R> i = p.whole + as_count(p.fraction >= R{} + 0.5f);
    const MaskOf<R> outside = (i < 0) | (i >= size);
    AxisTaps<R, 1> taps;
    taps.index[0] = pad_index<PAD>(i, size);
    taps.weight[0] = PAD == ZEROS ? select(outside, R{}, R{} + 1.0f) : R{} + 1.0f;
    taps.slope[0] = R{};
    return taps;
}

// Bicubic: cubic convolution with a = -0.75 (Keys 1981), as in torch and OpenCV. Padding applies to
// each tap, not to the position.
template <int PAD, typename R>
FW_HD AxisTaps<R, 4> bicubic_taps(Position<R> p, int size) {
    const float a = -0.75f;
    AxisTaps<R, 4> taps;
    for (int k = 0; k < 4; ++k) {
        const IntegerOf<R> i = p.whole + (k - 1);
        const bool near = (k == 1) | (k == 2);
        const float sign = k < 2 ? 1.0f : -1.0f;  // d distance / d u
        // Near taps at distance d in [0, 1]; far ones at 1 + d, where a (d' - 1) (2 - d')^2 is Keys'
        // polynomial without its cancellation.
        const R d = k < 2 ? p.fraction : 1.0f - p.fraction;
        const R rest = 1.0f - d;
        const R weight = near ? ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f : a * d * rest * rest;
        const R slope = near ? (3.0f * (a + 2.0f) * d - 2.0f * (a + 3.0f)) * d
                             : a * rest * (rest - 2.0f * d);
        const MaskOf<R> drop = (i < 0) | (i >= size);
        taps.index[k] = pad_index<PAD>(i, size);
        taps.weight[k] = PAD == ZEROS ? select(drop, R{}, weight) : weight;
        taps.slope[k] = PAD == ZEROS ? select(drop, R{}, sign * slope) : sign * slope;
    }
    return taps;
}

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
