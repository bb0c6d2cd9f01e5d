// The functions of the library's Ptx.cuh, of the same names, in C++ on the emulator.
#pragma once
#include "Emulator.h"

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define RESTRICT __restrict__

#define SHARED_MEMORY(name) unsigned char* const name = emulator::running->shared

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef u16 bf16;

#define FULL_WARP 0xffffffffu
#define MINUS_INFINITY __int_as_float(0xff800000)

// Numbers

DEVICE bf16 to_bf16(float x)
{
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff; // the NaN that the instruction gives
    return (bf16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

DEVICE u32 pack_bf16(float low, float high) { return to_bf16(low) | (u32)to_bf16(high) << 16; }
DEVICE float from_bf16(bf16 x) { return __uint_as_float((u32)x << 16); }
DEVICE float low_bf16(u32 word) { return __uint_as_float(word << 16); }
DEVICE float high_bf16(u32 word) { return __uint_as_float(word & 0xffff0000u); }

// Rounded once to float32 before: as the instruction does where the sum has no more bits than that.
DEVICE u32 multiply_add_bf16x2(u32 x, u32 y, u32 z)
{
    return pack_bf16(fmaf(low_bf16(x), low_bf16(y), low_bf16(z)), fmaf(high_bf16(x), high_bf16(y), high_bf16(z)));
}

// Eight bfloat16 of a row, as 16 bytes of memory hold them.
DEVICE void unpack_bf16x8(float (&x)[8], uint4 words)
{
    x[0] = low_bf16(words.x), x[1] = high_bf16(words.x), x[2] = low_bf16(words.y), x[3] = high_bf16(words.y);
    x[4] = low_bf16(words.z), x[5] = high_bf16(words.z), x[6] = low_bf16(words.w), x[7] = high_bf16(words.w);
}

DEVICE uint4 pack_bf16x8(const float (&x)[8])
{
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

DEVICE u32 pack_f16(float low, float high)
{
    return emulator::reinterpret<u16>((_Float16)low) | (u32)emulator::reinterpret<u16>((_Float16)high) << 16;
}

DEVICE float low_f16(u32 word) { return (float)emulator::reinterpret<_Float16>((u16)word); }
DEVICE float high_f16(u32 word) { return (float)emulator::reinterpret<_Float16>((u16)(word >> 16)); }

namespace emulator
{
// Subnormal numbers count as 0.
inline float flush(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.f, x) : x; }
}

DEVICE float exp2_fast(float x) { return emulator::flush(exp2f(emulator::flush(x))); }
DEVICE float reciprocal_fast(float x) { return emulator::flush(1.f / emulator::flush(x)); }

// Rounded to the 11 bits after the first that the instruction is good for, so that nothing comes to depend on more.
DEVICE float tanh_fast(float x)
{
    float y = tanhf(x);
    return y == y ? __uint_as_float((__float_as_uint(y) + 0x800u) & ~0xfffu) : y;
}

// Warps

// One kernel after the other.
DEVICE void wait_for_predecessors() {}
DEVICE void start_dependents() {}
DEVICE void wait_for_results() {}

DEVICE float warp_sum(float x)
{
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
    return x;
}

DEVICE float warp_max(float x)
{
    for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, o));
    return x;
}

// A barrier of some warps, by its number and how many threads they have.
template <int Id, int Threads>
DEVICE void sync_warps() { emulator::barrier(Id, Threads, true, 0); }

// Shared memory and tensor cores

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

namespace emulator
{
struct Matrices
{
    u32* registers;
    u32 address;
};

// One element of a row of 16-bit elements.
inline u16& element(void* row, int column) { return ((u16*)row)[column]; }

inline void whole_warp(const char* name, unsigned mask)
{
    if (mask != FULL_WARP) fail("%s in a warp of less than 32 threads", name);
}

template <int Count, bool Transposed, bool Store> void matrices_action(void* const* operands, unsigned mask)
{
    whole_warp(Store ? "stmatrix" : "ldmatrix", mask);
    for (int matrix = 0; matrix < Count; matrix++)
    {
        void* rows[8];
        for (int row = 0; row < 8; row++)
            rows[row] = shared_pointer(Store ? "stmatrix" : "ldmatrix", ((Matrices*)operands[matrix * 8 + row])->address, 16);
        for (int lane = 0; lane < 32; lane++)
        {
            u32& word = ((Matrices*)operands[lane])->registers[matrix];
            int major = lane / 4, minor = lane % 4 * 2;
            u16& first = Transposed ? element(rows[minor], major) : element(rows[major], minor);
            u16& second = Transposed ? element(rows[minor + 1], major) : element(rows[major], minor + 1);
            if (Store) first = (u16)word, second = (u16)(word >> 16);
            else word = first | (u32)second << 16;
        }
    }
}

template <int Count, bool Transposed> void load_matrices(u32* registers, u32 address)
{
    Matrices operand{registers, address};
    collective(Transposed ? "ldmatrix.trans" : "ldmatrix", FULL_WARP, matrices_action<Count, Transposed, false>, &operand);
}

template <int Count, bool Transposed> void store_matrices(u32 address, const u32* registers)
{
    Matrices operand{const_cast<u32*>(registers), address};
    collective(Transposed ? "stmatrix.trans" : "stmatrix", FULL_WARP, matrices_action<Count, Transposed, true>, &operand);
}

struct Transposition
{
    u32 word, result;
};

inline void transpose_action(void* const* operands, unsigned mask)
{
    whole_warp("movmatrix", mask);
    auto half = [&](int row, int column)
    {
        return (u32)(u16)(((Transposition*)operands[row * 4 + column / 2])->word >> column % 2 * 16);
    };
    for (int lane = 0; lane < 32; lane++)
        ((Transposition*)operands[lane])->result = half(lane % 4 * 2, lane / 4) | half(lane % 4 * 2 + 1, lane / 4) << 16;
}

struct Product
{
    float* c;
    const u32* a;
    u32 b[2];
};

inline void product_action(void* const* operands, unsigned mask)
{
    whole_warp("mma", mask);
    float a[16][16], b[16][8], c[16][8]; // a by columns
    for (int lane = 0; lane < 32; lane++)
    {
        const auto& operand = *(const Product*)operands[lane];
        int group = lane / 4, pair = lane % 4 * 2;
        for (int r = 0; r < 4; r++)
        {
            int row = group + r % 2 * 8, column = pair + r / 2 * 8;
            a[column][row] = low_bf16(operand.a[r]);
            a[column + 1][row] = high_bf16(operand.a[r]);
            c[group + r / 2 * 8][pair + r % 2] = operand.c[r];
        }
        for (int r = 0; r < 2; r++)
        {
            b[pair + r * 8][group] = low_bf16(operand.b[r]);
            b[pair + r * 8 + 1][group] = high_bf16(operand.b[r]);
        }
    }
    for (int inner = 0; inner < 16; inner++)
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) c[row][column] += a[inner][row] * b[inner][column];
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) ((const Product*)operands[lane])->c[r] = c[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}
} // namespace emulator

DEVICE void load_matrix_x4(u32 (&r)[4], u32 address) { emulator::load_matrices<4, false>(r, address); }
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], u32 address) { emulator::load_matrices<4, true>(r, address); }
DEVICE void load_matrix_x2_transposed(u32 (&r)[2], u32 address) { emulator::load_matrices<2, true>(r, address); }
DEVICE void store_matrix_x4(u32 address, const u32 (&r)[4]) { emulator::store_matrices<4, false>(address, r); }
DEVICE void store_matrix_x4_transposed(u32 address, const u32 (&r)[4]) { emulator::store_matrices<4, true>(address, r); }

DEVICE u32 transpose_matrix(u32 x)
{
    emulator::Transposition operand{x, 0};
    emulator::collective("movmatrix", FULL_WARP, emulator::transpose_action, &operand);
    return operand.result;
}

DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    emulator::Product operand{c, a, {b0, b1}};
    emulator::collective("mma", FULL_WARP, emulator::product_action, &operand);
}

DEVICE void mma_bf16_k8(float (&c)[4], const u32 (&a)[2], u32 b)
{
    const u32 wide[4] = {a[0], a[1], 0, 0};
    mma_bf16(c, wide, b, 0);
}

// Without warpgroups, what kernels do on other GPUs is emulated.
#define WARPGROUPS 0
DEVICE void group_begin() {}
DEVICE void group_commit() {}
DEVICE void group_wait() {}
DEVICE void shared_fence_products() {}

// Asynchronous copies

DEVICE void copy_async(u32 shared, const void* global) { emulator::copy_async(shared, global, 16, 16); }
DEVICE void copy_async_or_zero(u32 shared, const void* global, bool exists) { emulator::copy_async(shared, global, 16, exists ? 16 : 0); }
DEVICE void copy_async_if(u32 shared, const void* global, bool exists)
{
    if (exists) emulator::copy_async(shared, global, 16, 16);
}
DEVICE void copy_async_commit() { emulator::copy_async_commit(); }

template <int Pending>
DEVICE void copy_async_wait() { emulator::copy_async_wait(Pending); }

// Clusters of blocks

DEVICE u32 cluster_rank() { return emulator::cluster_rank(); }
DEVICE void cluster_arrive() { emulator::cluster_arrive(); }
DEVICE void cluster_wait() { emulator::cluster_wait(); }
DEVICE void cluster_sync() { cluster_arrive(); cluster_wait(); }
DEVICE u32 cluster_address(u32 shared, u32 rank) { return emulator::cluster_address(shared, rank); }

// Barriers that count bytes

namespace emulator
{
template <class Value> void store_async(u32 address, Value x, u32 barrier)
{
    if (address >> 24 != barrier >> 24) fail("st.async to one block, counted in another: %08x and %08x", address, barrier);
    *(Value*)shared_pointer("st.async", address, sizeof(Value), true) = x;
    counter_receive(barrier, sizeof(Value));
}
} // namespace emulator

DEVICE void mbarrier_init(u32 barrier, int arrivals) { emulator::counter_init(barrier, arrivals); }
DEVICE void mbarrier_arrive(u32 barrier) { emulator::counter_arrive(barrier, 0); }
DEVICE void mbarrier_arrive_expect(u32 barrier, u32 bytes) { emulator::counter_arrive(barrier, bytes); }
DEVICE void mbarrier_wait(u32 barrier, u32 parity) { emulator::counter_wait(barrier, parity); }
DEVICE void cluster_store_async(u32 address, u32 x, u32 barrier) { emulator::store_async(address, x, barrier); }
DEVICE void cluster_store_async(u32 address, float2 x, u32 barrier) { emulator::store_async(address, x, barrier); }

// Bulk copies

DEVICE void copy_bulk(u32 shared, const void* global, u32 bytes, u32 barrier) { emulator::copy_bulk(shared, global, bytes, barrier); }

// Global memory

DEVICE uint4 load_once(const void* pointer) { return *(const uint4*)emulator::global_pointer("ld.global", pointer, 16); }
