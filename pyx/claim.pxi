cdef extern from "cf_claim.h" nogil:
    size_t cf_claim(int64_t *words, const uint32_t *numbers, size_t n, int64_t from_, int64_t to,
                    uint8_t *claimed)
    void cf_claim_add(int64_t *word, int64_t amount)


def claim(
    int64_t[::1] words not None,
    const uint32_t[::1] numbers not None,
    int64_t expected,
    int64_t wanted,
    uint8_t[::1] claimed not None,
):
    """Changes words from `expected` to `wanted`, each by one of all who try at once; claimed is 1
    where that was done, or had been. Returns how many."""
    cdef size_t n = <size_t>numbers.shape[0], i, width = <size_t>words.shape[0], found
    if <size_t>claimed.shape[0] != n:
        raise ValueError("claimed must have the length of numbers")
    for i in range(n):
        if numbers[i] >= width:
            raise ValueError("a number is beyond the words")
    if n == 0:
        return 0
    with nogil:
        found = cf_claim(&words[0], &numbers[0], n, expected, wanted, &claimed[0])
    return found


def claim_add(int64_t[::1] words not None, size_t place, int64_t amount):
    """Adds to a word that others add to."""
    if place >= <size_t>words.shape[0]:
        raise ValueError("place is beyond the words")
    cf_claim_add(&words[place], amount)
