// What kernels share. They compile with nvcc and, through emulate.h (tests/pretend_cuda), with a C++ compiler.
//
// A kernel is `extern "C" __global__ void name(...)` followed by KERNEL(name); its shared arrays are
// declared by SHARED(type, name, [dims]) or, if their size is known at the launch alone, by
// DYNAMIC_SHARED(type, name). Nothing is added up in an order that depends on timing.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>

#define KERNEL(name)
#define UNROLL _Pragma("unroll")
#define PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(times) PRAGMA(unroll times)
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define DYNAMIC_SHARED(type, name)                                        \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared_bytes)

// See emulate.h for the next three: d += a b, and four 8x8 matrices from shared memory.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void ldmatrix(unsigned (&to)[4], const void* row) {
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_turned(unsigned (&to)[4], const void* row) {
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}
// 2^x to about two units in the last place; results below the normal numbers are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
#include "emulate.h"
#endif

using bf16 = __nv_bfloat16;

constexpr unsigned WHOLE_WARP = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16(x);
}

// Two values as the tensor cores want them: the first in the low half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    union {
        __nv_bfloat162 pair;
        unsigned bits;
    } both;
    both.pair = __floats2bfloat162_rn(low, high);
    return both.bits;
}
__device__ __forceinline__ float low_bf16(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(unsigned pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

// Four neighbouring values at once; `at` must be a multiple of four values from an aligned start.
__device__ __forceinline__ float4 load4(const float* at) {
    return *reinterpret_cast<const float4*>(at);
}
__device__ __forceinline__ float4 load4(const bf16* at) {
    uint2 pairs = *reinterpret_cast<const uint2*>(at);
    return make_float4(low_bf16(pairs.x), high_bf16(pairs.x), low_bf16(pairs.y), high_bf16(pairs.y));
}
__device__ __forceinline__ void store4(float* at, float4 xs) {
    *reinterpret_cast<float4*>(at) = xs;
}
__device__ __forceinline__ void store4(bf16* at, float4 xs) {
    *reinterpret_cast<uint2*>(at) = make_uint2(pack_bf16(xs.x, xs.y), pack_bf16(xs.z, xs.w));
}
// Whether `load4` and `store4` may be used at `at` and at multiples of `stride` values from it.
template <class T>
__device__ __forceinline__ bool four_fit(const T* at, size_t stride) {
    return reinterpret_cast<size_t>(at) % (4 * sizeof(T)) == 0 && stride % 4 == 0;
}

// The result reaches every lane. Lanes of a part of `WIDTH` lanes add up among themselves.
template <int WIDTH = 32, class T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int flip = WIDTH / 2; flip > 0; flip /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, flip);
    return x;
}
template <int WIDTH = 32>
__device__ __forceinline__ float warp_max(float x) {
    for (int flip = WIDTH / 2; flip > 0; flip /= 2) x = fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, flip));
    return x;
}

// The sum over a block of whole warps, in the order of the warps; it reaches every thread, all of
// which must call this.
template <class T>
__device__ __forceinline__ T block_sum(T x) {
    SHARED(T, partials, [32]);
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned warps = blockDim.x * blockDim.y * blockDim.z / 32;
    x = warp_sum(x);
    __syncthreads(); // of an earlier sum, all have read the partial sums
    if (thread % 32 == 0) partials[thread / 32] = x;
    __syncthreads();
    T sum = partials[0];
    for (unsigned warp = 1; warp < warps; ++warp) sum += partials[warp];
    return sum;
}

// The largest value over a block of whole warps, which reaches every thread, as a sum does.
__device__ __forceinline__ float block_max(float x) {
    SHARED(float, largest, [32]);
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned warps = blockDim.x * blockDim.y * blockDim.z / 32;
    x = warp_max(x);
    __syncthreads(); // of an earlier call, all have read the warps' values
    if (thread % 32 == 0) largest[thread / 32] = x;
    __syncthreads();
    float top = largest[0];
    for (unsigned warp = 1; warp < warps; ++warp) top = fmaxf(top, largest[warp]);
    return top;
}
