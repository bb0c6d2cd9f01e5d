// One token of each of up to eight sequences through a whole xLSTM in the shape of the 7B model's, in one launch: embedding, all blocks, head.
// A block of threads a multiprocessor, all there at once, goes through a block's five phases, between which all of the grid meets:
//     q, k, v, o and gates of the norm | the cell | its norm, output gate and projection, added to the stream | SwiGLU of the norm | down, added.
//
// Weights do not wait for any of that. A warp runs ahead and copies them, in the order in which its multiprocessor multiplies them, into a ring
// of shared memory, which holds 200 KB: of 132 multiprocessors 27 MB, 9 us of memory's time. While the others wait for a phase to end, the next
// ones' weights arrive. The memory C, which only one multiprocessor touches, is asked for a block ahead in the second-level cache, and its first
// part in registers a phase ahead.
//
// A piece is eight rows of a matrix: the right operand of mma_bf16, whose columns they are. The left one's rows are the sequences. Which of 16
// inner indices is which does not matter as long as both operands agree: a thread takes 8 neighbouring columns of a row in one load, and the same
// 8 of x, which it keeps in registers for all pieces of a phase. Warps have different columns; their sums meet in shared memory.
//
// The norm's r = (mean(x^2) + epsilon)^-1/2 is applied to the product: who writes the stream leaves it times the norm's weights, and of every eight
// channels the sum of squares. Of the head norm sigmoid(o) w (h - mean) r the cell leaves u = sigmoid(o) w h and v = sigmoid(o) w, and of its columns
// mean and squares, from which the projection makes mean and r. The stream itself stays in its multiprocessor's shared memory.
//
// Bytes: 2 a weight, 8 an element of C. 407 M parameters: 0.81 GB, 0.27 ms at 3 TB/s; 6.87 G: 13.7 GB and 0.27 GB of C, 4.7 ms.
// Between them, phases: 5 a block of about 2 us where all weights are there, of which 1 us is the grid's meeting (a release, an addition and a
// look at it, each a way to the second-level cache), 0.4 us x from there, the rest 3 products a warp and piece, sums and a result's way back.
// 24 blocks: 0.24 ms, less than the weights take: 0.3 to 0.4 ms; 32: 0.32 ms of 4.7.
#include "Ptx.cuh"

// TokenWalkKernel.cs tells DIM, d; INNER; HEADS, DK, DV; BLOCKS; VOCABULARY; MOST, sequences at most; SLICE, columns of C that are a multiprocessor's
// at a time; MULTIPROCESSORS; STAGES; WARPS that multiply; WIDE, whether the table is float32; EXPONENTIAL, the input gate, else a sigmoid; NORMALIZE;
// CENTER, whether the head norm is a LayerNorm, else RMS; WALK_BYTES and ROOM_BYTES.
#define THREADS (32 * WARPS) // and a warp that copies
#define COLUMNS 1024         // of a stage
#define STRIDE (2 * COLUMNS + 64)
#define STAGE_BYTES (8 * STRIDE)
#define SHARE (COLUMNS / 32 / WARPS) // pieces of 32 columns of a stage that a warp has
#define PASS 4                       // stages of which a warp keeps x
#define GROUP 4                      // pieces whose sums meet at a time
#define CEIL(a, b) (((a) + (b) - 1) / (b))
#define QK (HEADS * DK)
#define VD (HEADS * DV)
#define ROWS (2 * QK + 2 * VD + 4 * HEADS) // q, k, v, o, and of each gate the products with the upper and the lower halves of its weights, [i, f, i, f]
#define PROJECTION_PIECES CEIL(ROWS, 8)
#define STREAM_PIECES (DIM / 8)
#define GATED_PIECES (INNER / 4) // four rows of each part
#define HEAD_PIECES CEIL(VOCABULARY, 8)
#define OWN_PIECES CEIL(STREAM_PIECES, MULTIPROCESSORS)
#define SLICES (DV / SLICE)
#define ITEMS CEIL(MOST * HEADS * SLICES, MULTIPROCESSORS)
#define QUADS (SLICE / 4)
#define GROUPS (THREADS / QUADS)
#define TURNS CEIL(DK, GROUPS)
#define MOST_BLOCKS 64
#define FULL_SYNC 1 // of the threads that multiply
static_assert(DIM % 32 == 0 && INNER % 32 == 0 && VD % 32 == 0, "a piece has 32 columns");
static_assert(DV % SLICE == 0 && QUADS <= 32 && (QUADS & (QUADS - 1)) == 0 && SLICE % 4 == 0, "a warp has whole rows of a slice");
static_assert(COLUMNS % (32 * WARPS) == 0 && WARPS >= MOST && BLOCKS <= MOST_BLOCKS, "as many");

// Where a block's weights are.
enum Weight
{
    W_Q, W_K, W_V, W_O, W_GATES, W_OUT, W_GATE, W_UP, W_DOWN, // [rows, inputs] bfloat16
    W_BIASES, W_HEAD_NORM, W_INNER_NORM, W_NEXT_NORM,         // float32: [2, NH]: i, f; [NH DV]; [d]; [d]
    WEIGHTS = 16
};

// weights [BLOCKS, WEIGHTS]; between phases: scaled [MOST, d], squares [MOST, d / 8], projections [MOST, ROWS], mixed [2, MOST, NH DV],
// moments [MOST, NH, SLICES], inner [MOST, INNER]; logits [sequences, V]. Of a block c [sequences, NH, DK, DV], n [sequences, NH, DK], m [sequences, NH].
struct Walk
{
    const i64* tokens;
    const void* table;
    const float* first_norm;
    const bf16* head;
    const i64* weights;
    u64* arrivals;
    bf16* scaled;
    float *squares, *projections, *mixed;
    float2* moments;
    bf16* inner;
    float* logits;
    float epsilon, gate_cap, cell_epsilon, head_epsilon, cap;
    int sequences;
    float* states[3 * MOST_BLOCKS];
};
static_assert(sizeof(Walk) == WALK_BYTES, "as the host has it");

struct Room
{
    union
    {
        float partial[GROUP][WARPS][8 * MOST];
        struct
        {
            float sums[WARPS][SLICE], q[DK], k[DK], products[WARPS];
        } cell;
    };
    u64 full[STAGES], empty[STAGES];
    float2 heads[MOST * HEADS]; // mean and r
    float r[MOST], stream[OWN_PIECES][MOST][8], scales[2][OWN_PIECES][8], n[ITEMS][DK], m[ITEMS], head_norm[ITEMS][SLICE], biases[2 * HEADS];
};
static_assert(sizeof(Room) == ROOM_BYTES, "as the host makes room for it");

// Where in the ring.
struct Turn
{
    int slot;
    u32 parity;

    DEVICE void next()
    {
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
};

DEVICE float log_sigmoid(float x) { return fminf(x, 0.f) - log1pf(expf(-fabsf(x))); }

DEVICE const i64* weights_of(const Walk& walk, int block) { return walk.weights + block * WEIGHTS; }

// The first of the multiprocessor's pieces where piece 0 is `start`'s; the others follow MULTIPROCESSORS apart. Phases begin where the one before them
// ended, so that all have as much to read; the stream's, whose channels stay where they are, begin at 0.
DEVICE int first_piece(int start)
{
    int piece = (int)blockIdx.x - start % MULTIPROCESSORS;
    return piece < 0 ? piece + MULTIPROCESSORS : piece;
}

DEVICE int projection_start(int block) { return block * (PROJECTION_PIECES + GATED_PIECES); }
DEVICE int gated_start(int block) { return projection_start(block) + PROJECTION_PIECES; }

// What the copying warp does of a matrix; row_of tells lanes 0 to 7 their rows of a piece, or null.
template <int K, class RowOf>
DEVICE void supply(Turn& turn, Room& room, unsigned char* ring, int start, int pieces, RowOf row_of)
{
    constexpr int stages = CEIL(K, COLUMNS);
    int lane = threadIdx.x % 32;
    for (int base = first_piece(start); base < pieces; base += GROUP * MULTIPROCESSORS)
        for (int pass = 0; pass < stages; pass += PASS)
            for (int piece = base; piece < pieces && piece < base + GROUP * MULTIPROCESSORS; piece += MULTIPROCESSORS)
            {
                const bf16* row = lane < 8 ? row_of(piece, lane) : 0;
                int rows = __popc(__ballot_sync(FULL_WARP, row != 0));
                for (int stage = pass; stage < stages && stage < pass + PASS; stage++)
                {
                    int column = stage * COLUMNS, bytes = 2 * (K - column < COLUMNS ? K - column : COLUMNS);
                    u32 full = shared_address(&room.full[turn.slot]);
                    mbarrier_wait(shared_address(&room.empty[turn.slot]), turn.parity ^ 1);
                    if (lane == 0) mbarrier_arrive_expect(full, rows * bytes);
                    __syncwarp();
                    if (row) copy_bulk_once(shared_address(ring + turn.slot * STAGE_BYTES + lane * STRIDE), row + column, bytes, full);
                    turn.next();
                }
            }
}

DEVICE void supply_all(const Walk& walk, Room& room, unsigned char* ring)
{
    Turn turn = {0, 0};
    for (int block = 0; block < BLOCKS; block++)
    {
        const i64* at = weights_of(walk, block);
        const bf16 *q = (const bf16*)at[W_Q], *k = (const bf16*)at[W_K], *v = (const bf16*)at[W_V], *o = (const bf16*)at[W_O], *gates = (const bf16*)at[W_GATES];
        const bf16 *out = (const bf16*)at[W_OUT], *gate = (const bf16*)at[W_GATE], *up = (const bf16*)at[W_UP], *down = (const bf16*)at[W_DOWN];
        supply<DIM>(turn, room, ring, projection_start(block), PROJECTION_PIECES, [&](int piece, int lane)
        {
            int row = 8 * piece + lane;
            const bf16* part = q;
            if (row >= QK) part = k - (i64)QK * DIM;
            if (row >= 2 * QK) part = v - (i64)2 * QK * DIM;
            if (row >= 2 * QK + VD) part = o - (i64)(2 * QK + VD) * DIM;
            if (row >= 2 * QK + 2 * VD) part = gates - (i64)(2 * QK + 2 * VD) * DIM;
            return row < ROWS ? part + (i64)row * DIM : (const bf16*)0;
        });
        supply<VD>(turn, room, ring, 0, STREAM_PIECES, [&](int piece, int lane) { return out + (i64)(8 * piece + lane) * VD; });
        supply<DIM>(turn, room, ring, gated_start(block), GATED_PIECES, [&](int piece, int lane)
        {
            return (lane < 4 ? gate : up) + (i64)(4 * piece + lane % 4) * DIM;
        });
        supply<INNER>(turn, room, ring, 0, STREAM_PIECES, [&](int piece, int lane) { return down + (i64)(8 * piece + lane) * INNER; });
    }

    supply<DIM>(turn, room, ring, projection_start(BLOCKS), HEAD_PIECES, [&](int piece, int lane)
    {
        int row = 8 * piece + lane;
        return row < VOCABULARY ? walk.head + (i64)row * DIM : (const bf16*)0;
    });
}

DEVICE void meet() { threads_sync(FULL_SYNC, THREADS); }

// Everything that these threads have written is there for who waits for as many arrivals.
DEVICE void arrive(const Walk& walk, u64& expected)
{
    meet();
    if (threadIdx.x == 0)
    {
        u64 before = grid_arrive(walk.arrivals);
        if (expected == 0) expected = before / MULTIPROCESSORS * MULTIPROCESSORS; // launches before this one have had all of theirs
        expected += MULTIPROCESSORS;
    }
}

DEVICE void wait(const Walk& walk, u64 expected)
{
    if (threadIdx.x == 0) grid_wait(walk.arrivals, expected);
    meet();
}

// What a product reads, and what becomes of it.
enum Kind
{
    PROJECTIONS, // y r
    OUT,         // of the cell's results; the stream with y added, and what the next norm needs of it
    GATED,       // silu(g r) u r
    DOWN,        // as OUT, of what GATED wrote
    LOGITS       // y r under its soft cap
};

// mean and r of the head norm.
DEVICE void head_moments(const Walk& walk, Room& room)
{
    constexpr int turns = CEIL(SLICES, 32);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int p = warp; p < walk.sequences * HEADS; p += WARPS)
    {
        float2 part[turns];
        float mean = 0, squares = 0;
#pragma unroll
        for (int t = 0; t < turns; t++)
        {
            int slice = 32 * t + lane;
            part[t] = slice < SLICES ? load_fresh(walk.moments + p * SLICES + slice) : make_float2(0, 0);
            mean += part[t].x;
        }

        mean = warp_sum(mean) * (1.f / SLICES);
#pragma unroll
        for (int t = 0; t < turns; t++)
            if (32 * t + lane < SLICES) squares += part[t].y + SLICE * (part[t].x - mean) * (part[t].x - mean);
        squares = warp_sum(squares);
        if (lane == 0) room.heads[p] = make_float2(mean, 1.f / sqrtf(squares * (1.f / DV) + walk.head_epsilon));
    }
}

// Four channels of what the cell left.
struct Channels
{
    float4 u, v;
};

DEVICE Channels load_channels(const Walk& walk, int b, int channel)
{
    const float* u = walk.mixed + (i64)b * VD + channel;
    return {load_fresh((const float4*)u), CENTER ? load_fresh((const float4*)(u + MOST * VD)) : make_float4(0, 0, 0, 0)};
}

// Their head norm's result.
DEVICE uint2 norm_channels(const Room& room, Channels x, int b, int channel)
{
    float2 head = room.heads[b * HEADS + channel / DV];
    return make_uint2(
        pack_bf16((x.u.x - head.x * x.v.x) * head.y, (x.u.y - head.x * x.v.y) * head.y), pack_bf16((x.u.z - head.x * x.v.z) * head.y, (x.u.w - head.x * x.v.w) * head.y));
}

// The first of the 8 columns of a stage that are the thread's, of those in a row at once.
DEVICE int column_of(int stage, int i) { return stage * COLUMNS + 32 * (i * WARPS + threadIdx.x / 32) + 8 * (threadIdx.x % 4); }

// What a product reads of a pass's stages: zeros of sequences that are not there. Of the cell's results in the first pass it is for these threads to make
// the head norm's numbers, too, while the first stage is on its way.
template <int K, int KIND, int HELD>
DEVICE void load_inputs(uint4 (&x)[HELD][SHARE], const Walk& walk, Room& room, int pass)
{
    int b = threadIdx.x % 32 / 4;
    bool exists = b < walk.sequences;
    Channels low[SHARE], high[SHARE];
    if (KIND == OUT && pass == 0)
    {
#pragma unroll
        for (int i = 0; i < SHARE; i++)
            if (exists && column_of(0, i) < K) low[i] = load_channels(walk, b, column_of(0, i)), high[i] = load_channels(walk, b, column_of(0, i) + 4);
        head_moments(walk, room);
        meet();
    }

#pragma unroll
    for (int s = 0; s < HELD; s++)
#pragma unroll
        for (int i = 0; i < SHARE; i++)
        {
            int column = column_of(pass + s, i);
            x[s][i] = make_uint4(0, 0, 0, 0);
            if (column >= K || !exists) continue;
            if (KIND == OUT)
            {
                if (pass + s > 0) low[i] = load_channels(walk, b, column), high[i] = load_channels(walk, b, column + 4);
                uint2 first = norm_channels(room, low[i], b, column), second = norm_channels(room, high[i], b, column + 4);
                x[s][i] = make_uint4(first.x, first.y, second.x, second.y);
            }
            else
            {
                x[s][i] = load_fresh((const uint4*)((KIND == DOWN ? walk.inner : walk.scaled) + (i64)b * K + column));
            }
        }
}

// What becomes of the sum of row k of a piece, the own-th of this multiprocessor; whole warps come.
template <int KIND>
DEVICE void finish(const Walk& walk, Room& room, float sum, int piece, int own, int b, int k, bool exists)
{
    if ((KIND == PROJECTIONS || KIND == GATED || KIND == LOGITS) && exists) sum *= room.r[b];
    if (KIND == PROJECTIONS)
    {
        int row = 8 * piece + k;
        if (exists && row < ROWS) walk.projections[b * ROWS + row] = sum;
    }
    else if (KIND == LOGITS)
    {
        int row = 8 * piece + k;
        if (exists && row < VOCABULARY) walk.logits[(i64)b * VOCABULARY + row] = walk.cap > 0 ? walk.cap * tanhf(sum / walk.cap) : sum;
    }
    else if (KIND == GATED)
    {
        float up = __shfl_xor_sync(FULL_WARP, sum, 4);
        if (exists && k < 4) walk.inner[(i64)b * INNER + 4 * piece + k] = to_bf16(sum / (1.f + expf(-sum)) * up);
    }
    else
    {
        float now = 0;
        if (exists)
        {
            now = room.stream[own][b][k] + sum;
            room.stream[own][b][k] = now;
            walk.scaled[(i64)b * DIM + 8 * piece + k] = to_bf16(now * room.scales[KIND == DOWN][own][k]);
        }

        now *= now;
#pragma unroll
        for (int o = 4; o > 0; o >>= 1) now += __shfl_xor_sync(FULL_WARP, now, o);
        if (exists && k == 0) walk.squares[b * STREAM_PIECES + piece] = now;
    }
}

template <int K, int KIND>
DEVICE void multiply(const Walk& walk, Room& room, Turn& turn, const unsigned char* ring, int start, int pieces)
{
    constexpr int stages = CEIL(K, COLUMNS), held = stages < PASS ? stages : PASS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint4 x[held][SHARE];
    int first = first_piece(start);
    for (int base = first; base < pieces; base += GROUP * MULTIPROCESSORS)
    {
        float c[GROUP][SHARE][4] = {};
        for (int pass = 0; pass < stages; pass += PASS)
        {
            if (stages > PASS || base == first) load_inputs<K, KIND>(x, walk, room, pass);
            if ((KIND == PROJECTIONS || KIND == GATED || KIND == LOGITS) && base == first && warp < walk.sequences)
            {
                float sum = 0;
                for (int i = lane; i < STREAM_PIECES / 4; i += 32)
                {
                    float4 squares = load_fresh((const float4*)(walk.squares + warp * STREAM_PIECES) + i);
                    sum += (squares.x + squares.y) + (squares.z + squares.w);
                }

                sum = warp_sum(sum);
                if (lane == 0) room.r[warp] = 1.f / sqrtf(sum * (1.f / DIM) + walk.epsilon);
            }

#pragma unroll
            for (int j = 0; j < GROUP; j++)
            {
                if (base + j * MULTIPROCESSORS >= pieces) break;
#pragma unroll
                for (int s = 0; s < held; s++)
                {
                    if (pass + s >= stages) break;
                    mbarrier_wait(shared_address(&room.full[turn.slot]), turn.parity);
                    const unsigned char* from = ring + turn.slot * STAGE_BYTES + lane / 4 * STRIDE + 16 * (lane % 4);
                    uint4 w[SHARE];
#pragma unroll
                    for (int i = 0; i < SHARE; i++)
                        if ((pass + s) * COLUMNS + 32 * (i * WARPS + warp) < K) w[i] = *(const uint4*)(from + 64 * (i * WARPS + warp));
                    __syncwarp();
                    if (lane == 0) mbarrier_arrive(shared_address(&room.empty[turn.slot]));
                    turn.next();
#pragma unroll
                    for (int half = 0; half < 2; half++)
#pragma unroll
                        for (int i = 0; i < SHARE; i++)
                        {
                            if ((pass + s) * COLUMNS + 32 * (i * WARPS + warp) >= K) continue;
                            const u32 left[4] = {half ? x[s][i].z : x[s][i].x, 0, half ? x[s][i].w : x[s][i].y, 0};
                            mma_bf16(c[j][i], left, half ? w[i].z : w[i].x, half ? w[i].w : w[i].y);
                        }
                }
            }
        }

        if (base != first) meet(); // the sums before are read
#pragma unroll
        for (int j = 0; j < GROUP; j++)
        {
            float2 sum = make_float2(c[j][0][0], c[j][0][1]);
#pragma unroll
            for (int i = 1; i < SHARE; i++) sum.x += c[j][i][0], sum.y += c[j][i][1];
            if (lane < 4 * MOST) *(float2*)&room.partial[j][warp][2 * lane] = sum;
        }

        meet();
        for (int o = threadIdx.x; o < CEIL(GROUP * MOST * 8, 32) * 32; o += THREADS)
        {
            int k = o % 8, b = o / 8 % MOST, j = o / (8 * MOST), piece = base + j * MULTIPROCESSORS;
            bool exists = j < GROUP && b < walk.sequences && piece < pieces;
            float sum = 0;
            if (exists)
            {
#pragma unroll
                for (int w = 0; w < WARPS; w++) sum += room.partial[j][w][8 * b + k];
            }

            finish<KIND>(walk, room, sum, piece, (base - first) / MULTIPROCESSORS + j, b, k, exists);
        }
    }
}

DEVICE void load_memory(float4 (&cell)[TURNS], const float* c, int item, int items)
{
    int place = item / SLICES, slice = item % SLICES, column = threadIdx.x % QUADS * 4, group = threadIdx.x / QUADS;
    const float* from = c + (i64)place * DK * DV + slice * SLICE + column;
#pragma unroll
    for (int t = 0; t < TURNS; t++)
    {
        int d = t * GROUPS + group;
        cell[t] = item < items && d < DK ? load_fresh((const float4*)(from + (i64)d * DV)) : make_float4(0, 0, 0, 0);
    }
}

// What a block needs besides its large matrices: to shared memory, or, a block ahead, to the second-level cache. n and m are written by one of the
// multiprocessors that read them, a meeting later.
template <bool AHEAD>
DEVICE void gather(const Walk& walk, Room& room, int block)
{
    const i64* at = weights_of(walk, block);
    const float *biases = (const float*)at[W_BIASES], *head_norm = (const float*)at[W_HEAD_NORM];
    const float *c = walk.states[3 * block], *n = walk.states[3 * block + 1], *m = walk.states[3 * block + 2];
    auto take = [](float& to, const float* from)
    {
        if (AHEAD) prefetch_cached(from);
        else to = load_fresh(from);
    };

    int thread = threadIdx.x, items = walk.sequences * HEADS * SLICES;
    for (int i = thread; i < 2 * HEADS; i += THREADS) take(room.biases[i], biases + i);
    for (int i = thread; i < OWN_PIECES * 8; i += THREADS)
    {
        int channel = 8 * (blockIdx.x + i / 8 * MULTIPROCESSORS) + i % 8;
        if (channel >= DIM) continue;
        take(room.scales[0][i / 8][i % 8], (const float*)at[W_INNER_NORM] + channel);
        take(room.scales[1][i / 8][i % 8], (const float*)at[W_NEXT_NORM] + channel);
    }

    for (int i = 0, item = blockIdx.x; item < items; i++, item += MULTIPROCESSORS)
    {
        int place = item / SLICES, slice = item % SLICES, head = place % HEADS;
        for (int d = thread; d < DK; d += THREADS) take(room.n[i][d], n + place * DK + d);
        for (int e = thread; e < SLICE; e += THREADS) take(room.head_norm[i][e], head_norm + head * DV + slice * SLICE + e);
        if (thread == 0) take(room.m[i], m + place);
        if (AHEAD)
        {
            constexpr int sector = SLICE < 8 ? SLICE : 8;
            for (int e = thread; e < DK * (SLICE / sector); e += THREADS)
                prefetch_cached(c + ((i64)place * DK + e / (SLICE / sector)) * DV + slice * SLICE + e % (SLICE / sector) * sector);
        }
    }
}

// The mLSTM's step (xLSTM 7B, eqs. 2-9):
//     m' = max(log f + m, log i),  C' = f C + i k v^T,  n' = f n + i k with f = exp(log f + m - m'), i = exp(log i - m'),
//     h = C'^T q / max(|n'.q|, exp(-m')).
// `cell` has the first item's part of C.
DEVICE void remember(const Walk& walk, Room& room, float4 (&cell)[TURNS], int block)
{
    constexpr int lane_columns = CEIL(SLICE, 32);
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, column = thread % QUADS * 4, group = thread / QUADS;
    int items = walk.sequences * HEADS * SLICES;
    float *c = walk.states[3 * block], *n = walk.states[3 * block + 1], *m = walk.states[3 * block + 2];
    float *q = room.cell.q, *k = room.cell.k;
    for (int i = 0, item = blockIdx.x; item < items; i++, item += MULTIPROCESSORS)
    {
        int place = item / SLICES, slice = item % SLICES, b = place / HEADS, head = place % HEADS;
        float4 next[TURNS];
        load_memory(next, c, item + MULTIPROCESSORS, items);
        const float* row = walk.projections + b * ROWS;
        const float *values = row + 2 * QK + head * DV + slice * SLICE, *gates = row + 2 * QK + 2 * VD + head;
        float4 value = load_fresh((const float4*)(values + column));
        float input = load_fresh(gates) + load_fresh(gates + 2 * HEADS) + room.biases[head];
        float forget = load_fresh(gates + HEADS) + load_fresh(gates + 3 * HEADS) + room.biases[HEADS + head];
        float open[lane_columns] = {};
        if (warp == 0)
        {
#pragma unroll
            for (int t = 0; t < lane_columns; t++)
                if (32 * t + lane < SLICE) open[t] = load_fresh(values + VD + 32 * t + lane);
        }

        if (walk.gate_cap > 0) input = walk.gate_cap * tanhf(input / walk.gate_cap), forget = walk.gate_cap * tanhf(forget / walk.gate_cap);
        float log_i = EXPONENTIAL ? input : log_sigmoid(input), past = log_sigmoid(forget) + room.m[i];
        float now = !EXPONENTIAL ? 0.f : past <= log_i ? log_i : past;
        float keep = expf(past - now), write = expf(log_i - now);
        if (i > 0) meet(); // what the item before left in shared memory is read
        float product = 0;
#pragma unroll
        for (int t = 0; t < CEIL(DK, THREADS); t++)
        {
            int d = t * THREADS + thread;
            if (d < DK)
            {
                q[d] = load_fresh(row + head * DK + d) * (1.f / sqrtf((float)DK));
                k[d] = load_fresh(row + QK + head * DK + d) * write;
                float kept = room.n[i][d] * keep + k[d];
                product += q[d] * kept;
                if (slice == 0) n[place * DK + d] = kept;
            }
        }

        if (slice == 0 && thread == 0) m[place] = now;
        product = warp_sum(product);
        if (lane == 0) room.cell.products[warp] = product;
        meet();
        float4 sum = make_float4(0, 0, 0, 0);
        float* to = c + (i64)place * DK * DV + slice * SLICE + column;
#pragma unroll
        for (int t = 0; t < TURNS; t++)
        {
            int d = t * GROUPS + group;
            if (d < DK)
            {
                cell[t].x = cell[t].x * keep + value.x * k[d], cell[t].y = cell[t].y * keep + value.y * k[d];
                cell[t].z = cell[t].z * keep + value.z * k[d], cell[t].w = cell[t].w * keep + value.w * k[d];
                *(float4*)(to + (i64)d * DV) = cell[t];
                sum.x += q[d] * cell[t].x, sum.y += q[d] * cell[t].y, sum.z += q[d] * cell[t].z, sum.w += q[d] * cell[t].w;
            }
        }

#pragma unroll
        for (int o = 16; o >= QUADS; o >>= 1)
        {
            sum.x += __shfl_xor_sync(FULL_WARP, sum.x, o), sum.y += __shfl_xor_sync(FULL_WARP, sum.y, o);
            sum.z += __shfl_xor_sync(FULL_WARP, sum.z, o), sum.w += __shfl_xor_sync(FULL_WARP, sum.w, o);
        }

        if (lane < QUADS) *(float4*)&room.cell.sums[warp][column] = sum;
        meet();
        if (warp == 0)
        {
            // Divided as MLstmNormalizer does, so that exp(-m') cannot overflow.
            float whole = 0, low = fminf(now, 0.f), unit = expf(low);
#pragma unroll
            for (int w = 0; w < WARPS; w++) whole += room.cell.products[w];
            float divisor = fmaxf(fabsf(whole) * unit, expf(low - now)) + unit * walk.cell_epsilon, factor = NORMALIZE ? unit / divisor : 1.f;
            float h[lane_columns], mean = 0, squares = 0;
#pragma unroll
            for (int t = 0; t < lane_columns; t++)
            {
                h[t] = 0;
                if (32 * t + lane < SLICE)
                {
#pragma unroll
                    for (int w = 0; w < WARPS; w++) h[t] += room.cell.sums[w][32 * t + lane];
                }

                h[t] *= factor;
                mean += h[t];
            }

            mean = CENTER ? warp_sum(mean) * (1.f / SLICE) : 0.f;
#pragma unroll
            for (int t = 0; t < lane_columns; t++)
            {
                int e = 32 * t + lane;
                if (e >= SLICE) continue;
                squares += (h[t] - mean) * (h[t] - mean);
                float gate = room.head_norm[i][e] / (1.f + expf(-open[t]));
                float* u = walk.mixed + (i64)b * VD + head * DV + slice * SLICE + e;
                u[0] = gate * h[t];
                if (CENTER) u[MOST * VD] = gate;
            }

            squares = warp_sum(squares);
            if (lane == 0) walk.moments[place * SLICES + slice] = make_float2(mean, squares);
        }

#pragma unroll
        for (int t = 0; t < TURNS; t++) cell[t] = next[t];
    }
}

// The stream of the multiprocessor's channels, and what the first norm needs of it.
DEVICE void embed(const Walk& walk, Room& room)
{
    for (int o = threadIdx.x; o < CEIL(OWN_PIECES * MOST * 8, 32) * 32; o += THREADS)
    {
        int k = o % 8, b = o / 8 % MOST, own = o / (8 * MOST), piece = blockIdx.x + own * MULTIPROCESSORS, channel = 8 * piece + k;
        bool exists = own < OWN_PIECES && b < walk.sequences && piece < STREAM_PIECES;
        float x = 0;
        if (exists)
        {
            i64 from = walk.tokens[b] * DIM + channel;
            x = WIDE ? ((const float*)walk.table)[from] : from_bf16(((const bf16*)walk.table)[from]);
            room.stream[own][b][k] = x;
            walk.scaled[b * DIM + channel] = to_bf16(x * walk.first_norm[channel]);
        }

        x *= x;
#pragma unroll
        for (int s = 4; s > 0; s >>= 1) x += __shfl_xor_sync(FULL_WARP, x, s);
        if (exists && k == 0) walk.squares[b * STREAM_PIECES + piece] = x;
    }
}

// Grid: MULTIPROCESSORS, all there at once; THREADS + 32 threads; the ring and a Room of shared memory.
KERNEL void __launch_bounds__(THREADS + 32, 1) token_walk(const __grid_constant__ Walk walk)
{
    wait_for_predecessors();
    SHARED_MEMORY(ring);
    Room& room = *(Room*)(ring + STAGES * STAGE_BYTES);
    if (threadIdx.x == 0)
    {
        for (int s = 0; s < STAGES; s++)
        {
            mbarrier_init(shared_address(&room.full[s]), 1);
            mbarrier_init(shared_address(&room.empty[s]), WARPS);
        }
    }

    __syncthreads();
    if (threadIdx.x >= THREADS)
    {
        supply_all(walk, room, ring);
        return;
    }

    Turn turn = {0, 0};
    u64 expected = 0; // the first thread's
    embed(walk, room);
    gather<true>(walk, room, 0);
    for (int block = 0; block < BLOCKS; block++)
    {
        arrive(walk, expected);
        float4 cell[TURNS];
        load_memory(cell, walk.states[3 * block], blockIdx.x, walk.sequences * HEADS * SLICES);
        gather<false>(walk, room, block);
        if (block + 1 < BLOCKS) gather<true>(walk, room, block + 1);
        wait(walk, expected);
        multiply<DIM, PROJECTIONS>(walk, room, turn, ring, projection_start(block), PROJECTION_PIECES);
        arrive(walk, expected);
        wait(walk, expected);
        remember(walk, room, cell, block);
        arrive(walk, expected);
        wait(walk, expected);
        multiply<VD, OUT>(walk, room, turn, ring, 0, STREAM_PIECES);
        arrive(walk, expected);
        wait(walk, expected);
        multiply<DIM, GATED>(walk, room, turn, ring, gated_start(block), GATED_PIECES);
        arrive(walk, expected);
        wait(walk, expected);
        multiply<INNER, DOWN>(walk, room, turn, ring, 0, STREAM_PIECES);
    }

    arrive(walk, expected);
    wait(walk, expected);
    multiply<DIM, LOGITS>(walk, room, turn, ring, projection_start(BLOCKS), HEAD_PIECES);
}
