// Weights of several projections in bfloat16, one below the other: what one product reads for all of them.
// Bytes an element: 6.
#include "Ptx.cuh"

// JointProjection.cs tells MOST, the most weights, and THREADS.
static_assert(MOST == 8, "as the kernel has arguments");

// w0 ...: float32, each in whole rows of a multiple of 8 numbers; end0 ...: where each ends among all numbers, the last one for those that
// are none. Grid: a thread for 8 numbers; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) join_weights(
    const float* w0, const float* w1, const float* w2, const float* w3, const float* w4, const float* w5, const float* w6, const float* w7,
    i64 end0, i64 end1, i64 end2, i64 end3, i64 end4, i64 end5, i64 end6, i64 end7, bf16* joined)
{
    wait_for_predecessors();
    i64 i = 8 * ((i64)blockIdx.x * THREADS + threadIdx.x);
    if (i >= end7) return;
    const float* w = w0 + i;
    if (i >= end0) w = w1 + (i - end0);
    if (i >= end1) w = w2 + (i - end1);
    if (i >= end2) w = w3 + (i - end2);
    if (i >= end3) w = w4 + (i - end3);
    if (i >= end4) w = w5 + (i - end4);
    if (i >= end5) w = w6 + (i - end5);
    if (i >= end6) w = w7 + (i - end6);
    float4 a = *(const float4*)w, b = *(const float4*)(w + 4);
    *(uint4*)(joined + i) = make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
}
