// One token of each of a few sequences through a matrix: y[b] = W x[b]. A token reads every weight once and does next to nothing with it,
// so all there is to do is to keep memory busy. A block has a tile of 16 rows of W, its warps take turns at pieces of 32 columns, and every
// thread asks for the first of its weights before it waits for the kernel in front of it, whose result it does not need for that: while one
// kernel ends, the next one's weights are on their way. Of weights of one byte and 1024 columns that is every one.
//
// Bytes: 2 a weight. 407 M parameters: 0.81 GB a token, 0.27 ms at 3 TB/s; 6.87 G: 4.6 ms. Of one byte, counted without the embedding, of
// which a token reads a row: 355 M of projections and head, 1.2 MB of units, 0.8 MB of gates, so 0.36 GB and 0.12 ms; 6.67 GB and 2.2 ms.
#include "TokenProduct.cuh"

// TokenStepKernels.cs tells WARPS, beside what TokenProduct.cuh is told.
#define STAGE 4 // turns of which the weights are on their way, twice
#define KEPT CEIL(ROWS * 8 * GROUPS, 32 * WARPS) // sums that a thread ends with
#define NORMS CEIL(8 * GROUPS, WARPS)            // sequences of which a warp finds r

template <int Format> struct Turns
{
    static const int COUNT = CEIL(CEIL(INPUTS, Piece<Format>::WIDTH), WARPS);
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
        bool exists = turn + s < Turns<Format>::COUNT && column < INPUTS;
        w.low[s] = exists && low ? load_once(low + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
        w.high[s] = exists && high ? load_once(high + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
    }
}

template <int Format> DEVICE void multiply(float (&c)[GROUPS][4], const Weights& w, const bf16* x, int sequences, int turn)
{
#pragma unroll
    for (int s = 0; s < STAGE; s++)
    {
        if (turn + s >= Turns<Format>::COUNT) break;
        int column = column_of<Format>(turn + s);
        multiply_piece<Format>(c, w.low[s], w.high[s], x + column, INPUTS, sequences, column < INPUTS);
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
    const int turns = Turns<Format>::COUNT;
#pragma unroll
    for (int turn = 0; turn < turns; turn += 2 * STAGE)
    {
        multiply<Format>(c, one, x, sequences, turn);
        if (turn + 2 * STAGE < turns) load_weights<Format>(one, low, high, turn + 2 * STAGE);
        if (turn + STAGE < turns) multiply<Format>(c, other, x, sequences, turn + STAGE);
        if (turn + 3 * STAGE < turns) load_weights<Format>(other, low, high, turn + 3 * STAGE);
    }
}

// x [sequences, INPUTS]; squares [sequences, INPUTS / 16]; weights, their ends and units as Matrix has them, the others as Results.
// Grid: a block a tile; WARPS warps; a Room of shared memory.
struct Room
{
    float partial[WARPS][8 * GROUPS][ROWS + 1], r[NORMS * WARPS];
};

KERNEL void __launch_bounds__(32 * WARPS) token_product(
    const void* w0, const void* w1, const void* w2, const void* w3, const void* w4, const void* w5,
    int e0, int e1, int e2, int e3, int e4, int e5,
    const bf16* x, const float* squares, float* y, bf16* gated, float* stream, const float* scale, bf16* scaled, float* sums,
    int sequences, float epsilon, float cap, const float* units)
{
    start_dependents();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    const Matrix matrix = {{w0, w1, w2, w3, w4, w5}, {e0, e1, e2, e3, e4, e5}, units};
    const Results to = {y, gated, stream, scale, scaled, sums, e5, cap};
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, k = threadIdx.x % ROWS;
    Tile tile = tile_of(matrix, blockIdx.x);
    const char *low = row_of(matrix, tile, row), *high = row_of(matrix, tile, row + 8);
    float unit = unit_of(matrix, tile, k), scale_here = scale_after(to, tile, k);

    Weights one, other;
    if (NARROW && tile.beside) ask<WEIGHTS_BF16>(one, other, low, high);
    else ask<WEIGHTS>(one, other, low, high);
    wait_for_results();

    // All that comes from the kernels in front is asked for at once.
    float before[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
    {
        int b = (i * 32 * WARPS + threadIdx.x) / ROWS;
        before[i] = stream_before(to, tile, k, b, b < sequences);
    }

    float squares_here[NORMS];
#pragma unroll
    for (int i = 0; i < NORMS; i++)
    {
        int b = i * WARPS + warp;
        squares_here[i] = NORMED && b < sequences ? squares_of(squares, b) : 0.f;
    }

    float c[GROUPS][4] = {};
    if (NARROW && tile.beside) sum_rows<WEIGHTS_BF16>(c, one, other, low, high, x, sequences);
    else sum_rows<WEIGHTS>(c, one, other, low, high, x, sequences);

    if (NORMED)
    {
#pragma unroll
        for (int i = 0; i < NORMS; i++)
        {
            float r = norm_of(squares_here[i], epsilon);
            if (lane == 0) room.r[i * WARPS + warp] = r;
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

#pragma unroll
    for (int i = 0; i < KEPT; i++)
    {
        int b = (i * 32 * WARPS + threadIdx.x) / ROWS;
        if (b - b % 2 >= sequences) break; // of whole warps
        bool exists = b < sequences;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += exists ? room.partial[w][b][k] : 0.f;
        if (NARROW) sum *= unit;
        if (NORMED && exists) sum *= room.r[b];
        finish(to, tile, k, b, exists, sum, before[i], scale_here);
    }
}
