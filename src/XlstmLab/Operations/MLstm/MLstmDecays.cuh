// The decays between the tokens of a chunk, as the sums of a triangle's tile hold its elements.
#pragma once
#include "MLstmTiles.cuh"

// Whether the warp has anything on or below a triangle's diagonal.
DEVICE bool is_below() { return warp_column(CHUNK / 2) < warp_row() + BAND; }

// f(i, j, e, E_ij) of the warp's elements, i, j and e the indices of Sums; rows: the chunk's numbers, in planes.
template <class F>
DEVICE void for_decays(const float* rows, i64 plane, F f)
{
    const int lane = threadIdx.x % 32;
    float p[2][2];
    int start[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            const int row = warp_row() + 16 * i + 8 * half + lane / 4;
            p[i][half] = rows[ROW_P * plane + row];
            start[i][half] = (int)rows[ROW_START * plane + row];
        }
#pragma unroll
    for (int j = 0; j < CHUNK / 16; j++)
    {
        const int column = warp_column(CHUNK / 2) + 8 * j + lane % 4 * 2;
        const float2 u = *(const float2*)(rows + ROW_U * plane + column);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                const int row = warp_row() + 16 * i + e / 2 * 8 + lane / 4, key = column + e % 2;
                const bool sees = key <= row && key >= start[i][e / 2];
                f(i, j, e, sees ? exp2_fast((e % 2 ? u.y : u.x) - p[i][e / 2]) : 0.f);
            }
    }
}
