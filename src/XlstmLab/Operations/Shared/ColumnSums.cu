// The second half of every gradient that many blocks sum: out[c] = (out[c] +) sum over rows p of partials[p, c], in the order of a fixed
// tree, so that it repeats bit for bit. A block has 32 columns; each of its warps takes every 32nd row.
// Bytes: 4 a partial, out of the second-level cache where they have just been written: a few microseconds.
#include "Ptx.cuh"

#define WARPS 32

// partials: rows of `stride` floats. Grid: (columns + 31) / 32 blocks; 1024 threads; shared: 4224 bytes.
KERNEL void __launch_bounds__(32 * WARPS) column_sums(
    const float* RESTRICT partials, float* RESTRICT out, int rows, int columns, i64 stride, int accumulate)
{
    SHARED_MEMORY(shared);
    float(*sums)[33] = (float(*)[33])shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int p = warp; p < rows; p += WARPS) sum += partials[p * stride + column];
    sums[warp][lane] = sum;
    __syncthreads();

    // Now a warp has a column, a lane what one warp summed of it.
    sum = warp_sum(sums[lane][warp]);
    column = blockIdx.x * 32 + warp;
    if (lane == 0 && column < columns) out[column] = accumulate ? out[column] + sum : sum;
}
