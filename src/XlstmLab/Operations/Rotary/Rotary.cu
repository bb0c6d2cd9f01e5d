// Rotary position embedding of queries and keys, and values beside them as they are: channel j of a head's first half and j of its second
// are turned, (a, b) to (a c - b s, b c + a s); back, which is what a gradient goes through, with -s (Su et al. 2021, eq. 34).
//
// One thread has 8 channels of a half and their partners. Bytes a channel: 4, and angles from the cache.
// 16384 tokens of 3 x 16 heads of 64: 201 MB: 67 us at 3 TB/s.
#include "Ptx.cuh"

// RotaryKernel.cs tells HEAD_DIM, D; BACK, whether it turns back; THREADS.
static_assert(HEAD_DIM % 16 == 0, "a thread has 8 channels of each half");

// Where a head of a token begins: each of q, k and v in strides of its own, all channels of a head in one piece.
struct Place { i64 batch, token, head; };

// q: turned heads 0 to queries; k: turned ones to keys; v: the rest to heads; out: [B, S, heads, D]. cosines, sines: [S, D/2] float32, or
// with angles_batch = S D/2 [B, S, D/2].
// Grid: B S heads D / 16 / THREADS, rounded up; THREADS threads; no shared memory.
KERNEL void __launch_bounds__(THREADS) rotate_heads(
    const bf16* RESTRICT q, const bf16* RESTRICT k, const bf16* RESTRICT v,
    i64 q_batch, i64 q_token, i64 q_head, i64 k_batch, i64 k_token, i64 k_head, i64 v_batch, i64 v_token, i64 v_head,
    const float* RESTRICT cosines, const float* RESTRICT sines, i64 angles_batch, bf16* RESTRICT out,
    int batches, int length, int queries, int keys, int heads)
{
    wait_for_predecessors();
    const int pieces = HEAD_DIM / 16, half = HEAD_DIM / 2;
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    int channel = 8 * (int)(i % pieces), head = (int)(i / pieces % heads), token = (int)(i / pieces / heads % length);
    i64 batch = i / pieces / heads / length;
    if (batch >= batches) return;

    Place place = head < queries ? Place{q_batch, q_token, q_head}
        : head < keys ? Place{k_batch, k_token, k_head}
        : Place{v_batch, v_token, v_head};
    const bf16* x = head < queries ? q : head < keys ? k : v;
    int own = head < queries ? head : head < keys ? head - queries : head - keys;
    x += batch * place.batch + token * place.token + own * place.head + channel;
    uint4 raw_a = load_once(x), raw_b = load_once(x + half);
    if (head < keys)
    {
        i64 at = batch * angles_batch + (i64)token * half + channel;
        float a[8], b[8], c[8], s[8], turned_a[8], turned_b[8];
        unpack_bf16x8(a, raw_a);
        unpack_bf16x8(b, raw_b);
        *(float4*)c = *(const float4*)(cosines + at), *(float4*)(c + 4) = *(const float4*)(cosines + at + 4);
        *(float4*)s = *(const float4*)(sines + at), *(float4*)(s + 4) = *(const float4*)(sines + at + 4);
#pragma unroll
        for (int j = 0; j < 8; j++)
        {
            float sine = BACK ? -s[j] : s[j];
            turned_a[j] = a[j] * c[j] - b[j] * sine;
            turned_b[j] = b[j] * c[j] + a[j] * sine;
        }
        raw_a = pack_bf16x8(turned_a);
        raw_b = pack_bf16x8(turned_b);
    }

    bf16* y = out + ((batch * length + token) * heads + head) * HEAD_DIM + channel;
    *(uint4*)y = raw_a;
    *(uint4*)(y + half) = raw_b;
}
