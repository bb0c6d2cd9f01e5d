// The middle of a feed-forward layer: y = f(g) u with f = SiLU (SwiGLU) or GELU (GeGLU), or y = f(g) alone (ReLU^2, or a plain GELU).
// Backward: dg = dy u f'(g), du = dy f(g). With q = sigmoid(g): SiLU = g q, SiLU' = q (1 + g (1 - q)); with P the normal distribution and
// p its density: GELU = g P(g), GELU' = P(g) + g p(g); (relu(g)^2)' = 2 relu(g).
//
// One thread has 8 neighbouring channels of a few rows' stretch, all of whose loads it issues at once.
// Bytes a channel: forward 6 (4 without u), backward 10 (6).
// 32768 rows of 2048: 403 and 671 MB: 134 and 224 us at 3 TB/s. Operations: about 15 and 25 a channel, a third of what there is time for.
#include "Ptx.cuh"

// GluKernel.cs tells ACTIVATION, one of the three below; GATED, whether u is there; INNER, F; THREADS; and FORWARD_PIECES and
// BACKWARD_PIECES, of 8 channels, a thread.
#define SILU 0
#define GELU 1
#define RELU_SQUARED 2
static_assert(INNER % 8 == 0 && ACTIVATION >= SILU && ACTIVATION <= RELU_SQUARED, "a thread has pieces of 8 channels, and there are three");

#define LOG2_E 1.4426950408889634f

// f(x) and f'(x).
DEVICE void activate(float x, float& f, float& slope)
{
    if (ACTIVATION == SILU)
    {
        float q = reciprocal_fast(1.f + exp2_fast(-LOG2_E * x));
        f = x * q;
        slope = q + f * (1.f - q);
    }
    else if (ACTIVATION == GELU)
    {
        float distribution = 0.5f + 0.5f * erff(0.7071067811865476f * x);
        f = x * distribution;
        slope = distribution + x * 0.3989422804014327f * exp2_fast(-0.5f * LOG2_E * x * x);
    }
    else
    {
        float positive = fmaxf(x, 0.f);
        f = positive * positive;
        slope = 2.f * positive;
    }
}

// The row of piece i of all rows, fewer than 2^31 pieces, and the channel at which it starts.
DEVICE bool locate(u32 i, int rows, int& row, int& channel)
{
    const u32 pieces = INNER / 8;
    row = (int)(i / pieces);
    channel = (int)(8 * (i % pieces));
    return row < rows;
}

// g, u: rows of g_stride and u_stride elements, so that both may be halves of one array; y is [rows, INNER].
// Grid: rows INNER / 8 / (THREADS FORWARD_PIECES), rounded up; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) glu_forward(
    const bf16* RESTRICT g, const bf16* RESTRICT u, bf16* RESTRICT y, i64 g_stride, i64 u_stride, int rows)
{
    wait_for_predecessors();
    u32 first = blockIdx.x * THREADS * FORWARD_PIECES + threadIdx.x;
    uint4 raw_g[FORWARD_PIECES], raw_u[FORWARD_PIECES];
    int row, channel;
#pragma unroll
    for (int p = 0; p < FORWARD_PIECES; p++)
    {
        if (locate(first + p * THREADS, rows, row, channel))
        {
            raw_g[p] = load_once(g + row * g_stride + channel);
            if (GATED) raw_u[p] = load_once(u + row * u_stride + channel);
        }
    }

#pragma unroll
    for (int p = 0; p < FORWARD_PIECES; p++)
    {
        if (locate(first + p * THREADS, rows, row, channel))
        {
            float x[8], up[8], slope;
            unpack_bf16x8(x, raw_g[p]);
            if (GATED) unpack_bf16x8(up, raw_u[p]);
#pragma unroll
            for (int e = 0; e < 8; e++)
            {
                activate(x[e], x[e], slope);
                if (GATED) x[e] *= up[e];
            }

            *(uint4*)(y + (i64)row * INNER + channel) = pack_bf16x8(x);
        }
    }
}

// dy is [rows, INNER]; dg and du are, with rows at a distance of d_stride.
// Grid: rows INNER / 8 / (THREADS BACKWARD_PIECES), rounded up; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) glu_backward(
    const bf16* dy, const bf16* g, const bf16* u, bf16* dg, bf16* du, i64 g_stride, i64 u_stride, i64 d_stride, int rows)
{
    wait_for_predecessors();
    u32 first = blockIdx.x * THREADS * BACKWARD_PIECES + threadIdx.x;
    uint4 raw_dy[BACKWARD_PIECES], raw_g[BACKWARD_PIECES], raw_u[BACKWARD_PIECES];
    int row, channel;
#pragma unroll
    for (int p = 0; p < BACKWARD_PIECES; p++)
    {
        if (locate(first + p * THREADS, rows, row, channel))
        {
            raw_g[p] = *(const uint4*)(g + row * g_stride + channel);
            if (GATED) raw_u[p] = *(const uint4*)(u + row * u_stride + channel);
            raw_dy[p] = *(const uint4*)(dy + (i64)row * INNER + channel);
        }
    }

#pragma unroll
    for (int p = 0; p < BACKWARD_PIECES; p++)
    {
        if (locate(first + p * THREADS, rows, row, channel))
        {
            float x[8], up[8], d[8];
            unpack_bf16x8(x, raw_g[p]);
            if (GATED) unpack_bf16x8(up, raw_u[p]);
            unpack_bf16x8(d, raw_dy[p]);
#pragma unroll
            for (int e = 0; e < 8; e++)
            {
                float f, slope;
                activate(x[e], f, slope);
                x[e] = d[e] * slope;
                if (GATED)
                {
                    x[e] *= up[e];
                    up[e] = d[e] * f;
                }
            }

            *(uint4*)(dg + row * d_stride + channel) = pack_bf16x8(x);
            if (GATED) *(uint4*)(du + row * d_stride + channel) = pack_bf16x8(up);
        }
    }
}
