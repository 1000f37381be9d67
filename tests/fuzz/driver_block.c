/* Runs a fuzz target on mutated seeds where no fuzzing engine is at hand:
 *
 *     driver SEED COUNT FILE...
 *
 * Each run takes a file, changes a few places (bits, bytes, small and extreme numbers, cuts,
 * copies) and calls LLVMFuzzerTestOneInput. SEED and the files decide everything; COUNT 0 only
 * replays. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint64_t state;

static uint64_t next_random(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t below(size_t n) { return n == 0 ? 0 : (size_t)(next_random() % n); }

typedef struct {
    uint8_t *bytes;
    size_t n;
} input;

static input read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    input in = {NULL, 0};
    for (size_t got = 1; got != 0; in.n += got) {
        in.bytes = realloc(in.bytes, in.n + 65536);
        if (in.bytes == NULL)
            exit(2);
        got = fread(in.bytes + in.n, 1, 65536, file);
    }
    fclose(file);
    return in;
}

/* Where a change goes: headers are short and decide the most, so half of them go to the front of
 * the input or just behind the length that its first two bytes give. */
static size_t place(const uint8_t *bytes, size_t n) {
    const size_t second = n >= 2 ? 2 + (size_t)(bytes[0] | bytes[1] << 8) : 0;
    switch (below(4)) {
    case 0:
        return below(n < 74 ? n : 74);
    case 1:
        return second < n ? second + below(n - second < 72 ? n - second : 72) : below(n);
    default:
        return below(n);
    }
}

static size_t mutate(uint8_t *bytes, size_t n) {
    static const uint32_t NUMBERS[] = {0,  1,   2,   7,     8,          31,
                                       32, 255, 256, 65535, 0x7fffffff, 0xffffffff};
    const size_t p = place(bytes, n);
    uint32_t number;
    switch (below(6)) {
    case 0:
        bytes[p] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        bytes[p] = (uint8_t)next_random();
        break;
    case 2:
        number = NUMBERS[below(sizeof NUMBERS / sizeof *NUMBERS)];
        memcpy(bytes + p, &number, n - p < 4 ? n - p : 4);
        break;
    case 3:
        bytes[p] = (uint8_t)(bytes[p] + below(9) - 4);
        break;
    case 4: {
        const size_t from = below(n), most = n - (from > p ? from : p);
        memmove(bytes + p, bytes + from, below(most < 16 ? most + 1 : 16));
        break;
    }
    default:
        if (below(8) == 0)
            n = p + 1;
        else
            bytes[p] ^= 0xff;
    }
    return n;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s SEED COUNT FILE...\n", argv[0]);
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    const unsigned long long count = strtoull(argv[2], NULL, 10);
    const size_t n_files = (size_t)argc - 3;
    input *files = calloc(n_files, sizeof *files);
    if (files == NULL)
        return 2;
    for (size_t i = 0; i < n_files; i++) {
        files[i] = read_file(argv[3 + i]);
        LLVMFuzzerTestOneInput(files[i].bytes, files[i].n);
    }
    for (unsigned long long run = 0; run < count; run++) {
        const input seed = files[below(n_files)];
        if (seed.n == 0)
            continue;
        uint8_t *bytes = malloc(seed.n);
        if (bytes == NULL)
            return 2;
        memcpy(bytes, seed.bytes, seed.n);
        size_t n = seed.n;
        for (size_t changes = 1 + below(4); changes != 0; changes--)
            n = mutate(bytes, n);
        LLVMFuzzerTestOneInput(bytes, n);
        free(bytes);
    }
    for (size_t i = 0; i < n_files; i++)
        free(files[i].bytes);
    free(files);
    return 0;
}
