// A tile of a matrix product, M x N, by one block: pieces of K_STEP of the inner dimension come through shared memory while the tensor
// cores work on the ones before, and the sums stay in registers.
//
// Rows in shared memory are 16 bytes longer than their content, so that the eight rows of a matrix load lie in different banks.
#pragma once
#include "Ptx.cuh"
#include "MLstmShapes.cuh"

// MLstmSequenceKernel.cs tells DQK and DHV; K_STEP; STAGES, of a left and a right tile each; TILE_THREADS; and the bytes of shared memory
// that a stage and a triangle take, STAGE_BYTES and TRIANGLE_BYTES.
//
// Tiles and steps are of whole 32 columns: what they have beyond DQK or DHV is zero in shared memory and in the sums, and is neither read
// from nor written to memory. Where the dimensions are multiples of 32 the compiler drops every check of that.
static_assert(DQK % 8 == 0 && DHV % 8 == 0, "rows are pieces of 16 bytes");
#define PITCH(columns) (2 * (columns) + 16) // bytes

// The rows of a bf16 tensor that a block reads: token t starts at data + t stride.
struct Rows
{
    const bf16* data;
    i64 stride;
    int count; // those behind are zero
};

DEVICE Rows rows_of(const bf16* data, i64 batch_stride, int head_stride, int token_stride, int chunk, int length)
{
    const bf16* first = data + blockIdx.z * batch_stride + (i64)blockIdx.y * head_stride + (i64)chunk * CHUNK * token_stride;
    return Rows{first, token_stride, min(CHUNK, length - chunk * CHUNK)};
}

// Whether a row of WIDTH elements has one at `column`, in a tile of COLUMNS.
template <int WIDTH, int COLUMNS>
DEVICE bool has_column(int column) { return WIDTH % COLUMNS == 0 || column < WIDTH; }

// Starts the copy of COUNT rows, from `row` on, of COLUMNS elements from `column` on; the rows have WIDTH.
template <int COUNT, int COLUMNS, int THREADS, int WIDTH>
DEVICE void load_tile(u32 shared, Rows rows, int row, int column)
{
    constexpr int PIECES = COLUMNS / 8;
#pragma unroll
    for (int first = 0; first < COUNT * PIECES; first += THREADS)
    {
        const int x = first + threadIdx.x;
        if (COUNT * PIECES % THREADS != 0 && x >= COUNT * PIECES) break;
        const int r = x / PIECES, piece = x % PIECES;
        const bool exists = row + r < rows.count && has_column<WIDTH, COLUMNS>(column + piece * 8);
        const bf16* from = rows.data + (exists || WIDTH % COLUMNS == 0 ? column + piece * 8 : 0) + (exists ? (row + r) * rows.stride : 0);
        copy_async_or_zero(shared + r * PITCH(COLUMNS) + piece * 16, from, exists);
    }
}

// The sums of the warp's part of a tile, WM x WN, as mma_bf16 leaves them: sum[i][j][e] is row 16 i + lane / 4 (+ 8 for e >= 2),
// column 8 j + 2 (lane % 4) (+ 1 for odd e).
template <int WM, int WN>
struct Sums
{
    float sum[WM / 16][WN / 8][4];

    DEVICE void clear()
    {
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
            for (int j = 0; j < WN / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[i][j][e] = 0.f;
    }
};

// 16 x 16 of the left operand, rows from m on and inner indices from k on, out of a tile stored by rows, or with `transposed` by columns.
template <int COLUMNS, bool TRANSPOSED>
DEVICE void load_left(u32 (&a)[4], u32 tile, int m, int k)
{
    const int lane = threadIdx.x % 32;
    if (TRANSPOSED) load_matrix_x4_transposed(a, tile + (k + lane % 8 + lane / 16 * 8) * PITCH(COLUMNS) + (m + lane / 8 % 2 * 8) * 2);
    else load_matrix_x4(a, tile + (m + lane % 16) * PITCH(COLUMNS) + (k + lane / 16 * 8) * 2);
}

// 16 inner indices x 16 columns of the right operand: out of a tile with a row for an inner index, or with `transposed` for a column.
template <int COLUMNS, bool TRANSPOSED>
DEVICE void load_right(u32 (&b)[4], u32 tile, int k, int n)
{
    const int lane = threadIdx.x % 32;
    if (TRANSPOSED) load_matrix_x4(b, tile + (n + lane % 8 + lane / 16 * 8) * PITCH(COLUMNS) + (k + lane / 8 % 2 * 8) * 2);
    else load_matrix_x4_transposed(b, tile + (k + lane % 8 + lane / 8 % 2 * 8) * PITCH(COLUMNS) + (n + lane / 16 * 8) * 2);
}

// sums += left right over one step: 16 inner indices from k on, rows from m on and columns from n on being the warp's.
template <int WM, int WN, int LEFT_COLUMNS, bool LEFT_TRANSPOSED, int RIGHT_COLUMNS, bool RIGHT_TRANSPOSED>
DEVICE void multiply_16(Sums<WM, WN>& sums, u32 left, u32 right, int m, int n, int k)
{
    u32 a[WM / 16][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) load_left<LEFT_COLUMNS, LEFT_TRANSPOSED>(a[i], left, m + 16 * i, k);
#pragma unroll
    for (int j = 0; j < WN / 16; j++)
    {
        u32 b[4];
        load_right<RIGHT_COLUMNS, RIGHT_TRANSPOSED>(b, right, k, n + 16 * j);
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
        {
            mma_bf16(sums.sum[i][2 * j], a[i], b[0], b[1]);
            mma_bf16(sums.sum[i][2 * j + 1], a[i], b[2], b[3]);
        }
    }
}

// The warp's part of a bf16 tile in shared memory of rows of COLUMNS, from (m, n) on.
template <int WM, int WN, int COLUMNS>
DEVICE void stage_tile(unsigned char* tile, const Sums<WM, WN>& sums, int m, int n)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
        {
            unsigned char* at = tile + (m + 16 * i + lane / 4) * PITCH(COLUMNS) + (n + 8 * j + lane % 4 * 2) * 2;
            *(u32*)at = pack_bf16(sums.sum[i][j][0], sums.sum[i][j][1]);
            *(u32*)(at + 8 * PITCH(COLUMNS)) = pack_bf16(sums.sum[i][j][2], sums.sum[i][j][3]);
        }
}

// A staged tile to memory, its first `count` rows, from `column` on of rows that have WIDTH.
template <int M, int COLUMNS, int THREADS, int WIDTH>
DEVICE void store_tile(bf16* RESTRICT out, i64 stride, const unsigned char* tile, int count, int column)
{
    constexpr int PIECES = COLUMNS / 8;
    for (int x = threadIdx.x; x < M * PIECES; x += THREADS)
    {
        const int r = x / PIECES, piece = x % PIECES;
        if (r < count && has_column<WIDTH, COLUMNS>(column + piece * 8))
            *(uint4*)(out + r * stride + column + piece * 8) = *(const uint4*)(tile + r * PITCH(COLUMNS) + piece * 16);
    }
}

// The warps of a tile of CHUNK rows: four bands of 32 rows by two halves of the columns. Bands are dealt so that the two warps of each
// scheduler have, of a triangle, a large and a small part.
#define BAND 32
static_assert(TILE_THREADS == 2 * CHUNK, "two warps a band");

DEVICE int warp_row()
{
    const int warp = threadIdx.x / 32;
    return BAND * (warp < 4 ? warp / 2 : 5 - warp / 2);
}

DEVICE int warp_column(int width) { return threadIdx.x / 32 % 2 * width; }

// The steps of a block's work, of however many products, as one stream: STAGES - 1 loads are on their way while a step is computed, also
// from one product to the next. load(step, stage) starts the copies of a step.
template <class Load>
struct Stream
{
    Load load;
    int steps, step;

    DEVICE Stream(int all, Load how) : load(how), steps(all), step(0)
    {
        for (int s = 0; s < STAGES - 1; s++)
        {
            if (s < steps) load(s, s);
            copy_async_commit();
        }
    }

    // The stage of the next step, when it is there; all threads have left the step before.
    DEVICE int next()
    {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        const int ahead = step + STAGES - 1;
        if (ahead < steps) load(ahead, ahead % STAGES);
        copy_async_commit();
        return step++ % STAGES;
    }
};

template <class Load>
DEVICE Stream<Load> stream(int steps, Load load) { return Stream<Load>(steps, load); }

// A number a row and thread, row = warp_row() + 16 i + 8 half + lane / 4, summed over a tile's columns: to all threads, through 256 floats.
DEVICE void sum_rows(float (&x)[2][2], float* shared)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            float sum = x[i][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            if (lane % 4 == 0) shared[threadIdx.x / 32 % 2 * CHUNK + warp_row() + 16 * i + 8 * half + lane / 4] = sum;
        }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = warp_row() + 16 * i + 8 * half + lane / 4;
            x[i][half] = shared[row] + shared[CHUNK + row];
        }
    __syncthreads();
}

#define TILE_OF(dim) ((dim) % 128 == 0 ? 128 : (dim) % 96 == 0 ? 96 : (dim) % 64 == 0 ? 64 : 32)
#define LARGER(a, b) ((a) > (b) ? (a) : (b))

// The dimensions of q and k, and of v and h, up to whole 32; their tiles.
#define QK_WHOLE ((DQK + 31) / 32 * 32)
#define HV_WHOLE ((DHV + 31) / 32 * 32)
#define QK_TILE TILE_OF(QK_WHOLE)
#define HV_TILE TILE_OF(HV_WHOLE)
#define QK_TILES (QK_WHOLE / QK_TILE)
#define HV_TILES (HV_WHOLE / HV_TILE)
static_assert(QK_WHOLE % K_STEP == 0 && HV_WHOLE % K_STEP == 0, "a step is whole");

// Shared memory: stages of a left and a right tile, whichever way they lie; triangles; a tile of a result on its way to memory.
#define LEFT_BYTES (CHUNK * PITCH(K_STEP))
#define RIGHT_BYTES LARGER(CHUNK * PITCH(K_STEP), K_STEP * PITCH(CHUNK))
static_assert(STAGE_BYTES == LEFT_BYTES + RIGHT_BYTES && TRIANGLE_BYTES == CHUNK * PITCH(CHUNK), "what the host asks for");

// A warp's part of a tile of CHUNK rows.
template <int TILE>
struct Part : Sums<BAND, TILE / 2>
{
    static constexpr int WIDTH = TILE / 2;

    // Plus left right over one step, left by rows; the right tile has a row for an inner index or, transposed, for a column.
    template <bool RIGHT_TRANSPOSED>
    DEVICE void multiply(u32 stage)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            multiply_16<BAND, WIDTH, K_STEP, false, RIGHT_TRANSPOSED ? K_STEP : TILE, RIGHT_TRANSPOSED>(
                *this, stage, stage + LEFT_BYTES, warp_row(), warp_column(WIDTH), k);
    }

    // Plus the columns of a triangle from k0 on, times the right tile's rows; what lies right of the diagonal is left out.
    DEVICE void multiply_triangle(u32 triangle, u32 stage, int k0)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            if (k0 + k < warp_row() + BAND)
                multiply_16<BAND, WIDTH, CHUNK, false, TILE, false>(
                    *this, triangle + 2 * k0, stage + LEFT_BYTES, warp_row(), warp_column(WIDTH), k);
    }

    // The same of the transposed triangle.
    DEVICE void multiply_transposed_triangle(u32 triangle, u32 stage, int k0)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            if (k0 + k + 15 >= warp_row())
                multiply_16<BAND, WIDTH, CHUNK, true, TILE, false>(
                    *this, triangle + k0 * PITCH(CHUNK), stage + LEFT_BYTES, warp_row(), warp_column(WIDTH), k);
    }

    // f(pair, row, column, i, half) of the warp's pairs of neighbouring elements, pair being float[2].
    template <class F>
    DEVICE void for_pairs(F f)
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < BAND / 16; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < WIDTH / 8; j++)
                    f(this->sum[i][j] + 2 * half, warp_row() + 16 * i + 8 * half + lane / 4, warp_column(WIDTH) + 8 * j + lane % 4 * 2, i, half);
    }

    // Through shared memory of its own to a tensor's rows of WIDTH, from `column` on.
    template <int WIDTH_OUT>
    DEVICE void store(unsigned char* tile, bf16* RESTRICT out, i64 stride, int count, int column)
    {
        __syncthreads();
        stage_tile<BAND, WIDTH, TILE>(tile, *this, warp_row(), warp_column(WIDTH));
        __syncthreads();
        store_tile<CHUNK, TILE, TILE_THREADS, WIDTH_OUT>(out, stride, tile, count, column);
    }
};

// The two halves of a pair, times those of another row in memory, one of q or k.
DEVICE float dot_pair(const float* pair, Rows x, int row, int column)
{
    if (row >= x.count || !has_column<DQK, QK_TILE>(column)) return 0.f;
    const u32 word = *(const u32*)(x.data + row * x.stride + column);
    return low_bf16(word) * pair[0] + high_bf16(word) * pair[1];
}

template <int WIDTH>
DEVICE void load_pair(u32 stage, Rows left, Rows right, int column)
{
    load_tile<CHUNK, K_STEP, TILE_THREADS, WIDTH>(stage, left, 0, column);
    load_tile<CHUNK, K_STEP, TILE_THREADS, WIDTH>(stage + LEFT_BYTES, right, 0, column);
}

// Where a block is: a chunk of a head of a sequence.
struct Place
{
    i64 head, chunk, plane; // the chunk's number among all; the size of an array of a number a token and head

    DEVICE Place()
    {
        head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
        chunk = head * gridDim.x + blockIdx.x;
        plane = (i64)gridDim.x * gridDim.y * gridDim.z * CHUNK;
    }

    DEVICE Rows rows(const bf16* data, i64 batch_stride, int head_stride, int token_stride, int length) const
    {
        return rows_of(data, batch_stride, head_stride, token_stride, blockIdx.x, length);
    }

    // The first of the chunk's tokens.
    DEVICE bf16* first(bf16* data, i64 batch_stride, int head_stride, int token_stride) const
    {
        return data + blockIdx.z * batch_stride + (i64)blockIdx.y * head_stride + (i64)blockIdx.x * CHUNK * token_stride;
    }

    // The chunk's memory as rows of DHV, one for each of DQK; and a triangle.
    DEVICE Rows memory(const bf16* states) const { return Rows{states + chunk * DQK * DHV, DHV, DQK}; }
    DEVICE Rows triangle(const bf16* of) const { return Rows{of + chunk * CHUNK * CHUNK, CHUNK, CHUNK}; }
};
