// The likeliest id of each row of logits with its logarithm of probability, and the logits of the known ids for whoever draws another one.
// Bytes a row of 50,304: 0.4 MB, which the second-level cache has: 1 us; a cluster of SLICES blocks has a row, so that one is not left to a single
// multiprocessor. libtorch's operations for it are some fifteen kernels of 2 us and more.
#include "Ptx.cuh"

// TokenStepKernels.cs tells THREADS and SLICES.
#define WARPS (THREADS / 32)

struct Room
{
    u64 arrivals;
    float2 best[SLICES], sums[SLICES]; // of two words each: a key, and a double
    u64 keys[WARPS];
    double parts[WARPS];
};
static_assert(sizeof(Room) == ROOM_BYTES, "as the host makes room for it");

// Keys are in the order of numbers, and of equal ones in the reverse order of ids; no number (NaN) comes before all.
DEVICE u64 key_of(float x, int id)
{
    u32 bits = __float_as_uint(x + 0.f);
    bits = x != x ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)bits << 32 | ~(u32)id;
}

DEVICE float number_of(u64 key)
{
    u32 bits = (u32)(key >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

DEVICE u64 larger(u64 x, u64 y) { return x > y ? x : y; }
DEVICE float2 words(u64 x) { return make_float2(__uint_as_float((u32)x), __uint_as_float((u32)(x >> 32))); }
DEVICE u64 whole(float2 x) { return (u64)__float_as_uint(x.y) << 32 | __float_as_uint(x.x); }

// logits [rows, vocabulary]; known [rows, ids]; likeliest [rows, 2]: id and logarithm. Grid: (SLICES, rows) in clusters of SLICES; THREADS threads; a
// Room of shared memory.
KERNEL void __launch_bounds__(THREADS) token_choice(const float* logits, float* known, double* likeliest, i64 vocabulary, int ids)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    int slice = blockIdx.x, row = blockIdx.y, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    if (thread == 0)
    {
        mbarrier_init(shared_address(&room.arrivals), 1);
        mbarrier_arrive_expect(shared_address(&room.arrivals), SLICES * 16);
    }

    cluster_sync();
    const float* from = logits + row * vocabulary;
    int width = (ids + SLICES - 1) / SLICES, begin = slice * width, end = begin + width < ids ? begin + width : ids;
    u64 best = 0;
    for (int i = begin + thread; i < end; i += THREADS)
    {
        float x = from[i];
        known[(i64)row * ids + i] = x;
        best = larger(best, key_of(x, i));
    }

#pragma unroll
    for (int o = 16; o > 0; o >>= 1) best = larger(best, __shfl_xor_sync(FULL_WARP, best, o));
    if (lane == 0) room.keys[warp] = best;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) best = larger(best, room.keys[w]);
    double most = number_of(best), sum = 0;
    for (int i = begin + thread; i < end; i += THREADS) sum += exp(from[i] - most);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (lane == 0) room.parts[warp] = sum;
    __syncthreads();
    if (thread == 0)
    {
        sum = 0;
        for (int w = 0; w < WARPS; w++) sum += room.parts[w];
        u32 arrivals = cluster_address(shared_address(&room.arrivals), 0);
        cluster_store_async(cluster_address(shared_address(&room.best[slice]), 0), words(best), arrivals);
        cluster_store_async(cluster_address(shared_address(&room.sums[slice]), 0), words((u64)__double_as_longlong(sum)), arrivals);
    }

    if (slice != 0 || thread != 0) return;
    mbarrier_wait(shared_address(&room.arrivals), 0);
    for (int s = 0; s < SLICES; s++) best = larger(best, whole(room.best[s]));
    most = number_of(best), sum = 0;
    for (int s = 0; s < SLICES; s++)
    {
        u64 key = whole(room.best[s]);
        if (key) sum += __longlong_as_double((i64)whole(room.sums[s])) * exp(number_of(key) - most); // a last slice may have no ids
    }

    likeliest[2 * row] = (int)~(u32)best;
    likeliest[2 * row + 1] = -log(sum);
}
