// Gaussian error linear units of rows, to which a bias may be added before.
#include "fours.cuh"

struct Gelu {
    static __device__ float half_of_all(float x) { return 0.5f * (1.f + erff(x * 0.70710678118654752f)); }
    static __device__ float value(float x) { return x * half_of_all(x); }
    static __device__ float slope(float x) {
        return half_of_all(x) + x * 0.39894228040143268f * expf(-0.5f * x * x);
    }
};

struct QuickGelu {
    static __device__ float share(float x) { return 1.f / (1.f + expf(-1.702f * x)); }
    static __device__ float value(float x) { return x * share(x); }
    static __device__ float slope(float x) {
        float s = share(x);
        return s + 1.702f * x * s * (1.f - s);
    }
};

// Four values from the place `at`, with their bias.
template <class T>
__device__ __forceinline__ void load_biased(float (&x)[FOUR], const T* xs, const float* bias, unsigned at,
                                            int left, int width, bool aligned) {
    load_four(x, xs + at, left, aligned);
    if (!bias) return;
    for (int i = 0; i < FOUR && i < left; ++i) x[i] += bias[(at + i) % width];
}

template <class Unit, class In, class Out>
__device__ void unit_forward(const In* xs, const float* bias, Out* ys, int total, int width) {
    unsigned at = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR;
    if (at >= unsigned(total)) return;
    bool aligned = four_fit(xs, total) && four_fit(ys, total);
    float x[FOUR];
    load_biased(x, xs, bias, at, total - at, width, aligned);
    for (int i = 0; i < FOUR; ++i) x[i] = Unit::value(x[i]);
    store_four(ys + at, x, total - at, aligned);
}

// The gradient of what the unit is taken of, and if `ys` is there, the unit's values once more.
template <class Unit, class In, class Grad>
__device__ void unit_backward(const In* xs, const float* bias, const Grad* grad, In* dx, In* ys, int total,
                              int width) {
    unsigned at = (blockIdx.x * blockDim.x + threadIdx.x) * FOUR;
    if (at >= unsigned(total)) return;
    bool aligned = four_fit(xs, total) && four_fit(grad, total) && four_fit(dx, total) &&
                   (!ys || four_fit(ys, total));
    float x[FOUR], g[FOUR];
    load_biased(x, xs, bias, at, total - at, width, aligned);
    load_four(g, grad + at, total - at, aligned);
    for (int i = 0; i < FOUR; ++i) g[i] *= Unit::slope(x[i]);
    store_four(dx + at, g, total - at, aligned);
    if (!ys) return;
    for (int i = 0; i < FOUR; ++i) x[i] = Unit::value(x[i]);
    store_four(ys + at, x, total - at, aligned);
}

extern "C" __global__ void gelu_forward_f32_f32(const float* xs, const float* bias, float* ys, int total, int width) {
    unit_forward<Gelu>(xs, bias, ys, total, width);
}
KERNEL(gelu_forward_f32_f32)

extern "C" __global__ void gelu_forward_bf16_bf16(const bf16* xs, const float* bias, bf16* ys, int total, int width) {
    unit_forward<Gelu>(xs, bias, ys, total, width);
}
KERNEL(gelu_forward_bf16_bf16)

extern "C" __global__ void gelu_forward_bf16_f32(const bf16* xs, const float* bias, float* ys, int total, int width) {
    unit_forward<Gelu>(xs, bias, ys, total, width);
}
KERNEL(gelu_forward_bf16_f32)

extern "C" __global__ void gelu_backward_f32_f32(const float* xs, const float* bias, const float* grad, float* dx,
        float* ys, int total, int width) {
    unit_backward<Gelu>(xs, bias, grad, dx, ys, total, width);
}
KERNEL(gelu_backward_f32_f32)

extern "C" __global__ void gelu_backward_bf16_bf16(const bf16* xs, const float* bias, const bf16* grad, bf16* dx,
        bf16* ys, int total, int width) {
    unit_backward<Gelu>(xs, bias, grad, dx, ys, total, width);
}
KERNEL(gelu_backward_bf16_bf16)

extern "C" __global__ void gelu_backward_bf16_f32(const bf16* xs, const float* bias, const float* grad, bf16* dx,
        bf16* ys, int total, int width) {
    unit_backward<Gelu>(xs, bias, grad, dx, ys, total, width);
}
KERNEL(gelu_backward_bf16_f32)

extern "C" __global__ void quick_gelu_forward_f32_f32(const float* xs, const float* bias, float* ys, int total, int width) {
    unit_forward<QuickGelu>(xs, bias, ys, total, width);
}
KERNEL(quick_gelu_forward_f32_f32)

extern "C" __global__ void quick_gelu_backward_f32_f32(const float* xs, const float* bias, const float* grad, float* dx,
        float* ys, int total, int width) {
    unit_backward<QuickGelu>(xs, bias, grad, dx, ys, total, width);
}
KERNEL(quick_gelu_backward_f32_f32)
