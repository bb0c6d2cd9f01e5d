// Dropout: y = x scale where the element is kept, else 0. Which elements are kept follows from a key and their places alone, so that the
// backward pass, y = dy scale over the same places, needs nothing kept, and a resumed run nothing but its keys. Element i is kept if
// the upper half of the i-th number of SplitMix64 (Steele, Lea and Flood 2014) from the key on is at least the threshold, share 2^32.
// Bytes an element: 4 in bfloat16, 8 in float32. Operations: about 15, mostly of 64 bits, which hide behind the memory.
#include "Ptx.cuh"

// DropoutKernel.cs tells WIDE, whether elements are float32 and not bfloat16, and THREADS.

// A recorded graph reads its key from memory, another at each start.
// Grid: at most one thread an element, each of which takes every so many; no shared memory.
KERNEL void __launch_bounds__(THREADS) dropout(
    const void* x, void* y, i64 key, const i64* RESTRICT kept_key, i64 threshold, i64 count, float scale)
{
    wait_for_predecessors();
    if (kept_key) key = *kept_key;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS)
    {
        u64 z = (u64)key + (u64)(i + 1) * 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        z = z ^ (z >> 31);
        bool kept = (i64)(z >> 32) >= threshold;
        if (WIDE) ((float*)y)[i] = kept ? ((const float*)x)[i] * scale : 0.f;
        else ((bf16*)y)[i] = kept ? to_bf16(from_bf16(((const bf16*)x)[i]) * scale) : (bf16)0;
    }
}
