// The same as TokenProduct.cu does, for models so wide that a block of it, which asks for its tile, waits, adds up and ends, keeps memory
// waiting at its end. Here a multiprocessor has one block, which goes through its share of the tiles: one warp copies rows into a ring of
// stages in shared memory, as far ahead as the ring is long, and the others multiply what has come. It begins before the kernel in front
// has ended, as weights are nobody's result.
//
// What a copy costs is not its bytes: measured on an H200, a multiprocessor needs some 50 ns for each, so that 512 bytes are 1.3 TB/s on
// 132 of them, 1 KB 2.6, and from 2 KB on memory is the limit. Of a wide model's rows 4 KB are copied at a time, into a ring of 200 KB. A
// narrow model's kernels are short: with a ring of half a multiprocessor's memory the next kernel's block is there before this one ends.
//
// Bytes: 2 a weight, or 1. 6.87 G parameters: 13.7 GB a token, 3.2 ms at 4.3 TB/s and 4.6 at 3; with 1 us for each of 129 beginnings and
// 3 us for each of 32 memories 3.4 and 4.8; of one byte 1.9 and 2.6. Tiles are not divided: 256 of them on 132 multiprocessors keep 97 % of
// them busy, 770 97 % and 1368 94 %.
#include "TokenProduct.cuh"

// TokenStepKernels.cs tells, beside what TokenProduct.cuh is told: WARPS, that multiply; STAGES; STAGE_BYTES, of a row, whole turns of the
// warps; BLOCKS, that a multiprocessor has at a time; ROOM_BYTES.
#define THREADS (32 * WARPS)                  // that multiply
#define TURNS (STAGE_BYTES / 64 / WARPS)      // of a warp at a stage's pieces
#define STRIDE (STAGE_BYTES + 64)             // from a row to the next, so that those that a load touches lie in all banks
#define KEPT CEIL(ROWS * 8 * GROUPS, THREADS) // sums that a thread ends with
static_assert(STAGES <= THREADS, "a thread begins a stage");
static_assert(STAGE_BYTES % (64 * WARPS) == 0, "a stage is whole turns");

template <int Format> struct Stage
{
    static const int COLUMNS = STAGE_BYTES / Piece<Format>::BYTES, COUNT = CEIL(INPUTS, COLUMNS);
};

struct Room
{
    unsigned char ring[STAGES][ROWS][STRIDE];
    float partial[2][WARPS][8 * GROUPS][ROWS + 1]; // of tiles in turn: one's are added up while the next one's are multiplied
    float r[8 * GROUPS];
    u64 full[STAGES], empty[STAGES];
};
static_assert(CEIL(sizeof(Room), 16) * 16 == ROOM_BYTES, "as the host counts it");

// The stage that is next, and the parity of the round through the ring.
struct Place
{
    int stage;
    u32 round;
};

DEVICE void advance(Place& place)
{
    if (++place.stage < STAGES) return;
    place.stage = 0;
    place.round ^= 1;
}

// The pieces of rows that a block's stages have, one after the other, as a lane of the warp that copies sees them.
struct Walk
{
    int tile, begin, end; // of the row, in bytes
    const char* row;      // the lane's, null where it has none
};

DEVICE void begin_tile(Walk& walk, const Matrix& matrix, int tiles)
{
    if (walk.tile >= tiles) return;
    Tile tile = tile_of(matrix, walk.tile);
    walk.begin = 0;
    walk.end = INPUTS * (NARROW && tile.beside ? 2 : Piece<WEIGHTS>::BYTES);
    walk.row = threadIdx.x % 32 < ROWS ? row_of(matrix, tile, threadIdx.x % 32) : 0;
}

DEVICE void go_on(Walk& walk, const Matrix& matrix, int tiles)
{
    walk.begin += STAGE_BYTES;
    if (walk.begin < walk.end) return;
    walk.tile += gridDim.x;
    begin_tile(walk, matrix, tiles);
}

DEVICE u32 bytes_of(const Walk& walk) { return min(STAGE_BYTES, walk.end - walk.begin); }

// All that the block multiplies.
DEVICE void copy_tiles(Room& room, const Matrix& matrix, int tiles)
{
    const int lane = threadIdx.x % 32;
    Place place = {0, 0};
    Walk walk = {(int)blockIdx.x};
    begin_tile(walk, matrix, tiles);
    for (; walk.tile < tiles; go_on(walk, matrix, tiles))
    {
        int rows = __popc(__ballot_sync(FULL_WARP, walk.row != 0));
        u32 full = shared_address(&room.full[place.stage]), bytes = bytes_of(walk);
        mbarrier_wait(shared_address(&room.empty[place.stage]), place.round ^ 1);
        if (lane == 0) mbarrier_arrive_expect(full, rows * bytes);
        __syncwarp();
        if (walk.row) copy_bulk(shared_address(room.ring[place.stage][lane]), walk.row + walk.begin, bytes, full);
        advance(place);
    }
}

template <int Format> DEVICE int column_of(int stage, int turn)
{
    return stage * Stage<Format>::COLUMNS + (turn * WARPS + threadIdx.x / 32) * Piece<Format>::WIDTH
        + threadIdx.x % 4 * Piece<Format>::COLUMNS;
}

// Whether there is one: a row may end within a stage.
template <int Format> DEVICE bool has_column(int column) { return INPUTS % Stage<Format>::COLUMNS == 0 || column < INPUTS; }

// A thread's part of x for one stage.
template <int Format> struct Inputs
{
    uint4 words[TURNS][GROUPS][Piece<Format>::COLUMNS / 8];
};

template <int Format> DEVICE void load_inputs(Inputs<Format>& inputs, const bf16* x, int sequences, int stage)
{
#pragma unroll
    for (int t = 0; t < TURNS; t++)
    {
        int column = column_of<Format>(stage, t);
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
        {
            int b = 8 * n + threadIdx.x % 32 / 4;
            bool exists = has_column<Format>(column) && b < sequences;
#pragma unroll
            for (int i = 0; i < Piece<Format>::COLUMNS / 8; i++)
                inputs.words[t][n][i] = exists ? *(const uint4*)(x + (i64)b * INPUTS + column + 8 * i) : make_uint4(0, 0, 0, 0);
        }
    }
}

// The warp's part of the products of a tile's rows. What lies in the place of a row that does not exist comes to its own sums alone.
template <int Format> DEVICE void sum_rows(float (&c)[GROUPS][4], Room& room, Place& place, const bf16* x, int sequences)
{
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 64 + lane % 4 * 16;
    Inputs<Format> inputs;
    load_inputs<Format>(inputs, x, sequences, 0);
#pragma unroll 1
    for (int stage = 0; stage < Stage<Format>::COUNT; stage++)
    {
        mbarrier_wait(shared_address(&room.full[place.stage]), place.round);
        const auto& rows = room.ring[place.stage];
        uint4 low_words[TURNS], high_words[TURNS];
#pragma unroll
        for (int t = 0; t < TURNS; t++)
        {
            bool exists = has_column<Format>(column_of<Format>(stage, t));
            const int byte = first + t * WARPS * 64;
            low_words[t] = exists ? *(const uint4*)&rows[lane / 4][byte] : make_uint4(0, 0, 0, 0);
            high_words[t] = exists ? *(const uint4*)&rows[lane / 4 + 8][byte] : make_uint4(0, 0, 0, 0);
        }

        __syncwarp();
        if (lane == 0) mbarrier_arrive(shared_address(&room.empty[place.stage]));
        advance(place);
#pragma unroll
        for (int t = 0; t < TURNS; t++)
        {
            u32 low[Piece<Format>::COLUMNS / 2], high[Piece<Format>::COLUMNS / 2];
            widen<Format>(low, low_words[t]);
            widen<Format>(high, high_words[t]);
#pragma unroll
            for (int n = 0; n < GROUPS; n++)
#pragma unroll
                for (int i = 0; i < Piece<Format>::COLUMNS / 2; i += 4)
                    multiply_words<Format>(c[n], low, high, i, inputs.words[t][n][i / 4]);
        }

        // They come while the warp waits for the next rows.
        if (stage + 1 < Stage<Format>::COUNT) load_inputs<Format>(inputs, x, sequences, stage + 1);
    }
}

// The arguments of token_product, and how many tiles there are. Grid: a block a multiprocessor, or a tile if those are fewer; WARPS warps
// and the one that copies; a Room of shared memory. What comes out is the same for every grid.
KERNEL void __launch_bounds__(THREADS + 32, BLOCKS) token_stream_product(
    const void* w0, const void* w1, const void* w2, const void* w3, const void* w4, const void* w5,
    int e0, int e1, int e2, int e3, int e4, int e5,
    const bf16* x, const float* squares, float* y, bf16* gated, float* stream, const float* scale, bf16* scaled, float* sums,
    int sequences, float epsilon, float cap, const float* units, int tiles)
{
    start_dependents();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    const Matrix matrix = {{w0, w1, w2, w3, w4, w5}, {e0, e1, e2, e3, e4, e5}, units};
    const Results to = {y, gated, stream, scale, scaled, sums, e5, cap};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, k = threadIdx.x % ROWS;
    if (threadIdx.x < STAGES)
    {
        mbarrier_init(shared_address(&room.full[threadIdx.x]), 1);
        mbarrier_init(shared_address(&room.empty[threadIdx.x]), WARPS);
    }

    __syncthreads();
    if (warp == WARPS)
    {
        copy_tiles(room, matrix, tiles);
        return;
    }

    wait_for_results();
    Place place = {0, 0};
    int turn = 0;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x)
    {
        Tile tile = tile_of(matrix, t);
        float unit = unit_of(matrix, tile, k), scale_here = scale_after(to, tile, k), before[KEPT];
#pragma unroll
        for (int i = 0; i < KEPT; i++)
        {
            int b = (i * THREADS + threadIdx.x) / ROWS;
            before[i] = stream_before(to, tile, k, b, b < sequences);
        }

        float c[GROUPS][4] = {};
        if (NARROW && tile.beside) sum_rows<WEIGHTS_BF16>(c, room, place, x, sequences);
        else sum_rows<WEIGHTS>(c, room, place, x, sequences);

        // While more rows come.
        if (NORMED && t == (int)blockIdx.x)
        {
            for (int b = warp; b < 8 * GROUPS; b += WARPS)
            {
                float r = norm_of(b < sequences ? squares_of(squares, b) : 0.f, epsilon);
                if (lane == 0) room.r[b] = r;
            }
        }

        auto& partial = room.partial[turn];
        turn ^= 1;
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
        {
            int b = 8 * n + 2 * (lane % 4);
            partial[warp][b][row] = c[n][0], partial[warp][b + 1][row] = c[n][1];
            partial[warp][b][row + 8] = c[n][2], partial[warp][b + 1][row + 8] = c[n][3];
        }

        sync_warps<1, THREADS>();
#pragma unroll
        for (int i = 0; i < KEPT; i++)
        {
            int b = (i * THREADS + threadIdx.x) / ROWS;
            if (b - b % 2 >= sequences) break; // of whole warps
            bool exists = b < sequences;
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += exists ? partial[w][b][k] : 0.f;
            if (NARROW) sum *= unit;
            if (NORMED && exists) sum *= room.r[b];
            finish(to, tile, k, b, exists, sum, before[i], scale_here);
        }
    }
}
