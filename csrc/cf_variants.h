/* cf_variants.h -- the tables of cf_dispatch.h, one per instruction set (internal to csrc). */
#ifndef CF_VARIANTS_H
#define CF_VARIANTS_H

#include "cf_dispatch.h"

extern const cf_kernels cf_kernels_scalar;
#if defined(__x86_64__)
extern const cf_kernels cf_kernels_avx2, cf_kernels_avx512;
#elif defined(__aarch64__)
extern const cf_kernels cf_kernels_neon;
#endif

/* The pieces, named after the table's members. */
void cf_count_lines_colons_scalar(const uint8_t *text, size_t n, size_t *n_lines, size_t *n_colons);
size_t cf_libsvm_rows_scalar(const struct cf_libsvm_options *options, const uint8_t *text, size_t n,
                             size_t pos, size_t last, struct cf_libsvm_rows *rows);
#if defined(__x86_64__)
void cf_count_lines_colons_avx2(const uint8_t *text, size_t n, size_t *n_lines, size_t *n_colons);
size_t cf_libsvm_rows_avx2(const struct cf_libsvm_options *options, const uint8_t *text, size_t n,
                           size_t pos, size_t last, struct cf_libsvm_rows *rows);
size_t cf_libsvm_rows_avx512(const struct cf_libsvm_options *options, const uint8_t *text, size_t n,
                             size_t pos, size_t last, struct cf_libsvm_rows *rows);
#elif defined(__aarch64__)
void cf_count_lines_colons_neon(const uint8_t *text, size_t n, size_t *n_lines, size_t *n_colons);
size_t cf_libsvm_rows_neon(const struct cf_libsvm_options *options, const uint8_t *text, size_t n,
                           size_t pos, size_t last, struct cf_libsvm_rows *rows);
#endif

#endif
