// The mLSTM's outputs: a chunk's tokens with each other, by a triangle of weights, and with the memory at the chunk's start,
//     W_ij = s (q_i . k_j) E_ij,   z_i = sum_j W_ij + read_i q_i . n,   D_i = max(|z_i|, e^-M_i) + eps,
//     h_i  = (sum_j W_ij v_j + read_i C^T q_i) / D_i                                                        (xLSTM 7B, eqs. 6 to 9)
// s = DQK^-1/2. The arrays of a number a token are those of MLstmGates.cu, C and n those of MLstmStates.cu.
//
// A block makes a chunk of a head: first the triangle, which stays in registers as bfloat16, then h tile by tile of columns: the product
// with the memory, whose rows are scaled in float32, and the product with the triangle on top of it.
//
// Operations a token and head: 2 L DQK + L DHV + 2 DQK DHV. Bytes: 4 DQK + 4 DHV, and 2 DQK DHV a chunk.
#include "MLstmProducts.cuh"

static_assert(TILE_ROWS == CHUNK, "a block has a chunk");

// q . n of the thread's rows.
DEVICE void read_normalizer(float (&dot)[2], Rows q, const float* RESTRICT n)
{
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        if (own_row(half) >= q.count) continue;
        const bf16* from = q.data + own_row(half) * q.stride;
#pragma unroll 4
        for (int d = threadIdx.x % 4 * 8; d < DQK; d += 32)
        {
            float x[8];
            unpack_bf16x8(x, *(const uint4*)(from + d));
            const float4 low = *(const float4*)(n + d), high = *(const float4*)(n + d + 4);
            dot[half] += x[0] * low.x + x[1] * low.y + x[2] * low.z + x[3] * low.w;
            dot[half] += x[4] * high.x + x[5] * high.y + x[6] * high.z + x[7] * high.w;
        }
    }
    sum_rows(dot);
}

// q, k: [B, NH, S, DQK], v, h: [B, NH, S, DHV], bf16 with strides of batch, head and token; rows: [6, B NH, NC CHUNK] as mlstm_gates makes
// them; n: [B NH, NC, DQK]; states: [B NH, NC, DQK, DHV] bf16;
// sums: [4, B NH, NC CHUNK], for the backward pass: z, 1 / D, read / D, read q . n (without a normaliser 0, 1, read, 0).
// grid of any number of blocks, block TILE_THREADS, shared STAGES STAGE_BYTES + 8 CHUNK.
// MLstmSequenceKernel.cs tells NORMALIZE.
KERNEL void __launch_bounds__(TILE_THREADS, 1) mlstm_forward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token,
    const float* RESTRICT rows, const float* RESTRICT n, const bf16* RESTRICT states, float* RESTRICT sums,
    bf16* RESTRICT h, i64 h_batch, int h_head, int h_token, int length, int heads, int batch, float scale, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    float* exponents = (float*)(memory + STAGES * STAGE_BYTES); // [2, CHUNK], of every other chunk of the block
    const int chunks = (length + CHUNK - 1) / CHUNK, count = chunks * heads * batch;
    const int group = own_group();
    int next = 0, current = 0;
    constexpr int TILE_STEPS = QK_STEPS + CHUNK_STEPS, STEPS = QK_STEPS + HV_TILES * TILE_STEPS;
    auto steps = stream<STEPS>(
        shared_address(memory), blockIdx.x, gridDim.x, count, chunks, heads, [&](const Place& place, int step, u32 stage) {
            const Rows qs = place.rows(q, q_batch, q_head, q_token, length);
            if (step == 0)
            {
                load_exponents(exponents + next * CHUNK, rows + place.chunk * CHUNK, place.plane);
                next ^= 1;
            }
            if (step < QK_STEPS) return load_pair<DQK>(stage, qs, place.rows(k, k_batch, k_head, k_token, length), step * K_STEP);
            const int column = (step - QK_STEPS) / TILE_STEPS * HV_TILE, part = (step - QK_STEPS) % TILE_STEPS;
            if (part < QK_STEPS)
            {
                load_panels<CHUNK, K_STEP, DQK>(stage, qs, 0, part * K_STEP);
                load_panels<K_STEP, HV_TILE, DHV>(stage + LEFT_BYTES, place.memory(states), part * K_STEP, column);
            }
            else
            {
                const Rows vs = place.rows(v, v_batch, v_head, v_token, length);
                load_panels<K_STEP, HV_TILE, DHV>(stage + LEFT_BYTES, vs, (part - QK_STEPS) * K_STEP, column);
            }
        });

    for (int number = blockIdx.x; number < count; number += gridDim.x)
    {
        const Place place(number, count, chunks, heads);
        const Rows qs = place.rows(q, q_batch, q_head, q_token, length);
        const float* own_rows = rows + place.chunk * CHUNK;
        const Decays decays(own_rows, place.plane);
        float z[2] = {}, read[2], floor[2], from_memory[2] = {}, inverse[2] = {1.f, 1.f};
        read_rows(read, own_rows + ROW_READ * place.plane);
        read_rows(floor, own_rows + ROW_FLOOR * place.plane);
        if (NORMALIZE) read_normalizer(from_memory, qs, n + place.chunk * DQK);

        Part<CHUNK> weights;
        weights.clear();
        for (int step = 0; step < QK_STEPS; step++) steps.compute([&](u32 stage) { weights.multiply_pair<DQK>(group, stage, step); });
        decays.for_all(group, exponents + current * CHUNK, [&](int j, const float (&decays)[4], int) {
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                weights.sum[j][e] *= scale * decays[e];
                z[e / 2] += weights.sum[j][e];
            }
        });
        u32 left[CHUNK / 16][4]; // W as an operand; the first rows have half of it
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++)
#pragma unroll
            for (int part = 0; part < 4; part++)
                left[k][part] = pack_bf16(weights.sum[2 * k + part / 2][part % 2 * 2], weights.sum[2 * k + part / 2][part % 2 * 2 + 1]);

        sum_rows(z);
        current ^= 1;
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            from_memory[half] *= read[half];
            if (NORMALIZE)
            {
                z[half] += from_memory[half];
                inverse[half] = 1.f / (fmaxf(fabsf(z[half]), floor[half]) + epsilon);
            }
            if (threadIdx.x % 4 == 0)
            {
                float* sum = sums + place.chunk * CHUNK + own_row(half);
                sum[0] = NORMALIZE ? z[half] : 0.f;
                sum[place.plane] = inverse[half];
                sum[2 * place.plane] = read[half] * inverse[half];
                sum[3 * place.plane] = from_memory[half];
            }
        }

        for (int tile = 0; tile < HV_TILES; tile++)
        {
            Part<HV_TILE> out;
            out.clear();
            for (int step = 0; step < QK_STEPS; step++) steps.compute([&](u32 stage) { out.multiply<HV_TILE, DQK, false>(stage, step); });
            out.for_pairs([&](float* pair, int, int half) {
                pair[0] *= read[half];
                pair[1] *= read[half];
            });
#pragma unroll
            for (int step = 0; step < CHUNK_STEPS; step++)
            {
                steps.compute([&](u32 stage) {
                    if (step > group) return;
                    group_begin();
#pragma unroll
                    for (int k = 0; k < K_STEP; k += 16)
                        out.multiply_16<HV_TILE, false>(left[(step * K_STEP + k) / 16], stage + LEFT_BYTES + 128 * k, PANEL_BYTES(K_STEP));
                });
            }
            out.store<DHV>(place.first(h, h_batch, h_head, h_token), h_token, qs.count, tile * HV_TILE, inverse);
        }
    }
}
