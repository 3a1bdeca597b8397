// Windows of feature maps with their channels last, as rows for a matrix product.
//
// A thread has four neighbouring values, which are four channels of one place where the number of
// channels allows it. Values are counted in 32 bits, whose divisions are several times as fast.
#include "common.cuh"

namespace unfold {

struct Sizes {
    unsigned height, width, channels, rows, cols, kernel, stride, padding;
};

// Where value `i` of the windows comes from, or -1 for the zeros around the map.
__device__ __forceinline__ long long source(unsigned i, const Sizes& s) {
    unsigned channel = i % s.channels;
    i /= s.channels;
    unsigned tap_col = i % s.kernel;
    i /= s.kernel;
    unsigned tap_row = i % s.kernel;
    i /= s.kernel;
    unsigned col = i % s.cols;
    i /= s.cols;
    // Left of the map and above it, these wrap around to something very large.
    unsigned x = col * s.stride + tap_col - s.padding, y = i % s.rows * s.stride + tap_row - s.padding;
    if (x >= s.width || y >= s.height) return -1;
    return (((long long)(i / s.rows) * s.height + y) * s.width + x) * s.channels + channel;
}

template <class T>
__device__ __forceinline__ void forward(const T* xs, T* ys, unsigned total, const Sizes& s) {
    unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= total) return;
    if (four_fit(xs, s.channels) && four_fit(ys, s.channels)) {
        long long from = source(i, s);
        store4(ys + i, from < 0 ? make_float4(0.f, 0.f, 0.f, 0.f) : load4(xs + from));
        return;
    }
    for (unsigned k = 0; k < 4 && i + k < total; ++k) {
        long long from = source(i + k, s);
        ys[i + k] = from < 0 ? from_float<T>(0.f) : xs[from];
    }
}

// The sum over the windows that hold value `i` of the map, from top left to bottom right; `load` gives
// a window's value, or four.
template <class Sum, class Load>
__device__ __forceinline__ void add_windows(Sum& sum, unsigned i, const Sizes& s, Load load) {
    unsigned channel = i % s.channels;
    i /= s.channels;
    // Places on the map with its padding.
    unsigned x = i % s.width + s.padding, y = i / s.width % s.height + s.padding, image = i / s.width / s.height;
    auto first = [&](unsigned place) { return place < s.kernel ? 0 : (place - s.kernel) / s.stride + 1; };
    auto last = [&](unsigned place, unsigned count) { return min(place / s.stride, count - 1); };
    for (unsigned row = first(y); row <= last(y, s.rows); ++row)
        for (unsigned col = first(x); col <= last(x, s.cols); ++col) {
            long long window = ((long long)image * s.rows + row) * s.cols + col;
            unsigned tap = (y - row * s.stride) * s.kernel + x - col * s.stride;
            load(sum, (window * s.kernel * s.kernel + tap) * s.channels + channel);
        }
}

template <class T>
__device__ __forceinline__ void backward(const T* grad, T* dx, unsigned total, const Sizes& s) {
    unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= total) return;
    if (four_fit(grad, s.channels) && four_fit(dx, s.channels)) {
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
        add_windows(sum, i, s, [&](float4& sum, long long at) {
            float4 g = load4(grad + at);
            sum = make_float4(sum.x + g.x, sum.y + g.y, sum.z + g.z, sum.w + g.w);
        });
        store4(dx + i, sum);
        return;
    }
    for (unsigned k = 0; k < 4 && i + k < total; ++k) {
        float sum = 0.f;
        add_windows(sum, i + k, s, [&](float& sum, long long at) { sum += to_float(grad[at]); });
        dx[i + k] = from_float<T>(sum);
    }
}

} // namespace unfold

// unfold_{f32,bf16} and unfold_backward_{f32,bf16}
//
//   xs, ys       const T*, T*    [batch, height, width, channels] -> [batch, rows, cols, kernel, kernel, channels]
//   grad, dx     const T*, T*    the other way round: the sum of the windows' gradients on each value
//   total, height, width, channels, rows, cols, kernel, stride, padding   i32; total counts the values
//                that are written, of ys or of dx
//
// Grid (ceil(total / 1024), 1, 1), block (256, 1, 1).
#define UNFOLD(name, T, PASS)                                                                              \
    extern "C" __global__ void name(const T* from, T* to, unsigned total, unsigned height, unsigned width, \
                                    unsigned channels, unsigned rows, unsigned cols, unsigned kernel,      \
                                    unsigned stride, unsigned padding) {                                   \
        unfold::PASS(from, to, total, {height, width, channels, rows, cols, kernel, stride, padding});     \
    }                                                                                                      \
    KERNEL(name)

UNFOLD(unfold_f32, float, forward)
UNFOLD(unfold_bf16, bf16, forward)
UNFOLD(unfold_backward_f32, float, backward)
UNFOLD(unfold_backward_bf16, bf16, backward)
