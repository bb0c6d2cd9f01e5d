// What the tokens of a chunk are to each other in the mLSTM: a triangle of L x L weights a chunk, and its gradient.
//     forward    W_ij = s (q_i . k_j) E_ij,   z_i = sum_j W_ij + read_i q_i . n,   D_i = max(|z_i|, e^-M_i) + eps      (xLSTM 7B, eq. 9)
//     backward   G_ij = s E_ij ((dh_i . v_j) / D_i + dz_i),   dz_i = -(dh_i . h_i) / D_i sign(z_i) where |z_i| > e^-M_i
// where dh_i . h_i = (sum_j W_ij (dh_i . v_j) + read_i q_i . C dh_i) / D_i comes from float32 sums: h as bfloat16 would cost digits.
//
// A block makes a chunk's triangle: products on tensor cores, E in registers, W (in the backward W / D) and G as bfloat16 to memory,
// from where the products of MLstmProducts.cu read them. What lies above the diagonal is written as zero.
//
// Operations a token and head: 2 L DQK forward, 2 L (DQK + DHV) backward. Bytes: 4 DQK + 2 L forward; 4 DQK + 4 DHV + 4 L backward.
#include "MLstmTiles.cuh"

#define STAGE_BYTES (2 * CHUNK * PITCH(K_STEP))
#define TILE_BYTES (CHUNK * PITCH(CHUNK))
#define WIDTH (CHUNK / 2) // of a warp's part

// Whether the warp has anything on or below the diagonal.
DEVICE bool is_below() { return warp_column(WIDTH) < warp_row() + BAND; }

DEVICE void load_pair(u32 stage, Rows left, Rows right, int column)
{
    load_tile<CHUNK, K_STEP, TILE_THREADS>(stage, left, 0, column);
    load_tile<CHUNK, K_STEP, TILE_THREADS>(stage + CHUNK * PITCH(K_STEP), right, 0, column);
}

DEVICE void multiply_pair(Sums<BAND, WIDTH>& sums, u32 stage)
{
#pragma unroll
    for (int k = 0; k < K_STEP; k += 16)
        multiply_16<BAND, WIDTH, K_STEP, false, K_STEP, true>(sums, stage, stage + CHUNK * PITCH(K_STEP), warp_row(), warp_column(WIDTH), k);
}

// E_ij of the warp's elements: f(i, j, e, E), i, j, e the indices of Sums.
template <class F>
DEVICE void for_decays(const float* rows, i64 plane, F f)
{
    const int lane = threadIdx.x % 32;
    float p[2][2];
    int start[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = warp_row() + 16 * i + 8 * half + lane / 4;
            p[i][half] = rows[ROW_P * plane + row];
            start[i][half] = (int)rows[ROW_START * plane + row];
        }
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
    {
        const int column = warp_column(WIDTH) + 8 * j + lane % 4 * 2;
        const float2 u = *(const float2*)(rows + ROW_U * plane + column);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const int row = warp_row() + 16 * i + e / 2 * 8 + lane / 4, key = column + e % 2;
                const bool sees = key <= row && key >= start[i][e / 2];
                f(i, j, e, sees ? exp2_fast((e % 2 ? u.y : u.x) - p[i][e / 2]) : 0.f);
            }
    }
}

// q . n of a row, by two neighbouring threads.
DEVICE float read_normalizer(Rows q, const float* RESTRICT n, int row)
{
    const int half = threadIdx.x % 2;
    float sum = 0.f;
    if (row < q.count)
    {
        const bf16* from = q.data + row * q.stride;
#pragma unroll 4
        for (int d = half * 8; d < DQK; d += 16)
        {
            float x[8];
            unpack_bf16x8(x, *(const uint4*)(from + d));
            const float4 low = *(const float4*)(n + d), high = *(const float4*)(n + d + 4);
            sum += x[0] * low.x + x[1] * low.y + x[2] * low.z + x[3] * low.w;
            sum += x[4] * high.x + x[5] * high.y + x[6] * high.z + x[7] * high.w;
        }
    }
    return sum + __shfl_xor_sync(FULL_WARP, sum, 1);
}

// q, k: [B, NH, S, DQK] bf16 with strides; rows: as mlstm_gates makes them; n: [B NH, NC, DQK] before each chunk;
// weights: [B NH, NC, CHUNK, CHUNK] bf16; sums: [4, B NH, NC CHUNK]: z, 1 / D, read / D, read q . n (without a normaliser 0, 1, read, 0).
// grid (NC, NH, B), block 256, shared max(STAGES STAGE_BYTES, TILE_BYTES) + 1024.
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_scores(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const float* RESTRICT rows, const float* RESTRICT n, bf16* RESTRICT weights, float* RESTRICT sums, int length, float scale, float epsilon)
{
    SHARED_MEMORY(memory);
    float* shared_sums = (float*)(memory + (STAGES * STAGE_BYTES > TILE_BYTES ? STAGES * STAGE_BYTES : TILE_BYTES));
    const u32 stages = shared_address(memory);
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y, chunk = head * gridDim.x + blockIdx.x;
    const i64 plane = (i64)gridDim.x * gridDim.y * gridDim.z * CHUNK;
    const Rows qs = rows_of(q, q_batch, q_head, q_token, blockIdx.x, length), ks = rows_of(k, k_batch, k_head, k_token, blockIdx.x, length);
    rows += chunk * CHUNK;
    sums += chunk * CHUNK;

    Sums<BAND, WIDTH> scores;
    scores.clear();
    pipeline(
        DQK / K_STEP, [&](int step, int stage) { load_pair(stages + stage * STAGE_BYTES, qs, ks, step * K_STEP); },
        [&](int, int stage) {
            if (is_below()) multiply_pair(scores, stages + stage * STAGE_BYTES);
        });

    float z[2][2] = {};
    for_decays(rows, plane, [&](int i, int j, int e, float decay) {
        const float w = scale * scores.sum[i][j][e] * decay;
        scores.sum[i][j][e] = w;
        z[i][e / 2] += w;
    });
    stage_tile<BAND, WIDTH, CHUNK>(memory, scores, warp_row(), warp_column(WIDTH));
    if (NORMALIZE) sum_rows(z, shared_sums);
    else __syncthreads();
    store_tile<CHUNK, CHUNK, TILE_THREADS>(weights + chunk * CHUNK * CHUNK, CHUNK, memory, CHUNK);

    const int row = threadIdx.x / 2;
    const float read = rows[ROW_READ * plane + row];
    float sum = 0.f, inverse = 1.f, from_memory = 0.f;
    if (NORMALIZE)
    {
        from_memory = read * read_normalizer(qs, n + chunk * DQK, row);
        sum = shared_sums[row] + shared_sums[CHUNK + row] + from_memory;
        inverse = 1.f / (fmaxf(fabsf(sum), rows[ROW_FLOOR * plane + row]) + epsilon);
    }
    if (threadIdx.x % 2 == 0)
    {
        sums[row] = sum;
        sums[plane + row] = inverse;
        sums[2 * plane + row] = read * inverse;
        sums[3 * plane + row] = from_memory;
    }
}

// A number a column and thread, summed over a tile's rows: x[j][b] is of column warp_column + 8 j + 2 (lane % 4) + b; left in `shared`,
// a part for each band, [4, CHUNK].
DEVICE void sum_columns(const float (&x)[WIDTH / 8][2], float* shared)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int b = 0; b < 2; b++)
        {
            float sum = x[j][b];
#pragma unroll
            for (int o = 4; o < 32; o <<= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
            if (lane < 4) shared[warp_row() / BAND * CHUNK + warp_column(WIDTH) + 8 * j + 2 * lane + b] = sum;
        }
}

// v, dh: [B, NH, S, DHV]; sums: as mlstm_scores made them; q_reads: the parts of q . C dh, [parts, B NH, NC CHUNK]; with `exact` gradients
// pass the denominator, else it counts as a constant. weights: W / D, gradients: G, [B NH, NC, CHUNK, CHUNK] bf16; dz: [B NH, NC CHUNK].
// dots: [3, B NH, NC CHUNK]: q . dq without the token's own share, what the chunk's later tokens add to k . dk, and the token's own share
// of both, which the forget gates' gradients do not need: as it is the largest by far when little is remembered, it would cost them digits.
// grid (NC, NH, B), block 256, shared max(STAGES STAGE_BYTES, 2 TILE_BYTES) + 3072.
KERNEL void __launch_bounds__(TILE_THREADS) mlstm_scores_backward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const float* RESTRICT q_reads, int parts, int exact,
    bf16* RESTRICT weights, bf16* RESTRICT gradients, float* RESTRICT dz, float* RESTRICT dots, int length, float scale)
{
    SHARED_MEMORY(memory);
    float* shared_sums = (float*)(memory + (STAGES * STAGE_BYTES > 2 * TILE_BYTES ? STAGES * STAGE_BYTES : 2 * TILE_BYTES));
    const u32 stages = shared_address(memory);
    const int lane = threadIdx.x % 32;
    const i64 head = (i64)blockIdx.z * gridDim.y + blockIdx.y, chunk = head * gridDim.x + blockIdx.x;
    const i64 plane = (i64)gridDim.x * gridDim.y * gridDim.z * CHUNK;
    const Rows qs = rows_of(q, q_batch, q_head, q_token, blockIdx.x, length), ks = rows_of(k, k_batch, k_head, k_token, blockIdx.x, length);
    const Rows vs = rows_of(v, v_batch, v_head, v_token, blockIdx.x, length), hs = rows_of(dh, dh_batch, dh_head, dh_token, blockIdx.x, length);
    rows += chunk * CHUNK;
    sums += chunk * CHUNK;

    Sums<BAND, WIDTH> scores, products; // q . k, dh . v
    scores.clear();
    products.clear();
    pipeline(
        (DQK + DHV) / K_STEP,
        [&](int step, int stage) {
            if (step < DQK / K_STEP) load_pair(stages + stage * STAGE_BYTES, qs, ks, step * K_STEP);
            else load_pair(stages + stage * STAGE_BYTES, hs, vs, step * K_STEP - DQK);
        },
        [&](int step, int stage) {
            if (!is_below()) return;
            if (step < DQK / K_STEP) multiply_pair(scores, stages + stage * STAGE_BYTES);
            else multiply_pair(products, stages + stage * STAGE_BYTES);
        });

    float inverse[2][2], change[2][2] = {}; // 1 / D, dh . h
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) inverse[i][half] = sums[plane + warp_row() + 16 * i + 8 * half + lane / 4];
    Sums<BAND, WIDTH> weighted, divided; // W, W / D
    for_decays(rows, plane, [&](int i, int j, int e, float decay) {
        const float w = scale * scores.sum[i][j][e] * decay;
        divided.sum[i][j][e] = w * inverse[i][e / 2];
        change[i][e / 2] += divided.sum[i][j][e] * products.sum[i][j][e];
        weighted.sum[i][j][e] = w;
        scores.sum[i][j][e] = scale * decay;
    });
    stage_tile<BAND, WIDTH, CHUNK>(memory, divided, warp_row(), warp_column(WIDTH));
    sum_rows(change, shared_sums);

    float d_sum[2][2] = {}, read_dot[2][2]; // dz, the memory's share of q . dq
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = warp_row() + 16 * i + 8 * half + lane / 4;
            float read = 0.f;
            for (int part = 0; part < parts; part++) read += q_reads[part * plane + chunk * CHUNK + row];
            read *= sums[2 * plane + row];
            const float z = sums[row];
            if (exact && fabsf(z) > rows[ROW_FLOOR * plane + row])
                d_sum[i][half] = -(change[i][half] + read) * inverse[i][half] * copysignf(1.f, z);
            read_dot[i][half] = read + d_sum[i][half] * sums[3 * plane + row];
            if (warp_column(WIDTH) == 0 && lane % 4 == 0) dz[chunk * CHUNK + row] = d_sum[i][half];
        }

    // G_ij (q_i . k_j) = W_ij ((dh_i . v_j) / D_i + dz_i), by rows and columns, without the diagonal.
    float row_dot[2][2] = {}, column_dot[WIDTH / 8][2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const int row = warp_row() + 16 * i + e / 2 * 8 + lane / 4, key = warp_column(WIDTH) + 8 * j + lane % 4 * 2 + e % 2;
                const float gradient = inverse[i][e / 2] * products.sum[i][j][e] + d_sum[i][e / 2];
                const float dot = weighted.sum[i][j][e] * gradient;
                if (key == row) shared_sums[4 * CHUNK + row] = dot;
                row_dot[i][e / 2] += key == row ? 0.f : dot;
                column_dot[j][e % 2] += key == row ? 0.f : dot;
                products.sum[i][j][e] = scores.sum[i][j][e] * gradient;
            }
    stage_tile<BAND, WIDTH, CHUNK>(memory + TILE_BYTES, products, warp_row(), warp_column(WIDTH));
    sum_rows(row_dot, shared_sums);
    sum_columns(column_dot, shared_sums);
    __syncthreads();
    store_tile<CHUNK, CHUNK, TILE_THREADS>(weights + chunk * CHUNK * CHUNK, CHUNK, memory, CHUNK);
    store_tile<CHUNK, CHUNK, TILE_THREADS>(gradients + chunk * CHUNK * CHUNK, CHUNK, memory + TILE_BYTES, CHUNK);
    dots += chunk * CHUNK;
    if (warp_column(WIDTH) == 0 && lane % 4 == 0)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) dots[warp_row() + 16 * i + 8 * half + lane / 4] = read_dot[i][half] + row_dot[i][half];
    }
    if (threadIdx.x < CHUNK)
    {
        float sum = 0.f;
        for (int band = 0; band < 4; band++) sum += shared_sums[band * CHUNK + threadIdx.x];
        dots[plane + threadIdx.x] = sum;
        dots[2 * plane + threadIdx.x] = shared_sums[4 * CHUNK + threadIdx.x];
    }
}
