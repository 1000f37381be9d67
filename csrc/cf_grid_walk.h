/* cf_grid_walk.h -- what the kernels of cf_grid.h share (internal to csrc). */
#ifndef CF_GRID_WALK_H
#define CF_GRID_WALK_H

#include "cf_grid.h"
#include "cf_loss.h"

typedef struct cf_grid_walk {
    const cf_grid_model *model;
    const cf_csr *rows;
    double rows_seen; /* before the next row */
    cf_grid_total *total;
    /* A cf_loss_sum for each lane */
    double product[CF_GRID_LANES], loss[CF_GRID_LANES];
} cf_grid_walk;

/* One mini-batch, and the distinct ids of the one behind it, whose coordinates are asked for
 * meanwhile. */
typedef struct {
    const uint32_t *order, *local, *distinct, *next;
    size_t n, n_distinct, n_next;
} cf_grid_batch;

struct cf_grid_kernels {
    /* Learns from order[n], a row at a time; on failure the status's offset is the place in `order`
     * of the row that was not learnt from. */
    cf_status (*rows)(cf_grid_walk *walk, const uint32_t *order, size_t n);
    /* One step with a mini-batch that was checked. */
    void (*batch)(cf_grid_walk *walk, const cf_grid_batch *batch, const cf_grid_scratch *scratch);
    /* Of all rows; on failure the status's offset is the row. */
    cf_status (*measure)(cf_grid_walk *walk, float *margins);
};

extern const struct cf_grid_kernels cf_grid_scalar;
#if defined(__x86_64__)
extern const struct cf_grid_kernels cf_grid_avx2;
extern const struct cf_grid_kernels cf_grid_avx512;
#endif

/* How far ahead memory is asked for: a row's entries, then the coordinates they name. A row of them
 * is some hundred lines of the nearest cache, which a few rows would fill. */
enum { CF_GRID_ROWS_AHEAD = 24, CF_GRID_IDS_AHEAD = 3, CF_GRID_DISTINCT_AHEAD = 16 };

/* Coordinates as popular as these, 128 bytes each, are in a near cache anyway. */
enum { CF_GRID_NEAR = 512 };

/* Rows this long and no longer have what ftrl computes of an entry kept from the first pass over
 * them to the second. */
enum { CF_GRID_KEPT = 256 };

/* Checks a row and gives its entries. */
static inline cf_code cf_grid_find_row(const cf_grid_walk *walk, size_t row, size_t *begin,
                                       size_t *end) {
    const cf_csr *const rows = walk->rows;
    if (row >= rows->n_rows)
        return CF_E_ROW;
    if (!cf_csr_row(rows, row, begin, end))
        return CF_E_INDPTR;
    uint32_t highest = 0;
    for (size_t k = *begin; k < *end; k++)
        highest = rows->indices[k] > highest ? rows->indices[k] : highest;
    return *begin < *end && highest >= walk->model->n_ids ? CF_E_ID : CF_OK;
}

/* Asks for the first `n` (1 or 2) of a coordinate's `width` members, and for its penalties if it is
 * charged any; `id` is unchecked, and asking for no memory of ours does nothing. */
static inline void cf_grid_prefetch_id(const cf_grid_walk *walk, uint32_t id, size_t width,
                                       size_t n, bool charged) {
    const uintptr_t line = CF_GRID_LANES * sizeof(float);
    const uintptr_t at = (uintptr_t)walk->model->state + id * (width * line);
    __builtin_prefetch((const void *)at, 1);
    if (n > 1)
        __builtin_prefetch((const void *)(at + line), 1);
    if (charged)
        __builtin_prefetch(
            (const void *)((uintptr_t)walk->model->penalties.of + id * sizeof(cf_penalty)));
}

/* The ids of a row to come whose coordinates are to be asked for: none if it is no row. They are in
 * order of popularity, mostly. */
typedef struct {
    const uint32_t *ids;
    size_t n;
} cf_grid_ahead;

static inline cf_grid_ahead cf_grid_look_ahead(const cf_grid_walk *walk, size_t row) {
    const cf_csr *const rows = walk->rows;
    size_t begin, end;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end) || begin == end)
        return (cf_grid_ahead){NULL, 0};
    while (begin < end && rows->indices[begin] < CF_GRID_NEAR)
        begin++;
    return (cf_grid_ahead){rows->indices + begin, end - begin};
}

/* Asks for the next of them, if there is one. One at a time between other work: all at once, they
 * would wait for each other, and what comes behind for them. */
static inline void cf_grid_ask(const cf_grid_walk *walk, cf_grid_ahead *ahead, size_t width,
                               size_t n, bool charged) {
    if (!ahead->n)
        return;
    cf_grid_prefetch_id(walk, *ahead->ids++, width, n, charged);
    ahead->n--;
}

#endif
