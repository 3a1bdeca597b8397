// What the attention kernels share: where operands lie, and the two products of a tile.
//
// All of them have the same form. A block owns some rows (queries, or keys in the gradients of keys
// and values) and walks over tiles of the other side's rows. With own rows A and the other side's
// rows B, C, the products are A Bᵀ, whose reduction runs along both rows, and W C, where W comes from
// the first kind. So nothing is ever transposed in memory.
#pragma once

#include "common.cuh"

namespace attention {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// One operand: row n of image b of head h starts at start + (b * rows + n) * stride + h * head_dim.
template <class T>
struct Operand {
    T* start;
    long long stride;

    __device__ __forceinline__ Operand head(int image, int rows, int head, int head_dim) const {
        return {start + (long long)image * rows * stride + (long long)head * head_dim, stride};
    }
    __device__ __forceinline__ T* row(int n) const { return start + n * stride; }
};

struct Sizes {
    int queries, keys, heads, head_dim;
    float scale;
};

// f32 values at (image % images) * image_stride + head * head_stride + query * row_stride + key; or none.
struct Bias {
    const float* start;
    int images;
    long long image_stride, head_stride, row_stride;

    __device__ __forceinline__ Bias head(int image, int head) const {
        if (!start) return *this;
        return {start + image % images * image_stride + head * head_stride, 1, 0, 0, row_stride};
    }
    __device__ __forceinline__ float at(int query, int key) const {
        return start ? start[query * row_stride + key] : 0.f;
    }
};

// The rows that a block owns: blocks of one head follow each other, so that they find its other side
// in the cache.
struct Place {
    int first, head, image;

    __device__ __forceinline__ static Place of(int rows, int tile, int heads) {
        int tiles = (rows + tile - 1) / tile, pair = blockIdx.x / tiles;
        return {int(blockIdx.x % tiles) * tile, pair % heads, pair / heads};
    }
    __device__ __forceinline__ long long pair(int heads) const {
        return (long long)image * heads + head;
    }
};

template <class T>
struct Inputs {
    Operand<const T> q, k, v;
    Bias bias;
    Sizes sizes;

    // The same of one head of one image.
    __device__ __forceinline__ Inputs of(Place at) const {
        return {q.head(at.image, sizes.queries, at.head, sizes.head_dim),
                k.head(at.image, sizes.keys, at.head, sizes.head_dim),
                v.head(at.image, sizes.keys, at.head, sizes.head_dim), bias.head(at.image, at.head), sizes};
    }
};

// Copies rows [first, first + ROWS) of `width` values to shared memory, with zeros beyond `count` rows
// and beyond `width`: those change no product.
template <int ROWS, int WIDTH, int STRIDE, int THREADS, class T>
__device__ __forceinline__ void load_tile(T* to, Operand<const T> from, int first, int count, int width) {
    constexpr int WIDE = 16 / sizeof(T);
    bool fits = reinterpret_cast<size_t>(from.start) % 16 == 0 && from.stride % WIDE == 0 && width % WIDE == 0;
    if (fits) {
        // Loads under way at once, but not so many that they cost the sums their registers.
        UNROLL_BY(WIDTH > 64 ? 2 : 4)
        for (int i = threadIdx.x; i < ROWS * WIDTH / WIDE; i += THREADS) {
            int row = i / (WIDTH / WIDE), col = i % (WIDTH / WIDE) * WIDE;
            uint4 values = make_uint4(0, 0, 0, 0);
            if (first + row < count && col < width)
                values = *reinterpret_cast<const uint4*>(from.row(first + row) + col);
            *reinterpret_cast<uint4*>(to + row * STRIDE + col) = values;
        }
    } else {
        UNROLL_BY(1)
        for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
            int row = i / WIDTH, col = i % WIDTH;
            bool inside = first + row < count && col < width;
            to[row * STRIDE + col] = inside ? from.row(first + row)[col] : from_float<T>(0.f);
        }
    }
}

// bf16 on tensor cores: a warp owns 16 rows. Rows of a tile lie 16 bytes further apart than they are
// wide, so that the eight rows of a matrix fall on different banks.
namespace bf {

constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;
// Rows of the other side in shared memory, and how many of them a warp takes at a time.
constexpr int TILE = 64, CHUNK = 16;

template <int WIDTH>
constexpr int STRIDE = WIDTH + 8;

template <int WIDTH>
__device__ __forceinline__ void load(bf16* to, Operand<const bf16> from, int first, int count, int width) {
    load_tile<TILE, WIDTH, STRIDE<WIDTH>, THREADS>(to, from, first, count, width);
}

// The warp's own rows as left operands, taken from a tile in shared memory.
template <int WIDTH>
__device__ __forceinline__ void load_own(unsigned (&own)[WIDTH / 16][4], const bf16* tile) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bf16* at = tile + (warp * 16 + lane % 16) * STRIDE<WIDTH> + lane / 16 * 8;
    UNROLL
    for (int step = 0; step < WIDTH / 16; ++step) ldmatrix(own[step], at + step * 16);
}

// scores = own rows times the CHUNK rows at `chunk`, transposed: [columns in eights][fragment].
template <int WIDTH>
__device__ __forceinline__ void multiply(float (&scores)[2][4], const unsigned (&own)[WIDTH / 16][4],
                                         const bf16* chunk) {
    int lane = threadIdx.x % 32;
    const bf16* at = chunk + (lane / 16 * 8 + lane % 8) * STRIDE<WIDTH> + lane / 8 % 2 * 8;
    UNROLL
    for (int i = 0; i < 4; ++i) scores[0][i] = scores[1][i] = 0.f;
    UNROLL
    for (int step = 0; step < WIDTH / 16; ++step) {
        unsigned both[4];
        ldmatrix(both, at + step * 16);
        mma_bf16(scores[0], own[step], {both[0], both[1]});
        mma_bf16(scores[1], own[step], {both[2], both[3]});
    }
}

// A chunk of weights as a left operand: a result's fragment is an operand's, rounded.
__device__ __forceinline__ void to_operand(unsigned (&operand)[4], const float (&weights)[2][4]) {
    UNROLL
    for (int i = 0; i < 2; ++i) {
        operand[2 * i] = pack_bf16(weights[i][0], weights[i][1]);
        operand[2 * i + 1] = pack_bf16(weights[i][2], weights[i][3]);
    }
}

// sums += weights times the CHUNK rows at `chunk`.
template <int WIDTH>
__device__ __forceinline__ void add_weighted(float (&sums)[WIDTH / 8][4], const float (&weights)[2][4],
                                             const bf16* chunk) {
    int lane = threadIdx.x % 32;
    const bf16* at = chunk + lane % 16 * STRIDE<WIDTH> + lane / 16 * 8;
    unsigned left[4];
    to_operand(left, weights);
    UNROLL
    for (int col = 0; col < WIDTH / 16; ++col) {
        unsigned both[4];
        ldmatrix_turned(both, at + col * 16);
        mma_bf16(sums[2 * col], left, {both[0], both[1]});
        mma_bf16(sums[2 * col + 1], left, {both[2], both[3]});
    }
}

// Writes the warp's rows, `first` being its first one, times a factor for each of a lane's two rows.
template <int WIDTH>
__device__ __forceinline__ void store(Operand<bf16> to, int first, int count, int width,
                                      const float (&sums)[WIDTH / 8][4], float2 factor) {
    int lane = threadIdx.x % 32;
    bool pairs = reinterpret_cast<size_t>(to.start) % 4 == 0 && to.stride % 2 == 0 && width % 2 == 0;
    UNROLL
    for (int half = 0; half < 2; ++half) {
        int row = first + lane / 4 + half * 8;
        float by = half ? factor.y : factor.x;
        UNROLL
        for (int col = 0; col < WIDTH / 8; ++col) {
            int place = col * 8 + lane % 4 * 2;
            if (row >= count || place >= width) continue;
            float low = sums[col][2 * half] * by, high = sums[col][2 * half + 1] * by;
            bf16* at = to.row(row) + place;
            if (pairs) {
                reinterpret_cast<uint1*>(at)->x = pack_bf16(low, high);
            } else {
                at[0] = __float2bfloat16(low);
                if (place + 1 < width) at[1] = __float2bfloat16(high);
            }
        }
    }
}

} // namespace bf

// f32: 16 lanes share 4 rows; a lane has every 16th column. Rows of a tile lie four values further
// apart than they are wide, so that lanes that read four values of neighbouring rows use all banks.
namespace fl {

template <int ROWS>
constexpr int THREADS = 4 * ROWS;
template <int WIDTH>
constexpr int STRIDE = WIDTH + 4;

__device__ __forceinline__ int lane() { return threadIdx.x % 16; }
__device__ __forceinline__ int first_row() { return threadIdx.x / 16 * 4; }

// scores = the lane's rows of `own` times its rows of `other`, transposed.
template <int WIDTH, int COLS>
__device__ __forceinline__ void multiply(float (&scores)[4][COLS / 16], const float* own, const float* other) {
    own += first_row() * STRIDE<WIDTH>;
    other += lane() * STRIDE<WIDTH>;
    UNROLL
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < COLS / 16; ++j) scores[i][j] = 0.f;
    UNROLL_BY(2)
    for (int k = 0; k < WIDTH; k += 4) {
        float4 right[COLS / 16];
        UNROLL
        for (int j = 0; j < COLS / 16; ++j) right[j] = load4(other + j * 16 * STRIDE<WIDTH> + k);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            float4 left = load4(own + i * STRIDE<WIDTH> + k);
            UNROLL
            for (int j = 0; j < COLS / 16; ++j)
                scores[i][j] += left.x * right[j].x + left.y * right[j].y + left.z * right[j].z + left.w * right[j].w;
        }
    }
}

// sums += weights times `other`; the weights go through `scratch` [rows][COLS + 4], where only the 16
// lanes of the same rows meet.
template <int WIDTH, int COLS>
__device__ __forceinline__ void add_weighted(float (&sums)[4][WIDTH / 16], const float (&weights)[4][COLS / 16],
                                             float* scratch, const float* other) {
    float* own = scratch + first_row() * STRIDE<COLS>;
    other += lane();
    UNROLL
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < COLS / 16; ++j) own[i * STRIDE<COLS> + j * 16 + lane()] = weights[i][j];
    __syncwarp();
    UNROLL_BY(2)
    for (int k = 0; k < COLS; k += 4) {
        float4 left[4];
        UNROLL
        for (int i = 0; i < 4; ++i) left[i] = load4(own + i * STRIDE<COLS> + k);
        UNROLL
        for (int j = 0; j < WIDTH / 16; ++j) {
            const float* at = other + k * STRIDE<WIDTH> + j * 16;
            float x = at[0], y = at[STRIDE<WIDTH>], z = at[2 * STRIDE<WIDTH>], w = at[3 * STRIDE<WIDTH>];
            UNROLL
            for (int i = 0; i < 4; ++i)
                sums[i][j] += left[i].x * x + left[i].y * y + left[i].z * z + left[i].w * w;
        }
    }
    __syncwarp();
}

// Writes the lane's share of its rows, `first` being the first of the block, times a factor a row.
template <int WIDTH>
__device__ __forceinline__ void store(Operand<float> to, int first, int count, int width,
                                      const float (&sums)[4][WIDTH / 16], const float (&factor)[4]) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
        int row = first + first_row() + i;
        UNROLL
        for (int j = 0; j < WIDTH / 16; ++j) {
            int place = j * 16 + lane();
            if (row < count && place < width) to.row(row)[place] = sums[i][j] * factor[i];
        }
    }
}

} // namespace fl
} // namespace attention
