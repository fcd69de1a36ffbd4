// Warping on the CPU: read the image at x + flow.
#include "warping_squares.h"

namespace flowwarp {
namespace {

template <typename T>
void warp_planes(const T* image, const typename Accumulate<T>::type* flow, T* out, uint8_t* mask,
                 Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane();
    for_rows(size, [=](int64_t b, int row) {
        Squares<S> squares;
        squares.inside_wanted = mask != nullptr;
        for (int column = 0; column < width; column += CHUNK) {
            make_squares(squares, padding, flow + b * 2 * plane, size, row, column);
            const int64_t to = (int64_t)row * width + column;
            if (mask != nullptr) memcpy(mask + b * plane + to, squares.inside, squares.count);
            for (int64_t c = 0; c < size.channels; ++c) {
                const T* source = image + (b * size.channels + c) * plane;
                T* target = out + (b * size.channels + c) * plane + to;
                for (int k = 0; k < squares.count; k += LANES) {
                    // What a later row will read and write: planes are too many, and rows too
                    // short, for the hardware to foresee it. (Outside, a prefetch is nothing.)
                    __builtin_prefetch(source + squares.runs.offset[k] + (AHEAD + 1) * width);
                    __builtin_prefetch(target + k + AHEAD * width, 1);
                    const Corners<S> v = load_corners<T, S>(source, squares.runs, k, width);
                    Vector<S> w[4];
                    for (int n = 0; n < 4; ++n) w[n] = load(squares.weight[n] + k);
                    store_part(target + k, weighted(v, w, squares.masks), squares.count - k);
                }
            }
        }
    });
}

// Channels last, (B, H, W, C): as warp_planes, but a vector is of one pixel's channels.
template <typename T>
void warp_pixels(const T* image, const typename Accumulate<T>::type* flow, T* out, uint8_t* mask,
                 Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane(), channels = size.channels, row_step = channels * size.width;
    for_rows(size, [=](int64_t b, int row) {
        Squares<S> squares;
        squares.inside_wanted = mask != nullptr;
        for (int column = 0; column < size.width; column += CHUNK) {
            make_squares(squares, padding, flow + b * 2 * plane, size, row, column);
            const int64_t first = b * plane + (int64_t)row * size.width + column;
            if (mask != nullptr) memcpy(mask + first, squares.inside, squares.count);
            for (int k = 0; k < squares.count; ++k) {
                const T* source = image + (b * plane + squares.runs.offset[k]) * channels;
                const int64_t steps[4] = {0, channels, row_step, row_step + channels};
                T* target = out + (first + k) * channels;
                Vector<S> w[4];
                for (int n = 0; n < 4; ++n) w[n] = broadcast(squares.weight[n][k]);
                for (int64_t c = 0; c < channels; c += LANES) {
                    const int part = channels - c < LANES ? (int)(channels - c) : LANES;
                    Corners<S> v;
                    for (int n = 0; n < 4; ++n) v.at[n] = load_part(source + steps[n] + c, part);
                    store_part(target + c, weighted(v, w, squares.masks), part);
                }
            }
        }
    });
}

// LAST: channels last, (B, H, W, C) in memory; else planes.
template <typename T, int N, bool LAST>
void warp_taps(const T* image, const typename Accumulate<T>::type* flow, T* out, uint8_t* mask,
               Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane(), channels = size.channels;
    const int64_t step = LAST ? channels : 1, channel_step = LAST ? 1 : plane;
    for_rows(size, [=](int64_t b, int row) {
        Chunk<S, N> chunk;
        TapList<S, N> taps = {};
        const T* source = image + b * channels * plane;
        for (int column = 0; column < size.width; column += CHUNK) {
            prepare<N>(chunk, padding, flow + b * 2 * plane, size, row, column);
            const int64_t first = (int64_t)row * size.width + column;
            if (mask != nullptr) memcpy(mask + b * plane + first, chunk.inside, chunk.count);
            for (int k = 0; k < chunk.count; ++k) {
                list_taps(taps, chunk, k, size.width);
                T* target = out + b * channels * plane + (first + k) * step;
                if (LAST) {
                    for (int64_t c = 0; c < channels; c += LANES) {
                        const int part = channels - c < LANES ? (int)(channels - c) : LANES;
                        Vector<S> sum = broadcast((S)-0.0);
                        bool any = false;
                        for (int n = 0; n < taps.count; ++n) {
                            if (taps.weight[n] == 0) continue;
                            any = true;
                            sum += taps.weight[n] * load_part(source + taps.pixel[n] * step + c, part);
                        }
                        store_part(target + c, any ? sum : Vector<S>{}, part);
                    }
                } else {
                    for (int64_t c = 0; c < channels; ++c) {
                        S sum = (S)-0.0;
                        bool any = false;
                        for (int n = 0; n < taps.count; ++n) {
                            if (taps.weight[n] == 0) continue;
                            any = true;
                            sum += taps.weight[n] * widen(source[taps.pixel[n] + c * channel_step]);
                        }
                        target[c * channel_step] = narrow<T>(any ? sum : (S)0);
                    }
                }
            }
        }
    });
}

template <typename T, int N, bool LAST>
void warp(const Call& call) {
    typedef typename Accumulate<T>::type S;
    const T* image = static_cast<const T*>(call.image);
    const S* flow = static_cast<const S*>(call.flow);
    T* out = static_cast<T*>(call.out);
    if constexpr (N == BILINEAR) {
        if (has_squares(call.size, call.padding)) {
            auto warp_squares = LAST ? warp_pixels<T> : warp_planes<T>;
            return warp_squares(image, flow, out, call.mask, call.size, call.padding);
        }
    }
    warp_taps<T, N, LAST>(image, flow, out, call.mask, call.size, call.padding);
}

}  // namespace
}  // namespace flowwarp

// All three exported functions return 0, or 1 without doing anything where the dtype, mode or padding
// is unknown. `image`, `out` and their gradients are dense, planes or channels last; flow and its
// gradient are planes in fp32 (fp64 for fp64 images).

FW_EXPORT int fw_warp(int dtype, int mode, int padding, int channels_last, int64_t batch,
                      int64_t channels, int64_t height, int64_t width, const void* image,
                      const void* flow, void* out, uint8_t* mask) {
    using namespace flowwarp;
    Call call = call_of(padding, batch, channels, height, width, flow);
    call.image = image;
    call.out = out;
    call.mask = mask;
    return !with_instance(call, dtype, mode, channels_last, [&](auto instance) {
        typedef decltype(instance) I;
        warp<typename I::Pixel, I::TAPS, I::CHANNELS_LAST>(call);
    });
}
