/* cf_auc.h -- the area under the ROC curve, exactly, in linear time.
 */
#ifndef CF_AUC_H
#define CF_AUC_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double won;                /* of all pairs of a positive row and another, the product of weights
                                * where the positive one scores higher; half of it for a tie */
    double positive, negative; /* sums of weights: the area is won / (positive * negative) */
} cf_auc_sums;

/* Rows are positive if their label is above 0; `weights` may be NULL. Scores may be infinite but
 * not NaN. `scratch` has room for 2 * n_rows. Without weights the sums are exact below 2^53. */
cf_auc_sums cf_auc(const float *scores, const float *labels, const float *weights, size_t n_rows,
                   uint64_t *scratch);

#endif
