// Softmax of rows; a warp has a row.
#include "fours.cuh"

extern "C" __global__ void softmax_forward(const float* xs, float* ys, int rows, int width) {
    int row = row_of_warp();
    if (row >= rows) return;
    const float* from = xs + size_t(row) * width;
    float* to = ys + size_t(row) * width;
    float top = -INFINITY, sum = 0.f;
    for (int col = threadIdx.x; col < width; col += 32) top = fmaxf(top, from[col]);
    top = warp_max(top);
    for (int col = threadIdx.x; col < width; col += 32) {
        // A row of -inf alone gives NaN.
        float x = expf(from[col] - top);
        to[col] = x;
        sum += x;
    }
    sum = warp_sum(sum);
    for (int col = threadIdx.x; col < width; col += 32) to[col] /= sum;
}
KERNEL(softmax_forward)

extern "C" __global__ void softmax_backward(const float* ys, const float* grad, float* dx, int rows, int width) {
    int row = row_of_warp();
    if (row >= rows) return;
    size_t start = size_t(row) * width;
    float level = 0.f;
    for (int col = threadIdx.x; col < width; col += 32) level += ys[start + col] * grad[start + col];
    level = warp_sum(level);
    for (int col = threadIdx.x; col < width; col += 32)
        dx[start + col] = ys[start + col] * (grad[start + col] - level);
}
KERNEL(softmax_backward)
