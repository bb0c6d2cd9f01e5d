// The mLSTM's gradients, chunk by chunk. With W, E, read, write and D as in MLstmForward.cu, C, n the memory and normaliser before the
// chunk, dC', dn' their gradients behind it, and s = DQK^-1/2:
//     y_i  = C dh_i,   dh_i . h_i = (sum_j W_ij (dh_i . v_j) + read_i q_i . y_i) / D_i
//     dz_i = -(dh_i . h_i) / D_i sign(z_i) where |z_i| > e^-M_i, else 0
//     dM_i = -(dh_i . h_i) / D_i eps, as M scales all that h is made of but eps
//     G_ij = s E_ij ((dh_i . v_j) / D_i + dz_i)                                                            mlstm_backward_scores
//     dq_i = sum_j G_ij k_j + read_i (y_i / D_i + dz_i n)
//     dk_j = sum_i G_ij q_i + write_j (dC' v_j + dn')
//     dv_j = sum_i (W_ij / D_i) dh_i + write_j dC'^T k_j                                                   mlstm_backward
// dh . h comes from float32 sums, as h rounded to bfloat16 would cost digits where little is remembered. Between the two kernels dn' is
// made of dz. The gates' gradients are made of q . dq and k . dk (MLstmGates.cu), which are taken in float32 as well.
//
// Operations a token and head: 2 L (DQK + DHV) + 2 DQK DHV, then L (2 DQK + DHV) + 4 DQK DHV, as half of a
// triangle is left out. Bytes: 6 DQK + 4 DHV + 4 L, and 2 DQK DHV a chunk; then 10 DQK + 6 DHV + 4 L, and 2 DQK DHV a chunk.
#include "MLstmProducts.cuh"

static_assert(TILE_ROWS == CHUNK, "a block has a chunk");

// Arguments as in MLstmBackwardScores.cu; n: [B NH, NC, DQK] before each chunk, null if dz counts for nothing; d_states, dn: behind each
// chunk, dn or null. dq, dk, dv: bf16 with strides; k_writes: [B NH, NC CHUNK], the memory's share of k . dk.
// Of the two blocks of a chunk the first makes dq and dk, the second dv.
// grid 2 B NH NC, block TILE_THREADS, shared STAGES STAGE_BYTES + TRIANGLE_BYTES.
KERNEL void __launch_bounds__(TILE_THREADS, 1) mlstm_backward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT y, const bf16* RESTRICT weights,
    const bf16* RESTRICT gradients, const float* RESTRICT n, const float* RESTRICT dz, const bf16* RESTRICT d_states,
    const float* RESTRICT dn, bf16* RESTRICT dq, i64 dq_batch, int dq_head, int dq_token,
    bf16* RESTRICT dk, i64 dk_batch, int dk_head, int dk_token,
    bf16* RESTRICT dv, i64 dv_batch, int dv_head, int dv_token, float* RESTRICT k_writes, int length, int heads, int batch)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const u32 stages = shared_address(memory), triangle = stages + STAGES * STAGE_BYTES;
    const int group = own_group(), chunks = (length + CHUNK - 1) / CHUNK, count = chunks * heads * batch;
    const Place place(blockIdx.x / 2, count, chunks, heads);
    const Rows ks = place.rows(k, k_batch, k_head, k_token, length);
    const float* own_rows = rows + place.chunk * CHUNK;
    const i64 plane = place.plane;
    float write[2];
    read_rows(write, own_rows + ROW_WRITE * plane);
    if (blockIdx.x % 2 != 0)
    {
        const Rows hs = place.rows(dh, dh_batch, dh_head, dh_token, length);
        constexpr int TILE_STEPS = QK_STEPS + CHUNK_STEPS, STEPS = HV_TILES * TILE_STEPS;
        auto steps = stream<STEPS>(stages, place.chunk, count, count, chunks, heads, [&](const Place&, int step, u32 stage) {
            const int column = step / TILE_STEPS * HV_TILE, part = step % TILE_STEPS;
            if (step == 0) load_triangle(triangle, place.triangle(weights));
            if (part >= QK_STEPS) return load_panels<K_STEP, HV_TILE, DHV>(stage + LEFT_BYTES, hs, (part - QK_STEPS) * K_STEP, column);
            load_panels<CHUNK, K_STEP, DQK>(stage, ks, 0, part * K_STEP);
            load_panels<K_STEP, HV_TILE, DHV>(stage + LEFT_BYTES, place.memory(d_states), part * K_STEP, column);
        });
        for (int tile = 0; tile < HV_TILES; tile++)
        {
            Part<HV_TILE> out;
            out.clear();
            for (int step = 0; step < QK_STEPS; step++) steps.compute([&](u32 stage) { out.multiply<HV_TILE, DQK, false>(stage, step); });
            out.for_pairs([&](float* pair, int, int half) {
                pair[0] *= write[half];
                pair[1] *= write[half];
            });
            for (int step = 0; step < CHUNK_STEPS; step++)
                steps.compute([&](u32 stage) { out.multiply_transposed_triangle(group, triangle, stage, step); });
            out.store<DHV>(place.first(dv, dv_batch, dv_head, dv_token), dv_token, ks.count, tile * HV_TILE);
        }
        return;
    }

    const Rows reads = Rows{y + place.chunk * CHUNK * DQK, DQK, CHUNK};
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length), vs = place.rows(v, v_batch, v_head, v_token, length);
    constexpr int Q_STEPS = QK_TILES * CHUNK_STEPS, K_TILE_STEPS = HV_STEPS + CHUNK_STEPS, STEPS = Q_STEPS + QK_TILES * K_TILE_STEPS;
    auto steps = stream<STEPS>(stages, place.chunk, count, count, chunks, heads, [&](const Place&, int step, u32 stage) {
        const u32 right = stage + LEFT_BYTES;
        if (step == 0) load_triangle(triangle, place.triangle(gradients));
        if (step < Q_STEPS) return load_panels<K_STEP, QK_TILE, DQK>(right, ks, step % CHUNK_STEPS * K_STEP, step / CHUNK_STEPS * QK_TILE);
        step -= Q_STEPS;
        const int column = step / K_TILE_STEPS * QK_TILE, part = step % K_TILE_STEPS;
        if (part >= HV_STEPS) return load_panels<K_STEP, QK_TILE, DQK>(right, qs, (part - HV_STEPS) * K_STEP, column);
        load_panels<CHUNK, K_STEP, DHV>(stage, vs, 0, part * K_STEP);
        load_panels<QK_TILE, K_STEP, DHV>(right, place.memory(d_states), column, part * K_STEP);
    });

    float read[2], share[2], change[2];
    read_rows(read, sums + place.chunk * CHUNK + 2 * plane);
    read_rows(share, own_rows + ROW_READ * plane);
    read_rows(change, dz + place.chunk * CHUNK);
    for (int tile = 0; tile < QK_TILES; tile++)
    {
        Words<QK_TILE> words;
        float2 normalizer[QK_TILE / 8];
        words.read<DQK>(reads, tile * QK_TILE);
        read_pairs<QK_TILE, DQK>(normalizer, n ? n + place.chunk * DQK : nullptr, tile * QK_TILE);
        Part<QK_TILE> out;
        out.clear();
        for (int step = 0; step < CHUNK_STEPS; step++)
            steps.compute([&](u32 stage) { out.multiply_triangle(group, triangle, stage, step); });
        out.for_pairs([&](float* pair, int j, int half) {
            pair[0] += read[half] * words.pair(j, half).x + share[half] * change[half] * normalizer[j].x;
            pair[1] += read[half] * words.pair(j, half).y + share[half] * change[half] * normalizer[j].y;
        });
        out.store<DQK>(place.first(dq, dq_batch, dq_head, dq_token), dq_token, ks.count, tile * QK_TILE);
    }

    float write_dot[2] = {};
    for (int tile = 0; tile < QK_TILES; tile++)
    {
        Words<QK_TILE> words;
        float2 normalizer[QK_TILE / 8];
        words.read<DQK>(ks, tile * QK_TILE);
        read_pairs<QK_TILE, DQK>(normalizer, dn ? dn + place.chunk * DQK : nullptr, tile * QK_TILE);
        Part<QK_TILE> out;
        out.clear();
        for (int step = 0; step < HV_STEPS; step++) steps.compute([&](u32 stage) { out.multiply<QK_TILE, DHV, true>(stage, step); });
        out.for_pairs([&](float* pair, int j, int half) {
            pair[0] = write[half] * (pair[0] + normalizer[j].x);
            pair[1] = write[half] * (pair[1] + normalizer[j].y);
        });
        words.dot(write_dot, out);
        for (int step = 0; step < CHUNK_STEPS; step++)
            steps.compute([&](u32 stage) { out.multiply_transposed_triangle(group, triangle, stage, step); });
        out.store<DQK>(place.first(dk, dk_batch, dk_head, dk_token), dk_token, ks.count, tile * QK_TILE);
    }
    sum_rows(write_dot);
    if (threadIdx.x % 4 == 0)
    {
        k_writes[place.chunk * CHUNK + own_row(0)] = write_dot[0];
        k_writes[place.chunk * CHUNK + own_row(1)] = write_dot[1];
    }
}
