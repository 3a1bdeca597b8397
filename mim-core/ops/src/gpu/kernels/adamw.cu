// AdamW (Loshchilov and Hutter, ICLR 2019, Algorithm 2). Every operation is rounded by itself, in the
// order of the CPU's kernel, so that both give the same bits.
#include "tensors.cuh"

namespace adamw {

// What a step multiplies with, rounded once from f64 by the host:
// 1 - lr wd, beta1, 1 - beta1, beta2, 1 - beta2, 1 / sqrt(1 - beta2^t), eps, lr / (1 - beta1^t).
struct Factors {
    float keep, beta1, fresh1, beta2, fresh2, root, eps, rate;
};

// 72 bytes, without padding.
struct Tensor {
    float* param;
    const float* grad;
    float *exp_avg, *exp_avg_sq;
    long long count;
    Factors factors;
};

__device__ __forceinline__ void update(float& p, float g, float& m, float& v, const Factors& f) {
    m = __fadd_rn(__fmul_rn(m, f.beta1), __fmul_rn(g, f.fresh1));
    v = __fadd_rn(__fmul_rn(v, f.beta2), __fmul_rn(__fmul_rn(g, g), f.fresh2));
    float root = __fadd_rn(__fmul_rn(__fsqrt_rn(v), f.root), f.eps);
    p = __fsub_rn(__fmul_rn(p, f.keep), __fmul_rn(f.rate, __fdiv_rn(m, root)));
}

__device__ __forceinline__ void step(const Tensor& tensor, tensors::Chunk chunk, int size) {
    float *param = tensor.param + chunk.first, *mean = tensor.exp_avg + chunk.first,
          *square = tensor.exp_avg_sq + chunk.first;
    const float* grad = tensor.grad + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(param, 0) && four_fit(mean, 0) && four_fit(square, 0) && four_fit(grad, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        int left = length - i;
        float4 p = tensors::load(param + i, left, fit), g = tensors::load(grad + i, left, fit);
        float4 m = tensors::load(mean + i, left, fit), v = tensors::load(square + i, left, fit);
        update(p.x, g.x, m.x, v.x, tensor.factors);
        update(p.y, g.y, m.y, v.y, tensor.factors);
        update(p.z, g.z, m.z, v.z, tensor.factors);
        update(p.w, g.w, m.w, v.w, tensor.factors);
        tensors::store(param + i, p, left, fit);
        tensors::store(mean + i, m, left, fit);
        tensors::store(square + i, v, left, fit);
    }
}

} // namespace adamw

// adamw_tensors: one step on all parameters.
//
//   tensors      const adamw::Tensor*   table of parameters
//   chunks       const i32*             [chunks, 2], see tensors.cuh
//   size         i32                    values of a chunk, a multiple of 4
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void adamw_tensors(const adamw::Tensor* tensors, const int2* chunks, int size) {
    auto chunk = tensors::Chunk::of(chunks, size);
    adamw::step(tensors[chunk.tensor], chunk, size);
}
KERNEL(adamw_tensors)
