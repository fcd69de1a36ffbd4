// Descriptors of pixels, and one round of PatchMatch, on the CPU: each pixel of frame 1 looks for a
// nearer descriptor in frame 2 among its neighbours' matches and at random around its own.
//
// A round reads the last round's matches and writes its own, and the random numbers are a hash of the
// pixel and the round: the result does not depend on how rows are cut among threads.
#include "cpu.h"

namespace flowwarp {
namespace {

const int64_t GRAIN = 8;  // rows

struct Offset {
    int dx, dy;
};
const Offset NEIGHBOURS[] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}, {-5, 0}, {5, 0}, {0, -5}, {0, 5}};

// Murmur3's finaliser: every bit of the input reaches every bit of the output.
uint32_t scramble(uint32_t value) {
    value = (value ^ (value >> 16)) * 0x85ebca6bu;
    value = (value ^ (value >> 13)) * 0xc2b2ae35u;
    return value ^ (value >> 16);
}

// A whole number in [-radius, radius] from the upper or lower half of `bits`.
int offset_from(uint32_t bits, int radius) {
    return (int)((bits & 0xffffu) * (uint32_t)(2 * radius + 1) >> 16) - radius;
}

int distance(const uint8_t* __restrict a, const uint8_t* __restrict b, int length) {
    int sum = 0;
    for (int n = 0; n < length; ++n) {
        const int difference = a[n] - b[n];
        sum += difference < 0 ? -difference : difference;
    }
    return sum;
}

// Reads the eight directions at 4 x 4 places around each pixel, which beyond the border repeats, and
// scales these 128 numbers to one length, so that they fit a byte each.
void describe(const float* parts, const int* places, uint8_t* out, int height, int width,
              float noise, float most) {
    parallel_for(height, GRAIN, [=](int64_t first, int64_t last) {
        for (int y = (int)first; y < last; ++y) {
            for (int x = 0; x < width; ++x) {
                float vector[128], squares[PARTIAL_SUMS] = {};
                for (int n = 0; n < 16; ++n) {
                    int ty = y + places[n / 4], tx = x + places[n % 4];
                    ty = ty < 0 ? 0 : ty >= height ? height - 1 : ty;
                    tx = tx < 0 ? 0 : tx >= width ? width - 1 : tx;
                    memcpy(vector + 8 * n, parts + 8 * ((int64_t)ty * width + tx), 8 * sizeof(float));
                }
                for (int n = 0; n < 128; n += PARTIAL_SUMS)
                    for (int k = 0; k < PARTIAL_SUMS; ++k) squares[k] += vector[n + k] * vector[n + k];
                float sum = 16 * noise * noise;
                for (int k = 0; k < PARTIAL_SUMS; ++k) sum += squares[k];
                const float scale = 512 / sqrtf(sum);
                uint8_t* to = out + 128 * ((int64_t)y * width + x);
                for (int n = 0; n < 128; ++n) {
                    const float value = vector[n] * scale;
                    to[n] = (uint8_t)(int)(value < most ? value : most);
                }
            }
        }
    });
}

void match_round(const uint8_t* features1, const uint8_t* features2, const int32_t* matches,
                 int32_t* out, int32_t* cost, int height, int width, int length, int radius,
                 int round) {
    parallel_for(height, GRAIN, [=](int64_t first, int64_t last) {
        for (int y = (int)first; y < last; ++y) {
            for (int x = 0; x < width; ++x) {
                const int64_t pixel = (int64_t)y * width + x;
                const uint8_t* own = features1 + pixel * length;
                int u = matches[2 * pixel], v = matches[2 * pixel + 1];
                int best = distance(own, features2 + ((int64_t)(y + v) * width + x + u) * length, length);
                const auto attempt = [&](int du, int dv) {
                    const int tx = x + du, ty = y + dv;
                    if ((du == u && dv == v) || tx < 0 || tx >= width || ty < 0 || ty >= height) return;
                    const int d = distance(own, features2 + ((int64_t)ty * width + tx) * length, length);
                    if (d >= best) return;
                    best = d;
                    u = du;
                    v = dv;
                };
                for (const Offset step : NEIGHBOURS) {
                    const int nx = x + step.dx, ny = y + step.dy;
                    if (nx < 0 || nx >= width || ny < 0 || ny >= height) continue;
                    const int32_t* theirs = matches + 2 * ((int64_t)ny * width + nx);
                    attempt(theirs[0], theirs[1]);
                }
                uint32_t bits = scramble((uint32_t)pixel + 0x9e3779b9u * (uint32_t)round);
                for (int reach = radius; reach > 0; reach /= 2) {
                    bits = scramble(bits + (uint32_t)reach);
                    attempt(u + offset_from(bits, reach), v + offset_from(bits >> 16, reach));
                }
                out[2 * pixel] = u;
                out[2 * pixel + 1] = v;
                cost[pixel] = best;
            }
        }
    });
}

}  // namespace
}  // namespace flowwarp

FW_EXPORT void fw_describe(int height, int width, const float* parts, const int* places, float noise,
                           float most, uint8_t* out) {
    flowwarp::describe(parts, places, out, height, width, noise, most);
}

FW_EXPORT void fw_match_round(int height, int width, int length, const uint8_t* features1,
                              const uint8_t* features2, const int32_t* matches, int radius, int round,
                              int32_t* out, int32_t* cost) {
    flowwarp::match_round(features1, features2, matches, out, cost, height, width, length, radius,
                          round);
}
