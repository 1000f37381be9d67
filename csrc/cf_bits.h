/* cf_bits.h -- little-endian numbers and bit streams, for blocks and messages (internal).
 *
 * A bit stream fills each byte from its low bit up; a number of `width` bits stands with its low
 * bit first. Readers load eight bytes at a time, so a stream is followed by at least CF_BITS_PAD
 * bytes of the same object: a read that starts at or before the stream's last bit stays inside.
 */
#ifndef CF_BITS_H
#define CF_BITS_H

#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blocks are little-endian and copied as they are: big-endian machines are not supported"
#endif

/* The longest item read between two checks is a gap of 34 bits: its last load starts less than 5
 * bytes after the item does, and takes 8. */
enum { CF_BITS_PAD = 16 };

static inline uint32_t cf_load_u16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t cf_load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t cf_load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void cf_store_u16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void cf_store_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }

static inline void cf_store_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

static inline float cf_load_f32(const uint8_t *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline double cf_load_f64(const uint8_t *p) {
    double v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void cf_store_f32(uint8_t *p, float v) { memcpy(p, &v, sizeof v); }

static inline void cf_store_f64(uint8_t *p, double v) { memcpy(p, &v, sizeof v); }

enum { CF_ONE_BITS = 0x3f800000 }; /* of 1.0f, which no other number equals */

static inline uint32_t cf_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float cf_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* How many bits v needs: 0 for 0, 32 for 2^31 and above. */
static inline unsigned cf_bit_length(uint32_t v) {
    return v == 0 ? 0 : 32u - (unsigned)__builtin_clz(v);
}

/* The number of `width` <= 32 bits at bit `position`; 0 for width 0. */
static inline uint32_t cf_bits_at(const uint8_t *stream, uint64_t position, unsigned width) {
    const uint64_t word = cf_load_u64(stream + (position >> 3)) >> (position & 7);
    return (uint32_t)(word & (((uint64_t)1 << width) - 1));
}

/* Appends numbers to a bit stream. Each call stores eight bytes at `at`, so that many must be
 * writable after the last bit; what follows the stream is written after it. */
typedef struct {
    uint8_t *at;
    uint64_t pending;
    unsigned n_pending; /* below 8 between calls */
} cf_bit_writer;

static inline void cf_bits_put(cf_bit_writer *w, uint32_t value, unsigned width) {
    w->pending |= (uint64_t)value << w->n_pending;
    w->n_pending += width;
    cf_store_u64(w->at, w->pending);
    w->at += w->n_pending >> 3;
    w->pending >>= w->n_pending & ~7u;
    w->n_pending &= 7;
}

/* How increasing ids are written: each as its gap, id - previous - 1 (the first: the id itself),
 * after a class of `class_bits` bits that says how many bits the gap has. */
typedef struct {
    uint8_t class_bits; /* 0, 1 or 2 */
    uint8_t width[4];   /* of each class, 0..32; class_bits + width is at least 1 */
} cf_gap_code;

/* The cheapest code for gaps of which histogram[b] have bit length b. */
cf_gap_code cf_gap_code_choose(const uint64_t histogram[33]);

/* Whether a code read from outside keeps to the limits above. */
int cf_gap_code_is_valid(cf_gap_code code);

static inline void cf_gap_put(cf_bit_writer *w, cf_gap_code code, uint32_t gap) {
    const unsigned length = cf_bit_length(gap);
    unsigned c = 0;
    while (code.width[c] < length)
        c++;
    cf_bits_put(w, c, code.class_bits);
    cf_bits_put(w, gap, code.width[c]);
}

/* The gap at *position, which moves on; at most 34 bits. */
static inline uint32_t cf_gap_at(const uint8_t *stream, uint64_t *position, cf_gap_code code) {
    const uint32_t c = cf_bits_at(stream, *position, code.class_bits);
    const unsigned width = code.width[c];
    const uint32_t gap = cf_bits_at(stream, *position + code.class_bits, width);
    *position += code.class_bits + width;
    return gap;
}

#endif
