// The census transform, the distance between two, and their gradients on the GPU: one thread a pixel,
// as census.h gives it. Grey values are computed once, by a kernel of their own, into planes.
#include "census.h"
#include "grid.h"

namespace flowwarp {

// In elements.
struct Strides {
    long long example, channel, row, column;
};

// Mirrored by `CensusCall` in flowwarp/ops/nvrtc.py.
struct CensusCall {
    const void* image;    // what `grey` reads
    void *grey1, *grey2;  // (B, 1, H, W) of the type that sums are kept in
    const void* grad;     // dense
    void *out1, *out2;    // gradients for images, of any strides; else out1 only, dense
    Strides image_at, out1_at, out2_at;
    long long batch;
    int channels, height, width, radius;
};

// One plane of one example.
template <typename T>
struct Plane {
    const T* values;
    int width;
    FW_HD typename Accumulate<T>::type operator()(int y, int x) const {
        return widen(values[(long long)y * width + x]);
    }
};

template <typename T>
struct Planes {
    const T* values;
    long long plane;
    int width;
    FW_HD typename Accumulate<T>::type operator()(int k, int y, int x) const {
        return widen(values[k * plane + (long long)y * width + x]);
    }
};

// Calls body(example, y, x) for each of the thread's pixels.
template <typename Body>
__device__ void for_pixels(const CensusCall& call, const Body& body) {
    const Loop pixels = loop_x();
    const long long plane = (long long)call.height * call.width;
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z)
        for (long long p = pixels.first; p < plane; p += pixels.step)
            body(b, (int)(p / call.width), (int)(p % call.width));
}

template <typename T>
FW_HD Plane<T> plane_of(const CensusCall& call, const void* planes, long long example) {
    const long long plane = (long long)call.height * call.width;
    return {static_cast<const T*>(planes) + example * plane, call.width};
}

// Spread the gradient for a grey value over the channels.
template <typename T, typename S>
FW_HD void spread(const CensusCall& call, void* out, Strides at, long long b, int y, int x, S value) {
    const Grey grey = {call.channels};
    T* to = static_cast<T*>(out) + b * at.example + y * at.row + x * at.column;
    for (int c = 0; c < call.channels; ++c) to[c * at.channel] = narrow<T>(value * grey.weight<S>(c));
}

template <typename T>
__device__ void grey(const CensusCall& call) {
    typedef typename Accumulate<T>::type S;
    const Grey weights = {call.channels};
    for_pixels(call, [&](long long b, int y, int x) {
        const Strides at = call.image_at;
        const T* from = static_cast<const T*>(call.image) + b * at.example + y * at.row + x * at.column;
        S value = widen(from[0]) * weights.weight<S>(0);
        for (int c = 1; c < call.channels; ++c)
            value += widen(from[c * at.channel]) * weights.weight<S>(c);
        static_cast<S*>(call.grey1)[(b * call.height + y) * call.width + x] = value;
    });
}

template <typename T>
__device__ void census(const CensusCall& call) {
    typedef typename Accumulate<T>::type S;
    const long long plane = (long long)call.height * call.width;
    const int planes = census_planes(call.radius), side = 2 * call.radius + 1;
    const Loop neighbours = loop_y();
    for_pixels(call, [&](long long b, int y, int x) {
        const Plane<S> grey = plane_of<S>(call, call.grey1, b);
        T* out = static_cast<T*>(call.out1) + b * planes * plane + (long long)y * call.width + x;
        for (long long k = neighbours.first; k < planes; k += neighbours.step) {
            const int place = (int)k + (k >= planes / 2);  // the centre has no plane
            const int oy = y + place / side - call.radius, ox = x + place % side - call.radius;
            const bool inside = (oy >= 0) & (oy < call.height) & (ox >= 0) & (ox < call.width);
            out[k * plane] = narrow<T>(inside ? soft_sign(grey(oy, ox) - grey(y, x)).value : (S)0);
        }
    });
}

template <typename T>
__device__ void census_gradient(const CensusCall& call) {
    typedef typename Accumulate<T>::type S;
    const long long plane = (long long)call.height * call.width;
    for_pixels(call, [&](long long b, int y, int x) {
        const T* first = static_cast<const T*>(call.grad) + b * census_planes(call.radius) * plane;
        const Planes<T> grad = {first, plane, call.width};
        const Plane<S> grey = plane_of<S>(call, call.grey1, b);
        const S value =
            census_gradient_at<S>(grey, grad, call.radius, call.height, call.width, y, x);
        spread<T>(call, call.out1, call.out1_at, b, y, x, value);
    });
}

template <typename T>
__device__ void census_distance(const CensusCall& call) {
    typedef typename Accumulate<T>::type S;
    for_pixels(call, [&](long long b, int y, int x) {
        const Plane<S> grey1 = plane_of<S>(call, call.grey1, b), grey2 = plane_of<S>(call, call.grey2, b);
        static_cast<T*>(call.out1)[(b * call.height + y) * call.width + x] = narrow<T>(
            census_distance_at<S>(grey1, grey2, call.radius, call.height, call.width, y, x));
    });
}

template <typename T>
__device__ void census_distance_gradient(const CensusCall& call) {
    typedef typename Accumulate<T>::type S;
    for_pixels(call, [&](long long b, int y, int x) {
        const Plane<S> grey1 = plane_of<S>(call, call.grey1, b), grey2 = plane_of<S>(call, call.grey2, b);
        const Plane<T> grad = plane_of<T>(call, call.grad, b);
        S value1, value2;
        census_distance_gradient_at<S>(grey1, grey2, grad, call.radius, call.height, call.width, y, x,
                                       &value1, &value2);
        spread<T>(call, call.out1, call.out1_at, b, y, x, value1);
        spread<T>(call, call.out2, call.out2_at, b, y, x, value2);
    });
}

}  // namespace flowwarp
