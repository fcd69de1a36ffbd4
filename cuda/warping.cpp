// Warping on the CPU: gather (warp), its flow gradient, and its image gradient (which is also splat).
//
// Work is cut so that no result depends on the cut: a row of the output is always computed by one
// thread from left to right, and a pixel of the image gradient is always summed in the output's
// raster order, whichever thread owns its band of rows. No atomics.

// cpu.h first: the vector overloads must be known before the headers that use them.
#include "cpu.h"
#include "warping.h"

namespace flowwarp {
namespace {

const int CHUNK = 256;          // pixels whose taps are prepared at once; they stay in L1
const int64_t GRAIN = 1 << 15;  // values a thread should get at least
const int AHEAD = LANES < 16 ? 2 : 1;  // rows that memory is asked for early; 2 is untried on AVX-512
const int64_t SCRATCH = 3 << 20;  // bytes of sums that all threads together keep

struct Size {
    int64_t batch, channels;
    int height, width;
    int64_t plane() const { return (int64_t)height * width; }
};

// Whether there are squares of 2 x 2 pixels, and offsets of theirs fit into an int.
bool has_squares(Size size) { return size.width > 1 && size.height > 1 && size.plane() <= INT32_MAX; }

// Call body(example, row) for every row of the output.
template <typename Body>
void for_rows(Size size, const Body& body) {
    const int64_t per_row = size.channels * size.width;
    parallel_for(size.batch * size.height, 1 + GRAIN / (per_row + 1), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task)
            body(task / size.height, (int)(task % size.height));
    });
}

// Taps of one chunk of one row, as arrays; lanes of the last block that no pixel fills are harmless.
template <typename S, int N>
struct Chunk {
    int count;
    alignas(64) int x[N][CHUNK];
    alignas(64) int y[N][CHUNK];
    alignas(64) S wx[N][CHUNK];
    alignas(64) S wy[N][CHUNK];
    alignas(64) S sx[N][CHUNK];
    alignas(64) S sy[N][CHUNK];
    alignas(64) uint8_t inside[CHUNK];
};

FW_HD Bits<float> narrow_index(Bits<float> index) { return index; }
FW_HD Bits<float> narrow_index(Bits<double> index) {
    return __builtin_convertvector(index, Bits<float>);
}

FW_HD void store_flags(uint8_t* to, Bits<float> mask) {
    // By way of 16 bits: straight to bytes, GCC goes lane by lane.
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
        taps.inside = finite & is_inside(px, width) & is_inside(py, height);
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

// `flow` is one example's; from here on nothing depends on the padding.
template <int N, typename S>
void prepare(Chunk<S, N>& chunk, int padding, const S* flow, Size size, int row, int column) {
    if (padding == BORDER) prepare_padded<N, BORDER>(chunk, flow, size, row, column);
    if (padding == ZEROS) prepare_padded<N, ZEROS>(chunk, flow, size, row, column);
    if (padding == REFLECTION) prepare_padded<N, REFLECTION>(chunk, flow, size, row, column);
}

// ---------------------------------------------------------------- bilinear, planes (B, C, H, W)

// The 2 x 2 squares that a chunk reads, by the offset of their top-left pixel in the plane. Flow
// being smooth, neighbours mostly read neighbours: a block of LANES pixels falls into few runs of
// consecutive offsets, which plain loads and stores of whole vectors serve.
struct Runs {
    alignas(64) int offset[CHUNK];
    unsigned starts[CHUNK / LANES];  // bit k: a run starts at lane k; SCATTERED: too many runs
};
const unsigned SCATTERED = 0xffffffffu;
const int MOST_RUNS = LANES / 4;

FW_HD void find_runs(Runs& runs, int k, Bits<float> x, Bits<float> y, int width) {
    const Bits<float> offset = y * width + x;
    memcpy(runs.offset + k, &offset, sizeof offset);
    const Bits<float> before = pick<LANES - 1, 1>(offset, offset);
    const unsigned starts = lane_bits(offset != before + 1) | 1u;
    // A run is served by all lanes, those before and after it included: they must be in its row.
    const Bits<float> first = x - LANE_NUMBERS;
    const bool fits = lane_bits((first < 0) | (first + LANES >= width)) == 0;
    runs.starts[k / LANES] = fits && __builtin_popcount(starts) <= MOST_RUNS ? starts : SCATTERED;
}

// Call body(first lane, mask of lanes) for each run.
template <typename Body>
FW_HD void for_runs(unsigned starts, const Body& body) {
    while (starts != 0) {
        const int first = __builtin_ctz(starts);
        starts &= starts - 1;
        const int end = starts != 0 ? __builtin_ctz(starts) : LANES;
        body(first, (LANE_NUMBERS >= first) & (LANE_NUMBERS < end));
    }
}

template <typename S>
struct Squares {
    int count;
    bool inside_wanted = false;  // by a mask
    bool masks;  // some weight is exactly 0: that tap must not be read
    Runs runs;
    alignas(64) S weight[4][CHUNK];
    alignas(64) uint8_t inside[CHUNK];
};

template <int PAD, typename S>
void make_squares_padded(Squares<S>& squares, const S* flow, Size size, int row, int column) {
    Blocks<2, PAD, S> blocks(flow, size, row, column);
    Bits<S> zeros = {};
    squares.count = blocks.count;
    for (int k = 0; k < blocks.count; k += LANES) {
        const Taps<2, S> taps = blocks.at(k);
        find_runs(squares.runs, k, narrow_index(taps.x.index[0]), narrow_index(taps.y.index[0]),
                  size.width);
        for (int n = 0; n < 4; ++n) {
            const Vector<S> weight = taps.y.weight[n / 2] * taps.x.weight[n % 2];
            zeros |= weight == 0;
            store(squares.weight[n] + k, weight);
        }
        if (squares.inside_wanted) store_flags(squares.inside + k, narrow_index(taps.inside));
    }
    squares.masks = lane_bits(zeros) != 0;
}

template <typename S>
void make_squares(Squares<S>& squares, int padding, const S* flow, Size size, int row, int column) {
    if (padding == BORDER) make_squares_padded<BORDER>(squares, flow, size, row, column);
    if (padding == ZEROS) make_squares_padded<ZEROS>(squares, flow, size, row, column);
    if (padding == REFLECTION) make_squares_padded<REFLECTION>(squares, flow, size, row, column);
}

// The four corners of LANES squares.
template <typename S>
struct Corners {
    Vector<S> at[4];
};

// LANES pairs of neighbours, from[offset] and from[offset + 1].
template <typename T, typename S>
FW_HD void load_pairs(const T* from, const int* offset, Vector<S>& left, Vector<S>& right) {
    S a[LANES], b[LANES];
    for (int k = 0; k < LANES; ++k) {
        a[k] = widen(from[offset[k]]);
        b[k] = widen(from[offset[k] + 1]);
    }
    left = load(a);
    right = load(b);
}

// Of the smaller types a pair is one word, which halves the loads.
typedef uint64_t LongWords __attribute__((vector_size(4 * LANES)));  // half as many as lanes
#if defined(__AVX512F__)
FW_HD LongWords long_words(const float* from, const int* offset) {
    return (LongWords)_mm512_i32gather_epi64(load_as<__m256i>(offset), from, sizeof *from);
}
template <typename T>
FW_HD Words words(const T* from, const int* offset) {
    return (Words)_mm512_i32gather_epi32(load_as<__m512i>(offset), from, sizeof *from);
}
#else
template <int... K>
FW_HD LongWords long_words(const float* from, const int* offset, std::integer_sequence<int, K...>) {
    return LongWords{load_as<uint64_t>(from + offset[K])...};
}
FW_HD LongWords long_words(const float* from, const int* offset) {
    return long_words(from, offset, std::make_integer_sequence<int, LANES / 2>());
}
template <typename T, int... K>
FW_HD Words words(const T* from, const int* offset, std::integer_sequence<int, K...>) {
    return Words{load_as<uint32_t>(from + offset[K])...};
}
template <typename T>
FW_HD Words words(const T* from, const int* offset) {
    return words(from, offset, std::make_integer_sequence<int, LANES>());
}
#endif

template <>
FW_HD void load_pairs<float, float>(const float* from, const int* offset, Vector<float>& left,
                                    Vector<float>& right) {
    const Vector<float> low = (Vector<float>)long_words(from, offset);
    const Vector<float> high = (Vector<float>)long_words(from, offset + LANES / 2);
    left = pick<0, 2>(low, high);
    right = pick<1, 2>(low, high);
}
template <>
FW_HD void load_pairs<bfloat_t, float>(const bfloat_t* from, const int* offset,
                                       Vector<float>& left, Vector<float>& right) {
    const Words pairs = words(from, offset);
    left = (Vector<float>)(pairs << 16);
    right = (Vector<float>)(pairs & 0xffff0000u);
}
template <>
FW_HD void load_pairs<half_t, float>(const half_t* from, const int* offset, Vector<float>& left,
                                     Vector<float>& right) {
    const Words pairs = words(from, offset);
    left = widen_halves(pairs & 0xffffu);
    right = widen_halves(pairs >> 16);
}

template <typename T, typename S>
FW_HD void load_squares(const T* top, int width, Vector<S>* at) {
    at[0] = load(top);
    at[1] = load(top + 1);
    at[2] = load(top + width);
    at[3] = load(top + width + 1);
}

template <typename T, typename S>
FW_HD Corners<S> load_corners(const T* plane, const Runs& runs, int k, int width) {
    const int* offset = runs.offset + k;
    const unsigned starts = runs.starts[k / LANES];
    Corners<S> corners;
    if (starts == SCATTERED) {
        load_pairs<T, S>(plane, offset, corners.at[0], corners.at[1]);
        load_pairs<T, S>(plane + width, offset, corners.at[2], corners.at[3]);
        return corners;
    }
    load_squares<T, S>(plane + offset[0], width, corners.at);
    if (starts != 1) {
        for_runs(starts & ~1u, [&](int first, Bits<float> lanes) {
            Vector<S> run[4];
            load_squares<T, S>(plane + offset[first] - first, width, run);
            const Bits<S> mask = __builtin_convertvector(lanes, Bits<S>);
            for (int n = 0; n < 4; ++n) corners.at[n] = select(mask, run[n], corners.at[n]);
        });
    }
    return corners;
}

// A tap of weight 0 is not read: its value becomes -0.0, the identity of addition (so that even
// -0.0 comes back as it was), and inf or NaN beside the sample cannot leak in.
template <typename S>
FW_HD Vector<S> masked(Vector<S> value, Vector<S> weight) {
    return weight == 0 ? broadcast((S)-0.0) : value;
}

// The sum of the corners by their weights; 0, not -0.0, where all of these are 0.
template <typename S>
FW_HD Vector<S> weighted(Corners<S> v, const Vector<S>* w, bool masks) {
    if (!masks) return v.at[0] * w[0] + v.at[1] * w[1] + v.at[2] * w[2] + v.at[3] * w[3];
    for (int n = 0; n < 4; ++n) v.at[n] = masked<S>(v.at[n], w[n]);
    const Vector<S> sum = v.at[0] * w[0] + v.at[1] * w[1] + v.at[2] * w[2] + v.at[3] * w[3];
    return w[0] + w[1] + w[2] + w[3] == 0 ? Vector<S>{} : sum;
}

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

// ---------------------------------------------------------------- image gradient, which is splat

int clamp_row(int row, int height) { return row < 0 ? 0 : (row < height ? row : height - 1); }

// The rows of the image that each row of the output may touch, so that a band of the image looks only
// at the rows that can reach it. Pairs (first, last).
template <typename S>
void touched_rows(int padding, const S* flow, Size size, int* ranges) {
    const int64_t plane = size.plane();
    parallel_for(size.batch * size.height, 1 + GRAIN / (size.width + 1), [=](int64_t begin, int64_t end) {
        const S limit = (S)(1 << 30);
        for (int64_t task = begin; task < end; ++task) {
            const int row = (int)(task % size.height);
            const S* v = flow + (task / size.height * 2 + 1) * plane + (int64_t)row * size.width;
            Vector<S> least = broadcast(limit), most = broadcast(-limit);
            for (int k = 0; k < size.width; k += LANES) {
                // Comparisons with NaN are false; lanes beyond the row are 0 and widen it harmlessly.
                const Vector<S> value = load_part(v + k, size.width - k);
                least = select(value < least, value, least);
                most = select(value > most, value, most);
            }
            S low = limit, high = -limit;
            for (int k = 0; k < LANES; ++k) {
                low = least[k] < low ? least[k] : low;
                high = most[k] > high ? most[k] : high;
            }
            // Two pixels to each side hold the taps of every mode; padding moves them into the image.
            low = low > -limit ? low : -limit;
            high = high < limit ? high : limit;
            const int first = clamp_row(row + (int)low - 2, size.height);
            const int last = clamp_row(row + (int)high + 2, size.height);
            const bool anywhere = padding == REFLECTION;
            ranges[2 * task] = anywhere ? 0 : first;
            ranges[2 * task + 1] = anywhere ? size.height - 1 : last;
        }
    });
}

// Rows [first, last) of one example, owned by one thread.
struct Band {
    int first, last;
    bool owns(int row) const { return (row >= first) & (row < last); }
};

// Two rows of `sums` being added to. What a pixel gives to the right column of its square waits here,
// since the next pixel's left column is mostly the same, and memory is then touched once for both.
template <typename S, int L>
struct Seam {
    typedef S Pixel __attribute__((vector_size(L * sizeof(S))));
    S* at;  // where the upper one belongs
    int64_t row_step;
    Pixel top, low;

    static FW_HD void add(S* to, Pixel value) {
        value += load_as<Pixel>(to);
        memcpy(to, &value, sizeof value);
    }
    // Only neighbours in a row join: sums must not depend on which pixels a band skips between them.
    FW_HD void flush() {
        if (at == nullptr) return;
        add(at, top);
        add(at + row_step, low);
        at = nullptr;
    }
    FW_HD void add_pixel(S* to, const Pixel* part) {
        Pixel upper = part[0], lower = part[2];
        if (at == to) {
            upper += top;
            lower += low;
        } else {
            flush();
        }
        add(to, upper);
        add(to + row_step, lower);
        at = to + L;
        top = part[1];
        low = part[3];
    }
};

#if defined(__AVX512F__)
// Sum a run of pixels, those in `lanes` of a block, several to a vector: L channels of 16 / L pixels.
// `to` is where lane 0 would belong. The same sums in the same order as pixel by pixel.
template <int L>
FW_HD void add_run(Seam<float, L>& seam, float* to, int first, Bits<float> lanes, const float* tile,
                   const Squares<float>& squares, int k) {
    typedef Vector<float> V;
    const int step = LANES / L;  // pixels in a vector
    V right[2] = {};             // of the vector before, upper and lower row
    if (seam.at == to + first * L && first == 0) {
        memcpy((float*)&right[0] + LANES - L, &seam.top, sizeof seam.top);
        memcpy((float*)&right[1] + LANES - L, &seam.low, sizeof seam.low);
        seam.at = nullptr;
    } else {
        seam.flush();
    }
    const unsigned covered = lane_bits(lanes);
    const int end = LANES - (__builtin_clz(covered) - 16);
    for (int pixel = first / step * step; pixel < LANES; pixel += step) {
        if (pixel > end) break;  // one vector more than the run: the right column of its last pixel
        const Bits<float> spread = LANE_NUMBERS / L + pixel;
        const __m512i from = (__m512i)spread;
        const Bits<float> used = (Bits<float>)_mm512_permutexvar_epi32(from, (__m512i)lanes);
        const V g = load(tile + pixel * L);
        for (int low = 0; low < 2; ++low) {
            V part[2];
            for (int n = 0; n < 2; ++n) {
                const __m512 weights = (__m512)load(squares.weight[2 * low + n] + k);
                const V weight = (V)_mm512_permutexvar_ps(from, weights);
                const Bits<float> kept = squares.masks ? used & (weight != 0) : used;
                part[n] = select(kept, g * weight, V{});
            }
            float* row = to + pixel * L + low * seam.row_step;
            V shifted;
            if (L == 4)
                shifted = __builtin_shufflevector(right[low], part[1], 12, 13, 14, 15, 16, 17, 18, 19, 20,
                                                  21, 22, 23, 24, 25, 26, 27);
            else
                shifted = __builtin_shufflevector(right[low], part[1], 8, 9, 10, 11, 12, 13, 14, 15, 16,
                                                  17, 18, 19, 20, 21, 22, 23);
            store(row, load(row) + (part[0] + shifted));
            right[low] = part[1];
        }
    }
    if (end == LANES) {
        seam.at = to + LANES * L;
        memcpy(&seam.top, (float*)&right[0] + LANES - L, sizeof seam.top);
        memcpy(&seam.low, (float*)&right[1] + LANES - L, sizeof seam.low);
    }
}
#endif

// Sum rows of the output into `sums`, which holds the band with its channels side by side (L lanes
// to a pixel), one more row above and one below, so that a square needs no test of its rows. A
// pixel's channels are then one vector: no sum waits for the one before it but along a row.
template <int L, typename T>
void scatter_band(const typename Accumulate<T>::type* flow, const T* grad_out, Size size, int padding,
                  const int* ranges, Band band, typename Accumulate<T>::type* sums, int channels) {
    typedef typename Accumulate<T>::type S;
    typedef typename Seam<S, L>::Pixel Pixel;
    const int width = size.width;
    const int64_t plane = size.plane();
    // In pixels of `sums`, whose first row is the one above the band.
    const int64_t origin = (int64_t)(band.first - 1) * width;
    const int64_t end = (int64_t)(band.last - band.first + 1) * width;
    Squares<S> squares;
    alignas(64) S tile[CHUNK * L] = {};  // the chunk of grad_out, channels side by side
    for (int row = 0; row < size.height; ++row) {
        if ((ranges[2 * row] >= band.last) | (ranges[2 * row + 1] < band.first)) continue;
        for (int column = 0; column < width; column += CHUNK) {
            make_squares(squares, padding, flow, size, row, column);
            const T* grad = grad_out + (int64_t)row * width + column;
            Seam<S, L> seam = {nullptr, (int64_t)width * L, {}, {}};
            for (int k = 0; k < squares.count; k += LANES) {
                Vector<S> values[L] = {};
                for (int c = 0; c < channels; ++c) {
                    __builtin_prefetch(grad + c * plane + k + width);
                    values[c] = load_part(grad + c * plane + k, squares.count - k);
                }
                interleave<L, S>(values, tile + k * L);
            }
            for (int k = 0; k < squares.count; k += LANES) {
                const int* offset = squares.runs.offset + k;
                const auto owns = [=](int64_t pixel) { return (pixel >= 0) & (pixel < end); };
#if defined(__AVX512F__)
                const unsigned starts = squares.runs.starts[k / LANES];
                if constexpr (L < LANES && sizeof(S) == sizeof(float)) {
                    if (starts != SCATTERED) {
                        for_runs(starts, [&](int first, Bits<float> lanes) {
                            const int64_t pixel = offset[first] - origin;
                            if (!owns(pixel)) return seam.flush();
                            add_run<L>(seam, sums + (pixel - first) * L, first, lanes, tile + k * L,
                                       squares, k);
                        });
                        continue;
                    }
                }
#endif
                const int stop = k + LANES < squares.count ? LANES : squares.count - k;
                for (int i = 0; i < stop; ++i) {
                    const int64_t pixel = offset[i] - origin;
                    if (!owns(pixel)) {
                        seam.flush();
                        continue;
                    }
                    const Pixel g = load_as<Pixel>(tile + (k + i) * L);
                    Pixel part[4];
                    for (int n = 0; n < 4; ++n) part[n] = g * squares.weight[n][k + i];
                    if (squares.masks)  // a tap of weight 0 gets nothing, not 0 * inf
                        for (int n = 0; n < 4; ++n)
                            if (squares.weight[n][k + i] == 0) part[n] = Pixel{};
                    seam.add_pixel(sums + pixel * L, part);
                }
            }
            seam.flush();
        }
    }
}

// The image gradient of planes: for each band, sum into scratch and write it out channel by channel.
template <int L, typename T>
void image_gradient_planes(const typename Accumulate<T>::type* flow, const T* grad_out, T* grad_image,
                           Size size, int padding, const int* ranges, int threads) {
    typedef typename Accumulate<T>::type S;
    const int width = size.width;
    const int64_t plane = size.plane(), groups = (size.channels + L - 1) / L;
    const int64_t budget = SCRATCH / threads > SCRATCH / 8 ? SCRATCH / threads : SCRATCH / 8;
    const int64_t most_rows = budget / (int64_t)(sizeof(S) * L * width) + 1;
    int64_t bands = (size.height + most_rows - 1) / most_rows;
    if (bands * groups * size.batch < threads) bands = threads;
    bands = bands < size.height ? bands : size.height;
    const int64_t scratch_rows = (size.height + bands - 1) / bands + 2;
    parallel_for(size.batch * groups * bands, 1, [=](int64_t begin, int64_t end) {
        S* sums = static_cast<S*>(malloc(sizeof(S) * L * (width * scratch_rows + LANES)));
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / bands / groups, first_channel = task / bands % groups * L;
            const int channels = size.channels - first_channel < L ? (int)(size.channels - first_channel) : L;
            const int64_t origin = (b * size.channels + first_channel) * plane;
            Band band;
            band.first = (int)(size.height * (task % bands) / bands);
            band.last = (int)(size.height * (task % bands + 1) / bands);
            const int64_t pixels = (int64_t)(band.last - band.first) * width;
            memset(sums, 0, sizeof(S) * L * (pixels + 2 * width));
            scatter_band<L>(flow + b * 2 * plane, grad_out + origin, size, padding,
                            ranges + 2 * b * size.height, band, sums, channels);
            const S* inner = sums + (int64_t)width * L;
            T* out = grad_image + origin + (int64_t)band.first * width;
            for (int64_t k = 0; k < pixels; k += LANES) {
                Vector<S> values[L];
                separate<L, S>(inner + k * L, values);
                const int count = pixels - k < LANES ? (int)(pixels - k) : LANES;
                for (int c = 0; c < channels; ++c) store_part(out + c * plane + k, values[c], count);
            }
        }
        free(sums);
    });
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

// Sum rows of the output into a band of fp32 or fp64 sums in the layout of the image.
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
                    const S weight = taps.weight[n];
                    if (weight == 0 || !band.owns((int)(taps.pixel[n] / size.width))) continue;
                    const int64_t to = taps.pixel[n] - (int64_t)band.first * size.width;
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

// The image gradient for any taps and layout; half precision sums into scratch and narrows it.
template <typename T, int N, bool LAST>
void image_gradient_taps(const typename Accumulate<T>::type* flow, const T* grad_out, T* grad_image,
                         Size size, int padding, const int* ranges, int threads) {
    typedef typename Accumulate<T>::type S;
    const bool direct = sizeof(T) == sizeof(S);
    const int64_t plane = size.plane(), channels = size.channels;
    int64_t bands = size.batch % threads == 0 ? 1 : threads;
    if (!direct) {
        const int64_t for_scratch = (int64_t)sizeof(S) * channels * plane / (SCRATCH / threads + 1) + 1;
        bands = bands > for_scratch ? bands : for_scratch;
    }
    bands = bands < size.height ? bands : size.height;
    const int64_t scratch = (size.height + bands - 1) / bands * size.width * channels;
    parallel_for(size.batch * bands, 1, [=](int64_t begin, int64_t end) {
        S* memory = direct ? nullptr : static_cast<S*>(malloc(sizeof(S) * scratch));
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / bands;
            Band band;
            band.first = (int)(size.height * (task % bands) / bands);
            band.last = (int)(size.height * (task % bands + 1) / bands);
            const int64_t rows = (int64_t)(band.last - band.first) * size.width;
            const int64_t start = (int64_t)band.first * size.width;
            // Channels-last memory of a band is one piece; planes are one piece for each channel.
            const int64_t pieces = LAST ? 1 : channels, length = LAST ? rows * channels : rows;
            T* out = grad_image + b * channels * plane + (LAST ? start * channels : start);
            S* sums = direct ? reinterpret_cast<S*>(out) : memory;
            const int64_t sums_plane = direct ? plane : rows;
            for (int64_t p = 0; p < pieces; ++p) memset(sums + p * sums_plane, 0, length * sizeof(S));
            scatter_band_taps<T, N, LAST>(flow + b * 2 * plane, grad_out + b * channels * plane, size,
                                          padding, ranges + 2 * b * size.height, band, sums, channels,
                                          sums_plane);
            if (direct) continue;
            for (int64_t p = 0; p < pieces; ++p)
                for (int64_t k = 0; k < length; ++k) out[p * plane + k] = narrow<T>(sums[p * sums_plane + k]);
        }
        free(memory);
    });
}

template <typename T, int N, bool LAST>
void image_gradient(const typename Accumulate<T>::type* flow, const T* grad_out, T* grad_image,
                    Size size, int padding, int threads) {
    int* ranges = static_cast<int*>(malloc(2 * sizeof(int) * size.batch * size.height));
    touched_rows(padding, flow, size, ranges);
    if constexpr (N == 2 && !LAST) {
        if (has_squares(size)) {
            // Side by side lie as many channels as fill a register, or two short ones.
            const int most = LANES > 8 ? LANES : 8;
            auto planes = size.channels <= 4   ? image_gradient_planes<4, T>
                          : size.channels <= 8 ? image_gradient_planes<8, T>
                                               : image_gradient_planes<most, T>;
            planes(flow, grad_out, grad_image, size, padding, ranges, threads);
            free(ranges);
            return;
        }
    }
    image_gradient_taps<T, N, LAST>(flow, grad_out, grad_image, size, padding, ranges, threads);
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
    if constexpr (N == 2) {
        const bool squares = has_squares(call.size);
        if (squares && job == WARP) {
            auto warp = LAST ? warp_pixels<T> : warp_planes<T>;
            return warp(image, flow, out, call.mask, call.size, call.padding);
        }
        if (squares && !LAST)
            return flow_gradient_planes<T>(image, flow, grad_out, grad_flow, call.size, call.padding);
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

// What every call has.
Call call_of(int padding, int64_t batch, int64_t channels, int64_t height, int64_t width,
             const void* flow) {
    Call call = {};
    call.size = {batch, channels, (int)height, (int)width};
    call.padding = padding;
    call.flow = flow;
    return call;
}

}  // namespace
}  // namespace flowwarp

// `image` and `grad_out` are dense, planes or channels last; flow is fp32 (fp64 for fp64 images).

FW_EXPORT void fw_warp(int dtype, int mode, int padding, int channels_last, int64_t batch,
                       int64_t channels, int64_t height, int64_t width, const void* image,
                       const void* flow, void* out, uint8_t* mask) {
    flowwarp::Call call = flowwarp::call_of(padding, batch, channels, height, width, flow);
    call.image = image;
    call.out = out;
    call.mask = mask;
    flowwarp::choose(flowwarp::WARP, dtype, mode, channels_last, call);
}

FW_EXPORT void fw_warp_flow_gradient(int dtype, int mode, int padding, int channels_last,
                                     int64_t batch, int64_t channels, int64_t height, int64_t width,
                                     const void* image, const void* flow, const void* grad_out,
                                     void* grad_flow) {
    flowwarp::Call call = flowwarp::call_of(padding, batch, channels, height, width, flow);
    call.image = image;
    call.grad_out = grad_out;
    call.grad = grad_flow;
    flowwarp::choose(flowwarp::FLOW_GRADIENT, dtype, mode, channels_last, call);
}

FW_EXPORT void fw_warp_image_gradient(int dtype, int mode, int padding, int channels_last,
                                      int64_t batch, int64_t channels, int64_t height, int64_t width,
                                      const void* flow, const void* grad_out, void* grad_image,
                                      int threads) {
    flowwarp::Call call = flowwarp::call_of(padding, batch, channels, height, width, flow);
    call.grad_out = grad_out;
    call.grad = grad_image;
    call.threads = threads;
    flowwarp::choose(flowwarp::IMAGE_GRADIENT, dtype, mode, channels_last, call);
}
