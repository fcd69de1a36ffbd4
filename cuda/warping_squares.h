// Bilinear warping by squares of 2 x 2 neighbouring pixels: where they lie, and how a vector of them
// is read fast.
#pragma once

#include "warping_rows.h"

namespace flowwarp {

// Whether the bilinear taps of a pixel are always a square of 2 x 2 neighbours, and the offsets of
// these in a plane fit into an int. If not, the general kernels serve, one tap at a time.
inline bool has_squares(Size size, int padding) {
    bool pairs = false;
    with_padding(padding, [&](auto pad) { pairs = PaddingRules<decltype(pad)::value>::ALWAYS_PAIRS; });
    return pairs && size.width > 1 && size.height > 1 && size.plane() <= INT32_MAX;
}

// The 2 x 2 squares that a chunk reads, by the offset of their top-left pixel in the plane. Most flow is
// smooth, so that neighbours read neighbours: a block of LANES pixels consists of few runs of
// consecutive offsets. A run is read by plain vector loads, which are faster than a gather.
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
    // A run is read as a whole vector, with the lanes before and after it: they must be in its row.
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
    bool inside_wanted = false;  // the mask is to be filled
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

// Only where has_squares().
template <typename S>
void make_squares(Squares<S>& squares, int padding, const S* flow, Size size, int row, int column) {
    with_padding(padding, [&](auto pad) {
        constexpr int PAD = decltype(pad)::value;
        if constexpr (PaddingRules<PAD>::ALWAYS_PAIRS)
            make_squares_padded<PAD>(squares, flow, size, row, column);
        else
            abort();
    });
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

}  // namespace flowwarp
