// Work on all parameters in one launch.
//
// A table names the tensors; a block does one chunk: `chunks` holds (tensor, index) pairs, and chunk
// `index` begins at value index * size of its tensor. `size` is a multiple of four.
#pragma once

#include "common.cuh"

namespace tensors {

// The part of a tensor that a block does.
struct Chunk {
    int tensor;
    long long first;

    __device__ __forceinline__ static Chunk of(const int2* chunks, int size) {
        int2 place = chunks[blockIdx.x];
        return {place.x, (long long)place.y * size};
    }
    __device__ __forceinline__ int length(long long count, int size) const {
        return count - first < size ? int(count - first) : size;
    }
};

// Up to four neighbouring values; beyond `left` values, zeros are read and nothing is written.
template <class T>
__device__ __forceinline__ float4 load(const T* at, int left, bool fit) {
    if (fit && left >= 4) return load4(at);
    return make_float4(to_float(at[0]), left > 1 ? to_float(at[1]) : 0.f, left > 2 ? to_float(at[2]) : 0.f,
                       left > 3 ? to_float(at[3]) : 0.f);
}
template <class T>
__device__ __forceinline__ void store(T* at, float4 xs, int left, bool fit) {
    if (fit && left >= 4) return store4(at, xs);
    at[0] = from_float<T>(xs.x);
    if (left > 1) at[1] = from_float<T>(xs.y);
    if (left > 2) at[2] = from_float<T>(xs.z);
    if (left > 3) at[3] = from_float<T>(xs.w);
}

} // namespace tensors
