// The mLSTM's outputs: a chunk's tokens with each other, by a triangle of weights, and with the memory at the chunk's start,
//     W_ij = s (q_i . k_j) E_ij,   z_i = sum_j W_ij + read_i q_i . n,   D_i = max(|z_i|, e^-M_i) + eps,
//     h_i  = (sum_j W_ij v_j + read_i C^T q_i) / D_i                                                        (xLSTM 7B, eqs. 6 to 9)
// s = DQK^-1/2. The arrays of a number a token are those of MLstmGates.cu, C and n those of MLstmStates.cu and MLstmNormalizer.cu.
//
// A block makes a chunk of a head: first the triangle, which stays in shared memory as bfloat16, then h tile by tile of columns: the product
// with the memory, whose rows are scaled in float32, and the product with the triangle on top of it.
//
// Operations a token and head: 2 L DQK + L DHV + 2 DQK DHV. Bytes: 4 DQK + 4 DHV, and 2 DQK DHV a chunk.
#include "MLstmTiles.cuh"
#include "MLstmDecays.cuh"

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

// q, k: [B, NH, S, DQK], v, h: [B, NH, S, DHV], bf16 with strides of batch, head and token; rows: [6, B NH, NC CHUNK] as mlstm_gates makes
// them; n: [B NH, NC, DQK]; states: [B NH, NC, DQK, DHV] bf16;
// sums: [4, B NH, NC CHUNK], for the backward pass: z, 1 / D, read / D, read q . n (without a normaliser 0, 1, read, 0).
// grid (NC, NH, B), block TILE_THREADS, shared STAGES STAGE_BYTES + TRIANGLE_BYTES, or 2 if h has several tiles, + 1024.
// MLstmSequenceKernel.cs tells NORMALIZE.
KERNEL void __launch_bounds__(TILE_THREADS) mlstm_forward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token,
    const float* RESTRICT rows, const float* RESTRICT n, const bf16* RESTRICT states, float* RESTRICT sums,
    bf16* RESTRICT h, i64 h_batch, int h_head, int h_token, int length, float scale, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    unsigned char* triangle = memory + STAGES * STAGE_BYTES;
    unsigned char* staged = HV_TILES > 1 ? triangle + TRIANGLE_BYTES : triangle; // behind the last tile nothing reads the triangle
    float* row_sums = (float*)(staged + TRIANGLE_BYTES); // [2, CHUNK]
    const u32 stages = shared_address(memory);
    const Place place;
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length), ks = place.rows(k, k_batch, k_head, k_token, length);
    const Rows vs = place.rows(v, v_batch, v_head, v_token, length), before = place.memory(states);
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;

    constexpr int SCORE_STEPS = QK_WHOLE / K_STEP, MEMORY_STEPS = QK_WHOLE / K_STEP, TILE_STEPS = MEMORY_STEPS + CHUNK / K_STEP;
    auto steps = stream(SCORE_STEPS + HV_TILES * TILE_STEPS, [&](int step, int stage) {
        const u32 at = stages + stage * STAGE_BYTES;
        if (step < SCORE_STEPS) return load_pair<DQK>(at, qs, ks, step * K_STEP);
        const int tile = (step - SCORE_STEPS) / TILE_STEPS, part = (step - SCORE_STEPS) % TILE_STEPS;
        if (part < MEMORY_STEPS) load_tile<CHUNK, K_STEP, TILE_THREADS, DQK>(at, qs, 0, part * K_STEP);
        load_tile<K_STEP, HV_TILE, TILE_THREADS, DHV>(
            at + LEFT_BYTES, part < MEMORY_STEPS ? before : vs, (part < MEMORY_STEPS ? part : part - MEMORY_STEPS) * K_STEP, tile * HV_TILE);
    });

    Part<CHUNK> weights;
    weights.clear();
    for (int step = 0; step < SCORE_STEPS; step++)
    {
        const u32 stage = stages + steps.next() * STAGE_BYTES;
        if (is_below()) weights.multiply<true>(stage);
    }
    float z[2][2] = {};
    for_decays(rows, place.plane, [&](int i, int j, int e, float decay) {
        const float w = scale * weights.sum[i][j][e] * decay;
        weights.sum[i][j][e] = w;
        z[i][e / 2] += w;
    });
    stage_tile<BAND, CHUNK / 2, CHUNK>(triangle, weights, warp_row(), warp_column(CHUNK / 2));
    sum_rows(z, row_sums);

    const int row = threadIdx.x / 2;
    const float read = rows[ROW_READ * place.plane + row];
    float sum = 0.f, inverse = 1.f, from_memory = 0.f;
    if (NORMALIZE)
    {
        from_memory = read * read_normalizer(qs, n + place.chunk * DQK, row);
        sum = row_sums[row] + row_sums[CHUNK + row] + from_memory;
        inverse = 1.f / (fmaxf(fabsf(sum), rows[ROW_FLOOR * place.plane + row]) + epsilon);
    }
    __syncthreads();
    if (threadIdx.x % 2 == 0)
    {
        row_sums[row] = inverse;
        sums[row] = sum;
        sums[place.plane + row] = inverse;
        sums[2 * place.plane + row] = read * inverse;
        sums[3 * place.plane + row] = from_memory;
    }

    for (int tile = 0; tile < HV_TILES; tile++)
    {
        Part<HV_TILE> out;
        out.clear();
        for (int step = 0; step < MEMORY_STEPS; step++) out.multiply<false>(stages + steps.next() * STAGE_BYTES);
        out.for_pairs([&](float* pair, int r, int, int, int) {
            pair[0] *= rows[ROW_READ * place.plane + r];
            pair[1] *= rows[ROW_READ * place.plane + r];
        });
        for (int step = 0; step < CHUNK / K_STEP; step++)
            out.multiply_triangle(shared_address(triangle), stages + steps.next() * STAGE_BYTES, step * K_STEP);
        out.for_pairs([&](float* pair, int r, int, int, int) {
            pair[0] *= row_sums[r];
            pair[1] *= row_sums[r];
        });
        out.store<DHV>(staged, place.first(h, h_batch, h_head, h_token), h_token, qs.count, tile * HV_TILE);
    }
}
