// The mLSTM's memory C and normaliser n at the chunks' borders, and in the backward pass their gradients:
//     forward   C' = keep C + sum_j write_j k_j v_j^T,      backward   dC = keep dC' + sum_i (read_i / D_i) q_i dh_i^T,
//               n' = keep n + sum_j write_j k_j,                       dn = keep dn' + sum_i read_i dz_i q_i.
//
// A block owns TILE_ROWS x STATE_N of a head's memory, keeps it in registers in float32 and walks the chunks; the tokens of the next steps
// come into shared memory meanwhile. Before every chunk it writes the memory as bfloat16, for the products that read it. The blocks of a
// head's first columns have its normaliser as well. With weights w, x and y: memory += (w x)^T y; w x is rounded to bfloat16, w is not: a
// key's weight would be wrong for all that read it. The normaliser's products are float32.
//
// Operations: 2 DQK DHV a token and head. Bytes: x once a tile of columns, y once a tile of rows, 2 DQK DHV a chunk written:
// at 8,4,2048,128,256 34 MB of memory and 50 MB of reads, 4 GFLOP: 0.03 ms. Always in the same order. A step of 64 tokens is some 350
// instructions a warp, whatever the warp has: so heads of up to 64 queries have blocks of four warps.
#include "MLstmProducts.cuh"

// MLstmSequenceKernel.cs tells STATE_N. A stage has, besides tiles of x and y, three numbers a token.
#define STEPS (CHUNK / K_STEP)
#define COLUMN_TILES (HV_WHOLE / STATE_N)
#define X_COLUMNS (QK_WHOLE < TILE_ROWS ? QK_WHOLE : TILE_ROWS) // what is beyond is never stored
static_assert(HV_WHOLE % STATE_N == 0 && STATE_N <= CHUNK, "tiles are whole");
static_assert(STAGE_BYTES == LEFT_BYTES + PANEL_BYTES(K_STEP) * ((STATE_N + PANEL - 1) / PANEL), "what the host asks for");

DEVICE u32 scale_bf16x2(u32 pair, float2 w) { return pack_bf16(low_bf16(pair) * w.x, high_bf16(pair) * w.y); }

DEVICE float dot_bf16x2(u32 pair, float2 w) { return low_bf16(pair) * w.x + high_bf16(pair) * w.y; }

// x: [B, NH, S, DQK], y: [B, NH, S, DHV] bf16 with strides; weight: [B NH, NC CHUNK]; keep: [B NH, NC];
// first, last: [B NH, DQK, DHV] float32, the memory to start from and the one at the other end, or null; states: [B NH, NC, DQK, DHV] bf16,
// the memory before each chunk or, if reverse, behind it.
// n_weight: [B NH, NC CHUNK], times n_factor of the same shape or null; n_first, n_last: [B NH, DQK] float32 or null; n_states: [B NH, NC,
// DQK] float32, or null where there is no normaliser.
// grid (DQK / TILE_ROWS rounded up x COLUMN_TILES, NH, B), block TILE_THREADS, shared STAGES (STAGE_BYTES + 12 K_STEP).
KERNEL void __launch_bounds__(TILE_THREADS, STATE_N > PANEL ? 1 : 512 / TILE_THREADS) mlstm_states(
    const bf16* RESTRICT x, i64 x_batch, int x_head, int x_token, const bf16* RESTRICT y, i64 y_batch, int y_head, int y_token,
    const float* RESTRICT weight, const float* RESTRICT keep, const float* RESTRICT first, float* RESTRICT last, bf16* RESTRICT states,
    const float* RESTRICT n_weight, const float* RESTRICT n_factor, const float* RESTRICT n_first, float* RESTRICT n_last,
    float* RESTRICT n_states, int length, int reverse)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    float* numbers = (float*)(memory + STAGES * STAGE_BYTES); // [STAGES, 3, K_STEP]
    const u32 stages = shared_address(memory);
    const int chunks = (length + CHUNK - 1) / CHUNK;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
    const int m0 = blockIdx.x / COLUMN_TILES * TILE_ROWS, n0 = blockIdx.x % COLUMN_TILES * STATE_N;
    const bool has_normalizer = n_states && n0 == 0;
    const Rows xs = {x + blockIdx.z * x_batch + (i64)blockIdx.y * x_head, x_token, length};
    const Rows ys = {y + blockIdx.z * y_batch + (i64)blockIdx.y * y_head, y_token, length};
    keep += head * chunks;

    Part<STATE_N> sums;
    sums.clear();
    float n[2] = {}; // the thread's share of its rows' sums
    if (first)
        sums.for_pairs([&](float* pair, int j, int half) {
            const int column = n0 + own_column(j);
            if (m0 + own_row(half) >= DQK || !has_column<DHV, STATE_N>(column)) return;
            const float2 from = *(const float2*)(first + (head * DQK + m0 + own_row(half)) * DHV + column);
            pair[0] = from.x;
            pair[1] = from.y;
        });
    if (has_normalizer && n_first && threadIdx.x % 4 == 0)
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (m0 + own_row(half) < DQK) n[half] = n_first[head * DQK + m0 + own_row(half)];
    }

    auto load = [&](int step, int slot) {
        if (step < chunks * STEPS)
        {
            const int row = (reverse ? chunks - 1 - step / STEPS : step / STEPS) * CHUNK + step % STEPS * K_STEP;
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
    for (int step = 0; step < chunks; step++)
    {
        const int chunk = reverse ? chunks - 1 - step : step;
        const float factor = keep[chunk];
        const i64 border = (head * chunks + chunk) * DQK + m0;
        sums.store<DHV>(states + border * DHV, DHV, DQK - m0, n0);
        if (has_normalizer)
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
                *(float2*)(last + (head * DQK + m0 + own_row(half)) * DHV + column) = make_float2(pair[0], pair[1]);
        });
    if (has_normalizer && n_last)
    {
        sum_rows(n);
        if (threadIdx.x % 4 == 0)
        {
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (m0 + own_row(half) < DQK) n_last[head * DQK + m0 + own_row(half)] = n[half];
        }
    }
}
