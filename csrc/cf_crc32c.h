/* cf_crc32c.h -- CRC-32C (Castagnoli), as in iSCSI, ext4 and S3's x-amz-checksum-crc32c.
 *
 * Every variant gives the same number: CRC-32C("123456789") = 0xe3069283. To go on where an earlier
 * call stopped, hand in what it returned; start with 0. Reads data[0, n) only.
 */
#ifndef CF_CRC32C_H
#define CF_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t cf_crc32c_scalar(uint32_t crc, const uint8_t *data, size_t n);
#if defined(__x86_64__)
uint32_t cf_crc32c_sse42(uint32_t crc, const uint8_t *data, size_t n);
#elif defined(__aarch64__)
uint32_t cf_crc32c_armv8(uint32_t crc, const uint8_t *data, size_t n);
#endif

#endif
