/* cuda_cpu.h: enough of CUDA for a C++ compiler to take the .cu files of kernels/ as they are, and
   for a CPU to run them.

   A kernel's threads are coroutines on one CPU thread. Each runs until a barrier or a warp-wide
   operation, where it waits until all others have come; blocks run one after another. That is slow
   and exact, and it shows what a GPU shows only on a bad day:

     a barrier, or a warp-wide operation, that not all of its threads reach
         -> an error that says who is where
     an access behind the end of an array (they end at a page that traps)
         -> an error with block and thread
     a read of shared memory that nothing has written
         -> it holds NaN, and so does the result
     a copy to shared memory that is read before it was waited for
         -> likewise
     a race
         -> threads and blocks take turns in the order the caller chooses: two orders, two results

   Left out: everything kernels/ does not use. Warps are always full, and warp-wide operations take
   all 32 lanes. */
#pragma once
#define CUDA_CPU

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* One block runs at a time: static storage will do. */
#define __shared__ static __attribute__((section("cuda_shared")))

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace cuda_cpu {

/* ----------------------------------------------------------------------------------- coroutines */

#if defined(__x86_64__) && !defined(CUDA_CPU_PORTABLE)
struct Context { void *stack; };
/* Saves what a function must preserve, changes stacks, and restores it: a call that returns in
   another coroutine. */
extern "C" void cuda_cpu_switch(void **save, void *load);
asm(R"(.text
.weak cuda_cpu_switch
.type cuda_cpu_switch,@function
cuda_cpu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size cuda_cpu_switch,.-cuda_cpu_switch
)");
inline void switch_to(Context &from, Context &to) { cuda_cpu_switch(&from.stack, to.stack); }
inline void prepare(Context &c, char *stack, size_t bytes, void (*entry)()) {
    void **top = (void **)(((uintptr_t)stack + bytes) & ~(uintptr_t)15);
    *--top = nullptr;           /* entry never returns; this aligns the stack as after a call */
    *--top = (void *)entry;
    c.stack = top - 6;          /* six registers of no particular value */
}
#else
struct Context { ucontext_t u; };
inline void switch_to(Context &from, Context &to) { swapcontext(&from.u, &to.u); }
inline void prepare(Context &c, char *stack, size_t bytes, void (*entry)()) {
    getcontext(&c.u);
    c.u.uc_stack.ss_sp = stack;
    c.u.uc_stack.ss_size = bytes;
    makecontext(&c.u, entry, 0);
}
#endif

/* ------------------------------------------------------------------------ threads, warps, block */

enum State { READY, AT_BARRIER, AT_WARP, DONE };

struct Copy { void *to; char data[16]; int bytes, group; };

struct Warp {
    int arrived = 0;
    unsigned turn = 0;          /* lanes write to one of two rows; slow ones still read the other */
    const char *operation = nullptr;
    uint32_t slots[2][32][8];
};

struct Thread {
    Context context;
    dim3 index;
    State state;
    Warp *warp;
    int lane, group;                                    /* group: of copies, counted by commits */
    std::vector<Copy> copies;
};

constexpr size_t STACK = 64 << 10;

struct Machine {
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<int> order;
    Thread *self = nullptr;
    Context scheduler;
    dim3 block, blocks, block_size;
    int at_barrier = 0;
    char *stacks = nullptr, *dynamic = nullptr, *dynamic_pages = nullptr;
    size_t n_stacks = 0, dynamic_bytes = 0, dynamic_mapped = 0;
    void (*kernel)(void **) = nullptr;
    void **args = nullptr;
    char error[400] = "";
    sigjmp_buf trap;
};
inline Machine m;

extern "C" __attribute__((weak)) char __start_cuda_shared[], __stop_cuda_shared[];

/* From within a kernel's thread: give up the launch. */
[[noreturn]] inline void stop(const char *why) {
    dim3 t = m.self->index;
    snprintf(m.error, sizeof m.error, "block (%u,%u,%u) thread (%u,%u,%u): %s",
             m.block.x, m.block.y, m.block.z, t.x, t.y, t.z, why);
    siglongjmp(m.trap, 1);
}

/* Let the others run until somebody makes this thread READY. */
inline void pause_in(State state) {
    Thread *me = m.self;
    me->state = state;
    switch_to(me->context, m.scheduler);
}

inline void thread_main() {
    m.kernel(m.args);
    m.self->state = DONE;
    switch_to(m.self->context, m.scheduler);
}

/* All 32 lanes bring what they have; then each may read what the others brought. */
template <class In> inline uint32_t (*gather(const char *operation, const In &mine))[8] {
    static_assert(sizeof(In) <= 32, "a lane brings 32 bytes at most");
    Warp &w = *m.self->warp;
    if (w.arrived && w.operation != operation)
        stop("lanes of one warp are at different warp-wide operations");
    w.operation = operation;
    uint32_t(*row)[8] = w.slots[w.turn & 1];
    memcpy(row[m.self->lane], &mine, sizeof mine);
    if (++w.arrived < 32) {
        pause_in(AT_WARP);
        return row;
    }
    w.arrived = 0;
    w.turn++;
    Thread *first = m.self - m.self->lane;
    for (int i = 0; i < 32; i++) first[i].state = READY;
    return row;
}

inline void barrier() {
    if (++m.at_barrier < (int)m.threads.size()) {
        pause_in(AT_BARRIER);
        return;
    }
    m.at_barrier = 0;
    for (Thread &t : m.threads) t.state = READY;
}

inline uint32_t next_random(uint32_t &s) { s ^= s << 13; s ^= s >> 17; s ^= s << 5; return s; }

/* order: 0 ascending, 1 descending, else at random. */
inline void shuffle(std::vector<int> &v, int order, uint32_t &seed) {
    for (size_t i = 0; i < v.size(); i++) v[i] = order == 1 ? (int)(v.size() - 1 - i) : (int)i;
    if (order > 1)
        for (size_t i = v.size(); i-- > 1;) std::swap(v[i], v[next_random(seed) % (i + 1)]);
}

inline void run_block(int order, uint32_t &seed) {
    size_t n = m.threads.size(), shared = __stop_cuda_shared - __start_cuda_shared;
    /* All ones are a NaN in every float format. */
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, shared);
    memset(m.dynamic, 0xff, m.dynamic_bytes);
    for (Warp &w : m.warps) w.arrived = 0;
    m.at_barrier = 0;
    for (size_t i = 0; i < n; i++) {
        Thread &t = m.threads[i];
        t.index.x = i % m.block_size.x;
        t.index.y = i / m.block_size.x % m.block_size.y;
        t.index.z = i / m.block_size.x / m.block_size.y;
        t.warp = &m.warps[i / 32];
        t.lane = i % 32;
        t.group = 0;
        t.state = READY;
        t.copies.clear();
        prepare(t.context, m.stacks + i * STACK, STACK, thread_main);
    }
    for (bool ran = true; ran;) {
        ran = false;
        shuffle(m.order, order, seed);
        for (int i : m.order) {
            if (m.threads[i].state != READY) continue;
            ran = true;
            m.self = &m.threads[i];
            switch_to(m.scheduler, m.self->context);
        }
    }
    int count[4] = {};
    Thread *waiting = nullptr;
    for (Thread &t : m.threads) {
        count[t.state]++;
        if (t.state != DONE && !waiting) waiting = &t;
    }
    if (!waiting) return;
    m.self = waiting;
    char why[200];
    snprintf(why, sizeof why,
             "waits for ever: %d threads of the block are at __syncthreads, "
             "%d at a warp-wide operation, %d have ended",
             count[AT_BARRIER], count[AT_WARP], count[DONE]);
    stop(why);
}

inline void on_trap(int, siginfo_t *info, void *) {
    char why[100];
    snprintf(why, sizeof why, "access outside an array, at address %p", info->si_addr);
    stop(why);
}

/* Runs a kernel; null, or what went wrong. order: 0 ascending, 1 descending, else at random. */
inline const char *launch(void (*kernel)(void **), void **args, const unsigned *grid,
                          const unsigned *block, unsigned dynamic, int order) {
    unsigned n = block[0] * block[1] * block[2];
    m.error[0] = 0;
    /* What a GPU has at most is in cupy_cpu.py. */
    if (n == 0 || n > 1024 || n % 32 || !grid[0] || !grid[1] || !grid[2]) {
        snprintf(m.error, sizeof m.error,
                 "cannot launch blocks of %u threads with %u bytes of shared memory "
                 "on a grid of %u x %u x %u",
                 n, dynamic, grid[0], grid[1], grid[2]);
        return m.error;
    }
    m.kernel = kernel, m.args = args;
    m.blocks = {grid[0], grid[1], grid[2]}, m.block_size = {block[0], block[1], block[2]};
    if (m.n_stacks < n) {
        if (m.stacks) munmap(m.stacks, m.n_stacks * STACK);
        m.stacks = (char *)mmap(nullptr, n * STACK, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        m.n_stacks = n;
    }
    size_t pages = (dynamic + 4095) / 4096 * 4096;
    if (m.dynamic_mapped < pages + 4096) {
        if (m.dynamic_pages) munmap(m.dynamic_pages, m.dynamic_mapped);
        m.dynamic_pages = (char *)mmap(nullptr, pages + 4096, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        m.dynamic_mapped = pages + 4096;
        mprotect(m.dynamic_pages + pages, 4096, PROT_NONE);
    }
    m.dynamic_bytes = dynamic;
    m.dynamic = m.dynamic_pages + m.dynamic_mapped - 4096 - (dynamic + 15) / 16 * 16;
    m.threads.resize(n), m.warps.resize(n / 32), m.order.resize(n);

    struct sigaction act = {}, old_segv, old_bus;
    static char signal_stack[64 << 10];
    stack_t alternate = {}, old_stack;
    alternate.ss_sp = signal_stack, alternate.ss_size = sizeof signal_stack;
    act.sa_sigaction = on_trap, act.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaltstack(&alternate, &old_stack);
    sigaction(SIGSEGV, &act, &old_segv), sigaction(SIGBUS, &act, &old_bus);
    if (!sigsetjmp(m.trap, 1)) {
        uint32_t seed = 2463534242u + order;
        std::vector<int> blocks(grid[0] * grid[1] * grid[2]);
        shuffle(blocks, order, seed);
        for (int b : blocks) {
            m.block = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
            run_block(order, seed);
        }
    }
    sigaction(SIGSEGV, &old_segv, nullptr), sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&old_stack, nullptr);
    return m.error[0] ? m.error : nullptr;
}

template <class... A, size_t... I>
inline void unpack(void (*f)(A...), void **args, std::index_sequence<I...>) {
    f(*(std::remove_cv_t<std::remove_reference_t<A>> *)args[I]...);
}
template <class... A> inline void call(void (*f)(A...), void **args) {
    unpack(f, args, std::index_sequence_for<A...>{});
}
template <class... A> constexpr int n_args(void (*)(A...)) { return sizeof...(A); }

}  // namespace cuda_cpu

/* What a .so offers for each kernel: name_run(args, grid, block, shared, order), and how many
   arguments it takes. */
#define CUDA_CPU_KERNEL(name)                                                                     \
    static void name##_call(void **args) { cuda_cpu::call(name, args); }                          \
    extern "C" const char *name##_run(void **args, const unsigned *grid, const unsigned *block,   \
                                      unsigned shared, int order) {                               \
        return cuda_cpu::launch(name##_call, args, grid, block, shared, order);                   \
    }                                                                                             \
    extern "C" int name##_n_args() { return cuda_cpu::n_args(name); }

#define threadIdx (cuda_cpu::m.self->index)
#define blockIdx (cuda_cpu::m.block)
#define blockDim (cuda_cpu::m.block_size)
#define gridDim (cuda_cpu::m.blocks)
#define warpSize 32

/* ------------------------------------------------------------- barriers and warps, CUDA's names */

#define CUDA_CPU_ALL(mask)                                                                        \
    if ((mask) != 0xffffffffu) cuda_cpu::stop("a warp-wide operation without all 32 lanes")

inline void __syncthreads() { cuda_cpu::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    CUDA_CPU_ALL(mask);
    cuda_cpu::gather("__syncwarp", 0);
}
inline void __threadfence() {}

template <class T> inline T cuda_cpu_shuffle(const char *operation, T mine, int from) {
    uint32_t(*all)[8] = cuda_cpu::gather(operation, mine);
    T theirs;
    memcpy(&theirs, all[from & 31], sizeof theirs);
    return theirs;
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T mine, int lanes) {
    CUDA_CPU_ALL(mask);
    return cuda_cpu_shuffle("__shfl_xor_sync", mine, cuda_cpu::m.self->lane ^ lanes);
}
template <class T> inline T __shfl_sync(unsigned mask, T mine, int from) {
    CUDA_CPU_ALL(mask);
    return cuda_cpu_shuffle("__shfl_sync", mine, from);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T mine, unsigned by) {
    CUDA_CPU_ALL(mask);
    int from = cuda_cpu::m.self->lane + by;
    return cuda_cpu_shuffle("__shfl_down_sync", mine, from < 32 ? from : cuda_cpu::m.self->lane);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    CUDA_CPU_ALL(mask);
    uint32_t(*all)[8] = cuda_cpu::gather("__ballot_sync", (uint32_t)(vote != 0));
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) votes |= all[i][0] << i;
    return votes;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }

/* --------------------------------------------------------------------------- arithmetic, memory */

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T v) { *p = v; }
inline float atomicAdd(float *p, float v) { float old = *p; *p = old + v; return old; }
inline int atomicAdd(int *p, int v) { int old = *p; *p = old + v; return old; }
inline unsigned atomicAdd(unsigned *p, unsigned v) { unsigned old = *p; *p = old + v; return old; }
inline unsigned atomicInc(unsigned *p, unsigned limit) {
    unsigned old = *p;
    *p = old >= limit ? 0 : old + 1;
    return old;
}

/* ------------------------------------------------- tensor cores, for the wrappers of common.cuh */

/* Four 8x8 matrices of 16-bit numbers; lane l names row l % 8 of matrix l / 8, and gets two
   neighbours of each. */
inline void ldmatrix_x4(uint32_t *r, const void *row) {
    uint32_t(*all)[8] = cuda_cpu::gather("ldmatrix", row);
    int lane = cuda_cpu::m.self->lane;
    for (int i = 0; i < 4; i++) {
        const char *from;
        memcpy(&from, all[8 * i + lane / 4], sizeof from);
        memcpy(&r[i], from + 4 * (lane % 4), 4);
    }
}
inline void ldmatrix_x4_trans(uint32_t *r, const void *row) {
    uint32_t(*all)[8] = cuda_cpu::gather("ldmatrix.trans", row);
    int lane = cuda_cpu::m.self->lane;
    for (int i = 0; i < 4; i++) {
        uint16_t half[2];
        for (int j = 0; j < 2; j++) {
            const char *from;
            memcpy(&from, all[8 * i + 2 * (lane % 4) + j], sizeof from);
            memcpy(&half[j], from + 2 * (lane / 4), 2);
        }
        r[i] = half[0] | (uint32_t)half[1] << 16;
    }
}

/* c (16,8) += a (16,16) b (16,8), the numbers of each matrix spread over the lanes as the hardware
   has them. */
inline void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    struct { uint32_t a[4], b[2]; } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    uint32_t(*all)[8] = cuda_cpu::gather("mma", mine);
    int lane = cuda_cpu::m.self->lane, g = lane / 4, t = lane % 4;
    auto half = [](uint32_t r, int high) {
        return __uint_as_float(high ? r & 0xffff0000u : r << 16);
    };
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            float x = half(all[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
            float y = half(all[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
            c[i] += x * y;
        }
    }
}

/* 16 bytes to shared memory in the background, the first n of them from src and the rest 0. Here
   they arrive when they are waited for, and until then the place holds NaN. */
template <int BYTES> inline void cuda_cpu_copy(void *to, const void *src, int n) {
    cuda_cpu::Copy copy = {to, {}, BYTES, cuda_cpu::m.self->group};
    memcpy(copy.data, src, n);
    memset(to, 0xff, BYTES);
    cuda_cpu::m.self->copies.push_back(copy);
}
inline void cp_async_16(void *to, const void *src, int n) { cuda_cpu_copy<16>(to, src, n); }
inline void cp_async_4(void *to, const void *src, int n) { cuda_cpu_copy<4>(to, src, n); }
inline void cp_async_commit() { cuda_cpu::m.self->group++; }
template <int LATEST> inline void cp_async_wait() {     /* for all but the latest groups */
    cuda_cpu::Thread &me = *cuda_cpu::m.self;
    std::vector<cuda_cpu::Copy> rest;
    for (cuda_cpu::Copy &c : me.copies)
        if (c.group < me.group - LATEST) memcpy(c.to, c.data, c.bytes);
        else rest.push_back(c);
    me.copies.swap(rest);
}
