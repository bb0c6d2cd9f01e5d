// Both gates' pre-activations of an mLSTM, one of each a head: z = W x + b, p = a tanh(z / a), with x bfloat16 and all else float32.
// Backward: dz = dp (1 - (p / a)^2),  dx = W^T dz,  dW = sum of dz x^T,  db = sum of dz over tokens.
//
// The eight to 64 products a channel would keep the float32 units busier than the memory, so the tensor cores take them, exactly: x is
// bfloat16 anyway, and W = high + mid + low, three bfloat16 of 8 bits each, so that every product is exact in the float32 accumulator;
// its sums, rounded towards zero, go on for 128 channels and are then added up in float32. Gradients are split in two, to 2^-17.
// The order of the k (or n) indices of a tensor-core product is free as long as both operands agree: it is chosen such that a lane's
// operands, or results, are 8 neighbouring channels of a row, 16 bytes of memory.
//
// Bytes, N tokens of d: forward 2 N d; dx 2 N d written, and as many read of past; dW 2 N d read: 32768 x 768: 50 MB each and 17 us at 3
// TB/s. Operations of the tensor cores with 8 outputs: 1.2, 1.6, 0.8 GFLOP: 2 us each.
#include "Ptx.cuh"

// GateKernel.cs tells DIM, the channels, and HEADS; TILES, of eight outputs; FORWARD_CHANNELS and INPUT_CHANNELS, those of W that are in
// shared memory at a time, with FORWARD_BYTES and INPUT_BYTES; WARPS, of these two; and for dW WEIGHT_WARPS, WEIGHT_BLOCKS, a
// multiprocessor, and WEIGHT_TOKENS, a step.
#define OUTPUTS (2 * HEADS) // the input gates, then the forget gates
#define CHUNKS ((DIM + FORWARD_CHANNELS - 1) / FORWARD_CHANNELS)
#define WEIGHT_ROW (2 * FORWARD_CHANNELS + 64) // bytes; the 64 keep two rows' lanes in different banks
static_assert(DIM % 8 == 0 && FORWARD_CHANNELS % 128 == 0 && INPUT_CHANNELS == 128, "a lane has pieces of 8 channels of each 32");
static_assert(TILES == (OUTPUTS + 7) / 8 && WEIGHT_TOKENS == 32, "products of tensor cores");
static_assert(FORWARD_BYTES == 24 * TILES * WEIGHT_ROW && INPUT_BYTES == 32 * TILES * INPUT_CHANNELS, "the parts of W");

#define NOTHING make_uint4(0, 0, 0, 0)

// x = high + mid + low, exactly unless it is near the smallest numbers.
DEVICE void split(float x, float& high, float& mid, float& low)
{
    high = from_bf16(to_bf16(x));
    mid = from_bf16(to_bf16(x - high));
    low = x - high - mid;
}

// The row of W of an output, or null where there is no such gate.
DEVICE const float* weight_row(const float* input_weight, const float* forget_weight, int output)
{
    const float* gate = output < HEADS ? input_weight : forget_weight;
    return gate && output < OUTPUTS ? gate + (i64)(output % HEADS) * DIM : 0;
}

// The eight 16-byte pieces that a lane has of rows r0 and r1 in the 128 channels from `channel` on: 8 channels of each 32.
DEVICE void load_pieces(uint4 (&raw)[2][4], const bf16* r0, const bf16* r1, int channel)
{
#pragma unroll
    for (int j = 0; j < 4; j++)
    {
        int c = channel + 32 * j + 8 * (threadIdx.x % 4);
        raw[0][j] = c < DIM ? *(const uint4*)(r0 + c) : NOTHING;
        raw[1][j] = c < DIM ? *(const uint4*)(r1 + c) : NOTHING;
    }
}

// The parts of W from `channel` on: shared[part, output, channel], zeros where there is nothing.
DEVICE void stage_weights(unsigned char* shared, const float* input_weight, const float* forget_weight, int channel)
{
    const int pieces = FORWARD_CHANNELS / 4, count = 8 * TILES * pieces, threads = 32 * WARPS;
#pragma unroll 4
    for (int turn = 0; turn < (count + threads - 1) / threads; turn++)
    {
        int k = turn * threads + threadIdx.x;
        if (count % threads != 0 && k >= count) break;
        int output = k / pieces, c = 4 * (k % pieces);
        const float* row = weight_row(input_weight, forget_weight, output);
        float4 w = make_float4(0, 0, 0, 0);
        if (row && channel + c < DIM) w = *(const float4*)(row + channel + c);
        float parts[3][4];
        split(w.x, parts[0][0], parts[1][0], parts[2][0]);
        split(w.y, parts[0][1], parts[1][1], parts[2][1]);
        split(w.z, parts[0][2], parts[1][2], parts[2][2]);
        split(w.w, parts[0][3], parts[1][3], parts[2][3]);
#pragma unroll
        for (int p = 0; p < 3; p++)
            *(uint2*)(shared + (p * 8 * TILES + output) * WEIGHT_ROW + 2 * c)
                = make_uint2(pack_bf16(parts[p][0], parts[p][1]), pack_bf16(parts[p][2], parts[p][3]));
    }
}

// Where the first head's gate has its number of a token; the next head's is `sequence` further.
DEVICE i64 gate_place(int token, int sequence)
{
    const int number = token / sequence;
    return (i64)number * HEADS * sequence + (token - number * sequence);
}

// Weights are [HEADS, DIM], biases [HEADS]; each may be null and counts as zeros; input or forget is null where the cell has no such gate.
// Pre-activations are [sequences, HEADS, sequence]. cap 0: none.
// A warp has 16 tokens. Grid: any number of blocks, 2 a multiprocessor at best; WARPS warps; shared: FORWARD_BYTES.
KERNEL void __launch_bounds__(32 * WARPS, TILES > 4 ? 1 : 2) gate_forward(
    const bf16* RESTRICT x, const float* RESTRICT input_weight, const float* RESTRICT forget_weight,
    const float* RESTRICT input_bias, const float* RESTRICT forget_bias, float* RESTRICT input, float* RESTRICT forget,
    int tokens, int sequence, float cap)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, pair = lane % 4 * 2;
    bool staged = false;
    for (int start = blockIdx.x * 16 * WARPS; start < tokens; start += gridDim.x * 16 * WARPS)
    {
        int token0 = start + 16 * warp + group, token1 = token0 + 8;
        const bf16* r0 = x + (i64)min(token0, tokens - 1) * DIM;
        const bf16* r1 = x + (i64)min(token1, tokens - 1) * DIM;
        float sums[TILES][4] = {};
        for (int chunk = 0; chunk < CHUNKS; chunk++)
        {
            uint4 raw[2][4], next[2][4];
            load_pieces(raw, r0, r1, chunk * FORWARD_CHANNELS);
            if (CHUNKS > 1 || !staged)
            {
                if (staged) __syncthreads();
                stage_weights(shared, input_weight, forget_weight, chunk * FORWARD_CHANNELS);
                staged = true;
                __syncthreads();
            }

#pragma unroll 2
            for (int c = 0; c < FORWARD_CHANNELS; c += 128)
            {
                if (c + 128 < FORWARD_CHANNELS) load_pieces(next, r0, r1, chunk * FORWARD_CHANNELS + c + 128);
                float some[TILES][4] = {};
#pragma unroll
                for (int j = 0; j < 4; j++)
                {
                    u32 first[4] = {raw[0][j].x, raw[1][j].x, raw[0][j].y, raw[1][j].y};
                    u32 second[4] = {raw[0][j].z, raw[1][j].z, raw[0][j].w, raw[1][j].w};
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)
                    {
#pragma unroll
                        for (int p = 2; p >= 0; p--)
                        {
                            uint4 w = *(const uint4*)(
                                shared + ((p * TILES + tile) * 8 + group) * WEIGHT_ROW + 2 * (c + 32 * j + 8 * (lane % 4)));
                            mma_bf16(some[tile], first, w.x, w.y);
                            mma_bf16(some[tile], second, w.z, w.w);
                        }
                    }
                }

#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                    for (int e = 0; e < 4; e++) sums[tile][e] += some[tile][e];
#pragma unroll
                for (int j = 0; j < 4; j++) raw[0][j] = next[0][j], raw[1][j] = next[1][j];
            }
        }

        const i64 places[2] = {gate_place(token0, sequence), gate_place(token1, sequence)};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
        {
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                int output = 8 * tile + pair + e % 2, token = e < 2 ? token0 : token1;
                bool is_input = output < HEADS;
                float* to = is_input ? input : forget;
                const float* bias = is_input ? input_bias : forget_bias;
                if (output >= OUTPUTS || token >= tokens || !to) continue;
                float z = sums[tile][e] + (bias ? bias[output % HEADS] : 0.f);
                if (cap > 0) z = cap * tanhf(z / cap);
                to[places[e / 2] + (i64)(output % HEADS) * sequence] = z;
            }
        }
    }
}

// What makes dz of dp.
struct GateGradients
{
    const float *d_input, *d_forget, *input, *forget; // the gradients, either of which may be null, and the pre-activations
    int tokens, sequence;
    float inverse_cap; // 0: none

    // dp and p of an output and of the token at a place. They are read without a branch, so that all that a thread reads is on its way at
    // once; dp is zero where there is no such output, token or gate.
    DEVICE float2 read(int token, i64 place, int output) const
    {
        const bool is_input = output < HEADS;
        const float *gradient = is_input ? d_input : d_forget, *value = is_input ? input : forget;
        const bool exists = gradient && token < tokens && output < OUTPUTS;
        const i64 at = exists ? place + (i64)(output % HEADS) * sequence : 0;
        const float dp = (exists ? gradient : value)[at], p = value[at];
        return make_float2(exists ? dp : 0.f, p);
    }

    DEVICE float slope(float2 read) const
    {
        const float share = read.y * inverse_cap;
        return read.x == 0.f ? 0.f : read.x * (1.f - share * share);
    }
};

// dx = past + W^T dz, with x's gradient from elsewhere, if it is given. The gradients dp lie as the pre-activations p do; a gate's may be
// null. A warp has 16 tokens, a block INPUT_CHANNELS channels: few, so that there are blocks enough and all of a lane's loads are on their
// way at once. Grid: (any number, (DIM + INPUT_CHANNELS - 1) / INPUT_CHANNELS); WARPS warps; shared: INPUT_BYTES.
KERNEL void __launch_bounds__(32 * WARPS, TILES > 4 ? 1 : 2) gate_backward_input(
    const float* RESTRICT d_input, const float* RESTRICT d_forget, const float* RESTRICT input, const float* RESTRICT forget,
    const float* RESTRICT input_weight, const float* RESTRICT forget_weight, const bf16* RESTRICT past, bf16* RESTRICT dx,
    int tokens, int sequence, float cap)
{
    wait_for_predecessors();
    // Word j of entry [channels / 32, tile, part, lane]: W of outputs 2 (lane % 4) and the next at channel 8 (group / 2) + 2 j + group % 2.
    SHARED_MEMORY(shared);
    uint4* weights = (uint4*)shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, pair = lane % 4 * 2;
    int base = blockIdx.y * INPUT_CHANNELS;
    const int entries = INPUT_CHANNELS / 32 * TILES;
    const GateGradients gates = {d_input, d_forget, input, forget, tokens, sequence, cap > 0 ? 1.f / cap : 0.f};
    bool staged = false;
    for (int start = blockIdx.x * 16 * WARPS; start < tokens; start += gridDim.x * 16 * WARPS)
    {
        int token0 = start + 16 * warp + group, token1 = token0 + 8;
        const i64 place0 = gate_place(token0, sequence), place1 = gate_place(token1, sequence);
        float2 read[TILES][2][2];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int next = 0; next < 2; next++)
            {
                read[tile][0][next] = gates.read(token0, place0, 8 * tile + pair + next);
                read[tile][1][next] = gates.read(token1, place1, 8 * tile + pair + next);
            }

        uint4 before[2][4] = {};
        if (past) load_pieces(before, past + (i64)min(token0, tokens - 1) * DIM, past + (i64)min(token1, tokens - 1) * DIM, base);
        if (!staged)
        {
#pragma unroll
            for (int turn = 0; turn < (entries + WARPS - 1) / WARPS; turn++)
            {
                int k = turn * WARPS + warp;
                if (entries % WARPS != 0 && k >= entries) break;
                int block = k / TILES, tile = k % TILES;
                const float* even = weight_row(input_weight, forget_weight, 8 * tile + pair);
                const float* odd = weight_row(input_weight, forget_weight, 8 * tile + pair + 1);
                u32 high[4], low[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                {
                    int c = base + 32 * block + group / 2 * 8 + 2 * j + group % 2;
                    float w0 = even && c < DIM ? even[c] : 0.f, w1 = odd && c < DIM ? odd[c] : 0.f;
                    high[j] = pack_bf16(w0, w1);
                    low[j] = pack_bf16(w0 - low_bf16(high[j]), w1 - high_bf16(high[j]));
                }

                weights[(2 * k) * 32 + lane] = make_uint4(high[0], high[1], high[2], high[3]);
                weights[(2 * k + 1) * 32 + lane] = make_uint4(low[0], low[1], low[2], low[3]);
            }

            staged = true;
            __syncthreads();
        }

        u32 a[TILES][4]; // both parts of dz: outputs of the tile in the first 8 of k, what they leave in the last 8
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
        {
#pragma unroll
            for (int r = 0; r < 2; r++)
            {
                float z0 = gates.slope(read[tile][r][0]), z1 = gates.slope(read[tile][r][1]);
                a[tile][r] = pack_bf16(z0, z1);
                a[tile][r + 2] = pack_bf16(z0 - low_bf16(a[tile][r]), z1 - high_bf16(a[tile][r]));
            }
        }

#pragma unroll
        for (int j = 0; j < 4; j++)
        {
            float products[4][4] = {};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
            {
                int entry = 2 * (j * TILES + tile);
                uint4 high = weights[entry * 32 + lane], low = weights[(entry + 1) * 32 + lane];
                mma_bf16(products[0], a[tile], high.x, high.x);
                mma_bf16(products[1], a[tile], high.y, high.y);
                mma_bf16(products[2], a[tile], high.z, high.z);
                mma_bf16(products[3], a[tile], high.w, high.w);
                mma_bf16(products[0], a[tile], low.x, low.x);
                mma_bf16(products[1], a[tile], low.y, low.y);
                mma_bf16(products[2], a[tile], low.z, low.z);
                mma_bf16(products[3], a[tile], low.w, low.w);
            }

#pragma unroll
            for (int r = 0; r < 2; r++)
            {
                float sum[8];
                unpack_bf16x8(sum, before[r][j]);
#pragma unroll
                for (int e = 0; e < 8; e++) sum[e] += products[e / 2][2 * r + e % 2];
                int channel = base + 32 * j + 8 * (lane % 4), token = r ? token1 : token0;
                if (token < tokens && channel < DIM) *(uint4*)(dx + (i64)token * DIM + channel) = pack_bf16x8(sum);
            }
        }
    }
}

// dW and db. A warp has 64 channels and walks the tokens; blockIdx.z tells 16 outputs from others. Row blockIdx.x of the partial sums,
// `partial_stride` floats long, receives each gradient from the place told on. Places and the stride are multiples of 4.
// Grid: (any number, (DIM + 64 WEIGHT_WARPS - 1) / (64 WEIGHT_WARPS), (OUTPUTS + 15) / 16), WEIGHT_BLOCKS a multiprocessor at best;
// WEIGHT_WARPS warps; shared: 160 WEIGHT_TOKENS bytes.
KERNEL void __launch_bounds__(32 * WEIGHT_WARPS, WEIGHT_BLOCKS) gate_backward_weight(
    const float* RESTRICT d_input, const float* RESTRICT d_forget, const float* RESTRICT input, const float* RESTRICT forget,
    const bf16* RESTRICT x, float* RESTRICT partials, i64 partial_stride,
    int input_weight_place, int forget_weight_place, int input_bias_place, int forget_bias_place,
    int tokens, int sequence, float cap)
{
    wait_for_predecessors();
    const int parts = TILES > 1 ? 2 : 1; // tiles of 8 outputs
    const int pitch = 32 * parts + 16;   // bytes, so that a tile's rows lie in different banks
    const int turns = (8 * parts + WEIGHT_WARPS - 1) / WEIGHT_WARPS;
    SHARED_MEMORY(shared); // dz [2 steps, tokens, tile of outputs, high or low, 8]
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, pair = lane % 4 * 2;
    int channel = (blockIdx.y * WEIGHT_WARPS + warp) * 64 + 8 * group;
    const GateGradients gates = {d_input, d_forget, input, forget, tokens, sequence, cap > 0 ? 1.f / cap : 0.f};
    float dw[2][8][4] = {}, db[turns] = {};
    int turn = 0;
    for (int start = blockIdx.x * WEIGHT_TOKENS; start < tokens; start += gridDim.x * WEIGHT_TOKENS)
    {
        // Lanes of a pair have 8 channels of tokens pair, pair + 1, pair + 8 and pair + 9 of each 16.
        uint4 raw[WEIGHT_TOKENS / 16][4];
#pragma unroll
        for (int k = 0; k < WEIGHT_TOKENS / 16; k++)
        {
#pragma unroll
            for (int r = 0; r < 4; r++)
            {
                int token = start + 16 * k + pair + r / 2 * 8 + r % 2;
                raw[k][r] = token < tokens && channel < DIM ? load_once(x + (i64)token * DIM + channel) : NOTHING;
            }
        }

        // A warp has an output, or several, a lane a token.
        const i64 place = gate_place(start + lane, sequence);
        float2 read[turns];
#pragma unroll
        for (int k = 0; k < turns; k++)
            read[k] = gates.read(start + lane, place, 16 * blockIdx.z + (k * WEIGHT_WARPS + warp) % (8 * parts));

        unsigned char* staged = shared + turn * WEIGHT_TOKENS * pitch;
#pragma unroll
        for (int k = 0; k < turns; k++)
        {
            int output = k * WEIGHT_WARPS + warp;
            if (8 * parts % WEIGHT_WARPS != 0 && output >= 8 * parts) break;
            float dz = gates.slope(read[k]);
            bf16* to = (bf16*)(staged + lane * pitch) + output / 8 * 16 + output % 8;
            bf16 high = to_bf16(dz);
            to[0] = high;
            to[8] = to_bf16(dz - from_bf16(high));
            db[k] += dz;
        }

        __syncthreads();
#pragma unroll
        for (int k = 0; k < WEIGHT_TOKENS / 16; k++)
        {
            u32 a[2][4]; // rows: high of the tile's outputs, then low; columns: 16 tokens
#pragma unroll
            for (int part = 0; part < parts; part++)
            {
                int token = 16 * k + lane % 8 + lane / 16 * 8;
                load_matrix_x4_transposed(a[part], shared_address(staged + token * pitch + part * 32 + lane / 8 % 2 * 16));
            }

#pragma unroll
            for (int c = 0; c < 8; c++)
            {
                u32 words[4];
#pragma unroll
                for (int r = 0; r < 4; r++)
                    words[r] = c < 2 ? raw[k][r].x : c < 4 ? raw[k][r].y : c < 6 ? raw[k][r].z : raw[k][r].w;
                const u32 halves = c % 2 ? 0x7632 : 0x5410; // of both words: the upper ones, or the lower
                u32 b0 = __byte_perm(words[0], words[1], halves), b1 = __byte_perm(words[2], words[3], halves);
#pragma unroll
                for (int part = 0; part < parts; part++) mma_bf16(dw[part][c], a[part], b0, b1);
            }
        }

        turn ^= 1; // while some warps still read this step, the others write the next, and wait
    }

    float* partial = partials + blockIdx.x * partial_stride;
#pragma unroll
    for (int part = 0; part < parts; part++)
    {
        int output = 16 * blockIdx.z + 8 * part + group, place = output < HEADS ? input_weight_place : forget_weight_place;
        if (output >= OUTPUTS) continue;
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            int first = (blockIdx.y * WEIGHT_WARPS + warp) * 64 + 8 * (pair + half);
            float* to = partial + place + (i64)(output % HEADS) * DIM + first;
            float sums[8];
#pragma unroll
            for (int c = 0; c < 8; c++) sums[c] = dw[part][c][half] + dw[part][c][half + 2];
            if (first >= DIM) continue;
            *(float4*)to = make_float4(sums[0], sums[1], sums[2], sums[3]);
            *(float4*)(to + 4) = make_float4(sums[4], sums[5], sums[6], sums[7]);
        }
    }

    if (blockIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < turns; k++)
    {
        int output = k * WEIGHT_WARPS + warp, number = 16 * blockIdx.z + output;
        float total = warp_sum(db[k]);
        if (lane == 0 && output < 8 * parts && number < OUTPUTS)
            partial[(number < HEADS ? input_bias_place : forget_bias_place) + number % HEADS] = total;
    }
}
