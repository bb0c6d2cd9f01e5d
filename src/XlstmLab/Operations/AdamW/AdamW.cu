// AdamW (Loshchilov and Hutter 2019) over all parameters at once, as Training/AdamW.cs has it: with t updates so far and this one,
//     g' = g min(1, clip / norm),  m += (g' - m) (1 - beta1),  v = beta2 v + (1 - beta2) g'^2,
//     p = p (1 - rate decay) - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon).
// Where the loss or the norm of all gradients is not finite, or greater than a limit, nothing happens and the update does not count. On
// the way the kernel writes the bfloat16 copy of the weights that products read, and their running average.
//
// Parameters are told by a table of segments, one for each tensor, or a single one for a flat buffer; they are cut into blocks of BLOCK
// elements, and `owners` has the segment of each block. Three kernels, none of which the host has to wait for: squared_sums leaves one sum
// a block; adamw_prepare adds them up, always in the same order and in double precision, decides, and works out the numbers of the update;
// adamw_update is one pass over memory. All that changes from step to step lies in device memory, so that a recorded graph can be replayed.
//
// Bytes an element: 4, then 28, 2 for the copy, 8 for the average: 162 M without the latter: 0.65 and 4.9 GB: 0.22 and 1.62 ms at 3 TB/s.
#include "Ptx.cuh"
#include "UpdateRule.cuh"

// AdamWKernel.cs tells BLOCK, the elements of a block; THREADS and PREPARE_THREADS; and the sizes of what it writes, in bytes.
static_assert(BLOCK % (4 * THREADS) == 0, "a thread has 4 elements at a time");
static_assert(PREPARE_THREADS == 1024, "a lane of the last warp for each warp's sum");

#define VECTORS 4 // of 4 elements, a thread and turn
#define LARGEST 1.7976931348623157e308

// A parameter. Tensors begin at multiples of 16 bytes; one without a gradient is left as it is.
struct Segment
{
    float* p;
    const float* g; // may be null
    float* m;       // null where another optimiser makes the update, perhaps another rank's: only the norm counts
    float* v;
    bf16* copy;     // of p; may be null
    float* average; // of p; may be null
    i64 count;
    int first;      // of its blocks, among all
    int decays;     // whether weight decay acts on it
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

static_assert(sizeof(Segment) == SEGMENT_BYTES && sizeof(Settings) == SETTINGS_BYTES, "as the host writes them");
static_assert(sizeof(Record) == RECORD_BYTES && sizeof(Rule) == RULE_BYTES, "as the host makes room for them");

// The block's part of its parameter: where it begins, and how long it is.
DEVICE i64 block_start(const Segment& segment, i64& length)
{
    i64 start = (i64)((int)blockIdx.x - segment.first) * BLOCK;
    length = segment.count - start < BLOCK ? segment.count - start : BLOCK;
    return start;
}

// partials[block]: the sum of squares of its gradients. Grid: one block for each of the table's; THREADS threads; shared: 8 bytes a warp.
KERNEL void __launch_bounds__(THREADS) squared_sums(
    const Segment* RESTRICT segments, const int* RESTRICT owners, double* RESTRICT partials)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    Segment segment = segments[owners[blockIdx.x]];
    i64 length, start = block_start(segment, length);
    const float* g = segment.g + start;
    double sum = 0;
    if (segment.g)
    {
        const int turns = BLOCK / 4 / THREADS;
        float4 raw[turns];
#pragma unroll
        for (int k = 0; k < turns; k++)
        {
            int i = 4 * (k * THREADS + threadIdx.x);
            raw[k] = i + 4 <= length ? *(const float4*)(g + i) : make_float4(0, 0, 0, 0);
            if (i + 4 > length)
            {
                if (i < length) raw[k].x = g[i];
                if (i + 1 < length) raw[k].y = g[i + 1];
                if (i + 2 < length) raw[k].z = g[i + 2];
            }
        }

#pragma unroll
        for (int k = 0; k < turns; k++)
        {
            sum += (double)raw[k].x * raw[k].x;
            sum += (double)raw[k].y * raw[k].y;
            sum += (double)raw[k].z * raw[k].z;
            sum += (double)raw[k].w * raw[k].w;
        }
    }

#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (threadIdx.x % 32 == 0) ((double*)shared)[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < THREADS / 32; w++) sum += ((double*)shared)[w];
    partials[blockIdx.x] = sum;
}

DEVICE bool within(double x, double limit) { return fabs(x) <= LARGEST && (limit <= 0 || x <= limit); }

// count: of partials. loss, the step's mean loss, may be null. Grid: 1 block; PREPARE_THREADS threads; shared: 8 bytes a warp.
KERNEL void __launch_bounds__(PREPARE_THREADS) adamw_prepare(
    const double* RESTRICT partials, const double* RESTRICT loss, const Settings* RESTRICT settings, Record* record, Rule* rule, int count)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    double sum = 0;
#pragma unroll 8
    for (int k = threadIdx.x; k < count; k += PREPARE_THREADS) sum += partials[k];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (threadIdx.x % 32 == 0) ((double*)shared)[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < PREPARE_THREADS / 32; w++) sum += ((double*)shared)[w];

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

// Grid: one block for each of the table's; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) adamw_update(
    const Segment* RESTRICT segments, const int* RESTRICT owners, const Rule* RESTRICT rules)
{
    wait_for_predecessors();
    Rule rule = *rules;
    Segment segment = segments[owners[blockIdx.x]];
    if (!rule.applies || !segment.g || !segment.m) return;
    float retained = segment.decays ? rule.retained : 1.f;
    i64 length, start = block_start(segment, length);
    float* RESTRICT p = segment.p + start;
    const float* RESTRICT g = segment.g + start;
    float* RESTRICT m = segment.m + start;
    float* RESTRICT v = segment.v + start;
    bf16* RESTRICT copy = segment.copy + start;
    float* RESTRICT average = segment.average + start;
    for (int first = 4 * threadIdx.x; first < length; first += 4 * THREADS * VECTORS)
    {
        float4 ps[VECTORS], gs[VECTORS], ms[VECTORS], vs[VECTORS];
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
        {
            int i = first + 4 * THREADS * k;
            if (i + 4 <= length)
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
            int i = first + 4 * THREADS * k;
            if (i + 4 <= length)
            {
                update(ps[k].x, gs[k].x, ms[k].x, vs[k].x, rule, retained);
                update(ps[k].y, gs[k].y, ms[k].y, vs[k].y, rule, retained);
                update(ps[k].z, gs[k].z, ms[k].z, vs[k].z, rule, retained);
                update(ps[k].w, gs[k].w, ms[k].w, vs[k].w, rule, retained);
                *(float4*)(p + i) = ps[k];
                *(float4*)(m + i) = ms[k];
                *(float4*)(v + i) = vs[k];
                if (segment.copy) *(uint2*)(copy + i) = make_uint2(pack_bf16(ps[k].x, ps[k].y), pack_bf16(ps[k].z, ps[k].w));
                if (segment.average)
                {
                    float4 a = *(const float4*)(average + i);
                    a.x += (ps[k].x - a.x) * rule.average_share, a.y += (ps[k].y - a.y) * rule.average_share;
                    a.z += (ps[k].z - a.z) * rule.average_share, a.w += (ps[k].w - a.w) * rule.average_share;
                    *(float4*)(average + i) = a;
                }
            }
            else
            {
                for (int j = i; j < length; j++)
                {
                    update(p[j], g[j], m[j], v[j], rule, retained);
                    if (segment.copy) copy[j] = to_bf16(p[j]);
                    if (segment.average) average[j] += (p[j] - average[j]) * rule.average_share;
                }
            }
        }
    }
}

// What others have updated since: its copy and its average. Grid: one block for each of the table's; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) adamw_adopt(
    const Segment* RESTRICT segments, const int* RESTRICT owners, const Rule* RESTRICT rules)
{
    wait_for_predecessors();
    Rule rule = *rules;
    Segment segment = segments[owners[blockIdx.x]];
    if (!rule.applies || !segment.g || segment.m) return;
    i64 length, start = block_start(segment, length);
    const float* RESTRICT p = segment.p + start;
    bf16* RESTRICT copy = segment.copy + start;
    float* RESTRICT average = segment.average + start;
    for (int i = threadIdx.x; i < length; i += THREADS)
    {
        if (segment.copy) copy[i] = to_bf16(p[i]);
        if (segment.average) average[i] += (p[i] - average[i]) * rule.average_share;
    }
}
