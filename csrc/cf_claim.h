/* cf_claim.h -- words in memory that workers share, each of which one of them changes.
 *
 * Who claims a word changes it from what it must be to what only the claimant writes; of several
 * that try at once, one does. Nobody waits, so a worker that is stopped or dies in between holds
 * nobody up. Words must be aligned to 8 bytes; they may lie in memory of several processes.
 */
#ifndef CF_CLAIM_H
#define CF_CLAIM_H

#include <stddef.h>
#include <stdint.h>

/* Changes words[numbers[i]], i < n, from `from` to `to`. claimed[i] is 1 where it did, or where it
 * was `to` before, and else 0. Returns how many are 1. */
size_t cf_claim(int64_t *words, const uint32_t *numbers, size_t n, int64_t from, int64_t to,
                uint8_t *claimed);

/* Whether all numbers are below n_words. */
int cf_claim_numbers_fit(const uint32_t *numbers, size_t n, size_t n_words);

/* Adds to a word that others add to at the same time. */
void cf_claim_add(int64_t *word, int64_t amount);

#endif
