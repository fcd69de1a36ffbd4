// The cost volume on the CPU.
#include "correlation_rows.h"

namespace flowwarp {
namespace {

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

template <typename T>
void forward(const void* a, Layout la, const void* b, Layout lb, void* out, Volume v, int64_t batch) {
    correlation(static_cast<const T*>(a), la, static_cast<const T*>(b), lb, static_cast<T*>(out), v, batch);
}

}  // namespace
}  // namespace flowwarp

// Strides are four numbers of elements each; `out` (B, planes, H, W) is dense.

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
