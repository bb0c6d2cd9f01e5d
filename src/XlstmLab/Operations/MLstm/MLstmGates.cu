// The mLSTM's gates, chunk by chunk, and what the other mLSTM kernels need of them.
//
// In a chunk of L tokens that starts from a state of scale m, with lf and li the logarithms of the gates and b their running sums,
//     u_j = li_j - b_j,   p_i = max(m, max_{j <= i} u_j),   M_i = b_i + p_i                  (the running maximum, xLSTM eq. 15)
//     E_ij = exp(u_j - p_i),  read_i = DQK^-1/2 exp(m - p_i),  write_j = exp(b_L + u_j - m'),  keep = exp(b_L + m - m'),  m' = M_L.
// A document's start cuts the sums: what lies before it has no weight, and the running maximum restarts from a state of scale 0.
// Without a stabiliser M = m = 0.
//
// Work: one block a head; a warp takes a chunk, four tokens a lane; one warp carries m from chunk to chunk between the two passes.
// Bytes: 8 in and 24 out a token and head. Deterministic.
#include "Ptx.cuh"
#include "MLstmShapes.cuh"

#define PER_LANE (CHUNK / 32)
#define LOG2_E 1.4426950408889634f

// MLstmSequenceKernel.cs tells STABILIZE, INPUT_GATE and FORGET_GATE: the logarithm of a gate from its pre-activation.
#define GATE_NONE 0
#define GATE_SIGMOID 1
#define GATE_EXPONENTIAL 2
static_assert(INPUT_GATE <= GATE_EXPONENTIAL && FORGET_GATE <= GATE_EXPONENTIAL, "log_gate and log_gate_slope know these three");

DEVICE float log_gate(int kind, float x)
{
    if (kind == GATE_SIGMOID) return fminf(x, 0.f) - log1pf(expf(-fabsf(x)));
    return kind == GATE_EXPONENTIAL ? x : 0.f;
}

DEVICE float log_gate_slope(int kind, float x)
{
    if (kind == GATE_SIGMOID) return 1.f / (1.f + expf(x));
    return kind == GATE_EXPONENTIAL ? 1.f : 0.f;
}

// A lane's tokens of a chunk.
struct Tokens
{
    float sum[PER_LANE];      // b
    float u[PER_LANE];
    float top[PER_LANE];      // the largest u so far in the token's document, or what its fresh state counts for
    int start[PER_LANE];      // where the token's document starts in the chunk; -1 before the chunk
    float total;              // b_L
};

// A lane's numbers of an array, and of one with a stride that ends at `length`: read without a branch, so that all are on their way at
// once.
DEVICE void load_lane(float (&x)[PER_LANE], const float* from)
{
    const float4 all = *(const float4*)from;
    x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
}

DEVICE void load_gate(float (&x)[PER_LANE], const float* from, int stride, int first, int length)
{
#pragma unroll
    for (int e = 0; e < PER_LANE; e++) x[e] = from[(i64)min(first + (int)threadIdx.x % 32 * PER_LANE + e, length - 1) * stride];
}

// The tokens [first, first + CHUNK) of a head; behind the end the gates keep the state as it is.
DEVICE Tokens read_tokens(
    const float* RESTRICT input, int input_stride, const float* RESTRICT forget, int forget_stride,
    const unsigned char* RESTRICT starts, const unsigned char* RESTRICT padding, int first, int length)
{
    Tokens tokens;
    const int lane = threadIdx.x % 32;
    float forgets[PER_LANE], running = 0.f;
    bool is_start[PER_LANE];
    load_gate(forgets, forget, forget_stride, first, length);
    load_gate(tokens.u, input, input_stride, first, length);
#pragma unroll
    for (int e = 0; e < PER_LANE; e++)
    {
        const int t = first + lane * PER_LANE + e;
        const bool is_there = t < length && !(padding && padding[t]);
        forgets[e] = is_there ? log_gate(FORGET_GATE, forgets[e]) : 0.f;
        tokens.u[e] = is_there ? log_gate(INPUT_GATE, tokens.u[e]) : MINUS_INFINITY;
        is_start[e] = t < length && starts && starts[t];
        running += forgets[e];
        tokens.sum[e] = running;
    }

    float before = running;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1)
    {
        const float other = __shfl_up_sync(FULL_WARP, before, o);
        if (lane >= o) before += other;
    }
    tokens.total = __shfl_sync(FULL_WARP, before, 31);
    before -= running;

    float top = MINUS_INFINITY;
    int start = -1;
#pragma unroll
    for (int e = 0; e < PER_LANE; e++)
    {
        tokens.sum[e] += before;
        tokens.u[e] -= tokens.sum[e];
        if (is_start[e])
        {
            start = lane * PER_LANE + e;
            top = forgets[e] - tokens.sum[e];
        }
        top = fmaxf(top, tokens.u[e]);
        tokens.top[e] = top;
        tokens.start[e] = start;
    }

    // The lanes before, back to the last start.
#pragma unroll
    for (int o = 1; o < 32; o <<= 1)
    {
        const float other_top = __shfl_up_sync(FULL_WARP, top, o);
        const int other_start = __shfl_up_sync(FULL_WARP, start, o);
        if (lane >= o && start < 0)
        {
            top = fmaxf(top, other_top);
            start = other_start;
        }
    }
    float lanes_top = __shfl_up_sync(FULL_WARP, top, 1);
    int lanes_start = __shfl_up_sync(FULL_WARP, start, 1);
    if (lane == 0)
    {
        lanes_top = MINUS_INFINITY;
        lanes_start = -1;
    }
#pragma unroll
    for (int e = 0; e < PER_LANE; e++)
    {
        if (tokens.start[e] >= 0) continue;
        tokens.top[e] = fmaxf(tokens.top[e], lanes_top);
        tokens.start[e] = lanes_start;
    }
    return tokens;
}

// The scale of the state after a chunk whose last token has this top and start.
DEVICE float next_scale(float m, float total, float top, int start)
{
    return STABILIZE ? total + (start < 0 ? fmaxf(m, top) : top) : 0.f;
}

// A lane's tokens to an array.
DEVICE void store_lane(float* to, const float (&x)[PER_LANE]) { *(float4*)to = make_float4(x[0], x[1], x[2], x[3]); }

// input, forget: float32 pre-activations, strides in elements (batch, head, token); starts, padding: [B, S] bytes or null; m0: [B, NH] or
// null. rows: [6, B NH, NC CHUNK] as MLstmShapes.cuh names them; keep: [B NH, NC]; m_last: [B NH] or null.
// Blocks of a head, any number, share the chunks; what they need of the others each finds for itself.
// grid (NH, B, any number), block any number of warps, shared 12 NC bytes.
KERNEL void __launch_bounds__(1024) mlstm_gates(
    const float* RESTRICT input, i64 input_batch, int input_head, int input_token,
    const float* RESTRICT forget, i64 forget_batch, int forget_head, int forget_token,
    const unsigned char* RESTRICT starts, const unsigned char* RESTRICT padding, const float* RESTRICT m0,
    float* RESTRICT rows, float* RESTRICT keep, float* RESTRICT m_last, int length, float scale)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const int chunks = (length + CHUNK - 1) / CHUNK;
    float* chunk_top = (float*)memory;           // [NC], then the scale before the chunk
    float* chunk_total = chunk_top + chunks;     // [NC]
    int* chunk_start = (int*)(chunk_total + chunks); // [NC]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int head = blockIdx.y * gridDim.x + blockIdx.x;
    input += blockIdx.y * input_batch + (i64)blockIdx.x * input_head;
    forget += blockIdx.y * forget_batch + (i64)blockIdx.x * forget_head;
    if (starts) starts += (i64)blockIdx.y * length;
    if (padding) padding += (i64)blockIdx.y * length;

    for (int c = warp; c < chunks; c += warps)
    {
        const Tokens tokens = read_tokens(input, input_token, forget, forget_token, starts, padding, c * CHUNK, length);
        if (lane == 31)
        {
            chunk_top[c] = tokens.top[PER_LANE - 1];
            chunk_total[c] = tokens.total;
            chunk_start[c] = tokens.start[PER_LANE - 1];
        }
    }
    __syncthreads();

    // From chunk to chunk m' = max(m + g, t), where t is the chunk's own: 32 of them at a time, by their composition.
    float m = STABILIZE && m0 ? m0[head] : 0.f;
    for (int first = 0; warp == 0 && first < chunks; first += 32)
    {
        const int c = first + lane;
        const bool exists = c < chunks;
        const float total = exists ? chunk_total[c] : 0.f;
        const int start = exists ? chunk_start[c] : -1;
        float sum = start < 0 ? total : MINUS_INFINITY, top = exists ? total + chunk_top[c] : MINUS_INFINITY;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1)
        {
            const float other_sum = __shfl_up_sync(FULL_WARP, sum, o), other_top = __shfl_up_sync(FULL_WARP, top, o);
            if (lane >= o)
            {
                top = fmaxf(top, sum + other_top);
                sum += other_sum;
            }
        }
        const float next = STABILIZE ? fmaxf(m + sum, top) : 0.f;
        float before = __shfl_up_sync(FULL_WARP, next, 1);
        if (lane == 0) before = m;
        if (exists)
        {
            if (blockIdx.z == 0) keep[(i64)head * chunks + c] = start < 0 ? expf(total + before - next) : 0.f;
            chunk_top[c] = before;
        }
        m = __shfl_sync(FULL_WARP, next, min(31, chunks - 1 - first));
    }
    if (m_last && threadIdx.x == 0 && blockIdx.z == 0) m_last[head] = m;
    __syncthreads();

    const i64 plane = (i64)gridDim.x * gridDim.y * chunks * CHUNK;
    for (int c = warp * gridDim.z + blockIdx.z; c < chunks; c += warps * gridDim.z)
    {
        const Tokens tokens = read_tokens(input, input_token, forget, forget_token, starts, padding, c * CHUNK, length);
        const float m = chunk_top[c];
        const int last_start = __shfl_sync(FULL_WARP, tokens.start[PER_LANE - 1], 31);
        const float last_top = __shfl_sync(FULL_WARP, tokens.top[PER_LANE - 1], 31);
        const float next = next_scale(m, tokens.total, last_top, last_start);
        float* out = rows + ((i64)head * chunks + c) * CHUNK + lane * PER_LANE;
        float u[PER_LANE], share[PER_LANE], read[PER_LANE], write[PER_LANE], floor[PER_LANE], begin[PER_LANE];
#pragma unroll
        for (int e = 0; e < PER_LANE; e++)
        {
            const bool is_open = tokens.start[e] < 0;
            const float p = STABILIZE ? (is_open ? fmaxf(m, tokens.top[e]) : tokens.top[e]) : -tokens.sum[e];
            u[e] = tokens.u[e] * LOG2_E;
            share[e] = p * LOG2_E;
            read[e] = is_open ? scale * expf(m - p) : 0.f;
            write[e] = lane * PER_LANE + e >= last_start ? expf(tokens.total + tokens.u[e] - next) : 0.f;
            floor[e] = expf(-(tokens.sum[e] + p));
            begin[e] = (float)max(tokens.start[e], 0);
        }
        store_lane(out + ROW_U * plane, u);
        store_lane(out + ROW_P * plane, share);
        store_lane(out + ROW_READ * plane, read);
        store_lane(out + ROW_WRITE * plane, write);
        store_lane(out + ROW_FLOOR * plane, floor);
        store_lane(out + ROW_START * plane, begin);
    }
}

// The gates' gradients. dli_j = k_j . dk_j; dlf_t is the sum of all that a query at or after t reads of a key before t:
//     in the chunk, by suffix sums of rows less columns of the triangle, which share every rounding,
//     of the memory before the chunk by queries from t on, of keys before t by what comes behind the chunk,
//     and carried = keep <C, dC'>, which passes through the whole chunk.
// With Q the memory's reads and K its writes in a chunk, <C, dC> = Q + carried and <C', dC'> = K + carried: a walk over the chunks, from
// the end, where the last state has no gradient, or from the start, where <C, dC> is `first` ([B NH], null for an empty state). Where less
// than FORGOTTEN of the memory passes through, carried is smaller than the rounding of that difference and taken as 0.
//
// A document's first forget gate acts on nothing but M.
//
// All that counts M as a constant; where `rows` is given, M's gradients dM pass on to what made it, M_t = max(lf_t + M_(t-1), li_t): the
// sum r_t of dM from t to the last token before M is made anew, by an input gate or a document's start, belongs to li_t where that is M_t,
// else to lf_t. From right to left that is r_t = dM_t + x, with x = 0 or r_(t+1) as token t+1 has it; what a lane or a chunk hands on is
// alpha + beta x. The last token's dM has d_last ([B NH] or null) besides, less <C', dC'> of the last state, which M divides; both here and
// there that is made of the same k . dk, or their rounding would stay where they cancel.
//
// dots: [4, B NH, NC CHUNK] as mlstm_backward_scores makes them; k_writes: [B NH, NC CHUNK]; keep: [B NH, NC]; rows: as mlstm_gates makes
// them, or null; d_input, d_forget: [B, NH, S]; d_scale: [B NH], what the first M gets in this way, or null.
// grid (NH, B, any number), block any number of warps, shared 16 NC bytes. Sums have a fixed order.
#define FORGOTTEN 0.002f

// A lane's tokens on the way of M's gradients.
struct Scales
{
    float change[PER_LANE];    // dM
    bool from_input[PER_LANE]; // whether M is the token's own li
    bool is_new[PER_LANE];     // whether M owes nothing to the token before
    float alpha, beta;         // the lane hands on alpha + beta x, of the x that comes to it from behind
};

DEVICE Scales read_scales(
    const float* RESTRICT rows, const float* RESTRICT changes, const unsigned char* RESTRICT starts, i64 plane, int first, int length)
{
    Scales scales;
    const int lane = threadIdx.x % 32;
    float u[PER_LANE], p[PER_LANE];
    load_lane(u, rows + ROW_U * plane + lane * PER_LANE);
    load_lane(p, rows + ROW_P * plane + lane * PER_LANE);
    load_lane(scales.change, changes + lane * PER_LANE);
    scales.alpha = 0.f;
    scales.beta = 1.f;
#pragma unroll
    for (int e = PER_LANE - 1; e >= 0; e--)
    {
        const int t = first + lane * PER_LANE + e;
        scales.change[e] = t < length ? scales.change[e] : 0.f;
        scales.from_input[e] = t < length && u[e] >= p[e];
        scales.is_new[e] = scales.from_input[e] || (t < length && starts && starts[t]);
        scales.alpha = scales.is_new[e] ? 0.f : scales.alpha + scales.change[e];
        scales.beta = scales.is_new[e] ? 0.f : scales.beta;
    }
    return scales;
}

KERNEL void __launch_bounds__(1024) mlstm_gates_backward(
    const float* RESTRICT input, i64 input_batch, int input_head, int input_token,
    const float* RESTRICT forget, i64 forget_batch, int forget_head, int forget_token,
    const unsigned char* RESTRICT starts, const unsigned char* RESTRICT padding,
    const float* RESTRICT dots, const float* RESTRICT k_writes, const float* RESTRICT keep, const float* RESTRICT first, int has_last,
    const float* RESTRICT rows, const float* RESTRICT d_last,
    float* RESTRICT d_input, float* RESTRICT d_forget, float* RESTRICT d_scale, int length)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int chunks = (length + CHUNK - 1) / CHUNK;
    float* reads = (float*)memory;        // [NC]: Q, then carried
    float* writes = reads + chunks;       // [NC]: K
    float* alphas = writes + chunks;      // [NC]: of a chunk, then what comes to it from behind
    float* betas = alphas + chunks;       // [NC]
    const int head = blockIdx.y * gridDim.x + blockIdx.x;
    const i64 plane = (i64)gridDim.x * gridDim.y * chunks * CHUNK;
    input += blockIdx.y * input_batch + (i64)blockIdx.x * input_head;
    forget += blockIdx.y * forget_batch + (i64)blockIdx.x * forget_head;
    if (starts) starts += (i64)blockIdx.y * length;
    if (padding) padding += (i64)blockIdx.y * length;
    dots += (i64)head * chunks * CHUNK;
    k_writes += (i64)head * chunks * CHUNK;
    keep += (i64)head * chunks;
    if (rows) rows += (i64)head * chunks * CHUNK;

    for (int c = warp; c < chunks; c += warps)
    {
        const i64 row = (i64)c * CHUNK + lane * PER_LANE;
        float read = 0.f, written = 0.f, of_rows[PER_LANE], of_columns[PER_LANE], of_keys[PER_LANE];
        load_lane(of_rows, dots + row);
        load_lane(of_columns, dots + plane + row);
        load_lane(of_keys, k_writes + row);
        if (rows)
        {
            Scales scales = read_scales(rows + (i64)c * CHUNK, dots + 3 * plane + (i64)c * CHUNK, starts, plane, c * CHUNK, length);
#pragma unroll
            for (int o = 1; o < 32; o <<= 1)
            {
                const float alpha = __shfl_down_sync(FULL_WARP, scales.alpha, o), beta = __shfl_down_sync(FULL_WARP, scales.beta, o);
                if (lane + o < 32)
                {
                    scales.alpha += scales.beta * alpha;
                    scales.beta *= beta;
                }
            }
            if (lane == 0)
            {
                alphas[c] = scales.alpha;
                betas[c] = scales.beta;
            }
        }
#pragma unroll
        for (int e = 0; e < PER_LANE; e++)
        {
            read += of_rows[e] - of_columns[e];
            written += of_keys[e];
        }
        read = warp_sum(read);
        written = warp_sum(written);
        if (lane == 0)
        {
            reads[c] = read;
            writes[c] = written;
        }
    }
    __syncthreads();

    if (threadIdx.x == 0)
    {
        float flow = has_last && first ? first[head] : 0.f; // <C, dC> at a border
        for (int step = 0; step < chunks; step++)
        {
            const int c = has_last ? step : chunks - 1 - step;
            const float near = has_last ? reads[c] : writes[c], far = has_last ? writes[c] : reads[c];
            const float carried = keep[c] < FORGOTTEN ? 0.f : flow - near;
            reads[c] = carried;
            flow = far + carried;
        }
        float behind = (d_last ? d_last[head] : 0.f) - (has_last ? flow : 0.f);
        for (int c = chunks - 1; rows && c >= 0; c--)
        {
            const float x = alphas[c] + betas[c] * behind;
            alphas[c] = behind;
            behind = x;
        }
        if (d_scale && blockIdx.z == 0) d_scale[head] = behind;
    }
    __syncthreads();

    for (int c = warp * gridDim.z + blockIdx.z; c < chunks; c += warps * gridDim.z)
    {
        const i64 row = (i64)c * CHUNK + lane * PER_LANE;
        float suffix[PER_LANE], prefix[PER_LANE], after = 0.f, before = 0.f;
        float of_rows[PER_LANE], of_columns[PER_LANE], of_own[PER_LANE], of_keys[PER_LANE], inputs[PER_LANE], forgets[PER_LANE];
        load_lane(of_rows, dots + row);
        load_lane(of_columns, dots + plane + row);
        load_lane(of_own, dots + 2 * plane + row);
        load_lane(of_keys, k_writes + row);
        load_gate(inputs, input, input_token, c * CHUNK, length);
        load_gate(forgets, forget, forget_token, c * CHUNK, length);
#pragma unroll
        for (int e = 0; e < PER_LANE; e++)
        {
            prefix[e] = before; // of the lane's own
            before += of_keys[e];
            after += of_rows[PER_LANE - 1 - e] - of_columns[PER_LANE - 1 - e];
            suffix[PER_LANE - 1 - e] = after;
        }
        float lanes_before = before, lanes_after = after;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1)
        {
            const float left = __shfl_up_sync(FULL_WARP, lanes_before, o), right = __shfl_down_sync(FULL_WARP, lanes_after, o);
            if (lane >= o) lanes_before += left;
            if (lane + o < 32) lanes_after += right;
        }
        lanes_before -= before;
        lanes_after -= after;

        float to_input[PER_LANE] = {}, to_forget[PER_LANE] = {};
        if (rows)
        {
            const Scales scales = read_scales(rows + (i64)c * CHUNK, dots + 3 * plane + (i64)c * CHUNK, starts, plane, c * CHUNK, length);
            float alpha = scales.alpha, beta = scales.beta;
#pragma unroll
            for (int o = 1; o < 32; o <<= 1)
            {
                const float right_alpha = __shfl_down_sync(FULL_WARP, alpha, o), right_beta = __shfl_down_sync(FULL_WARP, beta, o);
                if (lane + o < 32)
                {
                    alpha += beta * right_alpha;
                    beta *= right_beta;
                }
            }
            const float handed = __shfl_down_sync(FULL_WARP, alpha + beta * alphas[c], 1);
            float behind = lane == 31 ? alphas[c] : handed;
#pragma unroll
            for (int e = PER_LANE - 1; e >= 0; e--)
            {
                const float sum = scales.change[e] + behind;
                to_input[e] = scales.from_input[e] ? sum : 0.f;
                to_forget[e] = scales.from_input[e] ? 0.f : sum;
                behind = scales.is_new[e] ? 0.f : sum;
            }
        }
#pragma unroll
        for (int e = 0; e < PER_LANE; e++)
        {
            const int t = c * CHUNK + lane * PER_LANE + e;
            if (t >= length) continue;
            const bool is_there = !(padding && padding[t]);
            const float slope = is_there ? log_gate_slope(FORGET_GATE, forgets[e]) : 0.f;
            const float through = starts && starts[t] ? 0.f : reads[c] + lanes_before + prefix[e] + lanes_after + suffix[e];
            const float own = of_own[e] + of_columns[e] + of_keys[e] + to_input[e];
            d_forget[(i64)head * length + t] = slope * (through + to_forget[e]);
            d_input[(i64)head * length + t] = is_there ? own * log_gate_slope(INPUT_GATE, inputs[e]) : 0.f;
        }
    }
}
