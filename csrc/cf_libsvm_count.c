/* Lines of text counted, and the rows among them, without parsing them. */
#include <string.h>

#include "cf_libsvm.h"

size_t cf_libsvm_count(const uint8_t *text, size_t n, size_t first, size_t last) {
    const uint8_t *const end = text + n;
    size_t n_rows = 0;
    for (size_t pos = first; pos < last;) {
        const uint8_t *p = text + pos;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        n_rows += p < end && *p != '\n' && *p != '\r' && *p != '#' && *p != 0;
        const uint8_t *const newline = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
        pos = newline ? (size_t)(newline - text) + 1 : n;
    }
    return n_rows;
}

size_t cf_libsvm_skip(const uint8_t *text, size_t n, size_t *n_lines) {
    size_t pos = 0, left = *n_lines;
    while (left > 0 && pos < n) {
        const uint8_t *const newline = memchr(text + pos, '\n', n - pos);
        if (newline == NULL) {
            pos = n;
            break;
        }
        pos = (size_t)(newline - text) + 1;
        left--;
    }
    *n_lines -= left;
    return pos;
}
