// LARS (You et al., arXiv 1708.03888), as `ops::lars_steps` says it.
#include "tensors.cuh"

namespace lars {

// 56 bytes, without padding.
struct Tensor {
    float* param;
    const float* grad;
    float* momentum;
    long long count;
    // The first of the tensor's chunks.
    long long chunk;
    float lr, kept, decay;
    // Negative for none.
    float trust;
};

__device__ __forceinline__ float decayed(float g, float p, const Tensor& f) {
    return __fadd_rn(g, __fmul_rn(f.decay, p));
}

__device__ __forceinline__ void norms(const Tensor& tensor, tensors::Chunk chunk, int size, double* sums) {
    const float *param = tensor.param + chunk.first, *grad = tensor.grad + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(param, 0) && four_fit(grad, 0);
    double params = 0., grads = 0.;
    auto add = [&](float p, float g) {
        g = decayed(g, p, tensor);
        params += (double)p * p;
        grads += (double)g * g;
    };
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        // Zeros beyond the end add nothing.
        float4 p = tensors::load(param + i, length - i, fit), g = tensors::load(grad + i, length - i, fit);
        add(p.x, g.x);
        add(p.y, g.y);
        add(p.z, g.z);
        add(p.w, g.w);
    }
    params = block_sum(params);
    grads = block_sum(grads);
    if (threadIdx.x == 0) {
        sums[2 * blockIdx.x] = params;
        sums[2 * blockIdx.x + 1] = grads;
    }
}

// What the gradient is multiplied with; every thread of the block must ask.
__device__ __forceinline__ float scale(const Tensor& tensor, int size, const double* sums) {
    if (tensor.trust < 0.f) return 1.f;
    double params = 0., grads = 0.;
    long long chunks = (tensor.count + size - 1) / size;
    for (long long i = threadIdx.x; i < chunks; i += blockDim.x) {
        params += sums[2 * (tensor.chunk + i)];
        grads += sums[2 * (tensor.chunk + i) + 1];
    }
    params = block_sum(params);
    grads = block_sum(grads);
    return params > 0. && grads > 0. ? float(tensor.trust * sqrt(params) / sqrt(grads)) : 1.f;
}

__device__ __forceinline__ void update(float& p, float& m, float g, float scale, const Tensor& f) {
    m = __fadd_rn(__fmul_rn(m, f.kept), __fmul_rn(decayed(g, p, f), scale));
    p = __fsub_rn(p, __fmul_rn(f.lr, m));
}

__device__ __forceinline__ void step(const Tensor& tensor, tensors::Chunk chunk, int size, float scale) {
    float *param = tensor.param + chunk.first, *momentum = tensor.momentum + chunk.first;
    const float* grad = tensor.grad + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(param, 0) && four_fit(momentum, 0) && four_fit(grad, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        int left = length - i;
        float4 p = tensors::load(param + i, left, fit), g = tensors::load(grad + i, left, fit);
        float4 m = tensors::load(momentum + i, left, fit);
        update(p.x, m.x, g.x, scale, tensor);
        update(p.y, m.y, g.y, scale, tensor);
        update(p.z, m.z, g.z, scale, tensor);
        update(p.w, m.w, g.w, scale, tensor);
        tensors::store(param + i, p, left, fit);
        tensors::store(momentum + i, m, left, fit);
    }
}

} // namespace lars

// lars_norms: sums of squares of parameter and decayed gradient for each chunk of all tensors of a table.
//
//   tensors      const lars::Tensor*
//   chunks, size as for adamw_tensors
//   sums         f64* [chunks, 2]
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void lars_norms(const lars::Tensor* tensors, const int2* chunks, int size, double* sums) {
    auto chunk = tensors::Chunk::of(chunks, size);
    lars::norms(tensors[chunk.tensor], chunk, size, sums);
}
KERNEL(lars_norms)

// lars_tensors: one step on all parameters; operands and grid as for lars_norms, whose sums it reads.
extern "C" __global__ void lars_tensors(const lars::Tensor* tensors, const int2* chunks, int size,
                                        const double* sums) {
    auto chunk = tensors::Chunk::of(chunks, size);
    const lars::Tensor& tensor = tensors[chunk.tensor];
    lars::step(tensor, chunk, size, lars::scale(tensor, size, sums));
}
KERNEL(lars_tensors)
