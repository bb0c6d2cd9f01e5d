// CUDA C++ on a CPU, for tests of kernels on machines without a GPU. A kernel's source becomes C++17 by this header and the emulator's
// own Ptx.cuh; every thread of a block is a fiber with a stack of its own, and an instruction that a warp, a block or a cluster executes
// together switches to the next fiber until all who take part have arrived.
//
// To run kernel.cu: find its entry points by the regular expression
//     \bKERNEL\s+void\s+(?:__launch_bounds__\s*\(([^{};]*?)\)\s*)?(\w+)\s*\(
// and write into a folder of its own (beside the library's Ptx.cuh, that one would be included) the text of kernel.cu, followed by one line
//     REGISTER(name, bounds)
// for each, with what stood in __launch_bounds__, or REGISTER(name). Then
//     g++ -std=c++17 -O1 -fPIC -fvisibility=hidden -shared -I <this folder> -D<macro>=<value>... kernel.cpp Emulator.cpp -o kernel.so
// and call emulate_launch of the result, declared at the end of this file. With -fsanitize=alignment,bounds,shift-exponent and
// -fno-sanitize-recover=all, vectors off their alignment and indices out of an array end the launch with their line. With -g1 and
// -fno-omit-frame-pointer, the offsets that messages end in are lines to addr2line.
//
// What it notices: unequal or missing participants of warp, block and cluster barriers (a deadlock, told with who waits where); accesses
// out of shared memory or of emulate_allocate's buffers; shared memory read before it was written or its copies were waited for (NaN, in
// float32 as in bfloat16), written while a bulk copy to it is on its way, or left with one; another block's shared memory used before that
// block runs or after it ended. Bulk copies end in a random order, late rather than soon. Warps, and lanes between warp-wide
// instructions, run in a random order, which depends on emulate_seed alone. It does not notice a race as such, only the wrong numbers
// that come of it.
//
// No header of the standard library is included here: like NVRTC, this offers a kernel nothing else.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__
#define __restrict__ __restrict

typedef decltype(sizeof 0) size_t;

// As in CUDA, 16 bytes are aligned to 16 and 8 to 8, which is what makes a vector's load one instruction.
#define EMULATOR_VECTORS(type, name, of2, of4)                                                                  \
    struct name##1 { type x; };                                                                                 \
    struct alignas(of2) name##2 { type x, y; };                                                                 \
    struct name##3 { type x, y, z; };                                                                           \
    struct alignas(of4) name##4 { type x, y, z, w; };                                                           \
    inline name##1 make_##name##1(type x) { return {x}; }                                                       \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                            \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                 \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3
{
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator
{
// What a kernel reads of the fiber that runs it; the rest is Emulator.cpp's.
struct Running
{
    uint3 thread, block;
    unsigned char* shared;
    int lane;
};
extern Running* running;
extern dim3 block_size, grid_size;

// Ends the launch with this message and the thread's place; does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// An instruction of the lanes in the mask: the last to arrive has it done for all. operands[lane] is what that lane passed.
typedef void (*Action)(void* const* operands, unsigned mask);
void collective(const char* name, unsigned mask, Action action, void* operand);

// Shared memory, addressed as PTX does: by bytes from a start that is not 0, by another block's rank in the upper bits where mapa gave it.
unsigned shared_address(const void* pointer);
unsigned cluster_address(unsigned shared, unsigned rank);
void* shared_pointer(const char* name, unsigned address, unsigned bytes, bool cluster = false);
const void* global_pointer(const char* name, const void* pointer, unsigned bytes);

// Takes the first bytes from global memory and zeros for the rest.
void copy_async(unsigned shared, const void* global, unsigned bytes, unsigned taken);
void copy_async_commit();
void copy_async_wait(int pending);

// Barriers in shared memory that count arrivals and bytes, and bulk copies, counted by one of the same block.
void counter_init(unsigned barrier, int arrivals);
void counter_arrive(unsigned barrier, unsigned expected_bytes);
void counter_receive(unsigned barrier, unsigned bytes);
void counter_wait(unsigned barrier, unsigned parity);
void copy_bulk(unsigned shared, const void* global, unsigned bytes, unsigned barrier);

// count: threads that arrive, 0 for all of the block that have not returned. A barrier's result is the sum of the votes.
int barrier(int id, int count, bool wait, int vote);
unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive();
void cluster_wait();

// Lets other warps run: what may wait for another warp's atomic or store must call it.
void breathe();
unsigned long long clock();

struct Bounds
{
    int threads = 1024, blocks_per_multiprocessor = 1, cluster = 16;
};

struct Kernel
{
    const char* name;
    void (*invoke)(void** arguments);
    Bounds bounds;
    Kernel* next;
    static Kernel* first;
    Kernel(const char* name, void (*invoke)(void**), Bounds bounds) : name(name), invoke(invoke), bounds(bounds), next(first)
    {
        first = this;
    }
};

template <class Parameter> struct Plain { typedef Parameter type; };
template <class Parameter> struct Plain<const Parameter> { typedef Parameter type; };
template <auto Function, class Signature> struct Invocation;
template <auto Function, class... Parameters> struct Invocation<Function, void (*)(Parameters...)>
{
    template <int... Indices> struct Sequence {};
    template <int Count, int... Indices> struct Range : Range<Count - 1, Count - 1, Indices...> {};
    template <int... Indices> struct Range<0, Indices...> { typedef Sequence<Indices...> type; };
    template <int... Indices> static void call(void** arguments, Sequence<Indices...>)
    {
        Function(*(typename Plain<Parameters>::type*)arguments[Indices]...);
    }
    static void invoke(void** arguments) { call(arguments, typename Range<(int)sizeof...(Parameters)>::type()); }
};
} // namespace emulator

#define REGISTER(name, ...) \
    static emulator::Kernel emulated_##name(#name, emulator::Invocation<&name, decltype(&name)>::invoke, emulator::Bounds{__VA_ARGS__});

#define threadIdx (emulator::running->thread)
#define blockIdx (emulator::running->block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define warpSize 32

// Mathematics: the C library's, and CUDA's approximations exactly.

extern "C"
{
#define EMULATOR_ONE(name) double name(double) noexcept; float name##f(float) noexcept;
#define EMULATOR_TWO(name) double name(double, double) noexcept; float name##f(float, float) noexcept;
EMULATOR_ONE(exp) EMULATOR_ONE(exp2) EMULATOR_ONE(expm1) EMULATOR_ONE(log) EMULATOR_ONE(log2) EMULATOR_ONE(log10) EMULATOR_ONE(log1p)
EMULATOR_ONE(sin) EMULATOR_ONE(cos) EMULATOR_ONE(tan) EMULATOR_ONE(sinh) EMULATOR_ONE(cosh) EMULATOR_ONE(tanh) EMULATOR_ONE(asin)
EMULATOR_ONE(acos) EMULATOR_ONE(atan) EMULATOR_ONE(sqrt) EMULATOR_ONE(cbrt) EMULATOR_ONE(fabs) EMULATOR_ONE(floor) EMULATOR_ONE(ceil)
EMULATOR_ONE(round) EMULATOR_ONE(rint) EMULATOR_ONE(trunc) EMULATOR_ONE(erf) EMULATOR_ONE(erfc) EMULATOR_ONE(exp10)
EMULATOR_TWO(pow) EMULATOR_TWO(fmax) EMULATOR_TWO(fmin) EMULATOR_TWO(fmod) EMULATOR_TWO(atan2) EMULATOR_TWO(copysign)
#undef EMULATOR_ONE
#undef EMULATOR_TWO
double fma(double, double, double) noexcept;
float fmaf(float, float, float) noexcept;
double ldexp(double, int) noexcept;
float ldexpf(float, int) noexcept;
int abs(int) noexcept;
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
int printf(const char*, ...);
}

#define EMULATOR_ONE(name) inline float name(float x) { return name##f(x); }
#define EMULATOR_TWO(name) inline float name(float x, float y) { return name##f(x, y); }
EMULATOR_ONE(exp) EMULATOR_ONE(exp2) EMULATOR_ONE(log) EMULATOR_ONE(log2) EMULATOR_ONE(log1p) EMULATOR_ONE(tanh) EMULATOR_ONE(sqrt)
EMULATOR_ONE(fabs) EMULATOR_ONE(floor) EMULATOR_ONE(ceil) EMULATOR_TWO(pow) EMULATOR_TWO(fmax) EMULATOR_TWO(fmin)
#undef EMULATOR_ONE
#undef EMULATOR_TWO
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }

inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float rsqrt(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.f ? x < 1.f ? x : 1.f : 0.f; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.f / sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }

#define EMULATOR_ORDER(type)                                       \
    inline type max(type x, type y) { return x > y ? x : y; }      \
    inline type min(type x, type y) { return x < y ? x : y; }
EMULATOR_ORDER(int)
EMULATOR_ORDER(unsigned)
EMULATOR_ORDER(long)
EMULATOR_ORDER(unsigned long)
EMULATOR_ORDER(long long)
EMULATOR_ORDER(unsigned long long)
#undef EMULATOR_ORDER
inline float max(float x, float y) { return fmaxf(x, y); }
inline float min(float x, float y) { return fminf(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline double min(double x, double y) { return fmin(x, y); }

// Bits

namespace emulator
{
template <class To, class From> inline To reinterpret(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulator

inline float __int_as_float(int x) { return emulator::reinterpret<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::reinterpret<float>(x); }
inline int __float_as_int(float x) { return emulator::reinterpret<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::reinterpret<unsigned>(x); }
inline long long __double_as_longlong(double x) { return emulator::reinterpret<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::reinterpret<double>(x); }
inline int __float2int_rn(float x) { return (int)__builtin_rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __float2int_ru(float x) { return (int)ceilf(x); }
inline unsigned __float2uint_rn(float x) { return (unsigned)__builtin_rintf(x); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (x >> bit & 1) << (31 - bit);
    return reversed;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int byte = 0; byte < 4; byte++)
    {
        unsigned choice = selector >> 4 * byte & 15, value = (unsigned)(bytes >> 8 * (choice & 7)) & 255;
        if (choice & 8) value = value & 128 ? 255 : 0;
        result |= value << 8 * byte;
    }
    return result;
}

// Memory

template <class Value> inline Value __ldg(const Value* pointer) { return *pointer; }
template <class Value> inline Value __ldcs(const Value* pointer) { return *pointer; }
template <class Value> inline Value __ldca(const Value* pointer) { return *pointer; }
template <class Value> inline Value __ldcg(const Value* pointer) { return *pointer; }
template <class Value> inline Value __ldcv(const Value* pointer) { emulator::breathe(); return *(const volatile Value*)pointer; }
template <class Value> inline void __stcs(Value* pointer, Value value) { *pointer = value; }
template <class Value> inline void __stcg(Value* pointer, Value value) { *pointer = value; }
template <class Value> inline void __stwb(Value* pointer, Value value) { *pointer = value; }
template <class Value> inline void __stwt(Value* pointer, Value value) { *pointer = value; }
inline size_t __cvta_generic_to_shared(const void* pointer) { return emulator::shared_address(pointer); }
inline void __threadfence_block() { emulator::breathe(); }
inline void __threadfence() { emulator::breathe(); }
inline void __threadfence_system() { emulator::breathe(); }
inline void __nanosleep(unsigned) { emulator::breathe(); }
inline long long clock64() { return (long long)emulator::clock(); }
[[noreturn]] inline void __trap() { emulator::fail("__trap"); }

#define EMULATOR_ATOMIC(name, type, result)                    \
    inline type name(type* pointer, type value)                \
    {                                                          \
        emulator::breathe();                                   \
        type old = *pointer;                                   \
        *pointer = result;                                     \
        return old;                                            \
    }
#define EMULATOR_ATOMICS(type)                                             \
    EMULATOR_ATOMIC(atomicAdd, type, (type)(old + value))                  \
    EMULATOR_ATOMIC(atomicSub, type, (type)(old - value))                  \
    EMULATOR_ATOMIC(atomicExch, type, value)                               \
    EMULATOR_ATOMIC(atomicMax, type, old > value ? old : value)            \
    EMULATOR_ATOMIC(atomicMin, type, old < value ? old : value)            \
    EMULATOR_ATOMIC(atomicAnd, type, old & value)                          \
    EMULATOR_ATOMIC(atomicOr, type, old | value)                           \
    EMULATOR_ATOMIC(atomicXor, type, old ^ value)                          \
    inline type atomicCAS(type* pointer, type compare, type value)         \
    {                                                                      \
        emulator::breathe();                                               \
        type old = *pointer;                                               \
        if (old == compare) *pointer = value;                              \
        return old;                                                        \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(atomicAdd, float, old + value)
EMULATOR_ATOMIC(atomicAdd, double, old + value)
EMULATOR_ATOMIC(atomicExch, float, value)
EMULATOR_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC

// Blocks and warps

inline void __syncthreads() { emulator::barrier(0, 0, true, 0); }
inline int __syncthreads_count(int predicate) { return emulator::barrier(0, 0, true, predicate != 0); }
inline int __syncthreads_or(int predicate) { return emulator::barrier(0, 0, true, predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return emulator::barrier(0, 0, true, predicate == 0) == 0; }

namespace emulator
{
template <class Value> struct Shuffle
{
    Value value, result;
    int source;
};

template <class Value> void shuffle_action(void* const* operands, unsigned mask)
{
    for (int lane = 0; lane < 32; lane++)
    {
        if (!(mask >> lane & 1)) continue;
        auto& operand = *(Shuffle<Value>*)operands[lane];
        // A lane that takes no part has nothing defined to give.
        if (mask >> operand.source & 1) operand.result = ((Shuffle<Value>*)operands[operand.source])->value;
        else __builtin_memset(&operand.result, 0x7f, sizeof operand.result);
    }
}

template <class Value> Value shuffle(const char* name, unsigned mask, Value value, int source)
{
    Shuffle<Value> operand{value, value, source};
    collective(name, mask, shuffle_action<Value>, &operand);
    return operand.result;
}

inline int segment_start(int width)
{
    if (width < 1 || width > 32 || width & (width - 1)) fail("a shuffle's width of %d is no power of two up to 32", width);
    return running->lane & ~(width - 1);
}

struct Vote
{
    unsigned long long value;
    unsigned result;
};

unsigned vote(const char* name, unsigned mask, Action action, unsigned long long value);
void ballot_action(void* const* operands, unsigned mask);
void match_action(void* const* operands, unsigned mask);
void add_action(void* const* operands, unsigned mask);
void max_action(void* const* operands, unsigned mask);
void max_signed_action(void* const* operands, unsigned mask);
} // namespace emulator

#define EMULATOR_SHUFFLES(type)                                                                                        \
    inline type __shfl_sync(unsigned mask, type value, int source, int width = 32)                                     \
    {                                                                                                                  \
        return emulator::shuffle("__shfl_sync", mask, value, emulator::segment_start(width) | (source & (width - 1))); \
    }                                                                                                                  \
    inline type __shfl_up_sync(unsigned mask, type value, unsigned delta, int width = 32)                              \
    {                                                                                                                  \
        int lane = emulator::running->lane, source = lane - (int)delta;                                                \
        return emulator::shuffle("__shfl_up_sync", mask, value, source < emulator::segment_start(width) ? lane : source); \
    }                                                                                                                  \
    inline type __shfl_down_sync(unsigned mask, type value, unsigned delta, int width = 32)                            \
    {                                                                                                                  \
        int lane = emulator::running->lane, source = lane + (int)delta, end = emulator::segment_start(width) + width;  \
        return emulator::shuffle("__shfl_down_sync", mask, value, source >= end ? lane : source);                      \
    }                                                                                                                  \
    inline type __shfl_xor_sync(unsigned mask, type value, int bits, int width = 32)                                   \
    {                                                                                                                  \
        int lane = emulator::running->lane, source = lane ^ (bits & 31), end = emulator::segment_start(width) + width; \
        return emulator::shuffle("__shfl_xor_sync", mask, value, source >= end ? lane : source);                       \
    }
EMULATOR_SHUFFLES(int)
EMULATOR_SHUFFLES(unsigned)
EMULATOR_SHUFFLES(long long)
EMULATOR_SHUFFLES(unsigned long long)
EMULATOR_SHUFFLES(float)
EMULATOR_SHUFFLES(double)
#undef EMULATOR_SHUFFLES

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::collective("__syncwarp", mask, nullptr, nullptr); }
inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return emulator::vote("__ballot_sync", mask, emulator::ballot_action, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate)
{
    return emulator::vote("__any_sync", mask, emulator::ballot_action, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate)
{
    return emulator::vote("__all_sync", mask, emulator::ballot_action, predicate != 0) == mask;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value)
{
    return emulator::vote("__match_any_sync", mask, emulator::match_action, value);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value)
{
    return emulator::vote("__reduce_add_sync", mask, emulator::add_action, value);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value)
{
    return emulator::vote("__reduce_max_sync", mask, emulator::max_action, value);
}
inline int __reduce_add_sync(unsigned mask, int value)
{
    return (int)emulator::vote("__reduce_add_sync", mask, emulator::add_action, (unsigned)value);
}
inline int __reduce_max_sync(unsigned mask, int value)
{
    return (int)emulator::vote("__reduce_max_sync", mask, emulator::max_signed_action, (unsigned)value);
}

// What the compiled library offers a test.
#pragma GCC visibility push(default)
extern "C"
{
// 0 when the kernel ran to its end; the message is emulate_error's. grid and block are x, y, z; cluster is the number of blocks along x
// that make one; arguments points to the values, as for cuLaunchKernel.
int emulate_launch(const char* kernel, const unsigned* grid, const unsigned* block, unsigned cluster, unsigned shared_bytes,
                   void** arguments);
const char* emulate_error();

// How many stacks of threads are kept for the next launch; and gives them back.
size_t emulate_stacks();
void emulate_release();

// The order of warps in the launches that follow.
void emulate_seed(unsigned long long seed);

// A launch that takes longer fails; 0 for no limit, as at first. Takes the process's timer (SIGALRM).
void emulate_limit(unsigned seconds);

// A buffer filled with NaN (0x7fff in every 16 bits), aligned to 16 bytes and no more, that ends where the next page cannot be touched.
// emulate_intact is 0 if something was written just before or behind it.
void* emulate_allocate(size_t bytes);
int emulate_intact(const void* buffer, size_t bytes);
void emulate_free(void* buffer, size_t bytes);
}
#pragma GCC visibility pop
