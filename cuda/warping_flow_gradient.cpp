// The gradient of warping for the flow, on the CPU: for each pixel, the sum over channels of the
// incoming gradient times the slope of the image where it was read.
#include "warping_squares.h"

namespace flowwarp {
namespace {

template <typename T>
void flow_gradient_planes(const T* image, const typename Accumulate<T>::type* flow, const T* grad_out,
                          typename Accumulate<T>::type* grad_flow, Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane();
    for_rows(size, [=](int64_t b, int row) {
        Chunk<S, 2> chunk;
        Runs runs;
        alignas(64) S du[CHUNK], dv[CHUNK];
        for (int column = 0; column < width; column += CHUNK) {
            prepare<2>(chunk, padding, flow + b * 2 * plane, size, row, column);
            for (int k = 0; k < chunk.count; k += LANES)
                find_runs(runs, k, load_as<Bits<float>>(chunk.x[0] + k),
                          load_as<Bits<float>>(chunk.y[0] + k), width);
            const int64_t to = (int64_t)row * width + column;
            memset(du, 0, sizeof du);
            memset(dv, 0, sizeof dv);
            for (int64_t c = 0; c < size.channels; ++c) {
                const T* source = image + (b * size.channels + c) * plane;
                const T* grad = grad_out + (b * size.channels + c) * plane + to;
                for (int k = 0; k < chunk.count; k += LANES) {
                    __builtin_prefetch(source + runs.offset[k] + (AHEAD + 1) * width);
                    __builtin_prefetch(grad + k + AHEAD * width);
                    const Corners<S> v = load_corners<T, S>(source, runs, k, width);
                    const Vector<S> g = load_part(grad + k, chunk.count - k);
                    const Vector<S> wx0 = load(chunk.wx[0] + k), wx1 = load(chunk.wx[1] + k);
                    const Vector<S> wy0 = load(chunk.wy[0] + k), wy1 = load(chunk.wy[1] + k);
                    const Vector<S> sx0 = load(chunk.sx[0] + k), sx1 = load(chunk.sx[1] + k);
                    const Vector<S> sy0 = load(chunk.sy[0] + k), sy1 = load(chunk.sy[1] + k);
                    const Vector<S> x_top = sx0 * v.at[0] + sx1 * v.at[1];
                    const Vector<S> x_low = sx0 * v.at[2] + sx1 * v.at[3];
                    const Vector<S> y_left = sy0 * v.at[0] + sy1 * v.at[2];
                    const Vector<S> y_right = sy0 * v.at[1] + sy1 * v.at[3];
                    store(du + k, load(du + k) + g * (wy0 * x_top + wy1 * x_low));
                    store(dv + k, load(dv + k) + g * (wx0 * y_left + wx1 * y_right));
                }
            }
            for (int k = 0; k < chunk.count; k += LANES) {  // 0 * inf is NaN: no slope, no gradient
                const Vector<S> none = {};
                const Bits<S> x_flat = (load(chunk.sx[0] + k) == 0) & (load(chunk.sx[1] + k) == 0);
                const Bits<S> y_flat = (load(chunk.sy[0] + k) == 0) & (load(chunk.sy[1] + k) == 0);
                store(du + k, select(x_flat, none, load(du + k)));
                store(dv + k, select(y_flat, none, load(dv + k)));
            }
            memcpy(grad_flow + b * 2 * plane + to, du, chunk.count * sizeof(S));
            memcpy(grad_flow + (b * 2 + 1) * plane + to, dv, chunk.count * sizeof(S));
        }
    });
}

template <typename T, int N, bool LAST>
void flow_gradient_taps(const T* image, const typename Accumulate<T>::type* flow, const T* grad_out,
                        typename Accumulate<T>::type* grad_flow, Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane(), channels = size.channels;
    const int64_t step = LAST ? channels : 1, channel_step = LAST ? 1 : plane;
    for_rows(size, [=](int64_t b, int row) {
        Chunk<S, N> chunk;
        TapList<S, N> taps = {};
        const T* source = image + b * channels * plane;
        for (int column = 0; column < size.width; column += CHUNK) {
            prepare<N>(chunk, padding, flow + b * 2 * plane, size, row, column);
            for (int k = 0; k < chunk.count; ++k) {
                list_taps(taps, chunk, k, size.width);
                const int64_t pixel = (int64_t)row * size.width + column + k;
                const T* grad = grad_out + b * channels * plane + pixel * step;
                S du = 0, dv = 0;
                if (taps.count == 0) {  // unknown flow: 0, whatever its gradient is
                } else if (LAST) {
                    const int PARTS = PARTIAL_SUMS / LANES;
                    Vector<S> u_sum[PARTS] = {}, v_sum[PARTS] = {};
                    for (int64_t first = 0; first < channels; first += PARTIAL_SUMS)
                        for (int p = 0; p < PARTS; ++p) {
                            const int64_t c = first + p * LANES;
                            if (c >= channels) break;
                            const int part = channels - c < LANES ? (int)(channels - c) : LANES;
                            Vector<S> u_slope = {}, v_slope = {};
                            for (int n = 0; n < taps.count; ++n) {
                                const Vector<S> value = load_part(source + taps.pixel[n] * step + c, part);
                                u_slope += taps.du[n] * value;
                                v_slope += taps.dv[n] * value;
                            }
                            const Vector<S> g = load_part(grad + c, part);
                            u_sum[p] += g * u_slope;
                            v_sum[p] += g * v_slope;
                        }
                    S u_part[PARTIAL_SUMS], v_part[PARTIAL_SUMS];
                    memcpy(u_part, u_sum, sizeof u_sum);
                    memcpy(v_part, v_sum, sizeof v_sum);
                    for (int n = 0; n < PARTIAL_SUMS && n < channels; ++n) {
                        du += u_part[n];
                        dv += v_part[n];
                    }
                } else {
                    for (int64_t c = 0; c < channels; ++c) {
                        S u_slope = 0, v_slope = 0;
                        for (int n = 0; n < taps.count; ++n) {
                            const S value = widen(source[taps.pixel[n] + c * channel_step]);
                            u_slope += taps.du[n] * value;
                            v_slope += taps.dv[n] * value;
                        }
                        const S g = widen(grad[c * channel_step]);
                        du += g * u_slope;
                        dv += g * v_slope;
                    }
                }
                bool x_flat = true, y_flat = true;
                for (int n = 0; n < N; ++n) {
                    x_flat &= chunk.sx[n][k] == 0;
                    y_flat &= chunk.sy[n][k] == 0;
                }
                // 0 * inf is NaN: no slope, no gradient.
                grad_flow[b * 2 * plane + pixel] = x_flat ? 0 : du;
                grad_flow[(b * 2 + 1) * plane + pixel] = y_flat ? 0 : dv;
            }
        }
    });
}

template <typename T, int N, bool LAST>
void flow_gradient(const Call& call) {
    typedef typename Accumulate<T>::type S;
    const T* image = static_cast<const T*>(call.image);
    const S* flow = static_cast<const S*>(call.flow);
    const T* grad_out = static_cast<const T*>(call.grad_out);
    S* grad_flow = static_cast<S*>(call.grad_flow);
    if constexpr (N == BILINEAR && !LAST) {
        if (has_squares(call.size, call.padding))
            return flow_gradient_planes<T>(image, flow, grad_out, grad_flow, call.size, call.padding);
    }
    flow_gradient_taps<T, N, LAST>(image, flow, grad_out, grad_flow, call.size, call.padding);
}

}  // namespace
}  // namespace flowwarp

FW_EXPORT int fw_warp_flow_gradient(int dtype, int mode, int padding, int channels_last,
                                    int64_t batch, int64_t channels, int64_t height, int64_t width,
                                    const void* image, const void* flow, const void* grad_out,
                                    void* grad_flow) {
    using namespace flowwarp;
    Call call = call_of(padding, batch, channels, height, width, flow);
    call.image = image;
    call.grad_out = grad_out;
    call.grad_flow = grad_flow;
    return !with_instance(call, dtype, mode, channels_last, [&](auto instance) {
        typedef decltype(instance) I;
        flow_gradient<typename I::Pixel, I::TAPS, I::CHANNELS_LAST>(call);
    });
}
