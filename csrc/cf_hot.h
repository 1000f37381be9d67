/* cf_hot.h -- a thread's own copies of the coordinates that every row touches.
 *
 * Threads that train one model share its state without locks. That costs nothing where they rarely
 * meet; but the intercept, numeric columns and popular categories are written by every thread all
 * the time, and a cache line that two cores write travels between them at each write, which makes
 * two threads slower than one. So each thread has its own copy of the first coordinates (ids are
 * numbered by popularity) and of the intercept, and from time to time they exchange what they
 * learnt.
 *
 * The value of a hot coordinate is that in the model's state, which stands still, plus the sum of
 * what each thread has published. Only its own thread writes a thread's part, so nothing is lost,
 * nobody waits, and it does not matter when a thread dies.
 */
#ifndef CF_HOT_H
#define CF_HOT_H

#include <stddef.h>

typedef struct {
    size_t n;     /* coordinates 0 to n - 1 are hot; at most the model's n_ids */
    size_t every; /* rows between exchanges, above 0 */
    size_t n_threads, thread;
    float
        *published; /* [n_threads][(n + 1) * width], zeros at first; the last is the intercept's */
    float *own, *seen; /* [(n + 1) * width] each: this thread's copies, and as last fetched */
} cf_hot;

/* Sets the copies to what all have published. */
void cf_hot_fetch(const cf_hot *hot, const float *state, size_t n_ids, size_t width);

/* Publishes what was learnt since, and fetches. */
void cf_hot_exchange(const cf_hot *hot, const float *state, size_t n_ids, size_t width);

#endif
