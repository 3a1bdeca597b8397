// Moving averages, rounded as the CPU's kernel rounds.
#include "tensors.cuh"

namespace ema_update {

// 32 bytes: teacher = keep * teacher + fresh * student.
struct Tensor {
    float* teacher;
    const float* student;
    long long count;
    float keep, fresh;
};

__device__ __forceinline__ float mix(float t, float s, const Tensor& f) {
    return __fadd_rn(__fmul_rn(t, f.keep), __fmul_rn(s, f.fresh));
}

__device__ __forceinline__ void update(const Tensor& tensor, tensors::Chunk chunk, int size) {
    float* teacher = tensor.teacher + chunk.first;
    const float* student = tensor.student + chunk.first;
    int length = chunk.length(tensor.count, size);
    bool fit = four_fit(teacher, 0) && four_fit(student, 0);
    for (int i = threadIdx.x * 4; i < length; i += blockDim.x * 4) {
        int left = length - i;
        float4 t = tensors::load(teacher + i, left, fit), s = tensors::load(student + i, left, fit);
        t = make_float4(mix(t.x, s.x, tensor), mix(t.y, s.y, tensor), mix(t.z, s.z, tensor), mix(t.w, s.w, tensor));
        tensors::store(teacher + i, t, left, fit);
    }
}

} // namespace ema_update

// ema_update_tensors: all pairs of a table.
//
//   tensors      const ema_update::Tensor*
//   chunks, size as for adamw_tensors
//
// Grid (chunks, 1, 1), block (256, 1, 1).
extern "C" __global__ void ema_update_tensors(const ema_update::Tensor* tensors, const int2* chunks, int size) {
    auto chunk = tensors::Chunk::of(chunks, size);
    ema_update::update(tensors[chunk.tensor], chunk, size);
}
KERNEL(ema_update_tensors)
