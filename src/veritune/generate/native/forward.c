/* One forward pass of a Llama-like decoder or of T5's for a few rows, in one parallel region.
 *
 * A row is one token of one slot: a decoding step has one row a slot, reading a prompt many rows
 * of the same slot.  T5's decoder adds a bias by distance to its scores and looks at its source's
 * keys and values, which its encoder has left in a second cache.  Threads meet at barriers between phases and take work from a shared counter
 * within them, so that one that the machine holds up delays the others by one piece only.
 *
 * Weights, keys and values and what is multiplied by weights are `elem`: bf16, or float when
 * VERITUNE_FP32 is defined.  All else is float: the residual stream, the norms, the rotary
 * embedding, attention and its softmax, the activation, the logits.  A row's sums always run in
 * the same order, so its result depends on no other row. */

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <unistd.h>

#include "lanes.h"
#include "attend.h"

/* y = x Wᵀ + bias + Σ z b, z = x aᵀ of the ranks that are the row's own.  The weight stands in
 * strips of 16 outputs: [n / 16][k / PAIR][16][PAIR], padded with zeros to whole strips. */
typedef struct {
    const elem *weight;
    const float *bias;     /* [n], or null */
    const float *a, *b;    /* [rank, k] and [rank, n], or null */
    const int32_t *ranks;  /* [systems, 2]: first rank of a system, and the one after its last */
    int64_t n, k, rank;
} Product;

/* gate_up: a strip of the gate, one of the other, and so on; or one layer without a gate. */
typedef struct {
    Product qkv, o, cross_q, cross_o, gate_up, down;
    const float *norm_before, *norm_cross, *norm_between, *norm_q, *norm_k; /* 2, 4, 5: or null */
} Layer;

enum { SILU, RELU, GELU };

typedef struct {
    const Layer *layers;
    int64_t n_layers, dim, inner, heads, kv_heads, width, activation, gated, threads;
    float eps, head_eps, scale, unused;
    const elem *embed;        /* [vocabulary, dim] */
    const float *norm_last;   /* [dim] */
    Product head;
} Model;

typedef struct {
    const int64_t *tokens, *positions, *systems, *slots; /* [rows] */
    const int64_t *outs;                                  /* [n_out], rows that want logits */
    float *logits;                                        /* [n_out, vocabulary] */
    elem *const *caches;     /* a layer: [2, cache_slots, kv_heads, window, width] */
    elem *const *sources;    /* a layer likewise, of the source; or null */
    const int64_t *source_lengths;                        /* [rows] */
    const float *cos, *sin;  /* [positions, width], or null; half of the sines is negative */
    const float *bias;       /* [heads, bias_width] by distance, or null */
    float *h, *qkv, *z;      /* [rows, dim], [rows, q + k + v], [rows, ranks] */
    elem *x, *inner;         /* rows in tiles, see `put`: of dim or heads · width, and of inner */
    int64_t rows, n_out, cache_slots, window, source_slots, source_window, bias_width, z_width;
} Batch;

typedef struct {
    atomic_long arrived, next[2];
    atomic_int phase;
} Meeting;

/* Waits for all threads, then starts a new phase whose work is counted from 0. */
static void meet(Meeting *m, int threads) {
    int phase = atomic_load(&m->phase);
    if (atomic_fetch_add(&m->arrived, 1) == threads - 1) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->next[phase & 1], 0);
        atomic_store(&m->phase, phase + 1);
        return;
    }
    /* A thread that the machine took away comes back the sooner the less the others hold. */
    for (int spins = 0; atomic_load(&m->phase) == phase; spins++)
        if (spins < 4000) _mm_pause(); else usleep(20);
}

/* The next `count` pieces of the present phase. */
INLINE int64_t take(Meeting *m, int64_t count) {
    return atomic_fetch_add(&m->next[(atomic_load(&m->phase) + 1) & 1], count);
}

/* Where k of a row stands among rows in tiles: [rows / 16][k / PAIR][16][PAIR]. */
INLINE elem *put(elem *x, int64_t row, int64_t k, int64_t width) {
    elem *tile = x + row / TILE * TILE * width;
    return tile + k / PAIR * TILE * PAIR + row % TILE * PAIR + k % PAIR;
}

static void put_all(elem *x, int64_t row, const float *from, int64_t first, int64_t n,
                    int64_t width) {
    elem line[TILE];
    for (int64_t i = 0; i < n; i += TILE) {
        store(line, _mm512_loadu_ps(from + i));
        for (int j = 0; j < TILE; j += PAIR)
            memcpy(put(x, row, first + i + j, width), line + j, sizeof(word));
    }
}

/* ---- products ---- */

INLINE void tile_of(const int m, const elem *x, const elem *w, int64_t k, float *y) {
    __m512 sum[TILE];
    UNROLL for (int i = 0; i < m; i++) sum[i] = _mm512_setzero_ps();
    for (int64_t j = 0; j < k / PAIR; j++) {
        const word *a = (const word *)x + j * TILE;
        _mm_prefetch((const char *)(w + (j * TILE * PAIR)) + 3072, _MM_HINT_T0);
        UNROLL for (int i = 0; i < m; i++) sum[i] = dot(sum[i], a[i], w + j * TILE * PAIR);
    }
    UNROLL for (int i = 0; i < m; i++) _mm512_storeu_ps(y + i * TILE, sum[i]);
}

#define CASE(m) case m: tile_of(m, x, w, k, y); break;
static void tile(int m, const elem *x, const elem *w, int64_t k, float *y) {
    switch (m) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
        CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16)
    }
}

/* 16 rows and 16 outputs of a product: [m, 16] with bias and adapters. */
static void piece(const Product *p, int m, const elem *x, int64_t strip, const float *bias,
                  const float *b, int64_t b_step, const Batch *batch, int64_t row, float *y) {
    tile(m, x, p->weight + strip * TILE * p->k, p->k, y);
    for (int i = 0; i < m; i++) {
        __m512 v = _mm512_loadu_ps(y + i * TILE);
        if (bias) v = _mm512_add_ps(v, _mm512_loadu_ps(bias));
        if (b) {
            const int32_t *own = p->ranks + 2 * batch->systems[row + i];
            const float *z = batch->z + (row + i) * batch->z_width;
            for (int r = own[0]; r < own[1]; r++)
                v = _mm512_fmadd_ps(_mm512_set1_ps(z[r]), _mm512_loadu_ps(b + r * b_step), v);
        }
        _mm512_storeu_ps(y + i * TILE, v);
    }
}

INLINE const float *at(const float *x, int64_t i) { return x ? x + i : 0; }

/* y[rows, n] = or += the product; n is a multiple of 16. */
static void multiply(const Product *p, const elem *x, const Batch *batch, float *y, int adds,
                     Meeting *meeting) {
    float part[TILE * TILE];
    for (int64_t s; (s = take(meeting, 1)) < p->n / TILE;)
        for (int64_t row = 0; row < batch->rows; row += TILE) {
            int m = batch->rows - row < TILE ? batch->rows - row : TILE;
            piece(p, m, x + row * p->k, s, at(p->bias, s * TILE), at(p->b, s * TILE), p->n, batch,
                  row, part);
            for (int i = 0; i < m; i++) {
                float *out = y + (row + i) * p->n + s * TILE;
                __m512 v = _mm512_loadu_ps(part + i * TILE);
                if (adds) v = _mm512_add_ps(v, _mm512_loadu_ps(out));
                _mm512_storeu_ps(out, v);
            }
        }
}

INLINE __m512 activated(int64_t kind, __m512 x) {
    if (kind == RELU) return _mm512_max_ps(x, _mm512_setzero_ps());
    __m512 u = x;
    if (kind == GELU) { /* the tanh form: x · sigmoid(2 sqrt(2 / π) (x + 0.044715 x³)) */
        __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
        u = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
        u = _mm512_mul_ps(u, _mm512_set1_ps(1.5957691216f));
    }
    __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), u));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

/* act(gate) · up, or act of the one layer there is, put in tiles. */
static void multiply_inner(const Model *model, const Product *p, const elem *x,
                           const Batch *batch, elem *y, Meeting *meeting) {
    float gate[TILE * TILE], up[TILE * TILE], line[TILE];
    int64_t inner = model->inner, gated = model->gated;
    for (int64_t s; (s = take(meeting, 1)) < inner / TILE;)
        for (int64_t row = 0; row < batch->rows; row += TILE) {
            int m = batch->rows - row < TILE ? batch->rows - row : TILE;
            piece(p, m, x + row * p->k, gated ? 2 * s : s, at(p->bias, s * TILE),
                  at(p->b, s * TILE), p->n, batch, row, gate);
            if (gated)
                piece(p, m, x + row * p->k, 2 * s + 1, at(p->bias, inner + s * TILE),
                      at(p->b, inner + s * TILE), p->n, batch, row, up);
            for (int i = 0; i < m; i++) {
                __m512 v = activated(model->activation, _mm512_loadu_ps(gate + i * TILE));
                if (gated) v = _mm512_mul_ps(v, _mm512_loadu_ps(up + i * TILE));
                _mm512_storeu_ps(line, v);
                put_all(y, row + i, line, s * TILE, TILE, inner);
            }
        }
}

static void head(const Product *p, const elem *x, const Batch *batch, Meeting *meeting) {
    float part[TILE * TILE];
    int64_t strips = (p->n + TILE - 1) / TILE;
    for (int64_t first; (first = take(meeting, 8)) < strips;)
        for (int64_t s = first; s < strips && s < first + 8; s++)
            for (int64_t row = 0; row < batch->n_out; row += TILE) {
                int m = batch->n_out - row < TILE ? batch->n_out - row : TILE;
                int64_t n = p->n - s * TILE < TILE ? p->n - s * TILE : TILE;
                piece(p, m, x + row * p->k, s, 0, 0, 0, batch, row, part);
                for (int i = 0; i < m; i++)
                    memcpy(batch->logits + (row + i) * p->n + s * TILE, part + i * TILE, 4 * n);
            }
}

/* ---- what stands between the products ---- */

/* w · x / sqrt(mean(x²) + eps) */
static void normed(const float *x, const float *w, float eps, int64_t n, float *y) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += TILE) {
        __m512 v = _mm512_loadu_ps(x + i);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    __m512 inverse = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / n + eps));
    for (int64_t i = 0; i < n; i += TILE)
        _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_loadu_ps(w + i),
                                              _mm512_mul_ps(_mm512_loadu_ps(x + i), inverse)));
}

/* z of one row, from the very numbers that the weight is multiplied by. */
static void adapt(const Product *p, const elem *x, const Batch *batch, int64_t row) {
    if (!p->a) return;
    const int32_t *own = p->ranks + 2 * batch->systems[row];
    for (int r = own[0]; r < own[1]; r++) {
        __m512 sum = _mm512_setzero_ps();
        elem line[TILE];
        for (int64_t k = 0; k < p->k; k += TILE) {
            for (int j = 0; j < TILE; j += PAIR)
                memcpy(line + j, put((elem *)x, row, k + j, p->k), sizeof(word));
            sum = _mm512_fmadd_ps(load(line), _mm512_loadu_ps(p->a + r * p->k + k), sum);
        }
        batch->z[row * batch->z_width + r] = _mm512_reduce_add_ps(sum);
    }
}

/* Turns one head to its position. */
static void turn(float *x, const float *norm, float eps, const float *cos, const float *sin,
                 int64_t d) {
    float y[d];
    if (norm) normed(x, norm, eps, d, x);
    for (int64_t i = 0; i < d; i++)
        y[i] = x[i] * cos[i] + x[i < d / 2 ? i + d / 2 : i - d / 2] * sin[i];
    memcpy(x, y, sizeof y);
}

static void remember(const Model *model, const Layer *layer, const Batch *batch, elem *cache,
                     int64_t row) {
    int64_t d = model->width, q = model->heads * d, kv = model->kv_heads * d;
    int64_t slot = batch->slots[row], position = batch->positions[row];
    float *all = batch->qkv + row * (q + 2 * kv);
    if (batch->cos) {
        const float *cos = batch->cos + position * d, *sin = batch->sin + position * d;
        for (int64_t i = 0; i < model->heads; i++)
            turn(all + i * d, layer->norm_q, model->head_eps, cos, sin, d);
        for (int64_t i = 0; i < model->kv_heads; i++)
            turn(all + q + i * d, layer->norm_k, model->head_eps, cos, sin, d);
    }
    for (int64_t i = 0; i < model->kv_heads; i++) {
        elem *key = cache + ((slot * model->kv_heads + i) * batch->window + position) * d;
        elem *value = key + batch->cache_slots * model->kv_heads * batch->window * d;
        for (int64_t j = 0; j < d; j += TILE) {
            store(key + j, _mm512_loadu_ps(all + q + i * d + j));
            store(value + j, _mm512_loadu_ps(all + q + kv + i * d + j));
        }
    }
}

/* Where attention looks: one layer's [2, slots, kv_heads, window, width]. */
typedef struct {
    const elem *at;
    int64_t slots, window;
    const float *bias; /* by head and distance, or null; then no heads share keys */
} Past;

/* The heads of one row that share one head of keys; `q`: the row's first query. */
static void attend(const Model *model, const Batch *batch, Past past, const float *q,
                   int64_t span, int64_t row, int64_t head) {
    int64_t d = model->width, group = model->heads / model->kv_heads;
    const elem *keys = past.at + (batch->slots[row] * model->kv_heads + head) * past.window * d;
    const elem *values = keys + past.slots * model->kv_heads * past.window * d;
    const float *bias = past.bias ? past.bias + head * batch->bias_width : 0;
    float scale = model->scale;
    for (int64_t i = 0; i < group;) {
        int g = group - i < 4 ? group - i : 4;
        int64_t first = head * group + i;
        float out[4 * d];
        const float *of = q + first * d;
        switch (g) {
            case 1: attend_of(1, of, keys, values, span, d, scale, bias, out); break;
            case 2: attend_of(2, of, keys, values, span, d, scale, 0, out); break;
            case 3: attend_of(3, of, keys, values, span, d, scale, 0, out); break;
            default: attend_of(4, of, keys, values, span, d, scale, 0, out);
        }
        put_all(batch->x, row, out, first * d, g * d, model->heads * d);
        i += g;
    }
}

/* ---- the pass ---- */

static void norm_rows(const Model *model, const Batch *batch, const float *norm, const Product *p,
                      Meeting *meeting) {
    float y[model->dim];
    for (int64_t row; (row = take(meeting, 1)) < batch->rows;) {
        normed(batch->h + row * model->dim, norm, model->eps, model->dim, y);
        put_all(batch->x, row, y, 0, model->dim, model->dim);
        adapt(p, batch->x, batch, row);
    }
}

static void adapt_rows(const Product *p, const elem *x, const Batch *batch, Meeting *meeting,
                       int threads) {
    if (!p->a) return;
    for (int64_t row; (row = take(meeting, 1)) < batch->rows;) adapt(p, x, batch, row);
    meet(meeting, threads);
}

/* What the rows see of their sources, added to the residual stream. */
static void look_at_sources(const Model *model, const Layer *layer, const Batch *batch,
                            const elem *cache, Meeting *meeting, int threads) {
    Past past = {cache, batch->source_slots, batch->source_window, 0};
    norm_rows(model, batch, layer->norm_cross, &layer->cross_q, meeting);
    meet(meeting, threads);
    multiply(&layer->cross_q, batch->x, batch, batch->qkv, 0, meeting);
    meet(meeting, threads);
    for (int64_t i; (i = take(meeting, 1)) < batch->rows * model->kv_heads;) {
        int64_t row = i / model->kv_heads;
        attend(model, batch, past, batch->qkv + row * layer->cross_q.n,
               batch->source_lengths[row], row, i % model->kv_heads);
    }
    meet(meeting, threads);
    adapt_rows(&layer->cross_o, batch->x, batch, meeting, threads);
    multiply(&layer->cross_o, batch->x, batch, batch->h, 1, meeting);
    meet(meeting, threads);
}

void veritune_forward(const Model *model, const Batch *batch) {
    Meeting meeting = {0};
    /* `take` reads the counter that the last meeting has set to zero. */
    #pragma omp parallel num_threads(model->threads)
    {
        int threads = omp_get_num_threads();
        int64_t dim = model->dim;
        for (int64_t row; (row = take(&meeting, 1)) < batch->rows;)
            for (int64_t j = 0; j < dim; j += TILE)
                _mm512_storeu_ps(batch->h + row * dim + j,
                                 load(model->embed + batch->tokens[row] * dim + j));
        meet(&meeting, threads);
        for (int64_t l = 0; l < model->n_layers; l++) {
            const Layer *layer = model->layers + l;
            elem *cache = batch->caches[l];
            norm_rows(model, batch, layer->norm_before, &layer->qkv, &meeting);
            meet(&meeting, threads);
            multiply(&layer->qkv, batch->x, batch, batch->qkv, 0, &meeting);
            meet(&meeting, threads);
            for (int64_t row; (row = take(&meeting, 1)) < batch->rows;)
                remember(model, layer, batch, cache, row);
            meet(&meeting, threads);
            if (l == model->n_layers - 1 && batch->n_out == 0) break;
            Past past = {cache, batch->cache_slots, batch->window, batch->bias};
            for (int64_t i; (i = take(&meeting, 1)) < batch->rows * model->kv_heads;) {
                int64_t row = i / model->kv_heads;
                attend(model, batch, past, batch->qkv + row * layer->qkv.n,
                       batch->positions[row] + 1, row, i % model->kv_heads);
            }
            meet(&meeting, threads);
            adapt_rows(&layer->o, batch->x, batch, &meeting, threads);
            multiply(&layer->o, batch->x, batch, batch->h, 1, &meeting);
            meet(&meeting, threads);
            if (batch->sources)
                look_at_sources(model, layer, batch, batch->sources[l], &meeting, threads);
            norm_rows(model, batch, layer->norm_between, &layer->gate_up, &meeting);
            meet(&meeting, threads);
            multiply_inner(model, &layer->gate_up, batch->x, batch, batch->inner, &meeting);
            meet(&meeting, threads);
            adapt_rows(&layer->down, batch->inner, batch, &meeting, threads);
            multiply(&layer->down, batch->inner, batch, batch->h, 1, &meeting);
            meet(&meeting, threads);
        }
        if (batch->n_out) {
            float y[dim];
            for (int64_t i; (i = take(&meeting, 1)) < batch->n_out;) {
                normed(batch->h + batch->outs[i] * dim, model->norm_last, model->eps, dim, y);
                put_all(batch->x, i, y, 0, dim, dim);
            }
            meet(&meeting, threads);
            head(&model->head, batch->x, batch, &meeting);
        }
    }
}
