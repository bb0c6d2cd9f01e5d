// The sLSTM with block-diagonal recurrence. For each token t, head, and gate g of i, f, z, o, with x_g the given pre-activations:
//     g~ = x_g + R_g h_{t-1} + b_g,                  R_g [D, D] as (unit written, unit read)
//     m_t = max(i~, log f + m_{t-1}),                log f = logsigmoid(f~), or f~ with the exponential forget gate
//     i' = exp(i~ - m_t),  f' = exp(log f + m_{t-1} - m_t);  i' = 1 and f' = 0 where n_{t-1} is 0
//     c_t = f' c_{t-1} + i' tanh(z~),  n_t = f' n_{t-1} + i',  h_t = sigmoid(o~) c_t / n_t
// One of i', f' is 1 and the other exp(-|d|), d = i~ - log f - m_{t-1}. A document start empties the state (h, c, n, m) before its token;
// padding leaves the state as it is and gives h = 0.
//
// Backward, from the last token on, dh being the gradient of the output and of what R makes of it, the latter held to +-clip:
//     dc += dh o / n,  dn -= dh o c / n^2,  do~ = dh c / n o (1 - o),  dz~ = dc i' (1 - z^2)
//     di~ = i' (dc z + dn) + [d >= 0] e,  dlog f = f' (dc c_{t-1} + dn n_{t-1}) + [d < 0] e,  df~ = dlog f sigmoid(-f~)
//     dc <- f' dc,  dn <- f' dn,  e <- [d < 0] e,  the gradient of h_{t-1} = sum over gates of R_g^T dg~
// m takes no part, for h does not depend on it. What the last state's gradient says of m beyond its share in c and n, e = dm - dc c - dn n,
// goes back along the larger exponents to the first input gate that is one of them.
// Left to products over all tokens: dR_g = sum of dg~ h_{t-1}^T, with h_{t-1} as R read it in `before`.
//
// Cut: a head of 8 rows of the batch is a cluster of CLUSTER blocks, one multiprocessor each, which walks all tokens. A block has
// U = D / CLUSTER units and their 4 U rows of R in its registers. A warp has 8 units: its two products, of 16 rows (i and f, z and o) x D
// x 8, leave each lane the four gates of one unit in two rows of the batch, whose c, n and m it keeps. h goes, as bfloat16, to every block
// of the cluster as soon as a warp has it, and is counted there by a barrier: nothing else joins the blocks. There are two places for h, in
// turn: who writes h_t has read all of h_{t-1}, so nobody reads h_{t-2} any more.
// Backward the block's dg~ (4 U x 8) meet the same rows of R, transposed, and give their part of the D x 8 gradients of h_{t-1}: each block
// is sent the parts of its units (float32) and adds them in order. So a step has a barrier within the block, too.
//
// Bytes a unit and token: forward 8 of x and 2 of h, with 16 of records and 2 of `before` for the way back; backward 16 + 2 + 8.
// Operations: 8 D^2 a head, token and row, in either direction. B8 S2048 NH4 D256: 16.8 million units and tokens, 0.47 + 0.44 GB, which
// take 0.3 ms, and 34 + 34 GFLOP. But its 2048 steps come one after the other, on 32 multiprocessors: of each, the products are some 250
// cycles, the gates 200, the exchange 450: 915 cycles and 0.46 us a step, 0.95 ms, and backward 1,250 cycles, 1.3 ms.
// Rounding h to bfloat16 as R's operand costs 2e-4 to 1e-3 of the output, less than rounding the output.
#include "Ptx.cuh"

// SLstmSequenceKernel.cs tells DIM, the units of a head; CLUSTER, the blocks of a head, and ROWS, of the batch, that it works on; THREADS,
// of a block; EXPONENTIAL_FORGET; LAYOUT, whether there are document starts or padding; and for either direction the tokens that are on
// their way or in use, and the block's shared memory: FORWARD_STAGES, FORWARD_BYTES, BACKWARD_STAGES and BACKWARD_BYTES.
#define CHAINS 2 // sums that a warp's products are added to in turn, so that one need not wait for the one before; add_chains adds both
#define UNITS (DIM / CLUSTER)
#define WARPS (UNITS / 8)
#define GROUPS (DIM / 8) // of 8 units, in a head
static_assert(DIM % (16 * CLUSTER) == 0 && ROWS == 8 && THREADS == 32 * WARPS, "products of 16 x 8 are cut over warps of 8 units");
static_assert(FORWARD_STAGES >= 3 && BACKWARD_STAGES >= 3, "a token that is read, one that arrives, and one that is asked for");

// Forward: steps of 16 units read. Shared memory: h twice, x's stages, two barriers.
#define READ_STEPS (DIM / 16)
#define H_BYTES (DIM * ROWS * 2)
#define X_BYTES 512 // of a warp and token: 4 gates x 8 rows x 8 units
static_assert(FORWARD_BYTES == 2 * H_BYTES + WARPS * FORWARD_STAGES * X_BYTES + 16, "the barriers come last");

// Backward: 16 units of h_{t-1} (a tile) times the block's 4 U gradients, or half of them where there are not enough tiles for the warps.
#define SPLITS (CLUSTER % 2 ? 2 : 1)
#define TILES (CLUSTER * SPLITS / 2) // of a warp
#define WRITTEN_STEPS (UNITS / 4 / SPLITS)
#define SOURCES (CLUSTER * SPLITS)
#define GATES_BYTES (4 * UNITS * ROWS * 2)
#define PARTS_BYTES (SOURCES * UNITS * ROWS * 4)
#define RECORD_BYTES (32 * THREADS)
#define DH_BYTES (128 * WARPS)
static_assert(
    BACKWARD_BYTES == 2 * GATES_BYTES + 2 * PARTS_BYTES + BACKWARD_STAGES * (RECORD_BYTES + DH_BYTES) + WARPS * X_BYTES + 16,
    "the barriers come last");

#define LOG2_E 1.4426950408889634f
#define INFINITY_F __int_as_float(0x7f800000)

// Two neighbours as the tensor cores' operand.
DEVICE u32 pair(const float* x) { return pack_bf16(x[0], x[1]); }

// The total of both chains, in the first: with indices that are known when it is compiled, or the sums would lie in memory.
template <int Tiles>
DEVICE void add_chains(float (&sums)[CHAINS][Tiles][4])
{
#pragma unroll
    for (int tile = 0; tile < Tiles; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[0][tile][e] += sums[1][tile][e];
}

DEVICE float log_sigmoid(float x) { return fminf(x, 0.f) - __logf(1.f + exp2_fast(-fabsf(x) * LOG2_E)); }
DEVICE float sigmoid(float x) { return reciprocal_fast(1.f + exp2_fast(-x * LOG2_E)); }

// Where a thread stands: its block's slice of the batch, head and rank in the cluster; lane 4 u + p has unit u of the warp's group in rows
// 2 p and 2 p + 1 of the slice, as a product leaves them, and once they are transposed row u, units 2 p and 2 p + 1, to be moved.
struct Place
{
    int lane, warp, rank, head, slice, group, unit, row, moved_row, moved_unit;
};

DEVICE Place find_place(int heads)
{
    Place p;
    p.lane = threadIdx.x % 32;
    p.warp = threadIdx.x / 32;
    p.rank = CLUSTER > 1 ? (int)cluster_rank() : 0;
    p.head = blockIdx.x / CLUSTER % heads;
    p.slice = blockIdx.x / CLUSTER / heads;
    p.group = p.rank * WARPS + p.warp;
    p.unit = 8 * p.group + p.lane / 4;
    p.row = ROWS * p.slice + p.lane % 4 * 2;
    p.moved_row = ROWS * p.slice + p.lane / 4;
    p.moved_unit = 8 * p.group + p.lane % 4 * 2;
    return p;
}

// For row r of the slice, bit 2 r tells of a document start at token t, bit 2 r + 1 of padding.
DEVICE u32 token_flags(const unsigned char* starts, const unsigned char* padding, int slice, int batch, int length, int t)
{
    u32 flags = 0;
    if (t < 0 || t >= length) return 0;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
    {
        i64 at = (i64)(ROWS * slice + r) * length + t;
        if (ROWS * slice + r >= batch) break;
        if (starts && starts[at]) flags |= 1u << 2 * r;
        if (padding && padding[at]) flags |= 2u << 2 * r;
    }
    return flags;
}

// Of a state [4 (h, c, n, m), B, NH, D]; 0 where there is none.
DEVICE float state_value(const float* state, int which, int row, int head, int unit, int batch, int heads)
{
    return state && row < batch ? state[(((i64)which * batch + row) * heads + head) * DIM + unit] : 0.f;
}

DEVICE void set_state(float* state, int which, int row, int head, int unit, int batch, int heads, float value)
{
    if (row < batch) state[(((i64)which * batch + row) * heads + head) * DIM + unit] = value;
}

// What the blocks of a cluster send each other comes to two places in turn, each with a barrier that counts its bytes.
DEVICE void open_exchange(u32 barriers, u32 bytes)
{
    if (CLUSTER > 1)
    {
        if (threadIdx.x == 0)
        {
#pragma unroll
            for (int place = 0; place < 2; place++)
            {
                mbarrier_init(barriers + 8 * place, 1);
                mbarrier_arrive_expect(barriers + 8 * place, bytes);
            }
        }
        cluster_sync();
    }
    else
    {
        __syncthreads();
    }
}

DEVICE u32 block_address(u32 shared, int rank) { return CLUSTER > 1 ? cluster_address(shared, rank) : shared; }

// To an offset in the shared memory of the block whose memory is at `target`; alone, a block writes to its own.
template <class Value>
DEVICE void send(unsigned char* shared, u32 target, u32 offset, u32 barrier, Value x)
{
    if (CLUSTER == 1) *(Value*)(shared + offset) = x;
    else cluster_store_async(target + offset, x, target + barrier);
}

// Until all that was sent in step `step`, counted from 0, is here. `bytes` will come to the same place two steps later.
DEVICE void receive(u32 barriers, int step, u32 bytes)
{
    if (CLUSTER == 1)
    {
        __syncthreads();
    }
    else
    {
        u32 barrier = barriers + 8 * (step & 1);
        mbarrier_wait(barrier, step >> 1 & 1);
        if (threadIdx.x == 0) mbarrier_arrive_expect(barrier, bytes);
    }
}

// No block may end before the others have stopped writing to it.
DEVICE void close_exchange()
{
    if (CLUSTER > 1) cluster_sync();
}

// xi .. xo: [B, S, NH, D] with strides of S * x_token, x_token, x_head, 1 (multiples of 8). R [NH, 4, D, D], bias [4, NH, D].
// initial, last: [4 (h, c, n, m), B, NH, D]; initial may be null. starts, padding: [B, S], either may be null; not read without LAYOUT.
// h, before [B, S, NH, D]; records [ceil(B / 8) * NH, S, D / 8, 2, 32] of 16 bytes; before and records may be null, together.
// Grid: ceil(B / 8) * NH * CLUSTER blocks of THREADS.
KERNEL void __launch_bounds__(THREADS, 1) slstm_forward(
    const bf16* RESTRICT xi, const bf16* RESTRICT xf, const bf16* RESTRICT xz, const bf16* RESTRICT xo, int x_token, int x_head,
    const float* RESTRICT R, const float* RESTRICT bias, const float* RESTRICT initial,
    const unsigned char* RESTRICT starts, const unsigned char* RESTRICT padding,
    bf16* RESTRICT h, bf16* RESTRICT before, uint4* RESTRICT records, float* RESTRICT last, int batch, int length, int heads)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    const u32 base = shared_address(shared);
    const Place p = find_place(heads);

    u32 weights[2][READ_STEPS][4];
    float b[4];
#pragma unroll
    for (int gate = 0; gate < 4; gate++)
    {
        const float* row = R + ((i64)(p.head * 4 + gate) * DIM + p.unit) * DIM + p.lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < READ_STEPS; k++)
        {
            weights[gate / 2][k][gate % 2] = pair(row + 16 * k);
            weights[gate / 2][k][gate % 2 + 2] = pair(row + 16 * k + 8);
        }
        b[gate] = bias[(gate * heads + p.head) * DIM + p.unit];
    }

    u32 flags = LAYOUT ? token_flags(starts, padding, p.slice, batch, length, p.lane) : 0; // of the 32 tokens around
    u32 now = LAYOUT ? __shfl_sync(FULL_WARP, flags, 0) : 0;
    float hs[2], c[2], n[2], m[2];
#pragma unroll
    for (int j = 0; j < 2; j++)
    {
        bool starts_here = LAYOUT && now >> 2 * (p.lane % 4 * 2 + j) & 1;
        const float* from = starts_here ? nullptr : initial;
        hs[j] = state_value(from, 0, p.row + j, p.head, p.unit, batch, heads);
        c[j] = state_value(from, 1, p.row + j, p.head, p.unit, batch, heads);
        n[j] = state_value(from, 2, p.row + j, p.head, p.unit, batch, heads);
        m[j] = state_value(from, 3, p.row + j, p.head, p.unit, batch, heads);
    }

    // h as an operand lies in matrices of 8 units by 8 rows; h_t in place t % 2, so the initial one in place 1.
    u32* first = (u32*)(shared + H_BYTES);
    for (int word = threadIdx.x; word < GROUPS * 32; word += THREADS)
    {
        float values[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            int r = word % 4 * 2 + j;
            const float* from = LAYOUT && now >> 2 * r & 1 ? nullptr : initial;
            values[j] = state_value(from, 0, ROWS * p.slice + r, p.head, word / 4, batch, heads);
        }
        first[word] = pack_bf16(values[0], values[1]);
    }

    const bool moves = p.moved_row < batch;
    const i64 moved = ((i64)p.moved_row * length * heads + p.head) * DIM + p.moved_unit;
    const int token = heads * DIM;
    if (before)
    {
        u32 word = transpose_matrix(pack_bf16(hs[0], hs[1]));
        if (moves) *(u32*)(before + moved) = word;
    }

    // A lane fetches one gate of one row, 8 units; each warp its own, so that no other waits for it.
    const int loaded_row = ROWS * p.slice + p.lane % 8, loaded_gate = p.lane / 8;
    const bool loads = loaded_row < batch;
    const bf16* x = loaded_gate == 0 ? xi : loaded_gate == 1 ? xf : loaded_gate == 2 ? xz : xo;
    x += (i64)(loads ? loaded_row : 0) * length * x_token + (i64)p.head * x_head + 8 * p.group;
    const u32 stages = base + 2 * H_BYTES + p.warp * FORWARD_STAGES * X_BYTES + p.lane * 16;
#pragma unroll
    for (int stage = 0; stage < FORWARD_STAGES - 1; stage++)
    {
        if (stage < length) copy_async_or_zero(stages + stage * X_BYTES, x + (i64)stage * x_token, loads);
        copy_async_commit();
    }
    x += (i64)(FORWARD_STAGES - 1) * x_token;

    const u32 barriers = FORWARD_BYTES - 16;
    open_exchange(base + barriers, H_BYTES);
    u32 blocks[CLUSTER];
#pragma unroll
    for (int r = 0; r < CLUSTER; r++) blocks[r] = block_address(base, r);
    const u32 operands = base + p.lane * 16;
    int stage = 0;
    if (records) records += (((i64)(p.slice * heads + p.head) * length) * GROUPS + p.group) * 64 + p.lane;

    for (int t = 0; t < length; t++)
    {
        copy_async_wait<FORWARD_STAGES - 2>();
        __syncwarp();
        u32 words[4];
        load_matrix_x4_transposed(words, stages + stage * X_BYTES);
        int freed = stage == 0 ? FORWARD_STAGES - 1 : stage - 1;
        if (t + FORWARD_STAGES - 1 < length) copy_async_or_zero(stages + freed * X_BYTES, x, loads);
        copy_async_commit();
        x += x_token;
        stage = stage + 1 == FORWARD_STAGES ? 0 : stage + 1;

        u32 next = 0;
        if (LAYOUT)
        {
            if ((t + 1) % 32 == 0) flags = token_flags(starts, padding, p.slice, batch, length, t + 1 + p.lane);
            next = __shfl_sync(FULL_WARP, flags, (t + 1) % 32);
        }

        float sums[CHAINS][2][4] = {};
#pragma unroll
        for (int gate = 0; gate < 4; gate++)
        {
            sums[0][gate / 2][gate % 2 * 2] = low_bf16(words[gate]) + b[gate];
            sums[0][gate / 2][gate % 2 * 2 + 1] = high_bf16(words[gate]) + b[gate];
        }

        if (t > 0) receive(base + barriers, t - 1, H_BYTES);
        else if (CLUSTER == 1) __syncthreads();

        u32 operand = operands + ((t + 1) & 1) * H_BYTES;
        u32 hb[(READ_STEPS + 1) / 2][4];
#pragma unroll
        for (int k = 0; k < READ_STEPS / 2; k++) load_matrix_x4_transposed(hb[k], operand + k * 512);
#if READ_STEPS % 2
        u32 rest[2];
        load_matrix_x2_transposed(rest, operand - (p.lane & 16) * 16 + READ_STEPS / 2 * 512);
        hb[READ_STEPS / 2][0] = rest[0];
        hb[READ_STEPS / 2][1] = rest[1];
#endif
#pragma unroll
        for (int k = 0; k < READ_STEPS; k++)
        {
#pragma unroll
            for (int half = 0; half < 2; half++)
                mma_bf16(sums[k % CHAINS][half], weights[half][k], hb[k / 2][k % 2 * 2], hb[k / 2][k % 2 * 2 + 1]);
        }
        add_chains<2>(sums);

        float output[2];
        uint4 record[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            float i = sums[0][0][j], f = sums[0][0][j + 2], z = sums[0][1][j], o = sums[0][1][j + 2];
            float kept = (EXPONENTIAL_FORGET ? f : log_sigmoid(f)) + m[j];
            float distance = n[j] == 0.f ? INFINITY_F : i - kept;
            float smaller = exp2_fast(-fabsf(distance) * LOG2_E);
            bool input_wins = distance >= 0.f;
            float igate = input_wins ? 1.f : smaller, fgate = input_wins ? smaller : 1.f;
            float c_new = fgate * c[j] + igate * tanh_fast(z), n_new = fgate * n[j] + igate;
            float h_new = c_new * reciprocal_fast((1.f + exp2_fast(-o * LOG2_E)) * n_new);

            bool is_padding = LAYOUT && now >> (2 * (p.lane % 4 * 2 + j) + 1) & 1;
            if (!is_padding)
            {
                hs[j] = h_new;
                c[j] = c_new;
                n[j] = n_new;
                m[j] = input_wins ? i : kept;
            }
            output[j] = is_padding ? 0.f : h_new;
            record[j] = make_uint4(__float_as_uint(c[j]), __float_as_uint(n[j]), pack_f16(distance, f), pack_f16(z, o));
            if (LAYOUT && next >> 2 * (p.lane % 4 * 2 + j) & 1) hs[j] = c[j] = n[j] = m[j] = 0.f;
        }

        u32 read_next = pack_bf16(hs[0], hs[1]);
        if (t + 1 < length)
        {
#pragma unroll
            for (int r = 0; r < CLUSTER; r++)
                send(shared, blocks[r], (t & 1) * H_BYTES + p.group * 128 + p.lane * 4, barriers + 8 * (t & 1), read_next);
        }

        u32 word = transpose_matrix(pack_bf16(output[0], output[1]));
        i64 at = moved + (i64)t * token;
        if (moves) *(u32*)(h + at) = word;
        if (records)
        {
            u32 word_before = LAYOUT ? transpose_matrix(read_next) : word;
            if (moves && t + 1 < length) *(u32*)(before + at + token) = word_before;
            records[0] = record[0];
            records[32] = record[1];
            records += GROUPS * 64;
        }
        now = next;
    }

#pragma unroll
    for (int j = 0; j < 2; j++)
    {
        set_state(last, 0, p.row + j, p.head, p.unit, batch, heads, hs[j]);
        set_state(last, 1, p.row + j, p.head, p.unit, batch, heads, c[j]);
        set_state(last, 2, p.row + j, p.head, p.unit, batch, heads, n[j]);
        set_state(last, 3, p.row + j, p.head, p.unit, batch, heads, m[j]);
    }
    close_exchange();
}

// records, of the forward pass; dh [B, S, NH, D]; dlast, the gradient of `last`; initial, as in the forward pass; both may be null.
// dxi .. dxo: as xi .. xo, with strides of S * x_token, x_token, x_head, 1. dbias [ceil(B / 8), 4, NH, D] is to be summed over its first
// dimension. dinitial as initial; may be null. clip: infinity for none. Grid and block are those of the forward pass.
KERNEL void __launch_bounds__(THREADS, 1) slstm_backward(
    const uint4* RESTRICT records, const bf16* RESTRICT dh, const float* RESTRICT dlast, const float* RESTRICT R,
    const float* RESTRICT initial, const unsigned char* RESTRICT starts, const unsigned char* RESTRICT padding,
    bf16* RESTRICT dxi, bf16* RESTRICT dxf, bf16* RESTRICT dxz, bf16* RESTRICT dxo, int x_token, int x_head,
    float* RESTRICT dbias, float* RESTRICT dinitial, float clip, int batch, int length, int heads)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    const u32 base = shared_address(shared);
    const Place p = find_place(heads);
    const u32 parts = 2 * GATES_BYTES, record_stages = parts + 2 * PARTS_BYTES;
    const u32 dh_stages = record_stages + BACKWARD_STAGES * RECORD_BYTES, rows_out = dh_stages + BACKWARD_STAGES * DH_BYTES;

    const int split = p.warp % SPLITS, first_tile = p.warp / SPLITS * TILES;
    u32 weights[TILES][WRITTEN_STEPS][4];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
    {
#pragma unroll
        for (int k = 0; k < WRITTEN_STEPS; k++)
        {
#pragma unroll
            for (int r = 0; r < 4; r++)
            {
                int written = 16 * (split * WRITTEN_STEPS + k) + p.lane % 4 * 2 + r / 2 * 8; // of the block's 4 U, gate by gate
                int read = 16 * (first_tile + tile) + p.lane / 4 + r % 2 * 8;
                i64 row = (i64)(p.head * 4 + written / UNITS) * DIM + p.rank * UNITS + written % UNITS;
                weights[tile][k][r] = pack_bf16(R[row * DIM + read], R[(row + 1) * DIM + read]);
            }
        }
    }

    // A lane fetches its own two records, and lanes 0 to 7 a row of dh each.
    const int loaded_row = ROWS * p.slice + p.lane % 8;
    const bool loads = loaded_row < batch;
    const bf16* dh_row = dh + ((i64)(loads ? loaded_row : 0) * length * heads + p.head) * DIM + 8 * p.group;
    const uint4* own_records = records + (((i64)(p.slice * heads + p.head) * length) * GROUPS + p.group) * 64 + p.lane;
    const u32 own_stage = base + record_stages + threadIdx.x * 16, dh_stage = base + dh_stages + p.warp * 128;
    const int token = heads * DIM;

    auto fetch = [&](int t, int stage)
    {
        if (t >= 0)
        {
            copy_async(own_stage + stage * RECORD_BYTES, own_records + (i64)t * GROUPS * 64);
            copy_async(own_stage + stage * RECORD_BYTES + THREADS * 16, own_records + (i64)t * GROUPS * 64 + 32);
            if (p.lane < 8) copy_async_or_zero(dh_stage + stage * DH_BYTES + p.lane * 16, dh_row + (i64)t * token, loads);
        }
        copy_async_commit();
    };

#pragma unroll
    for (int stage = 0; stage < BACKWARD_STAGES - 1; stage++) fetch(length - 1 - stage, stage);

    float dc[2], dn[2], dm[2], excess[2], carried[2]; // carried: the gradient of h_t that does not come through R
#pragma unroll
    for (int j = 0; j < 2; j++)
    {
        carried[j] = state_value(dlast, 0, p.row + j, p.head, p.unit, batch, heads);
        dc[j] = state_value(dlast, 1, p.row + j, p.head, p.unit, batch, heads);
        dn[j] = state_value(dlast, 2, p.row + j, p.head, p.unit, batch, heads);
        dm[j] = state_value(dlast, 3, p.row + j, p.head, p.unit, batch, heads);
    }
    float db[4][2] = {};
    u32 flags = 0;

    const u32 barriers = BACKWARD_BYTES - 16;
    open_exchange(base + barriers, PARTS_BYTES);
    u32 blocks[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) blocks[tile] = block_address(base, 16 * (first_tile + tile) / UNITS);
    const u32 operands = base + split * WRITTEN_STEPS * 256 + p.lane * 16;
    const u32 own_rows_out = rows_out + p.warp * X_BYTES + p.lane * 16;

    // Of the transposed dg~ a lane moves one gate of one row, 8 units.
    const int stored_gate = p.lane / 8;
    bf16* dx = stored_gate == 0 ? dxi : stored_gate == 1 ? dxf : stored_gate == 2 ? dxz : dxo;
    dx += (i64)(loads ? loaded_row : 0) * length * x_token + (i64)p.head * x_head + 8 * p.group;

    copy_async_wait<BACKWARD_STAGES - 2>();
    uint4 record[2];
#pragma unroll
    for (int j = 0; j < 2; j++)
    {
        record[j] = *(const uint4*)(shared + record_stages + threadIdx.x * 16 + j * THREADS * 16);
        float c = __uint_as_float(record[j].x), n = __uint_as_float(record[j].y);
        excess[j] = dm[j] - dc[j] * c - dn[j] * n;
    }

    int stage = 0;
    for (int step = 0; step < length; step++)
    {
        const int t = length - 1 - step;
        int next_stage = stage + 1 == BACKWARD_STAGES ? 0 : stage + 1, freed = stage == 0 ? BACKWARD_STAGES - 1 : stage - 1;
        copy_async_wait<BACKWARD_STAGES - 3>();
        __syncwarp();
        uint4 record_before[2];
        float dh_out[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            const unsigned char* from = shared + record_stages + next_stage * RECORD_BYTES + threadIdx.x * 16 + j * THREADS * 16;
            if (t > 0) record_before[j] = *(const uint4*)from;
            else record_before[j] = make_uint4(
                __float_as_uint(state_value(initial, 1, p.row + j, p.head, p.unit, batch, heads)),
                __float_as_uint(state_value(initial, 2, p.row + j, p.head, p.unit, batch, heads)), 0, 0);
            u32 dh_at = dh_stages + stage * DH_BYTES + p.warp * 128 + (p.lane % 4 * 2 + j) * 16 + p.lane / 4 * 2;
            dh_out[j] = from_bf16(*(const bf16*)(shared + dh_at));
        }
        fetch(t - BACKWARD_STAGES + 1, freed);
        stage = next_stage;

        u32 now = 0;
        if (LAYOUT)
        {
            if (step == 0 || t % 32 == 31) flags = token_flags(starts, padding, p.slice, batch, length, t / 32 * 32 + p.lane);
            now = __shfl_sync(FULL_WARP, flags, t % 32) >> p.lane % 4 * 4;
        }

        // All that does not depend on dh, while it is on its way.
        float igate[2], fgate[2], z[2], dz_factor[2], o_over_n[2], ratio[2], do_factor[2], f_slope[2], i_excess[2], f_excess[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            float c = __uint_as_float(record[j].x), n = __uint_as_float(record[j].y);
            float distance = low_f16(record[j].z), o = sigmoid(high_f16(record[j].w));
            float smaller = exp2_fast(-fabsf(distance) * LOG2_E);
            bool input_won = distance >= 0.f;
            igate[j] = input_won ? 1.f : smaller;
            fgate[j] = input_won ? smaller : 1.f;
            f_slope[j] = EXPONENTIAL_FORGET ? 1.f : sigmoid(-high_f16(record[j].z));
            z[j] = 1.f - 2.f * sigmoid(-2.f * low_f16(record[j].w));
            dz_factor[j] = igate[j] * (1.f - z[j] * z[j]);
            float inverse = reciprocal_fast(n);
            o_over_n[j] = o * inverse;
            ratio[j] = c * inverse;
            do_factor[j] = ratio[j] * o * (1.f - o);
            i_excess[j] = input_won ? excess[j] : 0.f;
            f_excess[j] = input_won ? 0.f : excess[j];
        }

        float sum[2] = {};
        if (step > 0)
        {
            receive(base + barriers, step - 1, PARTS_BYTES);
            const float2* part = (const float2*)(shared + parts + ((step - 1) & 1) * PARTS_BYTES + p.warp * 256) + p.lane;
#pragma unroll
            for (int source = 0; source < SOURCES; source++)
            {
                float2 x = part[source * WARPS * 32];
                sum[0] += x.x;
                sum[1] += x.y;
            }
        }

        float dg[4][2];
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            float dh_state = fminf(fmaxf(sum[j], -clip), clip) + carried[j], dh_all = dh_state + dh_out[j];
            float scaled = dh_all * o_over_n[j];
            float dc_all = dc[j] + scaled, dn_all = dn[j] - scaled * ratio[j];
            float c_before = __uint_as_float(record_before[j].x), n_before = __uint_as_float(record_before[j].y);
            float dlog_f = fgate[j] * (dc_all * c_before + dn_all * n_before) + f_excess[j];
            dg[0][j] = igate[j] * (dc_all * z[j] + dn_all) + i_excess[j];
            dg[1][j] = dlog_f * f_slope[j];
            dg[2][j] = dc_all * dz_factor[j];
            dg[3][j] = dh_all * do_factor[j];

            bool is_padding = LAYOUT && now >> (2 * j + 1) & 1;
            if (is_padding)
            {
                dg[0][j] = dg[1][j] = dg[2][j] = dg[3][j] = 0.f;
                carried[j] = dh_state;
            }
            else
            {
                dc[j] = dc_all * fgate[j];
                dn[j] = dn_all * fgate[j];
                dm[j] = dlog_f;
                excess[j] = f_excess[j];
                carried[j] = 0.f;
            }
            if (LAYOUT && now >> 2 * j & 1) dc[j] = dn[j] = dm[j] = excess[j] = carried[j] = 0.f;
            record[j] = record_before[j];
        }

        // What R^T takes, as matrices of 8 units by 8 rows, gate by gate; nothing goes back past a document's start.
        u32 kept = LAYOUT ? (now & 1 ? 0u : 0xffffu) | (now & 4 ? 0u : 0xffff0000u) : ~0u;
        u32 words[4];
#pragma unroll
        for (int gate = 0; gate < 4; gate++)
        {
            words[gate] = pack_bf16(dg[gate][0], dg[gate][1]);
            *(u32*)(shared + (step & 1) * GATES_BYTES + (gate * WARPS + p.warp) * 128 + p.lane * 4) = words[gate] & kept;
        }
        __syncthreads();

        float sums[CHAINS][TILES][4] = {};
        u32 operand = operands + (step & 1) * GATES_BYTES;
        u32 gb[WRITTEN_STEPS / 2][4];
#pragma unroll
        for (int k = 0; k < WRITTEN_STEPS / 2; k++) load_matrix_x4_transposed(gb[k], operand + k * 512);
#pragma unroll
        for (int k = 0; k < WRITTEN_STEPS; k++)
        {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                mma_bf16(sums[k % CHAINS][tile], weights[tile][k], gb[k / 2][k % 2 * 2], gb[k / 2][k % 2 * 2 + 1]);
        }
        add_chains<TILES>(sums);

#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
        {
            int unit = 16 * (first_tile + tile);
            u32 barrier = barriers + 8 * (step & 1);
            u32 offset = parts + (step & 1) * PARTS_BYTES + ((p.rank * SPLITS + split) * WARPS + unit % UNITS / 8) * 256 + p.lane * 8;
            send(shared, blocks[tile], offset, barrier, make_float2(sums[0][tile][0], sums[0][tile][1]));
            send(shared, blocks[tile], offset + 256, barrier, make_float2(sums[0][tile][2], sums[0][tile][3]));
        }

        store_matrix_x4_transposed(base + own_rows_out, words);
        __syncwarp();
        if (loads) *(uint4*)(dx + (i64)t * x_token) = *(const uint4*)(shared + own_rows_out);
#pragma unroll
        for (int gate = 0; gate < 4; gate++)
        {
            db[gate][0] += dg[gate][0];
            db[gate][1] += dg[gate][1];
        }
    }

    receive(base + barriers, length - 1, PARTS_BYTES);
    if (dinitial)
    {
        const float2* part = (const float2*)(shared + parts + ((length - 1) & 1) * PARTS_BYTES + p.warp * 256) + p.lane;
        float sum[2] = {};
#pragma unroll
        for (int source = 0; source < SOURCES; source++)
        {
            float2 x = part[source * WARPS * 32];
            sum[0] += x.x;
            sum[1] += x.y;
        }
#pragma unroll
        for (int j = 0; j < 2; j++)
        {
            set_state(dinitial, 0, p.row + j, p.head, p.unit, batch, heads, fminf(fmaxf(sum[j], -clip), clip) + carried[j]);
            set_state(dinitial, 1, p.row + j, p.head, p.unit, batch, heads, dc[j]);
            set_state(dinitial, 2, p.row + j, p.head, p.unit, batch, heads, dn[j]);
            set_state(dinitial, 3, p.row + j, p.head, p.unit, batch, heads, dm[j]);
        }
    }
#pragma unroll
    for (int gate = 0; gate < 4; gate++)
    {
        float total = db[gate][0] + db[gate][1];
        total += __shfl_xor_sync(FULL_WARP, total, 1);
        total += __shfl_xor_sync(FULL_WARP, total, 2);
        if (p.lane % 4 == 0) dbias[((i64)(p.slice * 4 + gate) * heads + p.head) * DIM + p.unit] = total;
    }
    close_exchange();
}
