// What follows the cell in an mLSTM layer: y = sigmoid(o) * (w n + b), with n the head's output h normed within the head,
// n = (h - mean(h)) (var(h) + eps)^-1/2 or h (mean(h^2) + eps)^-1/2. Backward, with s = sigmoid(o), z = w n + b, g = w s dy:
//     do = dy z s (1 - s),  dh = r (g - mean(g) - n mean(g n)),  dw = sum of dy s n,  db = sum of dy s over tokens;
// mean(g) is there for the LayerNorm only. n is computed again from h, which costs no bytes.
//
// A warp has one head and walks the tokens, a few at a time; h, o and y of a token and head are one stretch of memory each. A head of less
// than 256 channels takes part of a warp, which then has several tokens. Weights and the sums of their gradients stay in registers; what a
// block has summed it leaves in its row of `partials`; column_sums adds those up, always in the same order.
//
// Bytes a token of NH DV channels: forward 2 of h, 2 of o, 2 of y a channel; backward 2 each of dy, h, o, dh, do.
// 32768 tokens of 4 heads of 256: 201 MB and 336 MB: 67 and 112 us at 3 TB/s (4 of 192: 50 and 84). Operations: about 25 and 45 a channel,
// half of what the multiprocessors could do meanwhile; two of the special-function unit.
#include "Ptx.cuh"

// HeadNormGateKernel.cs tells HEAD_DIM, DV; NORM, one of the two below; GATED and BIAS; WARPS; and BLOCKS, a multiprocessor.
#define NORM_RMS 1
#define NORM_LAYER 2
static_assert(HEAD_DIM % 8 == 0 && (NORM == NORM_RMS || NORM == NORM_LAYER), "a lane has pieces of 8 channels, and there are two norms");

#define FORWARD_TOKENS (HEAD_DIM > 512 ? 1 : 2) // at a time
#define BACKWARD_TOKENS 1

#define LANES (HEAD_DIM > 128 ? 32 : HEAD_DIM > 64 ? 16 : HEAD_DIM > 32 ? 8 : HEAD_DIM > 16 ? 4 : HEAD_DIM > 8 ? 2 : 1)
#define PIECES ((HEAD_DIM / 8 + LANES - 1) / LANES) // of 8 channels, a lane
#define TOKENS_AT_ONCE (WARPS * (32 / LANES))
#define LOG2_E 1.4426950408889634f

DEVICE int piece_channel(int p) { return 8 * (p * LANES + threadIdx.x % LANES); }
DEVICE bool piece_exists(int p) { return HEAD_DIM % (8 * LANES) == 0 || piece_channel(p) < HEAD_DIM; }

// Zeros past the head's end, where h, o and dy are zeros too and add nothing to any sum.
DEVICE void load_channels(float (&w)[PIECES][8], const float* RESTRICT from)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
        if (piece_exists(p))
        {
            float4 low = *(const float4*)(from + piece_channel(p)), high = *(const float4*)(from + piece_channel(p) + 4);
            w[p][0] = low.x, w[p][1] = low.y, w[p][2] = low.z, w[p][3] = low.w;
            w[p][4] = high.x, w[p][5] = high.y, w[p][6] = high.z, w[p][7] = high.w;
        }
        else
        {
#pragma unroll
            for (int e = 0; e < 8; e++) w[p][e] = 0;
        }
    }
}

DEVICE void load_head(uint4 (&raw)[PIECES], const bf16* from, bool exists)
{
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        raw[p] = exists && piece_exists(p) ? load_once(from + piece_channel(p)) : make_uint4(0, 0, 0, 0);
}

DEVICE float head_sum(float x)
{
#pragma unroll
    for (int o = LANES / 2; o > 0; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
    return x;
}

DEVICE float sigmoid(float x) { return reciprocal_fast(1.f + exp2_fast(-LOG2_E * x)); }

// What h is shifted and multiplied by: the mean, or 0, and r.
DEVICE void head_moments(const uint4 (&raw)[PIECES], float epsilon, float& center, float& r)
{
    center = 0, r = 1;
    if (NORM == NORM_LAYER)
    {
        float sum = 0;
#pragma unroll
        for (int p = 0; p < PIECES; p++)
        {
            float h[8];
            unpack_bf16x8(h, raw[p]);
#pragma unroll
            for (int e = 0; e < 8; e++) sum += h[e];
        }

        center = head_sum(sum) * (1.f / HEAD_DIM);
    }

    float squares = 0;
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
        float h[8];
        unpack_bf16x8(h, raw[p]);
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (piece_exists(p)) squares += (h[e] - center) * (h[e] - center);
    }

    r = 1.f / sqrtf(head_sum(squares) * (1.f / HEAD_DIM) + epsilon);
}

// h[b, s, head] is at b h_batch + head h_head + s h_token; o[b S + s, head] at (b S + s) o_stride + head HEAD_DIM; y is [B S, NH HEAD_DIM].
// Grid: (any number, NH), together BLOCKS blocks a multiprocessor at best; WARPS warps; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS, BLOCKS) head_norm_gate_forward(
    const bf16* RESTRICT h, const bf16* RESTRICT o, const float* RESTRICT weight, const float* RESTRICT bias, bf16* RESTRICT y,
    i64 h_batch, i64 h_head, i64 h_token, i64 o_stride, int tokens, int sequence, float epsilon)
{
    wait_for_predecessors();
    int head = blockIdx.y, channel = head * HEAD_DIM;
    float w[PIECES][8], b[PIECES][8];
    load_channels(w, weight + channel);
    if (BIAS) load_channels(b, bias + channel);

    // All lanes take the same turns, the last perhaps for tokens that do not exist: lanes of several tokens sum together.
    int mine = blockIdx.x * TOKENS_AT_ONCE + threadIdx.x / LANES, step = gridDim.x * TOKENS_AT_ONCE;
    for (int first = 0; first < tokens; first += FORWARD_TOKENS * step)
    {
        uint4 raw_h[FORWARD_TOKENS][PIECES], raw_o[FORWARD_TOKENS][PIECES];
#pragma unroll
        for (int u = 0; u < FORWARD_TOKENS; u++)
        {
            int token = first + u * step + mine;
            load_head(raw_h[u], h + token / sequence * h_batch + head * h_head + token % sequence * h_token, token < tokens);
            if (GATED) load_head(raw_o[u], o + token * o_stride + channel, token < tokens);
        }

#pragma unroll
        for (int u = 0; u < FORWARD_TOKENS; u++)
        {
            int token = first + u * step + mine;
            float center, r;
            head_moments(raw_h[u], epsilon, center, r);
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                float z[8], gate[8];
                unpack_bf16x8(z, raw_h[u][p]);
                if (GATED) unpack_bf16x8(gate, raw_o[u][p]);
#pragma unroll
                for (int e = 0; e < 8; e++)
                {
                    z[e] = (z[e] - center) * r * w[p][e] + (BIAS ? b[p][e] : 0.f);
                    if (GATED) z[e] *= sigmoid(gate[e]);
                }

                if (token < tokens && piece_exists(p))
                    *(uint4*)(y + (i64)token * gridDim.y * HEAD_DIM + channel + piece_channel(p)) = pack_bf16x8(z);
            }
        }
    }
}

// What the block has summed for its head, into its part of the block's row of the partial sums.
DEVICE void store_partial(float* partial, float (&sums)[PIECES][8], float* gathered)
{
    int warp = threadIdx.x / 32;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < PIECES; p++)
    {
#pragma unroll
        for (int e = 0; e < 8; e++)
        {
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) sums[p][e] += __shfl_xor_sync(FULL_WARP, sums[p][e], o);
            if (threadIdx.x % 32 < LANES && piece_exists(p)) gathered[warp * HEAD_DIM + piece_channel(p) + e] = sums[p][e];
        }
    }

    __syncthreads();
    for (int c = threadIdx.x; c < HEAD_DIM; c += 32 * WARPS)
    {
        float total = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += gathered[w * HEAD_DIM + c];
        partial[c] = total;
    }
}

// dy, dh and d_o are [B S, NH HEAD_DIM]. Row blockIdx.x of the partial sums has dw in its first NH HEAD_DIM floats and, with BIAS, db in
// the next.
// Grid: (any number, NH), together BLOCKS blocks a multiprocessor at best; WARPS warps; shared: 4 WARPS HEAD_DIM bytes.
KERNEL void __launch_bounds__(32 * WARPS, BLOCKS) head_norm_gate_backward(
    const bf16* RESTRICT dy, const bf16* RESTRICT h, const bf16* RESTRICT o, const float* RESTRICT weight, const float* RESTRICT bias,
    bf16* RESTRICT dh, bf16* RESTRICT d_o, float* RESTRICT partials,
    i64 h_batch, i64 h_head, i64 h_token, i64 o_stride, int tokens, int sequence, float epsilon)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    int head = blockIdx.y, channel = head * HEAD_DIM, channels = gridDim.y * HEAD_DIM;
    float w[PIECES][8], b[PIECES][8], dw[PIECES][8] = {}, db[PIECES][8] = {};
    load_channels(w, weight + channel);
    if (BIAS) load_channels(b, bias + channel);

    int mine = blockIdx.x * TOKENS_AT_ONCE + threadIdx.x / LANES, step = gridDim.x * TOKENS_AT_ONCE;
    for (int first = 0; first < tokens; first += BACKWARD_TOKENS * step)
    {
        uint4 raw_dy[BACKWARD_TOKENS][PIECES], raw_h[BACKWARD_TOKENS][PIECES], raw_o[BACKWARD_TOKENS][PIECES];
#pragma unroll
        for (int u = 0; u < BACKWARD_TOKENS; u++)
        {
            int token = first + u * step + mine;
            load_head(raw_h[u], h + token / sequence * h_batch + head * h_head + token % sequence * h_token, token < tokens);
            load_head(raw_dy[u], dy + (i64)token * channels + channel, token < tokens);
            if (GATED) load_head(raw_o[u], o + token * o_stride + channel, token < tokens);
        }

#pragma unroll
        for (int u = 0; u < BACKWARD_TOKENS; u++)
        {
            int token = first + u * step + mine;
            float center, r, sum_g = 0, sum_gn = 0;
            head_moments(raw_h[u], epsilon, center, r);
            if (token >= tokens) r = 0; // its zeros must not meet an infinite r where epsilon is 0
            float g[PIECES][8];
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                float n[8], gate[8];
                unpack_bf16x8(n, raw_h[u][p]);
                unpack_bf16x8(g[p], raw_dy[u][p]);
                if (GATED) unpack_bf16x8(gate, raw_o[u][p]);
#pragma unroll
                for (int e = 0; e < 8; e++)
                {
                    float dy_e = g[p][e], scale = w[p][e];
                    n[e] = (n[e] - center) * r;
                    if (GATED)
                    {
                        float s = sigmoid(gate[e]), z = n[e] * scale + (BIAS ? b[p][e] : 0.f);
                        gate[e] = dy_e * z * s * (1.f - s);
                        dy_e *= s;
                    }

                    dw[p][e] += dy_e * n[e];
                    if (BIAS) db[p][e] += dy_e;
                    g[p][e] = dy_e * scale;
                    sum_g += g[p][e];
                    sum_gn += g[p][e] * n[e];
                }

                if (GATED && token < tokens && piece_exists(p))
                    *(uint4*)(d_o + (i64)token * channels + channel + piece_channel(p)) = pack_bf16x8(gate);
            }

            float mean_g = NORM == NORM_LAYER ? head_sum(sum_g) * (1.f / HEAD_DIM) : 0.f;
            float mean_gn = head_sum(sum_gn) * (1.f / HEAD_DIM);
            bf16* to = dh + (i64)token * channels + channel;
#pragma unroll
            for (int p = 0; p < PIECES; p++)
            {
                float n[8];
                unpack_bf16x8(n, raw_h[u][p]);
#pragma unroll
                for (int e = 0; e < 8; e++) n[e] = r * (g[p][e] - mean_g - (n[e] - center) * r * mean_gn);
                if (token < tokens && piece_exists(p)) *(uint4*)(to + piece_channel(p)) = pack_bf16x8(n);
            }
        }
    }

    float* partial = partials + (i64)blockIdx.x * (BIAS ? 2 : 1) * channels + channel;
    store_partial(partial, dw, (float*)shared);
    if (BIAS) store_partial(partial + channels, db, (float*)shared);
}
