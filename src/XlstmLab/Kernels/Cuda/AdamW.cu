// AdamW over one flat buffer of parameters (Loshchilov and Hutter 2019), as Training/AdamW.cs has it: with t updates so far and this one,
//     g' = g min(1, clip / norm),  m += (g' - m) (1 - beta1),  v = beta2 v + (1 - beta2) g'^2,
//     p = p (1 - rate decay) - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon),
// decay on chosen blocks of 4096 elements only. Where the loss or the norm of all gradients is not finite, or greater than a limit,
// nothing happens and the update does not count. On the way the kernel writes the bfloat16 copy that products read, and the weights'
// running average.
//
// Three kernels, none of which the host has to wait for: squared_sums leaves one sum a block; adamw_prepare adds them up, always in the
// same order and in double precision, decides, and works out the numbers of the update; adamw_update is one pass over memory. All that
// changes from step to step lies in device memory, so that a recorded graph can be replayed.
//
// Bytes an element: 4, then 28, 2 for the copy, 8 for the average: 162 M without the latter: 0.65 and 4.9 GB: 0.22 and 1.62 ms at 3 TB/s.
#include "Ptx.cuh"

#ifndef NORM_THREADS
#define NORM_THREADS 512
#endif
#ifndef THREADS
#define THREADS 256
#endif
#ifndef VECTORS
#define VECTORS 2 // of 4 elements, a thread and turn
#endif

#define BLOCK 4096 // elements that decay, or not, together
#define LARGEST 1.7976931348623157e308

// What the host writes before each step.
struct Settings
{
    double rate, beta1, beta2, epsilon, decay;
    double clip;                    // the greatest norm that gradients are left with; 0: any
    double loss_limit, norm_limit;  // no update beyond; 0: any finite
    double average_decay;           // the share of the running average of weights that an update keeps
};

// What the device keeps, and the host reads when it likes.
struct Record
{
    double loss, norm;       // of the last step
    i64 updates;             // t
    i64 skipped;             // steps without an update
    i64 skipped_in_a_row;
    i64 applied;             // whether the last step was an update
};

// The numbers of one update.
struct Rule
{
    float scale, mean_share, beta2, square_share, epsilon, inverse_root, step_size, retained, average_share;
    int applies;
};

// The block's sum of squares, in partials[blockIdx.x]. Grid: any number of blocks, 4 a multiprocessor at best; NORM_THREADS threads;
// shared: 128 bytes.
KERNEL void __launch_bounds__(NORM_THREADS) squared_sums(const float* RESTRICT x, double* RESTRICT partials, i64 count)
{
    SHARED_MEMORY(shared);
    double sum = 0;
    i64 vectors = count / 4, step = (i64)gridDim.x * NORM_THREADS, mine = (i64)blockIdx.x * NORM_THREADS + threadIdx.x;
    for (i64 first = mine; first < vectors; first += 4 * step)
    {
        float4 raw[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            raw[k] = first + k * step < vectors ? *(const float4*)(x + 4 * (first + k * step)) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 4; k++)
        {
            sum += (double)raw[k].x * raw[k].x;
            sum += (double)raw[k].y * raw[k].y;
            sum += (double)raw[k].z * raw[k].z;
            sum += (double)raw[k].w * raw[k].w;
        }
    }

    if (mine < count % 4) sum += (double)x[4 * vectors + mine] * x[4 * vectors + mine];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (threadIdx.x % 32 == 0) ((double*)shared)[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < NORM_THREADS / 32; w++) sum += ((double*)shared)[w];
    partials[blockIdx.x] = sum;
}

DEVICE bool within(double x, double limit) { return fabs(x) <= LARGEST && (limit <= 0 || x <= limit); }

// loss, the step's mean loss, may be null. Grid: 1 block; 1024 threads; shared: 256 bytes.
KERNEL void __launch_bounds__(1024) adamw_prepare(
    const double* RESTRICT partials, const double* RESTRICT loss, const Settings* RESTRICT settings, Record* record, Rule* rule, int count)
{
    SHARED_MEMORY(shared);
    double sum = 0;
    for (int k = threadIdx.x; k < count; k += 1024) sum += partials[k];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (threadIdx.x % 32 == 0) ((double*)shared)[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < 32; w++) sum += ((double*)shared)[w];

    Settings s = *settings;
    double norm = sqrt(sum), value = loss ? *loss : 0.0;
    bool applies = within(norm, s.norm_limit) && within(value, s.loss_limit);
    i64 t = record->updates + (applies ? 1 : 0);
    record->loss = value;
    record->norm = norm;
    record->updates = t;
    record->skipped += applies ? 0 : 1;
    record->skipped_in_a_row = applies ? 0 : record->skipped_in_a_row + 1;
    record->applied = applies ? 1 : 0;
    rule->applies = applies;
    if (!applies) return;
    rule->scale = (float)(s.clip > 0 && norm > s.clip ? s.clip / norm : 1.0);
    rule->mean_share = (float)(1 - s.beta1);
    rule->beta2 = (float)s.beta2;
    rule->square_share = (float)(1 - s.beta2);
    rule->epsilon = (float)s.epsilon;
    rule->inverse_root = (float)(1 / sqrt(1 - pow(s.beta2, (double)t)));
    rule->step_size = (float)(s.rate / (1 - pow(s.beta1, (double)t)));
    rule->retained = (float)(1 - s.rate * s.decay);
    rule->average_share = (float)(1 - s.average_decay);
}

DEVICE void update(float& p, float g, float& m, float& v, const Rule& rule, float retained)
{
    g *= rule.scale;
    m += (g - m) * rule.mean_share;
    v = v * rule.beta2 + g * g * rule.square_share;
    p = p * retained - m / (sqrtf(v) * rule.inverse_root + rule.epsilon) * rule.step_size;
}

// p, g, m, v: float32 [count]; copy, bfloat16 [count], and average, float32 [count], may be null. decays[k]: not 0 where elements 4096 k
// to 4096 k + 4095 decay.
// Grid: count / 4096, rounded up; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) adamw_update(
    float* RESTRICT p, const float* RESTRICT g, float* RESTRICT m, float* RESTRICT v, bf16* RESTRICT copy, float* RESTRICT average,
    const unsigned char* RESTRICT decays, const Rule* RESTRICT rules, i64 count)
{
    Rule rule = *rules;
    if (!rule.applies) return;
    float retained = decays[blockIdx.x] ? rule.retained : 1.f;
    i64 start = (i64)blockIdx.x * BLOCK, end = start + BLOCK < count ? start + BLOCK : count;
    for (i64 first = start + 4 * threadIdx.x; first < end; first += 4 * THREADS * VECTORS)
    {
        float4 ps[VECTORS], gs[VECTORS], ms[VECTORS], vs[VECTORS];
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
        {
            i64 i = first + 4 * THREADS * k;
            if (i + 4 <= end)
            {
                gs[k] = *(const float4*)(g + i);
                ps[k] = *(const float4*)(p + i);
                ms[k] = *(const float4*)(m + i);
                vs[k] = *(const float4*)(v + i);
            }
        }

#pragma unroll
        for (int k = 0; k < VECTORS; k++)
        {
            i64 i = first + 4 * THREADS * k;
            if (i + 4 <= end)
            {
                update(ps[k].x, gs[k].x, ms[k].x, vs[k].x, rule, retained);
                update(ps[k].y, gs[k].y, ms[k].y, vs[k].y, rule, retained);
                update(ps[k].z, gs[k].z, ms[k].z, vs[k].z, rule, retained);
                update(ps[k].w, gs[k].w, ms[k].w, vs[k].w, rule, retained);
                *(float4*)(p + i) = ps[k];
                *(float4*)(m + i) = ms[k];
                *(float4*)(v + i) = vs[k];
                if (copy) *(uint2*)(copy + i) = make_uint2(pack_bf16(ps[k].x, ps[k].y), pack_bf16(ps[k].z, ps[k].w));
                if (average)
                {
                    float4 a = *(const float4*)(average + i);
                    a.x += (ps[k].x - a.x) * rule.average_share, a.y += (ps[k].y - a.y) * rule.average_share;
                    a.z += (ps[k].z - a.z) * rule.average_share, a.w += (ps[k].w - a.w) * rule.average_share;
                    *(float4*)(average + i) = a;
                }
            }
            else
            {
                for (i64 j = i; j < end; j++)
                {
                    update(p[j], g[j], m[j], v[j], rule, retained);
                    if (copy) copy[j] = to_bf16(p[j]);
                    if (average) average[j] += (p[j] - average[j]) * rule.average_share;
                }
            }
        }
    }
}
