// Values in groups of four, whether or not they are aligned; the last group of a row may be short.
#pragma once
#include "common.cuh"

constexpr int FOUR = 4;

// `left` values are there at least up to the end of the row; zeros stand for the others.
template <class T>
__device__ __forceinline__ void load_four(float (&to)[FOUR], const T* at, int left, bool aligned) {
    if (aligned) {
        float4 xs = load4(at);
        to[0] = xs.x, to[1] = xs.y, to[2] = xs.z, to[3] = xs.w;
        return;
    }
    for (int i = 0; i < FOUR; ++i) to[i] = i < left ? to_float(at[i]) : 0.f;
}

template <class T>
__device__ __forceinline__ void store_four(T* at, const float (&from)[FOUR], int left, bool aligned) {
    if (aligned) {
        store4(at, make_float4(from[0], from[1], from[2], from[3]));
        return;
    }
    for (int i = 0; i < FOUR && i < left; ++i) at[i] = from_float<T>(from[i]);
}

// The row of a warp in a grid of blocks of (32, n) threads.
static __device__ __forceinline__ int row_of_warp() { return blockIdx.x * blockDim.y + threadIdx.y; }
