// Layer normalisation of rows; a warp has a row. The moments of a row are its mean and the reciprocal
// of its deviation.
#include "fours.cuh"

template <class Out>
__device__ void layer_norm_forward(const float* xs, const float* weight, const float* bias, Out* ys,
                                   float* moments, int rows, int width, float eps) {
    int row = row_of_warp(), first = threadIdx.x * FOUR;
    if (row >= rows) return;
    const float* from = xs + size_t(row) * width;
    Out* to = ys + size_t(row) * width;
    bool aligned = four_fit(xs, width) && four_fit(ys, width) && (!weight || four_fit(weight, width)) &&
                   (!bias || four_fit(bias, width));
    float x[FOUR], sum = 0.f, squares = 0.f;
    for (int col = first; col < width; col += 32 * FOUR) {
        load_four(x, from + col, width - col, aligned);
        sum += x[0] + x[1] + x[2] + x[3];
    }
    float mean = warp_sum(sum) / width;
    for (int col = first; col < width; col += 32 * FOUR) {
        load_four(x, from + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i)
            if (col + i < width) squares += (x[i] - mean) * (x[i] - mean);
    }
    float scale = rsqrtf(warp_sum(squares) / width + eps);
    float w[FOUR] = {1.f, 1.f, 1.f, 1.f}, b[FOUR] = {};
    for (int col = first; col < width; col += 32 * FOUR) {
        load_four(x, from + col, width - col, aligned);
        if (weight) load_four(w, weight + col, width - col, aligned);
        if (bias) load_four(b, bias + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i) x[i] = (x[i] - mean) * scale * w[i] + b[i];
        store_four(to + col, x, width - col, aligned);
    }
    if (moments && threadIdx.x == 0) {
        moments[2 * size_t(row)] = mean;
        moments[2 * size_t(row) + 1] = scale;
    }
}

// The gradient of the rows, and `added` if it is there.
template <class Grad>
__device__ void layer_norm_backward(const float* xs, const float* moments, const float* weight,
                                    const Grad* grad, const float* added, float* dx, int rows, int width) {
    int row = row_of_warp(), first = threadIdx.x * FOUR;
    if (row >= rows) return;
    size_t start = size_t(row) * width;
    float mean = moments[2 * size_t(row)], scale = moments[2 * size_t(row) + 1];
    bool aligned = four_fit(xs, width) && four_fit(grad, width) && four_fit(dx, width) &&
                   (!weight || four_fit(weight, width)) && (!added || four_fit(added, width));
    float x[FOUR], g[FOUR], w[FOUR] = {1.f, 1.f, 1.f, 1.f}, more[FOUR] = {}, level = 0.f, slope = 0.f;
    for (int col = first; col < width; col += 32 * FOUR) {
        load_four(x, xs + start + col, width - col, aligned);
        load_four(g, grad + start + col, width - col, aligned);
        if (weight) load_four(w, weight + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i) {
            level += g[i] * w[i];
            slope += g[i] * w[i] * ((x[i] - mean) * scale);
        }
    }
    level = warp_sum(level) / width;
    slope = warp_sum(slope) / width;
    for (int col = first; col < width; col += 32 * FOUR) {
        load_four(x, xs + start + col, width - col, aligned);
        load_four(g, grad + start + col, width - col, aligned);
        if (weight) load_four(w, weight + col, width - col, aligned);
        if (added) load_four(more, added + start + col, width - col, aligned);
        for (int i = 0; i < FOUR; ++i)
            x[i] = scale * (g[i] * w[i] - level - (x[i] - mean) * scale * slope) + more[i];
        store_four(dx + start + col, x, width - col, aligned);
    }
}

// Sums over the rows of part blockIdx.y of the gradients of weight and bias, which lie one behind the
// other: partials is [parts, 2, width]. Blocks of (32, n) threads have 32 columns.
template <class Grad>
__device__ void layer_norm_affine(const float* xs, const float* moments, const Grad* grad, float* partials,
                                  int rows, int width, int rows_per_part) {
    SHARED(float, sums, [2][32][33]);
    int col = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;
    int last = min(rows, first + rows_per_part);
    float dw = 0.f, db = 0.f;
    if (col < width)
        for (int row = first + threadIdx.y; row < last; row += blockDim.y) {
            float g = to_float(grad[size_t(row) * width + col]);
            float x = xs[size_t(row) * width + col];
            dw += g * ((x - moments[2 * size_t(row)]) * moments[2 * size_t(row) + 1]);
            db += g;
        }
    sums[0][threadIdx.y][threadIdx.x] = dw;
    sums[1][threadIdx.y][threadIdx.x] = db;
    __syncthreads();
    if (threadIdx.y < 2 && col < width) {
        float sum = 0.f;
        for (unsigned y = 0; y < blockDim.y; ++y) sum += sums[threadIdx.y][y][threadIdx.x];
        partials[(size_t(blockIdx.y) * 2 + threadIdx.y) * width + col] = sum;
    }
}

extern "C" __global__ void layer_norm_forward_f32(const float* xs, const float* weight, const float* bias,
                                                  float* ys, float* moments, int rows, int width, float eps) {
    layer_norm_forward(xs, weight, bias, ys, moments, rows, width, eps);
}
KERNEL(layer_norm_forward_f32)

extern "C" __global__ void layer_norm_forward_bf16(const float* xs, const float* weight, const float* bias,
                                                   bf16* ys, float* moments, int rows, int width, float eps) {
    layer_norm_forward(xs, weight, bias, ys, moments, rows, width, eps);
}
KERNEL(layer_norm_forward_bf16)

extern "C" __global__ void layer_norm_backward_f32(const float* xs, const float* moments, const float* weight,
                                                   const float* grad, const float* added, float* dx, int rows,
                                                   int width) {
    layer_norm_backward(xs, moments, weight, grad, added, dx, rows, width);
}
KERNEL(layer_norm_backward_f32)

extern "C" __global__ void layer_norm_backward_bf16(const float* xs, const float* moments,
                                                    const float* weight, const bf16* grad, const float* added,
                                                    float* dx, int rows, int width) {
    layer_norm_backward(xs, moments, weight, grad, added, dx, rows, width);
}
KERNEL(layer_norm_backward_bf16)

extern "C" __global__ void layer_norm_affine_f32(const float* xs, const float* moments, const float* grad,
                                                 float* partials, int rows, int width, int rows_per_part) {
    layer_norm_affine(xs, moments, grad, partials, rows, width, rows_per_part);
}
KERNEL(layer_norm_affine_f32)

extern "C" __global__ void layer_norm_affine_bf16(const float* xs, const float* moments, const bf16* grad,
                                                  float* partials, int rows, int width, int rows_per_part) {
    layer_norm_affine(xs, moments, grad, partials, rows, width, rows_per_part);
}
KERNEL(layer_norm_affine_bf16)
