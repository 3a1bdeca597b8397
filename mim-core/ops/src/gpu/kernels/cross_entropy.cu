// Cross-entropy of rows of logits, each times a scale; a block of whole warps has a row. What is wanted of
// row r is the class ids[r] or, if `shares` is there, row r % share_rows of it.
#include "fours.cuh"

namespace cross_entropy {

// What the backward pass needs of a row: its largest logit, the sum of e^((x - top) scale), and the sum of its
// shares.
struct Row {
    float top, sum, mass;
};

} // namespace cross_entropy

// losses and found are [rows]; an id that is no class makes them NaN.
extern "C" __global__ void cross_entropy_forward(const float* xs, const unsigned* ids, const float* shares,
                                                 int share_rows, float* losses, cross_entropy::Row* found,
                                                 int width, float scale) {
    size_t row = blockIdx.x;
    const float* from = xs + row * width;
    const float* wanted = shares ? shares + row % share_rows * width : nullptr;
    bool aligned = four_fit(xs, width) && (!shares || four_fit(shares, width));
    int first = threadIdx.x * FOUR, step = blockDim.x * FOUR;
    float x[FOUR], p[FOUR] = {}, top = -INFINITY, sum = 0.f, mass = 0.f, distance = 0.f;
    for (int col = first; col < width; col += step) {
        load_four(x, from + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i)
            if (col + i < width) top = fmaxf(top, x[i]);
    }
    top = block_max(top);
    for (int col = first; col < width; col += step) {
        load_four(x, from + col, width - col, aligned);
        if (shares) load_four(p, wanted + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i) {
            if (col + i >= width) continue;
            sum += expf((x[i] - top) * scale);
            if (!shares) continue;
            mass += p[i];
            distance += p[i] * (top - x[i]);
        }
    }
    sum = block_sum(sum);
    if (shares) {
        mass = block_sum(mass);
        distance = block_sum(distance);
    }
    if (threadIdx.x > 0) return;
    if (!shares) {
        bool known = ids[row] < unsigned(width);
        mass = known ? 1.f : NAN;
        distance = known ? top - from[ids[row]] : NAN;
    }
    losses[row] = distance * scale + mass * logf(sum);
    found[row] = {top, sum, mass};
}
KERNEL(cross_entropy_forward)

// dx = (mass softmax - p) scale grad
extern "C" __global__ void cross_entropy_backward(const float* xs, const unsigned* ids, const float* shares,
                                                  int share_rows, const cross_entropy::Row* found,
                                                  const float* grad, float* dx, int width, float scale) {
    size_t row = blockIdx.x, start = row * width;
    const float* wanted = shares ? shares + row % share_rows * width : nullptr;
    bool aligned = four_fit(xs, width) && four_fit(dx, width) && (!shares || four_fit(shares, width));
    auto [top, sum, mass] = found[row];
    float share = mass / sum, by = grad[row] * scale, x[FOUR], p[FOUR] = {};
    unsigned id = shares ? 0 : ids[row];
    for (int col = threadIdx.x * FOUR; col < width; col += blockDim.x * FOUR) {
        load_four(x, xs + start + col, width - col, aligned);
        if (shares) load_four(p, wanted + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i) {
            if (!shares) p[i] = unsigned(col + i) == id ? 1.f : 0.f;
            x[i] = (share * expf((x[i] - top) * scale) - p[i]) * by;
        }
        store_four(dx + start + col, x, width - col, aligned);
    }
}
KERNEL(cross_entropy_backward)
