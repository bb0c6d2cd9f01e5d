// The mLSTM's outputs, as MLstmForward.cu has them, for narrow heads: no triangle goes through shared memory, and three blocks fit a
// multiprocessor, which hide what each waits for.
//
// A block makes a chunk of a head. Operations a token and head: L (DQK + DHV) + 2 DQK DHV, as a half of the triangle is left out.
// Bytes: 4 DQK + 4 DHV, and 2 DQK DHV a chunk.
#include "MLstmNarrow.cuh"

// Arguments as those of MLstmForward.cu's. MLstmSequenceKernel.cs tells NORMALIZE.
// grid (NC, NH, B), block TILE_THREADS, shared 2 QK_BYTES + HV_BYTES + MEMORY_BYTES, STAGED_BYTES for each warp, 4 (5 CHUNK + QK_WHOLE).
KERNEL void __launch_bounds__(TILE_THREADS, 3) mlstm_forward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token,
    const float* RESTRICT rows, const float* RESTRICT n, const bf16* RESTRICT states, float* RESTRICT sums,
    bf16* RESTRICT h, i64 h_batch, int h_head, int h_token, int length, float scale, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const u32 q_tile = shared_address(memory), k_tile = q_tile + QK_BYTES, v_tile = k_tile + QK_BYTES, c_tile = v_tile + HV_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = triangle_row(warp);
    unsigned char* staged = memory + 2 * QK_BYTES + HV_BYTES + MEMORY_BYTES + warp * STAGED_BYTES;
    float* numbers = (float*)(memory + 2 * QK_BYTES + HV_BYTES + MEMORY_BYTES + TILE_THREADS / 32 * STAGED_BYTES); // [5, CHUNK], as below
    float* normalizers = numbers + 5 * CHUNK;                                                                        // [QK_WHOLE]
    const Place place;
    const i64 plane = place.plane;
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length);
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(q_tile, qs, 0, 0);
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(k_tile, place.rows(k, k_batch, k_head, k_token, length), 0, 0);
    load_tile<CHUNK, HV_WHOLE, TILE_THREADS, DHV>(v_tile, place.rows(v, v_batch, v_head, v_token, length), 0, 0);
    load_tile<QK_WHOLE, HV_WHOLE, TILE_THREADS, DHV>(c_tile, place.memory(states), 0, 0);
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;
    load_numbers<5>(
        numbers,
        {rows + ROW_U * plane, rows + ROW_P * plane, rows + ROW_START * plane, rows + ROW_READ * plane, rows + ROW_FLOOR * plane});
    if (NORMALIZE) load_normalizer(normalizers, n + place.chunk * DQK);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    Query query[2];
    float read[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        const int row = m + 8 * half + lane / 4;
        query[half] = Query{numbers[CHUNK + row], 1.f, 0.f, (int)numbers[2 * CHUNK + row]};
        read[half] = numbers[3 * CHUNK + row];
    }

    Left<QK_WHOLE> queries;
    queries.load(q_tile, m);
    Sums<16, HV_WHOLE> out;
    out.clear();
    multiply<HV_WHOLE, false>(out, queries, c_tile, 0);
    float z[2] = {}, from_memory[2] = {}; // q . n
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
#pragma unroll
        for (int j = 0; j < HV_WHOLE / 8; j++)
        {
            out.sum[0][j][2 * half] *= read[half];
            out.sum[0][j][2 * half + 1] *= read[half];
        }
#pragma unroll
        for (int j = 0; NORMALIZE && j < QK_WHOLE / 8; j++)
        {
            const int column = 8 * j + lane % 4 * 2;
            const u32 word = *(const u32*)(memory + (m + 8 * half + lane / 4) * PITCH(QK_WHOLE) + column * 2);
            const float2 normalizer = *(const float2*)(normalizers + column);
            from_memory[half] += low_bf16(word) * normalizer.x + high_bf16(word) * normalizer.y;
        }
    }

#pragma unroll 1
    for (int first = 0; first < m + 16; first += STRIP)
    {
        Sums<16, STRIP> weights;
        weights.clear();
        multiply<QK_WHOLE, true>(weights, queries, k_tile, first);
#pragma unroll
        for (int j = 0; j < STRIP / 8; j++)
        {
            const int key = first + 8 * j + lane % 4 * 2;
            const float2 u = *(const float2*)(numbers + key);
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const float seen = decay(e % 2 ? u.y : u.x, query[e / 2], key + e % 2, m + e / 2 * 8 + lane / 4);
                weights.sum[0][j][e] *= scale * seen;
                z[e / 2] += weights.sum[0][j][e];
            }
        }
        Left<STRIP> triangle;
        triangle.take(weights);
        multiply<HV_WHOLE, false>(out, triangle, v_tile, first);
    }

    sum_row(z);
    sum_row(from_memory);
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        const int row = m + 8 * half + lane / 4;
        const float normalizer = read[half] * from_memory[half], sum = NORMALIZE ? z[half] + normalizer : 0.f;
        const float inverse = NORMALIZE ? 1.f / (fmaxf(fabsf(sum), numbers[4 * CHUNK + row]) + epsilon) : 1.f;
#pragma unroll
        for (int j = 0; j < HV_WHOLE / 8; j++)
        {
            out.sum[0][j][2 * half] *= inverse;
            out.sum[0][j][2 * half + 1] *= inverse;
        }
        if (lane % 4 != 0) continue;
        sums[row] = sum;
        sums[plane + row] = inverse;
        sums[2 * plane + row] = read[half] * inverse;
        sums[3 * plane + row] = normalizer;
    }
    store_rows<DHV>(staged, out, place.first(h, h_batch, h_head, h_token), h_token, qs.count, m);
}
