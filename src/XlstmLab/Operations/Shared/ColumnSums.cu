// The second half of gradients that many blocks sum: out[c] = sum over rows p of partials[p, c], in the order of a fixed
// tree, so that it repeats bit for bit. A block has 32 columns of one of them; each of its warps takes every 32nd row.
// Bytes: 4 a partial, out of the second-level cache where they have just been written: a few microseconds.
#include "Ptx.cuh"

// PartialSums.cs tells WARPS, and MOST, the gradients of a launch.
static_assert(WARPS == 32, "a lane takes over from each warp, and a warp from each column");

// partials: `rows` rows of `columns` numbers, `stride` apart; start: the first of its blocks, (columns + 31) / 32; adds: whether out has a
// part of the sum already.
struct Part
{
    const float* partials;
    float* out;
    int rows, stride, columns, start, adds, unused;
};

struct Parts
{
    Part part[MOST];
    int count, unused;
};

static_assert(sizeof(Parts) == PARTS_BYTES, "as the host has them");

// Grid: the blocks of all parts; WARPS warps; shared: 4 WARPS 33 bytes.
KERNEL void __launch_bounds__(32 * WARPS) column_sums(const __grid_constant__ Parts parts)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    float(*sums)[33] = (float(*)[33])shared;
    int which = 0;
    while (which + 1 < parts.count && parts.part[which + 1].start <= (int)blockIdx.x) which++;
    const Part& part = parts.part[which];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = 32 * ((int)blockIdx.x - part.start), column = first + lane;
    const float* partials = part.partials;
    float sum = 0;
    if (column < part.columns)
#pragma unroll 8
        for (int p = warp; p < part.rows; p += WARPS) sum += partials[(i64)p * part.stride + column];
    sums[warp][lane] = sum;
    __syncthreads();

    // Now a warp has a column, a lane what one warp summed of it.
    sum = warp_sum(sums[lane][warp]);
    column = first + warp;
    if (lane == 0 && column < part.columns) part.out[column] = part.adds ? part.out[column] + sum : sum;
}
