// The local cost volume: how well a pixel of `a` matches the pixels of `b` around the same place.
//
//   out[plane(dy, dx)][y][x] = 1 / channels * sum over c of a[c][y][x] * b[c][y + dy * dilation][x + dx * dilation]
//
// with -radius <= dy, dx <= radius and plane(dy, dx) = (dy + radius) * (2 radius + 1) + dx + radius.
// A product with a pixel outside is not taken at all, so that no NaN reaches it. Sums run over c, and
// in the gradients over dy then dx, in rising order, always: whoever computes an element gets the
// same bits.
#pragma once

#include "platform.h"

namespace flowwarp {

struct Volume {
    int channels, height, width, radius, dilation;

    FW_HD int side() const { return 2 * radius + 1; }
    FW_HD long long planes() const { return (long long)side() * side(); }
    // No larger displacement, in steps of the dilation, stays inside an axis of `size` pixels.
    FW_HD int reach(int size) const {
        const int most = (size - 1) / dilation;
        return radius < most ? radius : most;
    }
    FW_HD long long plane(int dy, int dx) const {
        return (long long)(dy + radius) * side() + dx + radius;
    }
};

// Strides in elements, so that planes, channels-last and views are read where they lie.
struct Layout {
    long long example, channel, row, column;
};

// One element of the volume; `a` and `b` point to an example.
template <typename T>
FW_HD T correlation_at(const T* a, Layout la, const T* b, Layout lb, Volume v, int dy, int dx, int y,
                       int x) {
    typedef typename Accumulate<T>::type S;
    const long long by = y + (long long)dy * v.dilation, bx = x + (long long)dx * v.dilation;
    S sum = 0;
    if ((by < 0) | (by >= v.height) | (bx < 0) | (bx >= v.width)) return narrow<T>(sum);
    a += y * la.row + x * la.column;
    b += by * lb.row + bx * lb.column;
    for (int c = 0; c < v.channels; ++c) sum += widen(a[c * la.channel]) * widen(b[c * lb.channel]);
    return narrow<T>(sum * (1 / (S)v.channels));
}

// One element of the gradient for `a` (SIDE 0, where `other` is b) or for `b` (SIDE 1, `other` is a).
// `grad` points to an example's planes, each height x width. The gradient for b is that for a with
// the displacements reversed: the term of (dy, dx) stands at the pixel it came from.
template <int SIDE, typename T>
FW_HD T correlation_gradient_at(const T* grad, const T* other, Layout lo, Volume v, int c, int y, int x) {
    typedef typename Accumulate<T>::type S;
    const int ry = v.reach(v.height), rx = v.reach(v.width);
    const long long size = (long long)v.height * v.width;
    S sum = 0;
    for (int dy = -ry; dy <= ry; ++dy) {
        const int oy = y + dy * v.dilation;
        if ((oy < 0) | (oy >= v.height)) continue;
        for (int dx = -rx; dx <= rx; ++dx) {
            const int ox = x + dx * v.dilation;
            if ((ox < 0) | (ox >= v.width)) continue;
            const T* g = SIDE == 0 ? grad + v.plane(dy, dx) * size + (long long)y * v.width + x
                                   : grad + v.plane(-dy, -dx) * size + (long long)oy * v.width + ox;
            sum += widen(*g) * widen(other[c * lo.channel + oy * lo.row + ox * lo.column]);
        }
    }
    return narrow<T>(sum * (1 / (S)v.channels));
}

}  // namespace flowwarp
