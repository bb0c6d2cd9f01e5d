// y and the triangles of the mLSTM's backward pass; MLstmBackward.cu has the equations.
#include "MLstmProducts.cuh"

static_assert(TILE_ROWS == CHUNK, "a block has a chunk");

// What a thread keeps of a triangle in shared memory, four numbers at a time, and alone reads: the first rows have half of it.
// MLstmSequenceKernel.cs tells KEPT_BYTES.
static_assert(KEPT_BYTES == CHUNK * CHUNK * 3, "float32");

DEVICE float4* kept_at(unsigned char* kept, int j)
{
    return (float4*)kept + (threadIdx.x / 128 * CHUNK / 16 + j) * 128 + threadIdx.x % 128;
}

// Activations: bf16 with strides of batch, head and token, q, k: [B, NH, S, DQK], v, dh: [B, NH, S, DHV]; rows: [6, B NH, NC CHUNK] as
// mlstm_gates makes them; sums: [4, B NH, NC CHUNK] as mlstm_forward makes them; states: [B NH, NC, DQK, DHV] bf16, before each chunk.
// With `exact`, gradients pass the denominator, else it counts as a constant and `epsilon` is 0.
// y: [B NH, NC CHUNK, DQK] bf16; weights: W / D, gradients: G, [B NH, NC, CHUNK, CHUNK] bf16; dz: [B NH, NC CHUNK];
// dots: [4, B NH, NC CHUNK]: q . dq without the token's own share, what the chunk's later tokens add to k . dk, the token's own share of
// both, which the forget gates' gradients do not need: as it is the largest by far when little is remembered, it would cost them digits;
// and dM.
// grid of any number of blocks, block TILE_THREADS, shared STAGES STAGE_BYTES + KEPT_BYTES + 4 CHUNK (TILE_THREADS / 32 + 3).
KERNEL void __launch_bounds__(TILE_THREADS, 1) mlstm_backward_scores(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT states, int exact,
    bf16* RESTRICT y, bf16* RESTRICT weights, bf16* RESTRICT gradients, float* RESTRICT dz, float* RESTRICT dots, int length, int heads,
    int batch, float scale, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    unsigned char* kept = memory + STAGES * STAGE_BYTES;
    float* column_sums = (float*)(kept + KEPT_BYTES);              // [TILE_THREADS / 32, CHUNK], by warps
    float* diagonal = column_sums + TILE_THREADS / 32 * CHUNK; // [CHUNK]
    float* exponents = diagonal + CHUNK;                       // [2, CHUNK], of every other chunk of the block
    const int chunks = (length + CHUNK - 1) / CHUNK, count = chunks * heads * batch;
    const int group = own_group();
    int next = 0, current = 0;
    constexpr int Y_STEPS = QK_TILES * HV_STEPS, STEPS = Y_STEPS + HV_STEPS + QK_STEPS;
    auto steps = stream<STEPS>(
        shared_address(memory), blockIdx.x, gridDim.x, count, chunks, heads, [&](const Place& place, int step, u32 stage) {
            const Rows hs = place.rows(dh, dh_batch, dh_head, dh_token, length);
            const int column = step % HV_STEPS * K_STEP;
            if (step == 0)
            {
                load_exponents(exponents + next * CHUNK, rows + place.chunk * CHUNK, place.plane);
                next ^= 1;
            }
            if (step < Y_STEPS)
            {
                load_panels<CHUNK, K_STEP, DHV>(stage, hs, 0, column);
                load_panels<QK_TILE, K_STEP, DHV>(stage + LEFT_BYTES, place.memory(states), step / HV_STEPS * QK_TILE, column);
            }
            else if (step < Y_STEPS + HV_STEPS) load_pair<DHV>(stage, hs, place.rows(v, v_batch, v_head, v_token, length), column);
            else
            {
                const Rows qs = place.rows(q, q_batch, q_head, q_token, length), ks = place.rows(k, k_batch, k_head, k_token, length);
                load_pair<DQK>(stage, qs, ks, (step - Y_STEPS - HV_STEPS) * K_STEP);
            }
        });

    for (int number = blockIdx.x; number < count; number += gridDim.x)
    {
        const Place place(number, count, chunks, heads);
        const Rows qs = place.rows(q, q_batch, q_head, q_token, length);
        const i64 plane = place.plane;
        const float *own_rows = rows + place.chunk * CHUNK, *own_sums = sums + place.chunk * CHUNK;
        float *own_dz = dz + place.chunk * CHUNK, *own_dots = dots + place.chunk * CHUNK;

        const Decays decays(own_rows, plane);
        float inverse[2], z[2], floor[2], read_inverse[2], read_normalizer[2]; // 1 / D and the others as mlstm_forward left them
        read_rows(z, own_sums);
        read_rows(inverse, own_sums + plane);
        read_rows(read_inverse, own_sums + 2 * plane);
        read_rows(read_normalizer, own_sums + 3 * plane);
        read_rows(floor, own_rows + ROW_FLOOR * plane);

        float read[2] = {}; // q . y
        for (int tile = 0; tile < QK_TILES; tile++)
        {
            Words<QK_TILE> words;
            words.read<DQK>(qs, tile * QK_TILE);
            Part<QK_TILE> part;
            part.clear();
            for (int step = 0; step < HV_STEPS; step++) steps.compute([&](u32 stage) { part.multiply<QK_TILE, DHV, true>(stage, step); });
            words.dot(read, part);
            part.store<DQK>(y + place.chunk * CHUNK * DQK, DQK, CHUNK, tile * QK_TILE);
        }

        Part<CHUNK> triangle; // dh . v, which then waits in shared memory; q . k, then W, then G
        triangle.clear();
        for (int step = 0; step < HV_STEPS; step++) steps.compute([&](u32 stage) { triangle.multiply_pair<DHV>(group, stage, step); });
#pragma unroll
        for (int j = 0; j < CHUNK / 8; j++)
        {
            if (j >= CHUNK / 16 && group == 0) break;
            *kept_at(kept, j) = make_float4(triangle.sum[j][0], triangle.sum[j][1], triangle.sum[j][2], triangle.sum[j][3]);
        }
        triangle.clear();
        for (int step = 0; step < QK_STEPS; step++) steps.compute([&](u32 stage) { triangle.multiply_pair<DQK>(group, stage, step); });

        float change[2] = {}; // dh . h
        decays.for_all(group, exponents + current * CHUNK, [&](int j, const float (&decays)[4], int) {
            const float4 products = *kept_at(kept, j);
            float(&w)[4] = triangle.sum[j];
#pragma unroll
            for (int e = 0; e < 4; e++) w[e] *= scale * decays[e];
            change[0] += inverse[0] * w[0] * products.x + inverse[0] * w[1] * products.y;
            change[1] += inverse[1] * w[2] * products.z + inverse[1] * w[3] * products.w;
        });
        triangle.store<CHUNK>(place.triangle(weights), CHUNK, CHUNK, 0, inverse, CHUNK / 2 * (group + 1));
        sum_rows(change);
        sum_rows(read);

        float d_sum[2] = {}; // dz
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = own_row(half);
            const float from_memory = read_inverse[half] * read[half];
            const float d_denominator = -(change[half] + from_memory) * inverse[half];
            if (exact && fabsf(z[half]) > floor[half]) d_sum[half] = d_denominator * copysignf(1.f, z[half]);
            read[half] = from_memory + d_sum[half] * read_normalizer[half];
            if (threadIdx.x % 4 == 0)
            {
                own_dz[row] = d_sum[half];
                own_dots[3 * plane + row] = d_denominator * epsilon;
            }
        }

        // G_ij (q_i . k_j) = W_ij ((dh_i . v_j) / D_i + dz_i), by rows and columns, without the diagonal.
        float row_dot[2] = {};
        decays.for_all(group, exponents + current * CHUNK, [&](int j, const float (&decays)[4], int key) {
            const float4 kept_products = *kept_at(kept, j);
            const float products[4] = {kept_products.x, kept_products.y, kept_products.z, kept_products.w};
            float(&w)[4] = triangle.sum[j];
            float column_dot[2] = {};
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const float gradient = inverse[e / 2] * products[e] + d_sum[e / 2], dot = w[e] * gradient;
                const bool is_own = key + e % 2 == own_row(e / 2);
                if (is_own) diagonal[key + e % 2] = dot;
                row_dot[e / 2] += is_own ? 0.f : dot;
                column_dot[e % 2] += is_own ? 0.f : dot;
                w[e] = scale * decays[e] * gradient;
            }
#pragma unroll
            for (int b = 0; b < 2; b++)
            {
#pragma unroll
                for (int o = 4; o < 32; o <<= 1) column_dot[b] += __shfl_xor_sync(FULL_WARP, column_dot[b], o);
            }
            if (threadIdx.x % 32 < 4) *(float2*)(column_sums + threadIdx.x / 32 * CHUNK + key) = make_float2(column_dot[0], column_dot[1]);
        });
        triangle.store<CHUNK>(place.triangle(gradients), CHUNK, CHUNK, 0, {1.f, 1.f}, CHUNK / 2 * (group + 1));
        sum_rows(row_dot);
        current ^= 1;
        if (threadIdx.x % 4 == 0)
        {
#pragma unroll
            for (int half = 0; half < 2; half++) own_dots[own_row(half)] = read[half] + row_dot[half];
        }
        __syncthreads();
        if (threadIdx.x < CHUNK)
        {
            float sum = 0.f;
            for (int warp = threadIdx.x / 64 * 4; warp < TILE_THREADS / 32; warp++) sum += column_sums[warp * CHUNK + threadIdx.x];
            own_dots[plane + threadIdx.x] = sum;
            own_dots[2 * plane + threadIdx.x] = diagonal[threadIdx.x];
        }
    }
}
