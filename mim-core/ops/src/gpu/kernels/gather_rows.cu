// Rows by id; a warp has a row of the result. Ids may be those of one image, used for all of them: image
// b takes them from its own `rows` rows and gives `count` rows.
#include "fours.cuh"

constexpr unsigned NO_ROW = 0xffffffffu;

// ys[b, i] = xs[b, ids[i]]; total counts the rows of ys.
extern "C" __global__ void gather_rows_forward(const float* xs, const unsigned* ids, float* ys, int total,
                                               int count, int rows, int width) {
    int row = row_of_warp();
    if (row >= total) return;
    const float* from = xs + (size_t(row / count) * rows + ids[row % count]) * width;
    float* to = ys + size_t(row) * width;
    bool aligned = four_fit(xs, width) && four_fit(ys, width);
    float x[FOUR];
    for (int col = threadIdx.x * FOUR; col < width; col += 32 * FOUR) {
        load_four(x, from + col, width - col, aligned);
        store_four(to + col, x, width - col, aligned);
    }
}
KERNEL(gather_rows_forward)

// For each row its first place in `ids`, and for each place the next one of the same row. A thread has a
// row; all of a block look at the same ids.
extern "C" __global__ void gather_rows_chains(const unsigned* ids, unsigned* first, unsigned* next, int count,
                                              int rows) {
    SHARED(unsigned, tile, [256]);
    unsigned row = blockIdx.x * 256 + threadIdx.x, last = NO_ROW;
    for (int start = 0; start < count; start += 256) {
        int length = min(256, count - start);
        __syncthreads();
        if (int(threadIdx.x) < length) tile[threadIdx.x] = ids[start + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < length; ++i) {
            if (tile[i] != row) continue;
            if (last == NO_ROW)
                first[row] = start + i;
            else
                next[last] = start + i;
            last = start + i;
        }
    }
    if (last != NO_ROW)
        next[last] = NO_ROW;
    else if (row < unsigned(rows))
        first[row] = NO_ROW;
}
KERNEL(gather_rows_chains)

// dx[b, r] is the sum over the places of row r, in their order; total counts the rows of dx.
extern "C" __global__ void gather_rows_backward(const float* grad, const unsigned* first, const unsigned* next,
                                                float* dx, int total, int count, int rows, int width) {
    int row = row_of_warp();
    if (row >= total) return;
    bool aligned = four_fit(grad, width) && four_fit(dx, width);
    const float* from = grad + size_t(row / rows) * count * width;
    for (int col = threadIdx.x * FOUR; col < width; col += 32 * FOUR) {
        float sum[FOUR] = {}, g[FOUR];
        for (unsigned place = first[row % rows]; place != NO_ROW; place = next[place]) {
            load_four(g, from + size_t(place) * width + col, width - col, aligned);
            for (int i = 0; i < FOUR; ++i) sum[i] += g[i];
        }
        store_four(dx + size_t(row) * width + col, sum, width - col, aligned);
    }
}
KERNEL(gather_rows_backward)
