// What the kernels of narrow heads share: all of a chunk's q, k and v lie in shared memory, a warp has 16 rows of a triangle, and makes 32
// columns of it at a time, which never leave its registers.
#pragma once
#include "MLstmTiles.cuh"

static_assert(QK_WHOLE <= 64 && HV_WHOLE <= 128, "what fits into registers and shared memory");
static_assert(TILE_THREADS == 2 * CHUNK, "a warp for 16 tokens");

#define STRIP 32 // columns of a triangle at a time
#define QK_BYTES (CHUNK * PITCH(QK_WHOLE))
#define HV_BYTES (CHUNK * PITCH(HV_WHOLE))
#define MEMORY_BYTES (QK_WHOLE * PITCH(HV_WHOLE))
#define STAGED_BYTES (16 * PITCH(LARGER(QK_WHOLE, HV_WHOLE))) // a warp's

// Starts the copy of arrays of a number a token to shared memory, one after the other, with the tiles: read where they are needed, each
// would be waited for. A warp has one.
template <int N>
DEVICE void load_numbers(float* to, const float* const (&from)[N])
{
    static_assert(N <= TILE_THREADS / 32 && CHUNK == 4 * 32, "a warp copies an array");
#pragma unroll
    for (int p = 0; p < N; p++)
        if (threadIdx.x / 32 == p) copy_async(shared_address(to + p * CHUNK + threadIdx.x % 32 * 4), from[p] + threadIdx.x % 32 * 4);
}

// The same of one number for each of DQK; zeros if there are none, and behind.
DEVICE void load_normalizer(float* to, const float* from)
{
    const int first = threadIdx.x * 4;
    if (first < QK_WHOLE) copy_async_or_zero(shared_address(to + first), from && first < DQK ? from + first : from, from && first < DQK);
}

// What a query is to its keys.
struct Query
{
    float p, inverse, dz;
    int start;
};

// The first of a warp's 16 rows of a triangle: the two warps of a scheduler have a large and a small part of it.
DEVICE int triangle_row(int warp) { return 16 * (warp < 4 ? warp : 11 - warp); }

// The warp's 16 rows of a left operand.
template <int INNER>
struct Left
{
    u32 a[INNER / 16][4];

    // Of a tile by rows, from row m on.
    DEVICE void load(u32 tile, int m)
    {
#pragma unroll
        for (int k = 0; k < INNER / 16; k++) load_left<INNER, false>(a[k], tile, m, 16 * k);
    }

    // Of sums, which lie as the operand does.
    DEVICE void take(const Sums<16, INNER>& x)
    {
#pragma unroll
        for (int k = 0; k < INNER / 16; k++)
#pragma unroll
            for (int part = 0; part < 4; part++)
                a[k][part] = pack_bf16(x.sum[0][2 * k + part / 2][part % 2 * 2], x.sum[0][2 * k + part / 2][part % 2 * 2 + 1]);
    }
};

// sums += left right. The right tile, of rows of COLUMNS, has a row for an inner index or, transposed, for a column; they begin with row
// `first`.
template <int COLUMNS, bool TRANSPOSED, int N, int INNER>
DEVICE void multiply(Sums<16, N>& sums, const Left<INNER>& left, u32 right, int first)
{
#pragma unroll
    for (int k = 0; k < INNER; k += 16)
#pragma unroll
        for (int n = 0; n < N; n += 16)
        {
            u32 b[4];
            load_right<COLUMNS, TRANSPOSED>(b, right, TRANSPOSED ? k : first + k, TRANSPOSED ? first + n : n);
            mma_bf16(sums.sum[0][n / 8], left.a[k / 16], b[0], b[1]);
            mma_bf16(sums.sum[0][n / 8 + 1], left.a[k / 16], b[2], b[3]);
        }
}

// A number a row and thread, of rows lane / 4 and lane / 4 + 8, summed over its columns.
DEVICE void sum_row(float (&x)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        x[half] += __shfl_xor_sync(FULL_WARP, x[half], 1);
        x[half] += __shfl_xor_sync(FULL_WARP, x[half], 2);
    }
}

// x . y by rows: x in a tile by rows of QK_WHOLE, from row m on.
DEVICE void dot_rows(float (&dot)[2], const unsigned char* tile, const Sums<16, QK_WHOLE>& y, int m)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < QK_WHOLE / 8; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const u32 word = *(const u32*)(tile + (m + 8 * half + lane / 4) * PITCH(QK_WHOLE) + (8 * j + lane % 4 * 2) * 2);
            dot[half] += low_bf16(word) * y.sum[0][j][2 * half] + high_bf16(word) * y.sum[0][j][2 * half + 1];
        }
}

// The warp's 16 rows, from m on, to a tensor's rows of WIDTH, through shared memory of the warp's own.
template <int WIDTH, int N>
DEVICE void store_rows(unsigned char* staged, const Sums<16, N>& x, bf16* RESTRICT out, i64 stride, int count, int m)
{
    const int lane = threadIdx.x % 32;
    __syncwarp();
    stage_tile<16, N, N>(staged, x, 0, 0);
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 2 * N; i += 32)
    {
        const int r = i / (N / 8), piece = i % (N / 8);
        if (m + r < count && has_column<WIDTH, N>(piece * 8))
            *(uint4*)(out + (m + r) * stride + piece * 8) = *(const uint4*)(staged + r * PITCH(N) + piece * 16);
    }
}

DEVICE float decay(float u, const Query& query, int key, int row)
{
    return key <= row && key >= query.start ? exp2_fast(u - query.p) : 0.f;
}
