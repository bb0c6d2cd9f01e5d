// The embedding: y[n] = table[ids[n]], and the gradient of the table, dtable[v] = sum over n with ids[n] = v of dy[n], in the order of n.
//
// For the gradient the positions are sorted by (id, position), in two steps without atomics: chunks of 1024 are sorted by counting, for
// each id, those before it; then each finds its place among all by binary search in every other sorted chunk (N (N / 1024) 10 steps: 10
// million for N = 32768). Then one warp sums a tile of TILE sorted positions, whose equal ids are neighbours. An id whose positions lie
// in one tile is done with that; of others each tile leaves a partial sum, and the last kernel adds those up in the order of the tiles.
// However often a token occurs, no warp has more than its tile.
//
// Bytes, N = 32768 positions, V = 50304 ids, d = 768: forward 4 read and 2 written a channel: 151 MB, 50 us at 3 TB/s, less where ids
// repeat. Backward: dy 50 MB, partial sums at most 2 x 4 / TILE a channel, 6 MB, and the table's
// gradient, 155 MB if all of it is written: 71 us; the sort, of 0.4 MB, about 10 us.
#include "Ptx.cuh"

// EmbeddingKernel.cs tells DIM, the channels; SLICE, those of a row that a warp has; TILE, the sorted positions of a warp; CHUNK, the
// positions sorted together; WARPS and SORT_THREADS.
static_assert(DIM % 8 == 0 && SLICE % 256 == 0, "a lane has pieces of 8 channels");
static_assert((CHUNK & (CHUNK - 1)) == 0 && CHUNK % SORT_THREADS == 0, "chunks are searched by halves, and cut into blocks");

#define PIECES (SLICE / 256) // of 8 channels, a lane
#define SEARCHES 8 // at a time
#define ROWS_AT_ONCE (PIECES > 3 ? 2 : 4)
#define NO_KEY 0xffffffffu

// An id outside the table gives NaN, which ends in a loss that is none, and not a wild read.
// Grid: (any number, (DIM + SLICE - 1) / SLICE); WARPS warps, each with a row's slice at a time; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS) embedding_forward(
    const float* RESTRICT table, const i64* RESTRICT ids, bf16* RESTRICT y, int positions, int vocabulary)
{
    wait_for_predecessors();
    int first = blockIdx.y * SLICE + 8 * (threadIdx.x % 32);
    for (int n = blockIdx.x * WARPS + threadIdx.x / 32; n < positions; n += gridDim.x * WARPS)
    {
        i64 id = ids[n];
        bool exists = id >= 0 && id < vocabulary;
        i64 from = exists ? id * DIM : 0;
        float4 wide[PIECES][2];
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            int channel = first + 256 * p;
            if (channel < DIM)
            {
                wide[p][0] = *(const float4*)(table + from + channel);
                wide[p][1] = *(const float4*)(table + from + channel + 4);
            }
        }

#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            int channel = first + 256 * p;
            float4 low = wide[p][0], high = wide[p][1];
            uint4 row = make_uint4(pack_bf16(low.x, low.y), pack_bf16(low.z, low.w), pack_bf16(high.x, high.y), pack_bf16(high.z, high.w));
            if (!exists) row = make_uint4(0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu);
            if (channel < DIM) *(uint4*)(y + (i64)n * DIM + channel) = row;
        }
    }
}

// Sorts each chunk of ids by (id, position): keys[chunk, rank] = id CHUNK + position in the chunk. An id outside the table gets the
// greatest key, and no gradient. A block ranks SORT_THREADS of a chunk, each thread its id, by counting all smaller keys of the chunk.
// vocabulary < 2^22. Grid: CHUNK / SORT_THREADS blocks a chunk; SORT_THREADS threads; shared: 4 CHUNK bytes. keys: u32 [chunks, CHUNK], all
// of it written.
KERNEL void __launch_bounds__(SORT_THREADS) embedding_sort_chunks(
    const i64* RESTRICT ids, u32* RESTRICT keys, int positions, int vocabulary)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    u32* chunk = (u32*)shared;
    int start = blockIdx.x / (CHUNK / SORT_THREADS) * CHUNK;
    for (int k = threadIdx.x; k < CHUNK; k += SORT_THREADS)
    {
        i64 id = start + k < positions ? ids[start + k] : -1;
        chunk[k] = id >= 0 && id < vocabulary ? (u32)id * CHUNK + k : NO_KEY;
    }

    __syncthreads();
    int mine = blockIdx.x % (CHUNK / SORT_THREADS) * SORT_THREADS + threadIdx.x;
    u32 key = chunk[mine];
    int smaller = 0, ties = 0; // only those without a key tie; they go by position
#pragma unroll 8
    for (int k = 0; k < CHUNK; k += 4)
    {
        uint4 other = *(const uint4*)(chunk + k);
        smaller += (other.x < key) + (other.y < key) + (other.z < key) + (other.w < key);
    }

    if (key == NO_KEY)
        for (int k = 0; k < mine; k++) ties += chunk[k] == NO_KEY;
    keys[start + smaller + ties] = key;
}

// Merges the chunks: order[place] is the position that stands there, sorted[place] its id, or `vocabulary` for those without a key.
// Grid and threads as above; no shared memory. order, sorted: int [positions], all of it written.
KERNEL void __launch_bounds__(SORT_THREADS) embedding_merge(
    const u32* RESTRICT keys, int* RESTRICT order, int* RESTRICT sorted, int positions, int vocabulary)
{
    wait_for_predecessors();
    int chunks = (positions + CHUNK - 1) / CHUNK, place = blockIdx.x * SORT_THREADS + threadIdx.x, mine = place / CHUNK;
    u32 key = keys[place];
    bool exists = key != NO_KEY;
    u32 id = exists ? key / CHUNK : (u32)vocabulary;
    int before = 0;
    for (int first = 0; first < chunks; first += SEARCHES)
    {
        // Equal ids of earlier chunks stand before this one, those of later chunks behind it. Every search waits for memory ten times and
        // once; several go on together.
        u32 bound[SEARCHES];
        int below[SEARCHES] = {};
#pragma unroll
        for (int k = 0; k < SEARCHES; k++) bound[k] = first + k < mine ? (id + 1) * CHUNK : first + k == mine ? key : id * CHUNK;
#pragma unroll
        for (int half = CHUNK / 2; half > 0; half >>= 1)
        {
#pragma unroll
            for (int k = 0; k < SEARCHES; k++)
                if (keys[min(first + k, chunks - 1) * CHUNK + below[k] + half - 1] < bound[k]) below[k] += half;
        }

#pragma unroll
        for (int k = 0; k < SEARCHES; k++)
        {
            int c = first + k;
            below[k] += keys[min(c, chunks - 1) * CHUNK + below[k]] < bound[k];
            if (!exists && c <= mine) below[k] = c < mine ? CHUNK : place % CHUNK;
            if (c < chunks) before += below[k];
        }
    }

    if (exists)
    {
        order[before] = mine * CHUNK + (int)(key % CHUNK);
        sorted[before] = (int)id;
    }
    else if (before < positions)
    {
        // Which position it is matters to no one: it is never read.
        order[before] = 0;
        sorted[before] = vocabulary;
    }
}

DEVICE void add_row(float (&sum)[PIECES][8], const uint4 (&raw)[PIECES])
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
        float x[8];
        unpack_bf16x8(x, raw[p]);
#pragma unroll
        for (int e = 0; e < 8; e++) sum[p][e] += x[e];
    }
}

DEVICE void store_sum(float* to, const float (&sum)[PIECES][8], int channel)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
        if (channel + 256 * p < DIM)
        {
#pragma unroll
            for (int e = 0; e < 8; e += 4)
                *(float4*)(to + channel + 256 * p + e) = make_float4(sum[p][e], sum[p][e + 1], sum[p][e + 2], sum[p][e + 3]);
        }
    }
}

// The sums of one tile's runs of equal ids. A run inside the tile goes to dtable; one that began before goes to partials[tile, 0], one that
// begins here and goes on in the next tile to partials[tile, 1].
// Grid: (tiles / WARPS, rounded up, (DIM + SLICE - 1) / SLICE); WARPS warps; no shared memory. partials: [tiles, 2, DIM].
KERNEL void __launch_bounds__(32 * WARPS) embedding_sum_tiles(
    const bf16* RESTRICT dy, const int* RESTRICT order, const int* RESTRICT sorted, float* RESTRICT dtable, float* RESTRICT partials,
    int positions, int vocabulary)
{
    wait_for_predecessors();
    int tile = blockIdx.x * WARPS + threadIdx.x / 32, channel = blockIdx.y * SLICE + 8 * (threadIdx.x % 32);
    int begin = tile * TILE, end = min(begin + TILE, positions);
    if (begin >= positions) return;
    float sum[PIECES][8] = {};
    bool began_before = begin > 0 && sorted[begin - 1] == sorted[begin];
    for (int first = begin; first < end; first += ROWS_AT_ONCE)
    {
        uint4 raw[ROWS_AT_ONCE][PIECES];
        int ids[ROWS_AT_ONCE + 1];
#pragma unroll
        for (int k = 0; k <= ROWS_AT_ONCE; k++) ids[k] = first + k < positions ? sorted[first + k] : -1;
#pragma unroll
        for (int k = 0; k < ROWS_AT_ONCE; k++)
        {
            bool exists = first + k < end && ids[k] < vocabulary;
            i64 from = exists ? (i64)order[first + k] * DIM : 0;
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                bool inside = exists && channel + 256 * p < DIM;
                raw[k][p] = inside ? load_once(dy + from + channel + 256 * p) : make_uint4(0, 0, 0, 0);
            }
        }

#pragma unroll
        for (int k = 0; k < ROWS_AT_ONCE; k++)
        {
            if (first + k >= end || ids[k] >= vocabulary) break;
            add_row(sum, raw[k]);
            bool last = first + k + 1 == end, goes_on = ids[k + 1] == ids[k];
            if (goes_on && !last) continue;
            bool whole = !began_before && !goes_on;
            float* to = whole ? dtable + (i64)ids[k] * DIM : partials + ((i64)tile * 2 + (began_before ? 0 : 1)) * DIM;
            store_sum(to, sum, channel);
            began_before = false;
#pragma unroll
            for (int p = 0; p < PIECES; p++)
#pragma unroll
                for (int e = 0; e < 8; e++) sum[p][e] = 0;
        }
    }
}

// The runs of several tiles: what began in this block's tile and what all further tiles have of it. Lanes have 4 channels each.
// Grid: (tiles, (DIM / 4 + THREADS - 1) / THREADS) with THREADS = 32 WARPS; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS) embedding_join_tiles(
    const float* RESTRICT partials, const int* RESTRICT sorted, float* RESTRICT dtable, int positions, int vocabulary)
{
    wait_for_predecessors();
    int tile = blockIdx.x, next = (tile + 1) * TILE, channel = 4 * (blockIdx.y * 32 * WARPS + threadIdx.x);
    if (next >= positions || channel >= DIM) return;
    int id = sorted[next - 1];
    bool began_before = tile > 0 && sorted[tile * TILE] == id && sorted[tile * TILE - 1] == id;
    if (id >= vocabulary || sorted[next] != id || began_before) return;
    int last = tile + 1, past = (positions + TILE - 1) / TILE; // the run goes on in tile `last`, and not in `past`
    while (past - last > 1)
    {
        int middle = (last + past) / 2;
        if (sorted[middle * TILE] == id)
            last = middle;
        else
            past = middle;
    }

    float4 sum = *(const float4*)(partials + ((i64)tile * 2 + 1) * DIM + channel);
#pragma unroll 16
    for (int t = tile + 1; t <= last; t++)
    {
        float4 more = *(const float4*)(partials + (i64)t * 2 * DIM + channel);
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }

    *(float4*)(dtable + (i64)id * DIM + channel) = sum;
}

// Zeros for the ids that do not occur. A warp has 32 ids: each lane looks for one.
// Grid: vocabulary / 32 / WARPS, rounded up; WARPS warps; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS) embedding_zero_absent(
    const int* RESTRICT sorted, float* RESTRICT dtable, int positions, int vocabulary)
{
    wait_for_predecessors();
    int lane = threadIdx.x % 32, first = 32 * (blockIdx.x * WARPS + threadIdx.x / 32), id = first + lane;
    int low = 0, high = positions; // the first place whose id is not less
    while (low < high)
    {
        int middle = (low + high) / 2;
        if (sorted[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }

    int absent = id < vocabulary && (low == positions || sorted[low] != id);
    for (int k = 0; k < 32; k++)
    {
        if (!__shfl_sync(FULL_WARP, absent, k)) continue;
        for (int channel = 4 * lane; channel < DIM; channel += 128)
            *(float4*)(dtable + (i64)(first + k) * DIM + channel) = make_float4(0, 0, 0, 0);
    }
}
