/* cublaslt_cpu.cpp: the functions of cublasLt that kernels/cublas.py calls, on a CPU, with the
   library's signatures and rules.

   It refuses what the library refuses: attributes of the wrong size, matrices that do not fit each
   other, a leading dimension below the height, pointers less aligned than was promised, other
   epilogues. Sums are in double, results rounded once. */

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, DEFAULT = 1, BIAS = 4 };

struct Description { int32_t trans_a = 0, trans_b = 0, epilogue = DEFAULT; void *bias = nullptr; };
struct Layout { int type; uint64_t rows, cols; int64_t ld; };
struct Preference { uint64_t workspace = 0; uint32_t alignment[4] = {256, 256, 256, 256}; };
struct Algorithm { uint64_t alignment[4], rest[4]; };
struct Heuristic { Algorithm algo; size_t workspace; int status; float waves; int reserved[4]; };
static_assert(sizeof(Heuristic) == 96, "as in the library's header");

static float number(const void *p, int type, int64_t i) {
    if (type == R_32F) return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static void put(void *p, int type, int64_t i, float x) {
    if (type == R_32F) { ((float *)p)[i] = x; return; }
    uint32_t u;
    memcpy(&u, &x, 4);
    ((uint16_t *)p)[i] = x != x ? (uint16_t)(u >> 16 | 64)
                                : (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

struct Call {
    int ta, tb;
    int64_t m, n, k;
    float alpha;
    const void *a; int at; int64_t lda;
    const void *b; int bt; int64_t ldb;
    float beta;
    void *c; int ct; int64_t ldc;
    int epilogue; void *bias;
};

/* c (m,n) = alpha op(a) op(b) + beta c, then what the epilogue says; all stored by columns. */
static void compute(const Call &p) {
    /* By rows of op(a), by columns of op(b): what is summed lies together. */
    std::vector<float> a(p.m * p.k), b(p.k * p.n);
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t l = 0; l < p.k; l++)
            a[i * p.k + l] = number(p.a, p.at, p.ta ? i * p.lda + l : l * p.lda + i);
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t l = 0; l < p.k; l++)
            b[j * p.k + l] = number(p.b, p.bt, p.tb ? l * p.ldb + j : j * p.ldb + l);
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            double sum = 0.0;
            for (int64_t l = 0; l < p.k; l++) sum += (double)a[i * p.k + l] * b[j * p.k + l];
            sum *= p.alpha;
            if (p.beta != 0.0f) sum += (double)p.beta * number(p.c, p.ct, j * p.ldc + i);
            if (p.epilogue == BIAS) sum += number(p.bias, p.ct, i);
            put(p.c, p.ct, j * p.ldc + i, (float)sum);
        }
}

static int (*take)(int) = nullptr;
static std::vector<Call> recorded;

extern "C" {

void cublaslt_cpu_recorder(int (*f)(int)) { take = f; }
void cublaslt_cpu_replay(int i) { compute(recorded[i]); }
void cublaslt_cpu_gemm(int ta, int tb, long long m, long long n, long long k, float alpha,
                       const void *a, int at, long long lda, const void *b, int bt, long long ldb,
                       float beta, void *c, int ct, long long ldc) {
    compute({ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, DEFAULT, nullptr});
}

int cublasLtCreate(void **handle) { *handle = (void *)1; return OK; }
int cublasLtMatmulDescCreate(Description **d, int compute_type, int scale_type) {
    if (compute_type != COMPUTE_32F || scale_type != R_32F) return INVALID_VALUE;
    *d = new Description;
    return OK;
}
int cublasLtMatmulDescSetAttribute(Description *d, int attribute, const void *value, size_t size) {
    if (size != (attribute == 8 ? 8 : 4)) return INVALID_VALUE;
    if (attribute == 3) memcpy(&d->trans_a, value, 4);
    else if (attribute == 4) memcpy(&d->trans_b, value, 4);
    else if (attribute == 7) memcpy(&d->epilogue, value, 4);
    else if (attribute == 8) memcpy(&d->bias, value, 8);
    else return INVALID_VALUE;
    return OK;
}
int cublasLtMatrixLayoutCreate(Layout **l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if ((type != R_32F && type != R_16BF) || ld < (int64_t)rows) return INVALID_VALUE;
    *l = new Layout{type, rows, cols, ld};
    return OK;
}
int cublasLtMatmulPreferenceCreate(Preference **p) { *p = new Preference; return OK; }
int cublasLtMatmulPreferenceDestroy(Preference *p) { delete p; return OK; }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int attribute, const void *value,
                                         size_t size) {
    if (attribute == 1 && size == 8) memcpy(&p->workspace, value, 8);
    else if (attribute >= 5 && attribute <= 8 && size == 4)
        memcpy(&p->alignment[attribute - 5], value, 4);
    else return INVALID_VALUE;
    return OK;
}

static bool fits(const Description *d, const Layout *a, const Layout *b, const Layout *c) {
    uint64_t m = d->trans_a ? a->cols : a->rows, k = d->trans_a ? a->rows : a->cols;
    uint64_t n = d->trans_b ? b->rows : b->cols, k_b = d->trans_b ? b->cols : b->rows;
    return k == k_b && c->rows == m && c->cols == n && a->type == b->type;
}

int cublasLtMatmulAlgoGetHeuristic(void *, const Description *d, const Layout *a, const Layout *b,
                                   const Layout *c, const Layout *out, const Preference *p,
                                   int wanted, Heuristic *found, int *n) {
    *n = 0;
    if (!fits(d, a, b, c) || !fits(d, a, b, out) || wanted < 1) return INVALID_VALUE;
    if (d->epilogue != DEFAULT && d->epilogue != BIAS) return NOT_SUPPORTED;
    *found = Heuristic{};
    for (int i = 0; i < 4; i++) found->algo.alignment[i] = p->alignment[i];
    *n = 1;
    return OK;
}

int cublasLtMatmul(void *, const Description *d, const float *alpha, const void *a,
                   const Layout *la, const void *b, const Layout *lb, const float *beta,
                   const void *c, const Layout *lc, void *out, const Layout *lout,
                   const Algorithm *algo, void *workspace, size_t, void *) {
    const void *each[] = {a, b, c, out};
    for (int i = 0; i < 4; i++)
        if (!algo->alignment[i] || (uintptr_t)each[i] % algo->alignment[i]) return INVALID_VALUE;
    if (!fits(d, la, lb, lout) || c != out || lc->ld != lout->ld || !workspace)
        return INVALID_VALUE;
    if (d->epilogue == BIAS && !d->bias) return INVALID_VALUE;
    Call call = {d->trans_a, d->trans_b,
                 (int64_t)lout->rows, (int64_t)lout->cols,
                 (int64_t)(d->trans_a ? la->rows : la->cols), *alpha,
                 a, la->type, la->ld, b, lb->type, lb->ld, *beta,
                 out, lout->type, lout->ld, d->epilogue, d->bias};
    recorded.push_back(call);
    if (take && take((int)recorded.size() - 1)) return OK;
    recorded.pop_back();
    compute(call);
    return OK;
}

}
