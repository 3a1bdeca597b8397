// CUDA kernels as ordinary C++, so that they are tested where there is no GPU.
//
// Every thread of a block is a fiber; blocks run one after the other. Threads change places only at
// barriers and warp exchanges, in an order that depends on the block alone. What CUDA leaves undefined
// ends the program with a message: threads of a block that wait at different barriers, leave while
// others wait, or exchange with a part of their warp. Shared memory is full of NaN until a block writes
// it, and a missing barrier shows, since threads run as far as they can.
//
// Built with -std=c++17 -ffp-contract=off: a GPU may fuse products and sums except in the
// `__f*_rn` functions, here nothing is fused. With -fsanitize=address,undefined every access is checked,
// shared arrays included, each being an allocation of its own.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
using dim3 = uint3;
// Vectors are read and written over values of other types.
#define VECTOR(bytes) struct __attribute__((may_alias, aligned(bytes)))
VECTOR(8) float2 { float x, y; };
VECTOR(16) float4 { float x, y, z, w; };
VECTOR(8) int2 { int x, y; };
VECTOR(4) uint1 { unsigned x; };
VECTOR(8) uint2 { unsigned x, y; };
VECTOR(16) uint4 { unsigned x, y, z, w; };
#undef VECTOR
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulation {

constexpr unsigned WARP = 32;
// Bytes that a lane can show to its warp in one exchange.
constexpr size_t SLOT = 32;

struct Site {
    const char* file;
    int line;
};

// What a warp's lanes show to each other; two sets, since a fast lane may show its next value before a
// slow one has read this one.
struct Slots {
    alignas(16) unsigned char bytes[2][WARP][SLOT];
};

extern uint3 block_index, block_size, grid_size;
const uint3& thread_index();
void wait_for_block(Site site);
// Shows `bytes` bytes to the warp, waits for all of its lanes, and returns what each shows.
const unsigned char (*meet(Site site, const void* value, size_t bytes))[SLOT];
unsigned lane();
// The block's own array for the declaration at `key`.
void* shared_array(const void* key, size_t bytes);
void* dynamic_shared(size_t alignment);
void require(bool fine, Site site, const char* message);

using Invoke = void (*)(void (*)(), void**);
void add_kernel(const char* name, void (*kernel)(), Invoke invoke);
bool has_kernel(const char* name);

template <class... Args, size_t... I>
void unpack(void (*kernel)(), void** args, std::index_sequence<I...>) {
    // The values may lie anywhere, as the driver's interface allows.
    auto value = [](auto* type, void* at) {
        std::remove_pointer_t<decltype(type)> copy;
        std::memcpy(&copy, at, sizeof copy);
        return copy;
    };
    reinterpret_cast<void (*)(Args...)>(kernel)(value(static_cast<Args*>(nullptr), args[I])...);
}

// What calls a kernel of this type.
template <class... Args>
Invoke invoke_as(void (*)(Args...)) {
    return [](void (*kernel)(), void** args) {
        unpack<Args...>(kernel, args, std::index_sequence_for<Args...>());
    };
}

struct Registration {
    template <class... Args>
    Registration(const char* name, void (*kernel)(Args...)) {
        add_kernel(name, reinterpret_cast<void (*)()>(kernel), invoke_as(kernel));
    }
};

template <class T>
T from_lane(const unsigned char (*shown)[SLOT], unsigned lane) {
    T value;
    std::memcpy(&value, shown[lane], sizeof value);
    return value;
}

template <class T>
const unsigned char (*exchange(unsigned mask, T value, unsigned width, Site site))[SLOT] {
    static_assert(sizeof(T) <= SLOT, "a lane shows too much");
    require(mask == 0xffffffffu && width > 0 && width <= WARP && (width & (width - 1)) == 0, site,
            "a shuffle wants the whole warp and a power of two as its width");
    return meet(site, &value, sizeof value);
}

} // namespace emulation

#define UNROLL
#define UNROLL_BY(times)
#define KERNEL(name) static const emulation::Registration registered_##name(#name, name);
// `dims` is [n] or [n][m]; declared apart from its use, since each declaration is one array of the block.
#define SHARED(type, name, dims)                    \
    using shared_type_##name = type dims;           \
    static const char shared_key_##name = 0;        \
    auto& name = *static_cast<shared_type_##name*>( \
        emulation::shared_array(&shared_key_##name, sizeof(shared_type_##name)))
#define DYNAMIC_SHARED(type, name) \
    type* name = static_cast<type*>(emulation::dynamic_shared(alignof(type)))

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

// The site of a call: these are evaluated where a default argument is used.
#define EMULATION_SITE emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

inline void __syncthreads(EMULATION_SITE) { emulation::wait_for_block(site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_SITE) {
    emulation::exchange(mask, 0, 32, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, unsigned width = 32, EMULATION_SITE) {
    auto shown = emulation::exchange(mask, value, width, site);
    unsigned lane = emulation::lane(), from = lane ^ flip;
    // A lane beyond the end of its own part keeps its value.
    return emulation::from_lane<T>(shown, from / width > lane / width ? lane : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, unsigned width = 32, EMULATION_SITE) {
    auto shown = emulation::exchange(mask, value, width, site);
    unsigned lane = emulation::lane();
    return emulation::from_lane<T>(shown, lane % width + by < width ? lane + by : lane);
}
template <class T>
T __shfl_sync(unsigned mask, T value, unsigned from, unsigned width = 32, EMULATION_SITE) {
    auto shown = emulation::exchange(mask, value, width, site);
    return emulation::from_lane<T>(shown, emulation::lane() / width * width + from % width);
}

struct __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
// Rounds to nearest, ties to even; NaN stays NaN.
inline __nv_bfloat16 __float2bfloat16(float x) {
    if (x != x) return {0x7fff};
    unsigned bits = __float_as_uint(x);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16(x), __float2bfloat16(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 x) {
    return {__bfloat162float(x.x), __bfloat162float(x.y)};
}

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
template <class T> T __ldg(const T* at) { return *at; }
template <class T> T min(T x, T y) { return y < x ? y : x; }
template <class T> T max(T x, T y) { return x < y ? y : x; }

// d += a b on tensor cores: a is 16x16, b 16x8 by columns, d 16x8. The fragments are those of the PTX
// instruction mma.m16n8k16: with g = lane / 4 and t = lane % 4, a holds rows (g, g + 8, g, g + 8) at
// columns 2t and 2t + 1 (8 further in the last two registers), b column g at rows 2t, 2t + 1 and
// 2t + 8, 2t + 9, and d rows g (first two) and g + 8 at columns 2t and 2t + 1.
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMULATION_SITE) {
    struct Operands { unsigned a[4], b[2]; } own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    auto shown = emulation::exchange(0xffffffffu, own, 32, site);
    auto half = [](unsigned pair, unsigned k) {
        return __uint_as_float(k % 2 ? pair & 0xffff0000u : pair << 16);
    };
    unsigned group = emulation::lane() / 4, place = emulation::lane() % 4;
    for (unsigned k = 0; k < 16; ++k) {
        unsigned quad = k / 2 % 4, high = k / 8;
        auto rows = emulation::from_lane<Operands>(shown, group * 4 + quad);
        for (unsigned col = 0; col < 2; ++col) {
            auto column = emulation::from_lane<Operands>(shown, (place * 2 + col) * 4 + quad);
            float b = half(column.b[high], k);
            d[col] += half(rows.a[2 * high], k) * b;
            d[2 + col] += half(rows.a[2 * high + 1], k) * b;
        }
    }
}

namespace emulation {
// Four 8x8 matrices of 16 bits; lane 8 i + r gives the address of row r of matrix i, 16 bytes.
template <bool TURNED>
void load_matrices(unsigned (&to)[4], const void* row, Site site) {
    require(reinterpret_cast<uintptr_t>(row) % 16 == 0, site, "ldmatrix wants rows at 16 bytes");
    auto shown = exchange(0xffffffffu, row, 32, site);
    unsigned group = lane() / 4, place = lane() % 4;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        unsigned halves[2];
        for (unsigned i = 0; i < 2; ++i) {
            unsigned r = TURNED ? place * 2 + i : group, c = TURNED ? group : place * 2 + i;
            halves[i] = from_lane<const uint16_t*>(shown, matrix * 8 + r)[c];
        }
        to[matrix] = halves[0] | halves[1] << 16;
    }
}
} // namespace emulation

// Lane (g, t) gets row g at columns 2t and 2t + 1 of each matrix.
inline void ldmatrix(unsigned (&to)[4], const void* row, EMULATION_SITE) {
    emulation::load_matrices<false>(to, row, site);
}
// The same of the transposed matrices.
inline void ldmatrix_turned(unsigned (&to)[4], const void* row, EMULATION_SITE) {
    emulation::load_matrices<true>(to, row, site);
}
