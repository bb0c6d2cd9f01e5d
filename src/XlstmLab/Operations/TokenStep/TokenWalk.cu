// One token of each of up to eight sequences through a whole xLSTM in the shape of the 7B model's, in one launch: embedding, all blocks, head.
// A block of threads a multiprocessor, all there at once, goes through a block's five phases, each of which needs all of the one before it:
//     q, k, v, o and gates of the norm | the cell | its norm, output gate and projection, added to the stream | SwiGLU of the norm | down, added.
//
// Nothing stands between phases but what they exchange. Every 32 bits of it lie beside a tag, written and read with it as one 64-bit word: a number of the
// launch and the phase, which the reader looks for. So a result is one way to the second-level cache and one back, where a barrier of the grid is four
// (the results' way, a count's, a look at the count, a look at the results). Nobody overwrites what another has yet to read: a buffer's next words are
// made of results of a later phase, which came of everything that was read from it.
//
// Weights and the memory C do not wait for any of that. A warp runs ahead and copies them, in the order in which its multiprocessor needs them, into a
// ring of shared memory, which holds 200 KB: of 132 multiprocessors 27 MB, 9 us of memory's time. DEPTH copies at most are on their way: what is asked for
// beyond what memory's latency hides, 3 TB/s times 1 us or 25 KB each, queues in front of the second-level cache, and the exchanged words with it.
//
// A piece is eight rows of a matrix: the right operand of mma_bf16, whose columns they are. The left one's rows are the sequences. Which of 16
// inner indices is which does not matter as long as both operands agree: a thread takes 8 neighbouring columns of a row in one load, and the same
// 8 of x, which it keeps in registers for all pieces of a phase. Warps have different columns; their sums meet in shared memory.
//
// The norm's r = (mean(x^2) + epsilon)^-1/2 is applied to the product: who writes the stream leaves it times the norm's weights, and of every eight
// channels the sum of squares. Of the head norm sigmoid(o) w (h - mean) r the cell leaves sigmoid(o) w (h - s) and sigmoid(o) w, where s is the mean of the
// columns that it has, s, and the sum of (h - s)^2; of these the projection makes mean and r. The stream itself stays in its multiprocessor's shared memory.
//
// Bytes: 2 a weight, 8 an element of C. 407 M parameters: 0.81 GB, 0.27 ms at 3 TB/s; 6.87 G: 13.7 GB and 0.27 GB of C, 4.7 ms.
// Beside them, where all weights are there: 5 phases a block of 1 us for the exchange and 0.5 us for 3 products a warp and piece and sums: 24 blocks:
// 0.18 ms, less than the weights take. Exchanged are 8 bytes for two channels and reader, of eight sequences of 407 M 216 KB a block and multiprocessor.
#include "Ptx.cuh"

// TokenWalk.cs tells DIM, d; INNER; HEADS, DK, DV; BLOCKS; VOCABULARY; MOST, sequences at most; SLICE, columns of C that are a multiprocessor's
// at a time; MULTIPROCESSORS; STAGES; DEPTH; WARPS that multiply; WIDE, whether the table is float32; EXPONENTIAL, the input gate, else a sigmoid; NORMALIZE;
// CENTER, whether the head norm is a LayerNorm, else RMS; WALK_BYTES and ROOM_BYTES.
#define THREADS (32 * WARPS) // and a warp that copies
#define COLUMNS 1024         // of a stage
#define STRIDE (2 * COLUMNS + 64)
#define STAGE_BYTES (8 * STRIDE)
#define SHARE (COLUMNS / 32 / WARPS) // pieces of 32 columns of a stage that a warp has
#define PASS 4                       // stages of which a warp keeps x
#define GROUP (MOST > 4 ? 4 : 8)     // pieces whose sums meet at a time
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
#define FITTING_ROWS (STAGE_BYTES / (4 * SLICE) / 8 * 8)
#define MEMORY_ROWS (DK < FITTING_ROWS ? DK : FITTING_ROWS) // of a slice in a stage
#define TURNS CEIL(MEMORY_ROWS, GROUPS)
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

// weights [BLOCKS, WEIGHTS]; logits [sequences, V]. Of a block c [sequences, NH, DK, DV], n [sequences, NH, DK], m [sequences, NH]. Exchanged words, x being
// what is exchanged and y the tag: scaled [MOST, d / 2] of two bfloat16, squares [MOST, d / 8], projections [MOST, ROWS], mixed [MOST, NH DV] of two bfloat16,
// moments [MOST, NH, SLICES, 2], inner [MOST, INNER / 2] of two bfloat16.
struct Walk
{
    const i64* tokens;
    const void* table;
    const float* first_norm;
    const bf16* head;
    const i64* weights;
    u64* starts; // of blocks of threads, in all launches
    uint2 *scaled, *squares, *projections, *mixed, *moments, *inner;
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
            float sums[WARPS][SLICE], values[SLICE], gates[4], q[DK], k[DK], products[WARPS];
        } cell;
    };
    u64 full[STAGES], empty[STAGES], start;
    float2 heads[MOST * HEADS];       // mean and r
    float shifts[MOST * HEADS * SLICES]; // of a slice's mean from its head's
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
DEVICE int items_of(const Walk& walk) { return walk.sequences * HEADS * SLICES; } // slices of C
DEVICE int first_item(const Walk& walk, int block) { return first_piece(block * items_of(walk)); }
DEVICE int gated_start(int block) { return projection_start(block) + PROJECTION_PIECES; }

// What the copying warp does.
struct Supply
{
    Turn next, landing; // the stage to fill, and the first that is on its way
    int on_way;
    unsigned char* ring;

    // Waits until a stage may be filled: it is told its bytes, and gives its place.
    DEVICE unsigned char* begin(Room& room, int bytes)
    {
        mbarrier_wait(shared_address(&room.empty[next.slot]), next.parity ^ 1);
        if (on_way == DEPTH)
        {
            mbarrier_wait(shared_address(&room.full[landing.slot]), landing.parity);
            landing.next();
        }
        else
        {
            on_way++;
        }

        if (threadIdx.x % 32 == 0) mbarrier_arrive_expect(shared_address(&room.full[next.slot]), bytes);
        __syncwarp();
        return ring + next.slot * STAGE_BYTES;
    }
};

// A matrix; row_of tells lanes 0 to 7 their rows of a piece, or null.
template <int K, class RowOf>
DEVICE void supply(Supply& to, Room& room, int start, int pieces, RowOf row_of)
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
                    unsigned char* at = to.begin(room, rows * bytes);
                    if (row) copy_bulk_once(shared_address(at + lane * STRIDE), row + column, bytes, shared_address(&room.full[to.next.slot]));
                    to.next.next();
                }
            }
}

// Each of the multiprocessor's slices of C.
DEVICE void supply_memory(const Walk& walk, Supply& to, Room& room, int block)
{
    const float* c = walk.states[3 * block];
    for (int item = first_item(walk, block); item < items_of(walk); item += MULTIPROCESSORS)
        for (int first = 0; first < DK; first += MEMORY_ROWS)
        {
            int rows = DK - first < MEMORY_ROWS ? DK - first : MEMORY_ROWS;
            const float* from = c + ((i64)(item / SLICES) * DK + first) * DV + item % SLICES * SLICE;
            unsigned char* at = to.begin(room, rows * 4 * SLICE);
            for (int row = threadIdx.x % 32; row < rows; row += 32)
                copy_bulk(shared_address(at + row * 4 * SLICE), from + (i64)row * DV, 4 * SLICE, shared_address(&room.full[to.next.slot]));
            to.next.next();
        }
}

DEVICE void supply_all(const Walk& walk, Room& room, unsigned char* ring)
{
    Supply to = {{0, 0}, {0, 0}, 0, ring};
    for (int block = 0; block < BLOCKS; block++)
    {
        const i64* at = weights_of(walk, block);
        const bf16 *q = (const bf16*)at[W_Q], *k = (const bf16*)at[W_K], *v = (const bf16*)at[W_V], *o = (const bf16*)at[W_O], *gates = (const bf16*)at[W_GATES];
        const bf16 *out = (const bf16*)at[W_OUT], *gate = (const bf16*)at[W_GATE], *up = (const bf16*)at[W_UP], *down = (const bf16*)at[W_DOWN];
        supply<DIM>(to, room, projection_start(block), PROJECTION_PIECES, [&](int piece, int lane)
        {
            int row = 8 * piece + lane;
            const bf16* part = q;
            if (row >= QK) part = k - (i64)QK * DIM;
            if (row >= 2 * QK) part = v - (i64)2 * QK * DIM;
            if (row >= 2 * QK + VD) part = o - (i64)(2 * QK + VD) * DIM;
            if (row >= 2 * QK + 2 * VD) part = gates - (i64)(2 * QK + 2 * VD) * DIM;
            return row < ROWS ? part + (i64)row * DIM : (const bf16*)0;
        });
        supply_memory(walk, to, room, block);
        supply<VD>(to, room, 0, STREAM_PIECES, [&](int piece, int lane) { return out + (i64)(8 * piece + lane) * VD; });
        supply<DIM>(to, room, gated_start(block), GATED_PIECES, [&](int piece, int lane)
        {
            return (lane < 4 ? gate : up) + (i64)(4 * piece + lane % 4) * DIM;
        });
        supply<INNER>(to, room, 0, STREAM_PIECES, [&](int piece, int lane) { return down + (i64)(8 * piece + lane) * INNER; });
    }

    supply<DIM>(to, room, projection_start(BLOCKS), HEAD_PIECES, [&](int piece, int lane)
    {
        int row = 8 * piece + lane;
        return row < VOCABULARY ? walk.head + (i64)row * DIM : (const bf16*)0;
    });
}

DEVICE void meet() { threads_sync(FULL_SYNC, THREADS); }

// What is exchanged

DEVICE void give(uint2* to, float x, u32 tag) { store_word(to, make_uint2(__float_as_uint(x), tag)); }
DEVICE bool is_tagged(uint2 word, u32 tag) { return word.y == tag; }
DEVICE bool is_tagged(uint4 words, u32 tag) { return words.y == tag && words.w == tag; }

// Before a warp's thread looks again for its words. Many sequences' are too many to look at all of them all the time: one that all lanes look at comes
// about when the others do.
DEVICE void await(const uint2* one, u32 tag)
{
    do pause_for_words();
    while (MOST > 2 && load_word(one).y != tag);
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

// mean and r of the head norm, and its slices' shifts.
DEVICE void head_moments(const Walk& walk, Room& room, u32 tag)
{
    constexpr int turns = CEIL(SLICES, 32);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int p = warp; p < walk.sequences * HEADS; p += WARPS)
    {
        uint4 part[turns];
        for (bool waits = true; waits;)
        {
            waits = false;
#pragma unroll
            for (int t = 0; t < turns; t++)
                part[t] = 32 * t + lane < SLICES ? load_words(walk.moments + 2 * (p * SLICES + 32 * t + lane)) : make_uint4(0, tag, 0, tag);
#pragma unroll
            for (int t = 0; t < turns; t++) waits |= !is_tagged(part[t], tag);
            if (waits) await(walk.moments + 2 * p * SLICES, tag);
        }

        __syncwarp();
        float mean = 0, squares = 0;
#pragma unroll
        for (int t = 0; t < turns; t++) mean += __uint_as_float(part[t].x);
        mean = warp_sum(mean) * (1.f / SLICES);
#pragma unroll
        for (int t = 0; t < turns; t++)
        {
            if (32 * t + lane >= SLICES) continue;
            float shift = __uint_as_float(part[t].x) - mean;
            room.shifts[p * SLICES + 32 * t + lane] = shift;
            squares += __uint_as_float(part[t].z) + SLICE * shift * shift;
        }

        squares = warp_sum(squares);
        if (lane == 0) room.heads[p] = make_float2(mean, 1.f / sqrtf(squares * (1.f / DV) + walk.head_epsilon));
    }
}

// The head norm's result of four channels of what the cell left.
DEVICE uint2 norm_channels(const Room& room, uint4 first, uint4 second, int b, int channel)
{
    float r = room.heads[b * HEADS + channel / DV].y, shift = CENTER ? room.shifts[(b * VD + channel) / SLICE] : 0.f;
    return make_uint2(
        pack_bf16((low_bf16(first.x) + shift * high_bf16(first.x)) * r, (low_bf16(first.z) + shift * high_bf16(first.z)) * r),
        pack_bf16((low_bf16(second.x) + shift * high_bf16(second.x)) * r, (low_bf16(second.z) + shift * high_bf16(second.z)) * r));
}

// The first of the 8 columns of a stage that are the thread's, of those in a row at once.
DEVICE int column_of(int stage, int i) { return stage * COLUMNS + 32 * (i * WARPS + threadIdx.x / 32) + 8 * (threadIdx.x % 4); }

// What a product reads of a pass's stages: zeros of sequences that are not there.
template <int K, int KIND, int HELD>
DEVICE void load_inputs(uint4 (&x)[HELD][SHARE], const Walk& walk, int pass, u32 tag)
{
    int b = threadIdx.x % 32 / 4;
    const uint2 *all = KIND == DOWN ? walk.inner : walk.scaled, *from = all + b * (K / 2);
    uint4 words[HELD][SHARE][2];
    for (bool waits = b < walk.sequences; waits;)
    {
        waits = false;
#pragma unroll
        for (int s = 0; s < HELD; s++)
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    words[s][i][j] = column_of(pass + s, i) < K ? load_words(from + column_of(pass + s, i) / 2 + 2 * j) : make_uint4(0, tag, 0, tag);
#pragma unroll
        for (int s = 0; s < HELD; s++)
#pragma unroll
            for (int i = 0; i < SHARE; i++) waits |= !is_tagged(words[s][i][0], tag) || !is_tagged(words[s][i][1], tag);
        if (waits) await(all + (pass * COLUMNS + threadIdx.x / 32 * 32) / 2, tag);
    }

    __syncwarp();
#pragma unroll
    for (int s = 0; s < HELD; s++)
#pragma unroll
        for (int i = 0; i < SHARE; i++)
            x[s][i] = b < walk.sequences ? make_uint4(words[s][i][0].x, words[s][i][0].z, words[s][i][1].x, words[s][i][1].z) : make_uint4(0, 0, 0, 0);
}

// The same of the cell's results. The first stage is on its way while the head norm's numbers are made.
template <int K, int HELD>
DEVICE void load_mixed(uint4 (&x)[HELD][SHARE], const Walk& walk, Room& room, int pass, u32 tag)
{
    int b = threadIdx.x % 32 / 4;
    const uint2* from = walk.mixed + b * VD;
#pragma unroll
    for (int s = 0; s < HELD; s++)
    {
        uint4 words[SHARE][4];
        for (bool waits = true, first = s == 0 && pass == 0; waits; first = false)
        {
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    words[i][j] = b < walk.sequences && column_of(pass + s, i) < K ? load_words(from + column_of(pass + s, i) + 2 * j) : make_uint4(0, tag, 0, tag);
            if (first)
            {
                head_moments(walk, room, tag);
                meet();
            }

            waits = false;
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) waits |= !is_tagged(words[i][j], tag);
            if (waits && !first) await(walk.mixed + (pass + s) * COLUMNS + threadIdx.x / 32 * 32, tag);
        }

        __syncwarp();
#pragma unroll
        for (int i = 0; i < SHARE; i++)
        {
            int column = column_of(pass + s, i);
            x[s][i] = make_uint4(0, 0, 0, 0);
            if (column >= K || b >= walk.sequences) continue;
            uint2 low = norm_channels(room, words[i][0], words[i][1], b, column), high = norm_channels(room, words[i][2], words[i][3], b, column + 4);
            x[s][i] = make_uint4(low.x, low.y, high.x, high.y);
        }
    }
}

// The sums of squares of the warp's sequence, as they are now.
#define SQUARE_TURNS CEIL(STREAM_PIECES / 2, 32)

DEVICE void load_squares(uint4 (&words)[SQUARE_TURNS], const Walk& walk, u32 tag)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < SQUARE_TURNS; t++)
        words[t] = 32 * t + lane < STREAM_PIECES / 2 ? load_words(walk.squares + warp * STREAM_PIECES + 2 * (32 * t + lane)) : make_uint4(0, tag, 0, tag);
}

// r of the norm, of what they are once they are there.
DEVICE float stream_scale(uint4 (&words)[SQUARE_TURNS], const Walk& walk, u32 tag)
{
    for (bool first = true;; first = false)
    {
        bool waits = false;
#pragma unroll
        for (int t = 0; t < SQUARE_TURNS; t++) waits |= !is_tagged(words[t], tag);
        if (!waits) break;
        if (!first) await(walk.squares + threadIdx.x / 32 * STREAM_PIECES, tag);
        load_squares(words, walk, tag);
    }

    __syncwarp();
    float sum = 0;
#pragma unroll
    for (int t = 0; t < SQUARE_TURNS; t++) sum += __uint_as_float(words[t].x) + __uint_as_float(words[t].z);
    return 1.f / sqrtf(warp_sum(sum) * (1.f / DIM) + walk.epsilon);
}

// The stream's value now of row k of a piece, for the norm behind it. Eight neighbouring lanes have a piece's rows.
DEVICE void give_stream(const Walk& walk, float now, float scale, int piece, int b, int k, bool exists, u32 tag)
{
    float scaled = now * scale, next = __shfl_xor_sync(FULL_WARP, scaled, 1);
    if (exists && k % 2 == 0) store_word(walk.scaled + b * (DIM / 2) + 4 * piece + k / 2, make_uint2(pack_bf16(scaled, next), tag));
    now *= now;
#pragma unroll
    for (int o = 4; o > 0; o >>= 1) now += __shfl_xor_sync(FULL_WARP, now, o);
    if (exists && k == 0) give(walk.squares + b * STREAM_PIECES + piece, now, tag);
}

// What becomes of the sum of row k of a piece, the own-th of this multiprocessor; whole warps come.
template <int KIND>
DEVICE void finish(const Walk& walk, Room& room, float sum, int piece, int own, int b, int k, bool exists, u32 tag)
{
    if ((KIND == PROJECTIONS || KIND == GATED || KIND == LOGITS) && exists) sum *= room.r[b];
    if (KIND == PROJECTIONS)
    {
        int row = 8 * piece + k;
        if (exists && row < ROWS) give(walk.projections + b * ROWS + row, sum, tag);
    }
    else if (KIND == LOGITS)
    {
        int row = 8 * piece + k;
        if (exists && row < VOCABULARY) walk.logits[(i64)b * VOCABULARY + row] = walk.cap > 0 ? walk.cap * tanhf(sum / walk.cap) : sum;
    }
    else if (KIND == GATED)
    {
        float up = __shfl_xor_sync(FULL_WARP, sum, 4), inner = sum / (1.f + expf(-sum)) * up, next = __shfl_xor_sync(FULL_WARP, inner, 1);
        if (exists && (k == 0 || k == 2)) store_word(walk.inner + b * (INNER / 2) + 2 * piece + k / 2, make_uint2(pack_bf16(inner, next), tag));
    }
    else
    {
        float now = 0, scale = 0;
        if (exists)
        {
            now = room.stream[own][b][k] + sum;
            scale = room.scales[KIND == DOWN][own][k];
            room.stream[own][b][k] = now;
        }

        give_stream(walk, now, scale, piece, b, k, exists, tag);
    }
}

// A phase that reads words of a tag and writes such of another.
template <int K, int KIND>
DEVICE void multiply(const Walk& walk, Room& room, Turn& turn, const unsigned char* ring, int start, int pieces, u32 before, u32 after)
{
    constexpr bool normed = KIND == PROJECTIONS || KIND == GATED || KIND == LOGITS;
    constexpr int stages = CEIL(K, COLUMNS), held = stages < PASS ? stages : PASS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint4 x[held][SHARE];
    int first = first_piece(start);
    for (int base = first; base < pieces; base += GROUP * MULTIPROCESSORS)
    {
        bool scales = normed && base == first && warp < walk.sequences;
        uint4 squares[SQUARE_TURNS];
        for (int pass = 0; pass < stages; pass += PASS)
        {
            if (stages > PASS || base == first)
            {
                if constexpr (KIND == OUT) load_mixed<K>(x, walk, room, pass, before);
                else load_inputs<K, KIND>(x, walk, pass, before);
            }

            if (pass == 0)
            {
                if (scales) load_squares(squares, walk, before); // needed last
                meet();                                          // what was in shared memory is read
            }

            // A piece's code once: of all phases together it has to stay in the instructions' cache.
#pragma unroll 1
            for (int j = 0; j < GROUP && base + j * MULTIPROCESSORS < pieces; j++)
            {
                float c[SHARE][4] = {};
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
                            mma_bf16(c[i], left, half ? w[i].z : w[i].x, half ? w[i].w : w[i].y);
                        }
                }

                float2 sum = make_float2(c[0][0], c[0][1]);
#pragma unroll
                for (int i = 1; i < SHARE; i++) sum.x += c[i][0], sum.y += c[i][1];
                if (lane < 4 * MOST)
                {
                    float2* part = (float2*)&room.partial[j][warp][2 * lane];
                    if (pass > 0) sum.x += part->x, sum.y += part->y;
                    *part = sum;
                }
            }
        }

        if (scales)
        {
            float r = stream_scale(squares, walk, before);
            if (lane == 0) room.r[warp] = r;
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

            finish<KIND>(walk, room, sum, piece, (base - first) / MULTIPROCESSORS + j, b, k, exists, after);
        }
    }
}

// What a block needs besides its matrices and C: on its way to shared memory, or, a block ahead, to the second-level cache.
template <bool AHEAD>
DEVICE void gather(const Walk& walk, Room& room, int block)
{
    const i64* at = weights_of(walk, block);
    const float *biases = (const float*)at[W_BIASES], *head_norm = (const float*)at[W_HEAD_NORM];
    const float *n = walk.states[3 * block + 1], *m = walk.states[3 * block + 2];
    auto take = [](float& to, const float* from)
    {
        if (AHEAD) prefetch_cached(from);
        else copy_async_word(shared_address(&to), from);
    };

    int thread = threadIdx.x;
    for (int i = thread; i < 2 * HEADS; i += THREADS) take(room.biases[i], biases + i);
    for (int i = thread; i < OWN_PIECES * 8; i += THREADS)
    {
        int channel = 8 * (blockIdx.x + i / 8 * MULTIPROCESSORS) + i % 8;
        if (channel >= DIM) continue;
        take(room.scales[0][i / 8][i % 8], (const float*)at[W_INNER_NORM] + channel);
        take(room.scales[1][i / 8][i % 8], (const float*)at[W_NEXT_NORM] + channel);
    }

    for (int i = 0, item = first_item(walk, block); item < items_of(walk); i++, item += MULTIPROCESSORS)
    {
        int place = item / SLICES, slice = item % SLICES, head = place % HEADS;
        for (int d = thread; d < DK; d += THREADS) take(room.n[i][d], n + place * DK + d);
        for (int e = thread; e < SLICE; e += THREADS) take(room.head_norm[i][e], head_norm + head * DV + slice * SLICE + e);
        if (thread == 0) take(room.m[i], m + place);
    }
}

// What the cell reads of the projections for an item: q and k, and in `more` the first warp the output gate, the second v, the third the gates.
struct Projected
{
    float q[CEIL(DK, THREADS)], k[CEIL(DK, THREADS)], more[CEIL(SLICE, 32)];
};

DEVICE Projected load_projected(const Walk& walk, int b, int head, int slice, u32 tag)
{
    constexpr int own = CEIL(DK, THREADS), columns = CEIL(SLICE, 32);
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const uint2* row = walk.projections + b * ROWS;
    const uint2* values = row + 2 * QK + head * DV + slice * SLICE;
    const uint2* others = warp == 0 ? values + VD + lane : warp == 1 ? values + lane : row + 2 * QK + 2 * VD + head + lane * HEADS;
    int count = warp < 2 ? SLICE : warp == 2 ? 4 : 0;
    uint2 q[own], k[own], more[columns], nothing = make_uint2(0, tag);
    for (bool waits = true; waits;)
    {
        waits = false;
#pragma unroll
        for (int t = 0; t < own; t++)
        {
            int d = t * THREADS + thread;
            q[t] = d < DK ? load_word(row + head * DK + d) : nothing;
            k[t] = d < DK ? load_word(row + QK + head * DK + d) : nothing;
        }

#pragma unroll
        for (int t = 0; t < columns; t++) more[t] = 32 * t + lane < count ? load_word(others + 32 * t) : nothing;
#pragma unroll
        for (int t = 0; t < own; t++) waits |= !is_tagged(q[t], tag) || !is_tagged(k[t], tag);
#pragma unroll
        for (int t = 0; t < columns; t++) waits |= !is_tagged(more[t], tag);
        if (waits) pause_for_words();
    }

    __syncwarp();
    Projected x;
#pragma unroll
    for (int t = 0; t < own; t++) x.q[t] = __uint_as_float(q[t].x), x.k[t] = __uint_as_float(k[t].x);
#pragma unroll
    for (int t = 0; t < columns; t++) x.more[t] = __uint_as_float(more[t].x);
    return x;
}

// The mLSTM's step (xLSTM 7B, eqs. 2-9):
//     m' = max(log f + m, log i),  C' = f C + i k v^T,  n' = f n + i k with f = exp(log f + m - m'), i = exp(log i - m'),
//     h = C'^T q / max(|n'.q|, exp(-m')).
// n' and m' stay in shared memory, of a head's first slice: others have n and m yet to read.
DEVICE void remember(const Walk& walk, Room& room, Turn& turn, const unsigned char* ring, int block, u32 tag)
{
    constexpr int columns = CEIL(SLICE, 32);
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, column = thread % QUADS * 4, group = thread / QUADS;
    float* c = walk.states[3 * block];
    float *q = room.cell.q, *k = room.cell.k;
    copy_async_wait<0>(); // for what gather began
    for (int i = 0, item = first_item(walk, block); item < items_of(walk); i++, item += MULTIPROCESSORS)
    {
        int place = item / SLICES, slice = item % SLICES, b = place / HEADS, head = place % HEADS;
        Projected x = load_projected(walk, b, head, slice, tag);
        meet(); // what was in shared memory is read, and what gather brought is there
#pragma unroll
        for (int t = 0; t < CEIL(DK, THREADS); t++)
            if (t * THREADS + thread < DK) q[t * THREADS + thread] = x.q[t] * (1.f / sqrtf((float)DK)), k[t * THREADS + thread] = x.k[t];
#pragma unroll
        for (int t = 0; t < columns; t++)
        {
            if (warp == 1 && 32 * t + lane < SLICE) room.cell.values[32 * t + lane] = x.more[t];
            if (warp == 2 && 32 * t + lane < 4) room.cell.gates[32 * t + lane] = x.more[t];
        }

        meet();
        float input = room.cell.gates[0] + room.cell.gates[2] + room.biases[head], forget = room.cell.gates[1] + room.cell.gates[3] + room.biases[HEADS + head];
        if (walk.gate_cap > 0) input = walk.gate_cap * tanhf(input / walk.gate_cap), forget = walk.gate_cap * tanhf(forget / walk.gate_cap);
        float log_i = EXPONENTIAL ? input : log_sigmoid(input), past = log_sigmoid(forget) + room.m[i];
        float now = !EXPONENTIAL ? 0.f : past <= log_i ? log_i : past;
        float keep = expf(past - now), write = expf(log_i - now), product = 0;
        float4 value = *(const float4*)&room.cell.values[column];
        value.x *= write, value.y *= write, value.z *= write, value.w *= write;
#pragma unroll
        for (int t = 0; t < CEIL(DK, THREADS); t++)
        {
            int d = t * THREADS + thread;
            if (d < DK)
            {
                float kept = room.n[i][d] * keep + k[d] * write;
                product += q[d] * kept;
                room.n[i][d] = kept;
            }
        }

        product = warp_sum(product);
        if (lane == 0) room.cell.products[warp] = product;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int first = 0; first < DK; first += MEMORY_ROWS)
        {
            mbarrier_wait(shared_address(&room.full[turn.slot]), turn.parity);
            const unsigned char* from = ring + turn.slot * STAGE_BYTES + 4 * column;
            float4 cell[TURNS];
#pragma unroll
            for (int t = 0; t < TURNS; t++)
            {
                int row = t * GROUPS + group;
                cell[t] = row < MEMORY_ROWS && first + row < DK ? *(const float4*)(from + row * 4 * SLICE) : make_float4(0, 0, 0, 0);
            }

            __syncwarp();
            if (lane == 0) mbarrier_arrive(shared_address(&room.empty[turn.slot]));
            turn.next();
            float* to = c + ((i64)place * DK + first) * DV + slice * SLICE + column;
#pragma unroll
            for (int t = 0; t < TURNS; t++)
            {
                int row = t * GROUPS + group, d = first + row;
                if (row < MEMORY_ROWS && d < DK)
                {
                    cell[t].x = cell[t].x * keep + value.x * k[d], cell[t].y = cell[t].y * keep + value.y * k[d];
                    cell[t].z = cell[t].z * keep + value.z * k[d], cell[t].w = cell[t].w * keep + value.w * k[d];
                    *(float4*)(to + (i64)row * DV) = cell[t];
                    sum.x += q[d] * cell[t].x, sum.y += q[d] * cell[t].y, sum.z += q[d] * cell[t].z, sum.w += q[d] * cell[t].w;
                }
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
            float h[columns], mean = 0, squares = 0;
#pragma unroll
            for (int t = 0; t < columns; t++)
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
            for (int t = 0; t < columns; t++)
            {
                int e = 32 * t + lane;
                if (e >= SLICE) continue;
                squares += (h[t] - mean) * (h[t] - mean);
                float gate = room.head_norm[i][e] / (1.f + expf(-x.more[t]));
                store_word(walk.mixed + b * VD + head * DV + slice * SLICE + e, make_uint2(pack_bf16(gate * (h[t] - mean), gate), tag));
            }

            squares = warp_sum(squares);
            if (lane < 2) give(walk.moments + 2 * (place * SLICES + slice) + lane, lane == 0 ? mean : squares, tag);
            if (lane == 0) room.m[i] = now;
        }
    }
}

// n' and m' to where the next token looks for them, once a word of a tag is there: it came of all that the cells had to say.
DEVICE void keep_states(const Walk& walk, const Room& room, int block, u32 tag)
{
    if (first_piece(gated_start(block)) >= GATED_PIECES)
    {
        // No such word has been waited for here. It may be a later one's by now.
        if (threadIdx.x == 0)
            while ((int)(load_word(walk.scaled).y - tag) < 0) pause_for_words();
        meet();
    }

    float *n = walk.states[3 * block + 1], *m = walk.states[3 * block + 2];
    for (int i = 0, item = first_item(walk, block); item < items_of(walk); i++, item += MULTIPROCESSORS)
    {
        if (item % SLICES != 0) continue;
        for (int d = threadIdx.x; d < DK; d += THREADS) n[item / SLICES * DK + d] = room.n[i][d];
        if (threadIdx.x == 0) m[item / SLICES] = room.m[i];
    }
}

// The stream of the multiprocessor's channels, and what the first norm needs of it.
DEVICE void embed(const Walk& walk, Room& room, u32 tag)
{
    for (int o = threadIdx.x; o < CEIL(OWN_PIECES * MOST * 8, 32) * 32; o += THREADS)
    {
        int k = o % 8, b = o / 8 % MOST, own = o / (8 * MOST), piece = blockIdx.x + own * MULTIPROCESSORS, channel = 8 * piece + k;
        bool exists = own < OWN_PIECES && b < walk.sequences && piece < STREAM_PIECES;
        float x = 0, scale = 0;
        if (exists)
        {
            i64 from = walk.tokens[b] * DIM + channel;
            x = WIDE ? ((const float*)walk.table)[from] : from_bf16(((const bf16*)walk.table)[from]);
            scale = walk.first_norm[channel];
            room.stream[own][b][k] = x;
        }

        give_stream(walk, x, scale, piece, b, k, exists, tag);
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

    if (threadIdx.x == 0) room.start = atomicAdd(walk.starts, 1ull);
    meet();

    // No word has this launch's tags yet: those before it, which have all had their starts, had smaller ones.
    u32 tag = (u32)(room.start / MULTIPROCESSORS) * (2 * BLOCKS + 1) + 1;
    Turn turn = {0, 0};
    embed(walk, room, tag);
    gather<true>(walk, room, 0);
    for (int block = 0; block < BLOCKS; block++, tag += 2)
    {
        meet();
        gather<false>(walk, room, block);
        copy_async_commit();
        if (block + 1 < BLOCKS) gather<true>(walk, room, block + 1);
        multiply<DIM, PROJECTIONS>(walk, room, turn, ring, projection_start(block), PROJECTION_PIECES, tag, tag + 1);
        remember(walk, room, turn, ring, block, tag + 1);
        multiply<VD, OUT>(walk, room, turn, ring, 0, STREAM_PIECES, tag + 1, tag + 1);
        multiply<DIM, GATED>(walk, room, turn, ring, gated_start(block), GATED_PIECES, tag + 1, tag + 1);
        keep_states(walk, room, block, tag + 1);
        multiply<INNER, DOWN>(walk, room, turn, ring, 0, STREAM_PIECES, tag + 1, tag + 2);
    }

    multiply<DIM, LOGITS>(walk, room, turn, ring, projection_start(BLOCKS), HEAD_PIECES, tag, 0);
}
