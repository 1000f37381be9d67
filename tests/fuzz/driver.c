/* Replays files through LLVMFuzzerTestOneInput, then mutations of them: for compilers without
 * libFuzzer. The same arguments always run the same inputs.
 *
 *     driver SEED COUNT FILE...
 *
 * The input in progress is kept in $FUZZ_CRASH, if set, so that a crash leaves it behind.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const char *const fuzz_words[] __attribute__((weak)); /* ends with NULL; "" means a NUL */

enum { MAX_SIZE = 4096 };

typedef struct {
    uint8_t *bytes;
    size_t n;
} input;

static uint64_t state;

static size_t below(size_t n) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (size_t)((state * 0x2545f4914f6cdd1du) >> 33) % n;
}

static input load(const char *path) {
    FILE *file = fopen(path, "rb");
    input in = {malloc(MAX_SIZE), 0};
    if (!file || !in.bytes) {
        fprintf(stderr, "driver: cannot read %s\n", path);
        exit(2);
    }
    in.n = fread(in.bytes, 1, MAX_SIZE, file);
    fclose(file);
    return in;
}

/* Replaces [at, at + cut) by n bytes, as far as there is room. */
static void replace(input *in, size_t at, size_t cut, const uint8_t *bytes, size_t n) {
    if (in->n - cut + n > MAX_SIZE)
        return;
    memmove(in->bytes + at + n, in->bytes + at + cut, in->n - at - cut);
    if (n)
        memcpy(in->bytes + at, bytes, n);
    in->n = in->n - cut + n;
}

static void mutate(input *in, const input *corpus, size_t n_corpus, size_t n_words) {
    uint8_t copy[MAX_SIZE];
    const size_t at = below(in->n + 1);
    const size_t rest = in->n - at, length = rest ? below(rest < 32 ? rest : 32) + 1 : 0;
    switch (below(n_words ? 7 : 6)) {
    case 0: /* a bit */
        if (rest)
            in->bytes[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1: /* a byte, mostly one seen elsewhere in the input */
        if (rest)
            in->bytes[at] = below(4) ? in->bytes[below(in->n)] : (uint8_t)below(256);
        break;
    case 2:
        replace(in, at, length, NULL, 0);
        break;
    case 3: /* a piece of itself, somewhere else */
        memcpy(copy, in->bytes + at, length);
        replace(in, below(in->n + 1), 0, copy, length);
        break;
    case 4: { /* a piece of another file */
        const input *other = &corpus[below(n_corpus)];
        const size_t from = below(other->n + 1);
        const size_t n = other->n - from < 64 ? other->n - from : 64;
        replace(in, at, below(2) ? length : 0, other->bytes + from, n);
        break;
    }
    case 5: /* cut the end off */
        if (below(4) == 0)
            in->n = at;
        break;
    default: {
        const char *word = fuzz_words[below(n_words)];
        const size_t n = *word ? strlen(word) : 1;
        replace(in, at, below(2) ? length : 0, (const uint8_t *)word, n);
    }
    }
}

static void run(const input *in) {
    const char *path = getenv("FUZZ_CRASH");
    FILE *file = path ? fopen(path, "wb") : NULL;
    if (file) {
        fwrite(in->bytes, 1, in->n, file);
        fclose(file);
    }
    LLVMFuzzerTestOneInput(in->bytes, in->n);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: driver SEED COUNT FILE...\n");
        return 2;
    }
    state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
    const unsigned long long count = strtoull(argv[2], NULL, 10);
    const size_t n_corpus = (size_t)argc - 3;
    size_t n_words = 0;
    if (fuzz_words)
        while (fuzz_words[n_words])
            n_words++;
    input *corpus = malloc(n_corpus * sizeof *corpus);
    uint8_t *bytes = malloc(MAX_SIZE);
    if (!corpus || !bytes)
        return 2;
    for (size_t i = 0; i < n_corpus; i++) {
        corpus[i] = load(argv[3 + i]);
        run(&corpus[i]);
    }
    for (unsigned long long i = 0; i < count; i++) {
        const input *seed = &corpus[below(n_corpus)];
        input in = {bytes, seed->n};
        memcpy(bytes, seed->bytes, seed->n);
        for (size_t left = below(8) + 1; left > 0; left--)
            mutate(&in, corpus, n_corpus, n_words);
        run(&in);
    }
    printf("%llu inputs\n", count + n_corpus);
    for (size_t i = 0; i < n_corpus; i++)
        free(corpus[i].bytes);
    free(corpus);
    free(bytes);
    return 0;
}
