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
    const void* grad;
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

template <class T>
__device__ __forceinline__ void step(const Tensor& tensor, tensors::Chunk chunk, int size, float factor) {
    float *param = tensor.param + chunk.first, *mean = tensor.exp_avg + chunk.first,
          *square = tensor.exp_avg_sq + chunk.first;
    const T* grad = static_cast<const T*>(tensor.grad) + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(param, 0) && four_fit(mean, 0) && four_fit(square, 0) && four_fit(grad, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        int left = length - i;
        float4 p = tensors::load(param + i, left, fit), g = tensors::load(grad + i, left, fit);
        float4 m = tensors::load(mean + i, left, fit), v = tensors::load(square + i, left, fit);
        update(p.x, __fmul_rn(g.x, factor), m.x, v.x, tensor.factors);
        update(p.y, __fmul_rn(g.y, factor), m.y, v.y, tensor.factors);
        update(p.z, __fmul_rn(g.z, factor), m.z, v.z, tensor.factors);
        update(p.w, __fmul_rn(g.w, factor), m.w, v.w, tensor.factors);
        tensors::store(param + i, p, left, fit);
        tensors::store(mean + i, m, left, fit);
        tensors::store(square + i, v, left, fit);
    }
}

} // namespace adamw

// adamw_tensors_{f32,bf16}: one step on all parameters; the type is that of the gradients.
//
//   tensors      const adamw::Tensor*   table of parameters
//   chunks       const i32*             [chunks, 2], see tensors.cuh
//   size         i32                    values of a chunk, a multiple of 4 (4096 is good)
//   factors      const f32*             null, or what gradients are multiplied with first (clip_factors)
//   stride       i32                    0 for one factor, 1 for one a tensor
//
// Grid (chunks, 1, 1), block (256, 1, 1).
#define ADAMW_TENSORS(name, T)                                                                  \
    extern "C" __global__ void name(const adamw::Tensor* tensors, const int2* chunks, int size, \
                                    const float* factors, int stride) {                         \
        auto chunk = tensors::Chunk::of(chunks, size);                                          \
        adamw::step<T>(tensors[chunk.tensor], chunk, size,                                      \
                       tensors::factor_of(factors, stride, chunk.tensor));                      \
    }                                                                                           \
    KERNEL(name)

ADAMW_TENSORS(adamw_tensors_f32, float)
ADAMW_TENSORS(adamw_tensors_bf16, bf16)

// adamw_{f32,bf16}: one step on one parameter.
//
//   param, exp_avg, exp_avg_sq   f32*         [count]
//   grad                         const T*     [count]
//   count                        i64
//   size                         i32          values of a block, a multiple of 4
//   keep, beta1, fresh1, beta2, fresh2, root, eps, rate   f32, see adamw::Factors
//   factors                      const f32*   null, or one value that gradients are multiplied with
//
// Grid (ceil(count / size), 1, 1), block (256, 1, 1).
#define ADAMW(name, T)                                                                                 \
    extern "C" __global__ void name(float* param, const T* grad, float* exp_avg, float* exp_avg_sq,    \
                                    long long count, int size, float keep, float beta1, float fresh1,  \
                                    float beta2, float fresh2, float root, float eps, float rate,      \
                                    const float* factors) {                                            \
        adamw::Factors all = {keep, beta1, fresh1, beta2, fresh2, root, eps, rate};                    \
        adamw::Tensor tensor = {param, grad, exp_avg, exp_avg_sq, count, all};                         \
        adamw::step<T>(tensor, tensors::Chunk::of_one(size), size, tensors::factor_of(factors, 0, 0)); \
    }                                                                                                  \
    KERNEL(name)

ADAMW(adamw_f32, float)
ADAMW(adamw_bf16, bf16)
