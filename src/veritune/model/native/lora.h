/* What adapters add to a frozen product, and its gradients, a block of tokens at a time.
 *
 * A rank meets only the outputs of its own layer.  Gradients of the factors are summed in a fixed
 * number of chunks, so results do not depend on the number of threads. */

#define CHUNKS 8

typedef struct {
    int64_t low, high;   /* its outputs */
    int64_t first, last; /* its ranks */
    int64_t start, stop; /* its dropped entries among all */
} Piece;

typedef struct {
    const elem *x, *dy;  /* [tokens, k] and, on the way back, [tokens, n] */
    elem *y, *dx;        /* added to: [tokens, n], and [tokens, k] or null */
    const float *a, *b;  /* [rank, k] and [rank, n] */
    float *z;            /* [tokens, rank] */
    float *da, *db;      /* like a and b */
    const int64_t *drops; /* places in x, token · k + entry, ascending in each piece */
    const Piece *pieces;
    int64_t n_pieces, tokens, k, n, rank, threads;
} Lora;

/* y[i][r] = Σ_j x[i][j] w[r][j], for some rows and ranks. */
INLINE void dots_of(const int rows, const int ranks, const float *x, int64_t x_row,
                    const float *w, int64_t w_row, int64_t k, float *y, int64_t y_row) {
    __m512 sum[rows][ranks];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int r = 0; r < ranks; r++) sum[i][r] = _mm512_setzero_ps();
    for (int64_t j = 0; j < k; j += TILE) {
        __m512 right[ranks];
        UNROLL for (int r = 0; r < ranks; r++) right[r] = _mm512_loadu_ps(w + r * w_row + j);
        UNROLL for (int i = 0; i < rows; i++) {
            __m512 left = _mm512_loadu_ps(x + i * x_row + j);
            UNROLL for (int r = 0; r < ranks; r++)
                sum[i][r] = _mm512_fmadd_ps(left, right[r], sum[i][r]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int r = 0; r < ranks; r++) y[i * y_row + r] = _mm512_reduce_add_ps(sum[i][r]);
}

#define RANKS(i, r) case r: dots_of(i, r, x, x_row, w, w_row, k, y, y_row); break;
#define DOTS(i) case i: switch (ranks) { RANKS(i, 1) RANKS(i, 2) RANKS(i, 3) RANKS(i, 4) } break;

static void dots_part(int rows, int ranks, const float *x, int64_t x_row, const float *w,
                      int64_t w_row, int64_t k, float *y, int64_t y_row) {
    switch (rows) { DOTS(1) DOTS(2) DOTS(3) DOTS(4) }
}

static void dots(int64_t m, int64_t ranks, const float *x, int64_t x_row, const float *w,
                 int64_t w_row, int64_t k, float *y, int64_t y_row) {
    for (int64_t i = 0; i < m; i += 4)
        for (int64_t r = 0; r < ranks; r += 4)
            dots_part(m - i < 4 ? m - i : 4, ranks - r < 4 ? ranks - r : 4, x + i * x_row, x_row,
                      w + r * w_row, w_row, k, y + i * y_row + r, y_row);
}

/* The first of a piece's dropped entries that is not before `place`. */
static int64_t drop_from(const Lora *l, const Piece *p, int64_t place) {
    int64_t low = p->start, high = p->stop;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (l->drops[middle] < place) low = middle + 1; else high = middle;
    }
    return low;
}

static void add_rows(elem *to, const float *from, int64_t count) {
    for (int64_t j = 0; j < count; j += TILE)
        store(to + j, _mm512_add_ps(load(to + j), _mm512_loadu_ps(from + j)));
}

static void lora_forward_of(const Lora *l, int64_t first, int64_t rows, float *room) {
    float *x = room, *y = room + ROWS * l->k, *z = l->z + first * l->rank;
    for (int64_t i = 0; i < rows; i++) widen(x + i * l->k, l->x + (first + i) * l->k, l->k);
    dots(rows, l->rank, x, l->k, l->a, l->k, l->k, z, l->rank);
    for (const Piece *p = l->pieces; p < l->pieces + l->n_pieces; p++) {
        int64_t end = (first + rows) * l->k;
        for (int64_t d = drop_from(l, p, first * l->k); d < p->stop && l->drops[d] < end; d++) {
            int64_t place = l->drops[d] - first * l->k, i = place / l->k, entry = place % l->k;
            for (int64_t r = p->first; r < p->last; r++)
                z[i * l->rank + r] -= x[place] * l->a[r * l->k + entry];
        }
        int64_t width = p->high - p->low;
        product(rows, width, p->last - p->first, z + p->first, l->rank, 1,
                l->b + p->first * l->n + p->low, l->n, y, width, 0);
        for (int64_t i = 0; i < rows; i++)
            add_rows(l->y + (first + i) * l->n + p->low, y + i * width, width);
    }
}

static void lora_backward_of(const Lora *l, int64_t first, int64_t rows, float *da, float *db,
                             float *room) {
    float *x = room, *g = x + ROWS * l->k, *dx = g + ROWS * l->n, *dz = dx + ROWS * l->k;
    const float *z = l->z + first * l->rank;
    for (int64_t i = 0; i < rows; i++) {
        widen(x + i * l->k, l->x + (first + i) * l->k, l->k);
        widen(g + i * l->n, l->dy + (first + i) * l->n, l->n);
    }
    for (const Piece *p = l->pieces; p < l->pieces + l->n_pieces; p++) {
        int64_t ranks = p->last - p->first, width = p->high - p->low;
        dots(rows, ranks, g + p->low, l->n, l->b + p->first * l->n + p->low, l->n, width,
             dz + p->first, l->rank);
        product(ranks, width, rows, z + p->first, 1, l->rank, g + p->low, l->n,
                db + p->first * l->n + p->low, l->n, 1);
    }
    product(l->rank, l->k, rows, dz, 1, l->rank, x, l->k, da, l->k, 1);
    if (l->dx) product(rows, l->k, l->rank, dz, l->rank, 1, l->a, l->k, dx, l->k, 0);
    for (const Piece *p = l->pieces; p < l->pieces + l->n_pieces; p++) {
        int64_t end = (first + rows) * l->k;
        for (int64_t d = drop_from(l, p, first * l->k); d < p->stop && l->drops[d] < end; d++) {
            int64_t place = l->drops[d] - first * l->k, i = place / l->k, entry = place % l->k;
            float back = 0;
            for (int64_t r = p->first; r < p->last; r++) {
                float of = dz[i * l->rank + r];
                da[r * l->k + entry] -= of * x[place];
                back += of * l->a[r * l->k + entry];
            }
            dx[place] -= back;
        }
    }
    if (l->dx)
        for (int64_t i = 0; i < rows; i++)
            add_rows(l->dx + (first + i) * l->k, dx + i * l->k, l->k);
}

/* 0, or 1 where memory ran out. */
int adapt(const Lora *l, int backward) {
    int64_t blocks = (l->tokens + ROWS - 1) / ROWS, own = l->rank * (l->k + l->n);
    int64_t size = ROWS * (2 * l->k + l->n + l->rank);
    int failed = 0;
    float *sums = backward ? scratch(OF_CALL, 4 * CHUNKS * own) : 0;
    if (backward && !sums) return 1;
    if (backward) memset(sums, 0, 4 * CHUNKS * own);
#pragma omp parallel num_threads(l->threads)
    {
        float *room = scratch(OF_THREAD, 4 * size);
        if (!room) {
#pragma omp atomic write
            failed = 1;
        }
        if (!backward) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < blocks; block++) {
                int64_t first = block * ROWS, left = l->tokens - first;
                if (room) lora_forward_of(l, first, left < ROWS ? left : ROWS, room);
            }
        } else {
#pragma omp for schedule(dynamic, 1)
            for (int64_t chunk = 0; chunk < CHUNKS; chunk++) {
                float *da = sums + chunk * own, *db = da + l->rank * l->k;
                int64_t low = blocks * chunk / CHUNKS, high = blocks * (chunk + 1) / CHUNKS;
                for (int64_t block = low; block < high && room; block++) {
                    int64_t first = block * ROWS, left = l->tokens - first;
                    lora_backward_of(l, first, left < ROWS ? left : ROWS, da, db, room);
                }
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < own; i++) {
                float sum = 0;
                for (int64_t chunk = 0; chunk < CHUNKS; chunk++) sum += sums[chunk * own + i];
                if (i < l->rank * l->k) l->da[i] = sum; else l->db[i - l->rank * l->k] = sum;
            }
        }
    }
    return failed;
}
