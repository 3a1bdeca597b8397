// Scaling in place.
#include "tensors.cuh"

namespace scale_inplace {

// 24 bytes.
struct Tensor {
    float* xs;
    long long count;
    float factor, unused;
};

__device__ __forceinline__ void scale(const Tensor& tensor, tensors::Chunk chunk, int size) {
    float *xs = tensor.xs + chunk.first, by = tensor.factor;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(xs, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        float4 x = tensors::load(xs + i, length - i, fit);
        tensors::store(xs + i, make_float4(x.x * by, x.y * by, x.z * by, x.w * by), length - i, fit);
    }
}

} // namespace scale_inplace

// scale_inplace_tensors: all tensors of a table, each by its factor.
//
//   tensors      const scale_inplace::Tensor*
//   chunks, size as for adamw_tensors
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void scale_inplace_tensors(const scale_inplace::Tensor* tensors, const int2* chunks, int size) {
    auto chunk = tensors::Chunk::of(chunks, size);
    scale_inplace::scale(tensors[chunk.tensor], chunk, size);
}
KERNEL(scale_inplace_tensors)
