// Batch normalisation of rows with the statistics of the batch.
//
// Sums over the rows are made in parts, each by one block, and the parts are added in their order. The
// variance is taken around the mean, in a second pass, since a difference of large squares would lose
// what is left of it.
#include "common.cuh"

namespace batch_norm {

// sums of add(row, column) over the rows of part blockIdx.y, to partials [parts, COUNT, width].
template <int COUNT, class Add>
__device__ __forceinline__ void column_sums(float* partials, int rows, int rows_per_part, int width, Add add) {
    SHARED(float, shared, [16][COUNT][32]);
    int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;
    int last = min(first + rows_per_part, rows);
    float sums[COUNT] = {};
    if (column < width)
        for (int row = first + threadIdx.y; row < last; row += blockDim.y)
            add(sums, (long long)row * width + column, column);
    for (int i = 0; i < COUNT; ++i) shared[threadIdx.y][i][threadIdx.x] = sums[i];
    __syncthreads();
    if (threadIdx.y >= COUNT || column >= width) return;
    float sum = 0.f;
    for (unsigned y = 0; y < blockDim.y; ++y) sum += shared[y][threadIdx.y][threadIdx.x];
    partials[((long long)blockIdx.y * COUNT + threadIdx.y) * width + column] = sum;
}

__device__ __forceinline__ float scale_of(float variance, float eps) { return 1.f / sqrtf(variance + eps); }

} // namespace batch_norm

// batch_norm_sums_{f32,bf16}: for the mean. xs const T* [rows, width], partials f32* [parts, width],
// rows i32, rows_per_part i32, width i32.
//
// batch_norm_squares_{f32,bf16}: for the variance. xs, mean const f32* [width], then as above.
//
// batch_norm_slopes_{f32,bf16}: for the gradients of weight and bias. xs, grad const T* [rows, width],
// mean, variance const f32* [width], partials f32* [parts, 2, width] (weight, bias), rows,
// rows_per_part, width i32, eps f32.
//
// All three: grid (ceil(width / 32), parts = ceil(rows / rows_per_part), 1), block (32, 16, 1).
#define BATCH_NORM_SUMS(T, TYPE)                                                                                 \
    extern "C" __global__ void batch_norm_sums_##TYPE(const T* xs, float* partials, int rows, int rows_per_part, \
                                                      int width) {                                               \
        batch_norm::column_sums<1>(partials, rows, rows_per_part, width,                                         \
                                   [&](float* sums, long long at, int) { sums[0] += to_float(xs[at]); });        \
    }                                                                                                            \
    KERNEL(batch_norm_sums_##TYPE)                                                                               \
    extern "C" __global__ void batch_norm_squares_##TYPE(const T* xs, const float* mean, float* partials,        \
                                                         int rows, int rows_per_part, int width) {               \
        batch_norm::column_sums<1>(partials, rows, rows_per_part, width,                                         \
                                   [&](float* sums, long long at, int column) {                                  \
                                       float x = to_float(xs[at]) - mean[column];                                \
                                       sums[0] += x * x;                                                         \
                                   });                                                                           \
    }                                                                                                            \
    KERNEL(batch_norm_squares_##TYPE)                                                                            \
    extern "C" __global__ void batch_norm_slopes_##TYPE(const T* xs, const T* grad, const float* mean,           \
                                                        const float* variance, float* partials, int rows,        \
                                                        int rows_per_part, int width, float eps) {               \
        batch_norm::column_sums<2>(                                                                              \
            partials, rows, rows_per_part, width, [&](float* sums, long long at, int column) {                   \
                float g = to_float(grad[at]), x = to_float(xs[at]) - mean[column];                               \
                sums[0] += g * (x * batch_norm::scale_of(variance[column], eps));                                \
                sums[1] += g;                                                                                    \
            });                                                                                                  \
    }                                                                                                            \
    KERNEL(batch_norm_slopes_##TYPE)

BATCH_NORM_SUMS(float, f32)
BATCH_NORM_SUMS(bf16, bf16)

// batch_norm_add: parts added in their order and divided by `count`: the number of rows for mean and
// variance, 1 for gradients. partials const f32* [parts, values], sums f32* [values], parts, values,
// count i32. Grid (ceil(values / 256), 1, 1), block (256, 1, 1).
extern "C" __global__ void batch_norm_add(const float* partials, float* sums, int parts, int values, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= values) return;
    float sum = 0.f;
    for (int part = 0; part < parts; ++part) sum += partials[(long long)part * values + i];
    sums[i] = sum / float(count);
}
KERNEL(batch_norm_add)

// batch_norm_{f32,bf16}: (x - mean) / sqrt(variance + eps) * weight + bias.
//
//   xs           const T*        [rows, width]
//   mean, variance, weight, bias   const f32* [width]
//   ys           T*              [rows, width]
//   rows, rows_per_part, width   i32
//   eps          f32
//
// batch_norm_backward_{f32,bf16}: w / deviation (g - db / n - standardised x dw / n).
//
//   xs, grad     const T*        [rows, width]
//   mean, variance, weight       const f32* [width]
//   slopes       const f32*      [2, width], the gradients of weight and bias
//   dx           T*              [rows, width]
//   rows, rows_per_part, width   i32
//   eps          f32
//
// Both: grid and block as for the sums.
#define BATCH_NORM(T, TYPE)                                                                                    \
    extern "C" __global__ void batch_norm_##TYPE(const T* xs, const float* mean, const float* variance,        \
                                                 const float* weight, const float* bias, T* ys, int rows,      \
                                                 int rows_per_part, int width, float eps) {                    \
        int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;                        \
        if (column >= width) return;                                                                           \
        float middle = mean[column], scale = batch_norm::scale_of(variance[column], eps);                      \
        float w = weight[column], b = bias[column];                                                            \
        for (int row = first + threadIdx.y; row < min(first + rows_per_part, rows); row += blockDim.y) {       \
            long long at = (long long)row * width + column;                                                    \
            ys[at] = from_float<T>((to_float(xs[at]) - middle) * scale * w + b);                               \
        }                                                                                                      \
    }                                                                                                          \
    KERNEL(batch_norm_##TYPE)                                                                                  \
    extern "C" __global__ void batch_norm_backward_##TYPE(                                                     \
        const T* xs, const T* grad, const float* mean, const float* variance, const float* weight,             \
        const float* slopes, T* dx, int rows, int rows_per_part, int width, float eps) {                       \
        int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;                        \
        if (column >= width) return;                                                                           \
        float middle = mean[column], scale = batch_norm::scale_of(variance[column], eps), count = float(rows); \
        float slope = weight[column] * scale, tilt = scale * slopes[column] / count;                           \
        float level = slopes[width + column] / count;                                                          \
        for (int row = first + threadIdx.y; row < min(first + rows_per_part, rows); row += blockDim.y) {       \
            long long at = (long long)row * width + column;                                                    \
            dx[at] = from_float<T>(slope * (to_float(grad[at]) - level - (to_float(xs[at]) - middle) * tilt)); \
        }                                                                                                      \
    }                                                                                                          \
    KERNEL(batch_norm_backward_##TYPE)

BATCH_NORM(float, f32)
BATCH_NORM(bf16, bf16)
