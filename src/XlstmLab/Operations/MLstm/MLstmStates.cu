// The mLSTM's memory C and normaliser n at the chunks' borders, and in the backward pass their gradients:
//     forward   C' = keep C + sum_j write_j k_j v_j^T,      backward   dC = keep dC' + sum_i (read_i / D_i) q_i dh_i^T,
//               n' = keep n + sum_j write_j k_j,                       dn = keep dn' + sum_i read_i dz_i q_i.
//
// A block owns TILE_ROWS x STATE_N of a head's memory, keeps it in registers in float32 and walks the chunks; the tokens of the next steps
// come into shared memory meanwhile. Before every chunk it writes the memory as bfloat16, for the products that read it. The blocks of a
// head's first columns have its normaliser as well. With weights w, x and y: memory += (w x)^T y; w x is rounded to bfloat16, w is not: a
// key's weight would be wrong for all that read it. The normaliser's products are float32.
//
// Few heads leave most of a GPU idle, each turn of a walk waiting for the one before. Then the walk is cut into segments side by side,
// which start from nothing, and mlstm_states_join adds what came before. Memory is linear: C(chunk) = C_own(chunk) + decay C(segment);
// decay is the product of the segment's keeps up to the chunk. Scales need no care: those of keep and write are the whole walk's.
//
// Operations: 2 DQK DHV a token and head. Bytes: x once a tile of columns, y once a tile of rows, 2 DQK DHV a chunk written:
// at 8,4,2048,128,256 34 MB of memory and 50 MB of reads, 4 GFLOP: 0.03 ms. Always in the same order. A step of 64 tokens is some 350
// instructions a warp, whatever the warp has: so heads of up to 64 queries have blocks of four warps.
#include "MLstmProducts.cuh"

// MLstmSequenceKernel.cs tells STATE_N. A stage has, besides tiles of x and y, three numbers a token.
#define STEPS (CHUNK / K_STEP)
#define COLUMN_TILES (HV_WHOLE / STATE_N)
#define TILES ((DQK + TILE_ROWS - 1) / TILE_ROWS * COLUMN_TILES)
#define X_COLUMNS (QK_WHOLE < TILE_ROWS ? QK_WHOLE : TILE_ROWS) // what is beyond is never stored
static_assert(HV_WHOLE % STATE_N == 0 && STATE_N <= CHUNK, "tiles are whole");
static_assert(STAGE_BYTES == LEFT_BYTES + PANEL_BYTES(K_STEP) * ((STATE_N + PANEL - 1) / PANEL), "what the host asks for");

DEVICE u32 scale_bf16x2(u32 pair, float2 w) { return pack_bf16(low_bf16(pair) * w.x, high_bf16(pair) * w.y); }

// The chunk that a walk comes to at a turn.
DEVICE int chunk_at(int turn, int chunks, int reverse) { return reverse ? chunks - 1 - turn : turn; }

DEVICE float dot_bf16x2(u32 pair, float2 w) { return low_bf16(pair) * w.x + high_bf16(pair) * w.y; }

// x: [B, NH, S, DQK], y: [B, NH, S, DHV] bf16 with strides; weight: [B NH, NC CHUNK]; keep: [B NH, NC];
// first, last: [B NH, DQK, DHV] float32, the memory to start from and the one at the other end, or null; states: [B NH, NC, DQK, DHV] bf16,
// the memory before each chunk or, if reverse, behind it.
// n_weight: [B NH, NC CHUNK], times n_factor of the same shape or null; n_first, n_last: [B NH, DQK] float32 or null; n_states: [B NH, NC,
// DQK] float32, or null where there is no normaliser.
// turns: a segment's chunks, in the walk's order; if those are not all, last and n_last are what each segment alone ends with,
// [B NH, SEGMENTS, ...], and states and n_states await mlstm_states_join, but for the segments' first, which are not written.
// grid (SEGMENTS x TILES, NH, B), block TILE_THREADS, shared STAGES (STAGE_BYTES + 12 K_STEP).
KERNEL void __launch_bounds__(TILE_THREADS, STATE_N > PANEL ? 1 : 512 / TILE_THREADS) mlstm_states(
    const bf16* RESTRICT x, i64 x_batch, int x_head, int x_token, const bf16* RESTRICT y, i64 y_batch, int y_head, int y_token,
    const float* RESTRICT weight, const float* RESTRICT keep, const float* RESTRICT first, float* RESTRICT last, bf16* RESTRICT states,
    const float* RESTRICT n_weight, const float* RESTRICT n_factor, const float* RESTRICT n_first, float* RESTRICT n_last,
    float* RESTRICT n_states, int length, int turns, int reverse)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    float* numbers = (float*)(memory + STAGES * STAGE_BYTES); // [STAGES, 3, K_STEP]
    const u32 stages = shared_address(memory);
    const int chunks = (length + CHUNK - 1) / CHUNK;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
    const int tile = blockIdx.x % TILES, m0 = tile / COLUMN_TILES * TILE_ROWS, n0 = tile % COLUMN_TILES * STATE_N;
    const int segment = blockIdx.x / TILES, begin = segment * turns, count = min(turns, chunks - begin);
    const i64 end = head * ((chunks + turns - 1) / turns) + segment; // where last has the segment's
    const bool has_normalizer = n_states && n0 == 0;
    const Rows xs = {x + blockIdx.z * x_batch + (i64)blockIdx.y * x_head, x_token, length};
    const Rows ys = {y + blockIdx.z * y_batch + (i64)blockIdx.y * y_head, y_token, length};
    keep += head * chunks;

    Part<STATE_N> sums;
    sums.clear();
    float n[2] = {}; // the thread's share of its rows' sums
    if (first && segment == 0)
        sums.for_pairs([&](float* pair, int j, int half) {
            const int column = n0 + own_column(j);
            if (m0 + own_row(half) >= DQK || !has_column<DHV, STATE_N>(column)) return;
            const float2 from = *(const float2*)(first + (head * DQK + m0 + own_row(half)) * DHV + column);
            pair[0] = from.x;
            pair[1] = from.y;
        });
    if (has_normalizer && n_first && segment == 0 && threadIdx.x % 4 == 0)
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (m0 + own_row(half) < DQK) n[half] = n_first[head * DQK + m0 + own_row(half)];
    }

    auto load = [&](int step, int slot) {
        if (step < count * STEPS)
        {
            const int row = chunk_at(begin + step / STEPS, chunks, reverse) * CHUNK + step % STEPS * K_STEP;
            const u32 stage = stages + slot * STAGE_BYTES;
            load_panels<K_STEP, X_COLUMNS, DQK>(stage, xs, row, m0);
            load_panels<K_STEP, STATE_N, DHV>(stage + LEFT_BYTES, ys, row, n0);
            const int which = threadIdx.x / (K_STEP / 4), token = threadIdx.x % (K_STEP / 4) * 4;
            const float* of = which == 0 ? weight : which == 1 ? n_weight : n_factor;
            const bool exists = which < (has_normalizer ? (n_factor ? 3 : 2) : 1);
            float* to = numbers + (slot * 3 + min(which, 2)) * K_STEP + token;
            copy_async_if(shared_address(to), of + head * chunks * CHUNK + row + token, exists);
        }
        copy_async_commit();
    };
    for (int step = 0; step < STAGES - 2; step++) load(step, step);

    // When a step is there: w x as an operand, and the step's share of the rows' sums.
    u32 left[STEPS][K_STEP / 16][4];
    float of_step[2];
    auto prepare = [&](int slot, u32 (&operand)[K_STEP / 16][4]) {
        copy_async_wait<STAGES - 3>();
        shared_fence_products();
        __syncthreads();
        const float* weights = numbers + slot * 3 * K_STEP + threadIdx.x % 4 * 2;
        of_step[0] = of_step[1] = 0.f;
#pragma unroll
        for (int k = 0; k < K_STEP / 16; k++)
        {
            u32(&a)[4] = operand[k];
            load_left_16<true>(a, stages + slot * STAGE_BYTES + group_row() / PANEL * PANEL_BYTES(K_STEP) + 16 * k * 128);
            if (has_normalizer)
            {
                float2 low = *(const float2*)(weights + K_STEP + 16 * k), high = *(const float2*)(weights + K_STEP + 16 * k + 8);
                if (n_factor)
                {
                    const float2 low_factor = *(const float2*)(weights + 2 * K_STEP + 16 * k);
                    const float2 high_factor = *(const float2*)(weights + 2 * K_STEP + 16 * k + 8);
                    low = make_float2(low.x * low_factor.x, low.y * low_factor.y);
                    high = make_float2(high.x * high_factor.x, high.y * high_factor.y);
                }
                of_step[0] += dot_bf16x2(a[0], low) + dot_bf16x2(a[2], high);
                of_step[1] += dot_bf16x2(a[1], low) + dot_bf16x2(a[3], high);
            }
            const float2 low = *(const float2*)(weights + 16 * k), high = *(const float2*)(weights + 16 * k + 8);
            a[0] = scale_bf16x2(a[0], low);
            a[1] = scale_bf16x2(a[1], low);
            a[2] = scale_bf16x2(a[2], high);
            a[3] = scale_bf16x2(a[3], high);
        }
    };

    int slot = 0;
    prepare(slot, left[0]);
    for (int step = 0; step < count; step++)
    {
        const int chunk = chunk_at(begin + step, chunks, reverse);
        const float factor = keep[chunk];
        const i64 border = (head * chunks + chunk) * DQK + m0;
        const bool is_known = step > 0 || segment == 0;
        if (is_known) sums.store<DHV>(states + border * DHV, DHV, DQK - m0, n0);
        if (is_known && has_normalizer)
        {
            float whole[2] = {n[0], n[1]};
            sum_rows(whole);
            if (threadIdx.x % 4 == 0)
            {
#pragma unroll
                for (int half = 0; half < 2; half++)
                    if (m0 + own_row(half) < DQK) n_states[border + own_row(half)] = whole[half];
            }
        }
        sums.for_pairs([&](float* pair, int, int) {
            pair[0] *= factor;
            pair[1] *= factor;
        });
        n[0] *= factor;
        n[1] *= factor;
#pragma unroll
        for (int part = 0; part < STEPS; part++)
        {
            n[0] += of_step[0];
            n[1] += of_step[1];
            const u32 right = stages + slot * STAGE_BYTES + LEFT_BYTES;
            group_begin();
#pragma unroll
            for (int k = 0; k < K_STEP / 16; k++)
                sums.multiply_16<STATE_N, false>(left[part][k], right + 16 * k * 128, PANEL_BYTES(K_STEP));
            group_commit();

            // While the tensor cores work. All had ended the step before the last when this one was prepared: a load takes its place.
            const int before = slot == 0 ? STAGES - 1 : slot - 1, next = slot == STAGES - 1 ? 0 : slot + 1;
            load(step * STEPS + part + STAGES - 2, before == 0 ? STAGES - 1 : before - 1);
            prepare(next, left[(part + 1) % STEPS]);
            slot = next;
            group_wait();
        }
    }

    if (last)
        sums.for_pairs([&](float* pair, int j, int half) {
            const int column = n0 + own_column(j);
            if (m0 + own_row(half) < DQK && has_column<DHV, STATE_N>(column))
                *(float2*)(last + (end * DQK + m0 + own_row(half)) * DHV + column) = make_float2(pair[0], pair[1]);
        });
    if (has_normalizer && n_last)
    {
        sum_rows(n);
        if (threadIdx.x % 4 == 0)
        {
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (m0 + own_row(half) < DQK) n_last[end * DQK + m0 + own_row(half)] = n[half];
        }
    }
}

#define JOINED 16 // turns whose memory is on its way at a time

// Two neighbouring elements of C, or of n, as memory has them.
DEVICE float2 unpack_pair(u32 word) { return make_float2(low_bf16(word), high_bf16(word)); }
DEVICE float2 unpack_pair(float2 pair) { return pair; }
DEVICE void pack_pair(u32& to, float2 pair) { to = pack_bf16(pair.x, pair.y); }
DEVICE void pack_pair(float2& to, float2 pair) { to = pair; }

// Adds to a pair of a head's memory at the chunks' borders what was before each segment. own: the pair at the first chunk, the others' each
// `width` pairs further; totals: the first segment's end, the others' each `width` pairs further; last: the pair behind all, or null.
template <class Pair>
DEVICE void join(Pair* own, const float2* totals, float2* last, int width, const float* keep, int chunks, int turns, int reverse)
{
    float2 before = make_float2(0.f, 0.f);
    float decay = 1.f; // from the segment's start on
    for (int first = turns, place = 0; first < chunks; first += JOINED)
    {
        // All loads before the first of them is needed, and without a branch around more than one.
        Pair pairs[JOINED];
        float2 ends[JOINED];
        float keeps[JOINED];
        bool is_start[JOINED];
#pragma unroll
        for (int k = 0; k < JOINED; k++)
        {
            const int chunk = chunk_at(min(first + k, chunks - 1), chunks, reverse);
            is_start[k] = place == 0 && first + k < chunks;
            keeps[k] = keep[chunk];
            pairs[k] = own[(i64)chunk * width];
            if (is_start[k]) ends[k] = *totals;
            totals += is_start[k] ? width : 0;
            place = place + 1 == turns ? 0 : place + 1;
        }
#pragma unroll
        for (int k = 0; k < JOINED; k++)
        {
            if (is_start[k])
            {
                before = make_float2(ends[k].x + decay * before.x, ends[k].y + decay * before.y);
                decay = 1.f;
            }
            const float2 alone = is_start[k] ? make_float2(0.f, 0.f) : unpack_pair(pairs[k]);
            const float2 whole = make_float2(alone.x + decay * before.x, alone.y + decay * before.y);
            if (first + k < chunks)
            {
                pack_pair(own[(i64)chunk_at(first + k, chunks, reverse) * width], whole);
                decay *= keeps[k];
            }
        }
    }
    const float2 end = *totals;
    if (last) *last = make_float2(end.x + decay * before.x, end.y + decay * before.y);
}

// totals: [B NH, SEGMENTS, DQK, DHV], n_totals: [B NH, SEGMENTS, DQK], as mlstm_states leaves them; the others as its.
// A thread has a pair of C, or of n where there is one. Operations: none to speak of; bytes: 4 DQK DHV a chunk, the segments' ends once.
// grid ((DQK DHV + DQK) / 2 threads, NH, B), block 256.
KERNEL void __launch_bounds__(256) mlstm_states_join(
    const float* RESTRICT keep, const float* RESTRICT totals, float* RESTRICT last, bf16* RESTRICT states,
    const float* RESTRICT n_totals, float* RESTRICT n_last, float* RESTRICT n_states, int chunks, int turns, int reverse)
{
    wait_for_predecessors();
    constexpr int PAIRS = DQK * DHV / 2, N_PAIRS = DQK / 2;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y, segments = (chunks + turns - 1) / turns;
    const int pair = blockIdx.x * blockDim.x + threadIdx.x, of_n = pair - PAIRS;
    keep += head * chunks;
    if (of_n < 0)
        join(
            (u32*)states + head * chunks * PAIRS + pair, (const float2*)totals + head * segments * PAIRS + pair,
            last ? (float2*)last + head * PAIRS + pair : nullptr, PAIRS, keep, chunks, turns, reverse);
    else if (n_states && of_n < N_PAIRS)
        join(
            (float2*)n_states + head * chunks * N_PAIRS + of_n, (const float2*)n_totals + head * segments * N_PAIRS + of_n,
            n_last ? (float2*)n_last + head * N_PAIRS + of_n : nullptr, N_PAIRS, keep, chunks, turns, reverse);
}
