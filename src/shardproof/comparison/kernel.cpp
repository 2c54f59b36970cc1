// All statistics of a comparison in one pass over memory. Built and called by compiled.py.
//
// Equal bits without infinities or NaN settle a tile. One loop finds what else nearly every tile needs: the largest
// gap, the largest difference of bit patterns, the largest magnitude. What these leave open is looked at again, while
// the tile is in the first-level cache. All reductions are over integers (the patterns of numbers without a sign are in
// the order of the numbers), so that the compiler may vectorize them without relaxing float semantics.

#include <cstdint>
#include <cstring>

struct Statistics {  // mirrored by a ctypes structure in compiled.py
    int64_t worst;  // position of the first largest difference, -1 for none
    double maxdiff;
    uint64_t max_ulp;
    int64_t close;
    int64_t nan_actual, nan_expected, inf_actual, inf_expected;
};

template <class To, class From> static inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

struct Float32 {
    using Unsigned = uint32_t;
    using Wide = uint32_t;  // the bits of a Real
    using Signed = int32_t;
    using Real = float;
    static constexpr Unsigned sign = 0x80000000u, infinity = 0x7f800000u, ulp_limit = Unsigned(1) << 23;
    static inline Real value(Unsigned u) { return bits<Real>(u); }
    static inline Unsigned round(Real x) { return bits<Unsigned>(x); }
};

struct Float64 {
    using Unsigned = uint64_t;
    using Wide = uint64_t;
    using Signed = int64_t;
    using Real = double;
    static constexpr Unsigned sign = 0x8000000000000000u, infinity = 0x7ff0000000000000u, ulp_limit = Unsigned(1) << 52;
    static inline Real value(Unsigned u) { return bits<Real>(u); }
    static inline Unsigned round(Real x) { return bits<Unsigned>(x); }
};

struct BFloat16 {  // as in PyTorch: each operation in float, its result rounded to nearest, ties to even
    using Unsigned = uint16_t;
    using Wide = uint32_t;
    using Signed = int16_t;
    using Real = float;
    static constexpr Unsigned sign = 0x8000u, infinity = 0x7f80u, ulp_limit = 1u << 7;
    static inline Real value(Unsigned u) { return bits<Real>(uint32_t(u) << 16); }
    static inline Unsigned round(Real x) {  // a NaN would come out as anything
        uint32_t u = bits<uint32_t>(x);
        return Unsigned((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
};

template <class Format> static inline typename Format::Unsigned magnitude(typename Format::Unsigned u) {
    return typename Format::Unsigned(u & typename Format::Unsigned(~Format::sign));
}

template <class Format> static inline typename Format::Unsigned gap(typename Format::Unsigned a, typename Format::Unsigned e) {
    return magnitude<Format>(Format::round(Format::value(a) - Format::value(e)));
}

// Distance in ULP: bit patterns as signed integers in the order of the numbers, both zeros at 0.
template <class Format> static inline typename Format::Unsigned steps(typename Format::Unsigned a, typename Format::Unsigned e) {
    using U = typename Format::Unsigned;
    using S = typename Format::Signed;
    constexpr int last = 8 * sizeof(U) - 1;
    S sa = S(S(a) >> last), se = S(S(e) >> last);
    S ka = S(S(a ^ U(U(sa) & U(~Format::sign))) - sa), ke = S(S(e ^ U(U(se) & U(~Format::sign))) - se);
    return ka > ke ? U(U(ka) - U(ke)) : U(U(ke) - U(ka));
}

// torch.isclose's own arithmetic, for finite numbers.
template <class Format>
static inline bool is_close(
    typename Format::Unsigned a, typename Format::Unsigned e, typename Format::Real rtol, typename Format::Real atol) {
    using U = typename Format::Unsigned;
    U error = gap<Format>(a, e);
    U scaled = magnitude<Format>(Format::round(rtol * Format::value(e)));
    U allowed = Format::round(atol + Format::value(scaled));
    return (error == 0) | ((error < Format::infinity) & (error <= allowed));
}

// A tile with NaN or infinities, element by element.
template <class Format>
static void take_special(
    const typename Format::Unsigned* a, const typename Format::Unsigned* e, int64_t start, int64_t n,
    typename Format::Real rtol, typename Format::Real atol, bool equal_nan, uint64_t& largest, Statistics& s) {
    using U = typename Format::Unsigned;
    constexpr U infinity = Format::infinity;
    for (int64_t i = 0; i < n; i++) {
        U x = a[i], y = e[i], mx = magnitude<Format>(x), my = magnitude<Format>(y);
        bool nx = mx > infinity, ny = my > infinity;
        s.nan_actual += nx, s.nan_expected += ny, s.inf_actual += mx == infinity, s.inf_expected += my == infinity;
        uint64_t g = 0;
        if (nx || ny) {
            g = nx && ny && equal_nan ? 0 : uint64_t(infinity) + 1;
            if (g) s.close = 0;
        } else {
            uint64_t d = steps<Format>(x, y);
            if (d > s.max_ulp) s.max_ulp = d;
            if (x != y && (mx == infinity || my == infinity)) {
                g = infinity;
                s.close = 0;
            } else if (x != y) {
                g = gap<Format>(x, y);
                if (!is_close<Format>(x, y, rtol, atol)) s.close = 0;
            }
        }
        if (g > largest) largest = g, s.worst = start + i;
    }
}

// The largest |actual - expected|, as a pattern of Real: rounding to the format keeps the order, and is left for last.
template <class Format>
static inline auto largest_gap(const typename Format::Unsigned* a, const typename Format::Unsigned* e, int64_t n) {
    using Wide = typename Format::Wide;
    constexpr Wide keep = ~(Wide(1) << (8 * sizeof(Wide) - 1));
    Wide top = 0;
    for (int64_t i = 0; i < n; i++) {
        Wide g = bits<Wide>(Format::value(a[i]) - Format::value(e[i])) & keep;
        top = g > top ? g : top;
    }
    return top;
}

// Two bfloat16 are one 32-bit word: twice the elements in a vector register, and no widening.
template <> inline auto largest_gap<BFloat16>(const uint16_t* a, const uint16_t* e, int64_t n) {
    uint32_t top_low = 0, top_high = 0;
    for (int64_t i = 0; i < n / 2; i++) {
        uint32_t x, y;
        std::memcpy(&x, a + 2 * i, 4);
        std::memcpy(&y, e + 2 * i, 4);
        uint32_t low = bits<uint32_t>(bits<float>(x << 16) - bits<float>(y << 16)) & 0x7fffffffu;
        uint32_t high = bits<uint32_t>(bits<float>(x & 0xffff0000u) - bits<float>(y & 0xffff0000u)) & 0x7fffffffu;
        top_low = low > top_low ? low : top_low;
        top_high = high > top_high ? high : top_high;
    }
    uint32_t top = top_low > top_high ? top_low : top_high;
    for (int64_t i = n & ~int64_t(1); i < n; i++) {
        uint32_t g = bits<uint32_t>(BFloat16::value(a[i]) - BFloat16::value(e[i])) & 0x7fffffffu;
        top = g > top ? g : top;
    }
    return top;
}

template <class Unsigned> struct Survey {
    Unsigned apart;  // largest |difference of patterns|: the ULP distance, unless it reaches the limit (see formats.py)
    Unsigned top;    // largest magnitude on either side
};

template <class Format>
static inline Survey<typename Format::Unsigned> survey(
    const typename Format::Unsigned* a, const typename Format::Unsigned* e, int64_t n) {
    using U = typename Format::Unsigned;
    using S = typename Format::Signed;
    U apart = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        U d = U(a[i] - e[i]), r = U(U(0) - d), p = S(d) < 0 ? r : d;
        U x = magnitude<Format>(a[i]), y = magnitude<Format>(e[i]), m = x > y ? x : y;
        apart = p > apart ? p : apart;
        top = m > top ? m : top;
    }
    return {apart, top};
}

template <class Format>
static void take_finite(
    const typename Format::Unsigned* a, const typename Format::Unsigned* e, int64_t start, int64_t n,
    typename Format::Unsigned apart, typename Format::Real rtol, typename Format::Real atol, uint64_t few_ulp,
    uint64_t& largest, Statistics& s) {
    using U = typename Format::Unsigned;
    U top_gap = Format::round(bits<typename Format::Real>(largest_gap<Format>(a, e, n)));
    if (top_gap > largest) {
        largest = top_gap;
        for (int64_t i = 0; i < n; i++)
            if (gap<Format>(a[i], e[i]) == top_gap) {
                s.worst = start + i;
                break;
            }
    }
    if (apart < Format::ulp_limit) {
        if (apart > s.max_ulp) s.max_ulp = apart;
    } else if (s.max_ulp < Format::ulp_limit) {
        U most = 0;
        for (int64_t i = 0; i < n; i++) {
            U d = steps<Format>(a[i], e[i]);
            most = d > most ? d : most;
        }
        if (most > s.max_ulp) s.max_ulp = most;
    }
    if (s.close && apart > few_ulp) {
        U far = 0;
        for (int64_t i = 0; i < n; i++) far = U(far | U(!is_close<Format>(a[i], e[i], rtol, atol)));
        if (far) s.close = 0;
    }
}

// Counts NaN and infinities of a tile whose bits are equal; false, and nothing counted, where it has unequal NaN.
template <class Format>
static bool count_special(const typename Format::Unsigned* e, int64_t n, bool equal_nan, Statistics& s) {
    using U = typename Format::Unsigned;
    U nan = 0, inf = 0;  // a tile has fewer elements than the narrowest of these can count
    for (int64_t i = 0; i < n; i++) {
        U m = magnitude<Format>(e[i]);
        nan = U(nan + U(m > Format::infinity));
        inf = U(inf + U(m == Format::infinity));
    }
    if (nan && !equal_nan) return false;
    s.nan_actual += nan, s.nan_expected += nan, s.inf_actual += inf, s.inf_expected += inf;
    return true;
}

template <class Format>
static bool is_plainly_equal(const typename Format::Unsigned* a, const typename Format::Unsigned* e, int64_t n) {
    using U = typename Format::Unsigned;
    U differ = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        U m = magnitude<Format>(e[i]);
        differ = U(differ | U(a[i] ^ e[i]));
        top = m > top ? m : top;
    }
    return !differ && top < Format::infinity;
}

template <class Format>
static void take_range(
    const void* actual, const void* expected, int64_t begin, int64_t end, double rtol, double atol, int equal_nan,
    uint64_t few_ulp, Statistics* out) {
    using U = typename Format::Unsigned;
    using R = typename Format::Real;
    constexpr int64_t tile = 8192 / sizeof(U);
    Statistics s = {-1, 0.0, 0, 1, 0, 0, 0, 0};
    uint64_t largest = 0;
    bool equal = true;  // tiles tend to be like the one before: no time is lost on a test that will fail
    for (int64_t start = begin; start < end; start += tile) {
        const U* a = static_cast<const U*>(actual) + start;
        const U* e = static_cast<const U*>(expected) + start;
        int64_t n = end - start < tile ? end - start : tile;
        if (equal && is_plainly_equal<Format>(a, e, n)) continue;
        Survey<U> found = survey<Format>(a, e, n);
        equal = found.apart == 0;
        if (found.top >= Format::infinity && equal && count_special<Format>(e, n, equal_nan != 0, s)) continue;
        if (found.top >= Format::infinity)
            take_special<Format>(a, e, start, n, R(rtol), R(atol), equal_nan != 0, largest, s);
        else if (!equal)
            take_finite<Format>(a, e, start, n, found.apart, R(rtol), R(atol), few_ulp, largest, s);
    }
    s.maxdiff = largest > Format::infinity ? __builtin_nan("") : double(Format::value(U(largest)));
    *out = s;
}

// Ranges of `length` elements, one entry of `out` each.
template <class Format>
static void take_all(
    const void* actual, const void* expected, int64_t count, int64_t length, int threads, double rtol, double atol,
    int equal_nan, uint64_t few_ulp, Statistics* out) {
    int64_t ranges = (count + length - 1) / length;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (ranges > 1)
    for (int64_t range = 0; range < ranges; range++) {
        int64_t begin = range * length, end = begin + length < count ? begin + length : count;
        take_range<Format>(actual, expected, begin, end, rtol, atol, equal_nan, few_ulp, out + range);
    }
}

#define EXPORT(NAME, FORMAT)                                                                                        \
    extern "C" void NAME(                                                                                           \
        const void* actual, const void* expected, int64_t count, int64_t length, int threads, double rtol,          \
        double atol, int equal_nan, uint64_t few_ulp, Statistics* out) {                                            \
        take_all<FORMAT>(actual, expected, count, length, threads, rtol, atol, equal_nan, few_ulp, out);            \
    }

EXPORT(compare_float32, Float32)
EXPORT(compare_float64, Float64)
EXPORT(compare_bfloat16, BFloat16)
