// The cost volume and its two gradients on the GPU: one thread an element, as correlation.h gives it.
#include "correlation.h"
#include "grid.h"

namespace flowwarp {

// Mirrored by `CorrelationCall` in flowwarp/ops/nvrtc.py.
struct CorrelationCall {
    const void *first, *second;  // a and b; or the volume's gradient (dense) and the other image
    void* out;                   // the volume (dense), or an image's gradient
    Layout first_at, second_at, out_at;
    long long batch;
    Volume volume;
    int channels_last;  // how `out` is walked
};

template <typename T>
__device__ void correlation(const CorrelationCall& call) {
    const Volume v = call.volume;
    const Loop pixels = loop_x(), planes = loop_y();
    const long long plane = (long long)v.height * v.width;
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* first = static_cast<const T*>(call.first) + b * call.first_at.example;
        const T* second = static_cast<const T*>(call.second) + b * call.second_at.example;
        T* out = static_cast<T*>(call.out) + b * v.planes() * plane;
        for (long long k = planes.first; k < v.planes(); k += planes.step) {
            const int dy = (int)k / v.side() - v.radius, dx = (int)k % v.side() - v.radius;
            for (long long p = pixels.first; p < plane; p += pixels.step)
                out[k * plane + p] =
                    correlation_at(first, call.first_at, second, call.second_at, v, dy, dx,
                                   (int)(p / v.width), (int)(p % v.width));
        }
    }
}

template <typename T, int SIDE>
__device__ void correlation_gradient(const CorrelationCall& call) {
    const Volume v = call.volume;
    const Walk walk = walk_of(call.channels_last);
    const long long plane = (long long)v.height * v.width;
    for (long long b = blockIdx.z; b < call.batch; b += gridDim.z) {
        const T* grad = static_cast<const T*>(call.first) + b * v.planes() * plane;
        const T* other = static_cast<const T*>(call.second) + b * call.second_at.example;
        T* out = static_cast<T*>(call.out) + b * call.out_at.example;
        for (long long p = walk.pixels.first; p < plane; p += walk.pixels.step) {
            const int y = (int)(p / v.width), x = (int)(p % v.width);
            for (long long c = walk.channels.first; c < v.channels; c += walk.channels.step)
                out[c * call.out_at.channel + y * call.out_at.row + x * call.out_at.column] =
                    correlation_gradient_at<SIDE>(grad, other, call.second_at, v, (int)c, y, x);
        }
    }
}

}  // namespace flowwarp
