/* Attention inside the segments of packed rows, dropout drawn from counters, and adapters, for
 * training.
 *
 * Segments are short, so a product of one head fits the first caches and the time would go
 * into calls.  Here one (segment, head of keys) is one piece of work, from the scores to the
 * gradients.  Inputs and outputs are `elem`; everything between is float.  Each output is
 * written by one thread in one order, so results do not depend on the number of threads. */

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "lanes.h"

#define ROWS 24 /* queries, or tokens, that are looked at together */

/* Memory of a thread that is kept from call to call: blocks that come and go between tensors
 * leave holes in the heap.  Null where there is none. */
enum { OF_THREAD, OF_CALL };
static void *scratch(int which, size_t bytes) {
    static __thread void *kept[2];
    static __thread size_t sizes[2];
    if (sizes[which] < bytes) {
        free(kept[which]);
        kept[which] = aligned_alloc(64, (bytes + 63) / 64 * 64);
        sizes[which] = kept[which] ? bytes : 0;
    }
    return kept[which];
}

/* ---- Philox 4x64-10 (Salmon et al., 2011), as numpy's ---- */

typedef struct {
    uint64_t seed, site, step;
} Draw;

/* 16 random 16-bit numbers: the stream's block `number`, counted from 0. */
INLINE __m256i random16(Draw draw, uint64_t number) {
    uint64_t c[4] = {number + 1, 0, draw.step, 0}, key[2] = {draw.seed, draw.site};
    UNROLL for (int round = 0; round < 10; round++) {
        unsigned __int128 one = (unsigned __int128)0xD2E7470EE14C6C93u * c[0];
        unsigned __int128 two = (unsigned __int128)0xCA5A826395121157u * c[2];
        uint64_t next[4] = {(uint64_t)(two >> 64) ^ c[1] ^ key[0], (uint64_t)two,
                            (uint64_t)(one >> 64) ^ c[3] ^ key[1], (uint64_t)one};
        memcpy(c, next, sizeof c);
        key[0] += 0x9E3779B97F4A7C15u, key[1] += 0xBB67AE8584CAA73Bu;
    }
    return _mm256_loadu_si256((const __m256i *)c);
}

INLINE __mmask16 kept16(__m256i bits, int threshold) {
    return _mm256_cmpge_epu16_mask(bits, _mm256_set1_epi16((short)threshold));
}

/* y = x · scale where the mask keeps an entry, 0 where it drops it. */
void drop(const elem *x, elem *y, int64_t n, const Draw *draw, int64_t threshold, float scale,
          int64_t threads) {
    int64_t blocks = (n + TILE - 1) / TILE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t left = n - b * TILE;
        __mmask16 here = left >= TILE ? 0xFFFF : (1 << left) - 1;
        __mmask16 kept = kept16(random16(*draw, b), threshold) & here;
        __m512 v = _mm512_mul_ps(load_some(kept, x + b * TILE), _mm512_set1_ps(scale));
        store_some(here, y + b * TILE, v);
    }
}

/* ---- small products ---- */

INLINE void product_of(const int rows, const int strips, const float *a, int64_t a_row,
                       int64_t a_k, const float *b, int64_t b_k, int64_t k, float *y,
                       int64_t y_row, int adds) {
    __m512 sum[rows][strips];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int s = 0; s < strips; s++)
            sum[i][s] = adds ? _mm512_loadu_ps(y + i * y_row + s * TILE) : _mm512_setzero_ps();
    for (int64_t j = 0; j < k; j++) {
        __m512 right[strips];
        UNROLL for (int s = 0; s < strips; s++)
            right[s] = _mm512_loadu_ps(b + j * b_k + s * TILE);
        UNROLL for (int i = 0; i < rows; i++) {
            __m512 left = _mm512_set1_ps(a[i * a_row + j * a_k]);
            UNROLL for (int s = 0; s < strips; s++)
                sum[i][s] = _mm512_fmadd_ps(left, right[s], sum[i][s]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int s = 0; s < strips; s++)
            _mm512_storeu_ps(y + i * y_row + s * TILE, sum[i][s]);
}

#define STRIPS(r, s) case s: product_of(r, s, a, a_row, a_k, b, b_k, k, y, y_row, adds); break;
#define COUNT(r) case r: switch (strips) { STRIPS(r, 1) STRIPS(r, 2) STRIPS(r, 3) STRIPS(r, 4) } break;

static void product_part(int rows, int strips, const float *a, int64_t a_row, int64_t a_k,
                         const float *b, int64_t b_k, int64_t k, float *y, int64_t y_row,
                         int adds) {
    switch (rows) { COUNT(1) COUNT(2) COUNT(3) COUNT(4) COUNT(5) COUNT(6) }
}

/* y[m, n] = or += a[m, k] b[k, n]; n is a multiple of 16, a has any strides. */
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_k,
                    const float *b, int64_t b_k, float *y, int64_t y_row, int adds) {
    for (int64_t col = 0; col < n; col += 4 * TILE) {
        int strips = n - col >= 4 * TILE ? 4 : (n - col) / TILE;
        for (int64_t row = 0; row < m; row += 6) {
            int rows = m - row >= 6 ? 6 : m - row;
            product_part(rows, strips, a + row * a_row, a_row, a_k, b + col, b_k, k,
                         y + row * y_row + col, y_row, adds);
        }
    }
}

static void widen(float *to, const elem *from, int64_t width) {
    for (int64_t j = 0; j < width; j += TILE) _mm512_storeu_ps(to + j, load(from + j));
}

static void narrow(elem *to, const float *from, int64_t width) {
    for (int64_t j = 0; j < width; j += TILE) store(to + j, _mm512_loadu_ps(from + j));
}

#include "lora.h"

/* ---- attention ---- */

typedef struct {
    int64_t query, n;       /* first query and how many */
    int64_t key, own;       /* first key of its own and how many */
    int64_t prefix, shared; /* the keys before them that it shares with others */
    int64_t weights;        /* where its attention weights begin, [heads, n, shared + own] */
    Draw draw;
} Segment;

typedef struct {
    elem *at;
    int64_t head, token; /* strides; entries of a head lie side by side */
} Rows;

typedef struct {
    Rows q, k, v, out;       /* out: the mix, or its gradient */
    Rows dq, dk, dv;         /* gradients, where they are wanted */
    const elem *bias;        /* [heads, bias_n, bias_n], or null */
    elem *weights;
    const Segment *segments;
    int64_t n_segments, heads, kv_heads, width, bias_n, causal, threshold, threads;
    float scaling, scale;    /* of scores, and of weights that are kept */
} Attention;

typedef struct {
    float *keys, *values, *turned; /* [m, width] twice, and one of them turned, [width, M] */
    float *q, *g, *dq;             /* [ROWS, width] */
    float *p, *s, *kept;           /* [ROWS, M]; M: m in whole registers */
    float *dk, *dv;                /* [m, width] */
} Room;

INLINE int64_t whole(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

INLINE elem *row_at(Rows rows, int64_t head, int64_t token) {
    return rows.at + head * rows.head + token * rows.token;
}

/* A segment's row of keys or values: the prefix comes first. */
INLINE int64_t token_of(const Segment *s, int64_t i) {
    return i < s->shared ? s->prefix + i : s->key + i - s->shared;
}

static void turn(float *to, const float *from, int64_t m, int64_t width, int64_t padded) {
    for (int64_t j = 0; j < width; j++) {
        for (int64_t i = 0; i < m; i++) to[j * padded + i] = from[i * width + j];
        for (int64_t i = m; i < padded; i++) to[j * padded + i] = 0;
    }
}

static Room make_room(int64_t m, int64_t width) {
    int64_t padded = whole(m), one = padded * width;
    float *at = scratch(OF_THREAD, 4 * (5 * one + 3 * ROWS * width + 3 * ROWS * padded));
    Room room = {0};
    if (!at) return room;
    room.keys = at, room.values = at + one, room.turned = at + 2 * one;
    room.dk = at + 3 * one, room.dv = at + 4 * one;
    room.q = at + 5 * one, room.g = room.q + ROWS * width, room.dq = room.g + ROWS * width;
    room.p = room.dq + ROWS * width, room.s = room.p + ROWS * padded;
    room.kept = room.s + ROWS * padded;
    return room;
}

/* kept = p where the mask keeps it, scaled, else 0: one row of m weights, `first` of the segment. */
static void keep(const Attention *a, const Segment *s, float *to, const float *from,
                 int64_t first, int64_t m) {
    uint16_t bits[2 * TILE];
    int64_t block = first / TILE;
    int shift = first % TILE;
    _mm256_storeu_si256((__m256i *)bits, random16(s->draw, block));
    for (int64_t j = 0; j < m; j += TILE) {
        _mm256_storeu_si256((__m256i *)(bits + TILE), random16(s->draw, ++block));
        __m256i here = _mm256_loadu_si256((const __m256i *)(bits + shift));
        __m512 v = _mm512_maskz_loadu_ps(kept16(here, a->threshold), from + j);
        _mm512_storeu_ps(to + j, _mm512_mul_ps(v, _mm512_set1_ps(a->scale)));
        memcpy(bits, bits + TILE, 2 * TILE);
    }
}

/* softmax of `limit` scores in place, zeros up to `padded`. */
static void softmax(float *x, const elem *bias, int64_t limit, int64_t padded) {
    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < limit; j += TILE) {
        __mmask16 here = limit - j >= TILE ? 0xFFFF : (1 << (limit - j)) - 1;
        __m512 v = _mm512_loadu_ps(x + j);
        if (bias) v = _mm512_add_ps(v, load_some(here, bias + j));
        _mm512_storeu_ps(x + j, v);
        top = _mm512_mask_max_ps(top, here, top, v);
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int64_t j = 0; j < limit; j += TILE) {
        __mmask16 here = limit - j >= TILE ? 0xFFFF : (1 << (limit - j)) - 1;
        __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + j), top));
        e = _mm512_maskz_mov_ps(here, e);
        _mm512_storeu_ps(x + j, e);
        sum = _mm512_add_ps(sum, e);
    }
    __m512 inverse = _mm512_set1_ps(1 / _mm512_reduce_add_ps(sum));
    for (int64_t j = 0; j < limit; j += TILE)
        _mm512_storeu_ps(x + j, _mm512_mul_ps(_mm512_loadu_ps(x + j), inverse));
    for (int64_t j = whole(limit); j < padded; j += TILE)
        _mm512_storeu_ps(x + j, _mm512_setzero_ps());
}

static void read_keys(const Attention *a, const Segment *s, int64_t head, Room room, int64_t m) {
    for (int64_t i = 0; i < m; i++) {
        int64_t token = token_of(s, i);
        widen(room.keys + i * a->width, row_at(a->k, head, token), a->width);
        widen(room.values + i * a->width, row_at(a->v, head, token), a->width);
    }
}

/* The keys that a query sees. */
INLINE int64_t seen(const Attention *a, const Segment *s, int64_t query) {
    int64_t m = s->shared + s->own;
    return a->causal ? m - s->n + query + 1 : m;
}

static void forward_of(const Attention *a, const Segment *s, int64_t kv_head, Room room) {
    int64_t m = s->shared + s->own, padded = whole(m), width = a->width;
    int64_t groups = a->heads / a->kv_heads;
    read_keys(a, s, kv_head, room, m);
    turn(room.turned, room.keys, m, width, padded);
    for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        for (int64_t low = 0; low < s->n; low += ROWS) {
            int64_t rows = s->n - low < ROWS ? s->n - low : ROWS;
            int64_t last = seen(a, s, low + rows - 1);
            for (int64_t i = 0; i < rows; i++) {
                float *q = room.q + i * width;
                widen(q, row_at(a->q, head, s->query + low + i), width);
                for (int64_t j = 0; j < width; j++) q[j] *= a->scaling;
            }
            product(rows, whole(last), width, room.q, width, 1, room.turned, padded, room.p,
                    padded, 0);
            for (int64_t i = 0; i < rows; i++) {
                int64_t row = low + i, place = (head * s->n + row) * m;
                const elem *bias =
                    a->bias ? a->bias + (head * a->bias_n + row) * a->bias_n : 0;
                float *p = room.p + i * padded;
                softmax(p, bias, seen(a, s, row), padded);
                elem *weights = a->weights + s->weights + place;
                for (int64_t j = 0; j < m; j += TILE) {
                    __mmask16 here = m - j >= TILE ? 0xFFFF : (1 << (m - j)) - 1;
                    store_some(here, weights + j, _mm512_loadu_ps(p + j));
                }
                if (a->threshold) keep(a, s, p, p, place, m);
            }
            product(rows, width, last, room.p, padded, 1, room.values, width, room.g, width, 0);
            for (int64_t i = 0; i < rows; i++)
                narrow(row_at(a->out, head, s->query + low + i), room.g + i * width, width);
        }
}

static void backward_of(const Attention *a, const Segment *s, int64_t kv_head, Room room,
                        float *shared) {
    int64_t m = s->shared + s->own, padded = whole(m), width = a->width;
    int64_t groups = a->heads / a->kv_heads;
    read_keys(a, s, kv_head, room, m);
    turn(room.turned, room.values, m, width, padded);
    memset(room.dk, 0, 4 * m * width), memset(room.dv, 0, 4 * m * width);
    for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        for (int64_t low = 0; low < s->n; low += ROWS) {
            int64_t rows = s->n - low < ROWS ? s->n - low : ROWS;
            int64_t last = seen(a, s, low + rows - 1);
            for (int64_t i = 0; i < rows; i++) {
                widen(room.q + i * width, row_at(a->q, head, s->query + low + i), width);
                widen(room.g + i * width, row_at(a->out, head, s->query + low + i), width);
            }
            product(rows, whole(last), width, room.g, width, 1, room.turned, padded, room.s,
                    padded, 0);
            for (int64_t i = 0; i < rows; i++) {
                int64_t place = (head * s->n + low + i) * m;
                float *p = room.p + i * padded, *ds = room.s + i * padded;
                float *kept = room.kept + i * padded;
                const elem *weights = a->weights + s->weights + place;
                __m512 dot = _mm512_setzero_ps();
                for (int64_t j = 0; j < last; j += TILE) {
                    __mmask16 here = m - j >= TILE ? 0xFFFF : (1 << (m - j)) - 1;
                    _mm512_storeu_ps(p + j, load_some(here, weights + j));
                }
                if (a->threshold) {
                    keep(a, s, kept, p, place, last);
                    keep(a, s, ds, ds, place, last);
                } else
                    memcpy(kept, p, 4 * whole(last));
                for (int64_t j = 0; j < last; j += TILE)
                    dot = _mm512_fmadd_ps(_mm512_loadu_ps(p + j), _mm512_loadu_ps(ds + j), dot);
                __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot));
                __m512 scaling = _mm512_set1_ps(a->scaling);
                for (int64_t j = 0; j < last; j += TILE) {
                    __m512 v = _mm512_sub_ps(_mm512_loadu_ps(ds + j), mean);
                    v = _mm512_mul_ps(_mm512_mul_ps(v, scaling), _mm512_loadu_ps(p + j));
                    _mm512_storeu_ps(ds + j, v);
                }
            }
            product(last, width, rows, room.kept, 1, padded, room.g, width, room.dv, width, 1);
            product(last, width, rows, room.s, 1, padded, room.q, width, room.dk, width, 1);
            product(rows, width, last, room.s, padded, 1, room.keys, width, room.dq, width, 0);
            for (int64_t i = 0; i < rows; i++)
                narrow(row_at(a->dq, head, s->query + low + i), room.dq + i * width, width);
        }
    for (int64_t i = s->shared; i < m; i++) {
        narrow(row_at(a->dk, kv_head, token_of(s, i)), room.dk + i * width, width);
        narrow(row_at(a->dv, kv_head, token_of(s, i)), room.dv + i * width, width);
    }
    if (s->shared) {
        memcpy(shared, room.dk, 4 * s->shared * width);
        memcpy(shared + s->shared * width, room.dv, 4 * s->shared * width);
    }
}

/* Adds what several segments say of the prefix they share; they follow one another. */
static void add_shared(const Attention *a, int64_t kv_head, const float *const *shared) {
    for (int64_t first = 0, next; first < a->n_segments; first = next) {
        const Segment *s = a->segments + first;
        for (next = first + 1; next < a->n_segments && s->shared; next++)
            if (a->segments[next].prefix != s->prefix || a->segments[next].shared != s->shared)
                break;
        for (int64_t i = 0; i < s->shared; i++)
            for (int which = 0; which < 2; which++) {
                elem *row = row_at(which ? a->dv : a->dk, kv_head, s->prefix + i);
                int64_t place = (which * s->shared + i) * a->width;
                for (int64_t j = 0; j < a->width; j += TILE) {
                    __m512 sum = load(row + j);
                    for (int64_t other = first; other < next; other++) {
                        const float *of = shared[other * a->kv_heads + kv_head] + place;
                        sum = _mm512_add_ps(sum, _mm512_loadu_ps(of + j));
                    }
                    store(row + j, sum);
                }
            }
    }
}

/* 0, or 1 where memory ran out. */
int attend(const Attention *a, int backward) {
    int64_t pieces = a->n_segments * a->kv_heads, longest = 0, total = 0;
    int failed = 0;
    for (int64_t i = 0; i < a->n_segments; i++) {
        int64_t m = a->segments[i].shared + a->segments[i].own;
        longest = m > longest ? m : longest;
        total += a->segments[i].shared;
    }
    size_t pointers = pieces * sizeof(float *), bytes = 4 * 2 * total * a->kv_heads * a->width;
    float **shared = scratch(OF_CALL, pointers + (backward ? bytes : 0));
    if (!shared) return 1;
    float *at = (float *)(shared + pieces);
    for (int64_t i = 0; i < pieces; i++) {
        shared[i] = at;
        at += 2 * a->segments[i / a->kv_heads].shared * a->width;
    }
#pragma omp parallel num_threads(a->threads)
    {
        Room room = make_room(longest, a->width);
        if (!room.keys) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < pieces; i++) {
            const Segment *s = a->segments + i / a->kv_heads;
            if (!room.keys || !s->n) continue;
            if (backward) backward_of(a, s, i % a->kv_heads, room, shared[i]);
            else forward_of(a, s, i % a->kv_heads, room);
        }
        if (backward && total) {
#pragma omp for schedule(static)
            for (int64_t head = 0; head < a->kv_heads; head++)
                add_shared(a, head, (const float *const *)shared);
        }
    }
    return failed;
}
