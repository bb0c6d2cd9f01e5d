// The rows of a table for one token of each of a few sequences, as the stream, and what the first norm needs of it (TokenProduct.cu).
#include "Ptx.cuh"

// TokenStepKernels.cs tells WIDTH, d, a multiple of 32; WIDE, whether the table is float32, else bfloat16.
#define THREADS 256
#define ROWS 16

// tokens [sequences]; table [V, d]; stream [sequences, d] float32; scaled [sequences, d] by `scale` [d]; sums [sequences, d / 16].
// Grid: (d / THREADS rounded up, sequences); THREADS threads.
KERNEL void __launch_bounds__(THREADS) token_embedding(
    const i64* tokens, const void* table, float* stream, const float* scale, bf16* scaled, float* sums)
{
    wait_for_predecessors();
    int channel = blockIdx.x * THREADS + threadIdx.x;
    i64 at = (i64)blockIdx.y * WIDTH + channel, from = tokens[blockIdx.y] * WIDTH + channel;
    bool exists = channel < WIDTH;
    float x = !exists ? 0.f : WIDE ? ((const float*)table)[from] : from_bf16(((const bf16*)table)[from]);
    if (exists)
    {
        stream[at] = x;
        scaled[at] = to_bf16(x * scale[channel]);
    }

    x *= x;
#pragma unroll
    for (int o = ROWS / 2; o > 0; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
    if (exists && channel % ROWS == 0) sums[(i64)blockIdx.y * (WIDTH / ROWS) + channel / ROWS] = x;
}
