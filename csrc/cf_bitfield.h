/* cf_bitfield.h -- weights in a plain Redis string: one BITFIELD command packed as the bytes of the
 * protocol, and its reply read.
 *
 * A weight is a 32-bit whole number in units of 2^-24, so +-128 are its bounds. A command adds to
 * some of them, never past those bounds, and reads others, all in one atomic step:
 *     BITFIELD key OVERFLOW SAT INCRBY i32 #place amount ... GET i32 #place ...
 * The server answers an array of whole numbers in that order: what each place holds afterwards.
 */
#ifndef CF_BITFIELD_H
#define CF_BITFIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

#define CF_BITFIELD_SCALE 16777216.0f /* units in 1 */

/* Redis 6.2 closes the connection at more than 1,048,576 arguments, and a server does nothing else
 * while it executes a command, so a command takes some ten milliseconds at most. */
enum { CF_BITFIELD_MOST = 32768 };

/* Bytes that a command of so many additions and reads has at most. */
size_t cf_bitfield_room(size_t key_bytes, size_t n_add, size_t n_get);

/* Writes the command to out[cf_bitfield_room(...)] and returns its length. n_add + n_get must be
 * between 1 and CF_BITFIELD_MOST. */
size_t cf_bitfield_pack(const uint8_t *key, size_t key_bytes, const uint32_t *add_places,
                        const int32_t *amounts, size_t n_add, const uint32_t *get_places,
                        size_t n_get, uint8_t *out);

/* How far a reply was read, since it comes in pieces; zeros at first. */
typedef struct {
    bool began;  /* its first line was seen */
    size_t done; /* numbers read */
} cf_bitfield_reply;

/* Reads on at bytes[0, n), as far as whole lines go, into values[n_values], of which the reply must
 * have exactly as many. *used says how many bytes were read; what is behind belongs to the next
 * call, with more bytes behind it. The reply is complete when reply->done is n_values.
 *
 * CF_E_REPLY_ERROR: the server refuses the command; bytes[0, n) begins with its line, perhaps not
 * whole yet. CF_E_REPLY at an offset: not the reply of such a command. */
cf_status cf_bitfield_read(const uint8_t *bytes, size_t n, int32_t *values, size_t n_values,
                           cf_bitfield_reply *reply, size_t *used);

/* Numbers that lie in a string of 4-byte big-endian words, as the server keeps them; and back. */
void cf_bitfield_decode(const uint8_t *bytes, size_t n, int32_t *values);
void cf_bitfield_encode(const int32_t *values, size_t n, uint8_t *bytes);

#endif
