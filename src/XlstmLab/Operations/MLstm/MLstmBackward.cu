// The mLSTM's gradients, chunk by chunk. With W, E, read, write and D as in MLstmForward.cu, C, n the memory and normaliser before the chunk,
// dC', dn' their gradients behind it, and s = DQK^-1/2:
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
// A block makes a chunk of a head. Operations a token and head: 2 L (DQK + DHV) + 2 DQK DHV, then L (2 DQK + DHV) + 4 DQK DHV, as half of a
// triangle is left out. Bytes: 6 DQK + 4 DHV + 4 L, and 2 DQK DHV a chunk; then 10 DQK + 6 DHV + 4 L, and 2 DQK DHV a chunk.
#include "MLstmTiles.cuh"
#include "MLstmDecays.cuh"

// A number a column and thread, summed over a tile's rows: x[j][b] is of column warp_column + 8 j + 2 (lane % 4) + b; left in `shared`,
// a part for each band, [4, CHUNK].
DEVICE void sum_columns(const float (&x)[CHUNK / 16][2], float* shared)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < CHUNK / 16; j++)
#pragma unroll
        for (int b = 0; b < 2; b++)
        {
            float sum = x[j][b];
#pragma unroll
            for (int o = 4; o < 32; o <<= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
            if (lane < 4) shared[warp_row() / BAND * CHUNK + warp_column(CHUNK / 2) + 8 * j + 2 * lane + b] = sum;
        }
}

// Activations: bf16 with strides of batch, head and token, q, k: [B, NH, S, DQK], v, dh: [B, NH, S, DHV]; rows: [6, B NH, NC CHUNK] as
// mlstm_gates makes them; sums: [4, B NH, NC CHUNK] as mlstm_forward makes them; states: [B NH, NC, DQK, DHV] bf16, before each chunk.
// With `exact`, gradients pass the denominator, else it counts as a constant and `epsilon` is 0.
// y: [B NH, NC CHUNK, DQK] bf16; weights: W / D, gradients: G, [B NH, NC, CHUNK, CHUNK] bf16; dz: [B NH, NC CHUNK];
// dots: [4, B NH, NC CHUNK]: q . dq without the token's own share, what the chunk's later tokens add to k . dk, the token's own share of
// both, which the forget gates' gradients do not need: as it is the largest by far when little is remembered, it would cost them digits;
// and dM.
// grid (NC, NH, B), block TILE_THREADS, shared STAGES STAGE_BYTES + 2 TRIANGLE_BYTES + 3072.
KERNEL void __launch_bounds__(TILE_THREADS) mlstm_backward_scores(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT states, int exact,
    bf16* RESTRICT y, bf16* RESTRICT weights, bf16* RESTRICT gradients, float* RESTRICT dz, float* RESTRICT dots, int length, float scale,
    float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    unsigned char* staged = memory + STAGES * STAGE_BYTES;
    float* shared_sums = (float*)(staged + 2 * TRIANGLE_BYTES); // [6, CHUNK]
    const u32 stages = shared_address(memory);
    const int lane = threadIdx.x % 32;
    const Place place;
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length), ks = place.rows(k, k_batch, k_head, k_token, length);
    const Rows vs = place.rows(v, v_batch, v_head, v_token, length), hs = place.rows(dh, dh_batch, dh_head, dh_token, length);
    const Rows before = place.memory(states);
    const i64 plane = place.plane;
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;
    dz += place.chunk * CHUNK;
    dots += place.chunk * CHUNK;

    constexpr int QK_STEPS = QK_WHOLE / K_STEP, HV_STEPS = HV_WHOLE / K_STEP;
    auto steps = stream((QK_TILES + 1) * HV_STEPS + QK_STEPS, [&](int step, int stage) {
        const u32 at = stages + stage * STAGE_BYTES;
        const int column = step % HV_STEPS * K_STEP, score = step - QK_TILES * HV_STEPS;
        if (score < 0)
        {
            load_tile<CHUNK, K_STEP, TILE_THREADS, DHV>(at, hs, 0, column);
            load_tile<QK_TILE, K_STEP, TILE_THREADS, DHV>(at + LEFT_BYTES, before, step / HV_STEPS * QK_TILE, column);
        }
        else if (score < QK_STEPS) load_pair<DQK>(at, qs, ks, score * K_STEP);
        else load_pair<DHV>(at, hs, vs, (score - QK_STEPS) * K_STEP);
    });

    float read[2][2] = {}; // q . y
    for (int tile = 0; tile < QK_TILES; tile++)
    {
        Part<QK_TILE> part;
        part.clear();
        for (int step = 0; step < HV_STEPS; step++) part.multiply<true>(stages + steps.next() * STAGE_BYTES);
        part.for_pairs([&](float* pair, int row, int c, int i, int half) { read[i][half] += dot_pair(pair, qs, row, tile * QK_TILE + c); });
        part.store<DQK>(staged, y + place.chunk * CHUNK * DQK, DQK, CHUNK, tile * QK_TILE);
    }

    Part<CHUNK> scores, products; // q . k, dh . v
    scores.clear();
    products.clear();
    for (int step = 0; step < QK_STEPS; step++)
    {
        const u32 stage = stages + steps.next() * STAGE_BYTES;
        if (is_below()) scores.multiply<true>(stage);
    }
    for (int step = 0; step < HV_STEPS; step++)
    {
        const u32 stage = stages + steps.next() * STAGE_BYTES;
        if (is_below()) products.multiply<true>(stage);
    }

    float inverse[2][2], change[2][2] = {}; // 1 / D, dh . h
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) inverse[i][half] = sums[plane + warp_row() + 16 * i + 8 * half + lane / 4];
    Part<CHUNK> weighted, divided; // W, W / D
    for_decays(rows, plane, [&](int i, int j, int e, float decay) {
        const float w = scale * scores.sum[i][j][e] * decay;
        divided.sum[i][j][e] = w * inverse[i][e / 2];
        change[i][e / 2] += divided.sum[i][j][e] * products.sum[i][j][e];
        weighted.sum[i][j][e] = w;
        scores.sum[i][j][e] = scale * decay;
    });
    __syncthreads();
    stage_tile<BAND, CHUNK / 2, CHUNK>(staged, divided, warp_row(), warp_column(CHUNK / 2));
    sum_rows(change, shared_sums);
    sum_rows(read, shared_sums);

    float d_sum[2][2] = {}; // dz
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = warp_row() + 16 * i + 8 * half + lane / 4;
            const float z = sums[row], from_memory = sums[2 * plane + row] * read[i][half];
            const float d_denominator = -(change[i][half] + from_memory) * inverse[i][half];
            if (exact && fabsf(z) > rows[ROW_FLOOR * plane + row]) d_sum[i][half] = d_denominator * copysignf(1.f, z);
            read[i][half] = from_memory + d_sum[i][half] * sums[3 * plane + row];
            if (warp_column(1) == 0 && lane % 4 == 0)
            {
                dz[row] = d_sum[i][half];
                dots[3 * plane + row] = d_denominator * epsilon;
            }
        }

    // G_ij (q_i . k_j) = W_ij ((dh_i . v_j) / D_i + dz_i), by rows and columns, without the diagonal.
    float row_dot[2][2] = {}, column_dot[CHUNK / 16][2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < CHUNK / 16; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const int row = warp_row() + 16 * i + e / 2 * 8 + lane / 4, key = warp_column(CHUNK / 2) + 8 * j + lane % 4 * 2 + e % 2;
                const float gradient = inverse[i][e / 2] * products.sum[i][j][e] + d_sum[i][e / 2];
                const float dot = weighted.sum[i][j][e] * gradient;
                if (key == row) shared_sums[4 * CHUNK + row] = dot;
                row_dot[i][e / 2] += key == row ? 0.f : dot;
                column_dot[j][e % 2] += key == row ? 0.f : dot;
                products.sum[i][j][e] = scores.sum[i][j][e] * gradient;
            }
    stage_tile<BAND, CHUNK / 2, CHUNK>(staged + TRIANGLE_BYTES, products, warp_row(), warp_column(CHUNK / 2));
    sum_rows(row_dot, shared_sums);
    sum_columns(column_dot, shared_sums);
    __syncthreads();
    store_tile<CHUNK, CHUNK, TILE_THREADS, CHUNK>(weights + place.chunk * CHUNK * CHUNK, CHUNK, staged, CHUNK, 0);
    store_tile<CHUNK, CHUNK, TILE_THREADS, CHUNK>(gradients + place.chunk * CHUNK * CHUNK, CHUNK, staged + TRIANGLE_BYTES, CHUNK, 0);
    if (warp_column(1) == 0 && lane % 4 == 0)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) dots[warp_row() + 16 * i + 8 * half + lane / 4] = read[i][half] + row_dot[i][half];
    }
    if (threadIdx.x < CHUNK)
    {
        float sum = 0.f;
        for (int band = 0; band < 4; band++) sum += shared_sums[band * CHUNK + threadIdx.x];
        dots[plane + threadIdx.x] = sum;
        dots[2 * plane + threadIdx.x] = shared_sums[4 * CHUNK + threadIdx.x];
    }
}

// Arguments as above; n: [B NH, NC, DQK] before each chunk, null if dz counts for nothing; d_states, dn: behind each chunk, dn or null.
// dq, dk, dv: bf16 with strides; k_writes: [B NH, NC CHUNK], the memory's share of k . dk.
// grid (NC, NH, B), block TILE_THREADS, shared STAGES STAGE_BYTES + 3 TRIANGLE_BYTES + 1024.
KERNEL void __launch_bounds__(TILE_THREADS) mlstm_backward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT y, const bf16* RESTRICT weights,
    const bf16* RESTRICT gradients, const float* RESTRICT n, const float* RESTRICT dz, const bf16* RESTRICT d_states, const float* RESTRICT dn,
    bf16* RESTRICT dq, i64 dq_batch, int dq_head, int dq_token, bf16* RESTRICT dk, i64 dk_batch, int dk_head, int dk_token,
    bf16* RESTRICT dv, i64 dv_batch, int dv_head, int dv_token, float* RESTRICT k_writes, int length)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    unsigned char* triangles = memory + STAGES * STAGE_BYTES;
    unsigned char* staged = triangles + 2 * TRIANGLE_BYTES;
    float* shared_sums = (float*)(staged + TRIANGLE_BYTES); // [2, CHUNK]
    const u32 stages = shared_address(memory), weight_triangle = shared_address(triangles), gradient_triangle = weight_triangle + TRIANGLE_BYTES;
    const Place place;
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length), ks = place.rows(k, k_batch, k_head, k_token, length);
    const Rows vs = place.rows(v, v_batch, v_head, v_token, length), hs = place.rows(dh, dh_batch, dh_head, dh_token, length);
    const Rows behind = place.memory(d_states), reads = Rows{y + place.chunk * CHUNK * DQK, DQK, CHUNK};
    const i64 plane = place.plane;
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;

    constexpr int QK_STEPS = QK_WHOLE / K_STEP, HV_STEPS = HV_WHOLE / K_STEP, CHUNK_STEPS = CHUNK / K_STEP;
    constexpr int Q_STEPS = QK_TILES * CHUNK_STEPS, K_TILE_STEPS = HV_STEPS + CHUNK_STEPS, K_STEPS = QK_TILES * K_TILE_STEPS;
    constexpr int V_TILE_STEPS = QK_STEPS + CHUNK_STEPS, V_STEPS = HV_TILES * V_TILE_STEPS;
    auto steps = stream(Q_STEPS + K_STEPS + V_STEPS, [&](int step, int stage) {
        const u32 left = stages + stage * STAGE_BYTES, right = left + LEFT_BYTES;
        if (step == 0)
        {
            load_tile<CHUNK, CHUNK, TILE_THREADS, CHUNK>(gradient_triangle, place.triangle(gradients), 0, 0);
            load_tile<CHUNK, CHUNK, TILE_THREADS, CHUNK>(weight_triangle, place.triangle(weights), 0, 0);
        }
        if (step < Q_STEPS)
            return load_tile<K_STEP, QK_TILE, TILE_THREADS, DQK>(right, ks, step % CHUNK_STEPS * K_STEP, step / CHUNK_STEPS * QK_TILE);
        step -= Q_STEPS;
        if (step < K_STEPS)
        {
            const int column = step / K_TILE_STEPS * QK_TILE, part = step % K_TILE_STEPS;
            if (part >= HV_STEPS) return load_tile<K_STEP, QK_TILE, TILE_THREADS, DQK>(right, qs, (part - HV_STEPS) * K_STEP, column);
            load_tile<CHUNK, K_STEP, TILE_THREADS, DHV>(left, vs, 0, part * K_STEP);
            return load_tile<QK_TILE, K_STEP, TILE_THREADS, DHV>(right, behind, column, part * K_STEP);
        }
        step -= K_STEPS;
        const int column = step / V_TILE_STEPS * HV_TILE, part = step % V_TILE_STEPS;
        if (part >= QK_STEPS) return load_tile<K_STEP, HV_TILE, TILE_THREADS, DHV>(right, hs, (part - QK_STEPS) * K_STEP, column);
        load_tile<CHUNK, K_STEP, TILE_THREADS, DQK>(left, ks, 0, part * K_STEP);
        load_tile<K_STEP, HV_TILE, TILE_THREADS, DHV>(right, behind, part * K_STEP, column);
    });

    for (int tile = 0; tile < QK_TILES; tile++)
    {
        Part<QK_TILE> out;
        out.clear();
        for (int step = 0; step < CHUNK_STEPS; step++) out.multiply_triangle(gradient_triangle, stages + steps.next() * STAGE_BYTES, step * K_STEP);
        out.for_pairs([&](float* pair, int row, int c, int, int) {
            if (!has_column<DQK, QK_TILE>(tile * QK_TILE + c)) return;
            const u32 word = *(const u32*)(reads.data + row * reads.stride + tile * QK_TILE + c);
            const float weight = sums[2 * plane + row];
            pair[0] += weight * low_bf16(word);
            pair[1] += weight * high_bf16(word);
            if (n)
            {
                const float share = rows[ROW_READ * plane + row] * dz[place.chunk * CHUNK + row];
                const float2 normalizer = *(const float2*)(n + place.chunk * DQK + tile * QK_TILE + c);
                pair[0] += share * normalizer.x;
                pair[1] += share * normalizer.y;
            }
        });
        out.store<DQK>(staged, place.first(dq, dq_batch, dq_head, dq_token), dq_token, qs.count, tile * QK_TILE);
    }

    float write_dot[2][2] = {};
    for (int tile = 0; tile < QK_TILES; tile++)
    {
        Part<QK_TILE> out;
        out.clear();
        for (int step = 0; step < HV_STEPS; step++) out.multiply<true>(stages + steps.next() * STAGE_BYTES);
        out.for_pairs([&](float* pair, int row, int c, int i, int half) {
            if (!has_column<DQK, QK_TILE>(tile * QK_TILE + c)) return;
            const float write = rows[ROW_WRITE * plane + row];
            const float2 normalizer = dn ? *(const float2*)(dn + place.chunk * DQK + tile * QK_TILE + c) : make_float2(0.f, 0.f);
            pair[0] = write * (pair[0] + normalizer.x);
            pair[1] = write * (pair[1] + normalizer.y);
            write_dot[i][half] += dot_pair(pair, ks, row, tile * QK_TILE + c);
        });
        for (int step = 0; step < CHUNK_STEPS; step++)
            out.multiply_transposed_triangle(gradient_triangle, stages + steps.next() * STAGE_BYTES, step * K_STEP);
        out.store<DQK>(staged, place.first(dk, dk_batch, dk_head, dk_token), dk_token, qs.count, tile * QK_TILE);
    }
    sum_rows(write_dot, shared_sums);
    if (threadIdx.x < CHUNK) k_writes[place.chunk * CHUNK + threadIdx.x] = shared_sums[threadIdx.x] + shared_sums[CHUNK + threadIdx.x];

    for (int tile = 0; tile < HV_TILES; tile++)
    {
        Part<HV_TILE> out;
        out.clear();
        for (int step = 0; step < QK_STEPS; step++) out.multiply<false>(stages + steps.next() * STAGE_BYTES);
        out.for_pairs([&](float* pair, int row, int, int, int) {
            pair[0] *= rows[ROW_WRITE * plane + row];
            pair[1] *= rows[ROW_WRITE * plane + row];
        });
        for (int step = 0; step < CHUNK_STEPS; step++)
            out.multiply_transposed_triangle(weight_triangle, stages + steps.next() * STAGE_BYTES, step * K_STEP);
        out.store<DHV>(staged, place.first(dv, dv_batch, dv_head, dv_token), dv_token, qs.count, tile * HV_TILE);
    }
}
