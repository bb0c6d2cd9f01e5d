// The mLSTM's gradients, as MLstmBackward.cu has them, for heads so narrow that all of a chunk lies in shared memory: at 32 x 64 the wide
// kernels spend their time on writing and reading two triangles a chunk (128 KB, where q, k, v and dh are 48 KB) and on waiting, one block
// a multiprocessor. Here the triangles are made again wherever they are needed, 32 columns at a time, and never leave the registers; a warp
// has 16 tokens, first as queries, then as keys, so that no warp waits for another.
//
// A block makes a chunk of a head. Operations a token and head: L (DQK + DHV) + 2 DQK DHV, then 2 L (2 DQK + 2 DHV) + 6 DQK DHV, as a half
// of each triangle is left out. Bytes: 4 DQK + 4 DHV, and 2 DQK DHV a chunk; then 8 DQK + 6 DHV, and 4 DQK DHV a chunk.
#include "MLstmNarrow.cuh"

#define IS_SMALL (QK_WHOLE == 32 && HV_WHOLE <= 64) // so that several blocks fit a multiprocessor

// Arguments, dz and the fourth plane of dots as those of MLstmBackward.cu's; the rest of dots comes from the second kernel.
// grid (NC, NH, B), block TILE_THREADS, shared 2 QK_BYTES + 2 HV_BYTES + MEMORY_BYTES + 28 CHUNK.
KERNEL void __launch_bounds__(TILE_THREADS, IS_SMALL ? 3 : 1) mlstm_backward_scores(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT states, int exact,
    float* RESTRICT dz, float* RESTRICT dots, int length, float scale, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const u32 q_tile = shared_address(memory), k_tile = q_tile + QK_BYTES, v_tile = k_tile + QK_BYTES, h_tile = v_tile + HV_BYTES;
    const u32 c_tile = h_tile + HV_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m = triangle_row(warp);
    float* numbers = (float*)(memory + 2 * QK_BYTES + 2 * HV_BYTES + MEMORY_BYTES); // [7, CHUNK], as below
    const Place place;
    const i64 plane = place.plane;
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(q_tile, place.rows(q, q_batch, q_head, q_token, length), 0, 0);
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(k_tile, place.rows(k, k_batch, k_head, k_token, length), 0, 0);
    load_tile<CHUNK, HV_WHOLE, TILE_THREADS, DHV>(v_tile, place.rows(v, v_batch, v_head, v_token, length), 0, 0);
    load_tile<CHUNK, HV_WHOLE, TILE_THREADS, DHV>(h_tile, place.rows(dh, dh_batch, dh_head, dh_token, length), 0, 0);
    load_tile<QK_WHOLE, HV_WHOLE, TILE_THREADS, DHV>(c_tile, place.memory(states), 0, 0);
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;
    load_numbers<7>(
        numbers,
        {rows + ROW_U * plane, rows + ROW_P * plane, rows + ROW_START * plane, rows + ROW_FLOOR * plane,
            sums, sums + plane, sums + 2 * plane});
    copy_async_commit();
    dz += place.chunk * CHUNK;
    dots += place.chunk * CHUNK;
    copy_async_wait<0>();
    __syncthreads();
    Query query[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        const int row = m + 8 * half + lane / 4;
        query[half] = Query{numbers[CHUNK + row], numbers[5 * CHUNK + row], 0.f, (int)numbers[2 * CHUNK + row]};
    }

    Left<QK_WHOLE> queries;
    Left<HV_WHOLE> changes;
    queries.load(q_tile, m);
    changes.load(h_tile, m);
    Sums<16, QK_WHOLE> y;
    y.clear();
    multiply<HV_WHOLE, true>(y, changes, c_tile, 0);
    float read[2] = {}, change[2] = {}; // q . y, and dh . h without the memory's share
    dot_rows(read, memory, y, m);

#pragma unroll 1
    for (int first = 0; first < m + 16; first += STRIP)
    {
        Sums<16, STRIP> score, product; // q . k, dh . v
        score.clear();
        product.clear();
        multiply<QK_WHOLE, true>(score, queries, k_tile, first);
        multiply<HV_WHOLE, true>(product, changes, v_tile, first);
#pragma unroll
        for (int j = 0; j < STRIP / 8; j++)
        {
            const int key = first + 8 * j + lane % 4 * 2;
            const float2 u = *(const float2*)(numbers + key);
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const float w = scale * score.sum[0][j][e] * decay(e % 2 ? u.y : u.x, query[e / 2], key + e % 2, m + e / 2 * 8 + lane / 4);
                change[e / 2] += w * query[e / 2].inverse * product.sum[0][j][e];
            }
        }
    }
    sum_row(read);
    sum_row(change);
    if (lane % 4 != 0) return;
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        const int row = m + 8 * half + lane / 4;
        const float z = numbers[4 * CHUNK + row];
        const float d_denominator = -(change[half] + numbers[6 * CHUNK + row] * read[half]) * query[half].inverse;
        dz[row] = exact && fabsf(z) > numbers[3 * CHUNK + row] ? d_denominator * copysignf(1.f, z) : 0.f;
        dots[3 * plane + row] = d_denominator * epsilon;
    }
}

// Arguments as those of MLstmBackward.cu's, and dots, of which the first three planes are made here.
// grid (NC, NH, B), block TILE_THREADS, shared 2 QK_BYTES + 2 HV_BYTES + 2 MEMORY_BYTES + 16 CHUNK, STAGED_BYTES for each warp,
// 4 (5 CHUNK + 2 QK_WHOLE).
KERNEL void __launch_bounds__(TILE_THREADS, IS_SMALL ? 2 : 1) mlstm_backward(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const float* RESTRICT rows, const float* RESTRICT sums, const bf16* RESTRICT states,
    const float* RESTRICT n, const float* RESTRICT dz, const bf16* RESTRICT d_states, const float* RESTRICT dn,
    bf16* RESTRICT dq, i64 dq_batch, int dq_head, int dq_token, bf16* RESTRICT dk, i64 dk_batch, int dk_head, int dk_token,
    bf16* RESTRICT dv, i64 dv_batch, int dv_head, int dv_token, float* RESTRICT dots, float* RESTRICT k_writes, int length, float scale)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const u32 q_tile = shared_address(memory), k_tile = q_tile + QK_BYTES, v_tile = k_tile + QK_BYTES, h_tile = v_tile + HV_BYTES;
    const u32 c_tile = h_tile + HV_BYTES, d_tile = c_tile + MEMORY_BYTES;
    Query* queries = (Query*)(memory + 2 * (QK_BYTES + HV_BYTES + MEMORY_BYTES));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = 16 * warp;
    unsigned char* staged = (unsigned char*)(queries + CHUNK) + warp * STAGED_BYTES;
    float* numbers = (float*)((unsigned char*)(queries + CHUNK) + TILE_THREADS / 32 * STAGED_BYTES); // [5, CHUNK], as below
    float* normalizers = numbers + 5 * CHUNK;                                                         // [2, QK_WHOLE]: n and dn
    const Place place;
    const i64 plane = place.plane;
    const Rows qs = place.rows(q, q_batch, q_head, q_token, length);
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(q_tile, qs, 0, 0);
    load_tile<CHUNK, QK_WHOLE, TILE_THREADS, DQK>(k_tile, place.rows(k, k_batch, k_head, k_token, length), 0, 0);
    load_tile<CHUNK, HV_WHOLE, TILE_THREADS, DHV>(v_tile, place.rows(v, v_batch, v_head, v_token, length), 0, 0);
    load_tile<CHUNK, HV_WHOLE, TILE_THREADS, DHV>(h_tile, place.rows(dh, dh_batch, dh_head, dh_token, length), 0, 0);
    load_tile<QK_WHOLE, HV_WHOLE, TILE_THREADS, DHV>(c_tile, place.memory(states), 0, 0);
    load_tile<QK_WHOLE, HV_WHOLE, TILE_THREADS, DHV>(d_tile, place.memory(d_states), 0, 0);
    rows += place.chunk * CHUNK;
    sums += place.chunk * CHUNK;
    dots += place.chunk * CHUNK;
    load_numbers<5>(
        numbers, {rows + ROW_U * plane, rows + ROW_READ * plane, rows + ROW_WRITE * plane, sums + 2 * plane, sums + 3 * plane});
    load_normalizer(normalizers, n ? n + place.chunk * DQK : nullptr);
    load_normalizer(normalizers + QK_WHOLE, dn ? dn + place.chunk * DQK : nullptr);
    copy_async_commit();
    if (threadIdx.x < CHUNK)
    {
        const int row = threadIdx.x;
        queries[row] = Query{
            rows[ROW_P * plane + row], sums[plane + row], dz[place.chunk * CHUNK + row], (int)rows[ROW_START * plane + row]};
    }
    copy_async_wait<0>();
    __syncthreads();

    // The warp's tokens as queries: dq.
    {
        Left<QK_WHOLE> own;
        Left<HV_WHOLE> changes;
        own.load(q_tile, m);
        changes.load(h_tile, m);
        const Query query[2] = {queries[m + lane / 4], queries[m + 8 + lane / 4]};
        Sums<16, QK_WHOLE> out;
        out.clear();
        multiply<HV_WHOLE, true>(out, changes, c_tile, 0);
        float read[2] = {}, row_dot[2] = {};
        dot_rows(read, memory, out, m);
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = m + 8 * half + lane / 4;
            const float weight = numbers[3 * CHUNK + row], share = numbers[CHUNK + row] * query[half].dz;
            read[half] *= weight;
#pragma unroll
            for (int j = 0; j < QK_WHOLE / 8; j++)
            {
                const float2 normalizer = *(const float2*)(normalizers + 8 * j + lane % 4 * 2);
                out.sum[0][j][2 * half] = weight * out.sum[0][j][2 * half] + share * normalizer.x;
                out.sum[0][j][2 * half + 1] = weight * out.sum[0][j][2 * half + 1] + share * normalizer.y;
            }
        }
#pragma unroll 1
        for (int first = 0; first < m + 16; first += STRIP)
        {
            Sums<16, STRIP> score, product; // q . k, dh . v
            score.clear();
            product.clear();
            multiply<QK_WHOLE, true>(score, own, k_tile, first);
            multiply<HV_WHOLE, true>(product, changes, v_tile, first);
#pragma unroll
            for (int j = 0; j < STRIP / 8; j++)
            {
                const int key = first + 8 * j + lane % 4 * 2;
                const float2 u = *(const float2*)(numbers + key);
#pragma unroll
                for (int e = 0; e < 4; e++)
                {
                    const int row = m + e / 2 * 8 + lane / 4;
                    const float weight = scale * decay(e % 2 ? u.y : u.x, query[e / 2], key + e % 2, row);
                    const float gradient = weight * (query[e / 2].inverse * product.sum[0][j][e] + query[e / 2].dz);
                    const float dot = gradient * score.sum[0][j][e];
                    if (key + e % 2 == row) dots[2 * plane + row] = dot;
                    else row_dot[e / 2] += dot;
                    score.sum[0][j][e] = gradient;
                }
            }
            Left<STRIP> gradients; // G
            gradients.take(score);
            multiply<QK_WHOLE, false>(out, gradients, k_tile, first);
        }
        sum_row(read);
        sum_row(row_dot);
        if (lane % 4 == 0)
        {
#pragma unroll
            for (int half = 0; half < 2; half++)
            {
                const int row = m + 8 * half + lane / 4;
                dots[row] = read[half] + query[half].dz * numbers[4 * CHUNK + row] + row_dot[half];
            }
        }
        store_rows<DQK>(staged, out, place.first(dq, dq_batch, dq_head, dq_token), dq_token, qs.count, m);
    }

    // The same tokens as keys: dk and dv.
    Left<QK_WHOLE> keys;
    Left<HV_WHOLE> values;
    keys.load(k_tile, m);
    values.load(v_tile, m);
    Sums<16, QK_WHOLE> of_keys;
    Sums<16, HV_WHOLE> of_values;
    of_keys.clear();
    of_values.clear();
    multiply<HV_WHOLE, true>(of_keys, values, d_tile, 0);
    multiply<HV_WHOLE, false>(of_values, keys, d_tile, 0);
    float u[2], write_dot[2] = {}, column_dot[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        const int row = m + 8 * half + lane / 4;
        const float write = numbers[2 * CHUNK + row];
        u[half] = numbers[row];
#pragma unroll
        for (int j = 0; j < QK_WHOLE / 8; j++)
        {
            const float2 normalizer = *(const float2*)(normalizers + QK_WHOLE + 8 * j + lane % 4 * 2);
            of_keys.sum[0][j][2 * half] = write * (of_keys.sum[0][j][2 * half] + normalizer.x);
            of_keys.sum[0][j][2 * half + 1] = write * (of_keys.sum[0][j][2 * half + 1] + normalizer.y);
        }
#pragma unroll
        for (int j = 0; j < HV_WHOLE / 8; j++)
        {
            of_values.sum[0][j][2 * half] *= write;
            of_values.sum[0][j][2 * half + 1] *= write;
        }
    }
    dot_rows(write_dot, memory + QK_BYTES, of_keys, m);
#pragma unroll 1
    for (int first = m / STRIP * STRIP; first < CHUNK; first += STRIP)
    {
        Sums<16, STRIP> score, product; // k . q, v . dh
        score.clear();
        product.clear();
        multiply<QK_WHOLE, true>(score, keys, q_tile, first);
        multiply<HV_WHOLE, true>(product, values, h_tile, first);
#pragma unroll
        for (int j = 0; j < STRIP / 8; j++)
#pragma unroll
            for (int b = 0; b < 2; b++)
            {
                const int row = first + 8 * j + lane % 4 * 2 + b;
                const Query query = queries[row];
#pragma unroll
                for (int half = 0; half < 2; half++)
                {
                    const int key = m + 8 * half + lane / 4;
                    float &s = score.sum[0][j][2 * half + b], &p = product.sum[0][j][2 * half + b];
                    const float weight = scale * decay(u[half], query, key, row);
                    const float gradient = weight * (query.inverse * p + query.dz);
                    column_dot[half] += key == row ? 0.f : gradient * s;
                    p = weight * s * query.inverse;
                    s = gradient;
                }
            }
        Left<STRIP> transposed; // G, then W / D
        transposed.take(score);
        multiply<QK_WHOLE, false>(of_keys, transposed, q_tile, first);
        transposed.take(product);
        multiply<HV_WHOLE, false>(of_values, transposed, h_tile, first);
    }
    sum_row(write_dot);
    sum_row(column_dot);
    if (lane % 4 == 0)
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = m + 8 * half + lane / 4;
            k_writes[place.chunk * CHUNK + row] = write_dot[half];
            dots[plane + row] = column_dot[half];
        }
    }
    store_rows<DQK>(staged, of_keys, place.first(dk, dk_batch, dk_head, dk_token), dk_token, qs.count, m);
    store_rows<DHV>(staged, of_values, place.first(dv, dv_batch, dv_head, dv_token), dv_token, qs.count, m);
}
