// cuBLAS and cuRAND as far as they are called.
#include "pretend.h"

#include <vector>

using namespace pretend;

namespace {

enum Type { F32 = 0, BF16 = 14 };
constexpr int INVALID = 7, UNSUPPORTED = 15;
constexpr int COMPUTE_32F = 68;

struct Sizes {
    int m, n, k;
};
struct Operand {
    bool turned;
    const void* values;
    int rows;
};

// c = alpha a b + beta c by columns, sums in A.
template <class In, class Out, class A>
void multiply(Sizes sizes, Operand a, Operand b, Out* c, int c_rows, A alpha, A beta) {
    size_t m = size_t(sizes.m), n = size_t(sizes.n), k = size_t(sizes.k);
    auto value = [](const Operand& of, size_t row, size_t col) {
        size_t at = of.turned ? col + row * size_t(of.rows) : row + col * size_t(of.rows);
        return A(wide(static_cast<const In*>(of.values)[at]));
    };
    std::vector<A> packed(m * k), sums(m);
    for (size_t l = 0; l < k; ++l)
        for (size_t i = 0; i < m; ++i) packed[l * m + i] = value(a, i, l);
    for (size_t j = 0; j < n; ++j) {
        sums.assign(m, 0);
        for (size_t l = 0; l < k; ++l) {
            A by = value(b, l, j);
            const A* row = &packed[l * m];
            for (size_t i = 0; i < m; ++i) sums[i] += by * row[i];
        }
        // What is there is not read where it does not count: it may be NaN.
        Out* to = c + j * size_t(c_rows);
        for (size_t i = 0; i < m; ++i)
            to[i] = narrow<Out>(alpha * sums[i] + (beta == 0 ? A(0) : beta * A(wide(to[i]))));
    }
}

template <class T>
const T& number(const void* at) {
    return *static_cast<const T*>(at);
}

} // namespace

extern "C" {

int cublasCreate_v2(void** handle) { return *handle = new char[16], SUCCESS; }
int cublasDestroy_v2(void*) { return SUCCESS; }
int cublasSetStream_v2(void*, void*) { return SUCCESS; }

int cublasGemmStridedBatchedEx(void*, int turn_a, int turn_b, int m, int n, int k, const void* alpha, const void* a,
                               int a_type, int a_rows, long long a_stride, const void* b, int b_type, int b_rows,
                               long long b_stride, const void* beta, void* c, int c_type, int c_rows,
                               long long c_stride, int batch, int compute, int) {
    bool fits = m >= 0 && n >= 0 && k >= 0 && batch >= 0 && a_rows >= (turn_a ? k : m) && a_rows >= 1 &&
                b_rows >= (turn_b ? n : k) && b_rows >= 1 && c_rows >= m && c_rows >= 1;
    if (!fits) return INVALID;
    log("product %d %d %d %d\n", batch, m, n, k);
    for (long long i = 0; i < batch; ++i) {
        auto each = [&](auto in, auto out, auto sum) {
            using In = decltype(in);
            using Out = decltype(out);
            using A = decltype(sum);
            multiply<In>({m, n, k}, {turn_a != 0, static_cast<const In*>(a) + i * a_stride, a_rows},
                         {turn_b != 0, static_cast<const In*>(b) + i * b_stride, b_rows},
                         static_cast<Out*>(c) + i * c_stride, c_rows, number<A>(alpha), number<A>(beta));
        };
        if (a_type != b_type) return UNSUPPORTED;
        if (a_type == F32 && c_type == F32 && compute == COMPUTE_32F) each(0.f, 0.f, 0.f);
        else if (a_type == BF16 && c_type == BF16 && compute == COMPUTE_32F) each(__nv_bfloat16(), __nv_bfloat16(), 0.f);
        else if (a_type == BF16 && c_type == F32 && compute == COMPUTE_32F) each(__nv_bfloat16(), 0.f, 0.f);
        else return UNSUPPORTED;
    }
    return SUCCESS;
}

int cublasGemmEx(void* handle, int turn_a, int turn_b, int m, int n, int k, const void* alpha, const void* a, int a_type,
                 int a_rows, const void* b, int b_type, int b_rows, const void* beta, void* c, int c_type, int c_rows,
                 int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, a_type, a_rows, 0, b, b_type, b_rows, 0,
                                      beta, c, c_type, c_rows, 0, 1, compute, algorithm);
}

int cublasDgemmStridedBatched(void*, int turn_a, int turn_b, int m, int n, int k, const double* alpha, const double* a,
                              int a_rows, long long a_stride, const double* b, int b_rows, long long b_stride,
                              const double* beta, double* c, int c_rows, long long c_stride, int batch) {
    log("product %d %d %d %d\n", batch, m, n, k);
    for (long long i = 0; i < batch; ++i)
        multiply<double>({m, n, k}, {turn_a != 0, a + i * a_stride, a_rows}, {turn_b != 0, b + i * b_stride, b_rows},
                         c + i * c_stride, c_rows, *alpha, *beta);
    return SUCCESS;
}

int curandCreateGenerator(void** generator, int) { return *generator = new char[16], SUCCESS; }
int curandDestroyGenerator(void*) { return SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return SUCCESS; }
int curandSetStream(void*, void*) { return SUCCESS; }

} // extern "C"
