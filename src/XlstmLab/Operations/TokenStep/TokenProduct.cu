// One token of each of a few sequences through a matrix: y[b] = W x[b]. A token reads every weight once and does next to nothing with it, so all
// there is to do is to keep memory busy. A block has 16 rows of W, its warps take turns at pieces of 32 columns, and every thread asks for the
// first of its weights before it waits for the kernel in front of it, whose result it does not need for that: while one kernel ends, the next
// one's weights are on their way.
//
// W's rows are the left operand of mma_bf16, the sequences its columns. Which of 16 inner indices is which does not matter as long as both
// operands agree: a thread takes 8 neighbouring columns of a row in one load, and the same 8 of x.
//
// A norm in front of a matrix, y = W (w x r) with r = (mean(x^2) + epsilon)^-1/2, is divided between kernels: who writes the stream leaves w x and,
// of every 16 channels, the sum of x^2; who reads it multiplies y by r.
//
// Bytes: 2 a weight. 407 M parameters: 0.81 GB a token, 0.27 ms at 3 TB/s; 6.87 G: 4.6 ms.
#include "Ptx.cuh"

// TokenStepKernels.cs tells INPUTS, a multiple of 32; GROUPS, of 8 sequences; WARPS; RESULT, one of those below; and NORMED, whether r is applied.
#define RESULT_PLAIN 0  // y
#define RESULT_STREAM 1 // the stream with y added, and what the next norm needs of it
#define RESULT_GATED 2  // silu(g) u, where the rows of g and of u are two parts
#define RESULT_CAPPED 3 // cap tanh(y / cap), or y if there is no cap
#define PARTS 6
#define ROWS 16
#define PIECES (INPUTS / 32)
#define TURNS ((PIECES + WARPS - 1) / WARPS)
#define STAGE 4 // turns of which the weights are on their way, twice
#define SQUARES (INPUTS / ROWS)
static_assert(INPUTS % 32 == 0, "a piece has 32 columns");

struct Weights
{
    uint4 low[STAGE], high[STAGE]; // of rows g and g + 8
};

DEVICE void load_weights(Weights& w, const bf16* low, const bf16* high, int turn)
{
#pragma unroll
    for (int s = 0; s < STAGE; s++)
    {
        int piece = (turn + s) * WARPS + threadIdx.x / 32, column = 32 * piece + 8 * (threadIdx.x % 4);
        bool exists = turn + s < TURNS && piece < PIECES;
        w.low[s] = exists && low ? load_once(low + column) : make_uint4(0, 0, 0, 0);
        w.high[s] = exists && high ? load_once(high + column) : make_uint4(0, 0, 0, 0);
    }
}

DEVICE void multiply(float (&c)[GROUPS][4], const Weights& w, const bf16* x, int sequences, int turn)
{
#pragma unroll
    for (int s = 0; s < STAGE; s++)
    {
        int piece = (turn + s) * WARPS + threadIdx.x / 32, column = 32 * piece + 8 * (threadIdx.x % 4);
        bool exists = turn + s < TURNS && piece < PIECES;
        const u32 first[4] = {w.low[s].x, w.high[s].x, w.low[s].y, w.high[s].y};
        const u32 second[4] = {w.low[s].z, w.high[s].z, w.low[s].w, w.high[s].w};
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
        {
            int b = 8 * n + threadIdx.x % 32 / 4;
            uint4 right = exists && b < sequences ? *(const uint4*)(x + (i64)b * INPUTS + column) : make_uint4(0, 0, 0, 0);
            mma_bf16(c[n], first, right.x, right.y);
            mma_bf16(c[n], second, right.z, right.w);
        }
    }
}

// The row of the parts one below the other; null past the last.
DEVICE const bf16* row_of(int row, const bf16* const (&weights)[PARTS], const int (&ends)[PARTS])
{
    int begin = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
    {
        if (row < ends[p]) return weights[p] + (i64)(row - begin) * INPUTS;
        begin = ends[p];
    }

    return 0;
}

// x [sequences, INPUTS]; squares [sequences, INPUTS / 16]; weights parts [rows, INPUTS], `ends` the sums of their rows. RESULT_PLAIN and CAPPED:
// y [sequences, rows]. RESULT_GATED: gated [sequences, rows / 2]. RESULT_STREAM, d rows: stream [sequences, d], scaled [sequences, d] by
// `scale` [d], sums [sequences, d / 16].
// Grid: a block for 16 rows; WARPS warps; a Room of shared memory.
struct Room
{
    float partial[WARPS][8 * GROUPS][ROWS + 1], r[8 * GROUPS];
};

KERNEL void __launch_bounds__(32 * WARPS) token_product(
    const bf16* w0, const bf16* w1, const bf16* w2, const bf16* w3, const bf16* w4, const bf16* w5, int e0, int e1, int e2, int e3, int e4, int e5,
    const bf16* x, const float* squares, float* y, bf16* gated, float* stream, const float* scale, bf16* scaled, float* sums,
    int sequences, float epsilon, float cap)
{
    start_dependents();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    const bf16* const weights[PARTS] = {w0, w1, w2, w3, w4, w5};
    const int ends[PARTS] = {e0, e1, e2, e3, e4, e5};
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, rows = e5;
    const bf16* low = RESULT == RESULT_GATED ? w0 + (i64)(blockIdx.x * 8 + row) * INPUTS : row_of(blockIdx.x * ROWS + row, weights, ends);
    const bf16* high = RESULT == RESULT_GATED ? w1 + (i64)(blockIdx.x * 8 + row) * INPUTS : row_of(blockIdx.x * ROWS + row + 8, weights, ends);
    Weights one, other;
    load_weights(one, low, high, 0);
    load_weights(other, low, high, STAGE);
    wait_for_results();

    float c[GROUPS][4] = {};
#pragma unroll
    for (int turn = 0; turn < TURNS; turn += 2 * STAGE)
    {
        multiply(c, one, x, sequences, turn);
        if (turn + 2 * STAGE < TURNS) load_weights(one, low, high, turn + 2 * STAGE);
        if (turn + STAGE < TURNS) multiply(c, other, x, sequences, turn + STAGE);
        if (turn + 3 * STAGE < TURNS) load_weights(other, low, high, turn + 3 * STAGE);
    }

    if (NORMED)
    {
        for (int b = warp; b < sequences; b += WARPS)
        {
            float sum = 0;
            for (int i = lane; i < SQUARES; i += 32) sum += squares[(i64)b * SQUARES + i];
            sum = warp_sum(sum);
            if (lane == 0) room.r[b] = 1.f / sqrtf(sum * (1.f / INPUTS) + epsilon);
        }
    }

#pragma unroll
    for (int n = 0; n < GROUPS; n++)
    {
        int b = 8 * n + 2 * (lane % 4);
        room.partial[warp][b][row] = c[n][0], room.partial[warp][b + 1][row] = c[n][1];
        room.partial[warp][b][row + 8] = c[n][2], room.partial[warp][b + 1][row + 8] = c[n][3];
    }

    __syncthreads();

    // Whole warps take part to the end: 16 lanes sum the squares of their channels.
    for (int i = threadIdx.x; i < (ROWS * sequences + 31) / 32 * 32; i += 32 * WARPS)
    {
        int b = i / ROWS, k = i % ROWS, channel = blockIdx.x * ROWS + k;
        bool exists = b < sequences;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += exists ? room.partial[w][b][k] : 0.f;
        if (NORMED && exists) sum *= room.r[b];
        if (RESULT == RESULT_GATED)
        {
            float up = __shfl_xor_sync(FULL_WARP, sum, 8);
            if (exists && k < 8) gated[(i64)b * (rows / 2) + blockIdx.x * 8 + k] = to_bf16(sum / (1.f + expf(-sum)) * up);
        }
        else if (RESULT == RESULT_STREAM)
        {
            float now = 0;
            if (exists)
            {
                now = stream[(i64)b * rows + channel] + sum;
                stream[(i64)b * rows + channel] = now;
                scaled[(i64)b * rows + channel] = to_bf16(now * scale[channel]);
            }

            now *= now;
#pragma unroll
            for (int o = ROWS / 2; o > 0; o >>= 1) now += __shfl_xor_sync(FULL_WARP, now, o);
            if (exists && k == 0) sums[(i64)b * (rows / ROWS) + blockIdx.x] = now;
        }
        else if (exists && channel < rows)
        {
            y[(i64)b * rows + channel] = RESULT == RESULT_CAPPED && cap > 0 ? cap * tanhf(sum / cap) : sum;
        }
    }
}
