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

struct cf_grid_kernels {
    /* Learns from order[n], a row at a time; on failure the status's offset is the place in `order`
     * of the row that was not learnt from. */
    cf_status (*rows)(cf_grid_walk *walk, const uint32_t *order, size_t n);
    /* One step with a mini-batch whose rows were checked and are localised in `scratch`. */
    void (*batch)(cf_grid_walk *walk, const uint32_t *order, size_t n,
                  const cf_grid_scratch *scratch, size_t n_distinct);
    /* Of all rows; on failure the status's offset is the row. */
    cf_status (*measure)(cf_grid_walk *walk, float *margins);
};

extern const struct cf_grid_kernels cf_grid_scalar;
#if defined(__x86_64__)
extern const struct cf_grid_kernels cf_grid_avx2;
#endif

/* How far ahead memory is asked for: a row's entries, then the coordinates they name. A row of them
 * is some hundred lines of the nearest cache, which a few rows would fill. */
enum { CF_GRID_ROWS_AHEAD = 24, CF_GRID_IDS_AHEAD = 2 };

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

/* Asks for the coordinates of a row to come, which may be no row at all; so may its ids be none,
 * and asking for no memory of ours does nothing. */
static inline void cf_grid_prefetch(const cf_grid_walk *walk, size_t row, size_t width) {
    const cf_csr *const rows = walk->rows;
    size_t begin, end;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end))
        return;
    const uintptr_t line = CF_GRID_LANES * sizeof(float), size = width * line;
    for (size_t k = begin; k < end; k++) {
        const uintptr_t at = (uintptr_t)walk->model->state + rows->indices[k] * size;
        __builtin_prefetch((const void *)at, 1);
        if (width > 1)
            __builtin_prefetch((const void *)(at + line), 1);
    }
}

#endif
