// Rows by id; a warp has a row of the result.
#include "fours.cuh"

extern "C" __global__ void gather_rows_forward(const float* xs, const unsigned* ids, float* ys, int total,
                                               int width) {
    int row = row_of_warp();
    if (row >= total) return;
    const float* from = xs + size_t(ids[row]) * width;
    float* to = ys + size_t(row) * width;
    bool aligned = four_fit(xs, width) && four_fit(ys, width);
    float x[FOUR];
    for (int col = threadIdx.x * FOUR; col < width; col += 32 * FOUR) {
        load_four(x, from + col, width - col, aligned);
        store_four(to + col, x, width - col, aligned);
    }
}
KERNEL(gather_rows_forward)

// Row r was taken at places[starts[r]] to places[starts[r + 1] - 1]; the sum of the gradients there.
extern "C" __global__ void gather_rows_backward(const float* grad, const unsigned* starts,
                                                const unsigned* places, float* dx, int rows, int width) {
    int row = row_of_warp();
    if (row >= rows) return;
    bool aligned = four_fit(grad, width) && four_fit(dx, width);
    for (int col = threadIdx.x * FOUR; col < width; col += 32 * FOUR) {
        float sum[FOUR] = {}, g[FOUR];
        for (unsigned use = starts[row]; use < starts[row + 1]; ++use) {
            load_four(g, grad + size_t(places[use]) * width + col, width - col, aligned);
            for (int i = 0; i < FOUR; ++i) sum[i] += g[i];
        }
        store_four(dx + size_t(row) * width + col, sum, width - col, aligned);
    }
}
KERNEL(gather_rows_backward)
