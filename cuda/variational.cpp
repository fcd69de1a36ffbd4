// The parts of variational flow refinement that cost time, on the CPU: the reweighted normal
// equations, their relaxation, and the weighted median. fp32 only.
//
// As in warping.cpp no result depends on how rows are cut among threads: each kernel computes a row
// by the same operations in the same order, whoever does it, from inputs that nobody writes to.
#include "cpu.h"

namespace flowwarp {
namespace {

typedef Vector<float> V;
typedef Bits<float> I;

const int64_t GRAIN = 16;  // rows
// Medians are sought for so many pixels together, in SLICES vectors, whose sums need not wait for each
// other. As all take the rounds that one of them needs, GROUP is the same for every instruction set.
const int GROUP = 16, SLICES = GROUP / LANES;

struct Frame {
    int64_t batch;
    int height, width;
    int64_t plane() const { return (int64_t)height * width; }
};

// Rows with room for `margin` pixels and a group on both sides, 0 until written.
class Rows {
   public:
    Rows(int64_t count, int width, int margin) {
        left_ = GROUP + (margin + GROUP - 1) / GROUP * GROUP;
        pitch_ = 2 * left_ + (width + GROUP - 1) / GROUP * GROUP;
        data_ = static_cast<float*>(aligned_alloc(64, count * pitch_ * sizeof(float)));
        memset(data_, 0, count * pitch_ * sizeof(float));
    }
    ~Rows() { free(data_); }
    Rows(const Rows&) = delete;
    float* row(int64_t n) { return data_ + n * pitch_ + left_; }

   private:
    int64_t left_, pitch_;
    float* data_;
};

// Call body(example, first, last) for bands of rows of single examples.
template <typename Body>
void for_bands(Frame frame, int64_t grain, const Body& body) {
    parallel_for(frame.batch * frame.height, grain, [&](int64_t begin, int64_t end) {
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

// ---------------------------------------------------------------- normal equations

// A row of one feature in both frames, and the rows around it; beyond the image the border repeats.
struct FeatureRow {
    const float *first[5], *second[5];  // rows y - 2 .. y + 2 of frame 1 and of the warped frame 2
    float* mean;                        // of both at row y, with two pixels more on either side
};

FeatureRow feature_row(const float* first, const float* second, int y, Frame frame, float* mean) {
    FeatureRow row;
    for (int n = 0; n < 5; ++n) {
        int at = y + n - 2;
        at = at < 0 ? 0 : at >= frame.height ? frame.height - 1 : at;
        row.first[n] = first + (int64_t)at * frame.width;
        row.second[n] = second + (int64_t)at * frame.width;
    }
    for (int x = 0; x < frame.width; ++x) mean[x] = 0.5f * (row.first[2][x] + row.second[2][x]);
    mean[-1] = mean[-2] = mean[0];
    mean[frame.width] = mean[frame.width + 1] = mean[frame.width - 1];
    row.mean = mean;
    return row;
}

// One constraint: adds its weighted square to the row's equations. Derivatives by five points.
void add_constraint(const FeatureRow& feature, const float* __restrict du, const float* __restrict dv,
                    const float* __restrict confidence, float zeta, float epsilon,
                    float* __restrict out, int64_t plane, int width) {
    float *__restrict a11 = out, *__restrict a12 = out + plane, *__restrict a22 = out + 2 * plane;
    float *__restrict b1 = out + 3 * plane, *__restrict b2 = out + 4 * plane;
    const float *__restrict m = feature.mean;
    const float *f0 = feature.first[0], *f1 = feature.first[1], *f2 = feature.first[2];
    const float *f3 = feature.first[3], *f4 = feature.first[4];
    const float *s0 = feature.second[0], *s1 = feature.second[1], *s2 = feature.second[2];
    const float *s3 = feature.second[3], *s4 = feature.second[4];
    for (int x = 0; x < width; ++x) {
        const float gx = (8 * (m[x + 1] - m[x - 1]) - (m[x + 2] - m[x - 2])) * (1 / 12.0f);
        const float near = f3[x] + s3[x] - f1[x] - s1[x], far = f4[x] + s4[x] - f0[x] - s0[x];
        const float gy = (8 * near - far) * (1 / 24.0f);
        const float gt = s2[x] - f2[x];
        const float residual = gt + gx * du[x] + gy * dv[x];
        const float norm = 1 / (gx * gx + gy * gy + zeta);
        const float weight = confidence[x] * norm / sqrtf(norm * residual * residual + epsilon);
        a11[x] += weight * gx * gx;
        a12[x] += weight * gx * gy;
        a22[x] += weight * gy * gy;
        b1[x] -= weight * gx * gt;
        b2[x] -= weight * gy * gt;
    }
}

void normal_equations(const float* features1, const float* features2, const float* start,
                      const float* flow, const float* confidence, float* out, Frame frame,
                      int channels, float zeta, float epsilon) {
    const int64_t plane = frame.plane();
    const int width = frame.width;
    for_bands(frame, GRAIN, [=](int64_t example, int first, int last) {
        Rows buffers(3, width, 2);
        float *du = buffers.row(0), *dv = buffers.row(1), *mean = buffers.row(2);
        for (int y = first; y < last; ++y) {
            const int64_t at = (int64_t)y * width, from = example * 2 * plane + at;
            const float *u = start + from, *v = u + plane;
            for (int x = 0; x < width; ++x) {
                du[x] = flow[from + x] - u[x];
                dv[x] = flow[from + plane + x] - v[x];
            }
            float* row = out + example * 5 * plane + at;
            for (int n = 0; n < 5; ++n) memset(row + n * plane, 0, width * sizeof(float));
            for (int c = 0; c < channels; ++c) {
                const int64_t k = (example * channels + c) * plane;
                add_constraint(feature_row(features1 + k, features2 + k, y, frame, mean), du, dv,
                               confidence + example * plane + at, zeta, epsilon, row, plane, width);
            }
            float *b1 = row + 3 * plane, *b2 = row + 4 * plane;
            for (int x = 0; x < width; ++x) {  // for the flow, not its change
                b1[x] += row[x] * u[x] + row[plane + x] * v[x];
                b2[x] += row[plane + x] * u[x] + row[2 * plane + x] * v[x];
            }
        }
    });
}

// ---------------------------------------------------------------- smoothness

// The weight of each pixel with the one on its right and with the one below: edges / |difference|.
void smoothness_weights(const float* flow, const float* edges, float* out, Frame frame,
                        float epsilon) {
    const int64_t plane = frame.plane();
    const int width = frame.width;
    for_bands(frame, GRAIN, [=](int64_t example, int first, int last) {
        for (int y = first; y < last; ++y) {
            const int64_t k = example * 2 * plane + (int64_t)y * width;
            const int steps[2] = {1, width};
            for (int axis = 0; axis < 2; ++axis) {
                const float *u = flow + k, *v = u + plane, *edge = edges + k + axis * plane;
                const float *next_u = u + steps[axis], *next_v = v + steps[axis];
                float* __restrict to = out + k + axis * plane;
                const int count = axis == 0 ? width - 1 : y + 1 < frame.height ? width : 0;
                for (int x = 0; x < count; ++x) {
                    const float a = next_u[x] - u[x], b = next_v[x] - v[x];
                    to[x] = edge[x] / sqrtf(a * a + b * b + epsilon);
                }
                for (int x = count; x < width; ++x) to[x] = 0;
            }
        }
    });
}

// ---------------------------------------------------------------- relaxation

// What a row keeps side by side: the unknowns, the inverted 2 x 2 blocks, the right-hand side, and
// the weights to the pixels on the right and below.
enum Part { U, V_, I11, I12, I22, B1, B2, RIGHT, BELOW, PARTS };

// Relax the pixels of row y with (x + y) % 2 == colour.
void relax_row(float* const* above, float* const* row, float* const* below, int y, int width,
               int colour, float omega) {
    const I active = ((LANE_NUMBERS + (y + colour)) & 1) == 0;
    // The unknowns on the left are read before the vector there is written: a load across a fresh
    // store waits for it. What the store changes at their end is of the pixels' own colour, not used.
    V left_u = load(row[U] - 1), left_v = load(row[V_] - 1);
    for (int x = 0; x < width; x += LANES) {
        const V right = load(row[RIGHT] + x), left = load(row[RIGHT] + x - 1);
        const V down = load(row[BELOW] + x), up = load(above[BELOW] + x);
        const V u = load(row[U] + x), v = load(row[V_] + x);
        const V b1 = load(row[B1] + x) + right * load(row[U] + x + 1) + left * left_u +
                     down * load(below[U] + x) + up * load(above[U] + x);
        const V b2 = load(row[B2] + x) + right * load(row[V_] + x + 1) + left * left_v +
                     down * load(below[V_] + x) + up * load(above[V_] + x);
        const V i12 = load(row[I12] + x);
        const V new_u = load(row[I11] + x) * b1 - i12 * b2;
        const V new_v = load(row[I22] + x) * b2 - i12 * b1;
        left_u = load(row[U] + x + LANES - 1);
        left_v = load(row[V_] + x + LANES - 1);
        store(row[U] + x, select(active, u + omega * (new_u - u), u));
        store(row[V_] + x, select(active, v + omega * (new_v - v), v));
    }
}

// A band works on a copy of its rows and of as many rows around them as its sweeps reach, so bands
// need not wait for each other. Step s (half a sweep) follows step s - 1 one row behind it: all
// steps pass over the rows in one go, in the cache, and give what whole sweeps would.
void relax(const float* equations, const float* weights, const float* start, float* out, Frame frame,
           int sweeps, float omega) {
    const int64_t plane = frame.plane();
    const int width = frame.width, height = frame.height, steps = 2 * sweeps;
    for_bands(frame, 2 * steps, [=](int64_t example, int first, int last) {
        const int top = first > steps ? first - steps : 0;
        const int bottom = last + steps < height ? last + steps : height;
        const int64_t count = bottom - top + 2;  // a row of zeros on either side
        Rows rows(count * PARTS, width, 0);
        float** at = static_cast<float**>(malloc(count * PARTS * sizeof(float*)));
        for (int64_t n = 0; n < count * PARTS; ++n) at[n] = rows.row(n);
        const auto parts = [=](int y) { return at + (int64_t)(y - top + 1) * PARTS; };

        const float* a = equations + example * 5 * plane;
        const float* w = weights + example * 2 * plane;
        const float* f = start + example * 2 * plane;
        for (int y = top; y < bottom; ++y) {
            float* const* row = parts(y);
            const int64_t k = (int64_t)y * width;
            const size_t bytes = width * sizeof(float);
            memcpy(row[U], f + k, bytes);
            memcpy(row[V_], f + plane + k, bytes);
            memcpy(row[B1], a + 3 * plane + k, bytes);
            memcpy(row[B2], a + 4 * plane + k, bytes);
            memcpy(row[RIGHT], w + k, (width - 1) * sizeof(float));
            if (y + 1 < height) memcpy(row[BELOW], w + plane + k, bytes);
            const float *right = row[RIGHT], *down = row[BELOW], *up = parts(y - 1)[BELOW];
            float *i11 = row[I11], *i12 = row[I12], *i22 = row[I22];
            for (int x = 0; x < width; ++x) {
                const float sum = right[x] + right[x - 1] + down[x] + up[x];
                const float d1 = a[k + x] + sum, d2 = a[2 * plane + k + x] + sum, d12 = a[plane + k + x];
                const float determinant = d1 * d2 - d12 * d12;
                const float inverse = determinant > 0 ? 1 / determinant : 0;
                i11[x] = d2 * inverse;
                i12[x] = d12 * inverse;
                i22[x] = d1 * inverse;
            }
        }
        for (int time = top; time < bottom + steps; ++time) {
            for (int s = 0; s < steps; ++s) {
                const int y = time - s, reach = steps - 1 - s;
                if (y < top || y < first - reach || y >= bottom || y >= last + reach) continue;
                relax_row(parts(y - 1), parts(y), parts(y + 1), y, width, s & 1, omega);
            }
        }
        for (int y = first; y < last; ++y) {
            float* to = out + example * 2 * plane + (int64_t)y * width;
            memcpy(to, parts(y)[U], width * sizeof(float));
            memcpy(to + plane, parts(y)[V_], width * sizeof(float));
        }
        free(at);
    });
}

// ---------------------------------------------------------------- weighted median

FW_HD V least(V a, V b) { return a < b ? a : b; }
FW_HD V most(V a, V b) { return a > b ? a : b; }

// exp(-s) nearly: (1 - s/8)^8, and 0 from 8 on.
FW_HD V decay(V s) {
    V value = most(1 - s * 0.125f, V{});
    value *= value;
    value *= value;
    return value * value;
}

// The weighted median of `count` values for each pixel of a group, by bisection on its value until
// no bracket is wider than `precision`; what comes back is one of the values. values(n, p) reads LANES
// of them, which weigh weight[n][p].
template <typename Values>
FW_HD void median(const Values& values, const V (*weight)[SLICES], int count, const V* own,
                  float precision, V* out) {
    const float far = 3e38f;
    V total[SLICES], low[SLICES], high[SLICES], half[SLICES], smallest[SLICES];
    for (int p = 0; p < SLICES; ++p) {
        total[p] = V{};
        low[p] = broadcast(far);
        high[p] = broadcast(-far);
    }
    for (int n = 0; n < count; ++n)
        for (int p = 0; p < SLICES; ++p) {
            const V value = values(n, p);
            const I counts = weight[n][p] > 0;
            total[p] += weight[n][p];
            low[p] = select(counts, least(low[p], value), low[p]);
            high[p] = select(counts, most(high[p], value), high[p]);
        }
    for (int p = 0; p < SLICES; ++p) {
        half[p] = total[p] * 0.5f;
        smallest[p] = low[p];
    }
    // Invariant: what is at most `high` weighs half or more; what is at most `low` less than half, or
    // low is the smallest of all.
    for (int round = 0; round < 40; ++round) {
        V middle[SLICES], below[SLICES];
        I wide = {};
        for (int p = 0; p < SLICES; ++p) {
            wide |= high[p] - low[p] > precision;
            middle[p] = 0.5f * (low[p] + high[p]);
            below[p] = V{};
        }
        if (lane_bits(wide) == 0) break;
        for (int n = 0; n < count; ++n)
            for (int p = 0; p < SLICES; ++p)
                below[p] += select(values(n, p) <= middle[p], weight[n][p], V{});
        for (int p = 0; p < SLICES; ++p) {
            const I enough = below[p] >= half[p];
            high[p] = select(enough, middle[p], high[p]);
            low[p] = select(enough, low[p], middle[p]);
        }
    }
    V best[SLICES];
    for (int p = 0; p < SLICES; ++p) best[p] = high[p];
    for (int n = 0; n < count; ++n)
        for (int p = 0; p < SLICES; ++p) {
            const V value = values(n, p);
            const I above = (value > low[p]) | (low[p] == smallest[p]);
            const I candidate = (weight[n][p] > 0) & above & (value < best[p]);
            best[p] = select(candidate, value, best[p]);
        }
    for (int p = 0; p < SLICES; ++p) out[p] = select(total[p] > 0, best[p], own[p]);
}

void weighted_median(const float* flow, const float* guide, const float* confidence, float* out,
                     Frame frame, int channels, int radius, float space, float precision) {
    const int64_t plane = frame.plane();
    const int width = frame.width, height = frame.height, side = 2 * radius + 1;
    const int count = side * side, planes = 3 + channels;  // u, v, confidence, guide
    for_bands(frame, GRAIN, [=](int64_t example, int first, int last) {
        const int top = first > radius ? first - radius : 0;
        const int bottom = last + radius < height ? last + radius : height;
        Rows rows((int64_t)(last - first + 2 * radius) * planes, width, radius);
        const auto row = [&](int y, int n) {
            return rows.row((int64_t)(y - first + radius) * planes + n);
        };
        for (int y = top; y < bottom; ++y) {
            const int64_t k = (int64_t)y * width;
            const size_t bytes = width * sizeof(float);
            memcpy(row(y, 0), flow + example * 2 * plane + k, bytes);
            memcpy(row(y, 1), flow + (example * 2 + 1) * plane + k, bytes);
            memcpy(row(y, 2), confidence + example * plane + k, bytes);
            for (int c = 0; c < channels; ++c)
                memcpy(row(y, 3 + c), guide + (example * channels + c) * plane + k, bytes);
        }
        typedef V Slices[SLICES];
        Slices* weight = static_cast<Slices*>(aligned_alloc(64, count * sizeof(Slices)));
        const float** from = static_cast<const float**>(malloc(count * sizeof(float*)));
        for (int y = first; y < last; ++y) {
            for (int n = 0; n < count; ++n)
                from[n] = row(y + n / side - radius, 0) + n % side - radius;
            const int64_t to_v = row(y, 1) - row(y, 0);
            for (int x = 0; x < width; x += GROUP) {
                for (int n = 0; n < count; ++n) {
                    const int dy = n / side - radius, dx = n % side - radius;
                    for (int p = 0; p < SLICES; ++p) {
                        const int at = x + p * LANES;
                        V distance = broadcast(space * (float)(dx * dx + dy * dy));
                        for (int c = 0; c < channels; ++c) {
                            const V d = load(row(y + dy, 3 + c) + at + dx) - load(row(y, 3 + c) + at);
                            distance += d * d;
                        }
                        weight[n][p] = decay(distance) * load(row(y + dy, 2) + at + dx);
                    }
                }
                for (int axis = 0; axis < 2; ++axis) {
                    V own[SLICES], found[SLICES];
                    for (int p = 0; p < SLICES; ++p) own[p] = load(row(y, axis) + x + p * LANES);
                    const auto values = [=](int n, int p) {
                        return load(from[n] + x + p * LANES + axis * to_v);
                    };
                    median(values, weight, count, own, precision, found);
                    float* to = out + (example * 2 + axis) * plane + (int64_t)y * width + x;
                    for (int p = 0; p < SLICES; ++p)
                        store_part(to + p * LANES, found[p], width - x - p * LANES);
                }
            }
        }
        free(from);
        free(weight);
    });
}

}  // namespace
}  // namespace flowwarp

FW_EXPORT void fw_normal_equations(int64_t batch, int channels, int height, int width,
                                   const float* features1, const float* features2,
                                   const float* start, const float* flow, const float* confidence,
                                   float zeta, float epsilon, float* out) {
    flowwarp::normal_equations(features1, features2, start, flow, confidence, out,
                               {batch, height, width}, channels, zeta, epsilon);
}

FW_EXPORT void fw_smoothness_weights(int64_t batch, int height, int width, const float* flow,
                                     const float* edges, float epsilon, float* out) {
    flowwarp::smoothness_weights(flow, edges, out, {batch, height, width}, epsilon);
}

FW_EXPORT void fw_relax(int64_t batch, int height, int width, const float* equations,
                        const float* weights, const float* start, int sweeps, float omega,
                        float* out) {
    if (width > 0) flowwarp::relax(equations, weights, start, out, {batch, height, width}, sweeps, omega);
}

FW_EXPORT void fw_weighted_median(int64_t batch, int channels, int height, int width,
                                  const float* flow, const float* guide, const float* confidence,
                                  int radius, float space, float precision, float* out) {
    flowwarp::weighted_median(flow, guide, confidence, out, {batch, height, width}, channels, radius,
                              space, precision);
}
