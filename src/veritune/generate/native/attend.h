/* Attention of the query heads that share one head of keys. */

#include <math.h>

#define BLOCK 64 /* tokens that are looked at together */

/* g query heads of one row over `span` keys and values of the head they share, a block of
 * tokens at a time: the largest score so far, the sum and the mix are rescaled when it grows.
 * `bias`, or null: of one head, what is added to a score by the distance to the last key. */
INLINE void attend_of(const int g, const float *q, const elem *keys, const elem *values,
                      int64_t span, int64_t d, float scale, const float *bias, float *out) {
    float weight[g][BLOCK], most[g], total[g];
    for (int i = 0; i < g; i++) most[i] = -INFINITY, total[i] = 0;
    memset(out, 0, 4 * g * d);
    for (int64_t start = 0; start < span; start += BLOCK) {
        int count = span - start < BLOCK ? span - start : BLOCK;
        for (int t = 0; t < count; t++) {
            const elem *key = keys + (start + t) * d;
            __m512 sum[g];
            UNROLL for (int i = 0; i < g; i++) sum[i] = _mm512_setzero_ps();
            for (int64_t j = 0; j < d; j += TILE) {
                __m512 k = load(key + j);
                UNROLL for (int i = 0; i < g; i++)
                    sum[i] = _mm512_fmadd_ps(_mm512_loadu_ps(q + i * d + j), k, sum[i]);
            }
            float near = bias ? bias[span - 1 - start - t] : 0;
            UNROLL for (int i = 0; i < g; i++)
                weight[i][t] = _mm512_reduce_add_ps(sum[i]) * scale + near;
        }
        for (int i = 0; i < g; i++) {
            float top = most[i];
            for (int t = count; t < BLOCK; t++) weight[i][t] = -INFINITY;
            for (int t = 0; t < BLOCK; t += TILE) {
                float here = _mm512_reduce_max_ps(_mm512_loadu_ps(weight[i] + t));
                top = here > top ? here : top;
            }
            __m512 sum = _mm512_setzero_ps();
            for (int t = 0; t < BLOCK; t += TILE) {
                __m512 e = _mm512_sub_ps(_mm512_loadu_ps(weight[i] + t), _mm512_set1_ps(top));
                int left = count - t > TILE ? TILE : count > t ? count - t : 0;
                e = _mm512_maskz_mov_ps((1 << left) - 1, exp16(e));
                _mm512_storeu_ps(weight[i] + t, e);
                sum = _mm512_add_ps(sum, e);
            }
            float keep = start ? expf(most[i] - top) : 0;
            total[i] = total[i] * keep + _mm512_reduce_add_ps(sum);
            most[i] = top;
            if (start && keep != 1)
                for (int64_t j = 0; j < d; j++) out[i * d + j] *= keep;
        }
        for (int64_t j = 0; j < d; j += 2 * TILE) {
            int both = d - j > TILE;
            __m512 one[g], two[g];
            UNROLL for (int i = 0; i < g; i++) {
                one[i] = _mm512_loadu_ps(out + i * d + j);
                two[i] = both ? _mm512_loadu_ps(out + i * d + j + TILE) : _mm512_setzero_ps();
            }
            for (int t = 0; t < count; t++) {
                const elem *value = values + (start + t) * d + j;
                __m512 v = load(value), w = both ? load(value + TILE) : _mm512_setzero_ps();
                UNROLL for (int i = 0; i < g; i++) {
                    __m512 share = _mm512_set1_ps(weight[i][t]);
                    one[i] = _mm512_fmadd_ps(share, v, one[i]);
                    two[i] = _mm512_fmadd_ps(share, w, two[i]);
                }
            }
            UNROLL for (int i = 0; i < g; i++) {
                _mm512_storeu_ps(out + i * d + j, one[i]);
                if (both) _mm512_storeu_ps(out + i * d + j + TILE, two[i]);
            }
        }
    }
    for (int i = 0; i < g; i++)
        for (int64_t j = 0; j < d; j++) out[i * d + j] /= total[i];
}
