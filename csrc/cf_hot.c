#include "cf_hot.h"

#include <string.h>

/* The memory others write to is read and written in whole aligned floats, which never tear. Between
 * the loops the compiler must not remember or reorder it. */
#define LOOK_AGAIN() __asm__ volatile("" ::: "memory")

static void add(float *sum, const float *part, size_t n) {
    for (size_t i = 0; i < n; i++)
        sum[i] += part[i];
}

void cf_hot_fetch(const cf_hot *hot, const float *state, size_t n_ids, size_t width) {
    const size_t n = (hot->n + 1) * width;
    LOOK_AGAIN();
    memcpy(hot->own, state, hot->n * width * sizeof *state);
    memcpy(hot->own + hot->n * width, state + n_ids * width, width * sizeof *state);
    for (size_t t = 0; t < hot->n_threads; t++)
        add(hot->own, hot->published + t * n, n);
    memcpy(hot->seen, hot->own, n * sizeof *hot->own);
}

void cf_hot_exchange(const cf_hot *hot, const float *state, size_t n_ids, size_t width) {
    const size_t n = (hot->n + 1) * width;
    float *const mine = hot->published + hot->thread * n;
    for (size_t i = 0; i < n; i++)
        mine[i] += hot->own[i] - hot->seen[i];
    cf_hot_fetch(hot, state, n_ids, width);
}
