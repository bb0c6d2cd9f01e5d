// The mLSTM's step for one token of each of a few sequences (xLSTM 7B, eqs. 2-9), with the head norm and the output gate behind it:
//     m' = max(log f + m, log i),  C' = f C + i k v^T,  n' = f n + i k with f = exp(log f + m - m'), i = exp(log i - m'),
//     h = C'^T q / max(|n'.q|, exp(-m')),  y = sigmoid(o) (w norm(h)).
// The memory C is read and written once, in place. A cluster of SLICES blocks has a head, each block DV / SLICES of its columns; what the
// norm needs of the others' comes through the cluster's shared memory. The memory is asked for before the kernel in front has ended: nobody
// in between writes it. Of few sequences it comes to registers, all at once. Of many, where there are blocks for all multiprocessors, a
// block has a whole head, or half of one, which comes by way of shared memory, where a thread finds what it has asked for itself: so as
// much is on its way all the time as a multiprocessor has room for, and there is little to wait for in the end.
//
// Bytes a head: 8 DK DV. 24 blocks of 4 heads of 128 x 256: 25 MB a token, 8 us at 3 TB/s; 32 of 8 of 256 x 512: 268 MB, 90 us. C may be
// kept in bfloat16, half of that. It is rounded up as often as it is near to above: rounded to nearest, a memory that forgets less than
// 2^-9 a token would forget nothing, and would not learn what is small beside it. The sums are of what is not rounded.
#include "Ptx.cuh"

// TokenStepKernels.cs tells DK, DV; SLICES; HEADS; EXPONENTIAL, the input gate, else a sigmoid; NORMALIZE; CENTER, whether the norm is a
// LayerNorm, else RMS; HALVES, whether C is bfloat16, else float32; STAGE, turns that are asked for together, and HELD, how many times that
// is on its way in shared memory, 0 for registers; ROOM_BYTES.
#define THREADS 256
#define WIDTH (DV / SLICES)
#define CELLS (HALVES ? 8 : 4) // columns of a row that a thread has
#define PIECES (WIDTH / CELLS)
#define GROUPS (THREADS / PIECES)
#define TURNS ((DK + GROUPS - 1) / GROUPS)
#define ROW_BYTES (DV * (HALVES ? 2 : 4))
#define STAGES ((TURNS + STAGE - 1) / STAGE)
#define WARPS (THREADS / 32)
#define KEYS ((DK + THREADS - 1) / THREADS) // that a thread has
#define VALUES ((WIDTH + THREADS - 1) / THREADS)
static_assert(DV % (CELLS * SLICES) == 0 && PIECES <= THREADS, "a thread has whole loads");

DEVICE float log_sigmoid(float x) { return fminf(x, 0.f) - log1pf(expf(-fabsf(x))); }

// The sum over the block, for all threads.
DEVICE float block_sum(float x, float* room)
{
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += room[w];
    return sum;
}

// 32 bits that look drawn, another for each argument.
DEVICE u32 scatter(u32 x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// Cells of 16 bytes: four in float32, eight in bfloat16.
DEVICE void unpack(float (&cell)[4], uint4 words)
{
    cell[0] = __uint_as_float(words.x), cell[1] = __uint_as_float(words.y);
    cell[2] = __uint_as_float(words.z), cell[3] = __uint_as_float(words.w);
}

DEVICE void unpack(float (&cell)[8], uint4 words) { unpack_bf16x8(cell, words); }

DEVICE uint4 pack(const float (&cell)[4], u32)
{
    return make_uint4(__float_as_uint(cell[0]), __float_as_uint(cell[1]), __float_as_uint(cell[2]), __float_as_uint(cell[3]));
}

// The bits that are left out are the chance by which as many random ones carry into those that stay; NaN stays as it is.
DEVICE u32 rounded(float x, u32 random) { return __float_as_uint(x) + (x == x ? random & 0xffffu : 0u); }

// `key` tells the step and the cells from all others.
DEVICE uint4 pack(const float (&cell)[8], u32 key)
{
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
        u32 random = scatter(key + i);
        words[i] = __byte_perm(rounded(cell[2 * i], random), rounded(cell[2 * i + 1], random >> 16), 0x7632);
    }

    return make_uint4(words[0], words[1], words[2], words[3]);
}

// qkvo [B, row]: q, k [NH DK], v, o [NH DV], and of each gate the products with the upper and the lower halves of its weights, [i, f, i, f]
// of NH. biases [2, NH]: i, f; c [B, NH, DK, DV] of HALVES or not, n [B, NH, DK], m [B, NH], weight [NH DV]; y [B, NH DV].
// Grid: (SLICES, NH, B) in clusters of SLICES; THREADS threads; a Room of shared memory.
struct alignas(16) Room
{
#if HELD > 0
    uint4 cells[HELD][STAGE][THREADS];
#endif
    u64 arrivals;
    float2 moments[SLICES];
    float q[DK], k[DK], sums[GROUPS][WIDTH], h[WIDTH], warps[WARPS];
};
static_assert(sizeof(Room) == ROOM_BYTES, "as the host counts it");

// A thread's cells, `mine` being those of row 0. In shared memory the first HELD stages are asked for at once, and another behind each that
// was taken.
struct Cells
{
#if HELD > 0
    DEVICE Cells(Room& room, const char* mine, int group) : room(room), mine(mine), group(group)
    {
        for (int stage = 0; stage < HELD; stage++) ask(stage);
    }

    DEVICE void ask(int stage)
    {
#pragma unroll
        for (int t = 0; t < STAGE; t++)
        {
            int d = (stage * STAGE + t) * GROUPS + group;
            if (group < GROUPS && d < DK) copy_async(shared_address(&room.cells[stage % HELD][t][threadIdx.x]), mine + (i64)d * ROW_BYTES);
        }

        copy_async_commit();
    }

    DEVICE void wait() { copy_async_wait<HELD - 1>(); }
    DEVICE uint4 take(int stage, int t) { return room.cells[stage % HELD][t][threadIdx.x]; }

    DEVICE void ask_behind(int stage)
    {
        if (stage + HELD < STAGES) ask(stage + HELD);
        else copy_async_commit();
    }

    Room& room;
    const char* mine;
    int group;
#else
    DEVICE Cells(Room&, const char* mine, int group)
    {
#pragma unroll
        for (int t = 0; t < STAGES * STAGE; t++)
        {
            int d = t * GROUPS + group;
            if (group < GROUPS && d < DK) words[t] = *(const uint4*)(mine + (i64)d * ROW_BYTES);
        }
    }

    DEVICE void wait() {}
    DEVICE uint4 take(int stage, int t) { return words[stage * STAGE + t]; }
    DEVICE void ask_behind(int) {}

    uint4 words[STAGES * STAGE];
#endif
};

KERNEL void __launch_bounds__(THREADS) token_memory(
    const float* qkvo, const float* biases, char* c, float* n, float* m, const float* weight, bf16* y,
    float gate_cap, float epsilon, float norm_epsilon)
{
    start_dependents();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    float *q = room.q, *k = room.k, *h = room.h;
    int slice = blockIdx.x, head = blockIdx.y, thread = threadIdx.x, column = thread % PIECES * CELLS, group = thread / PIECES;
    i64 place = (i64)blockIdx.z * HEADS + head;
    char* mine = c + place * DK * ROW_BYTES + (slice * WIDTH + column) * (ROW_BYTES / DV);
    bool takes_part = group < GROUPS;
    Cells cells(room, mine, group);
    if (SLICES > 1)
    {
        if (thread == 0)
        {
            mbarrier_init(shared_address(&room.arrivals), 1);
            mbarrier_arrive_expect(shared_address(&room.arrivals), SLICES * 8);
        }

        __syncwarp();
        cluster_arrive();
    }

    // What nobody in front writes, and then all that somebody does, each asked for at once.
    const float input_bias = biases[head], forget_bias = biases[HEADS + head], m_before = m[place];
    float kept[KEYS], q_here[KEYS], k_here[KEYS], norm[VALUES], gate[VALUES];
#pragma unroll
    for (int t = 0; t < KEYS; t++)
        if (t * THREADS + thread < DK) kept[t] = n[place * DK + t * THREADS + thread];
#pragma unroll
    for (int t = 0; t < VALUES; t++)
        if (t * THREADS + thread < WIDTH) norm[t] = weight[head * DV + slice * WIDTH + t * THREADS + thread];
    wait_for_results();
    const float* row = qkvo + (i64)blockIdx.z * (HEADS * (2 * DK + 2 * DV + 4));
    const float *values = row + HEADS * 2 * DK + head * DV + slice * WIDTH, *gates = row + HEADS * (2 * DK + 2 * DV) + head;
    float input = gates[0] + gates[2 * HEADS] + input_bias, forget = gates[HEADS] + gates[3 * HEADS] + forget_bias;
    float value[CELLS], sum[CELLS] = {};
#pragma unroll
    for (int i = 0; i < CELLS; i += 4)
    {
        float4 four = takes_part ? *(const float4*)(values + column + i) : make_float4(0, 0, 0, 0);
        value[i] = four.x, value[i + 1] = four.y, value[i + 2] = four.z, value[i + 3] = four.w;
    }
#pragma unroll
    for (int t = 0; t < KEYS; t++)
    {
        int d = t * THREADS + thread;
        if (d < DK) q_here[t] = row[head * DK + d], k_here[t] = row[HEADS * DK + head * DK + d];
    }

#pragma unroll
    for (int t = 0; t < VALUES; t++)
        if (t * THREADS + thread < WIDTH) gate[t] = values[HEADS * DV + t * THREADS + thread];
    if (gate_cap > 0) input = gate_cap * tanhf(input / gate_cap), forget = gate_cap * tanhf(forget / gate_cap);
    float log_i = EXPONENTIAL ? input : log_sigmoid(input), past = log_sigmoid(forget) + m_before;
    float now = !EXPONENTIAL ? 0.f : past <= log_i ? log_i : past;
    float keep = expf(past - now), write = expf(log_i - now);

    // Everyone needs the sum, the first block keeps n.
    float product = 0;
#pragma unroll
    for (int t = 0; t < KEYS; t++)
    {
        int d = t * THREADS + thread;
        if (d < DK)
        {
            q[d] = q_here[t] * (1.f / sqrtf((float)DK));
            k[d] = k_here[t] * write;
            kept[t] = kept[t] * keep + k[d];
            product += q[d] * kept[t];
        }
    }

    product = block_sum(product, room.warps); // q and k are there after it

    // Drawn from the text's own numbers, so that it becomes the same whatever is beside it.
    u32 key = HALVES ? scatter(scatter(__float_as_uint(product)) + __float_as_uint(forget) + head) : 0;
#if HELD > 0
#pragma unroll 1
#else
#pragma unroll
#endif
    for (int stage = 0; stage < STAGES; stage++)
    {
        cells.wait();
#pragma unroll
        for (int t = 0; t < STAGE; t++)
        {
            int d = (stage * STAGE + t) * GROUPS + group;
            if (takes_part && d < DK)
            {
                float cell[CELLS];
                unpack(cell, cells.take(stage, t));
#pragma unroll
                for (int i = 0; i < CELLS; i++)
                {
                    cell[i] = cell[i] * keep + value[i] * k[d];
                    sum[i] += q[d] * cell[i];
                }

                *(uint4*)(mine + (i64)d * ROW_BYTES) = pack(cell, key + (d * DV + slice * WIDTH + column) / 2);
            }
        }

        cells.ask_behind(stage);
    }

#pragma unroll
    for (int i = 0; i < CELLS; i++)
        if (takes_part) room.sums[group][column + i] = sum[i];
    __syncthreads();

    // Divided as MLstmNormalizer does, so that exp(-m') cannot overflow.
    float low = fminf(now, 0.f), unit = expf(low);
    float divisor = fmaxf(fabsf(product) * unit, expf(low - now)) + unit * epsilon, factor = NORMALIZE ? unit / divisor : 1.f;
    float mean = 0, squares = 0;
    for (int e = thread; e < WIDTH; e += THREADS)
    {
        float x = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) x += room.sums[g][e];
        h[e] = x * factor;
        mean += h[e];
    }

    mean = CENTER ? block_sum(mean, room.warps) / WIDTH : 0.f;
    for (int e = thread; e < WIDTH; e += THREADS) squares += (h[e] - mean) * (h[e] - mean);
    squares = block_sum(squares, room.warps);
    if (SLICES > 1)
    {
        cluster_wait(); // all its blocks run, and count arrivals
        if (thread < SLICES)
            cluster_store_async(
                cluster_address(shared_address(&room.moments[slice]), thread), make_float2(mean, squares),
                cluster_address(shared_address(&room.arrivals), thread));
        mbarrier_wait(shared_address(&room.arrivals), 0);
    }
    else room.moments[0] = make_float2(mean, squares); // of all threads the same

    // All blocks of the head have read n and m.
    if (slice == 0)
    {
#pragma unroll
        for (int t = 0; t < KEYS; t++)
            if (t * THREADS + thread < DK) n[place * DK + t * THREADS + thread] = kept[t];
        if (thread == 0) m[place] = now;
    }

    float center = 0, variance = 0;
    for (int s = 0; s < SLICES; s++) center += room.moments[s].x * (1.f / SLICES);
    for (int s = 0; s < SLICES; s++) variance += room.moments[s].y + WIDTH * (room.moments[s].x - center) * (room.moments[s].x - center);
    float r = 1.f / sqrtf(variance * (1.f / DV) + norm_epsilon);
#pragma unroll
    for (int t = 0; t < VALUES; t++)
    {
        int e = t * THREADS + thread;
        if (e < WIDTH)
            y[((i64)blockIdx.z * HEADS + head) * DV + slice * WIDTH + e] = to_bf16((h[e] - center) * r * norm[t] / (1.f + expf(-gate[t])));
    }
}
