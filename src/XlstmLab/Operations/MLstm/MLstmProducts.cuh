// The mLSTM's products of wide heads: tiles of a chunk's 128 rows by two groups of four warps, a warp having 16 rows; tiles of 64 rows by
// one group. Pieces of K_STEP of the inner dimension come through shared memory while the tensor cores work on the ones before; the sums
// stay in registers.
//
// Tiles in shared memory are panels of 64 columns, rows of 128 bytes whose 16-byte pieces are exchanged so that eight rows lie in different
// banks: as products of warpgroups read them (sm_90a), and elsewhere matrix loads.
#pragma once
#include "MLstmTiles.cuh"

// MLstmSequenceKernel.cs tells K_STEP; STAGES, of a left and a right tile each; and the bytes of shared memory that a stage and a triangle
// take, STAGE_BYTES and TRIANGLE_BYTES.
#define PANEL 64
#define PANEL_BYTES(rows) ((rows) * 128)
#define TILE_ROWS (TILE_THREADS / 2)
static_assert(K_STEP == PANEL && TILE_ROWS % PANEL == 0 && TILE_ROWS <= CHUNK, "a group of four warps has 64 rows");

#define TILE_OF(dim) ((dim) % 128 == 0 ? 128 : (dim) % 96 == 0 ? 96 : (dim) % 64 == 0 ? 64 : 32)
#define QK_TILE TILE_OF(QK_WHOLE)
#define HV_TILE TILE_OF(HV_WHOLE)
#define QK_TILES (QK_WHOLE / QK_TILE)
#define HV_TILES (HV_WHOLE / HV_TILE)

// The steps of an inner dimension; its last 16 may be zeros in part, and what is behind them is left out.
#define QK_STEPS ((DQK + K_STEP - 1) / K_STEP)
#define HV_STEPS ((DHV + K_STEP - 1) / K_STEP)
#define CHUNK_STEPS (CHUNK / K_STEP)

#define LEFT_BYTES PANEL_BYTES(TILE_ROWS)
static_assert(STAGE_BYTES % 1024 == 0 && STAGE_BYTES > LEFT_BYTES && TRIANGLE_BYTES == 2 * PANEL_BYTES(CHUNK), "what the host asks for");

// Where the bytes lie that would be at this address if pieces were not exchanged.
DEVICE u32 exchanged(u32 address) { return address ^ (address >> 3 & 0x70); }

// Starts the copy of COUNT rows, from `row` on, of COLUMNS elements from `column` on; the rows have WIDTH.
template <int COUNT, int COLUMNS, int WIDTH>
DEVICE void load_panels(u32 shared, Rows rows, int row, int column)
{
    load_rows<COUNT, COLUMNS, TILE_THREADS, WIDTH>(rows, row, column, [=](int r, int piece) {
        return exchanged(shared + piece / 8 * PANEL_BYTES(COUNT) + r * 128 + piece % 8 * 16);
    });
}

// A triangle, but for the quarter right of the diagonal.
DEVICE void load_triangle(u32 shared, Rows triangle)
{
    load_panels<CHUNK, PANEL, CHUNK>(shared, triangle, 0, 0);
    load_panels<CHUNK - PANEL, PANEL, CHUNK>(shared + PANEL_BYTES(CHUNK + PANEL), triangle, PANEL, PANEL);
}

// A left and a right tile of CHUNK rows, of the same columns.
template <int WIDTH>
DEVICE void load_pair(u32 stage, Rows left, Rows right, int column)
{
    load_panels<CHUNK, PANEL, WIDTH>(stage, left, 0, column);
    load_panels<CHUNK, PANEL, WIDTH>(stage + LEFT_BYTES, right, 0, column);
}

// The thread's group of four warps has 64 rows, the warp 16 of them; a thread has its rows 0 and 8, and of every eight columns 2.
// The group's number comes by a shuffle, so that the compiler takes it for the same in a warp.
DEVICE int own_group() { return __shfl_sync(FULL_WARP, threadIdx.x / 128, 0); }
DEVICE int group_row() { return threadIdx.x / 128 * 64; }
DEVICE int own_row(int half) { return threadIdx.x / 32 * 16 + 8 * half + threadIdx.x % 32 / 4; }
DEVICE int own_column(int j) { return 8 * j + threadIdx.x % 4 * 2; }

// A group's left operand of 64 rows and 16 inner indices: a row for each row, or with A_TRANSPOSED for each inner index. `address` is
// where it would begin if pieces were not exchanged.
template <bool A_TRANSPOSED>
DEVICE void load_left_16(u32 (&a)[4], u32 address)
{
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 % 4 * 16;
    if (A_TRANSPOSED) load_matrix_x4_transposed(a, exchanged(address + (lane % 8 + lane / 16 * 8) * 128 + (m + lane / 8 % 2 * 8) * 2));
    else load_matrix_x4(a, exchanged(address + (m + lane % 16) * 128 + lane / 16 * 16));
}

// The same of 16 inner indices and the right operand's columns n to n + 15: a row for each inner index, in panels `panel` bytes apart, or
// with B_TRANSPOSED for each column.
template <bool B_TRANSPOSED>
DEVICE void load_right_16(u32 (&b)[4], u32 address, u32 panel, int n)
{
    const int lane = threadIdx.x % 32;
    if (B_TRANSPOSED) load_matrix_x4(b, exchanged(address + (n + lane % 8 + lane / 16 * 8) * 128 + lane / 8 % 2 * 16));
    else
        load_matrix_x4_transposed(
            b, exchanged(address + n / PANEL * panel + (lane % 8 + lane / 8 % 2 * 8) * 128 + (n % PANEL + lane / 16 * 8) * 2));
}

// What a thread has of a tile: sum[j][e] is row own_row(e / 2), column own_column(j) + e % 2.
template <int TILE>
struct Part
{
    float sum[TILE / 8][4];

    DEVICE void clear()
    {
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[j][e] = 0.f;
    }

    // The first N columns plus left right over 16 inner indices; operands as above. group_begin stands before the first of a step.
    template <int N, bool A_TRANSPOSED, bool B_TRANSPOSED>
    DEVICE void multiply_16(u32 left, u32 right, u32 panel)
    {
#if WARPGROUPS
        group_multiply<N, A_TRANSPOSED, B_TRANSPOSED>(sum, group_operand(left, panel), group_operand(right, panel));
#else
        u32 a[4];
        load_left_16<A_TRANSPOSED>(a, left);
        multiply_16<N, B_TRANSPOSED>(a, right, panel);
#endif
    }

    // The same with the left operand in registers.
    template <int N, bool B_TRANSPOSED>
    DEVICE void multiply_16(const u32 (&left)[4], u32 right, u32 panel)
    {
#if WARPGROUPS
        group_multiply<N, B_TRANSPOSED>(sum, left, group_operand(right, panel));
#else
#pragma unroll
        for (int n = 0; n < N; n += 16)
        {
            u32 b[4];
            load_right_16<B_TRANSPOSED>(b, right, panel, n);
            mma_bf16(sum[n / 8], left, b[0], b[1]);
            mma_bf16(sum[n / 8 + 1], left, b[2], b[3]);
        }
#endif
    }

    // The first N columns plus left right over a step of an inner dimension of WIDTH, left by rows; the right tile has a row for an inner
    // index or, transposed, for a column.
    template <int N, int WIDTH, bool RIGHT_TRANSPOSED>
    DEVICE void multiply(u32 stage, int step)
    {
        if (WIDTH % K_STEP == 0 || step < WIDTH / K_STEP) multiply_inner<N, K_STEP, RIGHT_TRANSPOSED>(stage);
        else multiply_inner<N, (WIDTH % K_STEP + 15) / 16 * 16, RIGHT_TRANSPOSED>(stage);
    }

    template <int N, int INNER, bool RIGHT_TRANSPOSED>
    DEVICE void multiply_inner(u32 stage)
    {
        group_begin();
#pragma unroll
        for (int k = 0; k < INNER; k += 16)
            multiply_16<N, false, RIGHT_TRANSPOSED>(
                stage + group_row() * 128 + 2 * k, stage + LEFT_BYTES + (RIGHT_TRANSPOSED ? 2 * k : 128 * k), PANEL_BYTES(K_STEP));
    }

    // The same, of a triangle's columns: its first rows have half of them.
    template <int WIDTH>
    DEVICE void multiply_pair(int group, u32 stage, int step)
    {
        if (group == 0) multiply<CHUNK / 2, WIDTH, true>(stage, step);
        else multiply<CHUNK, WIDTH, true>(stage, step);
    }

    // Plus a triangle times the right tile's rows, over a step of CHUNK; what lies right of the diagonal is left out.
    DEVICE void multiply_triangle(int group, u32 triangle, u32 stage, int step)
    {
        if (step > group) return;
        group_begin();
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            multiply_16<TILE, false, false>(
                triangle + step * PANEL_BYTES(CHUNK) + group_row() * 128 + 2 * k, stage + LEFT_BYTES + 128 * k, PANEL_BYTES(K_STEP));
    }

    // The same of the transposed triangle.
    DEVICE void multiply_transposed_triangle(int group, u32 triangle, u32 stage, int step)
    {
        if (step < group) return;
        group_begin();
#pragma unroll
        for (int k = 0; k < K_STEP; k += 16)
            multiply_16<TILE, true, false>(
                triangle + group * PANEL_BYTES(CHUNK) + (step * K_STEP + k) * 128, stage + LEFT_BYTES + 128 * k, PANEL_BYTES(K_STEP));
    }

    // f(pair, j, half) of the thread's pairs of neighbouring elements: pair is float[2] in row own_row(half), from column own_column(j) on.
    template <class F>
    DEVICE void for_pairs(F f)
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) f(sum[j] + 2 * half, j, half);
    }

    // The first `columns`, a multiple of 16, a row times factor[half], to a tensor's rows of WIDTH, the first `count`, from `column` on.
    // Two neighbouring lanes exchange halves of two pieces of eight columns, so that their stores fill sectors of 32 bytes.
    template <int WIDTH>
    DEVICE void store(bf16* RESTRICT out, i64 stride, int count, int column, const float (&factor)[2], int columns = TILE)
    {
        const bool is_odd = threadIdx.x % 2 != 0;
        const int first = column + (is_odd ? 8 : 0) + threadIdx.x % 4 / 2 * 4;
        bf16* to = out + own_row(0) * stride + first;
#pragma unroll
        for (int j = 0; j < TILE / 8; j += 2)
        {
            if (8 * j >= columns) break;
#pragma unroll
            for (int half = 0; half < 2; half++)
            {
                const u32 left = pack_bf16(factor[half] * sum[j][2 * half], factor[half] * sum[j][2 * half + 1]);
                const u32 right = pack_bf16(factor[half] * sum[j + 1][2 * half], factor[half] * sum[j + 1][2 * half + 1]);
                const u32 other = __shfl_xor_sync(FULL_WARP, is_odd ? left : right, 1);
                if (own_row(half) < count && has_column<WIDTH, TILE>(first + 8 * j))
                    *(uint2*)(to + 8 * half * stride + 8 * j) = is_odd ? make_uint2(other, right) : make_uint2(left, other);
            }
        }
    }

    template <int WIDTH>
    DEVICE void store(bf16* RESTRICT out, i64 stride, int count, int column) { store<WIDTH>(out, stride, count, column, {1.f, 1.f}); }
};

// The steps of a block's work, of STEPS for each of its chunks, as one stream: STAGES - 1 loads are on their way while a step is computed,
// also from one product to the next and from one chunk to the next. load(place, step, stage) starts the copies of a chunk's step to the
// shared memory at `stage`. Of `count` chunks a block has every stride-th from `first` on.
template <int STEPS, class Load>
struct Stream
{
    Load load;
    u32 stages;
    int stride, count, chunks, heads;
    int next_chunk, next_step; // to be loaded
    Place next_place;
    int slot; // of the next step to be computed

    DEVICE Stream(u32 stages, int first, int stride, int count, int chunks, int heads, Load load)
        : load(load), stages(stages), stride(stride), count(count), chunks(chunks), heads(heads), next_chunk(first), next_step(0),
          next_place(first, count, chunks, heads), slot(0)
    {
        for (int s = 0; s < STAGES - 1; s++) start(s);
    }

    DEVICE void start(int into)
    {
        if (next_chunk < count) load(next_place, next_step, stages + into * STAGE_BYTES);
        copy_async_commit();
        next_step++;
        if (next_step < STEPS) return;
        next_step = 0;
        next_chunk += stride;
        next_place = Place(next_chunk, count, chunks, heads);
    }

    // Computes a step: products(stage) when it is there; the next load is started while the tensor cores work. Between products and their
    // end no branch may differ among a group's threads, or the compiler waits for each product.
    template <class Products>
    DEVICE void compute(Products products)
    {
        copy_async_wait<STAGES - 2>();
        shared_fence_products();
        __syncthreads(); // all threads have left the step before
        products(stages + slot * STAGE_BYTES);
        group_commit();
        start(slot == 0 ? STAGES - 1 : slot - 1);
        slot = slot == STAGES - 1 ? 0 : slot + 1;
        group_wait();
    }
};

template <int STEPS, class Load>
DEVICE Stream<STEPS, Load> stream(u32 stages, int first, int stride, int count, int chunks, int heads, Load load)
{
    return Stream<STEPS, Load>(stages, first, stride, count, chunks, heads, load);
}

// A number a row and thread, summed over a tile's columns: to all four threads of the row.
DEVICE void sum_rows(float (&x)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++)
    {
        x[half] += __shfl_xor_sync(FULL_WARP, x[half], 1);
        x[half] += __shfl_xor_sync(FULL_WARP, x[half], 2);
    }
}

// The pairs of bfloat16 that the thread has of a tile's place in a tensor's rows of WIDTH, from `column` on: read before they are needed.
template <int TILE>
struct Words
{
    u32 word[TILE / 8][2];

    template <int WIDTH>
    DEVICE void read(Rows rows, int column)
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const bf16* row = rows.data + own_row(half) * rows.stride + column;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
            {
                const bool exists = own_row(half) < rows.count && has_column<WIDTH, TILE>(column + own_column(j));
                word[j][half] = exists ? *(const u32*)(row + own_column(j)) : 0;
            }
        }
    }

    DEVICE float2 pair(int j, int half) const { return make_float2(low_bf16(word[j][half]), high_bf16(word[j][half])); }

    // Adds the dot products with the rows of a tile.
    DEVICE void dot(float (&dot)[2], const Part<TILE>& part) const
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
                dot[half] += pair(j, half).x * part.sum[j][2 * half] + pair(j, half).y * part.sum[j][2 * half + 1];
    }
};

// The pairs of float32 that the thread has of a row of WIDTH, from `column` on; zeros if there is none.
template <int TILE, int WIDTH>
DEVICE void read_pairs(float2 (&pairs)[TILE / 8], const float* row, int column)
{
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
    {
        const bool exists = row && has_column<WIDTH, TILE>(column + own_column(j));
        pairs[j] = exists ? *(const float2*)(row + column + own_column(j)) : make_float2(0.f, 0.f);
    }
}

// The numbers of an array of one a token that the thread's rows have.
DEVICE void read_rows(float (&x)[2], const float* of)
{
    x[0] = of[own_row(0)];
    x[1] = of[own_row(1)];
}

// What the decays of the thread's rows are made of.
struct Decays
{
    float p[2], start[2];

    // rows: the chunk's numbers, in planes.
    DEVICE Decays(const float* rows, i64 plane)
    {
        read_rows(p, rows + ROW_P * plane);
        read_rows(start, rows + ROW_START * plane);
    }

    // f(j, decays, key) of a triangle's elements, four at a time: decays are the E_ij of sum[j], in columns `key` and key + 1. u: the
    // exponents of the chunk's keys, in shared memory.
    template <class F>
    DEVICE void for_all(int group, const float* u, F f) const
    {
        const int first[2] = {(int)start[0], (int)start[1]};
#pragma unroll
        for (int j = 0; j < CHUNK / 8; j++)
        {
            if (j >= CHUNK / 16 && group == 0) break;
            const int key = own_column(j);
            const float2 exponent = *(const float2*)(u + key);
            float decays[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const bool sees = key + e % 2 <= own_row(e / 2) && key + e % 2 >= first[e / 2];
                decays[e] = sees ? exp2_fast((e % 2 ? exponent.y : exponent.x) - p[e / 2]) : 0.f;
            }
            f(j, decays, key);
        }
    }
};

// Starts the copy of a chunk's exponents of keys' weights, a number a token; the first warp has them all, and there may be no branch here.
DEVICE void load_exponents(float* u, const float* rows, i64 plane)
{
    static_assert(CHUNK == 4 * 32, "a warp copies all");
    const int first = threadIdx.x % 32 * 4;
    copy_async_if(shared_address(u + first), rows + ROW_U * plane + first, threadIdx.x < 32);
}
