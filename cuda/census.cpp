// The census transform, the distance between two of them, and their gradients on the CPU.
//
// A thread owns a band of rows and keeps the grey values it needs in a ring of padded rows. The
// distance visits each pair of neighbours once: row y with rows y .. y + radius, each pair adding to
// both of its pixels, in the sums `near` of the upper row and `far` of the lower one. A band begins
// `radius` rows early, with only the pairs that reach it, so that a pixel's sum always has the same
// terms in the same order, whatever the cut. Loops over x are plain, for the compiler to vectorise;
// their counts are rounded up to whole vectors, and what lies beyond the row adds 0.
#include "census.h"

#include "cpu.h"

namespace flowwarp {
namespace {

const int64_t GRAIN = 16;  // rows; a band repeats the pairs of `radius` rows

struct Frame {
    int64_t batch;
    int channels, height, width, radius;
    int64_t plane() const { return (int64_t)height * width; }
};

// Strides in elements.
struct Strides {
    int64_t example, channel, row, column;
};

// What counts are rounded up to: 64 bytes of fp32, whole vectors of any instruction set.
const int BLOCK = 16;

int64_t round_up(int64_t value) { return (value + BLOCK - 1) / BLOCK * BLOCK; }

// A ring of rows of S, each with room for `radius` pixels and a vector on both sides.
template <typename S>
class Ring {
   public:
    Ring(Frame frame, int slots) : slots_(slots) {
        left_ = round_up(frame.radius);
        pitch_ = left_ + round_up(frame.width) + round_up(frame.radius) + 2 * BLOCK;
        data_ = static_cast<S*>(aligned_alloc(64, slots * pitch_ * sizeof(S)));
        memset(data_, 0, slots * pitch_ * sizeof(S));
    }
    ~Ring() { free(data_); }
    Ring(const Ring&) = delete;
    S* row(int y) { return data_ + y % slots_ * pitch_ + left_; }
    void clear(int y) { memset(row(y) - left_, 0, pitch_ * sizeof(S)); }

   private:
    int slots_;
    int64_t left_, pitch_;
    S* data_;
};

template <typename T, typename S>
void read_grey(const T* from, Strides strides, Frame frame, S* __restrict to) {
    const Grey grey = {frame.channels};
    const S w0 = grey.weight<S>(0), w1 = grey.weight<S>(1), w2 = grey.weight<S>(2);
    const T *g = from + strides.channel, *b = g + strides.channel;
    const int64_t step = strides.column;
    if (frame.channels == 1) {
        for (int64_t x = 0; x < frame.width; ++x) to[x] = widen(from[x * step]) * w0;
    } else if (step == 1) {
        for (int64_t x = 0; x < frame.width; ++x)
            to[x] = widen(from[x]) * w0 + widen(g[x]) * w1 + widen(b[x]) * w2;
    } else {
        for (int64_t x = 0; x < frame.width; ++x)
            to[x] = widen(from[x * step]) * w0 + widen(g[x * step]) * w1 + widen(b[x * step]) * w2;
    }
}

// Spread a gradient for grey values over the channels.
template <typename T, typename S>
void write_grey(T* to, Strides strides, Frame frame, const S* near, const S* far) {
    const Grey grey = {frame.channels};
    for (int c = 0; c < frame.channels; ++c) {
        T* channel = to + c * strides.channel;
        const S weight = grey.weight<S>(c);
        if (strides.column == 1) {
            for (int64_t x = 0; x < frame.width; ++x)
                channel[x] = narrow<T>((near[x] + far[x]) * weight);
        } else {
            for (int64_t x = 0; x < frame.width; ++x)
                channel[x * strides.column] = narrow<T>((near[x] + far[x]) * weight);
        }
    }
}

// The pixels x of a row whose neighbour at x + dx is inside.
struct Span {
    int64_t first, count;
    Span(int dx, int width) {
        first = dx < 0 ? -dx : 0;
        count = width - first - (dx > 0 ? dx : 0);
    }
};

// Cut all rows into bands; body(example, first, last) computes rows [first, last) of an example.
template <typename Body>
void for_bands(Frame frame, const Body& body) {
    parallel_for(frame.batch * frame.height, GRAIN, [&](int64_t begin, int64_t end) {
        while (begin < end) {
            const int64_t example = begin / frame.height;
            const int first = (int)(begin % frame.height);
            const int64_t left = end - begin, rest = frame.height - first;
            const int last = first + (int)(left < rest ? left : rest);
            body(example, first, last);
            begin += last - first;
        }
    });
}

// Visit the pairs of row y, with y + dy in the band for the band's early rows, as pairs(dy, dx).
template <typename Pairs>
void for_pairs(Frame frame, int first, int y, const Pairs& pairs) {
    for (int dy = y < first ? first - y : 0; dy <= frame.radius && y + dy < frame.height; ++dy)
        for (int dx = dy == 0 ? 1 : -frame.radius; dx <= frame.radius; ++dx)
            if (dx < frame.width && -dx < frame.width) pairs(dy, dx);
}

// ---------------------------------------------------------------- distance

template <typename S>
void add_distances(const S* __restrict p1, const S* __restrict q1, const S* __restrict p2,
                   const S* __restrict q2, S* __restrict near, S* __restrict far, int64_t count) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    const int bound = (int)count;
    for (int i = 0; i < (int)blocks * BLOCK; ++i) {
        const S z = soft_sign(q1[i] - p1[i]).value - soft_sign(q2[i] - p2[i]).value;
        const S h = i < bound ? soft_hamming(z) : (S)0;
        near[i] += h;
        far[i] += h;
    }
}

template <typename T>
void census_distance(const T* image1, Strides s1, const T* image2, Strides s2, T* out, Frame frame) {
    typedef typename Accumulate<T>::type S;
    const int radius = frame.radius;
    const S scale = 1 / (S)census_planes(radius);
    for_bands(frame, [=](int64_t example, int first, int last) {
        Ring<S> grey1(frame, radius + 1), grey2(frame, radius + 1);
        Ring<S> near(frame, 1), far(frame, radius + 1);
        const int start = first > radius ? first - radius : 0;
        int read = start;
        for (int y = start; y < last; ++y) {
            for (; read < frame.height && read <= y + radius; ++read) {
                read_grey(image1 + example * s1.example + read * s1.row, s1, frame, grey1.row(read));
                read_grey(image2 + example * s2.example + read * s2.row, s2, frame, grey2.row(read));
                far.clear(read);
            }
            near.clear(0);
            for_pairs(frame, first, y, [&](int dy, int dx) {
                const Span span(dx, frame.width);
                const int64_t p = span.first, q = span.first + dx;
                add_distances<S>(grey1.row(y) + p, grey1.row(y + dy) + q, grey2.row(y) + p,
                                 grey2.row(y + dy) + q, near.row(0) + p, far.row(y + dy) + q, span.count);
            });
            if (y < first) continue;
            T* to = out + example * frame.plane() + (int64_t)y * frame.width;
            const S *sum1 = near.row(0), *sum2 = far.row(y);
            for (int64_t x = 0; x < frame.width; ++x) to[x] = narrow<T>((sum1[x] + sum2[x]) * scale);
        }
    });
}

// ---------------------------------------------------------------- its gradient

template <typename S>
void add_gradients(const S* __restrict p1, const S* __restrict q1, const S* __restrict p2,
                   const S* __restrict q2, const S* __restrict gp, const S* __restrict gq,
                   S* __restrict near1, S* __restrict near2, S* __restrict far1, S* __restrict far2,
                   int64_t count) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    const int bound = (int)count;
    for (int i = 0; i < (int)blocks * BLOCK; ++i) {
        const SoftSign<S> t1 = soft_sign(q1[i] - p1[i]), t2 = soft_sign(q2[i] - p2[i]);
        const S e = (gp[i] + gq[i]) * soft_hamming_slope(t1.value - t2.value);
        const S e1 = i < bound ? e * t1.slope() : (S)0, e2 = i < bound ? e * t2.slope() : (S)0;
        near1[i] -= e1;
        far1[i] += e1;
        near2[i] += e2;
        far2[i] -= e2;
    }
}

// Either result may be null.
template <typename T>
void census_distance_gradient(const T* grad, const T* image1, Strides s1, const T* image2, Strides s2,
                              T* out1, Strides o1, T* out2, Strides o2, Frame frame) {
    typedef typename Accumulate<T>::type S;
    const int radius = frame.radius;
    const S scale = 1 / (S)census_planes(radius);
    for_bands(frame, [=](int64_t example, int first, int last) {
        Ring<S> grey1(frame, radius + 1), grey2(frame, radius + 1), weight(frame, radius + 1);
        Ring<S> near1(frame, 1), near2(frame, 1), far1(frame, radius + 1), far2(frame, radius + 1);
        const int start = first > radius ? first - radius : 0;
        int read = start;
        for (int y = start; y < last; ++y) {
            for (; read < frame.height && read <= y + radius; ++read) {
                read_grey(image1 + example * s1.example + read * s1.row, s1, frame, grey1.row(read));
                read_grey(image2 + example * s2.example + read * s2.row, s2, frame, grey2.row(read));
                const T* from = grad + example * frame.plane() + (int64_t)read * frame.width;
                S* to = weight.row(read);
                for (int64_t x = 0; x < frame.width; ++x) to[x] = widen(from[x]) * scale;
                far1.clear(read);
                far2.clear(read);
            }
            near1.clear(0);
            near2.clear(0);
            for_pairs(frame, first, y, [&](int dy, int dx) {
                const Span span(dx, frame.width);
                const int64_t p = span.first, q = span.first + dx;
                add_gradients<S>(grey1.row(y) + p, grey1.row(y + dy) + q, grey2.row(y) + p,
                                 grey2.row(y + dy) + q, weight.row(y) + p, weight.row(y + dy) + q,
                                 near1.row(0) + p, near2.row(0) + p, far1.row(y + dy) + q,
                                 far2.row(y + dy) + q, span.count);
            });
            if (y < first) continue;
            if (out1 != nullptr)
                write_grey(out1 + example * o1.example + y * o1.row, o1, frame, near1.row(0), far1.row(y));
            if (out2 != nullptr)
                write_grey(out2 + example * o2.example + y * o2.row, o2, frame, near2.row(0), far2.row(y));
        }
    });
}

// ---------------------------------------------------------------- the transform itself

template <typename T>
void census(const T* image, Strides s, T* out, Frame frame) {
    typedef typename Accumulate<T>::type S;
    const int radius = frame.radius;
    for_bands(frame, [=](int64_t example, int first, int last) {
        Ring<S> grey(frame, 2 * radius + 1);
        int read = first > radius ? first - radius : 0;
        T* const target = out + example * census_planes(radius) * frame.plane();
        for (int y = first; y < last; ++y) {
            for (; read < frame.height && read <= y + radius; ++read)
                read_grey(image + example * s.example + read * s.row, s, frame, grey.row(read));
            const S* __restrict here = grey.row(y);
            for (int dy = -radius; dy <= radius; ++dy)
                for (int dx = -radius; dx <= radius; ++dx) {
                    if ((dy == 0) & (dx == 0)) continue;
                    T* __restrict to = target + census_plane(radius, dy, dx) * frame.plane() +
                                       (int64_t)y * frame.width;
                    Span span(dx, frame.width);
                    if ((y + dy < 0) | (y + dy >= frame.height) | (span.count <= 0)) {
                        memset(static_cast<void*>(to), 0, frame.width * sizeof(T));
                        continue;
                    }
                    const int64_t end = span.first + span.count;
                    for (int64_t x = 0; x < span.first; ++x) to[x] = narrow<T>((S)0);
                    for (int64_t x = end; x < frame.width; ++x) to[x] = narrow<T>((S)0);
                    const S* __restrict there = grey.row(y + dy) + dx;
                    for (int64_t x = span.first; x < end; ++x)
                        to[x] = narrow<T>(soft_sign(there[x] - here[x]).value);
                }
        }
    });
}

template <typename T>
void census_gradient(const T* grad, const T* image, Strides s, T* out, Strides o, Frame frame) {
    typedef typename Accumulate<T>::type S;
    const int radius = frame.radius;
    for_bands(frame, [=](int64_t example, int first, int last) {
        Ring<S> grey(frame, 2 * radius + 1), sums(frame, 1), none(frame, 1);
        int read = first > radius ? first - radius : 0;
        const T* const source = grad + example * census_planes(radius) * frame.plane();
        for (int y = first; y < last; ++y) {
            for (; read < frame.height && read <= y + radius; ++read)
                read_grey(image + example * s.example + read * s.row, s, frame, grey.row(read));
            sums.clear(0);
            const S* __restrict here = grey.row(y);
            S* __restrict sum = sums.row(0);
            for (int dy = -radius; dy <= radius; ++dy)
                for (int dx = -radius; dx <= radius; ++dx) {
                    Span span(dx, frame.width);
                    const bool centre = (dy == 0) & (dx == 0);
                    if (centre | (y + dy < 0) | (y + dy >= frame.height) | (span.count <= 0)) continue;
                    const S* __restrict there = grey.row(y + dy) + dx;
                    const T* __restrict own = source + census_plane(radius, dy, dx) * frame.plane() +
                                              (int64_t)y * frame.width;
                    const T* __restrict other = source + census_plane(radius, -dy, -dx) * frame.plane() +
                                                (int64_t)(y + dy) * frame.width + dx;
                    for (int64_t x = span.first; x < span.first + span.count; ++x)
                        sum[x] += soft_sign(there[x] - here[x]).slope() * (widen(other[x]) - widen(own[x]));
                }
            write_grey(out + example * o.example + y * o.row, o, frame, sums.row(0), none.row(0));
        }
    });
}

// ---------------------------------------------------------------- choosing the template

struct Call {
    const void *image1, *image2, *grad;
    void *out1, *out2;
    Strides image1_strides, image2_strides, out1_strides, out2_strides;
    Frame frame;
};
enum Job { TRANSFORM, TRANSFORM_GRADIENT, DISTANCE, DISTANCE_GRADIENT };

template <typename T>
void run(Job job, const Call& call) {
    const T *image1 = static_cast<const T*>(call.image1), *image2 = static_cast<const T*>(call.image2);
    const T* grad = static_cast<const T*>(call.grad);
    T *out1 = static_cast<T*>(call.out1), *out2 = static_cast<T*>(call.out2);
    const Strides s1 = call.image1_strides, s2 = call.image2_strides;
    const Strides o1 = call.out1_strides, o2 = call.out2_strides;
    if (job == TRANSFORM) census(image1, s1, out1, call.frame);
    if (job == TRANSFORM_GRADIENT) census_gradient(grad, image1, s1, out1, o1, call.frame);
    if (job == DISTANCE) census_distance(image1, s1, image2, s2, out1, call.frame);
    if (job == DISTANCE_GRADIENT)
        census_distance_gradient(grad, image1, s1, image2, s2, out1, o1, out2, o2, call.frame);
}

void choose(Job job, int dtype, const Call& call) {
    if (call.frame.batch * call.frame.plane() == 0) return;
    if (dtype == FLOAT32) run<float>(job, call);
    if (dtype == FLOAT64) run<double>(job, call);
    if (dtype == FLOAT16) run<half_t>(job, call);
    if (dtype == BFLOAT16) run<bfloat_t>(job, call);
}

Strides strides(const int64_t* four) {
    return four == nullptr ? Strides{} : Strides{four[0], four[1], four[2], four[3]};
}

}  // namespace
}  // namespace flowwarp

// Strides are four numbers of elements each; (B, 1, H, W) and (B, planes, H, W) tensors are dense.

FW_EXPORT void fw_census(int dtype, int64_t batch, int channels, int height, int width, int radius,
                         const void* image, const int64_t* image_strides, void* out) {
    flowwarp::Call call = {};
    call.frame = {batch, channels, height, width, radius};
    call.image1 = image;
    call.image1_strides = flowwarp::strides(image_strides);
    call.out1 = out;
    flowwarp::choose(flowwarp::TRANSFORM, dtype, call);
}

FW_EXPORT void fw_census_gradient(int dtype, int64_t batch, int channels, int height, int width,
                                  int radius, const void* grad, const void* image,
                                  const int64_t* image_strides, void* out, const int64_t* out_strides) {
    flowwarp::Call call = {};
    call.frame = {batch, channels, height, width, radius};
    call.grad = grad;
    call.image1 = image;
    call.image1_strides = flowwarp::strides(image_strides);
    call.out1 = out;
    call.out1_strides = flowwarp::strides(out_strides);
    flowwarp::choose(flowwarp::TRANSFORM_GRADIENT, dtype, call);
}

FW_EXPORT void fw_census_distance(int dtype, int64_t batch, int channels, int height, int width,
                                  int radius, const void* image1, const int64_t* image1_strides,
                                  const void* image2, const int64_t* image2_strides, void* out) {
    flowwarp::Call call = {};
    call.frame = {batch, channels, height, width, radius};
    call.image1 = image1;
    call.image2 = image2;
    call.image1_strides = flowwarp::strides(image1_strides);
    call.image2_strides = flowwarp::strides(image2_strides);
    call.out1 = out;
    flowwarp::choose(flowwarp::DISTANCE, dtype, call);
}

// `out1` or `out2` may be null.
FW_EXPORT void fw_census_distance_gradient(int dtype, int64_t batch, int channels, int height, int width,
                                           int radius, const void* grad, const void* image1,
                                           const int64_t* image1_strides, const void* image2,
                                           const int64_t* image2_strides, void* out1,
                                           const int64_t* out1_strides, void* out2,
                                           const int64_t* out2_strides) {
    flowwarp::Call call = {};
    call.frame = {batch, channels, height, width, radius};
    call.grad = grad;
    call.image1 = image1;
    call.image2 = image2;
    call.image1_strides = flowwarp::strides(image1_strides);
    call.image2_strides = flowwarp::strides(image2_strides);
    call.out1 = out1;
    call.out2 = out2;
    call.out1_strides = flowwarp::strides(out1_strides);
    call.out2_strides = flowwarp::strides(out2_strides);
    flowwarp::choose(flowwarp::DISTANCE_GRADIENT, dtype, call);
}
