// Norms of gradients, and the factors that bound them, without a copy to the host.
//
// Squares are added up in f64, so that they do not overflow: first each chunk, then the chunks in their
// order. The result depends on the chunks' size and on nothing else.
#include "tensors.cuh"

namespace sum_squares {

// 16 bytes.
struct Tensor {
    const void* xs;
    long long count;
};

template <class T>
__device__ __forceinline__ void add_chunk(const Tensor& tensor, tensors::Chunk chunk, int size, double* partials) {
    const T* xs = static_cast<const T*>(tensor.xs) + chunk.first;
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

// The sum of partial sums [first, last).
__device__ __forceinline__ double total(const double* partials, int first, int last) {
    double sum = 0.;
    for (int i = first + threadIdx.x; i < last; i += blockDim.x) sum += partials[i];
    return block_sum(sum);
}

} // namespace sum_squares

// sum_squares_tensors_{f32,bf16}: the first stage for all tensors of a table.
//
//   tensors      const sum_squares::Tensor*
//   chunks, size as for adamw_tensors_f32
//   partials     f64* [chunks]
//
// Grid (chunks, 1, 1), block (256, 1, 1).
#define SUM_SQUARES_TENSORS(name, T)                                                                  \
    extern "C" __global__ void name(const sum_squares::Tensor* tensors, const int2* chunks, int size, \
                                    double* partials) {                                               \
        auto chunk = tensors::Chunk::of(chunks, size);                                                \
        sum_squares::add_chunk<T>(tensors[chunk.tensor], chunk, size, partials);                      \
    }                                                                                                 \
    KERNEL(name)

SUM_SQUARES_TENSORS(sum_squares_tensors_f32, float)
SUM_SQUARES_TENSORS(sum_squares_tensors_bf16, bf16)

// sum_squares_{f32,bf16}: the first stage for one tensor. xs const T* [count], count i64, size i32,
// partials f64* [ceil(count / size)]. Grid (ceil(count / size), 1, 1), block (256, 1, 1).
#define SUM_SQUARES(name, T)                                                                    \
    extern "C" __global__ void name(const T* xs, long long count, int size, double* partials) { \
        sum_squares::add_chunk<T>({xs, count}, tensors::Chunk::of_one(size), size, partials);   \
    }                                                                                           \
    KERNEL(name)

SUM_SQUARES(sum_squares_f32, float)
SUM_SQUARES(sum_squares_bf16, bf16)

// sum_partials: the second stage. partials const f64* [count], count i32, sum f64* [1].
// Grid (1, 1, 1), block (256, 1, 1).
extern "C" __global__ void sum_partials(const double* partials, int count, double* sum) {
    double all = sum_squares::total(partials, 0, count);
    if (threadIdx.x == 0) *sum = all;
}
KERNEL(sum_partials)

// clip_factors: norms, and min(1, max_norm / (norm + 1e-6)) as PyTorch bounds gradients.
//
//   partials     const f64*      [chunks], of sum_squares_tensors
//   ranges       const i32*      [groups + 1]: group i has partial sums ranges[i] to ranges[i + 1];
//                                {0, chunks} for all parameters, each tensor's first chunk for one factor a tensor
//   max_norm     f32             infinity for no bound
//   norms        f32* [groups], before clipping
//   factors      f32* [groups]
//
// Grid (groups, 1, 1), block (256, 1, 1).
extern "C" __global__ void clip_factors(const double* partials, const int* ranges, float max_norm, float* norms,
                                        float* factors) {
    double norm = sqrt(sum_squares::total(partials, ranges[blockIdx.x], ranges[blockIdx.x + 1]));
    if (threadIdx.x != 0) return;
    norms[blockIdx.x] = float(norm);
    // Without this, an infinite norm under an infinite bound would give NaN.
    factors[blockIdx.x] = max_norm == INFINITY ? 1.f : float(fmin(1., max_norm / (norm + 1e-6)));
}
KERNEL(clip_factors)
