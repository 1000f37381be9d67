/* cf_gradient.h -- the gradient of one localised mini-batch: what is between pulling the weights
 * of its distinct ids and pushing a step for them.
 */
#ifndef CF_GRADIENT_H
#define CF_GRADIENT_H

#include "cf_csr.h"

/* Rows order[n] of `rows`, whose labels are 1 or 0; each must have been found valid (cf_csr_row).
 * Their entries' ids are `local` instead of rows->indices, one row after another. */
typedef struct {
    const cf_csr *rows;
    const uint32_t *order; /* NULL: rows 0 to n - 1 */
    size_t n;
    const uint32_t *local;
    float class_weight[2]; /* of labels 0 and 1 */
} cf_minibatch;

/* Sums over the rows. The loss is that before the step, without class weights. */
typedef struct {
    float intercept; /* of weight * class weight * (p - label) */
    double loss, weight;
} cf_gradient_total;

/* Sets gradient[n_local] to the sums of weight * class weight * (p - label) * data, and
 * touches[n_local], unless NULL, to the numbers of entries. Every local id must be below n_local,
 * the length of w. */
cf_gradient_total cf_gradient_sum(const cf_minibatch *batch, const float *w, size_t n_local,
                                  float intercept, float *gradient, float *touches);

#endif
