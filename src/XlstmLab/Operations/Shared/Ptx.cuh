// What CUDA C++ alone does not say: bfloat16, tensor cores, asynchronous copies and clusters, each one PTX instruction behind a name.
// Kernels hold no assembly of their own, so that an emulator can put its own header of this name in the place of this one.
#pragma once

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__
#define RESTRICT __restrict__

// The block's dynamic shared memory; there is no other.
#define SHARED_MEMORY(name) extern __shared__ __align__(1024) unsigned char name[]

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef u16 bf16; // the upper half of a float32

#define FULL_WARP 0xffffffffu
#define MINUS_INFINITY __int_as_float(0xff800000)

// Numbers

// Two bfloat16 in a word, the first in the low half; rounded to nearest even.
DEVICE u32 pack_bf16(float low, float high)
{
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

DEVICE bf16 to_bf16(float x) { return (bf16)(pack_bf16(x, 0.f) & 0xffffu); }
DEVICE float from_bf16(bf16 x) { return __uint_as_float((u32)x << 16); }
DEVICE float low_bf16(u32 word) { return __uint_as_float(word << 16); }
DEVICE float high_bf16(u32 word) { return __uint_as_float(word & 0xffff0000u); }

// x y + z of two bfloat16 in a word, rounded once; with subnormal numbers.
DEVICE u32 multiply_add_bf16x2(u32 x, u32 y, u32 z)
{
    u32 word;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(word) : "r"(x), "r"(y), "r"(z));
    return word;
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

// Two float16 in a word, the first in the low half: ten bits of fraction, for what is stored and lies well within +-65504.
DEVICE u32 pack_f16(float low, float high)
{
    u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

DEVICE float low_f16(u32 word)
{
    float x;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(x) : "r"(word));
    return x;
}

DEVICE float high_f16(u32 word)
{
    float x;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(x) : "r"(word));
    return x;
}

// 2^x, to 2 units in the last place; 0 at minus infinity.
DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float reciprocal_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float tanh_fast(float x) // to 2^-11 relative
{
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Kernels of one stream

// The first that every kernel does. It may be there before the one in front of it has ended, as CudaDevice asks for, and may touch memory
// only after this; the next may come as soon as all blocks of this one are here.
DEVICE void wait_for_predecessors()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The same in two halves, for kernels that read what nobody in front of them writes before they wait. A kernel behind may then be there
// before those in front have ended, and waits for this one, which has waited for them.
DEVICE void start_dependents()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

DEVICE void wait_for_results()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Warps

DEVICE float warp_sum(float x)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
    return x;
}

DEVICE float warp_max(float x)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, o));
    return x;
}

// A barrier of some of the block's warps, which are so many threads: they have a number, from 1 on, as 0 is __syncthreads'.
template <int Id, int Threads>
DEVICE void sync_warps() { asm volatile("bar.sync %0, %1;" :: "n"(Id), "n"(Threads) : "memory"); }

// Shared memory and tensor cores

// An address of shared memory as the instructions below take it: bytes from its start.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Four (two) 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8. Register r of lane l then has elements
// 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix r, or, transposed, of its column l / 4.
DEVICE void load_matrix_x4(u32 (&r)[4], u32 address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

DEVICE void load_matrix_x4_transposed(u32 (&r)[4], u32 address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

DEVICE void load_matrix_x2_transposed(u32 (&r)[2], u32 address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}

// The way back of load_matrix_x4 (sm_90).
DEVICE void store_matrix_x4(u32 address, const u32 (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"
                 :: "r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

DEVICE void store_matrix_x4_transposed(u32 address, const u32 (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"
                 :: "r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// The 8x8 matrix that the warp holds as load_matrix_x4 leaves one, transposed.
DEVICE u32 transpose_matrix(u32 x)
{
    u32 word;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(word) : "r"(x));
    return word;
}

// c += a b: a is 16 x 16 by rows, b 16 x 8 by columns, bfloat16; c 16 x 8, float32. With g = lane / 4 and t = lane % 4:
// a[0], a[1] are rows g, g + 8 at columns 2t, 2t + 1, a[2], a[3] the same at columns 2t + 8, 2t + 9;
// b0, b1 are rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g; c[0], c[1] row g and c[2], c[3] row g + 8 at columns 2t, 2t + 1.
DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with half the inner dimension: a is 16 x 8, its registers rows g and g + 8 at columns 2t, 2t + 1; b is rows 2t, 2t + 1 of column
// g.
DEVICE void mma_bf16_k8(float (&c)[4], const u32 (&a)[2], u32 b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Products of warpgroups (sm_90a): four warps, the first of them a multiple of four, multiply 64 rows by N columns, straight out of shared
// memory. WARPGROUPS says whether there are any; the emulator has none.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WARPGROUPS 1

// Before the first product after the sums' or the left operand's registers were used; behind the last; and before what needs the sums, or
// writes over the operands.
DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
DEVICE void group_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Makes what the thread's stores and copies put into shared memory visible to these products; then comes the block's barrier.
DEVICE void shared_fence_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// An operand: rows of 128 bytes, their 16-byte pieces exchanged, piece p of a row lying at p ^ row % 8. Either the operand's 64 rows (N
// columns) are rows, of which 16 elements from `address` on are multiplied, or it lies the other way: 16 rows of 64, from `address` on, and
// the next 64 in a panel that begins `panel` bytes further. Panels are aligned to 1024 bytes.
DEVICE u64 group_operand(u32 address, u32 panel)
{
    return (u64)(address >> 4 & 0x3fff) | (u64)(panel >> 4 & 0x3fff) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define GROUP_SUMS_8(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define GROUP_SUMS_PIECE(j) GROUP_SUMS_8(j), GROUP_SUMS_8(j + 1), GROUP_SUMS_8(j + 2), GROUP_SUMS_8(j + 3)
#define GROUP_SUMS_32 GROUP_SUMS_PIECE(0)
#define GROUP_SUMS_64 GROUP_SUMS_32, GROUP_SUMS_PIECE(4)
#define GROUP_SUMS_96 GROUP_SUMS_64, GROUP_SUMS_PIECE(8)
#define GROUP_SUMS_128 GROUP_SUMS_96, GROUP_SUMS_PIECE(12)
#define GROUP_NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define GROUP_NAMES_64 GROUP_NAMES_32 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define GROUP_NAMES_96 GROUP_NAMES_64 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define GROUP_NAMES_128 GROUP_NAMES_96 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// c += a b, 64 x N: the warp's 16 rows as mma_bf16 has them, c[j] being columns 8 j to 8 j + 7. With A_TRANSPOSED the left operand has a
// row for an inner index, without B_TRANSPOSED the right one has. N is 32, 64, 96 or 128.
#define GROUP_MULTIPLY(n, a, b, one, b_transposed, a_transposed)                                                                   \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #one ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" GROUP_NAMES_##n \
                 "}, %" #a ", %" #b ", p, 1, 1, %" #a_transposed ", %" #b_transposed "; }"                                           \
                 : GROUP_SUMS_##n : "l"(left), "l"(right), "r"(1), "n"(B_TRANSPOSED ? 0 : 1), "n"(A_TRANSPOSED ? 1 : 0))

template <int N, bool A_TRANSPOSED, bool B_TRANSPOSED>
DEVICE void group_multiply(float (*c)[4], u64 left, u64 right)
{
    static_assert(N == 32 || N == 64 || N == 96 || N == 128, "as many columns");
    if constexpr (N == 32) GROUP_MULTIPLY(32, 16, 17, 18, 19, 20);
    else if constexpr (N == 64) GROUP_MULTIPLY(64, 32, 33, 34, 35, 36);
    else if constexpr (N == 96) GROUP_MULTIPLY(96, 48, 49, 50, 51, 52);
    else GROUP_MULTIPLY(128, 64, 65, 66, 67, 68);
}

// The same with the left operand's 16 rows in the warp's registers, as mma_bf16 takes them.
#define GROUP_MULTIPLY_REGISTERS(n, a0, a1, a2, a3, b, one, b_transposed)                                                          \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #one ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" GROUP_NAMES_##n \
                 "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b ", p, 1, 1, %" #b_transposed "; }"                                 \
                 : GROUP_SUMS_##n                                                                                                  \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(1), "n"(B_TRANSPOSED ? 0 : 1))

template <int N, bool B_TRANSPOSED>
DEVICE void group_multiply(float (*c)[4], const u32 (&left)[4], u64 right)
{
    static_assert(N == 32 || N == 64 || N == 96 || N == 128, "as many columns");
    if constexpr (N == 32) GROUP_MULTIPLY_REGISTERS(32, 16, 17, 18, 19, 20, 21, 22);
    else if constexpr (N == 64) GROUP_MULTIPLY_REGISTERS(64, 32, 33, 34, 35, 36, 37, 38);
    else if constexpr (N == 96) GROUP_MULTIPLY_REGISTERS(96, 48, 49, 50, 51, 52, 53, 54);
    else GROUP_MULTIPLY_REGISTERS(128, 64, 65, 66, 67, 68, 69, 70);
}
#else
#define WARPGROUPS 0
DEVICE void group_begin() {}
DEVICE void group_commit() {}
DEVICE void group_wait() {}
DEVICE void shared_fence_products() {}
#endif

// Asynchronous copies of 16 bytes from global to shared memory, past the first-level cache.

DEVICE void copy_async(u32 shared, const void* global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared), "l"(global) : "memory");
}

// Zeros where there is nothing to copy; the pointer is not read then, but must be one.
DEVICE void copy_async_or_zero(u32 shared, const void* global, bool exists)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared), "l"(global), "r"(exists ? 16 : 0) : "memory");
}

// By threads that have something to copy, without a branch.
DEVICE void copy_async_if(u32 shared, const void* global, bool exists)
{
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16; }"
                 :: "r"(shared), "l"(global), "r"((int)exists) : "memory");
}

DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most this many of the thread's committed groups are on their way.
template <int Pending>
DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(Pending) : "memory"); }

// Clusters of blocks (sm_90)

DEVICE u32 cluster_rank()
{
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// What was written to any shared memory of the cluster before the arrival is seen after the wait.
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE void cluster_sync() { cluster_arrive(); cluster_wait(); }

// The address, for the instructions below, of the same place in another block's shared memory.
DEVICE u32 cluster_address(u32 shared, u32 rank)
{
    u32 address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

// Barriers in shared memory, 8 bytes each, that count bytes (sm_90): a phase ends when the expected bytes are there, and the arrivals.
// What a thread did before it arrives is done for who waited for the phase. An arrival that expects bytes may come after some of them have.

DEVICE void mbarrier_init(u32 barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEVICE void mbarrier_arrive(u32 barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

DEVICE void mbarrier_arrive_expect(u32 barrier, u32 bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

// Waits for the end of the phase of this parity: 0 is the first, 1 the next, 0 the third. What was counted came to shared memory, which no
// cache is in front of: so the wait acquires within the block alone, as one in the cluster would empty the first-level cache, for 300
// cycles.
DEVICE void mbarrier_wait(u32 barrier, u32 parity)
{
    u32 is_over;
    do
    {
        asm volatile("{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;"
                     " selp.u32 %0, 1, 0, over; }" : "=r"(is_over) : "r"(barrier), "r"(parity) : "memory");
    } while (!is_over);
}

// A store to a block of the cluster that is counted by a barrier of the same block; seen by who waited for the phase.
DEVICE void cluster_store_async(u32 address, u32 x, u32 barrier)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
                 :: "r"(address), "r"(x), "r"(barrier) : "memory");
}

DEVICE void cluster_store_async(u32 address, float2 x, u32 barrier)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1,%2}, [%3];"
                 :: "r"(address), "r"(__float_as_uint(x.x)), "r"(__float_as_uint(x.y)), "r"(barrier) : "memory");
}

// Copies from global to the block's shared memory that a barrier of the block counts (sm_90): addresses and bytes are multiples of 16. They
// pass neither registers nor the first-level cache, and one instruction of one thread asks for all of it.
DEVICE void copy_bulk(u32 shared, const void* global, u32 bytes, u32 barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared), "l"(global), "r"(bytes), "r"(barrier) : "memory");
}

// Global memory, 16 bytes at a time; what is read once should not displace the caches' content.

DEVICE uint4 load_once(const void* pointer)
{
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(pointer));
    return x;
}
