// The gradient of queries and scores: see attention_backward.cuh.
#include "attention_backward.cuh"

namespace attention {

template <int WIDTH>
__device__ __forceinline__ void queries_bf16(Upstream<bf16> call, Operand<bf16> dq, float* dscores) {
    SHARED(bf16, keys, [bf::TILE * bf::STRIDE<WIDTH>]);
    SHARED(bf16, values, [bf::TILE * bf::STRIDE<WIDTH>]);
    Place place = Place::of(call.inputs.sizes.queries, bf::ROWS, call.inputs.sizes.heads);
    int lane = threadIdx.x % 32, first = place.first + threadIdx.x / 32 * 16;
    auto [q, k, v, bias, sizes] = call.inputs.of(place);
    auto [grad, saved] = call.of(place);
    dq = dq.head(place.image, sizes.queries, place.head, sizes.head_dim);
    if (dscores) dscores += place.pair(sizes.heads) * sizes.queries * sizes.keys;

    unsigned own[WIDTH / 16][4], slope[WIDTH / 16][4];
    bf::load<WIDTH>(keys, q, place.first, sizes.queries, sizes.head_dim);
    bf::load<WIDTH>(values, grad, place.first, sizes.queries, sizes.head_dim);
    __syncthreads();
    bf::load_own<WIDTH>(own, keys);
    bf::load_own<WIDTH>(slope, values);
    float2 row[2] = {saved.at(first + lane / 4, sizes.queries), saved.at(first + lane / 4 + 8, sizes.queries)};

    float sums[WIDTH / 8][4] = {};
    for (int start = 0; start < sizes.keys; start += bf::TILE) {
        __syncthreads();
        bf::load<WIDTH>(keys, k, start, sizes.keys, sizes.head_dim);
        bf::load<WIDTH>(values, v, start, sizes.keys, sizes.head_dim);
        __syncthreads();
        if (first >= sizes.queries) continue;
        int left = min(sizes.keys - start, bf::TILE);
        UNROLL_BY(1)
        for (int c = 0; c < left; c += bf::CHUNK) {
            float scores[2][4], grads[2][4];
            bf::multiply<WIDTH>(scores, own, keys + c * bf::STRIDE<WIDTH>);
            bf::multiply<WIDTH>(grads, slope, values + c * bf::STRIDE<WIDTH>);
            UNROLL
            for (int i = 0; i < 8; ++i) {
                int half = i / 2 % 2, query = first + lane / 4 + half * 8;
                int key = start + c + i / 4 * 8 + lane % 4 * 2 + i % 2;
                float& score = scores[i / 4][i % 4];
                score = weight(score, row[half].x, bias, query, key, sizes) * (grads[i / 4][i % 4] - row[half].y);
                if (dscores && query < sizes.queries && key < sizes.keys)
                    dscores[(long long)query * sizes.keys + key] = score;
            }
            bf::add_weighted<WIDTH>(sums, scores, keys + c * bf::STRIDE<WIDTH>);
        }
    }
    bf::store<WIDTH>(dq, first, sizes.queries, sizes.head_dim, sums, make_float2(sizes.scale, sizes.scale));
}

template <int WIDTH, int ROWS, int COLS>
__device__ __forceinline__ void queries_f32(Upstream<float> call, Operand<float> dq, float* dscores) {
    constexpr int THREADS = fl::THREADS<ROWS>, STRIDE = fl::STRIDE<WIDTH>;
    SHARED(float, own, [ROWS * STRIDE]);
    SHARED(float, slope, [ROWS * STRIDE]);
    SHARED(float, keys, [COLS * STRIDE]);
    SHARED(float, values, [COLS * STRIDE]);
    SHARED(float, scratch, [ROWS * fl::STRIDE<COLS>]);
    Place place = Place::of(call.inputs.sizes.queries, ROWS, call.inputs.sizes.heads);
    auto [q, k, v, bias, sizes] = call.inputs.of(place);
    auto [grad, saved] = call.of(place);
    dq = dq.head(place.image, sizes.queries, place.head, sizes.head_dim);
    if (dscores) dscores += place.pair(sizes.heads) * sizes.queries * sizes.keys;
    load_tile<ROWS, WIDTH, STRIDE, THREADS>(own, q, place.first, sizes.queries, sizes.head_dim);
    load_tile<ROWS, WIDTH, STRIDE, THREADS>(slope, grad, place.first, sizes.queries, sizes.head_dim);

    float sums[4][WIDTH / 16] = {}, factor[4] = {sizes.scale, sizes.scale, sizes.scale, sizes.scale};
    for (int start = 0; start < sizes.keys; start += COLS) {
        __syncthreads();
        load_tile<COLS, WIDTH, STRIDE, THREADS>(keys, k, start, sizes.keys, sizes.head_dim);
        load_tile<COLS, WIDTH, STRIDE, THREADS>(values, v, start, sizes.keys, sizes.head_dim);
        __syncthreads();
        float scores[4][COLS / 16], grads[4][COLS / 16];
        fl::multiply<WIDTH, COLS>(scores, own, keys);
        fl::multiply<WIDTH, COLS>(grads, slope, values);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            int query = place.first + fl::first_row() + i;
            float2 row = saved.at(query, sizes.queries);
            UNROLL
            for (int j = 0; j < COLS / 16; ++j) {
                int key = start + j * 16 + fl::lane();
                scores[i][j] = weight(scores[i][j], row.x, bias, query, key, sizes) * (grads[i][j] - row.y);
                if (dscores && query < sizes.queries && key < sizes.keys)
                    dscores[(long long)query * sizes.keys + key] = scores[i][j];
            }
        }
        fl::add_weighted<WIDTH, COLS>(sums, scores, scratch, keys);
    }
    fl::store<WIDTH>(dq, place.first, sizes.queries, sizes.head_dim, sums, factor);
}

// A warp for each row of each head.
template <class T>
__device__ __forceinline__ void delta_rows(const T* out, const T* grad, float* delta, long long rows, int queries,
                                           int heads, int head_dim) {
    long long task = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (task >= rows * heads) return;
    float sum = 0.f;
    for (int i = threadIdx.x % 32; i < head_dim; i += 32)
        sum += to_float(out[task * head_dim + i]) * to_float(grad[task * head_dim + i]);
    sum = warp_sum(sum);
    long long row = task / heads, head = task % heads;
    if (threadIdx.x % 32 == 0) delta[(row / queries * heads + head) * queries + row % queries] = sum;
}

} // namespace attention

// attention_delta_{bf16,f32}: the products of outputs and their gradients, summed over each head.
//
//   out, grad    const T*        [batch, queries, heads * head_dim]
//   delta        f32*            [batch, heads, queries]
//   rows         i64             batch * queries
//   queries, heads, head_dim     i32
//
// Grid (ceil(rows * heads / 4), 1, 1), block (128, 1, 1).
#define ATTENTION_DELTA(name, T)                                                               \
    extern "C" __global__ void name(const T* out, const T* grad, float* delta, long long rows, \
                                    int queries, int heads, int head_dim) {                    \
        attention::delta_rows(out, grad, delta, rows, queries, heads, head_dim);               \
    }                                                                                          \
    KERNEL(name)

ATTENTION_DELTA(attention_delta_bf16, bf16)
ATTENTION_DELTA(attention_delta_f32, float)

// attention_queries_backward_{bf16,f32}_{32,64,128}: the last number is the largest head_dim it takes.
//
//   ATTENTION_UPSTREAM, then
//   dq, dq_row   T*, i64         laid out as q is; every value of the heads is written, nothing else
//   dscores      f32*            null, or [batch, heads, queries, keys]: the gradient of what was added to the scores
//   queries, keys, heads, head_dim i32, scale f32
//
// Grid (ceil(queries / R) * heads * batch, 1, 1), block (T, 1, 1): bf16 R 64, T 128;
// f32 R 32, T 128 up to head_dim 64 and R 16, T 64 above.
#define ATTENTION_QUERIES(name, T, threads, blocks, ...)                                        \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                               \
        name(ATTENTION_UPSTREAM(T), T* dq, long long dq_row, float* dscores, ATTENTION_SIZES) { \
        attention::__VA_ARGS__(ATTENTION_CALL, {dq, dq_row}, dscores);                          \
    }                                                                                           \
    KERNEL(name)

ATTENTION_QUERIES(attention_queries_backward_bf16_32, bf16, 128, 4, queries_bf16<32>)
ATTENTION_QUERIES(attention_queries_backward_bf16_64, bf16, 128, 3, queries_bf16<64>)
ATTENTION_QUERIES(attention_queries_backward_bf16_128, bf16, 128, 2, queries_bf16<128>)
ATTENTION_QUERIES(attention_queries_backward_f32_32, float, 128, 3, queries_f32<32, 32, 32>)
ATTENTION_QUERIES(attention_queries_backward_f32_64, float, 128, 3, queries_f32<64, 32, 32>)
ATTENTION_QUERIES(attention_queries_backward_f32_128, float, 64, 4, queries_f32<128, 16, 16>)

// attention_bias_backward: adds up the gradients of scores that share a bias, images first, in order.
//
//   dscores      const f32*      [batch, heads, scores], scores = queries * keys
//   dbias        f32*            [bias_images, bias_heads, scores]; bias_images divides batch, bias_heads heads
//   scores       i64
//   batch, heads, bias_images, bias_heads   i32
//
// Grid (ceil(bias_images * bias_heads * scores / 256), 1, 1), block (256, 1, 1).
extern "C" __global__ void attention_bias_backward(const float* dscores, float* dbias, long long scores, int batch,
                                                   int heads, int bias_images, int bias_heads) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= scores * bias_images * bias_heads) return;
    int chunk = int(i / scores);
    float sum = 0.f;
    for (int image = chunk / bias_heads; image < batch; image += bias_images)
        for (int head = chunk % bias_heads; head < heads; head += bias_heads)
            sum += dscores[((long long)image * heads + head) * scores + i % scores];
    dbias[i] = sum;
}
KERNEL(attention_bias_backward)
