#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "Emulator.h"

// Saves the registers that a call preserves and the stack pointer, takes another stack and returns on it.
extern "C" void emulator_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, . - emulator_switch
)");
#else
#error "The emulator switches stacks on x86-64 and 64-bit Arm only."
#endif

namespace emulator
{
namespace
{
constexpr size_t page = 4096, stack_bytes = 256 << 10, largest_shared = 227 << 10;
constexpr unsigned shared_start = 1024; // the hardware keeps the first 1024 bytes, so a kernel that takes 0 for the start is wrong
constexpr unsigned rank_shift = 24, own_window = 0;
constexpr unsigned short poison = 0x7fff; // a NaN, in bfloat16 and, twice, in float32
constexpr int barriers = 16;

unsigned char poison_at(const void* address) { return (uintptr_t)address & 1 ? poison >> 8 : poison & 255; }

void fill(void* start, size_t bytes)
{
    auto* byte = (unsigned char*)start;
    for (auto* end = byte + bytes; byte < end; byte++) *byte = poison_at(byte);
}

bool filled(const void* start, size_t bytes)
{
    const auto* byte = (const unsigned char*)start;
    for (const auto* end = byte + bytes; byte < end; byte++)
        if (*byte != poison_at(byte)) return false;
    return true;
}

struct Copy
{
    unsigned char* shared;
    const void* global;
    unsigned bytes, taken;
    long group;
};

// Of 8 bytes in shared memory: a phase ends when nothing of either is missing.
struct Counter
{
    int bytes;
    unsigned short arrivals, of; // missing, and of so many a phase; in the upper bit of `of` the phase's parity
};

struct Block;
struct Warp;

struct BulkCopy
{
    Block* home;
    unsigned char* shared;
    const void* global;
    unsigned bytes;
    Counter* counter;
};

enum class State { ready, collective, barrier, cluster, counter, returned };

struct Fiber : Running
{
    void* stack_pointer;
    unsigned char* stack;
    Block* home;
    Warp* warp;
    State state;
    int index, barrier;
    Counter* counter;
    long groups;
    std::vector<Copy> copies; // from the one at `first_copy` on
    size_t first_copy;
    bool arrived; // at the cluster's barrier, and did not wait yet
    unsigned long long phase;
};

struct Warp
{
    Block* home;
    Fiber* lanes; // of 32, or fewer in the last warp
    int count, place; // place in the list of those that can run, -1 where not
    unsigned ready;
    // What each lane waits for, if it waits for others of the warp.
    const char* name[32];
    unsigned mask[32], waiting;
    Action action[32];
    void* operand[32];
};

struct Barrier
{
    int arrived, expected, votes, result;
    std::vector<Fiber*> waiting;
};

struct Block
{
    uint3 index;
    unsigned rank;
    int live;
    unsigned char* shared;
    Fiber* fibers;
    Warp* warps;
    Barrier barriers[emulator::barriers];
};

struct Launch
{
    const Kernel* kernel;
    void** arguments;
    unsigned threads, warps, cluster;
    size_t shared_bytes, shared_mapped;
    std::vector<unsigned char*> shared_pages;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    std::vector<Warp> warp_list;
    std::vector<Warp*> ready;
    std::vector<BulkCopy> bulk;
    int live, arriving; // threads of the cluster, and those of them not yet at its barrier
    unsigned long long phase;
    void* scheduler;
};

std::mutex one_at_a_time;
std::string message;
Launch* launch;
unsigned long long seed = 1, random_state = 1, ticks;
std::vector<unsigned char*> stacks;

jmp_buf after_fault;
pthread_t launching;
volatile sig_atomic_t guarded;
const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM};
constexpr int signals = sizeof caught / sizeof *caught;
struct sigaction previous[signals];
unsigned seconds;

unsigned random_word()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state * 0x2545f4914f6cdd1dull >> 32);
}

Fiber* current() { return static_cast<Fiber*>(running); }

void make_ready(Warp* warp, unsigned lanes)
{
    warp->ready |= lanes;
    if (warp->place >= 0 || !warp->ready) return;
    warp->place = (int)launch->ready.size();
    launch->ready.push_back(warp);
}

void make_unready(Warp* warp, unsigned lanes)
{
    warp->ready &= ~lanes;
    if (warp->ready || warp->place < 0) return;
    launch->ready[warp->place] = launch->ready.back();
    launch->ready[warp->place]->place = warp->place;
    launch->ready.pop_back();
    warp->place = -1;
}

void resume(Fiber* fiber)
{
    Fiber* from = current();
    if (fiber == from) return;
    running = fiber;
    emulator_switch(&from->stack_pointer, fiber->stack_pointer);
}

[[noreturn]] void to_scheduler()
{
    void* unused;
    emulator_switch(&unused, launch->scheduler);
    __builtin_unreachable();
}

std::string lanes_text(unsigned lanes)
{
    if (lanes == 0xffffffffu) return "all lanes";
    std::string text = lanes & (lanes - 1) ? "lanes" : "lane";
    for (int lane = 0; lane < 32; lane++)
    {
        if (!(lanes >> lane & 1)) continue;
        int last = lane;
        while (last < 31 && lanes >> (last + 1) & 1) last++;
        text += (text.back() == 's' || text.back() == 'e' ? " " : ",") + std::to_string(lane);
        if (last > lane) text += "-" + std::to_string(last);
        lane = last;
    }
    return text;
}

std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* text, ...)
{
    char buffer[512];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    return buffer;
}

std::string place_text(const Fiber* fiber)
{
    return format("block (%u, %u, %u) thread (%u, %u, %u), warp %d lane %d: ", fiber->block.x, fiber->block.y, fiber->block.z,
                  fiber->thread.x, fiber->thread.y, fiber->thread.z, fiber->index / 32, fiber->lane);
}

// " [library+offset,offset,...]": the calls, innermost first, as far as frame pointers were compiled in; lines to addr2line.
std::string trace_text(const Fiber* fiber, void* innermost, uintptr_t counter = 0)
{
    std::string text;
    Dl_info own, library;
    if (!dladdr((void*)emulate_launch, &own)) return text;
    auto add = [&](uintptr_t address)
    {
        if (!dladdr((void*)address, &library) || library.dli_fbase != own.dli_fbase) return;
        text += text.empty() ? std::string(" [") + own.dli_fname + "+" : ",";
        text += format("0x%zx", (size_t)(address - (uintptr_t)own.dli_fbase));
    };
    if (counter) add(counter);
    auto frame = (uintptr_t)innermost;
    for (int depth = 0; depth < 8; depth++)
    {
        if (frame % 8 || frame < (uintptr_t)fiber->stack || frame + 16 > (uintptr_t)fiber->stack + stack_bytes) break;
        uintptr_t next = *(uintptr_t*)frame, back = ((uintptr_t*)frame)[1];
        if (!back) break;
        add(back - 1);
        if (next <= frame) break;
        frame = next;
    }
    return text.empty() ? text : text + "]";
}

// The frame pointer that emulator_switch saved.
void* saved_frame(const Fiber* fiber)
{
#if defined(__x86_64__)
    return ((void**)fiber->stack_pointer)[5];
#else
    return ((void**)fiber->stack_pointer)[10];
#endif
}

std::string waits_for(const Fiber* fiber)
{
    const Warp* warp = fiber->warp;
    switch (fiber->state)
    {
    case State::collective: return format("at %s of lanes %08x", warp->name[fiber->lane], warp->mask[fiber->lane]);
    case State::barrier:
    {
        const Barrier& barrier = fiber->home->barriers[fiber->barrier];
        if (fiber->barrier == 0) return "at __syncthreads";
        return format("at barrier %d (%d of %d threads)", fiber->barrier, barrier.arrived, barrier.expected);
    }
    case State::cluster: return "at the cluster's barrier";
    case State::counter:
        return format("at an mbarrier (%d arrivals and %d bytes are missing)", fiber->counter->arrivals, fiber->counter->bytes);
    case State::returned: return "returned";
    default: return "running";
    }
}

std::string stands(const Fiber* fiber)
{
    std::string what = waits_for(fiber);
    return fiber->state == State::returned ? what : what + trace_text(fiber, saved_frame(fiber));
}

// Blocks, of the cluster, that stand alike are told once.
void deadlock()
{
    message = "deadlock: no thread can go on\n";
    int lines = 0;
    std::string before;
    for (const Block& block : launch->blocks)
    {
        std::string text;
        for (unsigned w = 0; w < launch->warps; w++)
        {
            const Warp& warp = block.warps[w];
            unsigned told = 0;
            for (int lane = 0; lane < warp.count; lane++)
            {
                if (told >> lane & 1) continue;
                std::string what = stands(&warp.lanes[lane]);
                unsigned alike = 0;
                for (int other = lane; other < warp.count; other++)
                    if (stands(&warp.lanes[other]) == what) alike |= 1u << other;
                told |= alike;
                if (lines++ < 48) text += format("    warp %u, ", w) + lanes_text(alike) + " " + what + "\n";
            }
        }
        message += format("  block (%u, %u, %u)", block.index.x, block.index.y, block.index.z);
        message += text == before ? ": the same\n" : "\n" + text;
        before = text;
    }
}

void wake(Fiber* fiber)
{
    fiber->state = State::ready;
    make_ready(fiber->warp, 1u << fiber->lane);
}

void settle(Counter& counter)
{
    if (counter.arrivals || counter.bytes) return;
    counter.of ^= 0x8000;
    counter.arrivals = counter.of & 0x7fff;
    for (Fiber& fiber : launch->fibers)
        if (fiber.state == State::counter && fiber.counter == &counter) wake(&fiber);
}

void end_bulk_copy()
{
    auto& bulk = launch->bulk;
    std::swap(bulk[random_word() % bulk.size()], bulk.back());
    BulkCopy copy = bulk.back();
    bulk.pop_back();
    if (!filled(copy.shared, copy.bytes))
        fail("shared memory at byte %td was written while a bulk copy to it was on its way", copy.shared - copy.home->shared);
    memcpy(copy.shared, copy.global, copy.bytes);
    copy.counter->bytes -= (int)copy.bytes;
    settle(*copy.counter);
}

// The next fiber of the same warp, or of another one, in an order that no kernel may rely on.
void go_on(bool stay_in_warp)
{
    ticks++;
    Fiber* from = current();
    Warp* warp = from->warp;
    if (!launch->bulk.empty() && random_word() >> 27 == 0) end_bulk_copy();
    if (!stay_in_warp || !warp->ready)
    {
        while (launch->ready.empty() && !launch->bulk.empty()) end_bulk_copy();
        if (launch->ready.empty())
        {
            running = nullptr;
            emulator_switch(&from->stack_pointer, launch->scheduler);
            return;
        }
        warp = launch->ready[random_word() % launch->ready.size()];
    }
    int turn = (int)(random_word() >> 27);
    unsigned turned = warp->ready >> turn | warp->ready << (-turn & 31);
    resume(&warp->lanes[(__builtin_ctz(turned) + turn) & 31]);
}

void block_fiber(State state)
{
    Fiber* fiber = current();
    fiber->state = state;
    make_unready(fiber->warp, 1u << fiber->lane);
    go_on(true);
}

void release(Barrier& barrier)
{
    barrier.result = barrier.votes;
    barrier.arrived = barrier.expected = barrier.votes = 0;
    for (Fiber* fiber : barrier.waiting) wake(fiber);
    barrier.waiting.clear();
}

void complete_cluster_phase()
{
    launch->phase++;
    launch->arriving = launch->live;
    for (Fiber& fiber : launch->fibers)
    {
        if (fiber.state == State::cluster) wake(&fiber);
    }
}

[[noreturn]] void return_from_kernel()
{
    Fiber* fiber = current();
    Block& block = *fiber->home;
    bool arrived = fiber->arrived && fiber->phase == launch->phase;
    fiber->state = State::returned;
    fiber->copies.clear();
    if (block.live == 1)
        for (const BulkCopy& copy : launch->bulk)
            if (copy.home == &block) fail("the block ends while a bulk copy to its shared memory is on its way");
    block.live--;
    launch->live--;
    make_unready(fiber->warp, 1u << fiber->lane);
    Barrier& all = block.barriers[0];
    if (block.live && all.arrived == block.live) release(all);
    if (!arrived && --launch->arriving == 0 && launch->live) complete_cluster_phase();
    go_on(true);
    __builtin_unreachable();
}

void run_fiber()
{
    launch->kernel->invoke(launch->arguments);
    return_from_kernel();
}

void prepare(Fiber& fiber)
{
    void** top = (void**)(fiber.stack + stack_bytes);
#if defined(__x86_64__)
    *--top = nullptr; // in the place of a return address: the stack is aligned as after a call
    *--top = (void*)run_fiber;
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
#else
    top -= 20;
    std::memset(top, 0, 160);
    top[11] = (void*)run_fiber; // x30
#endif
    fiber.stack_pointer = top;
}

unsigned char* map(size_t bytes)
{
    void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
    {
        fputs("the emulator has no memory\n", stderr);
        abort();
    }
    return (unsigned char*)start;
}

void close_page(unsigned char* start) { mprotect(start, page, PROT_NONE); }

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Ends the fiber, and with it the launch, from a signal's handler.
void fault(int signal, siginfo_t* information, void* context)
{
    if (guarded && signal == SIGALRM && !pthread_equal(pthread_self(), launching))
    {
        pthread_kill(launching, signal);
        return;
    }
    if (!guarded || !pthread_equal(pthread_self(), launching))
    {
        for (int i = 0; i < signals; i++)
        {
            if (caught[i] != signal) continue;
            if (previous[i].sa_flags & SA_SIGINFO) previous[i].sa_sigaction(signal, information, context);
            else if (previous[i].sa_handler != SIG_DFL && previous[i].sa_handler != SIG_IGN) previous[i].sa_handler(signal);
            else
            {
                sigaction(signal, &previous[i], nullptr);
                raise(signal);
            }
        }
        return;
    }
    guarded = 0;
    const auto* address = (const unsigned char*)information->si_addr;
    const auto& registers = ((const ucontext_t*)context)->uc_mcontext;
#if defined(__x86_64__)
    auto counter = (uintptr_t)registers.gregs[REG_RIP], frame = (uintptr_t)registers.gregs[REG_RBP];
    auto top = (uintptr_t)registers.gregs[REG_RSP];
#else
    auto counter = (uintptr_t)registers.pc, frame = (uintptr_t)registers.regs[29];
    auto top = (uintptr_t)registers.sp;
#endif
    std::string text;
    if (running) text = place_text(current());
    if (signal == SIGFPE) text += "integer division by zero";
    else if (signal == SIGILL) text += "an illegal instruction (a trap, or a path that cannot return)";
    else if (signal == SIGALRM) text += format("still running after %u seconds", seconds);
    else if (running && top < (uintptr_t)current()->stack + 256) text += format("a thread's stack of %zu bytes is full", stack_bytes);
    else
    {
        text += format("no memory at address %p", (const void*)address);
        for (const Block& block : launch->blocks)
            if (address >= block.shared - 2 * page && address < block.shared + launch->shared_mapped + 2 * page)
                text += format(", byte %td of shared memory's %zu", address - block.shared, launch->shared_bytes);
        if (!address) text += " (or off its alignment)";
    }
    if (running) text += trace_text(current(), (void*)frame, counter);
    message = text;
    siglongjmp(after_fault, 1);
}

// One cluster of blocks, the first of which has this index.
void run_cluster(uint3 first)
{
    Launch& l = *launch;
    l.ready.clear();
    l.bulk.clear();
    l.live = l.arriving = (int)(l.threads * l.cluster);
    l.phase = 0;
    for (unsigned b = 0; b < l.cluster; b++)
    {
        Block& block = l.blocks[b];
        block.index = {first.x + b, first.y, first.z};
        block.rank = b;
        block.live = (int)l.threads;
        for (Barrier& barrier : block.barriers)
        {
            barrier.arrived = barrier.expected = barrier.votes = 0;
            barrier.waiting.clear();
        }
        fill(block.shared, l.shared_mapped);
        for (unsigned w = 0; w < l.warps; w++)
        {
            Warp& warp = block.warps[w];
            warp.home = &block;
            warp.lanes = block.fibers + 32 * w;
            warp.count = (int)min(32u, l.threads - 32 * w);
            warp.place = -1;
            warp.ready = warp.waiting = 0;
            make_ready(&warp, warp.count == 32 ? 0xffffffffu : (1u << warp.count) - 1);
        }
        for (unsigned t = 0; t < l.threads; t++)
        {
            Fiber& fiber = block.fibers[t];
            fiber.thread = {t % block_size.x, t / block_size.x % block_size.y, t / (block_size.x * block_size.y)};
            fiber.block = block.index;
            fiber.shared = block.shared;
            fiber.lane = (int)(t % 32);
            fiber.index = (int)t;
            fiber.home = &block;
            fiber.warp = &block.warps[t / 32];
            fiber.state = State::ready;
            fiber.groups = 0;
            fiber.copies.clear();
            fiber.first_copy = 0;
            fiber.arrived = false;
            fiber.phase = 0;
            fiber.stack = stacks[b * l.threads + t];
            prepare(fiber);
        }
    }
    running = &l.fibers[0];
    emulator_switch(&l.scheduler, l.fibers[0].stack_pointer);
    running = nullptr;
    if (message.empty() && l.live) deadlock();
    if (!message.empty()) return;
    for (Block& block : l.blocks)
        if (!filled(block.shared + l.shared_bytes, l.shared_mapped - l.shared_bytes))
            message = format("block (%u, %u, %u): wrote behind shared memory's %zu bytes", block.index.x, block.index.y, block.index.z,
                             l.shared_bytes);
}

void check(const char* kernel, const unsigned* grid, const unsigned* block, unsigned cluster, unsigned shared_bytes)
{
    auto blocks = format("a grid of %u x %u x %u blocks in clusters of %u", grid[0], grid[1], grid[2], cluster);
    auto threads = format("a block of %u x %u x %u threads", block[0], block[1], block[2]);
    unsigned long long count = (unsigned long long)block[0] * block[1] * block[2];
    if (!launch->kernel) message = format("no kernel %s is registered", kernel);
    else if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535) message = blocks;
    else if (!cluster || cluster > 16 || grid[0] % cluster) message = blocks;
    else if (!count || count > 1024) message = threads;
    else if (count > (unsigned)launch->kernel->bounds.threads)
        message = threads + format(", with launch bounds of %d", launch->kernel->bounds.threads);
    else if (shared_bytes > largest_shared) message = format("%u bytes of shared memory, of %zu", shared_bytes, largest_shared);
}
} // namespace

Running* running;
dim3 block_size, grid_size;
Kernel* Kernel::first;

void fail(const char* text, ...)
{
    char buffer[512];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    message = place_text(current()) + buffer + trace_text(current(), __builtin_frame_address(0));
    to_scheduler();
}

void breathe()
{
    if (launch->live > 1 && random_word() >> 29 == 0) go_on(false);
}

unsigned long long clock() { return ticks; }

void collective(const char* name, unsigned mask, Action action, void* operand)
{
    Fiber* fiber = current();
    Warp* warp = fiber->warp;
    int lane = fiber->lane;
    unsigned own = 1u << lane;
    if (!(mask & own)) fail("%s of lanes %08x, without this one", name, mask);
    if (warp->count < 32 && mask != 0xffffffffu && mask >> warp->count) fail("%s of lanes %08x, in a warp of %d", name, mask, warp->count);
    // A block's last warp may be short: CUDA then takes the absent lanes as having arrived.
    if (warp->count < 32) mask &= (1u << warp->count) - 1;
    warp->name[lane] = name;
    warp->mask[lane] = mask;
    warp->action[lane] = action;
    warp->operand[lane] = operand;
    warp->waiting |= own;
    if ((warp->waiting & mask) != mask)
    {
        block_fiber(State::collective);
        return;
    }
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1)
    {
        int other = __builtin_ctz(lanes);
        bool same_name = warp->name[other] == name || !strcmp(warp->name[other], name);
        if (!same_name || warp->action[other] != action || warp->mask[other] != mask)
            fail("%s of lanes %08x, while lane %d is at %s of lanes %08x", name, mask, other, warp->name[other], warp->mask[other]);
    }
    warp->waiting &= ~mask;
    if (action) action(warp->operand, mask);
    for (unsigned others = mask & ~own; others; others &= others - 1) warp->lanes[__builtin_ctz(others)].state = State::ready;
    make_ready(warp, mask & ~own);
    // Now and then another warp goes first, so that one that is ahead of its barrier shows.
    if (random_word() >> 26 == 0) go_on(false);
}

unsigned vote(const char* name, unsigned mask, Action action, unsigned long long value)
{
    Vote operand{value, 0};
    collective(name, mask, action, &operand);
    return operand.result;
}

void ballot_action(void* const* operands, unsigned mask)
{
    unsigned ballot = 0;
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1)
        ballot |= (unsigned)(((Vote*)operands[__builtin_ctz(lanes)])->value != 0) << __builtin_ctz(lanes);
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) ((Vote*)operands[__builtin_ctz(lanes)])->result = ballot;
}

void match_action(void* const* operands, unsigned mask)
{
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1)
    {
        Vote& vote = *(Vote*)operands[__builtin_ctz(lanes)];
        vote.result = 0;
        for (unsigned others = mask; others; others &= others - 1)
            if (((Vote*)operands[__builtin_ctz(others)])->value == vote.value) vote.result |= others & -others;
    }
}

template <class Combine> static void reduce(void* const* operands, unsigned mask, Combine combine)
{
    auto result = (unsigned)((Vote*)operands[__builtin_ctz(mask)])->value;
    for (unsigned lanes = mask & (mask - 1); lanes; lanes &= lanes - 1)
        result = combine(result, (unsigned)((Vote*)operands[__builtin_ctz(lanes)])->value);
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) ((Vote*)operands[__builtin_ctz(lanes)])->result = result;
}

void add_action(void* const* operands, unsigned mask) { reduce(operands, mask, [](unsigned x, unsigned y) { return x + y; }); }
void max_action(void* const* operands, unsigned mask) { reduce(operands, mask, [](unsigned x, unsigned y) { return max(x, y); }); }
void max_signed_action(void* const* operands, unsigned mask)
{
    reduce(operands, mask, [](unsigned x, unsigned y) { return (unsigned)max((int)x, (int)y); });
}

unsigned shared_address(const void* pointer)
{
    ptrdiff_t offset = (const unsigned char*)pointer - running->shared;
    if (offset < 0 || offset > (ptrdiff_t)launch->shared_bytes) fail("%p is no pointer to shared memory", pointer);
    return shared_start + (unsigned)offset;
}

unsigned cluster_rank() { return current()->home->rank; }
unsigned cluster_size() { return launch->cluster; }

unsigned cluster_address(unsigned shared, unsigned rank)
{
    if (rank >= launch->cluster) fail("rank %u in a cluster of %u", rank, launch->cluster);
    if (shared >> rank_shift) fail("mapa of %08x, which is mapped already", shared);
    return (rank + 1) << rank_shift | shared;
}

void* shared_pointer(const char* name, unsigned address, unsigned bytes, bool cluster)
{
    unsigned window = address >> rank_shift;
    Block* block = current()->home;
    if (window != own_window)
    {
        if (!cluster) fail("%s cannot take an address of the cluster's memory", name);
        if (window > launch->cluster) fail("%s at %08x, which is no address of shared memory", name, address);
        block = &launch->blocks[window - 1];
        if (block != current()->home && launch->phase == 0)
            fail("%s of block %u of the cluster, before a barrier of the cluster told that it runs", name, window - 1);
        if (!block->live) fail("%s of block %u of the cluster, which has ended", name, window - 1);
    }
    long offset = (long)(address & ((1u << rank_shift) - 1)) - (long)shared_start;
    if (offset < 0 || offset + (long)bytes > (long)launch->shared_bytes)
        fail("%s of %u bytes at byte %ld of shared memory's %zu", name, bytes, offset, launch->shared_bytes);
    if (offset % bytes) fail("%s of %u bytes at byte %ld of shared memory, off its alignment", name, bytes, offset);
    return block->shared + offset;
}

const void* global_pointer(const char* name, const void* pointer, unsigned bytes)
{
    if ((uintptr_t)pointer % bytes) fail("%s of %u bytes at %p, off its alignment", name, bytes, pointer);
    const auto* shared = (const unsigned char*)pointer;
    if (shared >= running->shared && shared < running->shared + launch->shared_bytes) fail("%s takes global memory, not shared", name);
    return pointer;
}

void copy_async(unsigned shared, const void* global, unsigned bytes, unsigned taken)
{
    Fiber* fiber = current();
    auto* target = (unsigned char*)shared_pointer("cp.async", shared, bytes);
    global_pointer("cp.async", global, bytes);
    // Read once here, where a bad pointer is still this line's; written when waited for, nothing sensible until then.
    unsigned char probe[16];
    for (unsigned i = 0; i < taken; i++) *(volatile unsigned char*)&probe[i] = ((const unsigned char*)global)[i];
    fill(target, bytes);
    fiber->copies.push_back({target, global, bytes, taken, fiber->groups});
}

void copy_async_commit() { current()->groups++; }

void copy_async_wait(int pending)
{
    Fiber* fiber = current();
    for (; fiber->first_copy < fiber->copies.size(); fiber->first_copy++)
    {
        const Copy& copy = fiber->copies[fiber->first_copy];
        if (copy.group >= fiber->groups - pending) return;
        memcpy(copy.shared, copy.global, copy.taken);
        memset(copy.shared + copy.taken, 0, copy.bytes - copy.taken);
    }
    fiber->copies.clear();
    fiber->first_copy = 0;
}

static Counter& counter_at(unsigned address, bool cluster = false)
{
    auto& counter = *(Counter*)shared_pointer("mbarrier", address, 8, cluster);
    if ((counter.of & 0x7fff) == poison) fail("an mbarrier at %08x, before its initialisation", address);
    return counter;
}

void counter_init(unsigned barrier, int arrivals)
{
    *(Counter*)shared_pointer("mbarrier", barrier, 8) = {0, (unsigned short)arrivals, (unsigned short)arrivals};
}

void counter_arrive(unsigned barrier, unsigned expected_bytes)
{
    Counter& counter = counter_at(barrier);
    if (!counter.arrivals) fail("an mbarrier at %08x has had all its arrivals", barrier);
    counter.arrivals--;
    counter.bytes += (int)expected_bytes;
    settle(counter);
}

void counter_receive(unsigned barrier, unsigned bytes)
{
    Counter& counter = counter_at(barrier, true);
    counter.bytes -= (int)bytes;
    settle(counter);
}

void counter_wait(unsigned barrier, unsigned parity)
{
    Fiber* fiber = current();
    breathe();
    while (counter_at(barrier).of >> 15 == parity)
    {
        fiber->counter = &counter_at(barrier);
        block_fiber(State::counter);
    }
}

void copy_bulk(unsigned shared, const void* global, unsigned bytes, unsigned barrier)
{
    if (!bytes || bytes % 16) fail("cp.async.bulk of %u bytes, not a multiple of 16", bytes);
    global_pointer("cp.async.bulk", global, 16);
    // Read once here, where a bad pointer is still this line's.
    for (unsigned i = 0; i < bytes; i++) (void)*((const volatile unsigned char*)global + i);
    auto* target = (unsigned char*)shared_pointer("cp.async.bulk", shared, 16);
    shared_pointer("cp.async.bulk", shared + bytes - 16, 16);
    Counter& counter = counter_at(barrier);
    fill(target, bytes);
    launch->bulk.push_back({current()->home, target, global, bytes, &counter});
}

int barrier(int id, int count, bool wait, int vote)
{
    Fiber* fiber = current();
    Block& block = *fiber->home;
    if (id < 0 || id >= barriers) fail("barrier %d, of 0 to %d", id, barriers - 1);
    if (count % 32 || count < 0 || (unsigned)count > round_up(launch->threads, 32)) fail("barrier %d of %d threads", id, count);
    if (count == 0 && id != 0) fail("barrier %d needs its number of threads", id);
    Barrier& barrier = block.barriers[id];
    if (barrier.arrived && barrier.expected != count)
        fail("barrier %d of %d threads, while others are at it with %d", id, count, barrier.expected);
    barrier.expected = count;
    barrier.arrived++;
    barrier.votes += vote;
    if (barrier.arrived == (count ? count : block.live))
    {
        release(barrier);
        // Whoever comes last is not always first to leave.
        if (random_word() & 1) go_on(false);
        return barrier.result;
    }
    if (!wait) return 0;
    barrier.waiting.push_back(fiber);
    fiber->barrier = id;
    block_fiber(State::barrier);
    return barrier.result;
}

void cluster_arrive()
{
    Fiber* fiber = current();
    if (fiber->arrived) fail("arrives at the cluster's barrier twice, without a wait between");
    fiber->arrived = true;
    fiber->phase = launch->phase;
    if (--launch->arriving == 0) complete_cluster_phase();
}

void cluster_wait()
{
    Fiber* fiber = current();
    if (!fiber->arrived) fail("waits at the cluster's barrier without having arrived");
    if (fiber->phase == launch->phase) block_fiber(State::cluster);
    fiber->arrived = false;
}
} // namespace emulator

using namespace emulator;

extern "C"
{
int emulate_launch(const char* kernel, const unsigned* grid, const unsigned* block, unsigned cluster, unsigned shared_bytes,
                   void** arguments)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    message.clear();
    Launch local;
    launch = &local;
    local.kernel = Kernel::first;
    while (local.kernel && strcmp(local.kernel->name, kernel)) local.kernel = local.kernel->next;
    check(kernel, grid, block, cluster, shared_bytes);
    if (!message.empty()) return 1;
    local.arguments = arguments;
    local.cluster = cluster;
    local.threads = block[0] * block[1] * block[2];
    local.warps = (local.threads + 31) / 32;
    block_size = dim3(block[0], block[1], block[2]);
    grid_size = dim3(grid[0], grid[1], grid[2]);
    random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < 8; i++) random_word();
    seed++;

    // Shared memory ends close to a page that cannot be touched: as close as its alignment to 1024 bytes lets it.
    local.shared_bytes = shared_bytes;
    local.shared_mapped = round_up(shared_bytes, 1024);
    size_t mapped = round_up(local.shared_mapped, page);
    local.blocks.resize(cluster);
    local.fibers.resize((size_t)local.threads * cluster);
    local.warp_list.resize((size_t)local.warps * cluster);
    for (unsigned b = 0; b < cluster; b++)
    {
        unsigned char* pages = map(mapped + 2 * page);
        close_page(pages);
        close_page(pages + page + mapped);
        local.shared_pages.push_back(pages);
        local.blocks[b].shared = pages + page + mapped - local.shared_mapped;
        local.blocks[b].fibers = &local.fibers[(size_t)b * local.threads];
        local.blocks[b].warps = &local.warp_list[(size_t)b * local.warps];
    }
    while (stacks.size() < local.fibers.size())
    {
        unsigned char* pages = map(stack_bytes + page);
        close_page(pages);
        stacks.push_back(pages + page);
    }

    static unsigned char signal_stack[64 << 10];
    stack_t own{}, before{};
    own.ss_sp = signal_stack;
    own.ss_size = sizeof signal_stack;
    sigaltstack(&own, &before);
    struct sigaction action{};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    launching = pthread_self();
    for (int i = 0; i < signals; i++) sigaction(caught[i], &action, &previous[i]);
    itimerval limit{{0, 0}, {(time_t)seconds, 0}};
    if (seconds) setitimer(ITIMER_REAL, &limit, nullptr);
    if (sigsetjmp(after_fault, 1) == 0)
    {
        guarded = 1;
        for (uint3 first{0, 0, 0}; first.z < grid[2] && message.empty(); first.z++)
            for (first.y = 0; first.y < grid[1] && message.empty(); first.y++)
                for (first.x = 0; first.x < grid[0] && message.empty(); first.x += cluster) run_cluster(first);
    }
    guarded = 0;
    running = nullptr;
    limit.it_value.tv_sec = 0;
    if (seconds) setitimer(ITIMER_REAL, &limit, nullptr);
    for (int i = 0; i < signals; i++) sigaction(caught[i], &previous[i], nullptr);
    sigaltstack(&before, nullptr);
    for (unsigned char* pages : local.shared_pages) munmap(pages, mapped + 2 * page);
    launch = nullptr;
    return message.empty() ? 0 : 1;
}

const char* emulate_error() { return message.c_str(); }

// The stacks that are kept for the next launch, each two of the mappings of which Linux gives a process 65,530.
size_t emulate_stacks() { return stacks.size(); }

void emulate_release()
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    for (unsigned char* stack : stacks) munmap(stack - page, stack_bytes + page);
    stacks.clear();
}

void emulate_seed(unsigned long long value) { seed = value; }

void emulate_limit(unsigned value) { seconds = value; }

void* emulate_allocate(size_t bytes)
{
    size_t rounded = round_up(bytes, 16), mapped = round_up(rounded, page) + 2 * page;
    unsigned char* pages = map(mapped);
    fill(pages + page, mapped - 2 * page);
    close_page(pages);
    close_page(pages + mapped - page);
    return pages + mapped - page - rounded;
}

int emulate_intact(const void* buffer, size_t bytes)
{
    const auto* start = (const unsigned char*)buffer;
    size_t rounded = round_up(bytes, 16), before = round_up(rounded, page) - rounded;
    return filled(start - before, before) && filled(start + bytes, rounded - bytes);
}

void emulate_free(void* buffer, size_t bytes)
{
    size_t rounded = round_up(bytes, 16), mapped = round_up(rounded, page);
    munmap((unsigned char*)buffer + rounded - mapped - page, mapped + 2 * page);
}

// What a compiler with -fsanitize and -fno-sanitize-recover calls.
struct SourceLine
{
    const char* file;
    unsigned line, column;
};

void __ubsan_handle_type_mismatch_v1_abort(const SourceLine* at, uintptr_t pointer)
{
    fail("%s:%u:%u: an access at %p, null or off its alignment", at->file, at->line, at->column, (void*)pointer);
}
void __ubsan_handle_out_of_bounds_abort(const SourceLine* at, uintptr_t index)
{
    fail("%s:%u:%u: index %lld of an array, out of its bounds", at->file, at->line, at->column, (long long)(int)index);
}
void __ubsan_handle_shift_out_of_bounds_abort(const SourceLine* at, uintptr_t, uintptr_t)
{
    fail("%s:%u:%u: a shift by less than 0 or by all bits", at->file, at->line, at->column);
}
void __ubsan_handle_divrem_overflow_abort(const SourceLine* at, uintptr_t, uintptr_t)
{
    fail("%s:%u:%u: a division by zero", at->file, at->line, at->column);
}
}
