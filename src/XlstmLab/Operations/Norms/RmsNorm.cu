// The norms of the residual stream, with the addition before them: s = x + delta, y = w n + b, where n = s r is s over its root mean
// square, r = (mean(s^2) + eps)^-1/2, or, with LAYER_NORM, n = (s - mean(s)) r with the variance in the place of the mean square.
// With g = w dy, the sums of the backward pass are over a row:
//     ds = r (g - n mean(g n) [- mean(g)]) + the gradient that reaches s past the norm,  dw = sum of dy n,  db = sum of dy over rows.
//
// A row of up to 1024 channels belongs to one warp, a wider one to a block, 8 channels a lane at a time, read once and kept in registers
// between the sums and their use. Warps stay and walk the rows, so that weights are read, and their gradients written, once a warp and
// block. What a block has summed of dw and db it leaves in its row of `partials`; column_sums adds those up, always in the same order.
//
// With WIDE the stream, x, s and their gradients, is float32 (Mamba's); delta, y and their gradients are bfloat16 all the same.
//
// Bytes a row of d: forward 2 d of x, 2 d of delta, 2 d of s, 2 d of y; backward 2 d each of dy, s, the gradient past the norm, ds.
// 32768 rows of 768: forward 101 MB alone, 201 MB with the addition; backward 201 MB: 34, 67 and 67 us at 3 TB/s; with WIDE 302 MB forward
// with the addition and 403 MB backward.
// Operations, at most 20 a channel, are a quarter of what the multiprocessors could do meanwhile.
#include "Ptx.cuh"

// NormKernel.cs tells DIM, the channels; LAYER_NORM, BIAS and WIDE; WARPS_PER_ROW; and for either direction the warps of a block and the
// blocks of a multiprocessor, FORWARD_WARPS, FORWARD_BLOCKS, BACKWARD_WARPS and BACKWARD_BLOCKS.
static_assert(DIM % 8 == 0, "a lane has pieces of 8 channels");
static_assert(WARPS_PER_ROW == 1 || (FORWARD_WARPS == WARPS_PER_ROW && BACKWARD_WARPS == WARPS_PER_ROW), "a block has rows, or one row");

#define LANES (32 * WARPS_PER_ROW)
#define PIECES ((DIM / 8 + LANES - 1) / LANES) // of 8 channels, a lane

// The lane's piece p of a row; the last may lie past the row's end.
DEVICE int piece_channel(int p, int lane) { return 8 * (p * LANES + lane); }
DEVICE bool piece_exists(int p, int lane) { return DIM % (8 * LANES) == 0 || piece_channel(p, lane) < DIM; }

DEVICE void load_channels(float (&w)[PIECES][8], const float* RESTRICT from, int lane)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
        if (piece_exists(p, lane))
        {
            float4 low = *(const float4*)(from + piece_channel(p, lane)), high = *(const float4*)(from + piece_channel(p, lane) + 4);
            w[p][0] = low.x, w[p][1] = low.y, w[p][2] = low.z, w[p][3] = low.w;
            w[p][4] = high.x, w[p][5] = high.y, w[p][6] = high.z, w[p][7] = high.w;
        }
    }
}

// Eight channels of the stream as they are stored.
#if WIDE
typedef float stream;
struct Piece
{
    float4 low, high;
};
DEVICE Piece load_piece(const stream* from) { return {*(const float4*)from, *(const float4*)(from + 4)}; }
DEVICE Piece no_piece() { return {make_float4(0.f, 0.f, 0.f, 0.f), make_float4(0.f, 0.f, 0.f, 0.f)}; }
DEVICE void store_piece(stream* to, Piece piece) { *(float4*)to = piece.low, *(float4*)(to + 4) = piece.high; }
DEVICE void unpack(float (&x)[8], Piece piece)
{
    x[0] = piece.low.x, x[1] = piece.low.y, x[2] = piece.low.z, x[3] = piece.low.w;
    x[4] = piece.high.x, x[5] = piece.high.y, x[6] = piece.high.z, x[7] = piece.high.w;
}
DEVICE Piece pack(const float (&x)[8]) { return {make_float4(x[0], x[1], x[2], x[3]), make_float4(x[4], x[5], x[6], x[7])}; }
#else
typedef bf16 stream;
typedef uint4 Piece;
DEVICE Piece load_piece(const stream* from) { return *(const uint4*)from; }
DEVICE Piece no_piece() { return make_uint4(0, 0, 0, 0); }
DEVICE void store_piece(stream* to, Piece piece) { *(uint4*)to = piece; }
DEVICE void unpack(float (&x)[8], Piece piece) { unpack_bf16x8(x, piece); }
DEVICE Piece pack(const float (&x)[8]) { return pack_bf16x8(x); }
#endif

DEVICE void load_stream(Piece (&raw)[PIECES], const stream* from, int lane)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++) raw[p] = piece_exists(p, lane) ? load_piece(from + piece_channel(p, lane)) : no_piece();
}

DEVICE void load_row(uint4 (&raw)[PIECES], const bf16* from, int lane)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        raw[p] = piece_exists(p, lane) ? *(const uint4*)(from + piece_channel(p, lane)) : make_uint4(0, 0, 0, 0);
}

// The sum over a row, alike in all its lanes. The warps of a wide row use two sets of places by turns, so that the next sum may begin
// while a slower warp still reads this one's.
DEVICE float row_sum(float x, float* places, int& turn)
{
    x = warp_sum(x);
    if (WARPS_PER_ROW == 1) return x;
    places += turn;
    turn = WARPS_PER_ROW - turn;
    if (threadIdx.x % 32 == 0) places[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int w = 0; w < WARPS_PER_ROW; w++) total += places[w];
    return total;
}

// delta may be null, and s with it; s may be x. mean is not touched but with LAYER_NORM.
// Grid: any number of blocks, FORWARD_BLOCKS a multiprocessor at best; FORWARD_WARPS warps; shared: 8 WARPS_PER_ROW bytes.
KERNEL void __launch_bounds__(32 * FORWARD_WARPS, FORWARD_BLOCKS) norm_forward(
    const stream* x, const bf16* delta, const float* RESTRICT weight, const float* RESTRICT bias,
    stream* s, bf16* RESTRICT y, float* RESTRICT mean, float* RESTRICT rstd, int rows, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    int lane = threadIdx.x % LANES, turn = 0;
    float w[PIECES][8], b[PIECES][8];
    load_channels(w, weight, lane);
    if (BIAS) load_channels(b, bias, lane);

    const int at_once = FORWARD_WARPS / WARPS_PER_ROW;
    for (int row = blockIdx.x * at_once + threadIdx.x / LANES; row < rows; row += gridDim.x * at_once)
    {
        i64 start = (i64)row * DIM;
        Piece raw[PIECES];
        uint4 added[PIECES];
        load_stream(raw, x + start, lane);
        if (delta) load_row(added, delta + start, lane);
        if (delta)
        {
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                float v[8], a[8];
                unpack(v, raw[p]);
                unpack_bf16x8(a, added[p]);
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] += a[e];
                // The norm sees the sum as it is stored, so that the backward pass reads what was normed.
                raw[p] = pack(v);
                if (piece_exists(p, lane)) store_piece(s + start + piece_channel(p, lane), raw[p]);
            }
        }

        float center = 0;
        if (LAYER_NORM)
        {
            float sum = 0;
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                float v[8];
                unpack(v, raw[p]);
#pragma unroll
                for (int e = 0; e < 8; e++) sum += v[e];
            }

            center = row_sum(sum, (float*)shared, turn) * (1.f / DIM);
        }

        float squares = 0;
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            float v[8];
            unpack(v, raw[p]);
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (piece_exists(p, lane)) squares += (v[e] - center) * (v[e] - center);
        }

        float r = 1.f / sqrtf(row_sum(squares, (float*)shared, turn) * (1.f / DIM) + epsilon);
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            if (piece_exists(p, lane))
            {
                float v[8];
                unpack(v, raw[p]);
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] = (v[e] - center) * r * w[p][e] + (BIAS ? b[p][e] : 0.f);
                *(uint4*)(y + start + piece_channel(p, lane)) = pack_bf16x8(v);
            }
        }

        if (lane == 0)
        {
            rstd[row] = r;
            if (LAYER_NORM) mean[row] = center;
        }
    }
}

// What the block's warps have summed, into the block's row of the partial sums. Every warp has whole rows, or each its part of them.
DEVICE void store_partial(float* partial, const float (&sums)[PIECES][8], float* gathered, int lane)
{
    const int warps = WARPS_PER_ROW > 1 ? 1 : BACKWARD_WARPS; // with a copy of each channel
    float* mine = gathered + (WARPS_PER_ROW > 1 ? 0 : threadIdx.x / 32 * DIM);
    __syncthreads();
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        if (piece_exists(p, lane))
#pragma unroll
            for (int e = 0; e < 8; e++) mine[piece_channel(p, lane) + e] = sums[p][e];
    __syncthreads();
    for (int c = threadIdx.x; c < DIM; c += 32 * BACKWARD_WARPS)
    {
        float total = 0;
#pragma unroll
        for (int w = 0; w < warps; w++) total += gathered[w * DIM + c];
        partial[c] = total;
    }
}

// past, the gradient that reaches s past the norm, may be null; ds may be past. With WIDE ddelta, if it is not null, is ds rounded.
// Row blockIdx.x of the partial sums has dw in its first DIM floats and, with BIAS, db in the next.
// Grid: any number of blocks, BACKWARD_BLOCKS a multiprocessor at best; BACKWARD_WARPS warps;
// shared: 4 DIM (BACKWARD_WARPS / WARPS_PER_ROW) + 8 WARPS_PER_ROW bytes.
KERNEL void __launch_bounds__(32 * BACKWARD_WARPS, BACKWARD_BLOCKS) norm_backward(
    const bf16* RESTRICT dy, const stream* past, const stream* RESTRICT s, const float* RESTRICT mean, const float* RESTRICT rstd,
    const float* RESTRICT weight, stream* ds, float* RESTRICT partials, int rows
#if WIDE
    , bf16* RESTRICT ddelta
#endif
)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    const int at_once = BACKWARD_WARPS / WARPS_PER_ROW;
    float* gathered = (float*)shared;
    float* places = gathered + at_once * DIM;
    int lane = threadIdx.x % LANES, turn = 0;
    float w[PIECES][8], dw[PIECES][8] = {}, db[PIECES][8] = {};
    load_channels(w, weight, lane);

    for (int row = blockIdx.x * at_once + threadIdx.x / LANES; row < rows; row += gridDim.x * at_once)
    {
        i64 start = (i64)row * DIM;
        uint4 raw_dy[PIECES];
        Piece raw_s[PIECES], raw_past[PIECES];
        load_row(raw_dy, dy + start, lane);
        load_stream(raw_s, s + start, lane);
        if (past) load_stream(raw_past, past + start, lane);
        float r = rstd[row], center = LAYER_NORM ? mean[row] : 0.f;

        float sum_g = 0, sum_gn = 0;
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            if (piece_exists(p, lane))
            {
                float d[8], n[8];
                unpack_bf16x8(d, raw_dy[p]);
                unpack(n, raw_s[p]);
#pragma unroll
                for (int e = 0; e < 8; e++)
                {
                    float xhat = (n[e] - center) * r, g = d[e] * w[p][e];
                    sum_gn += g * xhat;
                    if (LAYER_NORM) sum_g += g;
                    dw[p][e] += d[e] * xhat;
                    if (BIAS) db[p][e] += d[e];
                }
            }
        }

        float mean_gn = row_sum(sum_gn, places, turn) * (1.f / DIM);
        float mean_g = LAYER_NORM ? row_sum(sum_g, places, turn) * (1.f / DIM) : 0.f;
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            if (piece_exists(p, lane))
            {
                float d[8], n[8];
                unpack_bf16x8(d, raw_dy[p]);
                unpack(n, raw_s[p]);
#pragma unroll
                for (int e = 0; e < 8; e++) n[e] = r * (d[e] * w[p][e] - (n[e] - center) * r * mean_gn - mean_g);
                if (past)
                {
                    unpack(d, raw_past[p]);
#pragma unroll
                    for (int e = 0; e < 8; e++) n[e] += d[e];
                }

                store_piece(ds + start + piece_channel(p, lane), pack(n));
#if WIDE
                if (ddelta) *(uint4*)(ddelta + start + piece_channel(p, lane)) = pack_bf16x8(n);
#endif
            }
        }
    }

    float* partial = partials + (i64)blockIdx.x * (BIAS ? 2 * DIM : DIM);
    store_partial(partial, dw, gathered, lane);
    if (BIAS) store_partial(partial + DIM, db, gathered, lane);
}
