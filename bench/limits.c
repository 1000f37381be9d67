/* What this machine can do at best with the same bytes: the limits that the report sets beside the
 * kernels. Built when the benchmarks run, for the very CPU they run on (bench/limits.py). */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

void limit_copy(uint8_t *to, const uint8_t *from, size_t n) { memcpy(to, from, n); }

/* Into pages that nobody has touched, as a result in new memory must be written. */
int limit_copy_fresh(const uint8_t *from, size_t n) {
    void *to = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED)
        return 1;
    memcpy(to, from, n);
    return munmap(to, n);
}

/* Blanks, colons and line ends, counted: no parser can look at the text less than this. */
size_t limit_separators(const uint8_t *text, size_t n) {
    enum { LANES = 64, ROUNDS = 255 };
    size_t found = 0, at = 0;
    while (n - at >= LANES) {
        uint8_t counts[LANES] = {0};
        for (int round = 0; round < ROUNDS && n - at >= LANES; round++, at += LANES) {
            for (int i = 0; i < LANES; i++) {
                const uint8_t c = text[at + (size_t)i];
                counts[i] += (uint8_t)((c == ' ') | (c == ':') | (c == '\n'));
            }
        }
        for (int i = 0; i < LANES; i++)
            found += counts[i];
    }
    for (; at < n; at++)
        found += (text[at] == ' ') | (text[at] == ':') | (text[at] == '\n');
    return found;
}

/* Every index and value looked at once. */
double limit_read(const uint32_t *indices, const float *data, size_t n) {
    uint32_t ids = 0;
    float sums[16] = {0};
    for (size_t i = 0; i + 16 <= n; i += 16) {
        for (size_t lane = 0; lane < 16; lane++) {
            ids += indices[i + lane];
            sums[lane] += data[i + lane];
        }
    }
    double sum = ids;
    for (size_t lane = 0; lane < 16; lane++)
        sum += (double)sums[lane];
    return sum;
}

/* Margins alone: what learning and scoring cannot do without. */
double limit_dots(const int64_t *indptr, const uint32_t *indices, const float *data, const float *w,
                  size_t n_rows) {
    enum { AHEAD = 128 };
    const int64_t end = indptr[n_rows];
    double sum = 0;
    for (size_t row = 0; row < n_rows; row++) {
        float margin = 0;
        for (int64_t i = indptr[row]; i < indptr[row + 1]; i++) {
            if (i + AHEAD < end)
                __builtin_prefetch(w + indices[i + AHEAD]);
            margin += w[indices[i]] * data[i];
        }
        sum += (double)margin;
    }
    return sum;
}
