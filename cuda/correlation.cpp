// The cost volume and its two gradients on the CPU.
//
// Each thread unpacks the rows it needs into zero-padded planes of fp32 (fp64), a ring of 2 radius + 2
// rows of channels, whatever the dtype and the strides; the inner loops then read plain vectors.
// Two rows of the output that meet the same row of `b` are computed together: each of its shifted
// vectors, of which nearly all straddle two cache lines, serves twice.
#include "correlation.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu.h"

namespace flowwarp {
namespace {

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

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

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

    // The first pixel of row `y` of channel 0; `order` is the row's place among those asked for.
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

// ---------------------------------------------------------------- forward

// Sums of products of R rows of `a` with N shifts of one row of `b`, over the channels.
template <int R, int N, typename S>
FW_HD void multiply(const S* const* a, int64_t a_pitch, const S* b, int64_t b_pitch, int64_t step,
                    int channels, Reg<S> (&sum)[R][N]) {
    int64_t shift[N];
    for (int n = 0; n < N; ++n) shift[n] = n * step;
    const S* a_row[R];
    for (int r = 0; r < R; ++r) {
        a_row[r] = a[r];
        for (int n = 0; n < N; ++n) sum[r][n] = Reg<S>{};
    }
    for (int c = 0; c < channels; ++c) {
        Reg<S> left[R];
        for (int r = 0; r < R; ++r) left[r] = load_reg(a_row[r] + c * a_pitch);
        for (int n = 0; n < N; ++n) {
            Reg<S> right = load_reg(b + shift[n]);
            if (R > 1) pin(right);
            for (int r = 0; r < R; ++r) sum[r][n] += left[r] * right;
        }
        b += b_pitch;
    }
}

// One row of b against R rows of the output, a vector at x.
template <typename T, int R>
struct ForwardRow {
    typedef typename Accumulate<T>::type S;
    const S* a[R];  // at x
    const S* b;     // at x
    int64_t a_pitch, b_pitch;
    T* out[R];  // plane dx = 0, at x
    Volume v;
    int64_t x;

    template <int N>
    void run(int first) const {
        const int64_t low = (int64_t)first * v.dilation, high = (int64_t)(first + N - 1) * v.dilation;
        const int64_t plane = (int64_t)v.height * v.width;
        const S scale = 1 / (S)v.channels;
        Reg<S> sum[R][N];
        if (v.dilation == 1)
            multiply<R, N, S>(a, a_pitch, b + low, b_pitch, 1, v.channels, sum);
        else
            multiply<R, N, S>(a, a_pitch, b + low, b_pitch, v.dilation, v.channels, sum);
        const bool border = (x + low < 0) | (x + lanes<S>() - 1 + high >= v.width);
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) {
                Reg<S> value = sum[r][n] * scale;
                if (border) value = inside_only<S>(value, x + low + (int64_t)n * v.dilation, v.width);
                store_reg<T, S>(out[r] + (first + n) * plane, value, v.width - x);
            }
    }
};

template <typename T>
void zero_row(T* to, int64_t width) {
    memset(static_cast<void*>(to), 0, width * sizeof(T));
}

template <typename T>
void correlation(const T* a, Layout la, const T* b, Layout lb, T* out, Volume v, int64_t batch) {
    typedef typename Accumulate<T>::type S;
    const Tasks tasks(v, batch);
    const int64_t plane = (int64_t)v.height * v.width;
    const int ry = v.reach(v.height), rx = v.reach(v.width);
    parallel_for(tasks.count(), tasks.grain(), [=](int64_t begin, int64_t end) {
        Rows<T, S> a_rows(a, la, v, 0, ROWS);
        Rows<T, S> b_rows(b, lb, v, rx * v.dilation, tasks.slots());
        for (int64_t task = begin; task < end; ++task) {
            const int64_t example = tasks.example(task);
            const int phase = tasks.phase(task), order = tasks.order(task), length = tasks.length(task);
            const int rows = length - order < ROWS ? length - order : ROWS;
            if (rows <= 0) continue;
            T* const target = out + example * v.planes() * plane;
            const S* a_row[ROWS] = {};
            for (int r = 0; r < rows; ++r) {
                const int y = phase + (order + r) * v.dilation;
                a_row[r] = a_rows.row(example, y, order + r);
                for (int dy = -v.radius; dy <= v.radius; ++dy)
                    for (int dx = -v.radius; dx <= v.radius; ++dx)
                        if ((dy < -order - r) | (dy >= length - order - r) | (dx < -rx) | (dx > rx))
                            zero_row(target + v.plane(dy, dx) * plane + (int64_t)y * v.width, v.width);
            }
            const int from = order - ry > 0 ? order - ry : 0;
            const int to = order + rows - 1 + ry < length - 1 ? order + rows - 1 + ry : length - 1;
            for (int k = from; k <= to; ++k) b_rows.row(example, phase + k * v.dilation, k);
            for (int64_t x = 0; x < v.width; x += lanes<S>())
                for (int k = from; k <= to; ++k) {
                    const S* b_row = b_rows.row(example, phase + k * v.dilation, k);
                    // The rows of the output that meet row k of b.
                    int least = k - ry > order ? k - ry - order : 0;
                    const int most = k + ry < order + rows - 1 ? k + ry - order : rows - 1;
                    const auto meet = [&](auto row) {
                        constexpr int R = sizeof(row.a) / sizeof(row.a[0]);
                        row.b = b_row + x;
                        row.a_pitch = a_rows.pitch();
                        row.b_pitch = b_rows.pitch();
                        row.v = v;
                        row.x = x;
                        for (int r = 0; r < R; ++r) {
                            const int64_t y = phase + (int64_t)(order + least + r) * v.dilation;
                            row.a[r] = a_row[least + r] + x;
                            row.out[r] = target + v.plane(k - order - least - r, 0) * plane + y * v.width + x;
                        }
                        in_pieces(-rx, 2 * rx + 1, row);
                    };
                    if (most - least + 1 == ROWS) {
                        meet(ForwardRow<T, ROWS>());
                    } else {
                        for (; least <= most; ++least) meet(ForwardRow<T, 1>());
                    }
                }
        }
    });
}

// ---------------------------------------------------------------- gradients

// Add N displacements' products of `grad` (R rows of the result) with one row of the other image.
template <int R, int N, typename S>
FW_HD void spread(const Reg<S> (&grad)[R][N], const S* other, int64_t pitch, int64_t step, int channels,
                  S* const* sums) {
    int64_t shift[N];
    for (int n = 0; n < N; ++n) shift[n] = n * step;
    for (int c = 0; c < channels; ++c) {
        Reg<S> sum[R];
        for (int r = 0; r < R; ++r) sum[r] = load_reg(sums[r] + c * lanes<S>());
        for (int n = 0; n < N; ++n) {
            Reg<S> value = load_reg(other + shift[n]);
            if (R > 1) pin(value);
            for (int r = 0; r < R; ++r) sum[r] += grad[r][n] * value;
        }
        for (int r = 0; r < R; ++r) memcpy(sums[r] + c * lanes<S>(), &sum[r], sizeof sum[r]);
        other += pitch;
    }
}

// One row of the other image against R rows of the gradient, a vector at x.
template <typename T, int R>
struct GradientRow {
    typedef typename Accumulate<T>::type S;
    const S* other;  // at x
    int64_t pitch;
    const T* grad[R];   // lane 0 of displacement 0
    int64_t grad_step;  // from one displacement to the next
    S* sums[R];
    Volume v;
    int64_t x;

    template <int N>
    void run(int first) const {
        const int64_t low = (int64_t)first * v.dilation, high = (int64_t)(first + N - 1) * v.dilation;
        const bool border = (x + low < 0) | (x + lanes<S>() - 1 + high >= v.width) |
                            (x + lanes<S>() > v.width);
        Reg<S> g[R][N];
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) {
                const T* from = grad[r] + (first + n) * grad_step;
                const int64_t partner = x + low + (int64_t)n * v.dilation;
                g[r][n] = border ? load_between<S>(from, partner < 0 ? -partner : 0,
                                                   v.width - (partner > x ? partner : x))
                                 : load_between<S>(from, 0, lanes<S>());
            }
        if (v.dilation == 1)
            spread<R, N, S>(g, other + low, pitch, 1, v.channels, sums);
        else
            spread<R, N, S>(g, other + low, pitch, v.dilation, v.channels, sums);
    }
};

// SIDE 0 is the gradient for a, where `other` is b; SIDE 1 that for b, where `other` is a.
template <int SIDE, typename T>
void correlation_gradient(const T* grad, const T* other, Layout lo, T* out, Layout lr, Volume v,
                          int64_t batch) {
    typedef typename Accumulate<T>::type S;
    const Tasks tasks(v, batch);
    const int64_t plane = (int64_t)v.height * v.width;
    const int ry = v.reach(v.height), rx = v.reach(v.width);
    const S scale = 1 / (S)v.channels;
    parallel_for(tasks.count(), tasks.grain(), [=](int64_t begin, int64_t end) {
        Rows<T, S> rows_of(other, lo, v, rx * v.dilation, tasks.slots());
        const int64_t size = (int64_t)v.channels * lanes<S>();
        S* const sums = static_cast<S*>(aligned_alloc(64, round_up(ROWS * size * sizeof(S), 64)));
        for (int64_t task = begin; task < end; ++task) {
            const int64_t example = tasks.example(task);
            const int phase = tasks.phase(task), order = tasks.order(task), length = tasks.length(task);
            const int rows = length - order < ROWS ? length - order : ROWS;
            if (rows <= 0) continue;
            const T* const source = grad + example * v.planes() * plane;
            const int from = order - ry > 0 ? order - ry : 0;
            const int to = order + rows - 1 + ry < length - 1 ? order + rows - 1 + ry : length - 1;
            for (int k = from; k <= to; ++k) rows_of.row(example, phase + k * v.dilation, k);
            for (int64_t x = 0; x < v.width; x += lanes<S>()) {
                memset(sums, 0, ROWS * size * sizeof(S));
                for (int k = from; k <= to; ++k) {
                    const int64_t other_y = phase + (int64_t)k * v.dilation;
                    const S* other_row = rows_of.row(example, (int)other_y, k);
                    int least = k - ry > order ? k - ry - order : 0;
                    const int most = k + ry < order + rows - 1 ? k + ry - order : rows - 1;
                    const auto meet = [&](auto row) {
                        constexpr int R = sizeof(row.sums) / sizeof(row.sums[0]);
                        row.other = other_row + x;
                        row.pitch = rows_of.pitch();
                        row.grad_step = SIDE == 0 ? plane : v.dilation - plane;
                        row.v = v;
                        row.x = x;
                        for (int r = 0; r < R; ++r) {
                            const int dy = k - order - least - r;
                            const int64_t y = phase + (int64_t)(order + least + r) * v.dilation;
                            row.sums[r] = sums + (least + r) * size;
                            row.grad[r] = SIDE == 0 ? source + v.plane(dy, 0) * plane + y * v.width + x
                                                    : source + v.plane(-dy, 0) * plane + other_y * v.width + x;
                        }
                        in_pieces(-rx, 2 * rx + 1, row);
                    };
                    if (most - least + 1 == ROWS) {
                        meet(GradientRow<T, ROWS>());
                    } else {
                        for (; least <= most; ++least) meet(GradientRow<T, 1>());
                    }
                }
                const int64_t count = v.width - x < lanes<S>() ? v.width - x : lanes<S>();
                for (int r = 0; r < rows; ++r) {
                    const int64_t y = phase + (int64_t)(order + r) * v.dilation;
                    T* const to_row = out + example * lr.example + y * lr.row + x * lr.column;
                    const S* const from_row = sums + r * size;
                    if (lr.column == 1) {
                        for (int c = 0; c < v.channels; ++c)
                            store_reg<T, S>(to_row + c * lr.channel,
                                            load_reg(from_row + c * lanes<S>()) * scale, count);
                    } else {
                        for (int64_t k = 0; k < count; ++k)
                            for (int c = 0; c < v.channels; ++c)
                                to_row[k * lr.column + c * lr.channel] =
                                    narrow<T>(from_row[c * lanes<S>() + k] * scale);
                    }
                }
            }
        }
        free(sums);
    });
}

// ---------------------------------------------------------------- choosing the template

Layout layout(const int64_t* strides) { return {strides[0], strides[1], strides[2], strides[3]}; }

template <typename T>
void forward(const void* a, Layout la, const void* b, Layout lb, void* out, Volume v, int64_t batch) {
    correlation(static_cast<const T*>(a), la, static_cast<const T*>(b), lb, static_cast<T*>(out), v, batch);
}

template <typename T>
void gradient(int side, const void* grad, const void* other, Layout lo, void* out, Layout lr, Volume v,
              int64_t batch) {
    const T* g = static_cast<const T*>(grad);
    const T* o = static_cast<const T*>(other);
    T* result = static_cast<T*>(out);
    side == 0 ? correlation_gradient<0>(g, o, lo, result, lr, v, batch)
              : correlation_gradient<1>(g, o, lo, result, lr, v, batch);
}

}  // namespace
}  // namespace flowwarp

// Strides are four numbers of elements each; `out` (B, planes, H, W) and `grad` of its shape are dense.

FW_EXPORT void fw_correlation(int dtype, int64_t batch, int channels, int height, int width, int radius,
                              int dilation, const void* a, const int64_t* a_strides, const void* b,
                              const int64_t* b_strides, void* out) {
    using namespace flowwarp;
    const Volume v = {channels, height, width, radius, dilation};
    const Layout la = layout(a_strides), lb = layout(b_strides);
    if (batch * height * width == 0) return;
    if (dtype == FLOAT32) forward<float>(a, la, b, lb, out, v, batch);
    if (dtype == FLOAT64) forward<double>(a, la, b, lb, out, v, batch);
    if (dtype == FLOAT16) forward<half_t>(a, la, b, lb, out, v, batch);
    if (dtype == BFLOAT16) forward<bfloat_t>(a, la, b, lb, out, v, batch);
}

FW_EXPORT void fw_correlation_gradient(int dtype, int side, int64_t batch, int channels, int height,
                                       int width, int radius, int dilation, const void* grad,
                                       const void* other, const int64_t* other_strides, void* out,
                                       const int64_t* out_strides) {
    using namespace flowwarp;
    const Volume v = {channels, height, width, radius, dilation};
    const Layout lo = layout(other_strides), lr = layout(out_strides);
    if (batch * height * width == 0) return;
    if (dtype == FLOAT32) gradient<float>(side, grad, other, lo, out, lr, v, batch);
    if (dtype == FLOAT64) gradient<double>(side, grad, other, lo, out, lr, v, batch);
    if (dtype == FLOAT16) gradient<half_t>(side, grad, other, lo, out, lr, v, batch);
    if (dtype == BFLOAT16) gradient<bfloat_t>(side, grad, other, lo, out, lr, v, batch);
}
