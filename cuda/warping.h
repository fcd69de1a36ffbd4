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

template <typename S, int N>
struct AxisTaps {
    int index[N];  // always inside the image
    S weight[N];   // exactly 0 where the tap is outside under ZEROS
    S slope[N];    // d weight / d u
};

// A displacement split into whole pixels and a fraction in [0, 1).
template <typename S>
struct Position {
    int whole;
    S fraction;
};

template <typename S>
FW_HD Position<S> position(int x, S u) {
    // Beyond 2^30 px the value is clamped, so that the integer cannot overflow; NaN becomes -2^30.
    const S limit = (S)(1 << 30);
    u = u > -limit ? (u < limit ? u : limit) : -limit;
    S whole = floor_of(u);
    Position<S> p;
    p.whole = x + (int)whole;
    p.fraction = u - whole;
    return p;
}

template <typename S>
FW_HD bool is_inside(Position<S> p, int size) {
    return (p.whole >= 0) & ((p.whole < size - 1) | ((p.whole == size - 1) & (p.fraction == 0)));
}

// i mapped into [0, 2 (size - 1)), the period of reflection about the centres of the outer pixels.
FW_HD int reflection_phase(int i, int size) {
    int period = 2 * (size - 1);
    int phase = i % (period > 0 ? period : 1);
    return phase < 0 ? phase + period : phase;
}

FW_HD int clamp_index(int i, int size) { return i < 0 ? 0 : (i > size - 1 ? size - 1 : i); }

template <int PAD>
FW_HD int pad_index(int i, int size) {
    if (PAD == REFLECTION) {
        int phase = reflection_phase(i, size);
        return size == 1 ? 0 : (phase < size ? phase : 2 * (size - 1) - phase);
    }
    return clamp_index(i, size);
}

// Bilinear: two neighbouring taps, index[1] == index[0] + 1 (or both 0 in an image of one pixel),
// wherever the position lies; at the edges the weights move instead, so that callers may always
// read a pair. Slopes are 0 where the position is clamped, the edge itself included, as in
// torch's grid_sample.
template <int PAD, typename S>
FW_HD AxisTaps<S, 2> bilinear_taps(Position<S> p, int size) {
    const int last = size - 1;
    const int i = p.whole;
    const S t = p.fraction;
    const S one = 1, zero = 0;
    int base = i;
    S left = one - t, right = t, left_slope = -one, right_slope = one;
    if (PAD == BORDER) {
        const bool below = (i < 0) | ((i == 0) & (t == zero)), above = i >= last;
        base = below ? 0 : (above ? last - 1 : i);
        left = below ? one : (above ? zero : left);
        right = below ? zero : (above ? one : right);
        left_slope = below | above ? zero : left_slope;
        right_slope = below | above ? zero : right_slope;
    } else if (PAD == ZEROS) {
        const bool inside = (i >= 0) & (i < last), first = i == -1, end = i == last;
        base = inside ? i : (end ? last - 1 : 0);
        left = inside ? left : (first ? t : zero);
        left_slope = inside ? left_slope : (first ? one : zero);
        right = inside ? right : (end ? one - t : zero);
        right_slope = inside ? right_slope : (end ? -one : zero);
    } else {
        const int phase = reflection_phase(i, size);
        const bool back = phase >= last;
        const bool turning = (t == zero) & ((phase == 0) | (phase == last));
        base = back ? 2 * last - phase - 1 : phase;
        left = back ? t : left;
        right = back ? one - t : right;
        left_slope = turning ? zero : (back ? one : -one);
        right_slope = -left_slope;
    }
    if (last == 0) {  // one pixel: it takes the weight of both taps
        base = 0;
        left = PAD == ZEROS ? left + right : one;
        left_slope = PAD == ZEROS ? left_slope + right_slope : zero;
        right = right_slope = zero;
    }
    AxisTaps<S, 2> taps;
    taps.index[0] = base;
    taps.index[1] = base + (last > 0);
    taps.weight[0] = left;
    taps.weight[1] = right;
    taps.slope[0] = left_slope;
    taps.slope[1] = right_slope;
    return taps;
}

// Nearest: halves go up, so that a shift of the image shifts the result.
template <int PAD, typename S>
FW_HD AxisTaps<S, 1> nearest_taps(Position<S> p, int size) {
    const int i = p.whole + (p.fraction >= (S)0.5);
    AxisTaps<S, 1> taps;
    taps.index[0] = pad_index<PAD>(i, size);
    taps.weight[0] = (PAD == ZEROS) & ((i < 0) | (i >= size)) ? (S)0 : (S)1;
    taps.slope[0] = 0;
    return taps;
}

// Bicubic: cubic convolution with a = -0.75 (Keys 1981), as in torch and OpenCV. Padding applies to
// each tap, not to the position.
template <int PAD, typename S>
FW_HD AxisTaps<S, 4> bicubic_taps(Position<S> p, int size) {
    const S a = (S)-0.75;
    AxisTaps<S, 4> taps;
    for (int k = 0; k < 4; ++k) {
        const int i = p.whole + k - 1;
        const bool near = (k == 1) | (k == 2);
        const S sign = k < 2 ? (S)1 : (S)-1;  // d distance / d u
        // Near taps at distance d in [0, 1]; far ones at 1 + d, where a (d' - 1) (2 - d')^2 is Keys'
        // polynomial without its cancellation.
        const S d = k < 2 ? p.fraction : (S)1 - p.fraction;
        const S rest = (S)1 - d;
        const S inner = ((a + 2) * d - (a + 3)) * d * d + 1;
        const S outer = a * d * rest * rest;
        const S inner_slope = (3 * (a + 2) * d - 2 * (a + 3)) * d;
        const S outer_slope = a * rest * (rest - 2 * d);
        const bool drop = (PAD == ZEROS) & ((i < 0) | (i >= size));
        taps.index[k] = pad_index<PAD>(i, size);
        taps.weight[k] = drop ? (S)0 : (near ? inner : outer);
        taps.slope[k] = drop ? (S)0 : sign * (near ? inner_slope : outer_slope);
    }
    return taps;
}

template <int N, int PAD, typename S>
struct TapsOf;
template <int PAD, typename S>
struct TapsOf<NEAREST, PAD, S> {
    static FW_HD AxisTaps<S, 1> at(Position<S> p, int size) { return nearest_taps<PAD>(p, size); }
};
template <int PAD, typename S>
struct TapsOf<BILINEAR, PAD, S> {
    static FW_HD AxisTaps<S, 2> at(Position<S> p, int size) { return bilinear_taps<PAD>(p, size); }
};
template <int PAD, typename S>
struct TapsOf<BICUBIC, PAD, S> {
    static FW_HD AxisTaps<S, 4> at(Position<S> p, int size) { return bicubic_taps<PAD>(p, size); }
};

}  // namespace flowwarp
