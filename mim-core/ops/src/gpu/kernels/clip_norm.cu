// Tensors made shorter where their norm is too large.
#include "tensors.cuh"

namespace clip_norm {

// 16 bytes.
struct Tensor {
    float* xs;
    long long count;
};

// The sum of squares whose root is bounded: the tensor's own, or that of all; every thread of the block must ask.
__device__ __forceinline__ double bounded(const double* squares, int tensors, int own) {
    if (own >= 0) return squares[own];
    double sum = 0.;
    for (int i = threadIdx.x; i < tensors; i += blockDim.x) sum += squares[i];
    return block_sum(sum);
}

__device__ __forceinline__ void scale(const Tensor& tensor, tensors::Chunk chunk, int size, float by) {
    float* xs = tensor.xs + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(xs, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        float4 x = tensors::load(xs + i, length - i, fit);
        tensors::store(xs + i, make_float4(x.x * by, x.y * by, x.z * by, x.w * by), length - i, fit);
    }
}

} // namespace clip_norm

// clip_norm_tensors: all tensors of a table times min(1, max_norm / (norm + 1e-6)).
//
//   tensors      const clip_norm::Tensor*
//   chunks, size as for adamw_tensors
//   squares      const f64* [count], the sum of squares of each tensor
//   count        i32                 tensors
//   each         i32                 whether each is bounded by its own norm, or all by that of all
//   max_norm     f64
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void clip_norm_tensors(const clip_norm::Tensor* tensors, const int2* chunks, int size,
                                             const double* squares, int count, int each, double max_norm) {
    auto chunk = tensors::Chunk::of(chunks, size);
    double norm = sqrt(clip_norm::bounded(squares, count, each ? chunk.tensor : -1));
    double factor = max_norm / (norm + 1e-6);
    // Not for a norm that is not a number either: it stays, to be seen.
    if (factor < 1.) clip_norm::scale(tensors[chunk.tensor], chunk, size, float(factor));
}
KERNEL(clip_norm_tensors)
