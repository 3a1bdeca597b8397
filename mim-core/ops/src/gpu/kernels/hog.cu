// Histograms of oriented gradients: a thread makes the histogram of one cell, its pixels row by row.
//
// The bin of a pixel depends on the last bit of its gradient, and a sum on its order; every operation
// is therefore rounded by itself, in the order of the CPU's kernel, and the results are the same bits.
#include "common.cuh"

namespace hog {

// Directions (a, -b) with 0 < a < HALF_TURN * b have an angle that f32 rounds to pi.
constexpr float HALF_TURN = 3.18e-8f;

struct Image {
    const float* start;
    int height, width;

    __device__ __forceinline__ float at(int y, int x) const { return start[(long long)y * width + x]; }
};

// Sobel filters on the image reflected at its edges, the taps added in row-major order.
__device__ __forceinline__ float2 sobel(const Image& image, int y, int x) {
    int above = y == 0 ? 1 : y - 1, below = y + 1 == image.height ? image.height - 2 : y + 1;
    int left = x == 0 ? 1 : x - 1, right = x + 1 == image.width ? image.width - 2 : x + 1;
    float p00 = image.at(above, left), p01 = image.at(above, x), p02 = image.at(above, right);
    float p10 = image.at(y, left), p12 = image.at(y, right);
    float p20 = image.at(below, left), p21 = image.at(below, x), p22 = image.at(below, right);
    // Twice a value is exact, so these may be fused with the sums.
    float first = ((((p00 - p02) + 2.f * p10) - 2.f * p12) + p20) - p22;
    float second = ((((p00 + 2.f * p01) + p02) - p20) - 2.f * p21) - p22;
    return make_float2(first, second);
}

// Differences over two places, zero on the border.
__device__ __forceinline__ float2 central(const Image& image, int y, int x) {
    bool rows = y > 0 && y + 1 < image.height, cols = x > 0 && x + 1 < image.width;
    return make_float2(rows ? image.at(y + 1, x) - image.at(y - 1, x) : 0.f,
                       cols ? image.at(y, x + 1) - image.at(y, x - 1) : 0.f);
}

// The bin of a gradient: the edges that it has passed, once turned to a first part that is not negative.
__device__ __forceinline__ int bin_of(float2 gradient, const float* edges, int bins) {
    float a = gradient.x, b = gradient.y, turn = a < 0.f ? -1.f : 1.f, rise = a * turn, run = b * turn;
    bool half_turn = a > 0.f && a < __fmul_rn(-b, HALF_TURN);
    if (!(rise > 0.f) || half_turn) return 0;
    int bin = 0;
    for (int i = 0; i < bins - 1; ++i) {
        float cos = edges[3 * i + (a < 0.f ? 1 : 0)], sin = edges[3 * i + 2];
        bin += __fmul_rn(rise, cos) >= __fmul_rn(run, sin);
    }
    return bin;
}

} // namespace hog

// hog_histograms
//
//   images       const f32*      [planes, height, width], sides multiples of `cell`, at least 2
//   histograms   f32*            [planes, bins, height / cell, width / cell]
//   edges        const f32*      [bins - 1, 3]: cosine, cosine of turned directions, sine of each bin's start
//   window       const f32*      null, or [side, side]: laid over the image tile by tile, weighs magnitudes
//   planes, height, width, bins, cell, side   i32; side is 1 or more
//   sobel        i32             1 for Sobel filters, 0 for central differences
//
// Grid (ceil(planes * (height / cell) * (width / cell) / T), 1, 1), block (T, 1, 1), T a multiple of
// 32, shared bytes 4 * bins * T (at most 48 KB: T 128 up to 96 bins).
extern "C" __global__ void hog_histograms(const float* images, float* histograms, const float* edges,
                                          const float* window, int planes, int height, int width, int bins,
                                          int cell, int side, int sobel) {
    DYNAMIC_SHARED(float, counts);
    int rows = height / cell, cols = width / cell;
    long long task = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (task >= (long long)planes * rows * cols) return;
    long long plane = task / cols / rows;
    int col = int(task % cols), row = int(task / cols % rows);
    // A thread's own bins lie one row of the block apart, so that lanes use different banks.
    float* own = counts + threadIdx.x;
    for (int bin = 0; bin < bins; ++bin) own[bin * blockDim.x] = 0.f;
    hog::Image image = {images + plane * height * width, height, width};
    for (int y = row * cell; y < (row + 1) * cell; ++y)
        for (int x = col * cell; x < (col + 1) * cell; ++x) {
            float2 gradient = sobel ? hog::sobel(image, y, x) : hog::central(image, y, x);
            int bin = hog::bin_of(gradient, edges, bins);
            float squares = __fadd_rn(__fmul_rn(gradient.x, gradient.x), __fmul_rn(gradient.y, gradient.y));
            float magnitude = __fsqrt_rn(squares);
            if (window) magnitude = __fmul_rn(magnitude, window[y % side * side + x % side]);
            own[bin * blockDim.x] = __fadd_rn(own[bin * blockDim.x], magnitude);
        }
    for (int bin = 0; bin < bins; ++bin)
        histograms[((plane * bins + bin) * rows + row) * cols + col] = own[bin * blockDim.x];
}
KERNEL(hog_histograms)
