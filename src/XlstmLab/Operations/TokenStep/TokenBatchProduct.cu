// The same as TokenProduct.cu does for so many sequences that x is what costs: of 64 sequences of 1024 inputs 128 KB, which there every
// tile reads anew. Here a cluster of SPLIT blocks has TILES tiles and divides their columns: a block copies its columns of all x into
// shared memory, once, and multiplies them with its part of the tiles' rows, all of which (or the first HELD turns) it has asked for before
// it waits for the kernel in front. The blocks' sums meet in the cluster's shared memory: of every pair of sequences in one block, which
// adds up and keeps them.
//
// Bytes a block of SPLIT = 8, 4 tiles, 1024 inputs and 64 sequences, beside 16 KB of weights: 16 KB of x, 14 KB of sums; that leaves room
// for two blocks a multiprocessor, so that one of the next kernel can wait there with its weights.
#include "TokenProduct.cuh"

// TokenStepKernels.cs tells, beside what TokenProduct.cuh is told: SPLIT; TILES, 4 or 8; BLOCK_COLUMNS, of a block, whole pieces; STRIDE,
// from a sequence to the next in shared memory, by which the rows that a load touches lie in all banks; ROOM_BYTES.
#define WARPS 8
#define THREADS (32 * WARPS)
#define SHARES (WARPS / TILES)  // warps that take turns at a tile's pieces
#define SEQUENCES (8 * GROUPS)
#define PAIRS CEIL(SEQUENCES / 2, SPLIT) // of sequences that a block ends with
#define HEIGHT (ROWS * TILES)
#define KEPT CEIL(PAIRS * HEIGHT, THREADS) // products of a pair that a thread ends with
#define HELD 8 // turns of which the weights are on their way
#define CHUNK_TURNS (TURNS > 8 ? CEIL(TURNS, 4) : 2)
#define TURNS CEIL(BLOCK_COLUMNS / Piece<WEIGHTS>::WIDTH, SHARES)
#define CHUNK (CHUNK_TURNS * SHARES * Piece<WEIGHTS>::WIDTH) // columns that are copied together
#define CHUNKS CEIL(BLOCK_COLUMNS, CHUNK)
static_assert(SHARES == 1 || SHARES == 2, "a sum has at most two parts in a block");
static_assert(THREADS % HEIGHT == 0, "a thread ends with products of one row");
static_assert(CHUNKS <= 4, "as many as wait_for_chunk knows");

struct Weights
{
    uint4 low[HELD], high[HELD]; // of rows g and g + 8
};

template <int Format> DEVICE int column_of(int turn)
{
    return (turn * SHARES + threadIdx.x / 32 % SHARES) * Piece<Format>::WIDTH + threadIdx.x % 4 * Piece<Format>::COLUMNS;
}

// `count` is of columns that the block has.
template <int Format> DEVICE void load_weights(Weights& w, const char* low, const char* high, int count, int turn)
{
    int column = column_of<Format>(turn);
    bool exists = column < count;
    w.low[turn % HELD] = exists && low ? load_once(low + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
    w.high[turn % HELD] = exists && high ? load_once(high + column * Piece<Format>::BYTES) : make_uint4(0, 0, 0, 0);
}

template <int Format> DEVICE void ask(Weights& w, const char* low, const char* high, int count)
{
#pragma unroll
    for (int turn = 0; turn < HELD; turn++)
        if (turn * SHARES * Piece<Format>::WIDTH < BLOCK_COLUMNS) load_weights<Format>(w, low, high, count, turn);
}

template <int Format>
DEVICE void multiply(float (&c)[GROUPS][4], Weights& w, const char* low, const char* high, const bf16* x, int count, int chunk)
{
    const int turns = CHUNK / (SHARES * Piece<Format>::WIDTH);
#pragma unroll
    for (int t = 0; t < turns; t++)
    {
        int turn = chunk * turns + t, column = column_of<Format>(turn), later = turn + HELD;
        if (turn * SHARES * Piece<Format>::WIDTH >= BLOCK_COLUMNS) break;
        uint4 low_words = w.low[turn % HELD], high_words = w.high[turn % HELD];
        if (later * SHARES * Piece<Format>::WIDTH < BLOCK_COLUMNS) load_weights<Format>(w, low, high, count, later);
        multiply_piece<Format>(c, low_words, high_words, x + column, STRIDE, SEQUENCES, column < count);
    }
}

// Zeros of sequences that do not exist.
DEVICE void copy_chunk(bf16* room, const bf16* x, int sequences, int count, int chunk)
{
    const int pieces = CHUNK / 8;
#pragma unroll
    for (int t = 0; t < CEIL(SEQUENCES * pieces, THREADS); t++)
    {
        int i = t * THREADS + threadIdx.x, b = i / pieces, column = chunk * CHUNK + i % pieces * 8;
        if (b < SEQUENCES && column < count)
            copy_async_or_zero(
                shared_address(room + b * STRIDE + column), x + (b < sequences ? (i64)b * INPUTS + column : 0), b < sequences);
    }

    copy_async_commit();
}

// Until this one of the chunks, and those before it, are there.
DEVICE void wait_for_chunk(int chunk)
{
    switch (CHUNKS - 1 - chunk)
    {
    case 0: copy_async_wait<0>(); break;
    case 1: copy_async_wait<1>(); break;
    case 2: copy_async_wait<2>(); break;
    default: copy_async_wait<3>(); break;
    }

    __syncthreads();
}

struct Room
{
    union
    {
        bf16 x[SEQUENCES * STRIDE];
        float4 partial[SHARES == 1 ? 1 : TILES][GROUPS][32]; // when x has been read
    };
    float2 sums[SPLIT][PAIRS][HEIGHT + 8]; // from each block of the cluster, of the pairs that this one ends with
    float r[2 * PAIRS];
    u64 arrivals;
};
static_assert(sizeof(Room) == ROOM_BYTES, "as the host counts it");

// The arguments of token_product. Grid: for each TILES tiles a cluster of SPLIT blocks; THREADS threads; a Room of shared memory.
KERNEL void __launch_bounds__(THREADS, 2) token_batch_product(
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
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, rank = blockIdx.x % SPLIT, top = blockIdx.x / SPLIT * TILES;
    const int begin = rank * BLOCK_COLUMNS, count = min(BLOCK_COLUMNS, INPUTS - begin), own_tile = warp / SHARES, share = warp % SHARES;
    Tile tile = tile_of(matrix, top + own_tile);
    const char *low = row_of(matrix, tile, lane / 4), *high = row_of(matrix, tile, lane / 4 + 8);
    bool beside = NARROW && tile.beside;
    i64 skipped = begin * (beside ? 2 : Piece<WEIGHTS>::BYTES);
    if (low) low += skipped;
    if (high) high += skipped;
    Weights w;
    if (beside) ask<WEIGHTS_BF16>(w, low, high, count);
    else ask<WEIGHTS>(w, low, high, count);

    // The pairs that the block ends with, and the row that the thread does.
    const int first_pair = rank * PAIRS, pairs = min(PAIRS, SEQUENCES / 2 - first_pair), k = thread % HEIGHT;
    Tile last = tile_of(matrix, top + k / ROWS);
    float unit = unit_of(matrix, last, k % ROWS), scale_here = scale_after(to, last, k % ROWS);
    if (thread == 0)
    {
        mbarrier_init(shared_address(&room.arrivals), 1);
        mbarrier_arrive_expect(shared_address(&room.arrivals), max(pairs, 0) * (SPLIT * HEIGHT * 8));
    }

    __syncwarp();
    cluster_arrive();
    wait_for_results();
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) copy_chunk(room.x, x + begin, sequences, count, chunk);
    if (NORMED)
    {
        for (int i = warp; i < 2 * PAIRS; i += WARPS)
        {
            int b = 2 * first_pair + i;
            float r = norm_of(b < sequences ? squares_of(squares, b) : 0.f, epsilon);
            if (lane == 0) room.r[i] = r;
        }
    }

    float before[KEPT][2];
#pragma unroll
    for (int i = 0; i < 2 * KEPT; i++)
    {
        int pair = (i / 2 * THREADS + thread) / HEIGHT, b = 2 * (first_pair + pair) + i % 2;
        before[i / 2][i % 2] = stream_before(to, last, k % ROWS, b, pair < pairs && b < sequences);
    }

    float c[GROUPS][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
    {
        wait_for_chunk(chunk);
        if (beside) multiply<WEIGHTS_BF16>(c, w, low, high, room.x, count, chunk);
        else multiply<WEIGHTS>(c, w, low, high, room.x, count, chunk);
    }

    // Of two warps with a tile each adds up every other group.
    if (SHARES > 1)
    {
        __syncthreads();
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
            if (n % SHARES != share) room.partial[own_tile][n][lane] = make_float4(c[n][0], c[n][1], c[n][2], c[n][3]);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
        {
            if (n % SHARES == share)
            {
                float4 other = room.partial[own_tile][n][lane];
                c[n][0] += other.x, c[n][1] += other.y, c[n][2] += other.z, c[n][3] += other.w;
            }
        }
    }

    cluster_wait(); // all its blocks run, and count arrivals
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
    {
        if (n % SHARES != share) continue;
        int pair = 4 * n + lane % 4, owner = pair / PAIRS;
        float2* place = &room.sums[rank][pair % PAIRS][own_tile * ROWS + lane / 4];
        u32 arrivals = cluster_address(shared_address(&room.arrivals), owner);
        cluster_store_async(cluster_address(shared_address(place), owner), make_float2(c[n][0], c[n][1]), arrivals);
        cluster_store_async(cluster_address(shared_address(place + 8), owner), make_float2(c[n][2], c[n][3]), arrivals);
    }

    mbarrier_wait(shared_address(&room.arrivals), 0);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
    {
        int pair = (i * THREADS + thread) / HEIGHT;
        if (pair >= pairs) break; // of whole warps
        float2 sum = room.sums[0][pair][k];
#pragma unroll
        for (int s = 1; s < SPLIT; s++) sum.x += room.sums[s][pair][k].x, sum.y += room.sums[s][pair][k].y;
#pragma unroll
        for (int h = 0; h < 2; h++)
        {
            int b = 2 * (first_pair + pair) + h;
            float product = (h == 0 ? sum.x : sum.y) * unit;
            if (NORMED) product *= room.r[2 * pair + h];
            finish(to, last, k % ROWS, b, b < sequences, product, before[i][h], scale_here);
        }
    }
}
