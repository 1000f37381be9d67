"""cf_claim.h: words that workers share."""

cdef extern from "cf_claim.h" nogil:
    size_t cf_claim(int64_t *words, const uint32_t *numbers, size_t n, int64_t from_, int64_t to,
                    uint8_t *claimed)
    void cf_claim_add(int64_t *word, int64_t amount)
    int cf_claim_numbers_fit(const uint32_t *numbers, size_t n, size_t n_words)


def claim(int64_t[::1] words not None, const uint32_t[::1] numbers not None, int64_t expected,
          int64_t wanted, uint8_t[::1] claimed not None):
    """Changes words from `expected` to `wanted`, each by one of all who try at once; claimed is 1
    where that was done, or had been. Returns how many."""
    cdef size_t n = <size_t>numbers.shape[0], width = <size_t>words.shape[0], found
    cdef int64_t *shared = _i64_out(words)
    cdef const uint32_t *chosen = _u32(numbers)
    cdef uint8_t *out = &claimed[0] if claimed.shape[0] else NULL
    cdef _Memory memory
    _need(<size_t>claimed.shape[0] == n, "claimed must be as long as numbers")
    _need(cf_claim_numbers_fit(chosen, n, width) != 0, "a number is beyond the words")
    memory.n = 0
    _writes(&memory, shared, 8 * width)
    _writes(&memory, out, n)
    _reads(&memory, chosen, 4 * n)
    _need_apart(&memory)
    with nogil:
        found = cf_claim(shared, chosen, n, expected, wanted, out)
    return found


def claim_add(int64_t[::1] words not None, size_t place, int64_t amount):
    """Adds to a word that others add to."""
    cdef int64_t *shared = _i64_out(words)
    _need(place < <size_t>words.shape[0], "place is beyond the words")
    cf_claim_add(shared + place, amount)
