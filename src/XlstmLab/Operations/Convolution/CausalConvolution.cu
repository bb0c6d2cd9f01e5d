// The causal convolution of each channel by itself, over a token and the K - 1 before it in its document, and SiLU behind it if wanted:
//     u_t = bias + sum over j < K of w_j x_{t-j},  y = SiLU(u) or u,
// where w_j is weight[channel][K - 1 - j], x before the first token is `before` or zero, and no token sees past its document's start.
// Backward, with du = dy SiLU'(u), u being computed again:
//     dx_t = sum over j of w_j du_{t+j},  dw_j = sum over tokens of du_t x_{t-j},  dbias = sum over tokens of du_t.
//
// A lane has VECTOR neighbouring channels and walks RUN tokens, with the K last inputs in registers: besides K - 1 tokens at a run's ends
// (backward twice as many, out of the second-level cache) everything is read once. A warp has 32 VECTOR channels, the warps of a block
// follow each other in time; what a block sums of dw and dbias it leaves in a row of `partials`, which column_sums adds up.
//
// Bytes a channel and token: forward 4, backward 6. 16 x 2048 tokens of 1536 channels: 201 and 302 MB: 67 and 101 us at 3 TB/s.
// Operations, about 15 and 35 with K = 4: 25 and 60 us of all multiprocessors.
#include "Ptx.cuh"

// ConvolutionKernel.cs tells TAPS, K; SILU; LAYOUT, whether document starts are there; VECTOR; RUN; and WARPS.
#define AHEAD 4 // tokens whose loads are issued together
static_assert(TAPS >= 2 && TAPS <= 8 && VECTOR == 4 && RUN % AHEAD == 0, "a lane has 8 bytes of a token");

#define PAST (TAPS - 1)
#define LOG2_E 1.4426950408889634f

typedef uint2 Words;
DEVICE Words no_words() { return make_uint2(0u, 0u); }
DEVICE void unpack(float (&x)[4], Words words)
{
    x[0] = low_bf16(words.x), x[1] = high_bf16(words.x), x[2] = low_bf16(words.y), x[3] = high_bf16(words.y);
}
DEVICE Words pack(const float (&x)[4]) { return make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])); }

// A lane's channels of one row of the batch.
struct Rows
{
    const bf16 *x, *before; // at the row's first token and channel of the lane; before may be null
    const unsigned char* starts;
    int x_stride, channels, length;

    DEVICE Words read(int t) const
    {
        if (t >= 0) return t < length ? *(const Words*)(x + (i64)t * x_stride) : no_words();
        return before ? *(const Words*)(before + (t + PAST) * channels) : no_words();
    }

    DEVICE bool begins(int t) const { return LAYOUT && t >= 0 && t < length && starts[t]; }
};

DEVICE Rows rows_of(
    const bf16* x, const bf16* before, const unsigned char* starts, int x_stride, int length, int channels, int channel)
{
    const i64 row = blockIdx.z;
    if (before) before += row * PAST * channels + channel;
    return {x + row * length * x_stride + channel, before, starts + row * length, x_stride, channels, length};
}

// How many tokens of its document lie before this one, if fewer than K; `since` is that of the token before.
DEVICE int place(bool begins, int since) { return !LAYOUT ? PAST : begins ? 0 : min(since + 1, PAST); }

DEVICE void load_weights(float (&w)[TAPS][VECTOR], float (&shift)[VECTOR], const float* weight, const float* bias, int channel)
{
#pragma unroll
    for (int e = 0; e < VECTOR; e++)
    {
        shift[e] = bias ? bias[channel + e] : 0.f;
#pragma unroll
        for (int j = 0; j < TAPS; j++) w[j][e] = weight[(channel + e) * TAPS + TAPS - 1 - j];
    }
}

// The window moves on by a token: past[j] is what lies j tokens back.
DEVICE void push(float (&past)[TAPS][VECTOR], Words words)
{
#pragma unroll
    for (int j = TAPS - 1; j > 0; j--)
#pragma unroll
        for (int e = 0; e < VECTOR; e++) past[j][e] = past[j - 1][e];
    unpack(past[0], words);
}

DEVICE void convolve(
    float (&u)[VECTOR], const float (&past)[TAPS][VECTOR], const float (&w)[TAPS][VECTOR], const float (&shift)[VECTOR], int since)
{
#pragma unroll
    for (int e = 0; e < VECTOR; e++) u[e] = shift[e];
#pragma unroll
    for (int j = TAPS - 1; j >= 0; j--)
        if (!LAYOUT || j <= since)
#pragma unroll
            for (int e = 0; e < VECTOR; e++) u[e] += w[j][e] * past[j][e];
}

// The state before a run's first token.
DEVICE int begin_run(float (&past)[TAPS][VECTOR], const Rows& rows, int first)
{
    int since = PAST;
#pragma unroll
    for (int e = 0; e < VECTOR; e++) past[0][e] = 0.f;
#pragma unroll
    for (int t = first - PAST; t < first; t++)
    {
        push(past, rows.read(t));
        since = place(rows.begins(t), since);
    }

    return since;
}

// x: rows of x_stride elements, [batch, length] of them; before: [batch, K - 1, channels], or null; weight: [channels, K];
// bias: [channels], or null; starts: [batch, length], read with LAYOUT alone; y: [batch, length, channels].
// channels, x_stride: multiples of VECTOR.
// Grid: (channels / (32 VECTOR), length / (WARPS RUN), batch), rounded up; WARPS warps; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS) convolution_forward(
    const bf16* RESTRICT x, const bf16* RESTRICT before, const float* RESTRICT weight, const float* RESTRICT bias,
    const unsigned char* RESTRICT starts, bf16* RESTRICT y, int x_stride, int length, int channels)
{
    wait_for_predecessors();
    const int channel = (blockIdx.x * 32 + threadIdx.x % 32) * VECTOR, first = (blockIdx.y * WARPS + threadIdx.x / 32) * RUN;
    const i64 token = (i64)blockIdx.z * length;
    if (channel >= channels || first >= length) return;
    const Rows rows = rows_of(x, before, starts, x_stride, length, channels, channel);
    float w[TAPS][VECTOR], shift[VECTOR], past[TAPS][VECTOR];
    load_weights(w, shift, weight, bias, channel);
    int since = begin_run(past, rows, first);
    y += (token + first) * channels + channel;
    const int end = min(first + RUN, length);
    for (int t = first; t < end; t += AHEAD)
    {
        Words words[AHEAD];
        bool begins[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
        {
            words[i] = rows.read(t + i);
            begins[i] = rows.begins(t + i);
        }

#pragma unroll
        for (int i = 0; i < AHEAD; i++, y += channels)
        {
            float u[VECTOR];
            push(past, words[i]);
            since = place(begins[i], since);
            convolve(u, past, w, shift, since);
            if (SILU)
#pragma unroll
                for (int e = 0; e < VECTOR; e++) u[e] *= reciprocal_fast(1.f + exp2_fast(-LOG2_E * u[e]));
            if (t + i < end) *(Words*)y = pack(u);
        }
    }
}

// dx: rows of dx_stride elements; dbefore: [batch, K - 1, channels], or null. dy: [batch, length, channels].
// partials: a row for each blockIdx.z and blockIdx.y, dweight [K, channels], the oldest tap first, and dbias [channels].
// Grid as forward; shared: 4 WARPS 32 VECTOR bytes.
KERNEL void __launch_bounds__(32 * WARPS) convolution_backward(
    const bf16* RESTRICT dy, const bf16* RESTRICT x, const bf16* RESTRICT before, const float* RESTRICT weight, const float* RESTRICT bias,
    const unsigned char* RESTRICT starts, bf16* RESTRICT dx, bf16* RESTRICT dbefore, float* RESTRICT partials,
    int x_stride, int dx_stride, int length, int channels)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    const int channel = (blockIdx.x * 32 + threadIdx.x % 32) * VECTOR, first = (blockIdx.y * WARPS + threadIdx.x / 32) * RUN;
    const i64 token = (i64)blockIdx.z * length;
    float dw[TAPS][VECTOR] = {}, dbias[VECTOR] = {};
    if (channel < channels && first < length)
    {
        const Rows rows = rows_of(x, before, starts, x_stride, length, channels, channel);
        float w[TAPS][VECTOR], shift[VECTOR], past[TAPS][VECTOR], sums[TAPS][VECTOR] = {}; // sums[j]: of dx, j tokens back
        load_weights(w, shift, weight, bias, channel);
        int since = begin_run(past, rows, first);
        dy += token * channels + channel;
        dx += token * dx_stride + channel;
        if (dbefore) dbefore += (i64)blockIdx.z * PAST * channels + channel;

        // The last tokens' dx need the first ones' du of the run behind.
        for (int start = first; start < first + RUN + PAST; start += AHEAD)
        {
            Words words[AHEAD], gradients[AHEAD];
            bool begins[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
            {
                const int t = start + i;
                words[i] = rows.read(t);
                begins[i] = rows.begins(t);
                gradients[i] = t < length ? *(const Words*)(dy + (i64)t * channels) : no_words();
            }

#pragma unroll
            for (int i = 0; i < AHEAD; i++)
            {
                const int t = start + i;
                float u[VECTOR], du[VECTOR];
                push(past, words[i]);
                since = place(begins[i], since);
                unpack(du, gradients[i]);
                if (SILU)
                {
                    convolve(u, past, w, shift, since);
#pragma unroll
                    for (int e = 0; e < VECTOR; e++)
                    {
                        float q = reciprocal_fast(1.f + exp2_fast(-LOG2_E * u[e]));
                        du[e] *= q * (1.f + u[e] * (1.f - q));
                    }
                }

#pragma unroll
                for (int j = 0; j < TAPS; j++)
                {
                    if (!LAYOUT || j <= since)
#pragma unroll
                        for (int e = 0; e < VECTOR; e++) sums[j][e] += w[j][e] * du[e];
                    if (t < first + RUN && (!LAYOUT || j <= since))
#pragma unroll
                        for (int e = 0; e < VECTOR; e++) dw[j][e] += du[e] * past[j][e];
                }

                if (t < first + RUN)
#pragma unroll
                    for (int e = 0; e < VECTOR; e++) dbias[e] += du[e];

                // What the token K - 1 back has summed is all there will be.
                const int done = t - PAST;
                if (done >= first && done < first + RUN && done < length) *(Words*)(dx + (i64)done * dx_stride) = pack(sums[PAST]);
                else if (dbefore && done < 0) *(Words*)(dbefore + (i64)t * channels) = pack(sums[PAST]);
#pragma unroll
                for (int j = TAPS - 1; j > 0; j--)
#pragma unroll
                    for (int e = 0; e < VECTOR; e++) sums[j][e] = sums[j - 1][e];
#pragma unroll
                for (int e = 0; e < VECTOR; e++) sums[0][e] = 0.f;
            }
        }
    }

    // The sums of the block's warps, one tap at a time.
    float* places = (float*)shared;
    float* to = partials + ((i64)blockIdx.z * gridDim.y + blockIdx.y) * (TAPS + 1) * channels;
#pragma unroll
    for (int j = 0; j <= TAPS; j++)
    {
        __syncthreads();
#pragma unroll
        for (int e = 0; e < VECTOR; e++) places[threadIdx.x * VECTOR + e] = j < TAPS ? dw[TAPS - 1 - j][e] : dbias[e];
        __syncthreads();
        for (int i = threadIdx.x; i < 32 * VECTOR; i += 32 * WARPS)
        {
            const int column = blockIdx.x * 32 * VECTOR + i;
            float sum = 0.f;
#pragma unroll
            for (int warp = 0; warp < WARPS; warp++) sum += places[warp * 32 * VECTOR + i];
            if (column < channels) to[j * channels + column] = sum;
        }
    }
}
