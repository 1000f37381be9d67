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

size_t cf_libsvm_cut(const cf_kernels *kernels, const uint8_t *text, size_t n, size_t before,
                     size_t step, cf_libsvm_piece *pieces) {
    size_t n_pieces = 0;
    size_t room = step - before % step; /* what is left of the first step */
    for (size_t mark = 0; mark < n;) {
        const size_t next = room < n - mark ? mark + room : n;
        cf_libsvm_piece piece;
        cf_libsvm_range(text, n, mark, next, &piece.begin, &piece.end);
        cf_libsvm_measure(kernels, text, piece.begin, piece.end, &piece.n_rows, &piece.n_entries);
        piece.n_rows = cf_libsvm_count(text, n, piece.begin, piece.end);
        if (piece.n_rows > 0)
            pieces[n_pieces++] = piece;
        mark = next;
        room = step;
    }
    return n_pieces;
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
