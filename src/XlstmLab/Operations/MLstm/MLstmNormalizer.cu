// The mLSTM's normaliser n at the chunks' borders, and in the backward pass its gradient:
//     forward   n' = keep n + sum_j write_j k_j,            backward   dn = keep dn' + sum_i read_i dz_i q_i.
// First every chunk's sum by a block of its own, then a walk over the chunks, a thread for each of DQK components.
//
// Bytes: 2 DQK a token and head in, 8 DQK a chunk. Float32, always in the same order.
#include "Ptx.cuh"
#include "MLstmShapes.cuh"

// MLstmSequenceKernel.cs tells DQK and THREADS.
#define PIECES (DQK / 8)
#define GROUPS (THREADS / PIECES) // of threads that share a token

// x: [B, NH, S, DQK] bf16 with strides; weight: [B NH, NC CHUNK], times factor of the same shape or null; sums: [B NH, NC, DQK].
// grid (NC, NH, B), block THREADS, shared 32 THREADS.
KERNEL void __launch_bounds__(THREADS) mlstm_chunk_sums(
    const bf16* RESTRICT x, i64 batch_stride, int head_stride, int token_stride,
    const float* RESTRICT weight, const float* RESTRICT factor, float* RESTRICT sums, int length)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    float* parts = (float*)memory; // [GROUPS, DQK]
    const int chunk = blockIdx.x;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
    const i64 row0 = (head * gridDim.x + chunk) * CHUNK;
    const int piece = threadIdx.x % PIECES, group = threadIdx.x / PIECES;
    x += blockIdx.z * batch_stride + (i64)blockIdx.y * head_stride + piece * 8;
    float sum[8] = {};
    if (group < GROUPS)
    {
        for (int r = group; r < CHUNK && chunk * CHUNK + r < length; r += GROUPS)
        {
            const float w = weight[row0 + r] * (factor ? factor[row0 + r] : 1.f);
            float part[8];
            unpack_bf16x8(part, *(const uint4*)(x + (i64)(chunk * CHUNK + r) * token_stride));
#pragma unroll
            for (int e = 0; e < 8; e++) sum[e] += w * part[e];
        }
#pragma unroll
        for (int e = 0; e < 8; e++) parts[group * DQK + piece * 8 + e] = sum[e];
    }
    __syncthreads();
    for (int d = threadIdx.x; d < DQK; d += THREADS)
    {
        float all = 0.f;
        for (int g = 0; g < GROUPS; g++) all += parts[g * DQK + d];
        sums[(head * gridDim.x + chunk) * DQK + d] = all;
    }
}

// sums: [B NH, NC, DQK], replaced by n before each chunk or, if reverse, by dn after each; first, last: [B NH, DQK], the state to start
// from and the one at the other end, or null. grid (DQK / 32 rounded up, B NH), block 32.
KERNEL void mlstm_normalizer_walk(
    float* RESTRICT sums, const float* RESTRICT keep, const float* RESTRICT first, float* RESTRICT last, int chunks, int reverse)
{
    wait_for_predecessors();
    const i64 head = blockIdx.y;
    const int d = blockIdx.x * 32 + threadIdx.x;
    if (DQK % 32 != 0 && d >= DQK) return;
    sums += head * chunks * DQK + d;
    keep += head * chunks;
    float n = first ? first[head * DQK + d] : 0.f;
#pragma unroll 4
    for (int step = 0; step < chunks; step++)
    {
        const int c = reverse ? chunks - 1 - step : step;
        const float sum = sums[(i64)c * DQK];
        sums[(i64)c * DQK] = n;
        n = keep[c] * n + sum;
    }
    if (last) last[head * DQK + d] = n;
}
