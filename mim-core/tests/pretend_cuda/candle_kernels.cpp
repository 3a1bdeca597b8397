// What candle's kernels compute, each in a plain loop over the whole grid. Names and arguments are those of the
// crate candle-kernels 0.11; a kernel that is missing here is named when it is asked for.
#include "pretend.h"

#include <map>

namespace pretend {
namespace {

using bf16 = __nv_bfloat16;

std::map<std::string, Whole>& kernels() {
    static std::map<std::string, Whole> all;
    return all;
}

template <class... Args>
void add(const std::string& name, void (*kernel)(Args...)) {
    kernels()[name] = {reinterpret_cast<void (*)()>(kernel), emulation::invoke_as(kernel)};
}

template <class T>
using Wide = decltype(wide(T()));

// Where value i of a strided tensor lies; without strides, at i.
size_t at(size_t i, size_t rank, const size_t* dims, const size_t* strides) {
    if (!dims) return i;
    size_t place = 0;
    for (size_t d = rank; d-- > 0; i /= dims[d]) place += i % dims[d] * strides[d];
    return place;
}

struct Copy { template <class T> T operator()(T x) const { return x; } };
struct Neg { template <class T> T operator()(T x) const { return -x; } };
struct Recip { template <class T> T operator()(T x) const { return 1 / x; } };
struct Exp { template <class T> T operator()(T x) const { return std::exp(x); } };
struct Log { template <class T> T operator()(T x) const { return std::log(x); } };
struct Sin { template <class T> T operator()(T x) const { return std::sin(x); } };
struct Cos { template <class T> T operator()(T x) const { return std::cos(x); } };
struct Tanh { template <class T> T operator()(T x) const { return std::tanh(x); } };
struct Erf { template <class T> T operator()(T x) const { return std::erf(x); } };
struct Ceil { template <class T> T operator()(T x) const { return std::ceil(x); } };
struct Floor { template <class T> T operator()(T x) const { return std::floor(x); } };
struct Round { template <class T> T operator()(T x) const { return std::round(x); } };
struct Abs { template <class T> T operator()(T x) const { return std::abs(x); } };
struct Square { template <class T> T operator()(T x) const { return x * x; } };
struct Sqrt { template <class T> T operator()(T x) const { return std::sqrt(x); } };
struct Relu { template <class T> T operator()(T x) const { return x > 0 ? x : T(0); } };
struct Silu { template <class T> T operator()(T x) const { return x / (1 + std::exp(-x)); } };
struct Sigmoid { template <class T> T operator()(T x) const { return 1 / (1 + std::exp(-x)); } };
struct Sign { template <class T> T operator()(T x) const { return T((x > 0) - (x < 0)); } };
struct GeluErf {
    template <class T>
    T operator()(T x) const {
        return x * T(0.5) * (1 + std::erf(x * T(0.7071067811865476)));
    }
};
struct Gelu {
    template <class T>
    T operator()(T x) const {
        return T(0.5) * x * (1 + std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x)));
    }
};

// Without an input the output is changed in place.
template <class T, class Op>
void unary(size_t count, size_t rank, const size_t* info, const T* xs, T* to) {
    for (size_t i = 0; i < count; ++i) to[i] = narrow<T>(Op()(wide(xs ? xs[at(i, rank, info, info + rank)] : to[i])));
}

struct Power { template <class T> T operator()(T x, T by) const { return std::pow(x, by); } };
struct Elu { template <class T> T operator()(T x, T by) const { return x > 0 ? x : by * (std::exp(x) - 1); } };

template <class T, class Op>
void unary_by(size_t count, size_t rank, const size_t* info, T by, const T* xs, T* to) {
    for (size_t i = 0; i < count; ++i) to[i] = narrow<T>(Op()(wide(xs[at(i, rank, info, info + rank)]), wide(by)));
}

struct Add { template <class T> auto operator()(T x, T y) const { return x + y; } };
struct Sub { template <class T> auto operator()(T x, T y) const { return x - y; } };
struct Mul { template <class T> auto operator()(T x, T y) const { return x * y; } };
struct Div { template <class T> auto operator()(T x, T y) const { return x / y; } };
// NaN is passed on.
struct Max { template <class T> T operator()(T x, T y) const { return x > y || x != x ? x : y; } };
struct Min { template <class T> T operator()(T x, T y) const { return x < y || x != x ? x : y; } };
struct Eq { template <class T> bool operator()(T x, T y) const { return x == y; } };
struct Ne { template <class T> bool operator()(T x, T y) const { return x != y; } };
struct Lt { template <class T> bool operator()(T x, T y) const { return x < y; } };
struct Le { template <class T> bool operator()(T x, T y) const { return x <= y; } };
struct Gt { template <class T> bool operator()(T x, T y) const { return x > y; } };
struct Ge { template <class T> bool operator()(T x, T y) const { return x >= y; } };

template <class T, class Op, class To = T>
void binary(size_t count, size_t rank, const size_t* info, const T* xs, const T* ys, To* to) {
    for (size_t i = 0; i < count; ++i) {
        auto x = wide(xs[at(i, rank, info, info + rank)]), y = wide(ys[at(i, rank, info, info + 2 * rank)]);
        to[i] = narrow<To>(Op()(x, y));
    }
}

template <class T>
void affine(size_t count, size_t rank, const size_t* info, const T* xs, T* to, T by, T plus) {
    for (size_t i = 0; i < count; ++i) {
        auto x = wide(xs ? xs[at(i, rank, info, info + rank)] : to[i]);
        to[i] = narrow<T>(x * wide(by) + wide(plus));
    }
}

template <class From, class To>
void cast(size_t count, size_t rank, const size_t* info, const From* xs, To* to) {
    for (size_t i = 0; i < count; ++i) to[i] = narrow<To>(wide(xs[at(i, rank, info, info + rank)]));
}

template <class I, class T>
void where(size_t count, size_t rank, const size_t* info, const I* ids, const T* yes, const T* no, T* to) {
    const size_t *strides = info + rank, *of_yes = strides + rank, *of_no = of_yes + rank;
    for (size_t i = 0; i < count; ++i)
        to[i] = ids[at(i, rank, info, strides)] ? yes[at(i, rank, info, of_yes)] : no[at(i, rank, info, of_no)];
}

template <class T>
void const_set(size_t count, size_t rank, const size_t* info, T value, T* to) {
    for (size_t i = 0; i < count; ++i) to[at(i, rank, info, info + rank)] = value;
}

template <class T>
void copy_rows(const T* xs, T* to, uint32_t rows, uint32_t cols, uint32_t from_stride, uint32_t to_stride) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < cols; ++c) to[r * to_stride + c] = xs[r * from_stride + c];
}

// Reductions of `each` values. Sums are in the type itself, as candle's are; bf16's in f32.
template <class T>
void sum(size_t results, size_t each, size_t rank, const size_t* info, const T* xs, T* to) {
    for (size_t r = 0; r < results; ++r) {
        Wide<T> total = 0;
        for (size_t i = 0; i < each; ++i) total += wide(xs[at(r * each + i, rank, info, info + rank)]);
        to[r] = narrow<T>(total);
    }
}
// A block for each result.
template <class T>
void sum_by_blocks(size_t, size_t each, size_t rank, const size_t* info, const T* xs, T* to) {
    sum<T>(emulation::grid_size.x, each, rank, info, xs, to);
}
template <class T, class Better, bool INDEX, class To>
void best(size_t, size_t each, size_t rank, const size_t* info, const T* xs, To* to) {
    for (size_t r = 0; r < emulation::grid_size.x; ++r) {
        auto value = [&](size_t i) { return wide(xs[at(r * each + i, rank, info, info + rank)]); };
        size_t top = 0;
        for (size_t i = 1; i < each; ++i)
            if (Better()(value(i), value(top))) top = i;
        if constexpr (INDEX) to[r] = To(top);
        else to[r] = narrow<To>(value(top));
    }
}

template <class I>
size_t index(I id, size_t limit, const char* what) {
    if (size_t(id) >= limit) fail(std::string(what) + ": index " + std::to_string(id) + " of " + std::to_string(limit));
    return size_t(id);
}

template <class I, class T>
void index_select(size_t count, size_t rank, const size_t* info, const I* ids, const T* xs, T* to, size_t,
                  size_t from_size, size_t ids_size, size_t right) {
    for (size_t i = 0; i < count; ++i) {
        size_t left = i / (ids_size * right), which = i / right % ids_size;
        size_t row = index(ids[at(which, rank, info, info + rank)], from_size, "index_select");
        to[i] = xs[(left * from_size + row) * right + i % right];
    }
}
template <class I, class T>
void gather(size_t count, const I* ids, const T* xs, T* to, size_t, size_t from_size, size_t ids_size, size_t right) {
    for (size_t i = 0; i < count; ++i) {
        size_t row = index(ids[i], from_size, "gather");
        to[i] = xs[(i / (ids_size * right) * from_size + row) * right + i % right];
    }
}
template <class I, class T>
void index_add(const I* ids, size_t, const T* xs, T* to, size_t left, size_t from_size, size_t to_size, size_t right) {
    for (size_t l = 0; l < left; ++l)
        for (size_t j = 0; j < from_size; ++j)
            for (size_t r = 0; r < right; ++r) {
                T& y = to[(l * to_size + index(ids[j], to_size, "index_add")) * right + r];
                y = narrow<T>(wide(y) + wide(xs[(l * from_size + j) * right + r]));
            }
}
template <class I, class T, bool ADD>
void scatter(const I* ids, const T* xs, T* to, size_t left, size_t from_size, size_t to_size, size_t right) {
    for (size_t i = 0; i < left * from_size * right; ++i) {
        size_t row = index(ids[i], to_size, "scatter");
        T& y = to[(i / (from_size * right) * to_size + row) * right + i % right];
        y = ADD ? narrow<T>(wide(y) + wide(xs[i])) : xs[i];
    }
}

// Patches of an image as rows [c, kh, kw].
template <class T>
void im2col(size_t count, size_t out_h, size_t out_w, size_t kh, size_t kw, size_t stride, size_t padding, size_t dilation,
            const size_t* info, const T* xs, T* to) {
    const size_t *dims = info, *strides = info + 4;
    size_t channels = dims[1];
    for (size_t i = 0; i < count; ++i) {
        size_t rest = i, x = rest % kw;
        size_t y = (rest /= kw) % kh, c = (rest /= kh) % channels;
        size_t col = (rest /= channels) % out_w, row = (rest /= out_w) % out_h, b = rest / out_h;
        size_t from_y = row * stride + y * dilation, from_x = col * stride + x * dilation;
        bool inside = from_y >= padding && from_y < dims[2] + padding && from_x >= padding && from_x < dims[3] + padding;
        to[i] = inside ? xs[b * strides[0] + c * strides[1] + (from_y - padding) * strides[2] + (from_x - padding) * strides[3]]
                       : narrow<T>(0);
    }
}

template <class T>
void add_for_indices(const std::string& type) {
    auto of = [&](auto index, const std::string& name) {
        using I = decltype(index);
        add("where_" + name + "_" + type, where<I, T>);
        add("is_" + name + "_" + type, index_select<I, T>);
        add("gather_" + name + "_" + type, gather<I, T>);
        add("ia_" + name + "_" + type, index_add<I, T>);
        add("s_" + name + "_" + type, scatter<I, T, false>);
        add("sa_" + name + "_" + type, scatter<I, T, true>);
    };
    of(uint8_t(), "u8");
    of(uint32_t(), "u32");
    of(int64_t(), "i64");
}

template <class T>
void add_for_numbers(const std::string& type) {
    add("ucopy_" + type, unary<T, Copy>);
    add("affine_" + type, affine<T>);
    add("const_set_" + type, const_set<T>);
    add("copy2d_" + type, copy_rows<T>);
    add("badd_" + type, binary<T, Add>);
    add("bsub_" + type, binary<T, Sub>);
    add("bmul_" + type, binary<T, Mul>);
    add("bdiv_" + type, binary<T, Div>);
    add("bmaximum_" + type, binary<T, Max>);
    add("bminimum_" + type, binary<T, Min>);
    add("eq_" + type, binary<T, Eq, uint8_t>);
    add("ne_" + type, binary<T, Ne, uint8_t>);
    add("lt_" + type, binary<T, Lt, uint8_t>);
    add("le_" + type, binary<T, Le, uint8_t>);
    add("gt_" + type, binary<T, Gt, uint8_t>);
    add("ge_" + type, binary<T, Ge, uint8_t>);
    add("fast_sum_" + type, sum_by_blocks<T>);
    add("fast_sum_small_" + type, sum<T>);
    add("fast_max_" + type, best<T, Gt, false, T>);
    add("fast_min_" + type, best<T, Lt, false, T>);
    add("fast_argmax_" + type, best<T, Gt, true, uint32_t>);
    add("fast_argmin_" + type, best<T, Lt, true, uint32_t>);
    add("im2col_" + type, im2col<T>);
    add("cast_" + type + "_f32", cast<T, float>);
    add("cast_" + type + "_f64", cast<T, double>);
    add("cast_" + type + "_bf16", cast<T, bf16>);
    add("cast_" + type + "_u8", cast<T, uint8_t>);
    add("cast_" + type + "_u32", cast<T, uint32_t>);
    add("cast_" + type + "_i64", cast<T, int64_t>);
    add_for_indices<T>(type);
}

template <class T>
void add_for_reals(const std::string& type) {
    add_for_numbers<T>(type);
    add("uneg_" + type, unary<T, Neg>);
    add("urecip_" + type, unary<T, Recip>);
    add("uexp_" + type, unary<T, Exp>);
    add("ulog_" + type, unary<T, Log>);
    add("usin_" + type, unary<T, Sin>);
    add("ucos_" + type, unary<T, Cos>);
    add("utanh_" + type, unary<T, Tanh>);
    add("uerf_" + type, unary<T, Erf>);
    add("uceil_" + type, unary<T, Ceil>);
    add("ufloor_" + type, unary<T, Floor>);
    add("uround_" + type, unary<T, Round>);
    add("uabs_" + type, unary<T, Abs>);
    add("usqr_" + type, unary<T, Square>);
    add("usqrt_" + type, unary<T, Sqrt>);
    add("urelu_" + type, unary<T, Relu>);
    add("usilu_" + type, unary<T, Silu>);
    add("usigmoid_" + type, unary<T, Sigmoid>);
    add("usign_" + type, unary<T, Sign>);
    add("ugelu_" + type, unary<T, Gelu>);
    add("ugelu_erf_" + type, unary<T, GeluErf>);
    add("upowf_" + type, unary_by<T, Power>);
    add("uelu_" + type, unary_by<T, Elu>);
}

} // namespace

const Whole* candle_kernel(const std::string& name) {
    static const bool filled = [] {
        add_for_reals<float>("f32");
        add_for_reals<double>("f64");
        add_for_reals<bf16>("bf16");
        add_for_numbers<uint8_t>("u8");
        add_for_numbers<uint32_t>("u32");
        add_for_numbers<int64_t>("i64");
        return true;
    }();
    auto found = kernels().find(name);
    return filled && found != kernels().end() ? &found->second : nullptr;
}

} // namespace pretend
