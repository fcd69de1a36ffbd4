// Draws tokens by their logits, on the CPU: softmax, the likeliest few, one of them.
//
// Of a thousand tokens some dozens are likely enough to be drawn. Those are found without sorting
// all: what tokens there are of each order of magnitude tells where the likeliest end.
#include "cpu.h"

#include <algorithm>

namespace flowwarp {
namespace {

const int64_t GRAIN = 8;  // rows
const int BUCKETS = 256;  // two to each power of two, the likeliest first

struct Likely {
    float chance;
    int32_t token;
};

// e^x for x <= 0, to about one unit in the last place; 0 for what is smaller than normal numbers.
FW_HD float exponential(float x) {
    const float bounded = x > -87.0f ? x : -87.0f;  // also for what is no number
    const float power = floorf(bounded * 1.44269504f + 0.5f);
    // ln 2 in two parts, so that what is left of x is exact.
    const float rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    const float value = sum * rest * rest + rest + 1.0f;
    return x > -87.0f ? value * as_float((unsigned)((int)power + 127) << 23) : 0.0f;
}

FW_HD int bucket_of(float chance) {
    const int bucket = 2 * 127 - (int)(as_bits(chance) >> 22);  // of chances from 0 to 1
    return bucket < 0 ? 0 : bucket < BUCKETS ? bucket : BUCKETS - 1;
}

// Writes e^(logit - the largest) of each token, by temperature, and returns their sum.
float chances_of(const float* __restrict logits, float* __restrict chances, int64_t size,
                 float temperature) {
    float largest = logits[0];
    for (int64_t n = 1; n < size; ++n) largest = logits[n] > largest ? logits[n] : largest;
    const float scale = 1 / temperature;
    for (int64_t n = 0; n < size; ++n) chances[n] = exponential((logits[n] - largest) * scale);
    float sums[PARTIAL_SUMS] = {}, total = 0;
    int64_t n = 0;
    for (; n + PARTIAL_SUMS <= size; n += PARTIAL_SUMS)
        for (int k = 0; k < PARTIAL_SUMS; ++k) sums[k] += chances[n + k];
    for (; n < size; ++n) total += chances[n];
    for (int k = 0; k < PARTIAL_SUMS; ++k) total += sums[k];
    return total;
}

// Returns the last bucket of those that hold `most` tokens, or so much of the probability.
int last_bucket(const float* chances, int64_t size, int64_t most, float share) {
    float sums[BUCKETS] = {};
    int32_t counts[BUCKETS] = {};
    for (int64_t n = 0; n < size; ++n) {
        const int bucket = bucket_of(chances[n]);
        sums[bucket] += chances[n];
        ++counts[bucket];
    }
    float sum = 0;
    int64_t count = 0;
    for (int bucket = 0; bucket < BUCKETS - 1; ++bucket) {
        sum += sums[bucket];
        count += counts[bucket];
        if (count >= most || sum >= share) return bucket;
    }
    return BUCKETS - 1;
}

int64_t draw(const float* logits, int64_t size, float temperature, int64_t top_k, float top_p,
             float where, float* chances, Likely* likely) {
    float total = chances_of(logits, chances, size, temperature);
    const bool few = top_k > 0 && top_k < size;
    const float all = 2 * total;  // more than there is
    const int last = few ? last_bucket(chances, size, top_k, all)
                         : last_bucket(chances, size, size, top_p < 1 ? top_p * total : all);
    int64_t count = 0;
    for (int64_t n = 0; n < size; ++n)
        if (bucket_of(chances[n]) <= last) likely[count++] = {chances[n], (int32_t)n};
    std::sort(likely, likely + count, [](const Likely& a, const Likely& b) {
        return a.chance != b.chance ? a.chance > b.chance : a.token < b.token;
    });
    if (few) {
        count = std::min(count, top_k);
        total = 0;
        for (int64_t n = 0; n < count; ++n) total += likely[n].chance;
    }
    if (count == 0) return 0;  // of rows that are no numbers
    // The likeliest always stays, as nothing comes before it.
    float sum = 0;
    int64_t kept = 0;
    while (kept < count && (kept == 0 || top_p >= 1 || sum < top_p * total))
        sum += likely[kept++].chance;
    const float target = where * sum;
    float reached = 0;
    for (int64_t n = 0; n + 1 < kept; ++n) {
        reached += likely[n].chance;
        if (reached > target) return likely[n].token;
    }
    return likely[kept - 1].token;
}

}  // namespace
}  // namespace flowwarp

// `room` has 3 * size floats for each row.
FW_EXPORT void fw_draw(int64_t rows, int64_t size, int64_t stride, const float* logits,
                       const float* where, float temperature, int64_t top_k, float top_p, float* room,
                       int64_t* out) {
    using namespace flowwarp;
    parallel_for(rows, GRAIN, [=](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            float* chances = room + row * 3 * size;
            Likely* likely = reinterpret_cast<Likely*>(chances + size);
            out[row] = draw(logits + row * stride, size, temperature, top_k, top_p, where[row], chances,
                            likely);
        }
    });
}
