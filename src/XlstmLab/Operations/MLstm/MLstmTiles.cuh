// What the mLSTM's kernels share: tiles of tensors in shared memory, and products of them by warps, whose sums stay in registers.
//
// Rows in shared memory are 16 bytes longer than their content, so that the eight rows of a matrix load lie in different banks.
#pragma once
#include "Ptx.cuh"
#include "MLstmShapes.cuh"

// MLstmSequenceKernel.cs tells DQK and DHV, and TILE_THREADS.
//
// Tiles are of whole 32 columns: what they have beyond DQK or DHV is zero in shared memory and in the sums, and is neither read
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

// Whether a row of WIDTH elements has one at `column`, in a tile of COLUMNS.
template <int WIDTH, int COLUMNS>
DEVICE bool has_column(int column) { return WIDTH % COLUMNS == 0 || column < WIDTH; }

// Starts the copy of COUNT rows, from `row` on, of COLUMNS elements from `column` on; the rows have WIDTH. address(r, piece) is where 16
// bytes go.
template <int COUNT, int COLUMNS, int THREADS, int WIDTH, class Address>
DEVICE void load_rows(Rows rows, int row, int column, Address address)
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
        copy_async_or_zero(address(r, piece), from, exists);
    }
}

// The same to a tile in shared memory.
template <int COUNT, int COLUMNS, int THREADS, int WIDTH>
DEVICE void load_tile(u32 shared, Rows rows, int row, int column)
{
    load_rows<COUNT, COLUMNS, THREADS, WIDTH>(
        rows, row, column, [=](int r, int piece) { return shared + r * PITCH(COLUMNS) + piece * 16; });
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

#define LARGER(a, b) ((a) > (b) ? (a) : (b))

// The dimensions of q and k, and of v and h, up to whole 32.
#define QK_WHOLE ((DQK + 31) / 32 * 32)
#define HV_WHOLE ((DHV + 31) / 32 * 32)

// A chunk of a head of a sequence.
struct Place
{
    int batch, head, index; // index: the chunk's number in the head
    i64 chunk, plane;       // the chunk's number among all; the size of an array of a number a token and head

    // That of a block, in a grid of (NC, NH, B).
    DEVICE Place() : batch(blockIdx.z), head(blockIdx.y), index(blockIdx.x)
    {
        chunk = ((i64)batch * gridDim.y + head) * gridDim.x + index;
        plane = (i64)gridDim.x * gridDim.y * gridDim.z * CHUNK;
    }

    // A number among all of `count`.
    DEVICE Place(int number, int count, int chunks, int heads)
        : batch(number / chunks / heads), head(number / chunks % heads), index(number % chunks), chunk(number), plane((i64)count * CHUNK)
    {
    }

    DEVICE Rows rows(const bf16* data, i64 batch_stride, int head_stride, int token_stride, int length) const
    {
        return Rows{first(data, batch_stride, head_stride, token_stride), token_stride, min(CHUNK, length - index * CHUNK)};
    }

    // The first of the chunk's tokens.
    template <class T>
    DEVICE T* first(T* data, i64 batch_stride, int head_stride, int token_stride) const
    {
        return data + batch * batch_stride + (i64)head * head_stride + (i64)index * CHUNK * token_stride;
    }

    // The chunk's memory as rows of DHV, one for each of DQK; and a triangle.
    DEVICE Rows memory(const bf16* states) const { return Rows{states + chunk * DQK * DHV, DHV, DQK}; }
    DEVICE bf16* triangle(bf16* of) const { return of + chunk * CHUNK * CHUNK; }
    DEVICE Rows triangle(const bf16* of) const { return Rows{of + chunk * CHUNK * CHUNK, CHUNK, CHUNK}; }
};
