// Warping on the GPU: gather (warp), its flow gradient, and its image gradient (which is also splat).
//
// Bodies of kernels only: flowwarp/ops/nvrtc.py wraps the instantiation that is needed in a
// __global__ function, and the tests run the same bodies on the host. They are compiled with
// -fmad=false, so that a value has the bits that the CPU library gives it.
//
// The image gradient sums in 64-bit fixed point: integer addition is associative, so the order in
// which atomics arrive cannot show. The scale is chosen for each example so that no sum can
// overflow: |sum| <= (most taps on one pixel) * (largest |gradient|) * scale < 2^62. What is less
// than the unit goes to a second sum in a finer unit, and what is less than that to a third.
#include "warping.h"

#include "grid.h"

namespace flowwarp {

// The integers that hold one sum, each in a finer unit than the one before. Three of them hold any
// fp32 value beside 1, down to 2^-149. Mirrored by `PARTS` in flowwarp/ops/nvrtc.py.
constexpr int PARTS = 3;

// What decides the fixed point of one example.
struct Range {
    unsigned long long largest;  // of the finite |gradients| that land, the bits of a double
    unsigned long long hits;     // most taps that one pixel of the image receives
    unsigned long long broken;   // 1 if some gradient that lands is not finite
};

// Mirrored by `WarpingCall` in flowwarp/ops/nvrtc.py.
struct WarpingCall {
    const void *image, *flow, *grad_out;
    void* out;                 // what the kernel computes, like image or like flow
    unsigned char* mask;       // may be null
    unsigned long long* sums;  // fixed point: PARTS times channels [first, first + count) of all
    Range* ranges;
    long long batch, channels, first, count;
    int height, width, channels_last;
};

// Where an example's values lie: planes, or channels last.
struct Dense {
    long long plane, pixel_step, channel_step;
    FW_HD long long at(long long pixel, long long channel) const {
        return pixel * pixel_step + channel * channel_step;
    }
};

FW_HD Dense dense(const WarpingCall& call, long long channels) {
    const long long plane = (long long)call.height * call.width;
    return call.channels_last ? Dense{plane, channels, 1} : Dense{plane, 1, plane};
}

template <typename S, int N>
struct Taps {
    AxisTaps<S, N> x, y;  // weights and slopes are 0 where flow is not finite
    bool inside, any;     // any weight but 0

    FW_HD S weight(int n) const { return y.weight[n / N] * x.weight[n % N]; }
    FW_HD S du(int n) const { return y.weight[n / N] * x.slope[n % N]; }
    FW_HD S dv(int n) const { return y.slope[n / N] * x.weight[n % N]; }
    FW_HD long long pixel(int n, int width) const {
        return (long long)y.index[n / N] * width + x.index[n % N];
    }
};

template <typename S, int N, int PAD>
__device__ Taps<S, N> taps_at(const WarpingCall& call, long long b, long long pixel) {
    const long long plane = (long long)call.height * call.width;
    const S* flow = static_cast<const S*>(call.flow) + b * 2 * plane + pixel;
    const S u = flow[0], v = flow[plane];
    const int row = (int)(pixel / call.width), column = (int)(pixel - (long long)row * call.width);
    const Position<S> px = position(column, u), py = position(row, v);
    const bool finite = is_finite(u) & is_finite(v);
    Taps<S, N> taps;
    taps.x = TapsOf<N, PAD, S>::at(px, call.width);
    taps.y = TapsOf<N, PAD, S>::at(py, call.height);
    taps.inside = finite & is_inside<PAD>(px, call.width) & is_inside<PAD>(py, call.height);
    for (int n = 0; n < N; ++n) {
        taps.x.weight[n] = finite ? taps.x.weight[n] : 0;
        taps.y.weight[n] = finite ? taps.y.weight[n] : 0;
        taps.x.slope[n] = finite ? taps.x.slope[n] : 0;
        taps.y.slope[n] = finite ? taps.y.slope[n] : 0;
    }
    taps.any = false;
    for (int n = 0; n < N * N; ++n) taps.any |= taps.weight(n) != 0;
    return taps;
}

// A tap of weight 0 is not read; the sum starts at -0.0, the identity of addition.
template <typename T, int N, int PAD>
__device__ void warp(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Walk walk = walk_of(call.channels_last);
    const Dense values = dense(call, call.channels);
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* image = static_cast<const T*>(call.image) + b * call.channels * values.plane;
        T* out = static_cast<T*>(call.out) + b * call.channels * values.plane;
        for (long long p = walk.pixels.first; p < values.plane; p += walk.pixels.step) {
            const Taps<S, N> taps = taps_at<S, N, PAD>(call, b, p);
            if (call.mask != nullptr && walk.channels.first == 0)
                call.mask[b * values.plane + p] = taps.inside;
            for (long long c = walk.channels.first; c < call.channels; c += walk.channels.step) {
                S sum = (S)-0.0;
                for (int n = 0; n < N * N; ++n) {
                    const S weight = taps.weight(n);
                    if (weight != 0)
                        sum += weight * widen(image[values.at(taps.pixel(n, call.width), c)]);
                }
                out[values.at(p, c)] = narrow<T>(taps.any ? sum : (S)0);
            }
        }
    }
}

template <typename S, int N>
__device__ bool is_flat(const AxisTaps<S, N>& taps) {
    bool flat = true;
    for (int n = 0; n < N; ++n) flat &= taps.slope[n] == 0;
    return flat;
}

// One thread sums all channels of a pixel, in their order.
template <typename T, int N, int PAD>
__device__ void flow_gradient(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Dense values = dense(call, call.channels);
    const Loop pixels = loop_x();
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* image = static_cast<const T*>(call.image) + b * call.channels * values.plane;
        const T* grad_out = static_cast<const T*>(call.grad_out) + b * call.channels * values.plane;
        S* out = static_cast<S*>(call.out) + b * 2 * values.plane;
        for (long long p = pixels.first; p < values.plane; p += pixels.step) {
            const Taps<S, N> taps = taps_at<S, N, PAD>(call, b, p);
            S du = 0, dv = 0;
            for (long long c = 0; c < call.channels; ++c) {
                S u_slope = 0, v_slope = 0;
                for (int n = 0; n < N * N; ++n) {
                    if (taps.weight(n) == 0 && taps.du(n) == 0 && taps.dv(n) == 0) continue;
                    const S value = widen(image[values.at(taps.pixel(n, call.width), c)]);
                    u_slope += taps.du(n) * value;
                    v_slope += taps.dv(n) * value;
                }
                const S g = widen(grad_out[values.at(p, c)]);
                du += g * u_slope;
                dv += g * v_slope;
            }
            out[p] = is_flat(taps.x) ? 0 : du;  // 0 * inf is NaN: no slope, no gradient
            out[values.plane + p] = is_flat(taps.y) ? 0 : dv;
        }
    }
}

// ---------------------------------------------------------------- image gradient: four kernels

// The smallest power of two above x >= 0 is 2^exponent_above(x), but not below 2^-1022.
__device__ inline int exponent_above(double x) {
    unsigned long long bits;
    memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52) - 1022;
}

__device__ inline double power_of_two(int exponent) {
    const unsigned long long bits = (unsigned long long)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

struct FixedPoint {
    double scale;  // units of the first part in 1
    double step;   // units of each further part in one of the part before
};

// What a part leaves over is half a unit at most, so that sums of further parts stay below 2^61.
__device__ inline FixedPoint fixed_point(const Range& range) {
    double largest;
    memcpy(&largest, &range.largest, sizeof largest);
    const int hits = exponent_above((double)(range.hits > 0 ? range.hits : 1));
    const int exponent = 62 - exponent_above(largest) - hits;
    return {power_of_two(exponent < 1023 ? exponent : 1023), power_of_two(62 - hits)};
}

// Threads look before they compete: the value only grows, so a stale one costs time, not truth.
__device__ inline void raise(unsigned long long* to, unsigned long long value) {
    if (value > *(volatile unsigned long long*)to) atomicMax(to, value);
}

// 1: find the range of each example. `sums` counts the taps on each pixel, a plane per example.
template <typename T, int N, int PAD>
__device__ void measure(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Walk walk = walk_of(call.channels_last);
    const Dense values = dense(call, call.channels);
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* grad_out = static_cast<const T*>(call.grad_out) + b * call.channels * values.plane;
        Range& range = call.ranges[b];
        double largest = 0;
        bool broken = false;
        for (long long p = walk.pixels.first; p < values.plane; p += walk.pixels.step) {
            const Taps<S, N> taps = taps_at<S, N, PAD>(call, b, p);
            if (!taps.any) continue;  // lands nowhere: must not coarsen the others' scale
            for (long long c = walk.channels.first; c < call.channels; c += walk.channels.step) {
                const S g = widen(grad_out[values.at(p, c)]);
                const double size = g < 0 ? -g : g;
                if (!is_finite(g)) broken = true;
                else if (size > largest) largest = size;
            }
            if (walk.channels.first != 0) continue;
            for (int n = 0; n < N * N; ++n) {
                if (taps.weight(n) == 0) continue;
                unsigned long long* hits = call.sums + b * values.plane + taps.pixel(n, call.width);
                raise(&range.hits, atomicAdd(hits, 1ull) + 1);
            }
        }
        unsigned long long bits;
        memcpy(&bits, &largest, sizeof bits);  // of positive doubles, larger bits are larger values
        raise(&range.largest, bits);
        if (broken) range.broken = 1;
    }
}

// 2: add each finite gradient, times its weight, to the pixels it was read from.
template <typename T, int N, int PAD>
__device__ void scatter(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Walk walk = walk_of(call.channels_last);
    const Dense values = dense(call, call.channels), sums_at = dense(call, call.count);
    const long long part_step = call.batch * call.count * values.plane;
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* grad_out = static_cast<const T*>(call.grad_out) + b * call.channels * values.plane;
        unsigned long long* sums = call.sums + b * call.count * values.plane;
        const FixedPoint fixed = fixed_point(call.ranges[b]);
        for (long long p = walk.pixels.first; p < values.plane; p += walk.pixels.step) {
            const Taps<S, N> taps = taps_at<S, N, PAD>(call, b, p);
            for (long long c = walk.channels.first; c < call.count; c += walk.channels.step) {
                const S g = widen(grad_out[values.at(p, call.first + c)]);
                if (!is_finite(g)) continue;
                for (int n = 0; n < N * N; ++n) {
                    const S weight = taps.weight(n);
                    if (weight == 0) continue;
                    unsigned long long* sum = sums + sums_at.at(taps.pixel(n, call.width), c);
                    double rest = (double)(g * weight) * fixed.scale;
                    for (int k = 0; k < PARTS && rest != 0; ++k) {  // mostly the first holds all
                        const long long part = __double2ll_rn(rest);
                        atomicAdd(sum + k * part_step, (unsigned long long)part);
                        rest = (rest - (double)part) * fixed.step;  // exact
                    }
                }
            }
        }
    }
}

// 3: convert to the type of the result, and leave zeros for the next channels.
template <typename T>
__device__ void finish(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Walk walk = walk_of(call.channels_last);
    const Dense values = dense(call, call.channels), sums_at = dense(call, call.count);
    const long long part_step = call.batch * call.count * values.plane;
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        T* out = static_cast<T*>(call.out) + b * call.channels * values.plane;
        unsigned long long* sums = call.sums + b * call.count * values.plane;
        const FixedPoint fixed = fixed_point(call.ranges[b]);
        const double unit = 1.0 / fixed.scale, finer = 1.0 / fixed.step;
        for (long long p = walk.pixels.first; p < values.plane; p += walk.pixels.step)
            for (long long c = walk.channels.first; c < call.count; c += walk.channels.step) {
                unsigned long long* sum = sums + sums_at.at(p, c);
                double total = 0;
                for (int k = PARTS - 1; k >= 0; --k) {
                    total = total * finer + (double)(long long)sum[k * part_step];
                    sum[k * part_step] = 0;
                }
                out[values.at(p, call.first + c)] = narrow<T>((S)(total * unit));
            }
    }
}

// 4: NaN wherever a gradient that is not finite belongs. Plain stores: all write the same value.
template <typename T, int N, int PAD>
__device__ void spoil(const WarpingCall& call) {
    typedef typename Accumulate<T>::type S;
    const Walk walk = walk_of(call.channels_last);
    const Dense values = dense(call, call.channels);
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        if (!call.ranges[b].broken) continue;
        const T* grad_out = static_cast<const T*>(call.grad_out) + b * call.channels * values.plane;
        T* out = static_cast<T*>(call.out) + b * call.channels * values.plane;
        for (long long p = walk.pixels.first; p < values.plane; p += walk.pixels.step) {
            const Taps<S, N> taps = taps_at<S, N, PAD>(call, b, p);
            for (long long c = walk.channels.first; c < call.channels; c += walk.channels.step) {
                const S g = widen(grad_out[values.at(p, c)]);
                if (is_finite(g)) continue;
                for (int n = 0; n < N * N; ++n)
                    if (taps.weight(n) != 0)
                        out[values.at(taps.pixel(n, call.width), c)] = narrow<T>(g - g);  // NaN
            }
        }
    }
}

}  // namespace flowwarp
