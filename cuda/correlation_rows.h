// What the cost volume and its gradients share on the CPU: registers, rows, and the order of work.
//
// Each thread unpacks the rows it needs into zero-padded planes of fp32 (fp64), a ring of 2 radius + 2
// rows of channels, whatever the dtype and the strides; the inner loops then read plain vectors.
// Two rows of the output that need the same row of `b` are computed together: nearly all of the
// shifted vectors of that row straddle two cache lines, so that one read of them serves twice.
#pragma once

#include "correlation.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu.h"

namespace flowwarp {

// The register file decides: 32 wide registers hold 2 x 9 sums, 16 registers hold 9 (see in_pieces).
#if defined(__AVX512F__)
const int BYTES = 64, ROWS = 2;
#elif defined(__AVX__)
const int BYTES = 32, ROWS = 1;
#else
const int BYTES = 16, ROWS = 1;
#endif

template <typename S>
struct Register;
template <>
struct Register<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef int32_t integers __attribute__((vector_size(BYTES)));
};
template <>
struct Register<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef int64_t integers __attribute__((vector_size(BYTES)));
};
template <typename S>
using Reg = typename Register<S>::type;
template <typename S>
constexpr int lanes() {
    return BYTES / (int)sizeof(S);
}

// Keep a value in a register: the compiler would read memory again for each of its uses, and a
// vector that straddles two cache lines costs two reads.
template <typename V>
FW_HD void pin(V& value) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(value));
#else
    (void)value;
#endif
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// ---------------------------------------------------------------- rows as padded planes

// Rows of one example at a time as [channel][pitch], with `pad` zeros on the left and enough on the
// right; the last `slots` rows stay. `T` is what memory holds, `S` what is computed with.
template <typename T, typename S>
class Rows {
   public:
    Rows(const T* from, Layout layout, Volume v, int pad, int slots)
        : from_(from), layout_(layout), v_(v), pad_(pad), slots_(slots) {
        // An odd number of cache lines: channels of one column fall into different cache sets.
        const int64_t line = 64 / (int64_t)sizeof(S);
        pitch_ = (round_up(2 * pad + round_up(v.width, lanes<S>()), line) / line | 1) * line;
        data_ = static_cast<S*>(aligned_alloc(64, slots * v.channels * pitch_ * sizeof(S)));
        memset(data_, 0, slots * v.channels * pitch_ * sizeof(S));
        held_ = static_cast<int64_t*>(malloc(slots * sizeof(int64_t)));
        for (int k = 0; k < slots; ++k) held_[k] = -1;
    }
    ~Rows() {
        free(data_);
        free(held_);
    }
    Rows(const Rows&) = delete;

    int64_t pitch() const { return pitch_; }

    // The first pixel of row `y` of channel 0; `order` is the row's place in its sequence.
    const S* row(int64_t example, int y, int order) {
        const int slot = order % slots_;
        S* to = data_ + slot * v_.channels * pitch_ + pad_;
        const int64_t wanted = example * v_.height + y;
        if (held_[slot] != wanted) unpack(from_ + example * layout_.example + y * layout_.row, to);
        held_[slot] = wanted;
        return to;
    }

   private:
    void unpack(const T* from, S* to) const {
        if (layout_.column == 1) {
            for (int c = 0; c < v_.channels; ++c)
                for (int x = 0; x < v_.width; ++x)
                    to[c * pitch_ + x] = widen(from[c * layout_.channel + x]);
        } else {
            for (int x = 0; x < v_.width; ++x)
                for (int c = 0; c < v_.channels; ++c)
                    to[c * pitch_ + x] = widen(from[c * layout_.channel + x * layout_.column]);
        }
    }

    const T* from_;
    Layout layout_;
    Volume v_;
    int pad_, slots_;
    int64_t pitch_;
    S* data_;
    int64_t* held_;
};

// Rows y, y + dilation, y + 2 dilation, ... meet the same rows of the other image: a task is ROWS
// neighbours of such a sequence, and tasks of one sequence follow each other.
struct Tasks {
    Volume v;
    int64_t batch;
    int64_t phases, longest, per_phase;

    Tasks(Volume volume, int64_t count) : v(volume), batch(count) {
        phases = v.dilation < v.height ? v.dilation : v.height;
        longest = (v.height + v.dilation - 1) / v.dilation;
        per_phase = (longest + ROWS - 1) / ROWS;
    }
    int64_t count() const { return batch * phases * per_phase; }
    int64_t example(int64_t task) const { return task / per_phase / phases; }
    int phase(int64_t task) const { return (int)(task / per_phase % phases); }
    // Place of the task's first row in its sequence.
    int order(int64_t task) const { return (int)(task % per_phase) * ROWS; }
    // Rows in the task's sequence.
    int length(int64_t task) const {
        return (v.height - phase(task) + v.dilation - 1) / v.dilation;
    }
    int slots() const {
        const int64_t wanted = 2 * (int64_t)v.reach(v.height) + ROWS;
        return (int)(wanted < longest ? wanted : longest);
    }
    int64_t grain() const {
        const int64_t work = (int64_t)ROWS * v.width * v.planes() * v.channels;
        return 1 + (1 << 18) / (work + 1);
    }
};

// Set the lanes k where x + k lies outside [0, width) to 0, even where they are NaN.
template <typename S>
FW_HD Reg<S> inside_only(Reg<S> value, int64_t x, int64_t width) {
    typedef typename Register<S>::integers I;
    I place;
    for (int k = 0; k < lanes<S>(); ++k) place[k] = k;
    place += (decltype(place[0] + 0))x - I{};
    return (place >= 0) & (place < (decltype(place[0] + 0))width - I{}) ? value : Reg<S>{};
}

template <typename S>
FW_HD Reg<S> load_reg(const S* from) {
    return load_as<Reg<S>>(from);
}

// Lanes [first, last) of LANES values of any storage type; the others are 0 and are not read.
template <typename S, typename T>
FW_HD Reg<S> load_between(const T* from, int64_t first, int64_t last) {
    if (sizeof(T) == sizeof(S) && first <= 0 && last >= lanes<S>()) return load_as<Reg<S>>(from);
    last = last < lanes<S>() ? last : lanes<S>();
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == sizeof(S)) {
        if (first >= last) return Reg<S>{};
        const unsigned mask = (0xffffu >> (16 - last)) & (0xffffu << first);
        if constexpr (sizeof(S) == 4)
            return (Reg<S>)_mm512_maskz_loadu_ps((__mmask16)mask, from);
        else
            return (Reg<S>)_mm512_maskz_loadu_pd((__mmask8)mask, from);
    }
#endif
    S values[lanes<S>()] = {};
    for (int64_t k = first; k < last; ++k) values[k] = widen(from[k]);
    return load_as<Reg<S>>(values);
}

template <typename T, typename S>
FW_HD void store_reg(T* to, Reg<S> value, int64_t count) {
    if (sizeof(T) == sizeof(S) && count >= lanes<S>()) {
        memcpy(to, &value, sizeof value);
    } else {
        const int most = count < lanes<S>() ? (int)count : lanes<S>();
        for (int k = 0; k < most; ++k) to[k] = narrow<T>(value[k]);
    }
}

// Cut `count` displacements into pieces that there is code for, the longest first: f.run<N>(first).
template <typename F>
void in_pieces(int first, int count, const F& f) {
    for (; count >= 9; count -= 9, first += 9) f.template run<9>(first);
    if (count >= 7) f.template run<7>(first), first += 7, count -= 7;
    if (count >= 5) f.template run<5>(first), first += 5, count -= 5;
    if (count >= 3) f.template run<3>(first), first += 3, count -= 3;
    for (; count > 0; --count, ++first) f.template run<1>(first);
}

inline Layout layout(const int64_t* strides) { return {strides[0], strides[1], strides[2], strides[3]}; }

}  // namespace flowwarp
