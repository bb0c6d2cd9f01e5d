// Muon (Jordan et al. 2024) around its orthogonal matrix O, as Training/Muon.cs has it: with the clipped gradient g' = g min(1, clip /
// norm),
//     M += (g' - M) (1 - m),  U = m M + (1 - m) g' or M,  and when O has been made of U,  p = p (1 - rate decay) - rate scale O.
// Where adamw_prepare decided against the update, M and p stay, and U is 0. All that changes from step to step lies in device memory.
// Bytes an element: 14 and 10, 2 for the copy, 8 for the average.
#include "Ptx.cuh"
#include "UpdateRule.cuh"

// MuonKernel.cs tells THREADS, and the sizes of what it reads, in bytes.
static_assert(sizeof(Settings) == SETTINGS_BYTES && sizeof(Rule) == RULE_BYTES, "as AdamWKernel.cs has them");

// share: 1 - m. kept: m, or 1 where U is M itself. Grid: at most one thread an element; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) muon_momentum(
    const float* RESTRICT g, float* RESTRICT momentum, bf16* RESTRICT update, const Rule* RESTRICT rules,
    float share, float kept, i64 count)
{
    wait_for_predecessors();
    bool applies = rules->applies;
    float scale = rules->scale;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS)
    {
        if (!applies)
        {
            update[i] = (bf16)0;
            continue;
        }

        float gradient = g[i] * scale, m = momentum[i];
        m += (gradient - m) * share;
        momentum[i] = m;
        update[i] = to_bf16(gradient + (m - gradient) * kept);
    }
}

// copy and average, of p, may be null. o: [rows, columns], transposed in memory if tall. factor: the matrices' rate in units of the
// others', times the shape's scale; rate_factor: without that. Grid and threads as above.
KERNEL void __launch_bounds__(THREADS) muon_update(
    float* RESTRICT p, const bf16* RESTRICT o, bf16* RESTRICT copy, float* RESTRICT average,
    const Rule* RESTRICT rules, const Settings* RESTRICT settings, float factor, float decay, i64 rows, i64 columns, int tall)
{
    wait_for_predecessors();
    if (!rules->applies) return;
    float rate = (float)settings->rate, retained = 1.f - rate * decay, step = rate * factor, share = rules->average_share;
    i64 count = rows * columns;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS)
    {
        i64 place = tall ? i % columns * rows + i / columns : i;
        float value = p[i] * retained - step * from_bf16(o[place]);
        p[i] = value;
        if (copy) copy[i] = to_bf16(value);
        if (average) average[i] += (value - average[i]) * share;
    }
}
