// What the three CPU kernels of warping share: their arguments, the loop over rows, the taps of a
// row, and the choice of the template.
//
// Work is cut so that no result depends on the cut: a row of the output is always computed by one
// thread from left to right, and a pixel of the image gradient is always summed in the output's
// raster order, whichever thread owns its band of rows. No atomics.
#pragma once

// cpu.h first: the vector overloads must be known before the headers that use them.
#include "cpu.h"
#include "warping.h"

namespace flowwarp {

const int CHUNK = 256;          // pixels whose taps are prepared at once; they stay in L1
const int64_t GRAIN = 1 << 15;  // values a thread should get at least
const int AHEAD = LANES < 16 ? 2 : 1;  // rows to prefetch; 2 is untried on AVX-512

struct Size {
    int64_t batch, channels;
    int height, width;
    int64_t plane() const { return (int64_t)height * width; }
};

// The arguments of a kernel; which of the pointers are set depends on the kernel. `image`, `out`,
// `grad_out` and `grad_image` are (B, C, H, W), `flow` and `grad_flow` (B, 2, H, W), `mask`
// (B, 1, H, W).
struct Call {
    Size size;
    int padding, threads;
    const void *image, *flow, *grad_out;
    void *out, *grad_image, *grad_flow;
    uint8_t* mask;
};

// Call body(example, row) for every row of the output.
template <typename Body>
void for_rows(Size size, const Body& body) {
    const int64_t per_row = size.channels * size.width;
    parallel_for(size.batch * size.height, 1 + GRAIN / (per_row + 1), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task)
            body(task / size.height, (int)(task % size.height));
    });
}

// The taps of `count` neighbouring pixels of one row: N along x and N along y for each pixel. They are
// written LANES pixels at a time, so that up to LANES - 1 entries beyond `count` have no meaning.
template <typename S, int N>
struct Chunk {
    int count;
    alignas(64) int x[N][CHUNK];  // column and row that the tap reads
    alignas(64) int y[N][CHUNK];
    alignas(64) S wx[N][CHUNK];  // weights
    alignas(64) S wy[N][CHUNK];
    alignas(64) S sx[N][CHUNK];  // slopes: d wx / d u, d wy / d v
    alignas(64) S sy[N][CHUNK];
    alignas(64) uint8_t inside[CHUNK];  // the mask, 0 or 1
};

// Indices of pixels along an axis fit into 32 bits in fp64, too.
FW_HD Bits<float> narrow_index(Bits<float> index) { return index; }
FW_HD Bits<float> narrow_index(Bits<double> index) {
    return __builtin_convertvector(index, Bits<float>);
}

FW_HD void store_flags(uint8_t* to, Bits<float> mask) {
    // Through 16 bits: GCC converts straight to bytes lane by lane.
    typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    const Bytes flags = -__builtin_convertvector(__builtin_convertvector(mask, Shorts), Bytes);
    memcpy(to, &flags, sizeof flags);
}

// The taps of LANES pixels; unknown flow reads pixel 0 with weight and slope 0.
template <int N, typename S>
struct Taps {
    AxisTaps<Vector<S>, N> x, y;
    Bits<S> inside;
};

// One chunk of one row of an example's flow, LANES pixels at a time.
template <int N, int PAD, typename S>
struct Blocks {
    const S *u, *v;
    int width, height, row, column, count;

    Blocks(const S* flow, Size size, int row, int column)
        : u(flow + (int64_t)row * size.width + column),
          v(u + size.plane()),
          width(size.width),
          height(size.height),
          row(row),
          column(column),
          count(size.width - column < CHUNK ? size.width - column : CHUNK) {}

    FW_HD Taps<N, S> at(int k) const {
        typedef Vector<S> V;
        typedef Bits<S> I;
        const V du = load_part(u + k, count - k), dv = load_part(v + k, count - k);
        const I lanes = __builtin_convertvector(LANE_NUMBERS, I);
        const Position<V> px = position<V>(lanes + (column + k), du);
        const Position<V> py = position<V>(I{} + row, dv);
        const I finite = is_finite(du) & is_finite(dv);
        Taps<N, S> taps;
        taps.x = TapsOf<N, PAD, V>::at(px, width);
        taps.y = TapsOf<N, PAD, V>::at(py, height);
        taps.inside = finite & is_inside<PAD>(px, width) & is_inside<PAD>(py, height);
        for (int n = 0; n < N; ++n) {
            taps.x.index[n] = select(finite, taps.x.index[n], I{});
            taps.y.index[n] = select(finite, taps.y.index[n], I{});
            taps.x.weight[n] = select(finite, taps.x.weight[n], V{});
            taps.y.weight[n] = select(finite, taps.y.weight[n], V{});
            taps.x.slope[n] = select(finite, taps.x.slope[n], V{});
            taps.y.slope[n] = select(finite, taps.y.slope[n], V{});
        }
        return taps;
    }
};

template <int N, int PAD, typename S>
void prepare_padded(Chunk<S, N>& chunk, const S* flow, Size size, int row, int column) {
    Blocks<N, PAD, S> blocks(flow, size, row, column);
    chunk.count = blocks.count;
    for (int k = 0; k < blocks.count; k += LANES) {
        const Taps<N, S> taps = blocks.at(k);
        for (int n = 0; n < N; ++n) {
            const Bits<float> x = narrow_index(taps.x.index[n]), y = narrow_index(taps.y.index[n]);
            memcpy(chunk.x[n] + k, &x, sizeof x);
            memcpy(chunk.y[n] + k, &y, sizeof y);
            store(chunk.wx[n] + k, taps.x.weight[n]);
            store(chunk.wy[n] + k, taps.y.weight[n]);
            store(chunk.sx[n] + k, taps.x.slope[n]);
            store(chunk.sy[n] + k, taps.y.slope[n]);
        }
        store_flags(chunk.inside + k, narrow_index(taps.inside));
    }
}

// `flow` is one example's, (2, H, W); from here on nothing depends on the padding.
template <int N, typename S>
void prepare(Chunk<S, N>& chunk, int padding, const S* flow, Size size, int row, int column) {
    with_padding(padding, [&](auto pad) {
        prepare_padded<N, decltype(pad)::value>(chunk, flow, size, row, column);
    });
}

// The N x N taps of one pixel, without those whose weight and slopes are 0: these must not be read,
// as 0 * inf is NaN.
template <typename S, int N>
struct TapList {
    int count;
    int64_t pixel[N * N];
    S weight[N * N], du[N * N], dv[N * N];
};

template <typename S, int N>
FW_HD void list_taps(TapList<S, N>& list, const Chunk<S, N>& chunk, int k, int width) {
    list.count = 0;
    for (int j = 0; j < N; ++j)
        for (int i = 0; i < N; ++i) {
            const S weight = chunk.wy[j][k] * chunk.wx[i][k];
            const S du = chunk.wy[j][k] * chunk.sx[i][k], dv = chunk.sy[j][k] * chunk.wx[i][k];
            if (weight == 0 && du == 0 && dv == 0) continue;
            const int n = list.count++;
            list.pixel[n] = (int64_t)chunk.y[j][k] * width + chunk.x[i][k];
            list.weight[n] = weight;
            list.du[n] = du;
            list.dv[n] = dv;
        }
}

// ---------------------------------------------------------------- choosing the template

// An instantiation of a kernel: the type of the pixels, the taps along an axis, and whether memory
// is channels last, (B, H, W, C), or planes, (B, C, H, W).
template <typename T, int N, bool LAST>
struct Instance {
    typedef T Pixel;
    static constexpr int TAPS = N;
    static constexpr bool CHANNELS_LAST = LAST;
};

template <typename T, int N, typename Body>
bool with_layout(int channels_last, const Body& body) {
    if (channels_last)
        body(Instance<T, N, true>());
    else
        body(Instance<T, N, false>());
    return true;
}

template <typename T, typename Body>
bool with_mode(int mode, int channels_last, const Body& body) {
    switch (mode) {
        case NEAREST: return with_layout<T, NEAREST>(channels_last, body);
        case BILINEAR: return with_layout<T, BILINEAR>(channels_last, body);
        case BICUBIC: return with_layout<T, BICUBIC>(channels_last, body);
    }
    return false;
}

// Call body(Instance<...>()) for types that are known at run time only; false, and no call, where
// the dtype, mode or padding is unknown. An image without pixels needs no call.
template <typename Body>
bool with_instance(const Call& call, int dtype, int mode, int channels_last, const Body& body) {
    if (!with_padding(call.padding, [](auto) {})) return false;
    if (call.size.batch * call.size.plane() == 0) return true;
    switch (dtype) {
        case FLOAT32: return with_mode<float>(mode, channels_last, body);
        case FLOAT64: return with_mode<double>(mode, channels_last, body);
        case FLOAT16: return with_mode<half_t>(mode, channels_last, body);
        case BFLOAT16: return with_mode<bfloat_t>(mode, channels_last, body);
    }
    return false;
}

inline Call call_of(int padding, int64_t batch, int64_t channels, int64_t height, int64_t width,
             const void* flow) {
    Call call = {};
    call.size = {batch, channels, (int)height, (int)width};
    call.padding = padding;
    call.flow = flow;
    return call;
}

}  // namespace flowwarp
