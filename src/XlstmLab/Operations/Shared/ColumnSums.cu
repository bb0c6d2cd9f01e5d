// The second half of every gradient that many blocks sum: out[c] = sum over rows p of partials[p, c], in the order of a fixed
// tree, so that it repeats bit for bit. A block has 32 columns; each of its warps takes every 32nd row.
// Bytes: 4 a partial, out of the second-level cache where they have just been written: a few microseconds.
#include "Ptx.cuh"

// Kernel.cs tells WARPS.
static_assert(WARPS == 32, "a lane takes over from each warp, and a warp from each column");

// partials: [rows, columns]. Grid: (columns + 31) / 32 blocks; WARPS warps; shared: 4 WARPS 33 bytes.
KERNEL void __launch_bounds__(32 * WARPS) column_sums(
    const float* RESTRICT partials, float* RESTRICT out, int rows, int columns)
{
    wait_for_predecessors();
    SHARED_MEMORY(shared);
    float(*sums)[33] = (float(*)[33])shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int p = warp; p < rows; p += WARPS) sum += partials[(i64)p * columns + column];
    sums[warp][lane] = sum;
    __syncthreads();

    // Now a warp has a column, a lane what one warp summed of it.
    sum = warp_sum(sums[lane][warp]);
    column = blockIdx.x * 32 + warp;
    if (lane == 0 && column < columns) out[column] = sum;
}
