/* `elem`, what weights, keys and values are, and 16 floats of a register. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TILE 16  /* rows and outputs of one piece of a product, and floats of a register */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#ifdef VERITUNE_FP32
typedef float elem;
#define PAIR 1 /* neighbours in k that one instruction multiplies and adds */
typedef float word;
INLINE __m512 dot(__m512 sum, word a, const elem *b) {
    return _mm512_fmadd_ps(_mm512_set1_ps(a), _mm512_loadu_ps(b), sum);
}
INLINE __m512 load(const elem *x) { return _mm512_loadu_ps(x); }
INLINE void store(elem *x, __m512 v) { _mm512_storeu_ps(x, v); }
INLINE __m512 load_some(__mmask16 some, const elem *x) { return _mm512_maskz_loadu_ps(some, x); }
INLINE void store_some(__mmask16 some, elem *x, __m512 v) { _mm512_mask_storeu_ps(x, some, v); }
#else
typedef uint16_t elem;
#define PAIR 2
typedef int32_t word;
INLINE __m512 dot(__m512 sum, word a, const elem *b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)_mm512_loadu_si512(b));
}
INLINE __m512 load(const elem *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE void store(elem *x, __m512 v) {
    _mm256_storeu_si256((__m256i *)x, (__m256i)_mm512_cvtneps_pbh(v));
}
INLINE __m512 load_some(__mmask16 some, const elem *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE void store_some(__mmask16 some, elem *x, __m512 v) {
    _mm256_mask_storeu_epi16(x, some, (__m256i)_mm512_cvtneps_pbh(v));
}
#endif

INLINE __m512 exp16(__m512 x) { /* within 2 units of the last place */
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    const float c[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (int i = 0; i < 7; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
    return _mm512_scalef_ps(p, n);
}
