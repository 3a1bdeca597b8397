// Sums of squares, for the norms of gradients.
//
// Squares are added up in f64, so that they do not overflow, for each chunk alone, then the chunks of each tensor.
// The result depends on the chunks' size and on nothing else.
#include "tensors.cuh"

namespace sum_squares {

// 24 bytes.
struct Tensor {
    const float* xs;
    long long count;
    // The first of the tensor's chunks.
    long long chunk;
};

__device__ __forceinline__ void add_chunk(const Tensor& tensor, tensors::Chunk chunk, int size, double* partials) {
    const float* xs = tensor.xs + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(xs, 0);
    double sum = 0.;
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        float4 x = tensors::load(xs + i, length - i, fit);
        sum += (double)x.x * x.x + (double)x.y * x.y + (double)x.z * x.z + (double)x.w * x.w;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__device__ __forceinline__ double total(const Tensor& tensor, int size, const double* partials) {
    long long chunks = (tensor.count + size - 1) / size;
    double sum = 0.;
    for (long long i = threadIdx.x; i < chunks; i += blockDim.x) sum += partials[tensor.chunk + i];
    return block_sum(sum);
}

} // namespace sum_squares

// sum_squares_chunks: a sum for each chunk of all tensors of a table.
//
//   tensors      const sum_squares::Tensor*
//   chunks, size as for adamw_tensors
//   partials     f64* [chunks]
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void sum_squares_chunks(const sum_squares::Tensor* tensors, const int2* chunks, int size,
                                              double* partials) {
    auto chunk = tensors::Chunk::of(chunks, size);
    sum_squares::add_chunk(tensors[chunk.tensor], chunk, size, partials);
}
KERNEL(sum_squares_chunks)

// sum_squares_tensors: a sum for each tensor of a table.
//
//   tensors      const sum_squares::Tensor*
//   size         as for adamw_tensors
//   partials     const f64* [chunks], those of sum_squares_chunks
//   sums         f64* [tensors]
//
// Grid (tensors, 1, 1), block (256, 1, 1).
extern "C" __global__ void sum_squares_tensors(const sum_squares::Tensor* tensors, int size, const double* partials,
                                               double* sums) {
    double sum = sum_squares::total(tensors[blockIdx.x], size, partials);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
KERNEL(sum_squares_tensors)
