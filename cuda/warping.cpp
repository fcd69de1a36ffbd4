// Warping on the CPU: gather (warp), its flow gradient, and its image gradient (which is also splat).
//
// Work is cut so that no result depends on the cut: a row of the output is always computed by one
// thread from left to right, and a pixel of the image gradient is always summed in the output's
// raster order, whichever thread owns its band of rows. No atomics.
#include "warping.h"

#include "cpu.h"

namespace flowwarp {
namespace {

const int CHUNK = 256;          // pixels whose taps are prepared at once; they stay in L1
const int64_t GRAIN = 1 << 15;  // values a thread should get at least
const int GROUP = 8;            // channels scattered together: independent sums hide latency

struct Size {
    int64_t batch, channels;
    int height, width;
    int64_t plane() const { return (int64_t)height * width; }
};

// Taps of one chunk of one row, as arrays so that the compiler can vectorise over pixels.
template <typename S, int N>
struct Chunk {
    int count;
    bool masks;          // some weight is exactly 0: that tap must not be read
    alignas(64) int x[N][CHUNK];
    alignas(64) int y[N][CHUNK];
    alignas(64) S wx[N][CHUNK];
    alignas(64) S wy[N][CHUNK];
    alignas(64) S sx[N][CHUNK];
    alignas(64) S sy[N][CHUNK];
    alignas(64) uint8_t inside[CHUNK];
};

template <int N, int PAD, typename S>
void prepare_padded(Chunk<S, N>& chunk, const S* flow, Size size, int row, int column) {
    const int count = size.width - column < CHUNK ? size.width - column : CHUNK;
    const S* u = flow + (int64_t)row * size.width + column;
    const S* v = u + size.plane();
    chunk.count = count;
    for (int k = 0; k < count; ++k) {
        const Position<S> px = position(column + k, u[k]), py = position(row, v[k]);
        const AxisTaps<S, N> tx = TapsOf<N, PAD, S>::at(px, size.width);
        const AxisTaps<S, N> ty = TapsOf<N, PAD, S>::at(py, size.height);
        const bool finite = is_finite(u[k]) & is_finite(v[k]);
        chunk.inside[k] = finite & is_inside(px, size.width) & is_inside(py, size.height);
        for (int n = 0; n < N; ++n) {
            chunk.x[n][k] = finite ? tx.index[n] : 0;
            chunk.y[n][k] = finite ? ty.index[n] : 0;
            chunk.wx[n][k] = finite ? tx.weight[n] : 0;
            chunk.wy[n][k] = finite ? ty.weight[n] : 0;
            chunk.sx[n][k] = finite ? tx.slope[n] : 0;
            chunk.sy[n][k] = finite ? ty.slope[n] : 0;
        }
    }
    for (int n = 0; n < N; ++n)  // lanes of the last block that no pixel fills
        for (int k = count; k < CHUNK && k % LANES != 0; ++k) {
            chunk.x[n][k] = chunk.y[n][k] = 0;
            chunk.wx[n][k] = chunk.wy[n][k] = chunk.sx[n][k] = chunk.sy[n][k] = 0;
        }
    int zero = 0;
    for (int n = 0; n < N; ++n)
        for (int k = 0; k < count; ++k) zero |= (chunk.wx[n][k] == 0) | (chunk.wy[n][k] == 0);
    chunk.masks = zero != 0;
}

// `flow` is one example's; from here on nothing depends on the padding.
template <int N, typename S>
void prepare(Chunk<S, N>& chunk, int padding, const S* flow, Size size, int row, int column) {
    if (padding == BORDER) prepare_padded<N, BORDER>(chunk, flow, size, row, column);
    if (padding == ZEROS) prepare_padded<N, ZEROS>(chunk, flow, size, row, column);
    if (padding == REFLECTION) prepare_padded<N, REFLECTION>(chunk, flow, size, row, column);
}

// ---------------------------------------------------------------- bilinear, planes (B, C, H, W)

// The 2 x 2 squares of one chunk: their top-left offset in the plane, and whether a block of LANES
// pixels reads LANES neighbouring squares, so that plain loads serve (smooth flow: nearly always).
template <typename S>
struct Squares {
    alignas(64) int offset[CHUNK];
    alignas(64) S weight[4][CHUNK];
    bool run[CHUNK / LANES];
};

template <typename S>
void make_squares(Squares<S>& squares, const Chunk<S, 2>& chunk, int width) {
    const int padded = (chunk.count + LANES - 1) / LANES * LANES;
    for (int k = 0; k < padded; ++k) {
        squares.offset[k] = chunk.y[0][k] * width + chunk.x[0][k];
        for (int n = 0; n < 4; ++n)
            squares.weight[n][k] = chunk.wy[n / 2][k] * chunk.wx[n % 2][k];
    }
    for (int block = 0; block * LANES < padded; ++block) {
        const int* offset = squares.offset + block * LANES;
        int broken = block * LANES + LANES > chunk.count;
        for (int k = 0; k < LANES; ++k) broken |= offset[k] - offset[0] - k;
        squares.run[block] = broken == 0;
    }
}

// The four corners of LANES squares.
template <typename S>
struct Corners {
    Vector<S> at[4];
};

template <typename T, typename S>
FW_HD void load_pairs(const T* plane, const int* offset, Vector<S>& left, Vector<S>& right) {
    S a[LANES], b[LANES];
    for (int k = 0; k < LANES; ++k) {
        a[k] = widen(plane[offset[k]]);
        b[k] = widen(plane[offset[k] + 1]);
    }
    left = load(a);
    right = load(b);
}

template <typename T, typename S>
FW_HD Corners<S> load_corners(const T* plane, const int* offset, bool run, int width) {
    Corners<S> corners;
    if (run) {
        const T* top = plane + offset[0];
        corners.at[0] = load(top);
        corners.at[1] = load(top + 1);
        corners.at[2] = load(top + width);
        corners.at[3] = load(top + width + 1);
    } else {
        load_pairs<T, S>(plane, offset, corners.at[0], corners.at[1]);
        load_pairs<T, S>(plane + width, offset, corners.at[2], corners.at[3]);
    }
    return corners;
}

// A tap of weight 0 is not read: its value becomes -0.0, the identity of addition (so that even
// -0.0 comes back as it was), and inf or NaN beside the sample cannot leak in.
template <typename S>
FW_HD Vector<S> masked(Vector<S> value, Vector<S> weight) {
    return weight == 0 ? broadcast((S)-0.0) : value;
}

template <typename T>
void warp_planes(const T* image, const typename Accumulate<T>::type* flow, T* out, uint8_t* mask,
                 Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane(), per_row = (int64_t)size.channels * width;
    parallel_for(size.batch * size.height, 1 + GRAIN / (per_row + 1), [=](int64_t begin, int64_t end) {
        Chunk<S, 2> chunk;
        Squares<S> squares;
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / size.height;
            const int row = (int)(task % size.height);
            for (int column = 0; column < width; column += CHUNK) {
                prepare<2>(chunk, padding, flow + b * 2 * plane, size, row, column);
                make_squares(squares, chunk, width);
                const int64_t to = (int64_t)row * width + column;
                if (mask != nullptr) memcpy(mask + b * plane + to, chunk.inside, chunk.count);
                for (int64_t c = 0; c < size.channels; ++c) {
                    const T* source = image + (b * size.channels + c) * plane;
                    T* target = out + (b * size.channels + c) * plane + to;
                    for (int k = 0; k < chunk.count; k += LANES) {
                        Corners<S> v = load_corners<T, S>(source, squares.offset + k,
                                                          squares.run[k / LANES], width);
                        Vector<S> w[4];
                        for (int n = 0; n < 4; ++n) w[n] = load(squares.weight[n] + k);
                        Vector<S> sum;
                        if (chunk.masks) {
                            for (int n = 0; n < 4; ++n) v.at[n] = masked<S>(v.at[n], w[n]);
                            sum = v.at[0] * w[0] + v.at[1] * w[1] + v.at[2] * w[2] + v.at[3] * w[3];
                            Vector<S> total = w[0] + w[1] + w[2] + w[3];
                            sum = total == 0 ? Vector<S>{} : sum;
                        } else {
                            sum = v.at[0] * w[0] + v.at[1] * w[1] + v.at[2] * w[2] + v.at[3] * w[3];
                        }
                        store_part(target + k, sum, chunk.count - k);
                    }
                }
            }
        }
    });
}

template <typename T>
void flow_gradient_planes(const T* image, const typename Accumulate<T>::type* flow, const T* grad_out,
                          typename Accumulate<T>::type* grad_flow, Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane(), per_row = (int64_t)size.channels * width;
    parallel_for(size.batch * size.height, 1 + GRAIN / (per_row + 1), [=](int64_t begin, int64_t end) {
        Chunk<S, 2> chunk;
        Squares<S> squares;
        alignas(64) S du[CHUNK], dv[CHUNK];
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / size.height;
            const int row = (int)(task % size.height);
            for (int column = 0; column < width; column += CHUNK) {
                prepare<2>(chunk, padding, flow + b * 2 * plane, size, row, column);
                make_squares(squares, chunk, width);
                const int64_t to = (int64_t)row * width + column;
                memset(du, 0, sizeof du);
                memset(dv, 0, sizeof dv);
                for (int64_t c = 0; c < size.channels; ++c) {
                    const T* source = image + (b * size.channels + c) * plane;
                    const T* grad = grad_out + (b * size.channels + c) * plane + to;
                    for (int k = 0; k < chunk.count; k += LANES) {
                        const Corners<S> v = load_corners<T, S>(source, squares.offset + k,
                                                                squares.run[k / LANES], width);
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
                memcpy(grad_flow + b * 2 * plane + to, du, chunk.count * sizeof(S));
                memcpy(grad_flow + (b * 2 + 1) * plane + to, dv, chunk.count * sizeof(S));
            }
        }
    });
}

// ---------------------------------------------------------------- image gradient, which is splat

// The rows of the image that each row of the output touches, so that a band of the image looks only
// at the rows that may reach it. Pairs (first, last); first > last where a row touches none.
template <int N, int PAD, typename S>
void touched_rows_padded(const S* flow, Size size, int* ranges) {
    const int64_t plane = size.plane();
    parallel_for(size.batch * size.height, 1 + GRAIN / (size.width + 1), [=](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
            const int row = (int)(task % size.height);
            const S* v = flow + (task / size.height * 2 + 1) * plane + (int64_t)row * size.width;
            int first = size.height, last = -1;
            for (int k = 0; k < size.width; ++k) {
                const AxisTaps<S, N> taps = TapsOf<N, PAD, S>::at(position(row, v[k]), size.height);
                for (int n = 0; n < N; ++n) {
                    const bool used = is_finite(v[k]) & (taps.weight[n] != 0);
                    first = used & (taps.index[n] < first) ? taps.index[n] : first;
                    last = used & (taps.index[n] > last) ? taps.index[n] : last;
                }
            }
            ranges[2 * task] = first;
            ranges[2 * task + 1] = last;
        }
    });
}

template <int N, typename S>
void touched_rows(int padding, const S* flow, Size size, int* ranges) {
    if (padding == BORDER) touched_rows_padded<N, BORDER>(flow, size, ranges);
    if (padding == ZEROS) touched_rows_padded<N, ZEROS>(flow, size, ranges);
    if (padding == REFLECTION) touched_rows_padded<N, REFLECTION>(flow, size, ranges);
}

// A band of rows of some channels of one example; `to` is its first row.
struct Band {
    int first, last;  // rows [first, last)
    bool owns(int row) const { return (row >= first) & (row < last); }
};

// Add LANES neighbouring squares' worth of one row: `left` at to[0..15], `right` one further. Both
// are joined in registers first; what falls on to[16] is carried to the next block of a run.
template <typename S>
struct Carry {
    S* at = nullptr;
    S value = 0;
    FW_HD void flush() {
        if (at != nullptr) *at += value;
        at = nullptr;
    }
    FW_HD void add_run(S* to, Vector<S> left, Vector<S> right) {
        const bool joins = at == to;
        if (!joins) flush();
        S shifted[LANES + 1];
        shifted[0] = joins ? value : (S)0;
        store(shifted + 1, right);
        store(to, load(to) + (left + load(shifted)));
        at = to + LANES;
        value = shifted[LANES];
    }
};

template <typename S>
FW_HD void add_pair(S* to, const S* pair) {
    typedef S Pair __attribute__((vector_size(2 * sizeof(S))));
    const Pair sum = load_as<Pair>(to) + load_as<Pair>(pair);
    memcpy(to, &sum, sizeof sum);
}

// Sum the rows of one example's output into the band `sums` (rows of `width`, `channels` planes).
template <typename T>
void scatter_band(const typename Accumulate<T>::type* flow, const T* grad_out, Size size, int padding,
                  const int* ranges, Band band, typename Accumulate<T>::type* sums, int channels,
                  int64_t sums_plane) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane();
    Chunk<S, 2> chunk;
    Squares<S> squares;
    for (int row = 0; row < size.height; ++row) {
        if ((ranges[2 * row] >= band.last) | (ranges[2 * row + 1] < band.first)) continue;
        for (int column = 0; column < width; column += CHUNK) {
            prepare<2>(chunk, padding, flow, size, row, column);
            make_squares(squares, chunk, width);
            const T* grad = grad_out + (int64_t)row * width + column;
            Carry<S> carry[GROUP][2];
            for (int k = 0; k < chunk.count; k += LANES) {
                if (squares.run[k / LANES]) {
                    const int top = chunk.y[0][k];
                    const int64_t to = (int64_t)(top - band.first) * width + chunk.x[0][k];
                    Vector<S> w[4];
                    for (int n = 0; n < 4; ++n) w[n] = load(squares.weight[n] + k);
                    for (int c = 0; c < channels; ++c) {
                        const Vector<S> g = load(grad + c * plane + k);
                        Vector<S> part[4];
                        for (int n = 0; n < 4; ++n)  // a tap of weight 0 gets nothing, not 0 * inf
                            part[n] = w[n] == 0 ? Vector<S>{} : g * w[n];
                        S* target = sums + c * sums_plane + to;
                        if (band.owns(top)) carry[c][0].add_run(target, part[0], part[1]);
                        if (band.owns(top + 1)) carry[c][1].add_run(target + width, part[2], part[3]);
                    }
                    continue;
                }
                for (int c = 0; c < channels; ++c) {
                    carry[c][0].flush();
                    carry[c][1].flush();
                }
                const int end = k + LANES < chunk.count ? k + LANES : chunk.count;
                for (int p = k; p < end; ++p) {
                    const int top = chunk.y[0][p];
                    const S w[4] = {squares.weight[0][p], squares.weight[1][p],
                                    squares.weight[2][p], squares.weight[3][p]};
                    const bool upper = band.owns(top) & ((w[0] != 0) | (w[1] != 0));
                    const bool lower = band.owns(top + 1) & ((w[2] != 0) | (w[3] != 0));
                    S* target = sums + (int64_t)(top - band.first) * width + chunk.x[0][p];
                    for (int c = 0; c < channels; ++c, target += sums_plane) {
                        const S g = widen(grad[c * plane + p]);
                        const S part[4] = {w[0] == 0 ? 0 : g * w[0], w[1] == 0 ? 0 : g * w[1],
                                           w[2] == 0 ? 0 : g * w[2], w[3] == 0 ? 0 : g * w[3]};
                        if (upper) add_pair(target, part);
                        if (lower) add_pair(target + width, part + 2);
                    }
                }
            }
            for (int c = 0; c < channels; ++c) {
                carry[c][0].flush();
                carry[c][1].flush();
            }
        }
    }
}

// ---------------------------------------------------------------- any number of taps, any layout

// The taps of one pixel, those of weight and slope 0 left out.
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

// LAST: channels last, (B, H, W, C) in memory; else planes.
template <typename T, int N, bool LAST>
void warp_taps(const T* image, const typename Accumulate<T>::type* flow, T* out, uint8_t* mask,
               Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane(), channels = size.channels;
    const int64_t step = LAST ? channels : 1, channel_step = LAST ? 1 : plane;
    const int64_t grain = 1 + GRAIN / (channels * size.width + 1);
    parallel_for(size.batch * size.height, grain, [=](int64_t begin, int64_t end) {
        Chunk<S, N> chunk;
        TapList<S, N> taps = {};
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / size.height;
            const int row = (int)(task % size.height);
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
        }
    });
}

template <typename T, int N, bool LAST>
void flow_gradient_taps(const T* image, const typename Accumulate<T>::type* flow, const T* grad_out,
                        typename Accumulate<T>::type* grad_flow, Size size, int padding) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane(), channels = size.channels;
    const int64_t step = LAST ? channels : 1, channel_step = LAST ? 1 : plane;
    const int64_t grain = 1 + GRAIN / (channels * size.width + 1);
    parallel_for(size.batch * size.height, grain, [=](int64_t begin, int64_t end) {
        Chunk<S, N> chunk;
        TapList<S, N> taps = {};
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / size.height;
            const int row = (int)(task % size.height);
            const T* source = image + b * channels * plane;
            for (int column = 0; column < size.width; column += CHUNK) {
                prepare<N>(chunk, padding, flow + b * 2 * plane, size, row, column);
                for (int k = 0; k < chunk.count; ++k) {
                    list_taps(taps, chunk, k, size.width);
                    const int64_t pixel = (int64_t)row * size.width + column + k;
                    const T* grad = grad_out + b * channels * plane + pixel * step;
                    S du = 0, dv = 0;
                    if (LAST) {
                        Vector<S> u_sum = {}, v_sum = {};
                        for (int64_t c = 0; c < channels; c += LANES) {
                            const int part = channels - c < LANES ? (int)(channels - c) : LANES;
                            Vector<S> u_slope = {}, v_slope = {};
                            for (int n = 0; n < taps.count; ++n) {
                                const Vector<S> value = load_part(source + taps.pixel[n] * step + c, part);
                                u_slope += taps.du[n] * value;
                                v_slope += taps.dv[n] * value;
                            }
                            const Vector<S> g = load_part(grad + c, part);
                            u_sum += g * u_slope;
                            v_sum += g * v_slope;
                        }
                        for (int lane = 0; lane < LANES; ++lane) {
                            du += u_sum[lane];
                            dv += v_sum[lane];
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
                    grad_flow[b * 2 * plane + pixel] = du;
                    grad_flow[(b * 2 + 1) * plane + pixel] = dv;
                }
            }
        }
    });
}

// Like scatter_band; `step` and `channel_step` give the layout of grad_out, `sums_*` that of sums.
template <typename T, int N, bool LAST>
void scatter_band_taps(const typename Accumulate<T>::type* flow, const T* grad_out, Size size, int padding,
                       const int* ranges, Band band, typename Accumulate<T>::type* sums,
                       int64_t channels, int64_t sums_plane) {
    typedef typename Accumulate<T>::type S;
    const int64_t plane = size.plane();
    Chunk<S, N> chunk;
    TapList<S, N> taps = {};
    for (int row = 0; row < size.height; ++row) {
        if ((ranges[2 * row] >= band.last) | (ranges[2 * row + 1] < band.first)) continue;
        for (int column = 0; column < size.width; column += CHUNK) {
            prepare<N>(chunk, padding, flow, size, row, column);
            for (int k = 0; k < chunk.count; ++k) {
                list_taps(taps, chunk, k, size.width);
                const int64_t pixel = (int64_t)row * size.width + column + k;
                for (int n = 0; n < taps.count; ++n) {
                    const int target_row = (int)(taps.pixel[n] / size.width);
                    if (!band.owns(target_row) || taps.weight[n] == 0) continue;
                    const int64_t to = taps.pixel[n] - (int64_t)band.first * size.width;
                    const S weight = taps.weight[n];
                    if (LAST) {
                        const T* grad = grad_out + pixel * channels;
                        S* target = sums + to * channels;
                        for (int64_t c = 0; c < channels; ++c) target[c] += weight * widen(grad[c]);
                    } else {
                        for (int64_t c = 0; c < channels; ++c)
                            sums[c * sums_plane + to] += weight * widen(grad_out[c * plane + pixel]);
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------- cutting the image gradient

const int64_t SCRATCH = 1 << 18;  // fp32 sums kept at once by a thread that writes half precision

// Gradients of the image: zero a band, sum into it, and (half precision) narrow it.
template <typename T, int N, bool LAST>
void image_gradient(const typename Accumulate<T>::type* flow, const T* grad_out, T* grad_image,
                    Size size, int padding, int threads) {
    typedef typename Accumulate<T>::type S;
    const bool direct = sizeof(T) == sizeof(S);
    const bool squares = N == 2 && !LAST && size.width > 1 && size.height > 1;
    const int64_t plane = size.plane(), channels = size.channels;
    const int64_t group = LAST ? channels : (channels < GROUP ? channels : GROUP);
    const int64_t groups = (channels + group - 1) / group;
    const int64_t units = size.batch * groups;
    int64_t bands = units % threads == 0 || units >= 4 * threads ? 1 : threads;
    if (!direct) {
        const int64_t for_scratch = (group * plane + SCRATCH - 1) / SCRATCH;
        bands = bands > for_scratch ? bands : for_scratch;
    }
    bands = bands < size.height ? bands : size.height;

    int* ranges = static_cast<int*>(malloc(2 * sizeof(int) * size.batch * size.height));
    touched_rows<N>(padding, flow, size, ranges);
    parallel_for(units * bands, 1, [=](int64_t begin, int64_t end) {
        S* scratch = nullptr;
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / bands / groups, first_channel = task / bands % groups * group;
            const int64_t count = channels - first_channel < group ? channels - first_channel : group;
            Band band;
            band.first = (int)(size.height * (task % bands) / bands);
            band.last = (int)(size.height * (task % bands + 1) / bands);
            const int64_t rows = (int64_t)(band.last - band.first) * size.width;
            const int64_t origin = LAST ? (b * plane + (int64_t)band.first * size.width) * channels
                                        : (b * channels + first_channel) * plane +
                                              (int64_t)band.first * size.width;
            if (!direct && scratch == nullptr) {
                const int64_t most = (size.height + bands - 1) / bands * size.width * group;
                scratch = static_cast<S*>(malloc(sizeof(S) * most));
            }
            // Channels-last sums are one piece; planes are `count` pieces of `rows`.
            S* sums = direct ? reinterpret_cast<S*>(grad_image + origin) : scratch;
            const int64_t sums_plane = direct ? plane : rows;
            const int64_t pieces = LAST ? 1 : count, length = LAST ? rows * channels : rows;
            for (int64_t p = 0; p < pieces; ++p) memset(sums + p * sums_plane, 0, length * sizeof(S));

            const S* example_flow = flow + b * 2 * plane;
            const T* grad = grad_out + (LAST ? b * plane * channels : (b * channels + first_channel) * plane);
            const int* example_ranges = ranges + 2 * b * size.height;
            if constexpr (N == 2 && !LAST) {
                if (squares) {
                    scatter_band<T>(example_flow, grad, size, padding, example_ranges, band, sums,
                                         (int)count, sums_plane);
                }
            }
            if (!squares) {
                scatter_band_taps<T, N, LAST>(example_flow, grad, size, padding, example_ranges, band,
                                                   sums, count, sums_plane);
            }
            if (!direct) {
                for (int64_t p = 0; p < pieces; ++p)
                    for (int64_t k = 0; k < length; ++k)
                        grad_image[origin + p * plane + k] = narrow<T>((float)sums[p * sums_plane + k]);
            }
        }
        free(scratch);
    });
    free(ranges);
}

// ---------------------------------------------------------------- choosing the template

struct Call {
    const void *image, *flow, *grad_out;
    void *out, *grad;
    uint8_t* mask;
    Size size;
    int padding, threads;
};
enum Job { WARP, FLOW_GRADIENT, IMAGE_GRADIENT };

template <typename T, int N, bool LAST>
void run(Job job, const Call& call) {
    typedef typename Accumulate<T>::type S;
    const T* image = static_cast<const T*>(call.image);
    const S* flow = static_cast<const S*>(call.flow);
    const T* grad_out = static_cast<const T*>(call.grad_out);
    T* out = static_cast<T*>(call.out);
    S* grad_flow = static_cast<S*>(call.grad);
    if (job == IMAGE_GRADIENT) {
        image_gradient<T, N, LAST>(flow, grad_out, static_cast<T*>(call.grad), call.size,
                                   call.padding, call.threads);
        return;
    }
    if constexpr (N == 2 && !LAST) {
        if (call.size.width > 1 && call.size.height > 1) {
            if (job == WARP)
                warp_planes<T>(image, flow, out, call.mask, call.size, call.padding);
            else
                flow_gradient_planes<T>(image, flow, grad_out, grad_flow, call.size, call.padding);
            return;
        }
    }
    if (job == WARP)
        warp_taps<T, N, LAST>(image, flow, out, call.mask, call.size, call.padding);
    else
        flow_gradient_taps<T, N, LAST>(image, flow, grad_out, grad_flow, call.size, call.padding);
}

template <typename T, int N>
void choose_layout(Job job, bool last, const Call& call) {
    last ? run<T, N, true>(job, call) : run<T, N, false>(job, call);
}

template <typename T>
void choose_mode(Job job, int mode, bool last, const Call& call) {
    if (mode == NEAREST) choose_layout<T, NEAREST>(job, last, call);
    if (mode == BILINEAR) choose_layout<T, BILINEAR>(job, last, call);
    if (mode == BICUBIC) choose_layout<T, BICUBIC>(job, last, call);
}

void choose(Job job, int dtype, int mode, int last, const Call& call) {
    if (call.size.batch * call.size.plane() == 0) return;
    if (dtype == FLOAT32) choose_mode<float>(job, mode, last, call);
    if (dtype == FLOAT64) choose_mode<double>(job, mode, last, call);
    if (dtype == FLOAT16) choose_mode<half_t>(job, mode, last, call);
    if (dtype == BFLOAT16) choose_mode<bfloat_t>(job, mode, last, call);
}

}  // namespace
}  // namespace flowwarp

// `image` and `grad_out` are dense, planes or channels last; flow is fp32 (fp64 for fp64 images).

FW_EXPORT void fw_warp(int dtype, int mode, int padding, int channels_last, int64_t batch,
                       int64_t channels, int64_t height, int64_t width, const void* image,
                       const void* flow, void* out, uint8_t* mask) {
    flowwarp::Call call = {};
    call.size = {batch, channels, (int)height, (int)width};
    call.padding = padding;
    call.image = image;
    call.flow = flow;
    call.out = out;
    call.mask = mask;
    flowwarp::choose(flowwarp::WARP, dtype, mode, channels_last, call);
}

FW_EXPORT void fw_warp_flow_gradient(int dtype, int mode, int padding, int channels_last,
                                     int64_t batch, int64_t channels, int64_t height, int64_t width,
                                     const void* image, const void* flow, const void* grad_out,
                                     void* grad_flow) {
    flowwarp::Call call = {};
    call.size = {batch, channels, (int)height, (int)width};
    call.padding = padding;
    call.image = image;
    call.flow = flow;
    call.grad_out = grad_out;
    call.grad = grad_flow;
    flowwarp::choose(flowwarp::FLOW_GRADIENT, dtype, mode, channels_last, call);
}

FW_EXPORT void fw_warp_image_gradient(int dtype, int mode, int padding, int channels_last,
                                      int64_t batch, int64_t channels, int64_t height, int64_t width,
                                      const void* flow, const void* grad_out, void* grad_image,
                                      int threads) {
    flowwarp::Call call = {};
    call.size = {batch, channels, (int)height, (int)width};
    call.padding = padding;
    call.flow = flow;
    call.grad_out = grad_out;
    call.grad = grad_image;
    call.threads = threads;
    flowwarp::choose(flowwarp::IMAGE_GRADIENT, dtype, mode, channels_last, call);
}
