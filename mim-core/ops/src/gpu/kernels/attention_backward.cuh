// Attention backward: the weights are computed again from q, k and the saved logarithms of their sums.
//
// With P the weights, O the output, D_i = Σ dO_i O_i: dV = Pᵀ dO, dS = P (dO Vᵀ - D), dQ = scale dS K,
// dK = scale dSᵀ Q and dbias = dS (Dao et al., NeurIPS 2022, App. B.2). One kernel owns queries and
// walks over keys, one owns keys and walks over queries, so that no two blocks add to one value; both
// compute P and dS, which costs two products more than sharing them would.
#pragma once

#include "attention_tile.cuh"

namespace attention {

// What a row of queries needs of the forward pass. Beyond the last query no weight is left.
struct Saved {
    const float *lse, *delta;

    __device__ __forceinline__ Saved pair(long long pair, int queries) const {
        return {lse + pair * queries, delta + pair * queries};
    }
    __device__ __forceinline__ float2 at(int query, int queries) const {
        if (query >= queries) return make_float2(INFINITY, 0.f);
        return make_float2(lse[query] * LOG2_E, delta[query]);
    }
};

// What the backward pass starts from.
template <class T>
struct Upstream {
    Inputs<T> inputs;
    Operand<const T> grad;
    Saved saved;

    struct Head {
        Operand<const T> grad;
        Saved saved;
    };
    __device__ __forceinline__ Head of(Place at) const {
        auto [queries, keys, heads, head_dim, scale] = inputs.sizes;
        return {grad.head(at.image, queries, at.head, head_dim), saved.pair(at.pair(heads), queries)};
    }
};

// The weight of a pair of tokens, from q k and the query's logarithm in base 2.
__device__ __forceinline__ float weight(float product, float lse, const Bias& bias, int query, int key, Sizes sizes) {
    if (query >= sizes.queries || key >= sizes.keys) return 0.f;
    float score = product * (sizes.scale * LOG2_E);
    if (bias.start) score += bias.at(query, key) * LOG2_E;
    return exp2_fast(score - lse);
}

} // namespace attention

// The arguments that both backward kernels begin with, as in attention_forward.cu, then
//   grad         const T*        [batch, queries, heads * head_dim], the gradient of `out`
//   lse          const f32*      [batch, heads, queries], of the forward pass
//   delta        const f32*      [batch, heads, queries], of attention_delta_{bf16,f32}
#define ATTENTION_UPSTREAM(T)                                                                              \
    const T *q, long long q_row, const T *k, long long k_row, const T *v, long long v_row,                 \
        const float *bias, int bias_images, long long bias_image, long long bias_head, long long bias_row, \
        const T *grad, const float *lse, const float *delta
#define ATTENTION_SIZES int queries, int keys, int heads, int head_dim, float scale
#define ATTENTION_CALL                                      \
    {{{q, q_row},                                           \
      {k, k_row},                                           \
      {v, v_row},                                           \
      {bias, bias_images, bias_image, bias_head, bias_row}, \
      {queries, keys, heads, head_dim, scale}},             \
     {grad, (long long)heads * head_dim},                   \
     {lse, delta}}
