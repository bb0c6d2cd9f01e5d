// Mamba's selective scan (Gu and Dao 2023, algorithm 2), with everything between its projections and what leaves the block. With
// v = delta + bias, A < 0 and N = 16 states a channel,
//     dt = softplus(v),  h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,  y = C_t h_t + D x_t,  out = y SiLU(z),
// where h is emptied before a document's first token, and a token of padding has dt = 0.
//
// Backward, from dy = dout SiLU(z) and backward in time, G being the gradient that reaches h_t:
//     G_t = exp(dt_{t+1} A) G_{t+1} + dy_t C_t,       dC_t = sum over channels of dy_t h_t,   dB_t = sum over channels of dt_t x_t G_t,
//     L_t = G_t exp(dt_t A) h_{t-1},                  q_t = sum over states of B_t G_t,       dA = sum over tokens of dt_t L_t,
//     ddelta = (sum over states of A L_t + x_t q_t) sigmoid(v),   dx = dt_t q_t + D dy_t,     dz = dout y SiLU'(z).
//
// A warp has 16 channels with all their states and walks the tokens 8 at a time; warps need nothing of each other. Lane 4 r + p holds the
// states 4 p .. 4 p + 3 of channels 2 r and 2 r + 1: so lie the accumulators of two 16 x 8 products, rows being channels and columns
// states, and so lies the left operand of a third. What is shared by channels or by states can then be left to the tensor cores:
//   - dt x B, a product of inner dimension 1, is added to the states by them. Of the 8 inner places each of 4 lanes has two, for the
//     halves of its own dt x, rounded to bfloat16, and of what that rounding left: nothing of the states' 24 bits is lost that matters;
//   - C h is a product with the states rounded to bfloat16, as stored outputs are. Column j of its right operand is C of the group's
//     token j, and is zero while another token's states are multiplied: after 8 tokens a lane holds the outputs of channels 2 r and
//     2 r + 1 for tokens 2 p and 2 p + 1, which are those whose dt, dt x and SiLU(z) it computes.
// A lane reads and writes channels in pairs: a load of the warp fills whole 32-byte sectors, of four tokens. Nothing passes shared memory.
//
// Operations, a channel and token: 16 exponentials of the scan, 4 of softplus and SiLU; at 16 a clock and multiprocessor they take
// 20 / 16 clocks, all other instructions about 105 / 128. 16 x 2048 tokens of 1536 channels: 50 M of each, 1.0 G exponentials:
// 0.27 ms. Bytes: 2 each of x, delta, z and out, 403 MB: 0.13 ms; where a gradient is wanted, the
// states every CHUNK tokens, 64 / CHUNK a channel and token: 101 MB.
#include "Ptx.cuh"

// SelectiveScanSequenceKernel.cs tells STATES, of a channel; CHUNK, the tokens between kept states; WARPS, of a block, and WARP_CHANNELS
// and WARP_BYTES, of shared memory, that a warp has; LAYOUT, whether document starts or padding are there; and SUM_THREADS.
#define BACKWARD_WARPS 12 // a multiprocessor
#define GROUP 8 // tokens
static_assert(STATES == 16 && WARP_CHANNELS == 16 && CHUNK % GROUP == 0, "products of 16 channels x 8 states, for 8 tokens");
static_assert(SUM_THREADS % 8 == 0, "8 threads have a token's 2 STATES sums");
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define FOREVER 1e25f // a step after which nothing of a state is left, whatever its rate: see load_rates

// log(1 + e^v), also where that is tiny: steps of 0.001 multiply up over thousands of tokens.
DEVICE float softplus(float v)
{
    float e = exp2_fast(-LOG2_E * fabsf(v));
    float series = e * (1.f - e * (0.5f - e * (0.333333333f - e * 0.25f)));
    return fmaxf(v, 0.f) + (e < 0.03f ? series : __logf(1.f + e));
}

DEVICE float sigmoid(float v) { return reciprocal_fast(1.f + exp2_fast(-LOG2_E * v)); }

// x as the sum of two bfloat16 in a word.
DEVICE u32 split_bf16(float x)
{
    float top = __uint_as_float(__float_as_uint(x) & 0xffff0000u);
    return pack_bf16(x - top, top);
}

// Two neighbouring elements, or zeros.
DEVICE u32 load_pair(const bf16* from, bool exists) { return exists ? *(const u32*)from : 0u; }

// Where a lane works: channels `channel` and `channel + 1`, tokens `2 pair` and `2 pair + 1` of each group.
struct Lane
{
    int row, pair, channel, batch;
    bool exists; // not past the last channel
};

DEVICE Lane this_lane()
{
    int lane = threadIdx.x % 32;
    return {lane / 4, lane % 4, (int)(blockIdx.x * WARPS + threadIdx.x / 32) * WARP_CHANNELS + lane / 4 * 2, (int)blockIdx.y, false};
}

// The lane's states of [channels, 16] in the order of the accumulators: tile p, register 2 c + s has state 4 pair + 2 s + p of channel c.
DEVICE void load_states(float (&h)[2][4], const float* from, const Lane& lane)
{
#pragma unroll
    for (int c = 0; c < 2; c++)
    {
        float4 four = make_float4(0.f, 0.f, 0.f, 0.f);
        if (from && lane.exists) four = *(const float4*)(from + (lane.channel + c) * STATES + 4 * lane.pair);
        h[0][2 * c] = four.x, h[1][2 * c] = four.y, h[0][2 * c + 1] = four.z, h[1][2 * c + 1] = four.w;
    }
}

// A log2(e), so that a state decays by 2^(dt rate). One that would not decay at all does in FOREVER.
DEVICE void load_rates(float (&a)[2][4], const float* rates, const Lane& lane)
{
    load_states(a, rates, lane);
#pragma unroll
    for (int i = 0; i < 8; i++) a[i / 4][i % 4] = fminf(LOG2_E * a[i / 4][i % 4], -1e-20f);
}

DEVICE void store_states(float* to, const float (&h)[2][4], const Lane& lane)
{
#pragma unroll
    for (int c = 0; c < 2; c++)
        if (lane.exists)
            *(float4*)(to + (lane.channel + c) * STATES + 4 * lane.pair) =
                make_float4(h[0][2 * c], h[1][2 * c], h[0][2 * c + 1], h[1][2 * c + 1]);
}

// The states as the left operand of a product over states: places 2 p and 2 p + 1 of its halves have states 4 p + (0, 1) and 4 p + (2, 3).
DEVICE void pack_states(u32 (&a)[4], const float (&h)[2][4])
{
    a[0] = pack_bf16(h[0][0], h[1][0]), a[1] = pack_bf16(h[0][2], h[1][2]);
    a[2] = pack_bf16(h[0][1], h[1][1]), a[3] = pack_bf16(h[0][3], h[1][3]);
}

// states += split x rank-one operand: for the token of lane pair `source`, whose `split` has two channels' numbers and whose `row` two
// states' of the operand, alike in both halves of a word.
DEVICE void add_product(float (&h)[2][4], const u32 (&split)[2], const u32 (&row)[2], bool is_source)
{
    u32 a[2] = {is_source ? split[0] : 0u, is_source ? split[1] : 0u};
    mma_bf16_k8(h[0], a, row[0]);
    mma_bf16_k8(h[1], a, row[1]);
}

// exp(dt A) of the lane's states, a having been multiplied by log2(e).
DEVICE void decays(float (&decay)[2][4], const float (&a)[2][4], const float (&dt)[2])
{
#pragma unroll
    for (int i = 0; i < 8; i++) decay[i / 4][i % 4] = exp2_fast(dt[i % 4 / 2] * a[i / 4][i % 4]);
}

// What is there of every token: rows of so many elements, x to the next x; b and c have one distance, out and dout that of the channels.
struct Arrays
{
    const bf16 *x, *delta, *z, *b, *c, *dout;
    const unsigned char *starts, *real;
    int x_stride, delta_stride, z_stride, bc_stride, length, channels;
};

// The lane's channels of its two tokens; zeros where there are none.
DEVICE void load_tokens(u32 (&words)[2], const bf16* from, int stride, const Lane& lane, int first, int length)
{
#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        int token = first + 2 * lane.pair + e;
        words[e] = load_pair(from + (i64)(lane.batch * length + token) * stride + lane.channel, lane.exists && token < length);
    }
}

// B or C as rows to be added to states: two states, 2 row and 2 row + 1, of the lane's own tokens.
DEVICE void load_rows(u32 (&rows)[2], const bf16* from, const Arrays& arrays, const Lane& lane, int first)
{
#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        int token = first + 2 * lane.pair + e;
        rows[e] = load_pair(from + (i64)(lane.batch * arrays.length + token) * arrays.bc_stride + 2 * lane.row, token < arrays.length);
    }
}

// B or C as columns that states are multiplied by: states 4 pair .. 4 pair + 3 of token `row`.
DEVICE uint2 load_column(const bf16* from, const Arrays& arrays, const Lane& lane, int first)
{
    int token = first + lane.row;
    if (token >= arrays.length) return make_uint2(0u, 0u);
    return *(const uint2*)(from + (i64)(lane.batch * arrays.length + token) * arrays.bc_stride + 4 * lane.pair);
}

// What a lane reads of a group in every pass.
struct Inputs
{
    u32 x[2], delta[2];
    bool start, real; // of token `row`

    DEVICE void load(const Arrays& arrays, const Lane& lane, int first)
    {
        load_tokens(x, arrays.x, arrays.x_stride, lane, first, arrays.length);
        load_tokens(delta, arrays.delta, arrays.delta_stride, lane, first, arrays.length);
        if (LAYOUT)
        {
            bool exists = first + lane.row < arrays.length;
            int token = lane.batch * arrays.length + first + lane.row;
            start = exists && arrays.starts && arrays.starts[token];
            real = exists && !(arrays.real && !arrays.real[token]);
        }
    }
};

// A word of two equal halves, from either half of another.
DEVICE u32 twice_low(u32 word) { return __byte_perm(word, word, 0x1010); }
DEVICE u32 twice_high(u32 word) { return __byte_perm(word, word, 0x3232); }

// What a lane computes of its two channels' tokens before and after the scan.
struct Tokens
{
    float x[2][2], v[2][2], dt[2][2]; // token, channel
    bool exists[2];                   // neither padding nor past an end
    u32 starts;                       // bit 4 j: token j begins a document
};

// dt is exactly zero where there is no token, so that the state stays as it is.
DEVICE void prepare(Tokens& tokens, const Inputs& in, const Arrays& arrays, const Lane& lane, int first, const float (&bias)[2])
{
    u32 real = 0;
    if (LAYOUT)
    {
        tokens.starts = __ballot_sync(FULL_WARP, in.start);
        real = __ballot_sync(FULL_WARP, in.real);
    }

#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        int token = 2 * lane.pair + e;
        tokens.exists[e] = lane.exists && (LAYOUT ? real >> 4 * token & 1 : first + token < arrays.length);
        tokens.x[e][0] = low_bf16(in.x[e]), tokens.x[e][1] = high_bf16(in.x[e]);
        tokens.v[e][0] = low_bf16(in.delta[e]) + bias[0], tokens.v[e][1] = high_bf16(in.delta[e]) + bias[1];
#pragma unroll
        for (int c = 0; c < 2; c++) tokens.dt[e][c] = tokens.exists[e] ? softplus(tokens.v[e][c]) : 0.f;
    }
}

// The lane's channels' dt at token j of a group, from the lane that has it; so long at a document's start that no state outlasts it.
DEVICE void steps_of_token(float (&dt)[2], const Tokens& tokens, int j)
{
    bool empties = LAYOUT && (tokens.starts >> 4 * j & 1);
#pragma unroll
    for (int c = 0; c < 2; c++)
    {
        float mine = __shfl_sync(FULL_WARP, tokens.dt[j % 2][c], j / 2, 4);
        dt[c] = empties ? FOREVER : mine;
    }
}

// dt x as left operands of add_product, and rows of B as right ones, of the lane's tokens.
DEVICE void prepare_products(u32 (&written)[2][2], u32 (&rows)[2][2], const Tokens& tokens, const u32 (&b_rows)[2])
{
#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        written[e][0] = split_bf16(tokens.dt[e][0] * tokens.x[e][0]), written[e][1] = split_bf16(tokens.dt[e][1] * tokens.x[e][1]);
        rows[e][0] = twice_low(b_rows[e]), rows[e][1] = twice_high(b_rows[e]);
    }
}

// The states after token j of a group, from those before it.
DEVICE void advance(
    float (&h)[2][4], const Tokens& tokens, const u32 (&written)[2][2], const u32 (&rows)[2][2], const float (&a)[2][4],
    const Lane& lane, int j)
{
    float dt[2], decay[2][4];
    steps_of_token(dt, tokens, j);
    decays(decay, a, dt);
#pragma unroll
    for (int i = 0; i < 8; i++) h[i / 4][i % 4] *= decay[i / 4][i % 4];
    add_product(h, written[j % 2], rows[j % 2], lane.pair == j / 2);
}

struct StateInputs : Inputs
{
    u32 b_rows[2];

    DEVICE void load(const Arrays& arrays, const Lane& lane, int first)
    {
        Inputs::load(arrays, lane, first);
        load_rows(b_rows, arrays.b, arrays, lane, first);
    }
};

struct ForwardInputs : StateInputs
{
    u32 z[2];
    uint2 c_column;

    DEVICE void load(const Arrays& arrays, const Lane& lane, int first)
    {
        StateInputs::load(arrays, lane, first);
        load_tokens(z, arrays.z, arrays.z_stride, lane, first, arrays.length);
        c_column = load_column(arrays.c, arrays, lane, first);
    }
};

// x, delta, z, b and c are rows of a token, of that many elements' distance, and hold [batch, length] of them; b and c share theirs.
// rates: A, [channels, 16], not above zero; bias, skip, which is D: [channels], or null; starts, real: [batch, length], or null.
// initial and last: [batch, channels, 16], or null. out: [batch, length, channels]. kept: [batch, chunks, channels, 16], or null.
// Addresses of pairs must be multiples of 4 bytes, those of b and c of 8. channels: a multiple of 2; batch x length: below 2^31.
// Grid: (channels / (WARP_CHANNELS WARPS) rounded up, batch); WARPS warps; no shared memory.
KERNEL void __launch_bounds__(32 * WARPS) selective_scan_forward(
    const bf16* x, const bf16* delta, const float* bias, const float* rates, const bf16* b, const bf16* c, const float* skip,
    const bf16* z, const unsigned char* starts, const unsigned char* real, const float* initial,
    bf16* RESTRICT out, float* RESTRICT kept, float* RESTRICT last,
    int x_stride, int delta_stride, int bc_stride, int z_stride, int length, int channels)
{
    wait_for_predecessors();
    Lane lane = this_lane();
    lane.exists = lane.channel < channels;
    if (lane.channel - 2 * lane.row >= channels) return;
    Arrays arrays = {x, delta, z, b, c, nullptr, starts, real, x_stride, delta_stride, z_stride, bc_stride, length, channels};

    const i64 states = (i64)channels * STATES;
    const int chunks = (length + CHUNK - 1) / CHUNK;
    float h[2][4], a[2][4], bias_here[2] = {}, skip_here[2] = {};
    load_rates(a, rates, lane);
    load_states(h, initial ? initial + lane.batch * states : nullptr, lane);
#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        if (bias && lane.exists) bias_here[e] = bias[lane.channel + e];
        if (skip && lane.exists) skip_here[e] = skip[lane.channel + e];
    }

    ForwardInputs next;
    next.load(arrays, lane, 0);
    for (int first = 0; first < length; first += GROUP)
    {
        ForwardInputs in = next;
        next.load(arrays, lane, first + GROUP); // zeros past the end
        if (kept && first % CHUNK == 0) store_states(kept + ((i64)lane.batch * chunks + first / CHUNK) * states, h, lane);

        Tokens tokens;
        float y[4] = {};
        prepare(tokens, in, arrays, lane, first, bias_here);
        u32 written[2][2], rows[2][2];
        prepare_products(written, rows, tokens, in.b_rows);
#pragma unroll
        for (int j = 0; j < GROUP; j++)
        {
            advance(h, tokens, written, rows, a, lane, j);
            u32 packed[4];
            pack_states(packed, h);
            bool is_column = lane.row == j;
            mma_bf16(y, packed, is_column ? in.c_column.x : 0u, is_column ? in.c_column.y : 0u);
        }

#pragma unroll
        for (int e = 0; e < 2; e++)
        {
            int token = first + 2 * lane.pair + e;
            float out0 = y[e] + skip_here[0] * tokens.x[e][0], out1 = y[2 + e] + skip_here[1] * tokens.x[e][1];
            float z0 = low_bf16(in.z[e]), z1 = high_bf16(in.z[e]);
            out0 *= z0 * sigmoid(z0), out1 *= z1 * sigmoid(z1);
            const i64 row = lane.batch * length + token;
            if (lane.exists && token < length) *(u32*)(out + row * channels + lane.channel) = pack_bf16(out0, out1);
        }
    }

    if (last) store_states(last + lane.batch * states, h, lane);
}

#define TILE 512 // bytes of 16 x 16 states in bfloat16, four 8 x 8 matrices in the order of pack_states
#define SUMS 1024 // bytes of a group's dB and dC: [token][dB, dC][state]
static_assert(WARP_BYTES == (CHUNK + 3) * TILE, "the states of a chunk and before it, and two tiles to turn others in");

// Where the sums of the chunk's group k are left: over states that its backward pass has used, all but the one before its first token.
DEVICE int sums_offset(int k) { return (GROUP * k + 1) * TILE; }

struct BackwardInputs : Inputs
{
    u32 z[2], dout[2], c_rows[2];
    uint2 b_column, c_column;

    DEVICE void load(const Arrays& arrays, const Lane& lane, int first)
    {
        Inputs::load(arrays, lane, first);
        load_tokens(z, arrays.z, arrays.z_stride, lane, first, arrays.length);
        load_tokens(dout, arrays.dout, arrays.channels, lane, first, arrays.length);
        load_rows(c_rows, arrays.c, arrays, lane, first);
        b_column = load_column(arrays.b, arrays, lane, first);
        c_column = load_column(arrays.c, arrays, lane, first);
    }
};

// Arguments as in the forward pass, and: dout [batch, length, channels]; kept as it was left; dlast [batch, channels, 16], or null.
// dx, ddelta: [batch, length, channels]; dz: rows of dz_stride; dinitial: [batch, channels, 16], or null.
// dbc: partial sums of dB and dC, [blocks of channels, batch, length, 32], for selective_scan_sums;
// partials: dA [channels, 16], dbias and dD [channels], [batch, 18 channels], for column_sums.
// Grid: as forward; shared: WARPS WARP_BYTES.
KERNEL void __launch_bounds__(32 * WARPS, BACKWARD_WARPS / WARPS) selective_scan_backward(
    const bf16* x, const bf16* delta, const float* bias, const float* rates, const bf16* b, const bf16* c, const float* skip,
    const bf16* z, const unsigned char* starts, const unsigned char* real, const bf16* dout,
    const float* kept, const float* dlast,
    bf16* RESTRICT dx, bf16* RESTRICT ddelta, bf16* RESTRICT dz, float* RESTRICT dinitial, float* RESTRICT dbc, float* RESTRICT partials,
    int x_stride, int delta_stride, int bc_stride, int z_stride, int dz_stride, int length, int channels)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    Lane lane = this_lane();
    lane.exists = lane.channel < channels;
    Arrays arrays = {x, delta, z, b, c, dout, starts, real, x_stride, delta_stride, z_stride, bc_stride, length, channels};
    unsigned char* mine = shared + threadIdx.x / 32 * WARP_BYTES;
    u32 lane_id = threadIdx.x % 32, tiles = shared_address(mine), scratch = tiles + (CHUNK + 1) * TILE;
    // Where a tile's rows are for this lane; to turn the whole tile, its second and third matrix change places.
    u32 plain = lane_id * 16, turned = (lane_id % 8 + (lane_id & 8) * 2 + (lane_id & 16) / 2) * 16;

    const i64 states = (i64)channels * STATES;
    const int chunks = (length + CHUNK - 1) / CHUNK;
    float g[2][4], a[2][4], da[2][4] = {}, bias_here[2] = {}, skip_here[2] = {}, dbias[2] = {}, dskip[2] = {};
    load_rates(a, rates, lane);
    load_states(g, dlast ? dlast + lane.batch * states : nullptr, lane);
#pragma unroll
    for (int e = 0; e < 2; e++)
    {
        if (bias && lane.exists) bias_here[e] = bias[lane.channel + e];
        if (skip && lane.exists) skip_here[e] = skip[lane.channel + e];
    }

    // What a loop will read first is asked for before the one ahead of it.
    float h[2][4];
    StateInputs next;
    load_states(h, kept + ((i64)lane.batch * chunks + chunks - 1) * states, lane);
    next.load(arrays, lane, (chunks - 1) * CHUNK);
    for (int chunk = chunks - 1; chunk >= 0; chunk--)
    {
        const int begin = chunk * CHUNK, count = min(CHUNK, length - begin), groups = (count + GROUP - 1) / GROUP;

        BackwardInputs ahead;
        ahead.load(arrays, lane, begin + GROUP * (groups - 1));

        // The chunk's states again, of which 8 bits are kept: what they enter are sums that are rounded as much when they are stored.
        u32 packed[4];
        pack_states(packed, h);
        store_matrix_x4(tiles + plain, packed);
        for (int k = 0; k < groups; k++)
        {
            StateInputs in = next;
            if (k + 1 < groups) next.load(arrays, lane, begin + GROUP * (k + 1));
            Tokens tokens;
            u32 written[2][2], rows[2][2];
            prepare(tokens, in, arrays, lane, begin + GROUP * k, bias_here);
            prepare_products(written, rows, tokens, in.b_rows);
#pragma unroll
            for (int j = 0; j < GROUP; j++)
            {
                advance(h, tokens, written, rows, a, lane, j);
                pack_states(packed, h);
                store_matrix_x4(tiles + (GROUP * k + j + 1) * TILE + plain, packed);
            }
        }

        __syncwarp();
        for (int k = groups - 1; k >= 0; k--)
        {
            const int first = begin + GROUP * k;
            BackwardInputs in = ahead;
            if (k > 0) ahead.load(arrays, lane, first - GROUP);
            Tokens tokens;
            prepare(tokens, in, arrays, lane, first, bias_here);
            float dy[2][2];
            u32 splits[2][2], rows[2][2], written_column[2], dy_column[2];
#pragma unroll
            for (int e = 0; e < 2; e++)
            {
                dy[e][0] = low_bf16(in.dout[e]), dy[e][1] = high_bf16(in.dout[e]);
                float z0 = low_bf16(in.z[e]), z1 = high_bf16(in.z[e]);
                dy[e][0] *= z0 * sigmoid(z0), dy[e][1] *= z1 * sigmoid(z1);
                splits[e][0] = split_bf16(dy[e][0]), splits[e][1] = split_bf16(dy[e][1]);
                rows[e][0] = twice_low(in.c_rows[e]), rows[e][1] = twice_high(in.c_rows[e]);
            }

            // Sums over channels need these by tokens: channels 4 pair + c and 4 pair + 2 + c of token `row`.
#pragma unroll
            for (int e = 0; e < 2; e++)
            {
                written_column[e] = transpose_matrix(pack_bf16(tokens.dt[0][e] * tokens.x[0][e], tokens.dt[1][e] * tokens.x[1][e]));
                dy_column[e] = transpose_matrix(pack_bf16(dy[0][e], dy[1][e]));
            }

            float y[4] = {}, q[4] = {}, s[4] = {}, db[4] = {}, dc[4] = {};
            u32 after[4];
            load_matrix_x4(after, tiles + (GROUP * k + GROUP) * TILE + plain);
#pragma unroll
            for (int j = GROUP - 1; j >= 0; j--)
            {
                const bool is_column = lane.row == j;
                const u32 tile = tiles + (GROUP * k + j + 1) * TILE;
                u32 turned_states[4], turned_g[4], before[4];
                load_matrix_x4_transposed(turned_states, tile + turned);
                load_matrix_x4(before, tile - TILE + plain);

                mma_bf16(y, after, is_column ? in.c_column.x : 0u, is_column ? in.c_column.y : 0u);
                mma_bf16(dc, turned_states, is_column ? dy_column[0] : 0u, is_column ? dy_column[1] : 0u);

                add_product(g, splits[j % 2], rows[j % 2], lane.pair == j / 2);
                pack_states(packed, g);
                mma_bf16(q, packed, is_column ? in.b_column.x : 0u, is_column ? in.b_column.y : 0u);
                store_matrix_x4(scratch + j % 2 * TILE + plain, packed);
                __syncwarp();
                load_matrix_x4_transposed(turned_g, scratch + j % 2 * TILE + turned);

                float dt[2], decay[2][4], logs[2][4];
                steps_of_token(dt, tokens, j);
                decays(decay, a, dt);
#pragma unroll
                for (int i = 0; i < 8; i++)
                {
                    u32 word = before[i % 4 / 2 + i % 2 * 2];
                    float& through = g[i / 4][i % 4];
                    through *= decay[i / 4][i % 4];
                    float log = through * (i < 4 ? low_bf16(word) : high_bf16(word));
                    da[i / 4][i % 4] += log * dt[i % 4 / 2];
                    logs[i / 4][i % 4] = log * a[i / 4][i % 4];
                }

                mma_bf16(db, turned_g, is_column ? written_column[0] : 0u, is_column ? written_column[1] : 0u);
                pack_states(packed, logs);
                mma_bf16(s, packed, is_column ? 0x3f803f80u : 0u, is_column ? 0x3f803f80u : 0u);
#pragma unroll
                for (int i = 0; i < 4; i++) after[i] = before[i];
            }

#pragma unroll
            for (int e = 0; e < 2; e++)
            {
                float dxs[2], ddeltas[2], dzs[2];
#pragma unroll
                for (int i = 0; i < 2; i++)
                {
                    float xs = tokens.x[e][i], qs = q[2 * i + e];
                    ddeltas[i] = tokens.exists[e] ? (LN_2 * s[2 * i + e] + xs * qs) * sigmoid(tokens.v[e][i]) : 0.f;
                    dxs[i] = tokens.dt[e][i] * qs + skip_here[i] * dy[e][i];
                    dbias[i] += ddeltas[i];
                    dskip[i] += dy[e][i] * xs;
                    float gate = i ? high_bf16(in.z[e]) : low_bf16(in.z[e]), open = sigmoid(gate);
                    float d = i ? high_bf16(in.dout[e]) : low_bf16(in.dout[e]);
                    dzs[i] = d * (y[2 * i + e] + skip_here[i] * xs) * open * (1.f + gate * (1.f - open));
                }

                const int token = first + 2 * lane.pair + e;
                const i64 row = lane.batch * length + token;
                if (lane.exists && token < length)
                {
                    *(u32*)(dx + row * channels + lane.channel) = pack_bf16(dxs[0], dxs[1]);
                    *(u32*)(ddelta + row * channels + lane.channel) = pack_bf16(ddeltas[0], ddeltas[1]);
                    *(u32*)(dz + row * dz_stride + lane.channel) = pack_bf16(dzs[0], dzs[1]);
                }
            }

            // Place `row` of a turned operand's upper half is state 4 (row / 2) + row % 2, of its lower half the state two further.
            float* sums = (float*)(mine + sums_offset(k));
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 4; i++)
            {
                int place = (2 * lane.pair + i % 2) * 2 * STATES + 4 * (lane.row / 2) + lane.row % 2 + i / 2 * 2;
                sums[place] = db[i];
                sums[place + STATES] = dc[i];
            }
        }

        if (chunk > 0)
        {
            load_states(h, kept + ((i64)lane.batch * chunks + chunk - 1) * states, lane);
            next.load(arrays, lane, begin - CHUNK);
        }

        __syncthreads();
        float4* to = (float4*)(dbc + (((i64)blockIdx.x * gridDim.y + lane.batch) * length + begin) * 2 * STATES);
        for (int i = threadIdx.x; i < count * 8; i += 32 * WARPS)
        {
            const unsigned char* from = shared + sums_offset(i / 64) + i % 64 * 16;
            float4 sum = *(const float4*)from;
#pragma unroll
            for (int w = 1; w < WARPS; w++)
            {
                float4 more = *(const float4*)(from + w * WARP_BYTES);
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }

            to[i] = sum;
        }

        __syncthreads();
    }

    float* to = partials + lane.batch * (states + 2 * channels);
    store_states(to, da, lane);
    if (dinitial) store_states(dinitial + lane.batch * states, g, lane);
#pragma unroll
    for (int i = 0; i < 2; i++)
    {
#pragma unroll
        for (int o = 1; o < 4; o *= 2)
        {
            dbias[i] += __shfl_xor_sync(FULL_WARP, dbias[i], o);
            dskip[i] += __shfl_xor_sync(FULL_WARP, dskip[i], o);
        }

        if (lane.exists && lane.pair == 0)
        {
            to[states + lane.channel + i] = dbias[i];
            to[states + channels + lane.channel + i] = dskip[i];
        }
    }
}

// dB and dC: the sums over `blocks` of the partial ones, always in the same order, in bfloat16. d: [rows, 2 STATES], dB and dC
// side by side. Grid: rows / (SUM_THREADS / 8) rounded up; SUM_THREADS threads; no shared memory.
KERNEL void __launch_bounds__(SUM_THREADS) selective_scan_sums(const float* RESTRICT dbc, bf16* RESTRICT d, int blocks, int rows)
{
    wait_for_predecessors();
    i64 i = (i64)blockIdx.x * SUM_THREADS + threadIdx.x, row = i / 8;
    if (row >= rows) return;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (int p = 0; p < blocks; p++)
    {
        float4 more = *(const float4*)(dbc + (i64)p * rows * 2 * STATES + i * 4);
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }

    *(uint2*)(d + i * 4) = make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
}
