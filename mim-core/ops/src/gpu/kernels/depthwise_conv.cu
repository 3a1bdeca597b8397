// Depth-wise convolution with the channels last: stride 1, an odd kernel, zeros around.
//
// Neighbouring lanes have neighbouring channels. Forward, a thread makes a strip of outputs along a
// row, so that most inputs are read once for several of them. Sides 3, 5 and 7 are compiled apart,
// which keeps a window of inputs in registers; other sides read them again for every tap.
#include "common.cuh"

namespace depthwise_conv {

constexpr int STRIP = 4;

struct Sizes {
    int height, width, channels, side;
};

// Taps along one axis that fall on the image for the output at `place`: [first, last).
struct Taps {
    int first, last;

    __device__ __forceinline__ static Taps of(int place, int length, int side) {
        int reach = side / 2;
        return {max(reach - place, 0), min(side, length + reach - place)};
    }
};

// `turned` takes the taps in reverse: the transpose of the convolution, for the gradient of its input.
template <int SIDE, class T>
__device__ __forceinline__ void forward(const T* xs, const float* taps, const float* bias, T* ys, int images,
                                        bool turned, Sizes sizes) {
    const int side = SIDE > 0 ? SIDE : sizes.side, reach = side / 2;
    int channel = blockIdx.y * 32 + threadIdx.x, strips = (sizes.width + STRIP - 1) / STRIP;
    int task = blockIdx.x * blockDim.y + threadIdx.y, line = task / strips;
    if (channel >= sizes.channels || line >= images * sizes.height) return;
    int first = task % strips * STRIP, y = line % sizes.height;
    long long image = line - y;
    float start = bias ? bias[channel] : 0.f, sums[STRIP] = {start, start, start, start};
    Taps rows = Taps::of(y, sizes.height, side);
    for (int row = rows.first; row < rows.last; ++row) {
        const T* inputs = xs + (image + y + row - reach) * sizes.width * sizes.channels + channel;
        auto input = [&](int x) {
            return x >= 0 && x < sizes.width ? to_float(inputs[(long long)x * sizes.channels]) : 0.f;
        };
        auto tap = [&](int col) {
            int place = row * side + col;
            return taps[(long long)(turned ? side * side - 1 - place : place) * sizes.channels + channel];
        };
        if constexpr (SIDE > 0) {
            float window[SIDE + STRIP - 1];
            UNROLL
            for (int i = 0; i < SIDE + STRIP - 1; ++i) window[i] = input(first + i - reach);
            UNROLL
            for (int col = 0; col < SIDE; ++col) {
                float weight = tap(col);
                UNROLL
                for (int i = 0; i < STRIP; ++i) sums[i] += window[i + col] * weight;
            }
        } else {
            for (int col = 0; col < side; ++col) {
                float weight = tap(col);
                UNROLL
                for (int i = 0; i < STRIP; ++i) sums[i] += input(first + i + col - reach) * weight;
            }
        }
    }
    T* out = ys + ((image + y) * sizes.width + first) * sizes.channels + channel;
    UNROLL
    for (int i = 0; i < STRIP; ++i)
        if (first + i < sizes.width) out[(long long)i * sizes.channels] = from_float<T>(sums[i]);
}

// One row of taps (blockIdx.z) over the image rows of one part (blockIdx.y); the bias comes with the
// middle row, which falls on the image everywhere.
template <int SIDE, class T>
__device__ __forceinline__ void weights(const T* xs, const T* grad, float* partials, int rows, int rows_per_part,
                                        Sizes sizes) {
    constexpr int COLS = SIDE > 0 ? SIDE : 1;
    const int side = SIDE > 0 ? SIDE : sizes.side, reach = side / 2;
    // Without a window, each tap is a task of its own.
    int tap_row = SIDE > 0 ? blockIdx.z : blockIdx.z / side, tap_col = SIDE > 0 ? 0 : blockIdx.z % side;
    int channel = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_per_part;
    int last = min(first + rows_per_part, rows);
    float sums[COLS + 1] = {};
    for (int index = first + threadIdx.y; index < last && channel < sizes.channels; index += blockDim.y) {
        int y = index % sizes.height + tap_row - reach;
        if (y < 0 || y >= sizes.height) continue;
        const T* inputs = xs + (long long)(index + tap_row - reach) * sizes.width * sizes.channels + channel;
        const T* slope = grad + (long long)index * sizes.width * sizes.channels + channel;
        auto input = [&](int x) {
            return x >= 0 && x < sizes.width ? to_float(inputs[(long long)x * sizes.channels]) : 0.f;
        };
        // window[i] is the input under tap i; the last one is read when the window has moved on.
        float window[COLS] = {};
        UNROLL
        for (int i = 1; i < COLS; ++i) window[i] = input(i - 1 - reach);
        for (int x = 0; x < sizes.width; ++x) {
            UNROLL
            for (int i = 1; i < COLS; ++i) window[i - 1] = window[i];
            window[COLS - 1] = input(x + (SIDE > 0 ? COLS - 1 : tap_col) - reach);
            float g = to_float(slope[(long long)x * sizes.channels]);
            UNROLL
            for (int i = 0; i < COLS; ++i) sums[i] += window[i] * g;
            sums[COLS] += g;
        }
    }
    SHARED(float, shared, [8][COLS + 1][32]);
    for (int i = 0; i <= COLS; ++i) shared[threadIdx.y][i][threadIdx.x] = sums[i];
    __syncthreads();
    if (channel >= sizes.channels) return;
    float* part = partials + (long long)blockIdx.y * (side * side + 1) * sizes.channels + channel;
    bool with_bias = tap_row == reach && tap_col == 0;
    for (int i = threadIdx.y; i < COLS + with_bias; i += blockDim.y) {
        float sum = 0.f;
        for (unsigned y = 0; y < blockDim.y; ++y) sum += shared[y][i][threadIdx.x];
        int tap = i == COLS ? side * side : tap_row * side + tap_col + i;
        part[(long long)tap * sizes.channels] = sum;
    }
}

} // namespace depthwise_conv

// depthwise_conv_{f32,bf16}_{3,5,7,any}: the convolution, or with `turned` its transpose.
//
//   xs           const T*        [images, height, width, channels]
//   taps         const f32*      [side * side, channels]
//   bias         const f32*      null, or [channels]
//   ys           T*              like xs
//   images       i32             images * height * ceil(width / 4) below 2^31
//   turned       i32             0, or 1 for the gradient of the input, xs being that of the output
//   height, width, channels, side   i32, side odd
//
// Grid (ceil(images * height * ceil(width / 4) / 8), ceil(channels / 32), 1), block (32, 8, 1).
#define DEPTHWISE_CONV(name, T, SIDE)                                                                            \
    extern "C" __global__ void name(const T* __restrict__ xs, const float* __restrict__ taps, const float* bias, \
                                    T* __restrict__ ys, int images, int turned, int height, int width,           \
                                    int channels, int side) {                                                    \
        depthwise_conv::forward<SIDE>(xs, taps, bias, ys, images, turned, {height, width, channels, side});      \
    }                                                                                                            \
    KERNEL(name)

DEPTHWISE_CONV(depthwise_conv_f32_3, float, 3)
DEPTHWISE_CONV(depthwise_conv_f32_5, float, 5)
DEPTHWISE_CONV(depthwise_conv_f32_7, float, 7)
DEPTHWISE_CONV(depthwise_conv_f32_any, float, 0)
DEPTHWISE_CONV(depthwise_conv_bf16_3, bf16, 3)
DEPTHWISE_CONV(depthwise_conv_bf16_5, bf16, 5)
DEPTHWISE_CONV(depthwise_conv_bf16_7, bf16, 7)
DEPTHWISE_CONV(depthwise_conv_bf16_any, bf16, 0)

// depthwise_conv_weights_{f32,bf16}_{3,5,7,any}: gradients of taps and bias, in parts to be added in
// their order (depthwise_conv_add).
//
//   xs, grad     const T*        [images, height, width, channels], the input and the gradient of the output
//   partials     f32*            [parts, side * side + 1, channels], the bias last
//   rows         i32             images * height
//   rows_per_part   i32          of these, at least 1; a multiple of 8 keeps all threads busy
//   height, width, channels, side   i32, side odd
//
// Grid (ceil(channels / 32), parts = ceil(rows / rows_per_part), side; side * side for `any`),
// block (32, 8, 1).
#define DEPTHWISE_CONV_WEIGHTS(name, T, SIDE)                                                                    \
    extern "C" __global__ void name(const T* __restrict__ xs, const T* __restrict__ grad, float* partials,       \
                                    int rows, int rows_per_part, int height, int width, int channels,            \
                                    int side) {                                                                  \
        depthwise_conv::weights<SIDE>(xs, grad, partials, rows, rows_per_part, {height, width, channels, side}); \
    }                                                                                                            \
    KERNEL(name)

DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_f32_3, float, 3)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_f32_5, float, 5)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_f32_7, float, 7)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_f32_any, float, 0)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_bf16_3, bf16, 3)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_bf16_5, bf16, 5)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_bf16_7, bf16, 7)
DEPTHWISE_CONV_WEIGHTS(depthwise_conv_weights_bf16_any, bf16, 0)

// depthwise_conv_add: partials const f32* [parts, values], taps f32* [values - channels], bias f32*
// [channels], parts i32, values i32 = (side * side + 1) * channels, channels i32.
// Grid (ceil(values / 256), 1, 1), block (256, 1, 1).
extern "C" __global__ void depthwise_conv_add(const float* partials, float* taps, float* bias, int parts, int values,
                                              int channels) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= values) return;
    float sum = 0.f;
    for (int part = 0; part < parts; ++part) sum += partials[(long long)part * values + i];
    if (i < values - channels)
        taps[i] = sum;
    else
        bias[i - (values - channels)] = sum;
}
KERNEL(depthwise_conv_add)
