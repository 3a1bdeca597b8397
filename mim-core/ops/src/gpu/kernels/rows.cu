// Small work on rows that many operations need.
#include "fours.cuh"

// ys = bias, or more + bias, in every row.
extern "C" __global__ void start_rows(const float* bias, const float* more, float* ys, int total, int width) {
    unsigned at = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR;
    if (at >= unsigned(total)) return;
    bool aligned = four_fit(ys, total) && (!more || four_fit(more, total));
    float x[FOUR] = {};
    int left = total - at;
    if (more) load_four(x, more + at, left, aligned);
    for (int i = 0; i < FOUR && i < left; ++i) x[i] += bias[(at + i) % width];
    store_four(ys + at, x, left, aligned);
}
KERNEL(start_rows)

// ys += bias in every row.
template <class T>
__device__ void add_bias(T* ys, const float* bias, int total, int width) {
    unsigned at = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR;
    if (at >= unsigned(total)) return;
    bool aligned = four_fit(ys, total);
    float x[FOUR];
    int left = total - at;
    load_four(x, ys + at, left, aligned);
    for (int i = 0; i < FOUR && i < left; ++i) x[i] += bias[(at + i) % width];
    store_four(ys + at, x, left, aligned);
}

extern "C" __global__ void add_bias_f32(float* ys, const float* bias, int total, int width) {
    add_bias(ys, bias, total, width);
}
KERNEL(add_bias_f32)

extern "C" __global__ void add_bias_bf16(bf16* ys, const float* bias, int total, int width) {
    add_bias(ys, bias, total, width);
}
KERNEL(add_bias_bf16)

template <class From, class To>
__device__ void convert(const From* xs, To* ys, long long total) {
    long long at = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * FOUR;
    if (at >= total) return;
    bool aligned = four_fit(xs, total) && four_fit(ys, total);
    int left = total - at < FOUR ? int(total - at) : FOUR;
    float x[FOUR];
    load_four(x, xs + at, left, aligned);
    store_four(ys + at, x, left, aligned);
}

extern "C" __global__ void convert_f32_bf16(const float* xs, bf16* ys, long long total) { convert(xs, ys, total); }
KERNEL(convert_f32_bf16)

extern "C" __global__ void convert_bf16_f32(const bf16* xs, float* ys, long long total) { convert(xs, ys, total); }
KERNEL(convert_bf16_f32)

// Sums over the rows of part blockIdx.y: partials is [parts, width]. Blocks of (32, n) threads have 32
// columns.
template <class T>
__device__ void column_sums(const T* xs, float* partials, int rows, int width, int rows_per_part) {
    SHARED(float, sums, [32][33]);
    int col = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;
    int last = min(rows, first + rows_per_part);
    float sum = 0.f;
    if (col < width)
        for (int row = first + threadIdx.y; row < last; row += blockDim.y)
            sum += to_float(xs[size_t(row) * width + col]);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || col >= width) return;
    for (unsigned y = 1; y < blockDim.y; ++y) sum += sums[y][threadIdx.x];
    partials[size_t(blockIdx.y) * width + col] = sum;
}

extern "C" __global__ void column_sums_f32(const float* xs, float* partials, int rows, int width,
                                           int rows_per_part) {
    column_sums(xs, partials, rows, width, rows_per_part);
}
KERNEL(column_sums_f32)

extern "C" __global__ void column_sums_bf16(const bf16* xs, float* partials, int rows, int width,
                                            int rows_per_part) {
    column_sums(xs, partials, rows, width, rows_per_part);
}
KERNEL(column_sums_bf16)

// The sums of [parts, width] over the parts, in their order.
extern "C" __global__ void add_partials(const float* partials, float* sums, int parts, int width) {
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= width) return;
    float sum = 0.f;
    for (int part = 0; part < parts; ++part) sum += partials[size_t(part) * width + col];
    sums[col] = sum;
}
KERNEL(add_partials)
