// The soft census transform and the soft Hamming distance between two of them.
//
//   grey = 255 * (0.2989 R + 0.5870 G + 0.1140 B), or 255 * the only channel
//   t(p, k) = s(grey(p + k) - grey(p)),  s(d) = d / sqrt(0.81 + d^2)
//   distance(p) = 1 / K * sum over k of h(t1(p, k) - t2(p, k)),  h(z) = z^2 / (0.1 + z^2)
//
// k runs over the K = (2 radius + 1)^2 - 1 neighbours; one outside the image adds nothing.
//
// s is odd and h even, so that the pair (p, p + k) adds the same h to both of its pixels. The gradient
// follows: with e = h'(z) s'(d), the pair adds (g(p) + g(p + k)) e to p + k and takes it from p.
#pragma once

#include "platform.h"

namespace flowwarp {

struct Grey {
    int channels;  // 1 or 3
    template <typename S>
    FW_HD S weight(int c) const {
        if (channels == 1) return 255;
        return c == 0 ? (S)(255 * 0.2989) : (c == 1 ? (S)(255 * 0.5870) : (S)(255 * 0.1140));
    }
};

FW_HD int census_planes(int radius) { return (2 * radius + 1) * (2 * radius + 1) - 1; }

// Plane of the neighbour (dy, dx): rows from the upper left, the centre left out.
FW_HD int census_plane(int radius, int dy, int dx) {
    const int k = (dy + radius) * (2 * radius + 1) + dx + radius;
    return k - (k > census_planes(radius) / 2);
}

// 1 / sqrt(x) for x > 0. In fp32 by Newton's method from the exponent's half: a square root and a division
// would wait for the one divider; this is as exact to 2 units in the last place, and the same
// on every machine. NaN stays NaN.
FW_HD double inverse_root(double x) { return 1 / sqrt(x); }
FW_HD float inverse_root(float x) {
    const float half = 0.5f * x;
    float y = as_float(0x5f375a86u - (as_bits(x) >> 1));
    y = y * (1.5f - half * y * y);
    y = y * (1.5f - half * y * y);
    y = y * (1.5f - half * y * y);
    return y;
}

// What one difference of grey values gives.
template <typename S>
struct SoftSign {
    S value, inverse;  // s(d) and 1 / sqrt(0.81 + d^2)
    FW_HD S slope() const { return (S)0.81 * (inverse * inverse * inverse); }
};
template <typename S>
FW_HD SoftSign<S> soft_sign(S d) {
    SoftSign<S> s;
    s.inverse = inverse_root((S)0.81 + d * d);
    s.value = d * s.inverse;
    return s;
}

template <typename S>
FW_HD S soft_hamming(S z) {
    const S square = z * z;
    return square / ((S)0.1 + square);
}
template <typename S>
FW_HD S soft_hamming_slope(S z) {
    const S inverse = 1 / ((S)0.1 + z * z);
    return (S)0.2 * z * (inverse * inverse);
}

// One pixel each, for kernels with a thread per pixel. `grey`, `grad` and so on are called as
// grey(y, x) and are called for pixels inside the image only.

template <typename S, typename Read>
FW_HD S census_distance_at(const Read& grey1, const Read& grey2, int radius, int height, int width, int y,
                           int x) {
    const S here1 = grey1(y, x), here2 = grey2(y, x);
    S sum = 0;
    for (int dy = -radius; dy <= radius; ++dy)
        for (int dx = -radius; dx <= radius; ++dx) {
            const int oy = y + dy, ox = x + dx;
            if ((oy < 0) | (oy >= height) | (ox < 0) | (ox >= width) | ((dy == 0) & (dx == 0))) continue;
            sum += soft_hamming(soft_sign(grey1(oy, ox) - here1).value - soft_sign(grey2(oy, ox) - here2).value);
        }
    return sum * (1 / (S)census_planes(radius));
}

// Gradient for both grey values.
template <typename S, typename Read, typename Grad>
FW_HD void census_distance_gradient_at(const Read& grey1, const Read& grey2, const Grad& grad, int radius,
                                       int height, int width, int y, int x, S* result1, S* result2) {
    const S here1 = grey1(y, x), here2 = grey2(y, x), here = grad(y, x);
    S sum1 = 0, sum2 = 0;
    for (int dy = -radius; dy <= radius; ++dy)
        for (int dx = -radius; dx <= radius; ++dx) {
            const int oy = y + dy, ox = x + dx;
            if ((oy < 0) | (oy >= height) | (ox < 0) | (ox >= width) | ((dy == 0) & (dx == 0))) continue;
            const SoftSign<S> s1 = soft_sign(grey1(oy, ox) - here1), s2 = soft_sign(grey2(oy, ox) - here2);
            const S e = (here + grad(oy, ox)) * soft_hamming_slope(s1.value - s2.value);
            sum1 -= e * s1.slope();
            sum2 += e * s2.slope();
        }
    *result1 = sum1 * (1 / (S)census_planes(radius));
    *result2 = sum2 * (1 / (S)census_planes(radius));
}

// Gradient of the transform for one grey value; `grad` is called as grad(plane, y, x).
template <typename S, typename Read, typename Grad>
FW_HD S census_gradient_at(const Read& grey, const Grad& grad, int radius, int height, int width, int y,
                           int x) {
    const S here = grey(y, x);
    S sum = 0;
    for (int dy = -radius; dy <= radius; ++dy)
        for (int dx = -radius; dx <= radius; ++dx) {
            const int oy = y + dy, ox = x + dx;
            if ((oy < 0) | (oy >= height) | (ox < 0) | (ox >= width) | ((dy == 0) & (dx == 0))) continue;
            const S difference = grad(census_plane(radius, -dy, -dx), oy, ox) -
                                 grad(census_plane(radius, dy, dx), y, x);
            sum += soft_sign(grey(oy, ox) - here).slope() * difference;
        }
    return sum;
}

}  // namespace flowwarp
