// Bytes of images as a network takes them, rounded as the CPU rounds.
#include "fours.cuh"

// ys = x / 255 * scale + shift for planes of `plane` values, `channels` of them an image; factors are
// [2, channels], scales and then shifts. With `reverse` the channels change their order. `parts` blocks do a plane,
// a thread four values of it.
extern "C" __global__ void normalize_bytes(const unsigned char* xs, const float* factors, float* ys, int parts,
                                           int plane, int channels, int reverse) {
    int to = blockIdx.x / parts, at = (blockIdx.x % parts * blockDim.x + threadIdx.x) * FOUR;
    if (at >= plane) return;
    int channel = to % channels, source = reverse ? channels - 1 - channel : channel;
    const unsigned char* bytes = xs + size_t(to - channel + source) * plane + at;
    float scale = factors[source], shift = factors[channels + source], y[FOUR];
    bool aligned = four_fit(xs, plane) && four_fit(ys, plane);
    unsigned four = 0;
    if (aligned)
        four = reinterpret_cast<const uint1*>(bytes)->x;
    else
        for (int i = 0; i < FOUR && at + i < plane; ++i) four |= unsigned(bytes[i]) << 8 * i;
    for (int i = 0; i < FOUR; ++i) {
        float unit = __fmul_rn(float(four >> 8 * i & 255), 1.f / 255.f);
        y[i] = __fadd_rn(__fmul_rn(unit, scale), shift);
    }
    store_four(ys + size_t(to) * plane + at, y, plane - at, aligned);
}
KERNEL(normalize_bytes)
