// What all products of tokens with a matrix share: rows of weights in tiles of 16, weights of one byte, and what becomes of a sum.
//
// A tile is the left operand of mma_bf16, sequences are its columns. Which of 16 inner indices is which does not matter as long as both
// operands agree: a thread takes 8 neighbouring columns of a row in one load, and the same 8 of x.
//
// A norm in front of a matrix, y = W (w x r) with r = (mean(x^2) + epsilon)^-1/2, is divided between kernels: who writes the stream leaves
// w x and, of every 16 channels, the sum of x^2; who reads it multiplies y by r.
//
// Weights of one byte, int8 or fp8 (e4m3), have a unit a row, by which its sum is multiplied at the end; they become bfloat16 in registers,
// where all of either are exact. A load is 16 bytes all the same, of 16 columns then, a piece 64: as many bytes are on their way by as many
// loads as of bfloat16, and half the turns are left. What is beside them in bfloat16 (the gates) has tiles of its own.
#pragma once
#include "Ptx.cuh"

// TokenStepKernels.cs tells INPUTS, a multiple of 32; GROUPS, of 8 sequences; RESULT, one of those below; NORMED, whether r is applied; and
// WEIGHTS, one of those below, where they are not bfloat16.
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
#define SQUARES (INPUTS / ROWS)
#define CEIL(x, y) (((x) + (y) - 1) / (y))
#define NARROW (WEIGHTS != WEIGHTS_BF16)
#define IN_PAIRS (RESULT == RESULT_GATED)
static_assert(INPUTS % 32 == 0, "a row is whole loads");

// What a thread loads at a time of a row, and a warp.
template <int Format> struct Piece
{
    static const int BYTES = Format == WEIGHTS_BF16 ? 2 : 1, COLUMNS = 16 / BYTES, WIDTH = 4 * COLUMNS;
};

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

// Eight columns of a piece, of two rows of the tile, by the same of eight sequences: the i-th words of the rows, and those behind.
template <int Format>
DEVICE void multiply_words(
    float (&c)[4], const u32 (&low)[Piece<Format>::COLUMNS / 2], const u32 (&high)[Piece<Format>::COLUMNS / 2], int i, uint4 right)
{
    const u32 first[4] = {low[i], high[i], low[i + 1], high[i + 1]};
    const u32 second[4] = {low[i + 2], high[i + 2], low[i + 3], high[i + 3]};
    mma_bf16(c, first, right.x, right.y);
    mma_bf16(c, second, right.z, right.w);
}

// A thread's part of a piece: of two rows of the tile, by all sequences. `x` is its first column of sequence 0, and `stride` from one
// sequence to the next, of which `sequences` are there; what does not exist is not read.
template <int Format>
DEVICE void multiply_piece(float (&c)[GROUPS][4], uint4 low_words, uint4 high_words, const bf16* x, int stride, int sequences, bool exists)
{
    u32 low[Piece<Format>::COLUMNS / 2], high[Piece<Format>::COLUMNS / 2];
    widen<Format>(low, low_words);
    widen<Format>(high, high_words);
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
    {
        int b = 8 * n + threadIdx.x % 32 / 4;
#pragma unroll
        for (int i = 0; i < Piece<Format>::COLUMNS / 2; i += 4)
        {
            uint4 right = exists && b < sequences ? *(const uint4*)(x + (i64)b * stride + 2 * i) : make_uint4(0, 0, 0, 0);
            multiply_words<Format>(c[n], low, high, i, right);
        }
    }
}

// Parts of weights, one below the other, `ends` the sums of their rows. The first has WEIGHTS (of RESULT_GATED the first two, of as many
// rows) and the others bfloat16; units, a row each, of weights of one byte.
struct Matrix
{
    const void* parts[PARTS];
    int ends[PARTS];
    const float* units;
};

// Which rows of the parts a tile has, up to 16 from `begin` on, and below `end`: none has rows of one byte and of two. Of RESULT_GATED it
// has 8 rows of g, and the same of u.
struct Tile
{
    int index, begin, end;
    bool beside; // rows of bfloat16, beside weights of one byte
};

DEVICE Tile tile_of(const Matrix& matrix, int index)
{
    int rows = matrix.ends[PARTS - 1], narrow_tiles = CEIL(matrix.ends[0], ROWS);
    if (IN_PAIRS) return {index, index * (ROWS / 2), matrix.ends[0], false};
    if (!NARROW || RESULT != RESULT_PLAIN) return {index, index * ROWS, rows, false};
    if (index < narrow_tiles) return {index, index * ROWS, matrix.ends[0], false};
    return {index, matrix.ends[0] + (index - narrow_tiles) * ROWS, rows, true};
}

// Where row k of a tile is; null where there is none.
DEVICE const char* row_of(const Matrix& matrix, const Tile& tile, int k)
{
    const int bytes = INPUTS * Piece<WEIGHTS>::BYTES;
    if (IN_PAIRS)
    {
        int row = tile.begin + k % 8;
        return row < tile.end ? (const char*)(k < 8 ? matrix.parts[0] : matrix.parts[1]) + (i64)row * bytes : 0;
    }

    int begin = 0, row = tile.begin + k;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
    {
        if (row < tile.end && row < matrix.ends[p]) return (const char*)matrix.parts[p] + (i64)(row - begin) * (p > 0 ? 2 * INPUTS : bytes);
        begin = matrix.ends[p];
    }

    return 0;
}

// What its sums are multiplied by.
DEVICE float unit_of(const Matrix& matrix, const Tile& tile, int k)
{
    int row = IN_PAIRS ? tile.begin + k % 8 : tile.begin + k;
    return NARROW && !tile.beside && row < tile.end ? matrix.units[IN_PAIRS && k >= 8 ? tile.end + row : row] : 1.f;
}

// A lane's part of the sum of a sequence's squares, and r of the sum over the warp.
DEVICE float squares_of(const float* squares, int b)
{
    float sum = 0;
#pragma unroll
    for (int t = 0; t < CEIL(SQUARES, 32); t++)
    {
        int i = t * 32 + threadIdx.x % 32;
        if (i < SQUARES) sum += squares[(i64)b * SQUARES + i];
    }

    return sum;
}

DEVICE float norm_of(float squares, float epsilon) { return 1.f / sqrtf(warp_sum(squares) * (1.f / INPUTS) + epsilon); }

// RESULT_PLAIN and CAPPED: y [sequences, rows]. RESULT_GATED: gated [sequences, rows / 2]. RESULT_STREAM, d rows: stream [sequences, d],
// scaled [sequences, d] by `scale` [d], sums [sequences, d / 16].
struct Results
{
    float* y;
    bf16* gated;
    float* stream;
    const float* scale;
    bf16* scaled;
    float* sums;
    int rows;
    float cap;
};

// What row k of a tile is multiplied by for the next norm; nothing of other results than the stream. Nobody writes it.
DEVICE float scale_after(const Results& to, const Tile& tile, int k)
{
    return RESULT == RESULT_STREAM && tile.begin + k < tile.end ? to.scale[tile.begin + k] : 0.f;
}

// What is in the stream that it is added to; nothing of other results.
DEVICE float stream_before(const Results& to, const Tile& tile, int k, int b, bool exists)
{
    return RESULT == RESULT_STREAM && exists && tile.begin + k < tile.end ? to.stream[(i64)b * to.rows + tile.begin + k] : 0.f;
}

// Keeps the product of row k and sequence b, with what the two above have told; by whole warps, of which 16 lanes have a tile's rows.
DEVICE void finish(const Results& to, const Tile& tile, int k, int b, bool exists, float product, float before, float scale)
{
    int channel = tile.begin + k;
    if (IN_PAIRS)
    {
        float up = __shfl_xor_sync(FULL_WARP, product, 8);
        if (exists && k < 8 && channel < tile.end) to.gated[(i64)b * tile.end + channel] = to_bf16(product / (1.f + expf(-product)) * up);
        return;
    }

    exists = exists && channel < tile.end;
    if (RESULT == RESULT_STREAM)
    {
        float now = exists ? before + product : 0.f;
        if (exists)
        {
            to.stream[(i64)b * to.rows + channel] = now;
            to.scaled[(i64)b * to.rows + channel] = to_bf16(now * scale);
        }

        now *= now;
#pragma unroll
        for (int o = ROWS / 2; o > 0; o >>= 1) now += __shfl_xor_sync(FULL_WARP, now, o);
        if (exists && k == 0) to.sums[(i64)b * (to.rows / ROWS) + tile.index] = now;
    }
    else if (exists)
    {
        to.y[(i64)b * to.rows + channel] = RESULT == RESULT_CAPPED && to.cap > 0 ? to.cap * tanhf(product / to.cap) : product;
    }
}
