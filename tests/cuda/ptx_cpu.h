/* ptx_cpu.h: what the C++ that ptx_cpu.py makes of PTX needs beside cuda_cpu.h. SHARED_BYTES: of
   what kernels declare as shared. */

/* The bits of x as a T: PTX does not mind which kind of register holds them. */
template <class T, class U> inline T as(U x) {
    if constexpr (std::is_same_v<T, U>) return x;
    else if constexpr (std::is_integral_v<T> && std::is_integral_v<U>) return (T)x;
    else { T to = {}; memcpy(&to, &x, std::min(sizeof to, sizeof x)); return to; }
}
template <class T, class U> inline void put(T &to, U x) { to = as<T>(x); }
template <class T> inline T minimum(T x, T y) {
    return std::is_floating_point_v<T> ? (T)fmin(x, y) : x < y ? x : y;
}
template <class T> inline T maximum(T x, T y) {
    return std::is_floating_point_v<T> ? (T)fmax(x, y) : x > y ? x : y;
}
inline float fma_down(float x, float y, float z) {      /* rounded towards -infinity */
    double exact = (double)x * y + z;
    float r = (float)exact;
    return r > exact ? nextafterf(r, -INFINITY) : r;
}
inline uint16_t to_bf16(float x) {
    unsigned u = __float_as_uint(x);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}
/* Counts, where they are asked for: instructions of all threads; bytes of the 32-byte sectors of
   global memory that each access of a warp touches, and of them those it wants; turns that its
   accesses to shared memory take, and that they would take without conflicts; instructions that
   compute in double precision. */
#ifdef PTX_COUNTS
#include <map>
#include <set>
#include <unordered_map>
struct Touch { int lane; uint64_t at; int bytes; };
struct Counts {
    uint64_t instructions = 0, doubles = 0;
    /* How often a thread has come by an instruction. */
    std::unordered_map<uint64_t, unsigned> times;
    std::map<std::pair<uint64_t, unsigned>, std::vector<Touch>> global, shared;
} counts;
inline void touch(int id, decltype(counts.global) &of, uint64_t at, int bytes) {
    cuda_cpu::Machine &m = cuda_cpu::m;
    uint64_t block = (m.block.z * (uint64_t)m.blocks.y + m.block.y) * m.blocks.x + m.block.x;
    uint64_t thread = m.self - m.threads.data();
    uint64_t warp = (block << 5 | thread / 32) << 20 | id;
    of[{warp, counts.times[(warp << 5) | thread % 32]++}].push_back({(int)thread % 32, at, bytes});
}
/* 32 banks of 4 bytes serve 128 bytes a turn, and a word once for all who want it: lanes go by 128
   bytes, conflicts take turns of their own. */
inline void turns(std::vector<Touch> &lanes, double &taken, double &needed) {
    std::sort(lanes.begin(), lanes.end(),
              [](const Touch &a, const Touch &b) { return a.lane < b.lane; });
    int at_once = std::max(1, std::min(32, 128 / lanes[0].bytes));
    for (size_t first = 0; first < lanes.size(); first += at_once) {
        std::set<uint64_t> words;
        for (size_t i = first; i < std::min(lanes.size(), first + at_once); i++)
            for (int b = 0; b < lanes[i].bytes; b += 4) words.insert((lanes[i].at + b) / 4);
        std::map<int, int> of_bank;
        int most = 0;
        for (uint64_t w : words) most = std::max(most, ++of_bank[w % 32]);
        taken += most, needed += (words.size() + 31) / 32;
    }
}
extern "C" void ptx_counts(double *out) {
    std::fill(out, out + 6, 0.0);
    out[0] = counts.instructions, out[5] = counts.doubles;
    for (auto &[_, lanes] : counts.global) {
        std::set<uint64_t> sectors, bytes;
        for (Touch &t : lanes)
            for (int b = 0; b < t.bytes; b++)
                bytes.insert(t.at + b), sectors.insert((t.at + b) / 32);
        out[1] += 32.0 * sectors.size(), out[2] += bytes.size();
    }
    for (auto &[_, lanes] : counts.shared) turns(lanes, out[3], out[4]);
    counts = {};
}
#define STEP counts.instructions++;
#define STEP_DOUBLE STEP counts.doubles++;
#define TOUCH(id, of, at, bytes) touch(id, counts.of, (uint64_t)(at), bytes);
#else
#define STEP
#define STEP_DOUBLE
#define TOUCH(id, of, at, bytes)
#endif

/* Shared memory: what is declared in a kernel from 0 on, what a launch asks for from DYNAMIC on. */
constexpr uint64_t DYNAMIC = 1 << 20;
__shared__ __align__(16) char ptx_shared[SHARED_BYTES];
inline char *shared_at(uint64_t a) {
    return a < DYNAMIC ? ptx_shared + a : cuda_cpu::m.dynamic + (a - DYNAMIC);
}
inline uint64_t shared_of(uint64_t p) {
    return p >= (uint64_t)ptx_shared && p < (uint64_t)ptx_shared + SHARED_BYTES
               ? p - (uint64_t)ptx_shared
               : p - (uint64_t)cuda_cpu::m.dynamic + DYNAMIC;
}
