/* cf_libsvm_fold.h -- what hashing does to a row (internal to csrc). */
#ifndef CF_LIBSVM_FOLD_H
#define CF_LIBSVM_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sorts a row of *n > 0 entries by index, sums equal ones in float32 in the order they stand, and
 * sets *n to what is left. False if a sum of finite values is infinite; the row is then spoilt.
 * `scratch` holds *n; O(n log n). */
bool cf_libsvm_fold(uint32_t *indices, float *data, size_t *n, uint64_t *scratch);

#endif
