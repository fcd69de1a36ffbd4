// The gradients of the cost volume for both images, on the CPU.
#include "correlation_rows.h"

namespace flowwarp {
namespace {

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

// Strides are four numbers of elements each; `grad` (B, planes, H, W) is dense.

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
