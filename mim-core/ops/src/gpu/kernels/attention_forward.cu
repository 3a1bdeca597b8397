// Attention forward: softmax(scale q kᵀ + bias) v, without the weights in memory.
//
// A block holds a tile of queries and walks over tiles of keys, keeping for each query the largest
// score so far, the sum of exponentials relative to it, and the weighted values, all rescaled when a
// larger score turns up (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., NeurIPS 2022). Scores
// are kept times log2(e), for exp2_fast. A query all of whose keys are hidden gives NaN, as on the CPU.
#include "attention_tile.cuh"

namespace attention {

// The largest score so far as something that can be subtracted when all scores were -inf.
__device__ __forceinline__ float finite(float top) { return top == -INFINITY ? 0.f : top; }

template <int WIDTH>
__device__ __forceinline__ void forward_bf16(Inputs<bf16> inputs, bf16* out, float* lse) {
    SHARED(bf16, keys, [bf::TILE * bf::STRIDE<WIDTH>]);
    SHARED(bf16, values, [bf::TILE * bf::STRIDE<WIDTH>]);
    Place place = Place::of(inputs.sizes.queries, bf::ROWS, inputs.sizes.heads);
    int lane = threadIdx.x % 32, first = place.first + threadIdx.x / 32 * 16;
    auto [q, k, v, bias, sizes] = inputs.of(place);

    unsigned own[WIDTH / 16][4];
    bf::load<WIDTH>(keys, q, place.first, sizes.queries, sizes.head_dim);
    __syncthreads();
    bf::load_own<WIDTH>(own, keys);

    float sums[WIDTH / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int start = 0; start < sizes.keys; start += bf::TILE) {
        __syncthreads();
        bf::load<WIDTH>(keys, k, start, sizes.keys, sizes.head_dim);
        bf::load<WIDTH>(values, v, start, sizes.keys, sizes.head_dim);
        __syncthreads();
        if (first >= sizes.queries) continue;
        int left = sizes.keys - start;
        float scores[bf::TILE / bf::CHUNK][2][4], now[2] = {top[0], top[1]};
        UNROLL
        for (int c = 0; c < bf::TILE / bf::CHUNK; ++c) {
            if (c * bf::CHUNK >= left) break;
            bf::multiply<WIDTH>(scores[c], own, keys + c * bf::CHUNK * bf::STRIDE<WIDTH>);
            UNROLL
            for (int i = 0; i < 8; ++i) {
                int half = i / 2 % 2, query = first + lane / 4 + half * 8;
                int key = start + c * bf::CHUNK + i / 4 * 8 + lane % 4 * 2 + i % 2;
                float& score = scores[c][i / 4][i % 4];
                score *= sizes.scale * LOG2_E;
                if (key >= sizes.keys)
                    score = -INFINITY;
                else if (bias.start && query < sizes.queries)
                    score += bias.at(query, key) * LOG2_E;
                now[half] = fmaxf(now[half], score);
            }
        }
        float shrink[2];
        UNROLL
        for (int half = 0; half < 2; ++half) {
            now[half] = warp_max<4>(now[half]);
            shrink[half] = exp2_fast(top[half] - finite(now[half]));
            total[half] *= shrink[half];
            top[half] = now[half];
        }
        UNROLL
        for (int col = 0; col < WIDTH / 8; ++col)
            for (int i = 0; i < 4; ++i) sums[col][i] *= shrink[i / 2];
        UNROLL
        for (int c = 0; c < bf::TILE / bf::CHUNK; ++c) {
            if (c * bf::CHUNK >= left) break;
            UNROLL
            for (int i = 0; i < 8; ++i) {
                float& score = scores[c][i / 4][i % 4];
                score = exp2_fast(score - finite(top[i / 2 % 2]));
                total[i / 2 % 2] += score;
            }
            bf::add_weighted<WIDTH>(sums, scores[c], values + c * bf::CHUNK * bf::STRIDE<WIDTH>);
        }
    }
    if (first >= sizes.queries) return;
    total[0] = warp_sum<4>(total[0]);
    total[1] = warp_sum<4>(total[1]);
    UNROLL
    for (int half = 0; half < 2; ++half) {
        int query = first + lane / 4 + half * 8;
        if (lse && lane % 4 == 0 && query < sizes.queries)
            lse[place.pair(sizes.heads) * sizes.queries + query] = top[half] * LN_2 + logf(total[half]);
    }
    Operand<bf16> to = {out, (long long)sizes.heads * sizes.head_dim};
    to = to.head(place.image, sizes.queries, place.head, sizes.head_dim);
    bf::store<WIDTH>(to, first, sizes.queries, sizes.head_dim, sums, make_float2(1.f / total[0], 1.f / total[1]));
}

template <int WIDTH, int ROWS, int COLS>
__device__ __forceinline__ void forward_f32(Inputs<float> inputs, float* out, float* lse) {
    constexpr int THREADS = fl::THREADS<ROWS>, STRIDE = fl::STRIDE<WIDTH>;
    SHARED(float, own, [ROWS * STRIDE]);
    SHARED(float, keys, [COLS * STRIDE]);
    SHARED(float, values, [COLS * STRIDE]);
    SHARED(float, scratch, [ROWS * fl::STRIDE<COLS>]);
    Place place = Place::of(inputs.sizes.queries, ROWS, inputs.sizes.heads);
    auto [q, k, v, bias, sizes] = inputs.of(place);
    load_tile<ROWS, WIDTH, STRIDE, THREADS>(own, q, place.first, sizes.queries, sizes.head_dim);

    float sums[4][WIDTH / 16] = {}, total[4] = {};
    float top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int start = 0; start < sizes.keys; start += COLS) {
        __syncthreads();
        load_tile<COLS, WIDTH, STRIDE, THREADS>(keys, k, start, sizes.keys, sizes.head_dim);
        load_tile<COLS, WIDTH, STRIDE, THREADS>(values, v, start, sizes.keys, sizes.head_dim);
        __syncthreads();
        float scores[4][COLS / 16];
        fl::multiply<WIDTH, COLS>(scores, own, keys);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            int query = place.first + fl::first_row() + i;
            float now = top[i];
            UNROLL
            for (int j = 0; j < COLS / 16; ++j) {
                int key = start + j * 16 + fl::lane();
                float& score = scores[i][j];
                score *= sizes.scale * LOG2_E;
                if (key >= sizes.keys)
                    score = -INFINITY;
                else if (bias.start && query < sizes.queries)
                    score += bias.at(query, key) * LOG2_E;
                now = fmaxf(now, score);
            }
            now = warp_max<16>(now);
            float shrink = exp2_fast(top[i] - finite(now));
            top[i] = now;
            total[i] *= shrink;
            UNROLL
            for (int j = 0; j < COLS / 16; ++j) {
                scores[i][j] = exp2_fast(scores[i][j] - finite(now));
                total[i] += scores[i][j];
            }
            UNROLL
            for (int j = 0; j < WIDTH / 16; ++j) sums[i][j] *= shrink;
        }
        fl::add_weighted<WIDTH, COLS>(sums, scores, scratch, values);
    }
    float factor[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
        int query = place.first + fl::first_row() + i;
        total[i] = warp_sum<16>(total[i]);
        factor[i] = 1.f / total[i];
        if (lse && fl::lane() == 0 && query < sizes.queries)
            lse[place.pair(sizes.heads) * sizes.queries + query] = top[i] * LN_2 + logf(total[i]);
    }
    Operand<float> to = {out, (long long)sizes.heads * sizes.head_dim};
    to = to.head(place.image, sizes.queries, place.head, sizes.head_dim);
    fl::store<WIDTH>(to, place.first, sizes.queries, sizes.head_dim, sums, factor);
}

} // namespace attention

// attention_forward_{bf16,f32}_{32,64,128}: the last number is the largest head_dim it takes.
//
//   q, q_row     const T*, i64   row n of image b, head h at q + (b * queries + n) * q_row + h * head_dim
//   k, k_row     const T*, i64   likewise with `keys` rows
//   v, v_row     const T*, i64   as k
//   bias         const f32*      null, or (b % bias_images) * bias_image + h * bias_head + query * bias_row + key
//   bias_images  i32             at least 1
//   bias_image, bias_head, bias_row   i64, in values; bias_head is 0 for one that all heads share
//   out          T*              [batch, queries, heads * head_dim]
//   lse          f32*            null, or [batch, heads, queries]: the logarithm of each row's sum
//   queries, keys, heads, head_dim    i32
//   scale        f32
//
// Packed qkv [batch, tokens, 3, heads, head_dim]: bases qkv, qkv + dim, qkv + 2 dim, all rows 3 dim.
// Grid (ceil(queries / R) * heads * batch, 1, 1), block (T, 1, 1), no dynamic shared memory:
// bf16 R 64, T 128; f32 R 64, T 256 up to head_dim 64 and R 32, T 128 above.
#define ATTENTION_FORWARD(name, T, threads, blocks, ...)                                                   \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(                                    \
        const T* q, long long q_row, const T* k, long long k_row, const T* v, long long v_row,             \
        const float* bias, int bias_images, long long bias_image, long long bias_head, long long bias_row, \
        T* out, float* lse, int queries, int keys, int heads, int head_dim, float scale) {                 \
        attention::__VA_ARGS__({{q, q_row}, {k, k_row}, {v, v_row},                                        \
                                {bias, bias_images, bias_image, bias_head, bias_row},                      \
                                {queries, keys, heads, head_dim, scale}},                                  \
                               out, lse);                                                                  \
    }                                                                                                      \
    KERNEL(name)

ATTENTION_FORWARD(attention_forward_bf16_32, bf16, 128, 4, forward_bf16<32>)
ATTENTION_FORWARD(attention_forward_bf16_64, bf16, 128, 3, forward_bf16<64>)
ATTENTION_FORWARD(attention_forward_bf16_128, bf16, 128, 2, forward_bf16<128>)
ATTENTION_FORWARD(attention_forward_f32_32, float, 256, 2, forward_f32<32, 64, 32>)
ATTENTION_FORWARD(attention_forward_f32_64, float, 256, 2, forward_f32<64, 64, 32>)
ATTENTION_FORWARD(attention_forward_f32_128, float, 128, 3, forward_f32<128, 32, 16>)
