/* The tables themselves: which piece serves which instruction set. */
#include "cf_block_streams.h"
#include "cf_crc32c.h"
#include "cf_grid_walk.h"
#include "cf_prepare.h"
#include "cf_pulled.h"
#include "cf_train_rows.h"
#include "cf_variants.h"

const cf_kernels cf_kernels_scalar = {
    .name = "scalar",
    .needs = 0,
    .count_lines_colons = cf_count_lines_colons_scalar,
    .libsvm_rows = cf_libsvm_rows_scalar,
    .crc32c = cf_crc32c_scalar,
    .train_rows = cf_train_rows_scalar,
    .rank_ids = cf_rank_ids_scalar,
    .place_entries = cf_place_entries_scalar,
    .grid = &cf_grid_scalar,
    .block = &cf_block_scalar,
};

#if defined(__x86_64__)
const cf_kernels cf_kernels_avx2 = {
    .name = "avx2",
    .needs = CF_CPU_AVX2 | CF_CPU_CRC32,
    .count_lines_colons = cf_count_lines_colons_avx2,
    .libsvm_rows = cf_libsvm_rows_avx2,
    .crc32c = cf_crc32c_sse42,
    .train_rows = cf_train_rows_avx2,
    .rank_ids = cf_rank_ids_avx2,
    .place_entries = cf_place_entries_avx2,
    .grid = &cf_grid_avx2,
    .block = &cf_block_avx2,
};

const cf_kernels cf_kernels_avx512 = {
    .name = "avx512",
    .needs = CF_CPU_AVX512 | CF_CPU_AVX2 | CF_CPU_CRC32,
    .count_lines_colons = cf_count_lines_colons_avx2,
    .libsvm_rows = cf_libsvm_rows_avx512,
    .crc32c = cf_crc32c_sse42,
    .train_rows = cf_train_rows_avx2,
    .rank_ids = cf_rank_ids_avx2,
    .place_entries = cf_place_entries_avx2,
    .grid = &cf_grid_avx512,
    .block = &cf_block_avx2,
};
#elif defined(__aarch64__)
const cf_kernels cf_kernels_neon = {
    .name = "neon",
    .needs = CF_CPU_NEON | CF_CPU_CRC32,
    .count_lines_colons = cf_count_lines_colons_neon,
    .libsvm_rows = cf_libsvm_rows_neon,
    .crc32c = cf_crc32c_armv8,
    .train_rows = cf_train_rows_neon,
    .rank_ids = cf_rank_ids_scalar,
    .place_entries = cf_place_entries_scalar,
    .grid = &cf_grid_scalar, /* vectors of four, as NEON's are */
    .block = &cf_block_neon,
};
#endif
