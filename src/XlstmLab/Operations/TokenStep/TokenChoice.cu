// The next token of each row, chosen from its logits as TokenSampler does, in its order: penalties; then the largest score, or temperature,
// top-k, top-p, min-p and a draw. A score s is the logit, or float32 of what penalties make of it in double precision. A cluster of SLICES
// blocks has a row: each looks for the largest score of a part of the ids, then the first goes on alone.
//
// Weights exp((s - max) / T) are whole numbers of 2^-40 of the largest's: whatever their order, sums are the same, and so are a seed's
// texts. Nothing is sorted: a threshold is that bin of a histogram, and then that key among the bin's, at which the sum from the top passes
// what is wanted. What is left after the first histogram is listed in shared memory, if it is not more than 4096 ids, and looked at there
// from then on.
//
// Bytes: 4 V of logits a pass, and 4 V of counts where a row has penalties; of V = 50304 201 KB, which a multiprocessor takes 1.8 us for at
// 64 bytes a cycle and 1.75 GHz, a cluster of 8 an eighth. Passes: 1 for a greedy row, 2 for one that is drawn from all, 4 with top-k,
// top-p or both; where these leave more than are listed 2 more for each, and one for each 11 bits in which keys of a bin differ.
#include "Ptx.cuh"

// TokenChoice.cs tells THREADS, a multiple of 32 from 256 to 1024, and SLICES.
#define WARPS (THREADS / 32)
#define UNROLL 8
#define BINS 2048
#define LISTED 4096
#define DIGIT 11 // bits, 2^11 bins
#define ONE (1ull << 40)
#define LARGEST 3.402823466e38f

// What a row's choice needs, as TokenChoiceRow has it.
struct Row
{
    double repetition, frequency, presence; // 1, 0, 0 for none
    double least;                           // T log(min-p), what a score may be below the largest; minus infinity for no bound
    double top_p;                           // 1 for all
    u64 random;                             // the state of SplitMix64
    float steepness;                        // log2(e) / T
    int top_k;                              // 0 for all
    int mode;
    int unused;
};

#define MODE_IDLE 0 // nothing is chosen
#define MODE_GREEDY 1
#define MODE_DRAWN 2

// Of a block's ids.
struct Part
{
    u64 best; // the key of the largest score, and behind it that id's complement: of equals the first is the largest
    double sum; // of exp(logit - largest)
    float largest, least;
};

struct Room
{
    u64 arrivals;
    Part parts[SLICES];
    Part warps[WARPS], all;
    u64 bins[BINS], sums[WARPS], found_rest;
    u32 keys[LISTED], largest_keys[WARPS], least_keys[WARPS];
    int ids[LISTED], found;
};

// A number whose order is that of x, and back.
DEVICE u32 key_of(float x)
{
    u32 bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DEVICE float score_of(u32 key) { return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key); }

DEVICE u64 mix(u64 z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// That of the warp's threads together, for all of them.
DEVICE Part joined(Part part)
{
    float own = part.largest;
    part.largest = warp_max(own);

    // Where there are infinities only, a sum that is no number stays none.
    if (own > MINUS_INFINITY) part.sum *= expf(own - part.largest);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
    {
        part.sum += __shfl_xor_sync(FULL_WARP, part.sum, o);
        part.least = fminf(part.least, __shfl_xor_sync(FULL_WARP, part.least, o));
        u64 other = __shfl_xor_sync(FULL_WARP, part.best, o);
        if (other > part.best) part.best = other;
    }

    return part;
}

struct Scores
{
    const float* logits;
    const int* counts; // of each id twice how often it was generated, and 1 if it occurred; 0 where the row has no penalties
    double repetition, frequency, presence;
    int items;       // every id, or those whose keys are listed
    const u32* keys; // 0 where none are
    float largest, steepness, bins_per_unit;

    DEVICE float penalized(int id, float logit) const
    {
        int count = counts ? counts[id] : 0;
        if (count == 0) return logit;
        double x = logit;
        x = x < 0 ? x * repetition : x / repetition;
        if (count > 1) x -= (count >> 1) * frequency + presence;
        return x != x || logit == MINUS_INFINITY ? logit : (float)fmin(fmax(x, -(double)LARGEST), (double)LARGEST);
    }

    // Of either zero the same.
    DEVICE float at(int item) const { return keys ? score_of(keys[item]) : penalized(item, logits[item]) + 0.f; }

    DEVICE u64 weight(float score) const
    {
        return score == largest ? ONE : (u64)(exp2_fast((score - largest) * steepness) * (float)ONE);
    }

    DEVICE int bin(float score) const { return (int)fminf((largest - score) * bins_per_unit, (float)(BINS - 1)); }
};

// The sum of the lanes up to this one.
DEVICE u64 warp_scan(u64 sum)
{
#pragma unroll
    for (int o = 1; o < 32; o <<= 1)
    {
        u64 other = __shfl_up_sync(FULL_WARP, sum, o);
        if (threadIdx.x % 32 >= o) sum += other;
    }

    return sum;
}

// The sum of the threads in front of this one, and that of all.
DEVICE u64 scan(u64 own, Room& room, u64& total)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u64 sum = warp_scan(own);
    __syncthreads();
    if (lane == 31) room.sums[warp] = sum;
    __syncthreads();
    u64 sums = warp_scan(lane < WARPS ? room.sums[lane] : 0), before = __shfl_sync(FULL_WARP, sums, (warp + 31) % 32);
    total = __shfl_sync(FULL_WARP, sums, 31);
    return (warp > 0 ? before : 0) + sum - own;
}

// Tells all threads what one of them found.
DEVICE void find(bool here, int what, u64& rest, Room& room, int& found)
{
    __syncthreads();
    if (here) room.found = what, room.found_rest = rest;
    __syncthreads();
    found = room.found, rest = room.found_rest;
}

// The bin at which the sum of all up to it passes `rest`, which becomes what is left of it there.
DEVICE int pick(Room& room, u64& rest, u64& total)
{
    u64 own = 0;
    int bin = threadIdx.x * (BINS / THREADS);
    for (int b = 0; b < BINS / THREADS; b++) own += room.bins[bin + b];
    u64 before = scan(own, room, total);
    bool here = before <= rest && rest < before + own;
    u64 left = rest - before;
    while (here && left >= room.bins[bin]) left -= room.bins[bin++];
    rest = left;
    find(here, bin, rest, room, bin);
    return bin;
}

DEVICE void clear(Room& room)
{
    for (int b = threadIdx.x; b < BINS; b += THREADS) room.bins[b] = 0;
    __syncthreads();
}

template <bool WEIGHTS>
DEVICE void count(const Scores& scores, Room& room, int bin, float score)
{
    // Of what is counted by ones there is less than fits the lower half.
    if (!WEIGHTS) atomicAdd((u32*)&room.bins[bin], 1u);
    else if (u64 weight = scores.weight(score)) atomicAdd(&room.bins[bin], weight);
}

// Has the items be those of the bins up to this one, in their order, if a list holds them.
DEVICE void keep(Scores& scores, Room& room, u32 floor, int bin)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, width = (scores.items + THREADS - 1) / THREADS * 32, begin = warp * width;
    int end = min(scores.items, begin + width);
    u64 own = 0, total;
#pragma unroll 4
    for (int i = begin + lane; i < end; i += 32)
    {
        float score = scores.at(i);
        own += scores.bin(score) <= bin && key_of(score) >= floor;
    }

#pragma unroll
    for (int o = 16; o > 0; o >>= 1) own += __shfl_xor_sync(FULL_WARP, own, o);
    int place = (int)scan(lane == 0 ? own : 0, room, total);
    if (total > LISTED) return;
    place = __shfl_sync(FULL_WARP, place, 0);
#pragma unroll 4
    for (int first = begin; first < end; first += 32)
    {
        int i = first + lane;
        float score = i < end ? scores.at(i) : MINUS_INFINITY;
        u32 key = key_of(score);
        bool stays = i < end && scores.bin(score) <= bin && key >= floor;
        u32 stay = __ballot_sync(FULL_WARP, stays);
        if (stays)
        {
            int mine = place + __popc(stay & ((1u << lane) - 1));
            room.keys[mine] = key, room.ids[mine] = i;
        }

        place += __popc(stay);
    }

    __syncthreads();
    scores.keys = room.keys, scores.items = (int)total;
}

// The key at which the sum of keys from the largest down passes `rest`: of ones, or of weights with p for the share of all that is wanted.
// Keys below `floor` do not count. `rest` becomes what is left of it at that key. Items that are certainly below it may be none any more.
template <bool WEIGHTS>
DEVICE u32 threshold(Scores& scores, Room& room, u32 floor, double p, u64& rest)
{
    int thread = threadIdx.x, warp = thread / 32;
    clear(room);
#pragma unroll 4
    for (int i = thread; i < scores.items; i += THREADS)
    {
        float score = scores.at(i);
        if (key_of(score) >= floor) count<WEIGHTS>(scores, room, scores.bin(score), score);
    }

    __syncthreads();
    u64 total = 0;
    if (WEIGHTS)
    {
        for (int b = thread; b < BINS; b += THREADS) total += room.bins[b];
        scan(total, room, total);
        double wanted = ceil(p * (double)total);
        rest = wanted < 1 ? 0 : wanted >= (double)total ? total - 1 : (u64)wanted - 1;
    }

    int bin = pick(room, rest, total);
    if (!scores.keys) keep(scores, room, floor, bin);

    // Of the bin's keys those bits that differ, the upper ones first.
    u32 least = ~0u, largest = 0;
#pragma unroll 4
    for (int i = thread; i < scores.items; i += THREADS)
    {
        float score = scores.at(i);
        u32 key = key_of(score);
        if (key >= floor && scores.bin(score) == bin) least = min(least, key), largest = max(largest, key);
    }

#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        least = min(least, __shfl_xor_sync(FULL_WARP, least, o)), largest = max(largest, __shfl_xor_sync(FULL_WARP, largest, o));
    if (thread % 32 == 0) room.least_keys[warp] = least, room.largest_keys[warp] = largest;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) least = min(least, room.least_keys[w]), largest = max(largest, room.largest_keys[w]);
    int bits = 32 - __clz(least ^ largest);
    u32 prefix = bits == 32 ? 0 : largest >> bits;
    while (bits > 0)
    {
        int width = min(bits, DIGIT), shift = bits - width;
        clear(room);
        for (int i = thread; i < scores.items; i += THREADS)
        {
            float score = scores.at(i);
            u32 key = key_of(score);
            if (key >= floor && scores.bin(score) == bin && (bits == 32 || key >> bits == prefix))
                count<WEIGHTS>(scores, room, (1 << width) - 1 - (int)(key >> shift & ((1u << width) - 1)), score);
        }

        __syncthreads();
        prefix = prefix << width | (u32)((1 << width) - 1 - pick(room, rest, total));
        bits = shift;
    }

    return prefix;
}

// The item at which the sum in their order passes `rest`. TIES: of ones for scores of the key; otherwise of the weights of larger ones, and
// of those of the key up to the item `last`, and `rest` is 2^64 times u.
template <bool TIES>
DEVICE int passed(const Scores& scores, Room& room, u32 key, int last, u64 rest)
{
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    int width = (scores.items + THREADS - 1) / THREADS * 32;
    auto weight = [&](int i) -> u64
    {
        float score = scores.at(i);
        u32 mine = key_of(score);
        return TIES ? mine == key : (mine > key || (mine == key && i <= last)) ? scores.weight(score) : 0;
    };
    u64 own = 0, total;
    int end = min(scores.items, (warp + 1) * width);
#pragma unroll 4
    for (int i = warp * width + lane; i < end; i += 32) own += weight(i);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) own += __shfl_xor_sync(FULL_WARP, own, o);
    if (lane != 0) own = 0;
    u64 before = scan(own, room, total);
    if (!TIES) rest = __umul64hi(rest, total);
    bool here = before <= rest && rest < before + own;
    rest -= before;
    int range, item;
    find(here, warp, rest, room, range);

    // The warp's items by all threads, a few neighbours each.
    int each = width / THREADS + (width % THREADS > 0), first = range * width + thread * each;
    end = min(scores.items, min(first + each, (range + 1) * width));
    own = 0;
    for (item = first; item < end; item++) own += weight(item);
    before = scan(own, room, total);
    here = before <= rest && rest < before + own;
    rest -= before;
    item = first;
    while (here)
    {
        u64 next = weight(item);
        if (rest < next) break;
        rest -= next;
        item++;
    }

    find(here, item, rest, room, item);
    return item;
}

// logits [rows, stride], of which `ids` count; options [rows]; counts [rows, ids]; tokens [rows]; choices [rows, 2]: the id and log
// softmax(logits)[id], no number where logits are none.
// Grid: (SLICES, rows) in clusters of SLICES; THREADS threads; a Room of shared memory.
KERNEL void __launch_bounds__(THREADS) token_choice(
    const float* logits, i64 stride, int ids, Row* options, int* counts, i64* tokens, double* choices)
{
    wait_for_predecessors();
    SHARED_MEMORY(memory);
    Room& room = *(Room*)memory;
    int at = blockIdx.y;
    Row& row = options[at];
    if (row.mode == MODE_IDLE) return;
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, slice = blockIdx.x;
    if (SLICES > 1)
    {
        if (thread == 0)
        {
            mbarrier_init(shared_address(&room.arrivals), 1);
            mbarrier_arrive_expect(shared_address(&room.arrivals), slice == 0 ? SLICES * sizeof(Part) : 0);
        }

        cluster_arrive();
    }

    bool drawn = row.mode == MODE_DRAWN, penalizes = row.repetition != 1 || row.frequency != 0 || row.presence != 0;
    counts += (i64)at * ids;
    Scores scores = {
        logits + at * stride, penalizes ? counts : 0, row.repetition, row.frequency, row.presence, ids, 0, 0, row.steepness, 0};

    // The largest score, of equals the first, and the sum of the exponentials of the logits, whose scale follows the largest so far.
    float largest = MINUS_INFINITY, least = LARGEST;
    double sum = 0;
    u64 best = 0;
    int each = (ids + SLICES - 1) / SLICES, stop = min(ids, (slice + 1) * each);
    for (int first = slice * each + thread; first < stop; first += UNROLL * THREADS)
    {
        float logit[UNROLL], top = largest, part = 0;
#pragma unroll
        for (int j = 0; j < UNROLL; j++) logit[j] = first + j * THREADS < stop ? scores.logits[first + j * THREADS] : MINUS_INFINITY;
#pragma unroll
        for (int j = 0; j < UNROLL; j++)
        {
            int id = first + j * THREADS;
            top = fmaxf(top, logit[j]);
            if (id >= stop) continue;
            float score = scores.penalized(id, logit[j]);
            u64 place = (u64)key_of(score) << 32 | ~(u32)id;
            if (place > best) best = place;
            if (score > MINUS_INFINITY) least = fminf(least, score);
        }

        if (top == MINUS_INFINITY)
        {
            // No number is as little a number as all of them infinite.
            for (int j = 0; j < UNROLL; j++) sum += logit[j] != logit[j] ? (double)logit[j] : 0;
            continue;
        }

        if (top > largest) sum *= expf(largest - top), largest = top;
#pragma unroll
        for (int j = 0; j < UNROLL; j++) part += expf(logit[j] - largest);
        sum += part;
    }

    const Part nothing = {0, 0, MINUS_INFINITY, LARGEST};
    Part found = joined({best, sum, largest, least});
    if (lane == 0) room.warps[warp] = found;
    __syncthreads();
    if (SLICES > 1) cluster_wait(); // for the first block's barrier of arrivals
    if (warp == 0)
    {
        found = joined(lane < WARPS ? room.warps[lane] : nothing);
        if (SLICES > 1)
        {
            if (lane < 3)
            {
                u64 word = lane == 0 ? found.best : lane == 1 ? (u64)__double_as_longlong(found.sum)
                    : (u64)__float_as_uint(found.least) << 32 | __float_as_uint(found.largest);
                float2 halves = make_float2(__uint_as_float((u32)word), __uint_as_float((u32)(word >> 32)));
                u32 place = cluster_address(shared_address((u64*)&room.parts[slice] + lane), 0);
                cluster_store_async(place, halves, cluster_address(shared_address(&room.arrivals), 0));
            }

            if (slice == 0)
            {
                mbarrier_wait(shared_address(&room.arrivals), 0);
                found = joined(lane < SLICES ? room.parts[lane] : nothing);
            }
        }

        if (lane == 0) room.all = found;
    }

    if (slice > 0) return;
    __syncthreads();
    found = room.all;
    largest = found.largest, least = found.least, sum = found.sum, best = found.best;
    int id = (int)~(u32)best;
    bool are_numbers = largest > MINUS_INFINITY && largest <= LARGEST && sum == sum;
    if (drawn && are_numbers)
    {
        scores.largest = score_of((u32)(best >> 32)) + 0.f;
        float range = fminf(scores.largest - least, 32.f);
        scores.bins_per_unit = range > 0 ? fminf((BINS - 1) / range, 1e30f) : 0.f;
        u32 key = 0;
        int last = ids;
        u64 rest = row.top_k - 1;
        if (row.top_k > 0) key = threshold<false>(scores, room, 0, 0, rest);
        if (row.top_p < 1)
        {
            key = threshold<true>(scores, room, key, row.top_p, rest);

            // Of equals as many as are needed, the first ones.
            last = passed<true>(scores, room, key, 0, rest / scores.weight(score_of(key)));
        }

        if (row.least > (double)MINUS_INFINITY)
        {
            double bound = (double)scores.largest + row.least;
            float nearest = bound < -(double)LARGEST ? -LARGEST : (float)bound;
            u32 lowest = key_of(nearest + 0.f) + ((double)nearest < bound ? 1 : 0);
            if (lowest > key) key = lowest, last = ids;
        }

        id = passed<false>(scores, room, key, last, mix(row.random + 0x9E3779B97F4A7C15ull) >> 11 << 11);
        if (scores.keys) id = room.ids[id];
    }

    if (thread == 0)
    {
        if (id < 0 || id >= ids) id = 0;
        choices[2 * at] = id;
        float logit = drawn || penalizes ? scores.logits[id] : score_of((u32)(best >> 32));
        choices[2 * at + 1] = are_numbers ? (double)logit - ((double)largest + log(sum)) : (double)__int_as_float(0x7fffffff);
        tokens[at] = id;
        if (drawn) row.random += 0x9E3779B97F4A7C15ull;
        if (penalizes) counts[id] = (counts[id] + 2) | 1;
    }
}
