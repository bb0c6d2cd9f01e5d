// The mLSTM's matrix memory at the chunks' borders, and in the backward pass its gradient:
//     forward   C' = keep C + sum_j write_j k_j v_j^T,      backward   dC = keep dC' + sum_i (read_i / D_i) q_i dh_i^T.
//
// A block owns STATE_M x STATE_N of a head's memory, keeps it in registers in float32 and walks the chunks; the tokens of the next steps
// come into shared memory meanwhile. Before every chunk it writes the memory as bfloat16, for the products that read it.
// With weights w, x and y: memory += (w x)^T y; w x is rounded to bfloat16, w is not: a key's weight would be wrong for all that read it.
//
// Operations: 2 DQK DHV a token and head. Bytes: x once a tile of columns, y once a tile of rows, 2 DQK DHV a chunk written:
// at 8,4,2048,128,256 34 MB of memory and 50 MB of reads, 4 GFLOP: 0.03 ms. Always in the same order.
#include "MLstmTiles.cuh"

// MLstmSequenceKernel.cs tells STATE_M and STATE_N, the tile of the memory; STATE_STEP, the tokens of a step; STATE_STAGES; and STATE_BYTES.
static_assert(QK_WHOLE % STATE_M == 0 && HV_WHOLE % STATE_N == 0 && STATE_M % 32 == 0 && STATE_N % 32 == 0, "a warp has 32 x 32");
static_assert(CHUNK % STATE_STEP == 0, "a step lies in a chunk");
#define STEPS (CHUNK / STATE_STEP)
#define WARPS_N (STATE_N / 32)
#define THREADS (32 * (STATE_M / 32) * WARPS_N)

#define X_BYTES (STATE_STEP * PITCH(STATE_M))
#define Y_BYTES (STATE_STEP * PITCH(STATE_N))
static_assert(STATE_BYTES == X_BYTES + Y_BYTES + STATE_STEP * 4, "a stage has weights, too");

DEVICE void load_step(u32 stage, Rows x, Rows y, const float* weight, int step, int m0, int n0)
{
    const int row = step * STATE_STEP;
    load_tile<STATE_STEP, STATE_M, THREADS, DQK>(stage, x, row, m0);
    load_tile<STATE_STEP, STATE_N, THREADS, DHV>(stage + X_BYTES, y, row, n0);
    for (int r = threadIdx.x * 4; r < STATE_STEP; r += THREADS * 4) copy_async(stage + X_BYTES + Y_BYTES + r * 4, weight + row + r);
}

// f(element, its place in the memory) of the warp's part of the tile whose first element is at (m, n), as far as there is such a place.
template <class F>
DEVICE void for_memory(Sums<32, 32>& sums, int m, int n, F f)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const int row = m + 16 * i + e / 2 * 8 + lane / 4, column = n + 8 * j + lane % 4 * 2 + e % 2;
                if (has_column<DQK, STATE_M>(row) && has_column<DHV, STATE_N>(column)) f(sums.sum[i][j][e], (i64)row * DHV + column);
            }
}

DEVICE u32 scale_bf16x2(u32 pair, float2 w) { return pack_bf16(low_bf16(pair) * w.x, high_bf16(pair) * w.y); }

// x: [B, NH, S, DQK], y: [B, NH, S, DHV] bf16 with strides; weight: [B NH, NC CHUNK]; keep: [B NH, NC];
// first, last: [B NH, DQK, DHV] float32, the memory to start from and the one at the other end, or null; states: [B NH, NC, DQK, DHV] bf16,
// the memory before each chunk or, if reverse, behind it.
// grid (QK_WHOLE / STATE_M x HV_WHOLE / STATE_N, NH, B), block THREADS, shared STATE_STAGES STATE_BYTES + STATE_M PITCH(STATE_N).
KERNEL void __launch_bounds__(THREADS) mlstm_states(
    const bf16* RESTRICT x, i64 x_batch, int x_head, int x_token, const bf16* RESTRICT y, i64 y_batch, int y_head, int y_token,
    const float* RESTRICT weight, const float* RESTRICT keep, const float* RESTRICT first, float* RESTRICT last, bf16* RESTRICT states,
    int length, int reverse)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    unsigned char* staged = memory + STATE_STAGES * STATE_BYTES;
    const u32 stages = shared_address(memory);
    const int chunks = (length + CHUNK - 1) / CHUNK;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
    const int m0 = blockIdx.x / (HV_WHOLE / STATE_N) * STATE_M, n0 = blockIdx.x % (HV_WHOLE / STATE_N) * STATE_N;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = warp / WARPS_N * 32, n = warp % WARPS_N * 32;
    weight += head * chunks * CHUNK;
    keep += head * chunks;
    states += head * chunks * DQK * DHV + (i64)m0 * DHV;

    Sums<32, 32> sums;
    sums.clear();
    if (first)
    {
        first += head * DQK * DHV;
        for_memory(sums, m0 + m, n0 + n, [&](float& sum, i64 at) { sum = first[at]; });
    }

    auto load = [&](int step) {
        if (step < chunks * STEPS)
        {
            const int chunk = reverse ? chunks - 1 - step / STEPS : step / STEPS;
            const Rows xs = rows_of(x, x_batch, x_head, x_token, chunk, length), ys = rows_of(y, y_batch, y_head, y_token, chunk, length);
            load_step(stages + step % STATE_STAGES * STATE_BYTES, xs, ys, weight + chunk * CHUNK, step % STEPS, m0, n0);
        }
        copy_async_commit();
    };
    for (int step = 0; step < STATE_STAGES - 1; step++) load(step);
    stage_tile<32, 32, STATE_N>(staged, sums, m, n);
    float factor = keep[reverse ? chunks - 1 : 0];
    for (int step = 0; step < chunks * STEPS; step++)
    {
        copy_async_wait<STATE_STAGES - 2>();
        __syncthreads();
        load(step + STATE_STAGES - 1);
        if (step % STEPS == 0)
        {
            const int chunk = reverse ? chunks - 1 - step / STEPS : step / STEPS;
            store_tile<STATE_M, STATE_N, THREADS, DHV>(states + (i64)chunk * DQK * DHV, DHV, staged, DQK % STATE_M == 0 ? STATE_M : DQK - m0, n0);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) sums.sum[i][j][e] *= factor;
            factor = keep[max(0, min(chunks - 1, reverse ? chunk - 1 : chunk + 1))];
        }

        const u32 stage = stages + step % STATE_STAGES * STATE_BYTES;
        const float* weights = (const float*)(memory + step % STATE_STAGES * STATE_BYTES + X_BYTES + Y_BYTES);
#pragma unroll
        for (int k = 0; k < STATE_STEP; k += 16)
        {
            const float2 low = *(const float2*)(weights + k + lane % 4 * 2), high = *(const float2*)(weights + k + 8 + lane % 4 * 2);
            u32 a[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
            {
                load_left<STATE_M, true>(a[i], stage, m + 16 * i, k);
                a[i][0] = scale_bf16x2(a[i][0], low);
                a[i][1] = scale_bf16x2(a[i][1], low);
                a[i][2] = scale_bf16x2(a[i][2], high);
                a[i][3] = scale_bf16x2(a[i][3], high);
            }
#pragma unroll
            for (int j = 0; j < 2; j++)
            {
                u32 b[4];
                load_right<STATE_N, false>(b, stage + X_BYTES, k, n + 16 * j);
#pragma unroll
                for (int i = 0; i < 2; i++)
                {
                    mma_bf16(sums.sum[i][2 * j], a[i], b[0], b[1]);
                    mma_bf16(sums.sum[i][2 * j + 1], a[i], b[2], b[3]);
                }
            }
        }
        if (step % STEPS == STEPS - 1 && step + 1 < chunks * STEPS) stage_tile<32, 32, STATE_N>(staged, sums, m, n);
    }

    if (last)
    {
        last += head * DQK * DHV;
        for_memory(sums, m0 + m, n0 + n, [&](float& sum, i64 at) { last[at] = sum; });
    }
}
