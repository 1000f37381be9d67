/* Replays inputs through LLVMFuzzerTestOneInput, then mutations of them: for compilers without
 * libFuzzer, and for tests, since the same arguments always run the same inputs.
 *
 *     driver EXECUTIONS SEED [FILE-OR-FOLDER...]
 *     driver --write-seeds FOLDER
 *
 * EXECUTIONS counts the mutations; with an `s` behind it, the seconds to go on for. An input that
 * fails, crashes or takes longer than a minute is left in $FUZZ_FOUND, a folder, or here.
 *
 * Exits with 0: nothing found; 1: a finding; 2: usage, or an input that cannot be read.
 */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { MAX_SIZE = 1 << 14, SECONDS_AN_INPUT = 60 };

typedef struct {
    uint8_t *bytes;
    size_t n;
} input;

typedef struct {
    input *inputs;
    size_t n, room;
} input_list;

static uint64_t state;

static size_t below(size_t n) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return n == 0 ? 0 : (size_t)((z ^ z >> 31) % n);
}

/* ---- leaving the input of a finding behind ---- */

static const uint8_t *current_bytes;
static size_t current_n;
static char found_path[4096];

static void keep_current(void) {
    const int file = open(found_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    size_t done = 0;
    while (file >= 0 && done < current_n) {
        const ssize_t n = write(file, current_bytes + done, current_n - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (file >= 0 && done == current_n) {
        static const char SAYS[] = "driver: the input is in ";
        (void)!write(2, SAYS, sizeof SAYS - 1);
        (void)!write(2, found_path, strlen(found_path));
        (void)!write(2, "\n", 1);
    }
}

static void on_alarm(int number) {
    (void)number;
    static const char SAYS[] = "driver: an input takes too long\n";
    (void)!write(2, SAYS, sizeof SAYS - 1);
    keep_current();
    _exit(1);
}

/* The sanitizers' runtimes, where they are linked; gcc has two that know nothing of each other, so
 * the one aborts and the other sees that. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "handle_abort=1:exitcode=1"; }
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void on_abort(int number) {
    (void)number;
    keep_current();
    _exit(1);
}

static void watch(const char *program) {
    const char *folder = getenv("FUZZ_FOUND"), *name = strrchr(program, '/');
    snprintf(found_path, sizeof found_path, "%s/%s-%ld", folder != NULL ? folder : ".",
             name != NULL ? name + 1 : program, (long)getpid());
    struct sigaction action = {0};
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(keep_current);
    } else {
        action.sa_handler = on_abort;
        sigaction(SIGABRT, &action, NULL);
        sigaction(SIGSEGV, &action, NULL);
    }
}

static void run(const uint8_t *bytes, size_t n) {
    uint8_t *exact = copy_exactly(bytes, n); /* a target must not read past its input either */
    current_bytes = exact;
    current_n = n;
    LLVMFuzzerTestOneInput(exact, n);
    CHECK(same_bytes(exact, bytes, n)); /* nor write to it */
    free(exact);
}

/* ---- the corpus ---- */

static void fail(const char *what) {
    fprintf(stderr, "driver: cannot read %s\n", what);
    exit(2);
}

static void add(input_list *corpus, const uint8_t *bytes, size_t n) {
    if (corpus->n == corpus->room) {
        corpus->room = 2 * corpus->room + 16;
        corpus->inputs = realloc(corpus->inputs, corpus->room * sizeof *corpus->inputs);
        if (corpus->inputs == NULL)
            fail("so many inputs");
    }
    corpus->inputs[corpus->n++] = (input){copy_exactly(bytes, n), n};
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_path(input_list *corpus, const char *path);

/* In the order of names, which is the same on every machine. */
static void add_folder(input_list *corpus, const char *path) {
    char **names = NULL;
    size_t n = 0;
    DIR *folder = opendir(path);
    if (folder == NULL)
        fail(path);
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (entry->d_name[0] == '.')
            continue;
        const size_t length = strlen(path) + strlen(entry->d_name) + 2;
        names = realloc(names, (n + 1) * sizeof *names);
        if (names == NULL)
            fail(path);
        names[n] = exactly(length);
        snprintf(names[n++], length, "%s/%s", path, entry->d_name);
    }
    closedir(folder);
    if (n != 0)
        qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        add_path(corpus, names[i]);
        free(names[i]);
    }
    free(names);
}

static void add_path(input_list *corpus, const char *path) {
    static uint8_t bytes[MAX_SIZE];
    struct stat what;
    if (stat(path, &what) == 0 && S_ISDIR(what.st_mode)) {
        add_folder(corpus, path);
        return;
    }
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail(path);
    add(corpus, bytes, fread(bytes, 1, MAX_SIZE, file));
    fclose(file);
}

static void add_seeds(input_list *corpus) {
    static uint8_t bytes[MAX_SIZE];
    for (size_t i = 0; fuzz_seed != NULL; i++) {
        const size_t n = fuzz_seed(i, bytes, sizeof bytes);
        if (n == 0)
            break;
        add(corpus, bytes, n);
    }
}

static int write_seeds(const char *folder) {
    input_list corpus = {NULL, 0, 0};
    add_seeds(&corpus);
    for (size_t i = 0; i < corpus.n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/seed-%03zu", folder, i);
        FILE *file = fopen(path, "wb");
        if (file == NULL ||
            fwrite(corpus.inputs[i].bytes, 1, corpus.inputs[i].n, file) != corpus.inputs[i].n) {
            fprintf(stderr, "driver: cannot write %s\n", path);
            return 2;
        }
        fclose(file);
        free(corpus.inputs[i].bytes);
    }
    free(corpus.inputs);
    return 0;
}

/* ---- mutations ---- */

/* Headers are short and decide the most: every other change goes to the front. */
static size_t place(size_t n) { return below(2) != 0 || n < 96 ? below(n) : below(96); }

/* Replaces [at, at + cut) by n bytes, as far as there is room. */
static void replace(input *in, size_t at, size_t cut, const uint8_t *bytes, size_t n) {
    if (in->n - cut + n > MAX_SIZE)
        return;
    memmove(in->bytes + at + n, in->bytes + at + cut, in->n - at - cut);
    if (n != 0)
        memcpy(in->bytes + at, bytes, n);
    in->n = in->n - cut + n;
}

/* Changes that keep the length: what follows a header stays where the header says. */
static void change_in_place(input *in) {
    static const uint64_t NUMBERS[] = {0,          1,          2,         7,
                                       8,          31,         32,        63,
                                       64,         127,        128,       255,
                                       256,        32767,      65535,     0x7fffffff,
                                       0x80000000, 0xffffffff, INT64_MAX, (uint64_t)INT64_MIN,
                                       UINT64_MAX};
    const size_t at = place(in->n), rest = in->n - at;
    uint8_t copy[64];
    switch (below(6)) {
    case 0:
        in->bytes[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        in->bytes[at] = (uint8_t)below(256);
        break;
    case 2:
        in->bytes[at] = (uint8_t)(in->bytes[at] + below(9) - 4);
        break;
    case 3: { /* a small or extreme number, 1 to 8 bytes */
        const uint64_t number = NUMBERS[below(sizeof NUMBERS / sizeof *NUMBERS)];
        const size_t n = (size_t)1 << below(4);
        memcpy(in->bytes + at, &number, n < rest ? n : rest);
        break;
    }
    case 4: /* a byte seen elsewhere */
        in->bytes[at] = in->bytes[below(in->n)];
        break;
    default: { /* a piece seen elsewhere */
        const size_t from = below(in->n), most = in->n - (from > at ? from : at);
        const size_t n = 1 + below(most < sizeof copy ? most : sizeof copy);
        memcpy(copy, in->bytes + from, n);
        memcpy(in->bytes + at, copy, n);
    }
    }
}

static void change_length(input *in, const input_list *corpus, size_t n_words) {
    uint8_t copy[32];
    const size_t at = below(in->n + 1), rest = in->n - at;
    const size_t length = rest != 0 ? 1 + below(rest < sizeof copy ? rest : sizeof copy) : 0;
    switch (below(n_words != 0 ? 6 : 4)) {
    case 0:
        replace(in, at, length, NULL, 0);
        break;
    case 1: /* a piece of itself, somewhere else */
        memcpy(copy, in->bytes + at, length);
        replace(in, below(in->n + 1), 0, copy, length);
        break;
    case 2: { /* a piece of another input */
        const input *other = &corpus->inputs[below(corpus->n)];
        const size_t from = below(other->n + 1);
        const size_t n = below((other->n - from < 64 ? other->n - from : 64) + 1);
        replace(in, at, below(2) != 0 ? length : 0, other->bytes + from, n);
        break;
    }
    case 3: /* cut the end off */
        if (below(4) == 0)
            in->n = at;
        break;
    default: {
        const char *word = fuzz_words[below(n_words)];
        const size_t n = *word != 0 ? strlen(word) : 1;
        replace(in, at, below(2) != 0 ? length : 0, (const uint8_t *)word, n);
    }
    }
}

static void mutate(input *in, const input_list *corpus, size_t n_words) {
    const input *seed = &corpus->inputs[below(corpus->n)];
    const int keep_length = n_words == 0 && below(4) != 0; /* binary formats say their length */
    in->n = seed->n;
    if (seed->n != 0)
        memcpy(in->bytes, seed->bytes, seed->n);
    for (size_t left = 1 + below(keep_length ? 4 : 8); left != 0; left--) {
        if (in->n != 0 && (keep_length || below(3) == 0))
            change_in_place(in);
        else
            change_length(in, corpus, n_words);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0)
        return write_seeds(argv[2]);
    char *unit = NULL, *rest = NULL;
    const unsigned long long amount = argc >= 3 ? strtoull(argv[1], &unit, 10) : 0;
    const unsigned long long seed = argc >= 3 ? strtoull(argv[2], &rest, 10) : 0;
    if (argc < 3 || *argv[1] == 0 || *argv[2] == 0 || *rest != 0 ||
        (*unit != 0 && strcmp(unit, "s") != 0)) {
        fprintf(stderr, "usage: driver EXECUTIONS|SECONDSs SEED [FILE-OR-FOLDER...]\n");
        return 2;
    }
    const unsigned long long most = *unit != 0 ? UINT64_MAX : amount;
    const double seconds = *unit != 0 ? (double)amount : 1e300;
    state = seed;
    size_t n_words = 0;
    while (fuzz_words != NULL && fuzz_words[n_words] != NULL)
        n_words++;
    input_list corpus = {NULL, 0, 0};
    add_seeds(&corpus);
    for (int i = 3; i < argc; i++)
        add_path(&corpus, argv[i]);
    if (corpus.n == 0)
        add(&corpus, NULL, 0);

    watch(argv[0]);
    const double start = now();
    double spent = 0;
    unsigned long long done = 0;
    for (size_t i = 0; i < corpus.n; i++) {
        alarm(SECONDS_AN_INPUT);
        run(corpus.inputs[i].bytes, corpus.inputs[i].n);
    }
    input in = {exactly(MAX_SIZE), 0};
    for (; done < most && spent < seconds; done++) {
        if (done % 256 == 0) { /* the clock is not asked for every input */
            alarm(SECONDS_AN_INPUT);
            spent = now() - start;
        }
        mutate(&in, &corpus, n_words);
        run(in.bytes, in.n);
    }
    alarm(0);
    current_n = 0;
    spent = now() - start;
    printf("%llu executions, %.0f exec/s\n", done + corpus.n,
           (double)(done + corpus.n) / (spent > 0 ? spent : 1));
    for (size_t i = 0; i < corpus.n; i++)
        free(corpus.inputs[i].bytes);
    free(corpus.inputs);
    free(in.bytes);
    return 0;
}
