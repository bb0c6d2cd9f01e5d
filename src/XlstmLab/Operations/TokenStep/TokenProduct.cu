// One token of each of a few sequences through a matrix: y[b] = W x[b]. A token reads every weight once and does next to nothing with it,
// so all there is to do is to keep memory busy. A block has 16 rows of W, its warps take turns at pieces of 32 columns, and every thread
// asks for the first of its weights before it waits for the kernel in front of it, whose result it does not need for that: while one kernel
// ends, the next one's weights are on their way.
//
// W's rows are the left operand of mma_bf16, the sequences its columns. Which of 16 inner indices is which does not matter as long as both
// operands agree: a thread takes 8 neighbouring columns of a row in one load, and the same 8 of x.
//
// A norm in front of a matrix, y = W (w x r) with r = (mean(x^2) + epsilon)^-1/2, is divided between kernels: who writes the stream leaves
// w x and, of every 16 channels, the sum of x^2; who reads it multiplies y by r.
//
// Weights of one byte, int8 or fp8 (e4m3), have a unit a row, by which its sum is multiplied at the end; they become bfloat16 in registers,
// where all of either are exact. A load is 16 bytes all the same, of 16 columns then, a piece 64: as many bytes are on their way by as many
// loads as of bfloat16, and half the turns are left, so that of 1024 columns every weight is asked for before the wait. What is beside them
// in bfloat16 (the gates) has blocks of its own.
//
// Bytes: 2 a weight. 407 M parameters: 0.81 GB a token, 0.27 ms at 3 TB/s; 6.87 G: 4.6 ms. Of one byte, counted without the embedding, of
// which a token reads a row: 355 M of projections and head, 1.2 MB of units, 0.8 MB of gates, so 0.36 GB and 0.12 ms; 6.67 GB and 2.2 ms.
#include "Ptx.cuh"

// TokenStepKernels.cs tells INPUTS, a multiple of 32; GROUPS, of 8 sequences; WARPS; RESULT, one of those below; NORMED, whether r is
// applied; and WEIGHTS, one of those below, where they are not bfloat16.
#define RESULT_PLAIN 0  // y
#define RESULT_STREAM 1 // the stream with y added, and what the next norm needs of it
#define RESULT_GATED 2  // silu(g) u, where the rows of g and of u are two parts
#define RESULT_CAPPED 3 // cap tanh(y / cap), or y if there is no cap
#define WEIGHTS_BF16 0
#define WEIGHTS_INT8 1
#define WEIGHTS_FP8 2
#ifndef WEIGHTS
#define WEIGHTS WEIGHTS_BF16
#endif
#define PARTS 6
#define ROWS 16
#define STAGE 4 // turns of which the weights are on their way, twice
#define SQUARES (INPUTS / ROWS)
static_assert(INPUTS % 32 == 0, "a row is whole loads");

// What a thread loads at a time of a row, and a warp; and how many turns the warps take.
template <int Format> struct Piece
{
    static const int BYTES = Format == WEIGHTS_BF16 ? 2 : 1, COLUMNS = 16 / BYTES, WIDTH = 4 * COLUMNS;
    static const int TURNS = ((INPUTS + WIDTH - 1) / WIDTH + WARPS - 1) / WARPS;
};

struct Weights
{
    uint4 low[STAGE], high[STAGE]; // of rows g and g + 8
};

template <int Format> DEVICE int column_of(int turn)
{
    return (turn * WARPS + threadIdx.x / 32) * Piece<Format>::WIDTH + threadIdx.x % 4 * Piece<Format>::COLUMNS;
}

template <int Format> DEVICE void load_weights(Weights& w, const char* low, const char* high, int turn)
{
#pragma unroll
    for (int s = 0; s < STAGE; s++)
    {
        int column = column_of<Format>(turn + s);
        bool exists = turn + s < Piece<Format>::TURNS && column < INPUTS;
        w.low[s] = exists && low ? load_once(low + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
        w.high[s] = exists && high ? load_once(high + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
    }
}

// Two neighbouring weights of the four in a word. A whole number is 0x4300 with its lower 7 bits, 128 + bits, less 128, or 256 where its
// highest bit is set. Of e4m3 exponent and fraction take their places in bfloat16, and times 2^120 is the difference of what exponents
// begin at; its NaN, 0x7f, is none here.
template <int Format> DEVICE u32 widen(u32 word, bool upper)
{
    if constexpr (Format == WEIGHTS_INT8)
    {
        u32 pair = __byte_perm(word, 0x43434343u, upper ? 0x4342 : 0x4140);
        return multiply_add_bf16x2(pair & 0xff80ff80u, 0xbf80bf80u, pair & 0xff7fff7fu);
    }
    else
    {
        u32 pair = __byte_perm(word, 0, upper ? 0x3424 : 0x1404);
        return multiply_add_bf16x2((pair >> 4 & 0x07f007f0u) | (pair & 0x80008000u), 0x7b807b80u, 0x80008000u);
    }
}

template <int Format> DEVICE void widen(u32 (&pairs)[Piece<Format>::COLUMNS / 2], uint4 words)
{
    const u32 four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < Piece<Format>::COLUMNS / 2; i++)
    {
        if constexpr (Format == WEIGHTS_BF16) pairs[i] = four[i];
        else pairs[i] = widen<Format>(four[i / 2], i % 2);
    }
}

template <int Format> DEVICE void multiply(float (&c)[GROUPS][4], const Weights& w, const bf16* x, int sequences, int turn)
{
#pragma unroll
    for (int s = 0; s < STAGE; s++)
    {
        if (turn + s >= Piece<Format>::TURNS) break;
        int column = column_of<Format>(turn + s);
        u32 low[Piece<Format>::COLUMNS / 2], high[Piece<Format>::COLUMNS / 2];
        widen<Format>(low, w.low[s]);
        widen<Format>(high, w.high[s]);
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
        {
            int b = 8 * n + threadIdx.x % 32 / 4;
            bool exists = column < INPUTS && b < sequences;
#pragma unroll
            for (int i = 0; i < Piece<Format>::COLUMNS / 2; i += 4)
            {
                uint4 right = exists ? *(const uint4*)(x + (i64)b * INPUTS + column + 2 * i) : make_uint4(0, 0, 0, 0);
                const u32 first[4] = {low[i], high[i], low[i + 1], high[i + 1]};
                const u32 second[4] = {low[i + 2], high[i + 2], low[i + 3], high[i + 3]};
                mma_bf16(c[n], first, right.x, right.y);
                mma_bf16(c[n], second, right.z, right.w);
            }
        }
    }
}

template <int Format> DEVICE void ask(Weights& one, Weights& other, const char* low, const char* high)
{
    load_weights<Format>(one, low, high, 0);
    load_weights<Format>(other, low, high, STAGE);
}

// The warp's part of the products of rows whose first weights were asked for.
template <int Format>
DEVICE void sum_rows(float (&c)[GROUPS][4], Weights& one, Weights& other, const char* low, const char* high, const bf16* x, int sequences)
{
    const int turns = Piece<Format>::TURNS;
#pragma unroll
    for (int turn = 0; turn < turns; turn += 2 * STAGE)
    {
        multiply<Format>(c, one, x, sequences, turn);
        if (turn + 2 * STAGE < turns) load_weights<Format>(one, low, high, turn + 2 * STAGE);
        if (turn + STAGE < turns) multiply<Format>(c, other, x, sequences, turn + STAGE);
        if (turn + 3 * STAGE < turns) load_weights<Format>(other, low, high, turn + 3 * STAGE);
    }
}

// The row of the parts one below the other, of which the first has WEIGHTS and the others bfloat16; null from `end` on.
DEVICE const char* row_of(int row, int end, const void* const (&weights)[PARTS], const int (&ends)[PARTS])
{
    int begin = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
    {
        if (row < end && row < ends[p]) return (const char*)weights[p] + (i64)(row - begin) * (INPUTS * (p > 0 ? 2 : Piece<WEIGHTS>::BYTES));
        begin = ends[p];
    }

    return 0;
}

// x [sequences, INPUTS]; squares [sequences, INPUTS / 16]; weights parts [rows, INPUTS], `ends` the sums of their rows. RESULT_PLAIN and
// CAPPED: y [sequences, rows]. RESULT_GATED: gated [sequences, rows / 2]. RESULT_STREAM, d rows: stream [sequences, d], scaled [sequences,
// d] by `scale` [d], sums [sequences, d / 16]. Of weights of one byte the first part (of RESULT_GATED the first two) has them, with
// `units`, a row each. Grid: a block for 16 rows, none with rows of one byte and of two; WARPS warps; a Room of shared memory.
struct Room
{
    float partial[WARPS][8 * GROUPS][ROWS + 1], r[8 * GROUPS];
};

KERNEL void __launch_bounds__(32 * WARPS) token_product(
    const void* w0, const void* w1, const void* w2, const void* w3, const void* w4, const void* w5, int e0, int e1, int e2, int e3, int e4, int e5,
    const bf16* x, const float* squares, float* y, bf16* gated, float* stream, const float* scale, bf16* scaled, float* sums,
    int sequences, float epsilon, float cap, const float* units)
{
    start_dependents();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    const void* const weights[PARTS] = {w0, w1, w2, w3, w4, w5};
    const int ends[PARTS] = {e0, e1, e2, e3, e4, e5};
    const bool narrow = WEIGHTS != WEIGHTS_BF16, in_pairs = RESULT == RESULT_GATED;
    const int row_bytes = INPUTS * Piece<WEIGHTS>::BYTES;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, rows = e5, k = threadIdx.x % ROWS;
    int narrow_blocks = (e0 + ROWS - 1) / ROWS;
    bool beside = narrow && RESULT == RESULT_PLAIN && (int)blockIdx.x >= narrow_blocks;
    int begin = beside ? e0 + ROWS * (blockIdx.x - narrow_blocks) : ROWS * blockIdx.x, end = narrow && !beside ? e0 : e5;
    const char* low = in_pairs ? (const char*)w0 + (i64)(blockIdx.x * 8 + row) * row_bytes : row_of(begin + row, end, weights, ends);
    const char* high = in_pairs ? (const char*)w1 + (i64)(blockIdx.x * 8 + row) * row_bytes : row_of(begin + row + 8, end, weights, ends);
    float unit = 1;
    if (narrow && in_pairs) unit = units[blockIdx.x * 8 + k % 8 + (k < 8 ? 0 : e0)];
    else if (narrow && !beside && begin + k < end) unit = units[begin + k];

    Weights one, other;
    if (beside) ask<WEIGHTS_BF16>(one, other, low, high);
    else ask<WEIGHTS>(one, other, low, high);
    wait_for_results();

    float c[GROUPS][4] = {};
    if (beside) sum_rows<WEIGHTS_BF16>(c, one, other, low, high, x, sequences);
    else sum_rows<WEIGHTS>(c, one, other, low, high, x, sequences);

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
        int b = i / ROWS, channel = begin + k;
        bool exists = b < sequences;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += exists ? room.partial[w][b][k] : 0.f;
        if (narrow) sum *= unit;
        if (NORMED && exists) sum *= room.r[b];
        if (in_pairs)
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
        else if (exists && channel < end)
        {
            y[(i64)b * rows + channel] = RESULT == RESULT_CAPPED && cap > 0 ? cap * tanhf(sum / cap) : sum;
        }
    }
}
