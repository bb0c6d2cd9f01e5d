// Dropout: y = x scale where the element is kept, else 0. Which elements are kept follows from a key and their places alone, so that the
// backward pass, y = dy scale over the same places, needs nothing kept, and a resumed run nothing but its keys. Element i is kept if
// the upper half of the i-th number of SplitMix64 (Steele, Lea and Flood 2014) from the key on is at least the threshold, share 2^32.
// Bytes an element: 4 in bfloat16, 8 in float32. Operations: about 20 of 32 bits, which take longer than the memory: 16384 x 384: 8 and 9
// us.
#include "Ptx.cuh"

// DropoutKernel.cs tells WIDE, whether elements are float32 and not bfloat16, and THREADS.

#define VECTOR (WIDE ? 4 : 8) // elements of 16 bytes

// Whether the element is kept whose number is mixed from this one.
DEVICE bool keeps(u64 z, u32 threshold)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    u32 high = (u32)(z >> 32);
    return (high ^ (high >> 31)) >= threshold;
}

// A recorded graph reads its key from memory, another at each start. A thread has 16 bytes at a time.
// Grid: at most one thread for 16 bytes, each of which takes every so many; no shared memory.
KERNEL void __launch_bounds__(THREADS) dropout(
    const void* x, void* y, i64 key, const i64* RESTRICT kept_key, i64 threshold, i64 count, float scale)
{
    wait_for_predecessors();
    if (kept_key) key = *kept_key;
    bool aligned = (((u64)x | (u64)y) & 15) == 0;
    for (i64 i = VECTOR * ((i64)blockIdx.x * THREADS + threadIdx.x); i < count; i += VECTOR * (i64)gridDim.x * THREADS)
    {
        u64 z = (u64)key + (u64)(i + 1) * 0x9E3779B97F4A7C15ull;
        bool kept[VECTOR];
#pragma unroll
        for (int e = 0; e < VECTOR; e++) kept[e] = keeps(z + e * 0x9E3779B97F4A7C15ull, (u32)threshold);
        if (aligned && i + VECTOR <= count)
        {
            if (WIDE)
            {
                float4 v = *(const float4*)((const float*)x + i);
                v.x = kept[0] ? v.x * scale : 0.f, v.y = kept[1] ? v.y * scale : 0.f;
                v.z = kept[2] ? v.z * scale : 0.f, v.w = kept[3] ? v.w * scale : 0.f;
                *(float4*)((float*)y + i) = v;
            }
            else
            {
                float v[8];
                unpack_bf16x8(v, *(const uint4*)((const bf16*)x + i));
#pragma unroll
                for (int e = 0; e < VECTOR; e++) v[e] = kept[e] ? v[e] * scale : 0.f;
                *(uint4*)((bf16*)y + i) = pack_bf16x8(v);
            }
        }
        else
        {
            for (int e = 0; e < VECTOR && i + e < count; e++)
            {
                if (WIDE) ((float*)y)[i + e] = kept[e] ? ((const float*)x)[i + e] * scale : 0.f;
                else ((bf16*)y)[i + e] = kept[e] ? to_bf16(from_bf16(((const bf16*)x)[i + e]) * scale) : (bf16)0;
            }
        }
    }
}
