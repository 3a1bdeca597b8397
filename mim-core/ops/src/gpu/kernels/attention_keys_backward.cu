// The gradients of keys and values: see attention_backward.cuh.
#include "attention_backward.cuh"

namespace attention {

template <int WIDTH>
__device__ __forceinline__ void keys_bf16(Upstream<bf16> call, Operand<bf16> dk, Operand<bf16> dv) {
    SHARED(bf16, queries, [bf::TILE * bf::STRIDE<WIDTH>]);
    SHARED(bf16, grads, [bf::TILE * bf::STRIDE<WIDTH>]);
    SHARED(float2, rows, [bf::TILE]);
    Place place = Place::of(call.inputs.sizes.keys, bf::ROWS, call.inputs.sizes.heads);
    int lane = threadIdx.x % 32, first = place.first + threadIdx.x / 32 * 16;
    auto [q, k, v, bias, sizes] = call.inputs.of(place);
    auto [grad, saved] = call.of(place);
    dk = dk.head(place.image, sizes.keys, place.head, sizes.head_dim);
    dv = dv.head(place.image, sizes.keys, place.head, sizes.head_dim);

    unsigned own[WIDTH / 16][4], value[WIDTH / 16][4];
    bf::load<WIDTH>(queries, k, place.first, sizes.keys, sizes.head_dim);
    bf::load<WIDTH>(grads, v, place.first, sizes.keys, sizes.head_dim);
    __syncthreads();
    bf::load_own<WIDTH>(own, queries);
    bf::load_own<WIDTH>(value, grads);

    float key_sums[WIDTH / 8][4] = {}, value_sums[WIDTH / 8][4] = {};
    for (int start = 0; start < sizes.queries; start += bf::TILE) {
        __syncthreads();
        bf::load<WIDTH>(queries, q, start, sizes.queries, sizes.head_dim);
        bf::load<WIDTH>(grads, grad, start, sizes.queries, sizes.head_dim);
        for (int i = threadIdx.x; i < bf::TILE; i += bf::THREADS) rows[i] = saved.at(start + i, sizes.queries);
        __syncthreads();
        if (first >= sizes.keys) continue;
        int left = min(sizes.queries - start, bf::TILE);
        UNROLL_BY(1)
        for (int c = 0; c < left; c += bf::CHUNK) {
            float weights[2][4], slopes[2][4];
            bf::multiply<WIDTH>(weights, own, queries + c * bf::STRIDE<WIDTH>);
            bf::multiply<WIDTH>(slopes, value, grads + c * bf::STRIDE<WIDTH>);
            UNROLL
            for (int i = 0; i < 8; ++i) {
                int col = c + i / 4 * 8 + lane % 4 * 2 + i % 2, key = first + lane / 4 + i / 2 % 2 * 8;
                float2 row = rows[col];
                float& weighted = weights[i / 4][i % 4];
                weighted = weight(weighted, row.x, bias, start + col, key, sizes);
                slopes[i / 4][i % 4] = weighted * (slopes[i / 4][i % 4] - row.y);
            }
            bf::add_weighted<WIDTH>(value_sums, weights, grads + c * bf::STRIDE<WIDTH>);
            bf::add_weighted<WIDTH>(key_sums, slopes, queries + c * bf::STRIDE<WIDTH>);
        }
    }
    bf::store<WIDTH>(dk, first, sizes.keys, sizes.head_dim, key_sums, make_float2(sizes.scale, sizes.scale));
    bf::store<WIDTH>(dv, first, sizes.keys, sizes.head_dim, value_sums, make_float2(1.f, 1.f));
}

template <int WIDTH, int ROWS, int COLS>
__device__ __forceinline__ void keys_f32(Upstream<float> call, Operand<float> dk, Operand<float> dv) {
    constexpr int THREADS = fl::THREADS<ROWS>, STRIDE = fl::STRIDE<WIDTH>;
    SHARED(float, own, [ROWS * STRIDE]);
    SHARED(float, value, [ROWS * STRIDE]);
    SHARED(float, queries, [COLS * STRIDE]);
    SHARED(float, grads, [COLS * STRIDE]);
    SHARED(float, scratch, [ROWS * fl::STRIDE<COLS>]);
    Place place = Place::of(call.inputs.sizes.keys, ROWS, call.inputs.sizes.heads);
    auto [q, k, v, bias, sizes] = call.inputs.of(place);
    auto [grad, saved] = call.of(place);
    dk = dk.head(place.image, sizes.keys, place.head, sizes.head_dim);
    dv = dv.head(place.image, sizes.keys, place.head, sizes.head_dim);
    load_tile<ROWS, WIDTH, STRIDE, THREADS>(own, k, place.first, sizes.keys, sizes.head_dim);
    load_tile<ROWS, WIDTH, STRIDE, THREADS>(value, v, place.first, sizes.keys, sizes.head_dim);

    float key_sums[4][WIDTH / 16] = {}, value_sums[4][WIDTH / 16] = {};
    for (int start = 0; start < sizes.queries; start += COLS) {
        __syncthreads();
        load_tile<COLS, WIDTH, STRIDE, THREADS>(queries, q, start, sizes.queries, sizes.head_dim);
        load_tile<COLS, WIDTH, STRIDE, THREADS>(grads, grad, start, sizes.queries, sizes.head_dim);
        __syncthreads();
        float weights[4][COLS / 16], slopes[4][COLS / 16];
        fl::multiply<WIDTH, COLS>(weights, own, queries);
        fl::multiply<WIDTH, COLS>(slopes, value, grads);
        UNROLL
        for (int j = 0; j < COLS / 16; ++j) {
            int query = start + j * 16 + fl::lane();
            float2 row = saved.at(query, sizes.queries);
            UNROLL
            for (int i = 0; i < 4; ++i) {
                int key = place.first + fl::first_row() + i;
                weights[i][j] = weight(weights[i][j], row.x, bias, query, key, sizes);
                slopes[i][j] = weights[i][j] * (slopes[i][j] - row.y);
            }
        }
        fl::add_weighted<WIDTH, COLS>(value_sums, weights, scratch, grads);
        fl::add_weighted<WIDTH, COLS>(key_sums, slopes, scratch, queries);
    }
    float scale[4] = {sizes.scale, sizes.scale, sizes.scale, sizes.scale}, one[4] = {1.f, 1.f, 1.f, 1.f};
    fl::store<WIDTH>(dk, place.first, sizes.keys, sizes.head_dim, key_sums, scale);
    fl::store<WIDTH>(dv, place.first, sizes.keys, sizes.head_dim, value_sums, one);
}

} // namespace attention

// attention_keys_backward_{bf16,f32}_{32,64,128}: the last number is the largest head_dim it takes.
//
//   ATTENTION_UPSTREAM, then
//   dk, dk_row   T*, i64         laid out as k is; every value of the heads is written, nothing else
//   dv, dv_row   T*, i64         likewise
//   queries, keys, heads, head_dim i32, scale f32
//
// Grid (ceil(keys / R) * heads * batch, 1, 1), block (T, 1, 1): bf16 R 64, T 128;
// f32 R 32, T 128 up to head_dim 64 and R 16, T 64 above.
#define ATTENTION_KEYS(name, T, threads, blocks, ...)                                                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                        \
        name(ATTENTION_UPSTREAM(T), T* dk, long long dk_row, T* dv, long long dv_row, ATTENTION_SIZES) { \
        attention::__VA_ARGS__(ATTENTION_CALL, {dk, dk_row}, {dv, dv_row});                              \
    }                                                                                                    \
    KERNEL(name)

ATTENTION_KEYS(attention_keys_backward_bf16_32, bf16, 128, 4, keys_bf16<32>)
ATTENTION_KEYS(attention_keys_backward_bf16_64, bf16, 128, 3, keys_bf16<64>)
ATTENTION_KEYS(attention_keys_backward_bf16_128, bf16, 128, 2, keys_bf16<128>)
ATTENTION_KEYS(attention_keys_backward_f32_32, float, 128, 3, keys_f32<32, 32, 32>)
ATTENTION_KEYS(attention_keys_backward_f32_64, float, 128, 3, keys_f32<64, 32, 32>)
ATTENTION_KEYS(attention_keys_backward_f32_128, float, 64, 4, keys_f32<128, 16, 16>)
