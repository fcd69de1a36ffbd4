// The gradient of warping for the image, on the CPU, which is also splatting: each value of the
// incoming gradient is added, times its weights, to the pixels that were read.
//
// Warping reads: out[p] = sum over taps of weight * image[tap]. Its adjoint writes to places that the
// flow decides (a scatter): grad_image[tap] += weight * grad_out[p]. Several pixels may add to the same
// place, so that threads would collide, and the order of a floating-point sum decides its last bits.
//
// So the image is cut into bands of rows. One thread owns a band, goes through the pixels of the output
// in raster order, and adds only what falls into its band. Each pixel's sum has the same order for
// any number of bands, without atomics. The price is that each band looks at the taps of all rows
// of the output; row_ranges() finds, from the largest and least v of a row, which rows cannot reach
// a band, and these are skipped.
#include "warping_squares.h"

namespace flowwarp {
namespace {

const int64_t SCRATCH = 3 << 20;  // bytes of scratch sums of all threads: they should stay in cache

int clamp_row(int row, int height) { return row < 0 ? 0 : (row < height ? row : height - 1); }

// For each row of the output, the first and last row of the image that it may add to: `ranges` is
// (B, H, 2).
template <typename S>
void row_ranges(int padding, const S* flow, Size size, int* ranges) {
    const int64_t plane = size.plane();
    // Where padding does not keep the order of rows (it mirrors or repeats), any row may be reached.
    bool keeps_order = false;
    with_padding(padding, [&](auto pad) {
        keeps_order = PaddingRules<decltype(pad)::value>::KEEPS_ORDER;
    });
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
            ranges[2 * task] = keeps_order ? first : 0;
            ranges[2 * task + 1] = keeps_order ? last : size.height - 1;
        }
    });
}

// Rows [first, last) of one example, owned by one thread.
struct Band {
    int first, last;
    bool owns(int row) const { return (row >= first) & (row < last); }
};

// Adds squares of 2 x 2 to two rows of `sums`. The right column of a square is carried: the next pixel's
// left column is mostly the same, and both are then added to memory at once. The order of additions
// is part of the result's bits, which is why add_run below has the same.
template <typename S, int L>
struct Carry {
    typedef S Pixel __attribute__((vector_size(L * sizeof(S))));
    S* at;  // where the upper one belongs
    int64_t row_step;
    Pixel top, low;

    static FW_HD void add(S* to, Pixel value) {
        value += load_as<Pixel>(to);
        memcpy(to, &value, sizeof value);
    }
    // Called after each pixel that the band skips: else the sums would depend on the bands.
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
FW_HD void add_run(Carry<float, L>& carry, float* to, int first, Bits<float> lanes, const float* tile,
                   const Squares<float>& squares, int k) {
    typedef Vector<float> V;
    const int step = LANES / L;  // pixels in a vector
    V right[2] = {};             // of the vector before, upper and lower row
    if (carry.at == to + first * L && first == 0) {
        memcpy((float*)&right[0] + LANES - L, &carry.top, sizeof carry.top);
        memcpy((float*)&right[1] + LANES - L, &carry.low, sizeof carry.low);
        carry.at = nullptr;
    } else {
        carry.flush();
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
                const Bits<float> added = squares.masks ? used & (weight != 0) : used;
                part[n] = select(added, g * weight, V{});
            }
            float* row = to + pixel * L + low * carry.row_step;
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
        carry.at = to + LANES * L;
        memcpy(&carry.top, (float*)&right[0] + LANES - L, sizeof carry.top);
        memcpy(&carry.low, (float*)&right[1] + LANES - L, sizeof carry.low);
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
    typedef typename Carry<S, L>::Pixel Pixel;
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
            Carry<S, L> carry = {nullptr, (int64_t)width * L, {}, {}};
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
                            if (!owns(pixel)) return carry.flush();
                            add_run<L>(carry, sums + (pixel - first) * L, first, lanes, tile + k * L,
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
                        carry.flush();
                        continue;
                    }
                    const Pixel g = load_as<Pixel>(tile + (k + i) * L);
                    Pixel part[4];
                    for (int n = 0; n < 4; ++n) part[n] = g * squares.weight[n][k + i];
                    if (squares.masks)  // a tap of weight 0 gets nothing, not 0 * inf
                        for (int n = 0; n < 4; ++n)
                            if (squares.weight[n][k + i] == 0) part[n] = Pixel{};
                    carry.add_pixel(sums + pixel * L, part);
                }
            }
            carry.flush();
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
void image_gradient(const Call& call) {
    typedef typename Accumulate<T>::type S;
    const S* flow = static_cast<const S*>(call.flow);
    const T* grad_out = static_cast<const T*>(call.grad_out);
    T* grad_image = static_cast<T*>(call.grad_image);
    const Size size = call.size;
    int* ranges = static_cast<int*>(malloc(2 * sizeof(int) * size.batch * size.height));
    row_ranges(call.padding, flow, size, ranges);
    auto kernel = image_gradient_taps<T, N, LAST>;
    if constexpr (N == BILINEAR && !LAST) {
        if (has_squares(size, call.padding)) {
            // Side by side lie as many channels as fill a register, or two short ones.
            const int most = LANES > 8 ? LANES : 8;
            kernel = size.channels <= 4   ? image_gradient_planes<4, T>
                     : size.channels <= 8 ? image_gradient_planes<8, T>
                                          : image_gradient_planes<most, T>;
        }
    }
    kernel(flow, grad_out, grad_image, size, call.padding, ranges, call.threads);
    free(ranges);
}

}  // namespace
}  // namespace flowwarp

// `threads` decides how many bands there are, not what the result is.
FW_EXPORT int fw_warp_image_gradient(int dtype, int mode, int padding, int channels_last,
                                     int64_t batch, int64_t channels, int64_t height, int64_t width,
                                     const void* flow, const void* grad_out, void* grad_image,
                                     int threads) {
    using namespace flowwarp;
    Call call = call_of(padding, batch, channels, height, width, flow);
    call.grad_out = grad_out;
    call.grad_image = grad_image;
    call.threads = threads;
    return !with_instance(call, dtype, mode, channels_last, [&](auto instance) {
        typedef decltype(instance) I;
        image_gradient<typename I::Pixel, I::TAPS, I::CHANNELS_LAST>(call);
    });
}
