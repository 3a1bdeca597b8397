// Scaling in place.
#include "tensors.cuh"

namespace scale_inplace {

// 16 bytes.
struct Tensor {
    void* xs;
    long long count;
};

template <class T>
__device__ __forceinline__ void scale(const Tensor& tensor, tensors::Chunk chunk, int size, float factor) {
    T* xs = static_cast<T*>(tensor.xs) + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(xs, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        int left = length - i;
        float4 x = tensors::load(xs + i, left, fit);
        x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
        tensors::store(xs + i, x, left, fit);
    }
}

} // namespace scale_inplace

// scale_tensors_{f32,bf16}: multiplies all tensors of a table.
//
//   tensors      const scale_inplace::Tensor*
//   chunks, size, factors, stride   as for adamw_tensors_f32
//
// Grid (chunks, 1, 1), block (256, 1, 1).
#define SCALE_TENSORS(name, T)                                                                          \
    extern "C" __global__ void name(const scale_inplace::Tensor* tensors, const int2* chunks, int size, \
                                    const float* factors, int stride) {                                 \
        auto chunk = tensors::Chunk::of(chunks, size);                                                  \
        scale_inplace::scale<T>(tensors[chunk.tensor], chunk, size,                                     \
                                tensors::factor_of(factors, stride, chunk.tensor));                     \
    }                                                                                                   \
    KERNEL(name)

SCALE_TENSORS(scale_tensors_f32, float)
SCALE_TENSORS(scale_tensors_bf16, bf16)

// scale_inplace_{f32,bf16}: one tensor. xs T* [count], count i64, size i32, factor f32.
// Grid (ceil(count / size), 1, 1), block (256, 1, 1).
#define SCALE_INPLACE(name, T)                                                            \
    extern "C" __global__ void name(T* xs, long long count, int size, float factor) {     \
        scale_inplace::scale<T>({xs, count}, tensors::Chunk::of_one(size), size, factor); \
    }                                                                                     \
    KERNEL(name)

SCALE_INPLACE(scale_inplace_f32, float)
SCALE_INPLACE(scale_inplace_bf16, bf16)
