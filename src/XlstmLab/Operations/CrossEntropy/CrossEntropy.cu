// The loss over a chunk of logits, and its gradient in their place: with y = a tanh(x / a), or y = x without a cap,
//     loss = log(sum of exp(y_v)) - y_target,   dx_v = c (exp(y_v) / sum - [v = target]) (1 - (y_v / a)^2).
//
// A block has a row at a time: it is copied into shared memory once, summed from there, and read there again for the gradient; each
// thread sees only the pieces that it copied itself. Piece by piece the next row is copied behind the gradient, so that memory never
// waits for sums. Blocks stay and walk the rows. With a cap up to 64 sums of exp(y) need no maximum: e^64 times the vocabulary is far
// from overflow. Without one each thread keeps the maximum that it has seen and rescales its sum when it grows.
//
// Bytes: 4 a logit (2 for the loss alone): 32768 rows of 50304: 6.6 GB and 2.2 ms at 3 TB/s. Operations: about 26 a logit, 70 % of what the
// multiprocessors issue meanwhile, so no more than two of them, the exponentials, may go to the special-function unit: tanh is a polynomial
// where |x| <= 0.7 a, and is taken from an exponential for the few pieces with a greater logit.
#include "Ptx.cuh"

// CrossEntropyKernel.cs tells VOCABULARY; CAP, a, or 0 for none; IGNORED, the target of rows that do not count; THREADS and BLOCKS, a
// multiprocessor, with SHARED_BYTES; and SUM_THREADS.
#define PIECES ((VOCABULARY + 7) / 8)
#define WARPS (THREADS / 32)
static_assert(SHARED_BYTES == 16 * PIECES + 16 * WARPS, "a row of logits, and two sets of a warp's maximum and sum");
static_assert(SUM_THREADS == 1024, "a lane of the last warp for each warp's sum");

#define BOUNDED (CAP > 0.f && CAP <= 64.f)
#define INVERSE_SQUARE (CAP > 0.f ? 1.f / (CAP * CAP) : 0.f) // 1 / a^2
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define SMALLEST -1e30f // below every maximum, and still a number: differences with it are not NaN
#define NOTHING -1e15f  // what stands past the end of the vocabulary: no share, a finite slope

// y for x, in place.
DEVICE void cap_piece(float (&x)[8])
{
    if (CAP <= 0.f) return;
    float largest = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) largest = fmaxf(largest, fabsf(x[e]));
    if (largest <= 0.7f * CAP)
    {
        // tanh(s) / s as a polynomial in s^2, to 4e-7 for s <= 0.7.
        const float u = INVERSE_SQUARE;
#pragma unroll
        for (int e = 0; e < 8; e++)
        {
            float square = x[e] * x[e];
            float ratio = 0.013773704f * u * u * u * u;
            ratio = ratio * square - 0.050836228f * u * u * u;
            ratio = ratio * square + 0.13281113f * u * u;
            ratio = ratio * square - 0.33330214f * u;
            ratio = ratio * square + 0.9999997f;
            x[e] *= ratio;
        }
    }
    else
    {
#pragma unroll
        for (int e = 0; e < 8; e++)
        {
            float share = 1.f - 2.f * reciprocal_fast(1.f + exp2_fast(2.f * LOG2_E / CAP * fabsf(x[e])));
            x[e] = copysignf(CAP * share, x[e]);
        }
    }
}

DEVICE void load_piece(float (&x)[8], uint4 raw, int piece)
{
    unpack_bf16x8(x, raw);
    cap_piece(x);
    if (VOCABULARY % 8 != 0 && piece == PIECES - 1)
    {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (e >= VOCABULARY % 8) x[e] = NOTHING;
    }
}

// c (1 - (y / a)^2)
DEVICE float slope(float y, float scale)
{
    return CAP > 0.f ? scale - scale * INVERSE_SQUARE * (y * y) : scale;
}

// The sum over the block of sums relative to maxima, as the base-2 logarithm. Two sets of places by turns: see the caller.
DEVICE float log_sum(float maximum, float sum, float2* places)
{
    int warp = threadIdx.x / 32;
    if (!BOUNDED)
    {
        float most = warp_max(maximum);
        sum *= exp2_fast(maximum - most);
        maximum = most;
    }

    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) places[warp] = make_float2(maximum, sum);
    __syncthreads();
    float most = BOUNDED ? 0.f : SMALLEST, total = 0;
    if (!BOUNDED)
    {
#pragma unroll
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, places[w].x);
    }

#pragma unroll
    for (int w = 0; w < WARPS; w++) total += BOUNDED ? places[w].y : places[w].y * exp2_fast(places[w].x - most);
    return most + log2f(total);
}

DEVICE void copy_row(u32 row, const bf16* from)
{
    for (int piece = threadIdx.x; piece < PIECES; piece += THREADS) copy_async(row + 16 * piece, from + 8 * piece);
}

template <bool Gradient>
DEVICE void cross_entropy(
    unsigned char* shared, bf16* logits, const i64* targets, float* losses, float scale, i64 stride, int rows)
{
    u32 buffer = shared_address(shared);
    const uint4* row_pieces = (const uint4*)shared;
    float2* places = (float2*)(shared + 16 * PIECES);
    int turn = 0;

    int row = blockIdx.x;
    i64 target = row < rows ? targets[row] : IGNORED;
    if (target != IGNORED) copy_row(buffer, logits + row * stride);
    copy_async_commit();
    while (row < rows)
    {
        bf16* here = logits + row * stride;
        int next = row + gridDim.x;
        i64 next_target = next < rows ? targets[next] : IGNORED;
        bool copies = next_target != IGNORED;
        const bf16* there = logits + next * stride;
        if (target == IGNORED)
        {
            if (Gradient)
                for (int piece = threadIdx.x; piece < stride / 8; piece += THREADS) *(uint4*)(here + 8 * piece) = make_uint4(0, 0, 0, 0);
            if (threadIdx.x == 0) losses[row] = 0;
            if (copies) copy_row(buffer, there);
        }
        else
        {
            bool sound = target >= 0 && target < VOCABULARY;
            int target_piece = sound ? (int)(target / 8) : 0, target_place = (int)(target % 8);
            float maximum = BOUNDED ? 0.f : SMALLEST, sum = 0, y_target = 0;
            copy_async_wait<0>();
            for (int piece = threadIdx.x; piece < PIECES; piece += THREADS)
            {
                float y[8];
                load_piece(y, row_pieces[piece], piece);
                if (piece == target_piece)
                {
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        if (e == target_place) y_target = y[e];
                }

                if (!BOUNDED)
                {
                    float most = y[0];
#pragma unroll
                    for (int e = 1; e < 8; e++) most = fmaxf(most, y[e]);
                    most *= LOG2_E;
                    if (most > maximum)
                    {
                        sum *= exp2_fast(maximum - most);
                        maximum = most;
                    }
                }

#pragma unroll
                for (int e = 0; e < 8; e++) sum += exp2_fast(y[e] * LOG2_E - maximum);
                if (!Gradient && copies) copy_async(buffer + 16 * piece, there + 8 * piece);
            }

            // A block that is ahead by one row writes its sums where no one still reads those of this row.
            float log2_sum = log_sum(maximum, sum, places + turn);
            turn = WARPS - turn;
            if (Gradient)
            {
                for (int piece = threadIdx.x; piece < PIECES; piece += THREADS)
                {
                    float y[8];
                    load_piece(y, row_pieces[piece], piece);
#pragma unroll
                    for (int e = 0; e < 8; e++) y[e] = exp2_fast(y[e] * LOG2_E - log2_sum) * slope(y[e], scale);
                    *(uint4*)(here + 8 * piece) = pack_bf16x8(y);
                    if (copies) copy_async(buffer + 16 * piece, there + 8 * piece);
                }

                for (int piece = PIECES + threadIdx.x; piece < stride / 8; piece += THREADS)
                    *(uint4*)(here + 8 * piece) = make_uint4(0, 0, 0, 0);
            }

            // The thread that had the target writes over its own gradient there.
            if (threadIdx.x == target_piece % THREADS)
            {
                losses[row] = sound ? LN_2 * log2_sum - y_target : __int_as_float(0x7fffffff);
                if (Gradient && sound)
                    here[target] = to_bf16((exp2_fast(y_target * LOG2_E - log2_sum) - 1.f) * slope(y_target, scale));
            }
        }

        copy_async_commit();
        row = next;
        target = next_target;
    }
}

// logits: [rows, stride], a multiple of 8 no less than VOCABULARY; what lies past it is not read, and zero afterwards. targets: IGNORED for
// a row that does not count: no loss, no gradient; any other that is no column gives a loss of NaN. losses: [rows]. The gradient is of
// the sum of losses over the divisor, which a recorded graph reads from memory.
// Grid: any number of blocks, BLOCKS a multiprocessor at best; THREADS threads; shared: SHARED_BYTES.
KERNEL void __launch_bounds__(THREADS, BLOCKS) cross_entropy_backward(
    bf16* logits, const i64* RESTRICT targets, float* RESTRICT losses, i64 divisor, const i64* RESTRICT kept_divisor, i64 stride, int rows)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    float scale = (float)(1.0 / (double)(kept_divisor ? *kept_divisor : divisor));
    cross_entropy<true>(shared, logits, targets, losses, scale, stride, rows);
}

// The losses alone; logits stay as they are.
KERNEL void __launch_bounds__(THREADS, BLOCKS) cross_entropy_forward(
    const bf16* logits, const i64* RESTRICT targets, float* RESTRICT losses, i64 stride, int rows)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    cross_entropy<false>(shared, (bf16*)logits, targets, losses, 1.f, stride, rows);
}

// total = the sum of losses / divisor, in a fixed order. Grid: 1 block; SUM_THREADS threads; shared: 8 bytes a warp.
KERNEL void __launch_bounds__(SUM_THREADS) sum_losses(
    const float* RESTRICT losses, double* total, int rows, i64 divisor, const i64* RESTRICT kept_divisor)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    double sum = 0;
#pragma unroll 8
    for (int row = threadIdx.x; row < rows; row += SUM_THREADS) sum += losses[row];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    if (threadIdx.x % 32 == 0) ((double*)shared)[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < SUM_THREADS / 32; w++) sum += ((double*)shared)[w];
    *total = sum / (double)(kept_divisor ? *kept_divisor : divisor);
}
