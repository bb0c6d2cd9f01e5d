// The mLSTM's outputs and the gradients of q, k and v: products of a chunk's triangle (MLstmScores.cu) and of the memory at its border
// (MLstmStates.cu) with the chunk's tokens. With C, n before the chunk and C', n' behind it, d marking gradients:
//     h_i  = (sum_j W_ij v_j + read_i C^T q_i) / D_i                                  mlstm_outputs
//     y_i  = C dh_i                                                                   mlstm_reads
//     dq_i = sum_j G_ij k_j + read_i (y_i / D_i + dz_i n)                             mlstm_dq
//     dk_j = sum_i G_ij q_i + write_j (dC' v_j + dn')                                 mlstm_dk
//     dv_j = sum_i (W_ij / D_i) dh_i + write_j dC'^T k_j                              mlstm_dv
//
// A block makes the chunk's rows of a tile of columns: first the product with the memory, whose rows are then scaled in float32, then the
// product with the triangle on top of it. The memory's share of q . dq and k . dk, which the gates' gradients need, is taken in float32.
//
// Operations a token and head: outputs L DHV + 2 DQK DHV, reads 2 DQK DHV, dq L DQK, dk L DQK + 2 DQK DHV, dv L DHV + 2 DQK DHV (half of
// a triangle is left out). Bytes: the memory once each, 2 DQK DHV / L a token, the triangle once a tile of columns, inputs and outputs.
#include "MLstmTiles.cuh"

#define TILE_OF(dim) ((dim) % 128 == 0 ? 128 : (dim) % 96 == 0 ? 96 : (dim) % 64 == 0 ? 64 : 32)
#ifndef QK_TILE
#define QK_TILE TILE_OF(DQK)
#endif
#ifndef HV_TILE
#define HV_TILE TILE_OF(DHV)
#endif

// Bytes of shared memory that a stage's left and right tile take, whichever way they lie.
#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define LEFT_BYTES LARGER(CHUNK * PITCH(K_STEP), K_STEP * PITCH(CHUNK))
#define RIGHT_BYTES(tile) LARGER((tile) * PITCH(K_STEP), K_STEP * PITCH(tile))

// The parts of a block's work that do not depend on which product it is.
template <int TILE>
struct Product
{
    static constexpr int WIDTH = TILE / 2, STAGE = LEFT_BYTES + RIGHT_BYTES(TILE), BYTES = LARGER(STAGES * STAGE, CHUNK * PITCH(TILE));
    unsigned char* memory;
    u32 stages;
    i64 head, chunk, plane; // the chunk's number among all; a plane of numbers a token
    int column;             // the tile's first
    Sums<BAND, TILE / 2> sums;

    DEVICE Product(unsigned char* shared, int tiles) : memory(shared), stages(shared_address(shared))
    {
        const int chunks = gridDim.x / tiles;
        head = (i64)blockIdx.z * gridDim.y + blockIdx.y;
        chunk = head * chunks + blockIdx.x / tiles;
        plane = (i64)chunks * CHUNK * gridDim.y * gridDim.z;
        column = blockIdx.x % tiles * TILE;
        sums.clear();
    }

    DEVICE u32 left(int stage) const { return stages + stage * STAGE; }
    DEVICE u32 right(int stage) const { return stages + stage * STAGE + LEFT_BYTES; }

    // left rows by `k` inner indices; right: a row for an inner index, or, transposed, for a column.
    DEVICE void load_left_rows(int stage, Rows rows, int k) { load_tile<CHUNK, K_STEP, TILE_THREADS>(left(stage), rows, 0, k); }
    DEVICE void load_left_columns(int stage, Rows rows, int k) { load_tile<K_STEP, CHUNK, TILE_THREADS>(left(stage), rows, k, 0); }
    DEVICE void load_right_rows(int stage, Rows rows, int k) { load_tile<K_STEP, TILE, TILE_THREADS>(right(stage), rows, k, column); }
    DEVICE void load_right_columns(int stage, Rows rows, int k) { load_tile<TILE, K_STEP, TILE_THREADS>(right(stage), rows, column, k); }

    template <bool RIGHT_TRANSPOSED>
    DEVICE void multiply(int stage)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            multiply_16<BAND, WIDTH, K_STEP, false, RIGHT_TRANSPOSED ? K_STEP : TILE, RIGHT_TRANSPOSED>(
                sums, left(stage), right(stage), warp_row(), warp_column(WIDTH), k);
    }

    // A triangle's columns from k0 on; what lies right of the diagonal is left out.
    DEVICE void multiply_triangle(int stage, int k0)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            if (k0 + k < warp_row() + BAND)
                multiply_16<BAND, WIDTH, K_STEP, false, TILE, false>(sums, left(stage), right(stage), warp_row(), warp_column(WIDTH), k);
    }

    // The same of the transposed triangle, of which rows from k0 on were loaded.
    DEVICE void multiply_transposed_triangle(int stage, int k0)
    {
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            if (k0 + k + 15 >= warp_row())
                multiply_16<BAND, WIDTH, CHUNK, true, TILE, false>(sums, left(stage), right(stage), warp_row(), warp_column(WIDTH), k);
    }

    // f(sum, row, column of the tensor, i, half) of all the warp's pairs of neighbouring elements, sum being float[2].
    template <class F>
    DEVICE void for_pairs(F f)
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < BAND / 16; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < WIDTH / 8; j++)
                    f(sums.sum[i][j] + 2 * half, warp_row() + 16 * i + 8 * half + lane / 4, column + warp_column(WIDTH) + 8 * j + lane % 4 * 2, i, half);
    }

    DEVICE void store(bf16* RESTRICT out, i64 stride, int count)
    {
        stage_tile<BAND, WIDTH, TILE>(memory, sums, warp_row(), warp_column(WIDTH));
        __syncthreads();
        store_tile<CHUNK, TILE, TILE_THREADS>(out + column, stride, memory, count);
    }

    // The rows' products with those of x, summed over the tile's columns, one part a tile: [tiles, plane]. Stages are left alone.
    DEVICE void store_dots(float* RESTRICT dots, Rows x)
    {
        float sum[2][2] = {};
        for_pairs([&](float* pair, int row, int c, int i, int half) {
            if (row >= x.count) return;
            const u32 word = *(const u32*)(x.data + row * x.stride + c);
            sum[i][half] += low_bf16(word) * pair[0] + high_bf16(word) * pair[1];
        });
        float* shared = (float*)(memory + BYTES);
        sum_rows(sum, shared);
        if (threadIdx.x < CHUNK)
            dots[column / TILE * plane + chunk * CHUNK + threadIdx.x] = shared[threadIdx.x] + shared[CHUNK + threadIdx.x];
    }

    // The chunk's memory as rows of DHV, one for each of DQK.
    DEVICE Rows memory_rows(const bf16* states) const { return Rows{states + chunk * DQK * DHV, DHV, DQK}; }
    DEVICE Rows triangle(const bf16* of) const { return Rows{of + chunk * CHUNK * CHUNK, CHUNK, CHUNK}; }
};

// Arguments of all: activations bf16 [B, NH, S, dim] with strides (batch, head, token); rows as mlstm_gates makes them; sums as mlstm_scores
// makes them; states [B NH, NC, DQK, DHV] bf16; normalizers [B NH, NC, DQK]; triangles [B NH, NC, CHUNK, CHUNK] bf16.
// grid (NC tiles, NH, B), block 256, shared Product::BYTES + 1024.
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_outputs(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token,
    const bf16* RESTRICT weights, const bf16* RESTRICT states, const float* RESTRICT rows, const float* RESTRICT sums,
    bf16* RESTRICT h, i64 h_batch, int h_head, int h_token, int length)
{
    SHARED_MEMORY(memory);
    constexpr int TILES = DHV / HV_TILE, MEMORY_STEPS = DQK / K_STEP;
    Product<HV_TILE> product(memory, TILES);
    const int chunk = blockIdx.x / TILES;
    const Rows qs = rows_of(q, q_batch, q_head, q_token, chunk, length), vs = rows_of(v, v_batch, v_head, v_token, chunk, length);
    const Rows before = product.memory_rows(states), triangle = product.triangle(weights);
    rows += product.chunk * CHUNK;
    sums += product.chunk * CHUNK;
    pipeline(
        MEMORY_STEPS + CHUNK / K_STEP,
        [&](int step, int stage) {
            const int k = (step < MEMORY_STEPS ? step : step - MEMORY_STEPS) * K_STEP;
            product.load_left_rows(stage, step < MEMORY_STEPS ? qs : triangle, k);
            product.load_right_rows(stage, step < MEMORY_STEPS ? before : vs, k);
        },
        [&](int step, int stage) {
            if (step < MEMORY_STEPS) product.template multiply<false>(stage);
            if (step == MEMORY_STEPS - 1)
                product.for_pairs([&](float* pair, int row, int, int, int) {
                    pair[0] *= rows[ROW_READ * product.plane + row];
                    pair[1] *= rows[ROW_READ * product.plane + row];
                });
            if (step >= MEMORY_STEPS) product.multiply_triangle(stage, (step - MEMORY_STEPS) * K_STEP);
        });
    product.for_pairs([&](float* pair, int row, int, int, int) {
        pair[0] *= sums[product.plane + row];
        pair[1] *= sums[product.plane + row];
    });
    const i64 first = blockIdx.z * h_batch + (i64)blockIdx.y * h_head + (i64)chunk * CHUNK * h_token;
    product.store(h + first, h_token, vs.count);
}

// y: [B NH, NC CHUNK, DQK] float32; q_reads: the parts of q . y, [DQK / QK_TILE, B NH, NC CHUNK].
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_reads(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const bf16* RESTRICT states, float* RESTRICT y, float* RESTRICT q_reads, int length)
{
    SHARED_MEMORY(memory);
    constexpr int TILES = DQK / QK_TILE;
    Product<QK_TILE> product(memory, TILES);
    const int chunk = blockIdx.x / TILES;
    const Rows qs = rows_of(q, q_batch, q_head, q_token, chunk, length), hs = rows_of(dh, dh_batch, dh_head, dh_token, chunk, length);
    const Rows before = product.memory_rows(states);
    pipeline(
        DHV / K_STEP,
        [&](int step, int stage) {
            product.load_left_rows(stage, hs, step * K_STEP);
            product.load_right_columns(stage, before, step * K_STEP);
        },
        [&](int, int stage) { product.template multiply<true>(stage); });
    product.for_pairs([&](float* pair, int row, int c, int, int) {
        *(float2*)(y + (product.chunk * CHUNK + row) * DQK + c) = make_float2(pair[0], pair[1]);
    });
    product.store_dots(q_reads, qs);
}

// y: as mlstm_reads makes it; n: before each chunk, and dz, or null.
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_dq(
    const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token, const bf16* RESTRICT gradients, const float* RESTRICT y,
    const float* RESTRICT n, const float* RESTRICT dz, const float* RESTRICT rows, const float* RESTRICT sums,
    bf16* RESTRICT dq, i64 dq_batch, int dq_head, int dq_token, int length)
{
    SHARED_MEMORY(memory);
    constexpr int TILES = DQK / QK_TILE;
    Product<QK_TILE> product(memory, TILES);
    const int chunk = blockIdx.x / TILES;
    const Rows ks = rows_of(k, k_batch, k_head, k_token, chunk, length), triangle = product.triangle(gradients);
    rows += product.chunk * CHUNK;
    sums += product.chunk * CHUNK;
    pipeline(
        CHUNK / K_STEP,
        [&](int step, int stage) {
            product.load_left_rows(stage, triangle, step * K_STEP);
            product.load_right_rows(stage, ks, step * K_STEP);
        },
        [&](int step, int stage) { product.multiply_triangle(stage, step * K_STEP); });
    product.for_pairs([&](float* pair, int row, int c, int, int) {
        const float2 part = *(const float2*)(y + (product.chunk * CHUNK + row) * DQK + c);
        pair[0] += sums[2 * product.plane + row] * part.x;
        pair[1] += sums[2 * product.plane + row] * part.y;
        if (dz)
        {
            const float weight = rows[ROW_READ * product.plane + row] * dz[product.chunk * CHUNK + row];
            const float2 normalizer = *(const float2*)(n + product.chunk * DQK + c);
            pair[0] += weight * normalizer.x;
            pair[1] += weight * normalizer.y;
        }
    });
    const i64 first = blockIdx.z * dq_batch + (i64)blockIdx.y * dq_head + (i64)chunk * CHUNK * dq_token;
    product.store(dq + first, dq_token, ks.count);
}

// d_states, dn: behind each chunk, dn or null; k_writes: the parts of write k . (dC' v + dn'), [DQK / QK_TILE, B NH, NC CHUNK].
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_dk(
    const bf16* RESTRICT q, i64 q_batch, int q_head, int q_token, const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token,
    const bf16* RESTRICT v, i64 v_batch, int v_head, int v_token,
    const bf16* RESTRICT gradients, const bf16* RESTRICT d_states, const float* RESTRICT dn, const float* RESTRICT rows,
    bf16* RESTRICT dk, i64 dk_batch, int dk_head, int dk_token, float* RESTRICT k_writes, int length)
{
    SHARED_MEMORY(memory);
    constexpr int TILES = DQK / QK_TILE, MEMORY_STEPS = DHV / K_STEP;
    Product<QK_TILE> product(memory, TILES);
    const int chunk = blockIdx.x / TILES;
    const Rows qs = rows_of(q, q_batch, q_head, q_token, chunk, length), ks = rows_of(k, k_batch, k_head, k_token, chunk, length);
    const Rows vs = rows_of(v, v_batch, v_head, v_token, chunk, length);
    const Rows behind = product.memory_rows(d_states), triangle = product.triangle(gradients);
    rows += product.chunk * CHUNK;
    pipeline(
        MEMORY_STEPS + CHUNK / K_STEP,
        [&](int step, int stage) {
            if (step < MEMORY_STEPS)
            {
                product.load_left_rows(stage, vs, step * K_STEP);
                product.load_right_columns(stage, behind, step * K_STEP);
            }
            else
            {
                product.load_left_columns(stage, triangle, (step - MEMORY_STEPS) * K_STEP);
                product.load_right_rows(stage, qs, (step - MEMORY_STEPS) * K_STEP);
            }
        },
        [&](int step, int stage) {
            if (step < MEMORY_STEPS) product.template multiply<true>(stage);
            if (step == MEMORY_STEPS - 1)
            {
                product.for_pairs([&](float* pair, int row, int c, int, int) {
                    const float write = rows[ROW_WRITE * product.plane + row];
                    const float2 normalizer = dn ? *(const float2*)(dn + product.chunk * DQK + c) : make_float2(0.f, 0.f);
                    pair[0] = write * (pair[0] + normalizer.x);
                    pair[1] = write * (pair[1] + normalizer.y);
                });
                product.store_dots(k_writes, ks);
            }
            if (step >= MEMORY_STEPS) product.multiply_transposed_triangle(stage, (step - MEMORY_STEPS) * K_STEP);
        });
    const i64 first = blockIdx.z * dk_batch + (i64)blockIdx.y * dk_head + (i64)chunk * CHUNK * dk_token;
    product.store(dk + first, dk_token, ks.count);
}

// weights: W / D.
KERNEL void __launch_bounds__(TILE_THREADS, 2) mlstm_dv(
    const bf16* RESTRICT k, i64 k_batch, int k_head, int k_token, const bf16* RESTRICT dh, i64 dh_batch, int dh_head, int dh_token,
    const bf16* RESTRICT weights, const bf16* RESTRICT d_states, const float* RESTRICT rows,
    bf16* RESTRICT dv, i64 dv_batch, int dv_head, int dv_token, int length)
{
    SHARED_MEMORY(memory);
    constexpr int TILES = DHV / HV_TILE, MEMORY_STEPS = DQK / K_STEP;
    Product<HV_TILE> product(memory, TILES);
    const int chunk = blockIdx.x / TILES;
    const Rows ks = rows_of(k, k_batch, k_head, k_token, chunk, length), hs = rows_of(dh, dh_batch, dh_head, dh_token, chunk, length);
    const Rows behind = product.memory_rows(d_states), triangle = product.triangle(weights);
    rows += product.chunk * CHUNK;
    pipeline(
        MEMORY_STEPS + CHUNK / K_STEP,
        [&](int step, int stage) {
            if (step < MEMORY_STEPS)
            {
                product.load_left_rows(stage, ks, step * K_STEP);
                product.load_right_rows(stage, behind, step * K_STEP);
            }
            else
            {
                product.load_left_columns(stage, triangle, (step - MEMORY_STEPS) * K_STEP);
                product.load_right_rows(stage, hs, (step - MEMORY_STEPS) * K_STEP);
            }
        },
        [&](int step, int stage) {
            if (step < MEMORY_STEPS) product.template multiply<false>(stage);
            if (step == MEMORY_STEPS - 1)
                product.for_pairs([&](float* pair, int row, int, int, int) {
                    pair[0] *= rows[ROW_WRITE * product.plane + row];
                    pair[1] *= rows[ROW_WRITE * product.plane + row];
                });
            if (step >= MEMORY_STEPS) product.multiply_transposed_triangle(stage, (step - MEMORY_STEPS) * K_STEP);
        });
    const i64 first = blockIdx.z * dv_batch + (i64)blockIdx.y * dv_head + (i64)chunk * CHUNK * dv_token;
    product.store(dv + first, dv_token, ks.count);
}
