/* Bösen's published design on one machine: LibSVM text parsed by the worker threads, weights in
 * tables of rows that are locked one by one, stale values bounded by clocks, plain SGD.
 *
 *     bosen TRAIN TEST THREADS BATCH STALENESS RATE DECAY EPOCHS NUMBERS TARGET
 *
 * A thread keeps a cached copy of the table. In each mini-batch it learns row after row on its
 * copy and notes what it changed; at the end it adds that to the table, row by row under the row's
 * lock, and its clock advances. It may be STALENESS clocks ahead of the slowest thread, and reads a
 * row of its cache only if that is as old at most; else it copies the row again. The rate falls by
 * DECAY with every epoch. NUMBERS: "library", by strtol and strtod as published, or "digits", by
 * hand, which takes a fraction of the time.
 *
 * Petuum's Bösen has this as its application for logistic regression. In favour of it here: all
 * threads parse, not one; client and server are one process, so nothing is sent; changes are
 * sparse, where each mini-batch there sends and copies the whole table.
 *
 * Columns are divided by the root mean square of their stored values, as all learners that it is
 * compared with have them. Prints {"seconds", "rows", "loss"} ten times an epoch, on the test rows;
 * the clock stands still meanwhile, and began before the first byte of text was read.
 */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROW_COLUMNS = 1024, EVALUATIONS = 10, MOST_THREADS = 64 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "bosen: %s\n", what);
    exit(1);
}

static void *grown(void *old, size_t n_bytes) {
    void *p = realloc(old, n_bytes);
    if (p == NULL)
        die("out of memory");
    return p;
}

static void *zeroed(size_t n, size_t size) {
    void *p = calloc(n, size);
    if (p == NULL)
        die("out of memory");
    return p;
}

/* Rows of a part of the text. */
typedef struct {
    size_t n_rows, nnz, row_room, entry_room;
    float *labels;
    size_t *indptr;
    uint32_t *ids;
    float *values;
    uint32_t widest;
} rows;

static void room_for_row(rows *r) {
    if (r->n_rows + 1 >= r->row_room) {
        r->row_room = 2 * r->row_room + 1024;
        r->labels = grown(r->labels, r->row_room * sizeof *r->labels);
        r->indptr = grown(r->indptr, r->row_room * sizeof *r->indptr);
    }
}

static void add_entry(rows *r, uint32_t id, float value) {
    if (r->nnz == r->entry_room) {
        r->entry_room = 2 * r->entry_room + 16384;
        r->ids = grown(r->ids, r->entry_room * sizeof *r->ids);
        r->values = grown(r->values, r->entry_room * sizeof *r->values);
    }
    r->ids[r->nnz] = id;
    r->values[r->nnz++] = value;
    if (id >= r->widest)
        r->widest = id + 1;
}

static bool by_library;

static uint32_t whole_number(const char **p, const char *end) {
    const char *at = *p;
    uint32_t found = 0;
    if (by_library) {
        char *stop;
        found = (uint32_t)strtol(at, &stop, 10);
        at = stop;
    } else
        for (; at < end && *at >= '0' && *at <= '9'; at++)
            found = 10 * found + (uint32_t)(*at - '0');
    if (at == *p)
        die("the text is not as expected");
    *p = at;
    return found;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* A number at *p: digits by hand, what is more than that (exponents) by strtod. */
static double number(const char **p, const char *end) {
    if (by_library) {
        char *stop;
        double read = strtod(*p, &stop);
        *p = stop;
        return read;
    }
    static const double tenth[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10};
    const char *begin = *p, *at = begin;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    uint64_t digits = 0;
    int n = 0, after = 0;
    for (; at < end && is_digit(*at); at++, n++)
        digits = 10 * digits + (uint64_t)(*at - '0');
    if (at < end && *at == '.')
        for (at++; at < end && is_digit(*at); at++, after++, n++)
            digits = 10 * digits + (uint64_t)(*at - '0');
    if (n > 18 || after > 10 || (at < end && (*at == 'e' || *at == 'E'))) {
        char copy[64];
        size_t len =
            (size_t)(end - begin) < sizeof copy - 1 ? (size_t)(end - begin) : sizeof copy - 1;
        memcpy(copy, begin, len);
        copy[len] = 0;
        char *stop;
        double found = strtod(copy, &stop);
        *p = begin + (stop - copy);
        return found;
    }
    *p = at;
    double found = (double)digits / tenth[after];
    return negative ? -found : found;
}

static void parse(rows *r, const char *p, const char *end) {
    room_for_row(r);
    r->indptr[0] = 0;
    while (p < end) {
        room_for_row(r);
        r->labels[r->n_rows] = number(&p, end) > 0 ? 1.0f : 0.0f;
        while (p < end && *p != '\n') {
            if (*p == ' ') {
                p++;
                continue;
            }
            uint32_t id = whole_number(&p, end);
            if (p == end || *p != ':')
                die("the text is not as expected");
            p++;
            add_entry(r, id, (float)number(&p, end));
        }
        p++;
        r->indptr[++r->n_rows] = r->nnz;
    }
}

typedef struct {
    const char *begin, *end;
} text;

static text mapped(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0)
        die(path);
    char *p = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (p == MAP_FAILED || status.st_size == 0 || p[status.st_size - 1] != '\n')
        die(path); /* strtod must not read on behind the end */
    return (text){p, p + status.st_size};
}

/* The part of a text that is thread i's: from the beginning of a line to that of another. */
static text part(text whole, int i, int n) {
    const char *cuts[2];
    for (int k = 0; k < 2; k++) {
        const char *at = whole.begin + (whole.end - whole.begin) / n * (i + k);
        if (i + k == n)
            at = whole.end;
        else if (i + k > 0) {
            at = memchr(at, '\n', (size_t)(whole.end - at));
            at = at == NULL ? whole.end : at + 1;
        }
        cuts[k] = at;
    }
    return (text){cuts[0], cuts[1]};
}

typedef struct {
    pthread_mutex_t lock;
    float weights[ROW_COLUMNS];
} table_row;

static struct {
    int threads, batch, staleness, epochs;
    float rate, decay;
    double target;
    text train, test;
    rows parts[MOST_THREADS], held;
    uint32_t columns; /* the intercept's is the last */
    size_t table_rows;
    table_row *table;
    float *scale;
    double *squares;
    uint32_t *counts;
    pthread_barrier_t barrier;
    pthread_mutex_t clock_lock;
    pthread_cond_t clock_moved;
    int clocks[MOST_THREADS];
    double took, began;
    _Atomic size_t learnt;
    bool reached;
} all;

static int slowest(void) {
    int least = all.clocks[0];
    for (int i = 1; i < all.threads; i++)
        if (all.clocks[i] < least)
            least = all.clocks[i];
    return least;
}

static float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

static double test_loss(void) {
    double sum = 0;
    const rows *r = &all.held;
    uint32_t last = all.columns - 1;
    float intercept = all.table[last / ROW_COLUMNS].weights[last % ROW_COLUMNS];
    for (size_t i = 0; i < r->n_rows; i++) {
        float margin = intercept;
        for (size_t k = r->indptr[i]; k < r->indptr[i + 1]; k++)
            if (r->ids[k] < last)
                margin += all.table[r->ids[k] / ROW_COLUMNS].weights[r->ids[k] % ROW_COLUMNS] *
                          r->values[k] * all.scale[r->ids[k]];
        sum += softplus(r->labels[i] > 0 ? -margin : margin);
    }
    return sum / (double)r->n_rows;
}

/* What a thread has of its own. */
typedef struct {
    int number;
    float *cache, *change;
    int *copied_at; /* the clock that a cached row is as new as */
    uint32_t *next; /* of the changed columns of the same row */
    uint32_t *first;
    uint32_t *changed_rows;
    bool *changed;
    size_t n_changed;
    int clock;
} worker;

enum { NONE = UINT32_MAX };

static void refresh(worker *w, size_t row, int slowest_clock) {
    pthread_mutex_lock(&all.table[row].lock);
    memcpy(w->cache + row * ROW_COLUMNS, all.table[row].weights, sizeof all.table[row].weights);
    pthread_mutex_unlock(&all.table[row].lock);
    w->copied_at[row] = slowest_clock;
}

static void change(worker *w, uint32_t column, float by) {
    size_t row = column / ROW_COLUMNS;
    w->cache[column] += by;
    w->change[column] += by;
    if (w->changed[column])
        return;
    w->changed[column] = true;
    if (w->first[row] == NONE)
        w->changed_rows[w->n_changed++] = (uint32_t)row;
    w->next[column] = w->first[row];
    w->first[row] = column;
}

static void push(worker *w) {
    for (size_t i = 0; i < w->n_changed; i++) {
        uint32_t row = w->changed_rows[i];
        pthread_mutex_lock(&all.table[row].lock);
        for (uint32_t c = w->first[row]; c != NONE; c = w->next[c]) {
            all.table[row].weights[c % ROW_COLUMNS] += w->change[c];
            w->change[c] = 0;
            w->changed[c] = false;
        }
        pthread_mutex_unlock(&all.table[row].lock);
        w->first[row] = NONE;
    }
    w->n_changed = 0;
}

/* Advances the clock, waits for those too far behind, and returns the slowest's. */
static int tick(worker *w) {
    pthread_mutex_lock(&all.clock_lock);
    all.clocks[w->number] = ++w->clock;
    pthread_cond_broadcast(&all.clock_moved);
    int least;
    while ((least = slowest()) < w->clock - all.staleness)
        pthread_cond_wait(&all.clock_moved, &all.clock_lock);
    pthread_mutex_unlock(&all.clock_lock);
    return least;
}

static void learn(worker *w, const rows *r, size_t begin, size_t end, float rate, int least) {
    uint32_t last = all.columns - 1;
    for (size_t i = begin; i < end; i++) {
        float margin = 0;
        for (size_t k = r->indptr[i]; k <= r->indptr[i + 1]; k++) {
            bool entry = k < r->indptr[i + 1];
            uint32_t column = entry ? r->ids[k] : last;
            size_t row = column / ROW_COLUMNS;
            /* Within the bound; a row that was changed in this mini-batch was checked before. */
            if (w->copied_at[row] < w->clock - all.staleness && w->first[row] == NONE)
                refresh(w, row, least);
            margin += w->cache[column] * (entry ? r->values[k] : 1.0f);
        }
        float step = rate * (r->labels[i] - 1 / (1 + expf(-margin)));
        for (size_t k = r->indptr[i]; k < r->indptr[i + 1]; k++)
            change(w, r->ids[k], step * r->values[k]);
        change(w, last, step);
    }
}

/* One thread evaluates while the others wait and the clock stands still. */
static void evaluate(const worker *w) {
    pthread_barrier_wait(&all.barrier);
    if (w->number == 0) {
        all.took += now() - all.began;
        double loss = test_loss();
        printf("{\"seconds\": %.6f, \"rows\": %zu, \"loss\": %.6f}\n", all.took, (size_t)all.learnt,
               loss);
        fflush(stdout);
        all.reached = loss <= all.target;
        all.began = now();
    }
    pthread_barrier_wait(&all.barrier);
}

/* Columns by the root mean square of what is stored of them. */
static void scale_columns(const worker *w) {
    rows *mine = &all.parts[w->number];
    pthread_barrier_wait(&all.barrier);
    if (w->number == 0) {
        uint32_t widest = 0;
        for (int i = 0; i < all.threads; i++)
            if (all.parts[i].widest > widest)
                widest = all.parts[i].widest;
        all.columns = widest + 1;
        all.table_rows = all.columns / ROW_COLUMNS + 1;
        all.table = zeroed(all.table_rows, sizeof *all.table);
        for (size_t i = 0; i < all.table_rows; i++)
            pthread_mutex_init(&all.table[i].lock, NULL);
        all.scale = zeroed(all.columns, sizeof *all.scale);
        all.squares = zeroed((size_t)all.columns * (size_t)all.threads, sizeof *all.squares);
        all.counts = zeroed((size_t)all.columns * (size_t)all.threads, sizeof *all.counts);
    }
    pthread_barrier_wait(&all.barrier);
    double *squares = all.squares + (size_t)all.columns * (size_t)w->number;
    uint32_t *counts = all.counts + (size_t)all.columns * (size_t)w->number;
    for (size_t k = 0; k < mine->nnz; k++) {
        squares[mine->ids[k]] += (double)mine->values[k] * mine->values[k];
        counts[mine->ids[k]]++;
    }
    pthread_barrier_wait(&all.barrier);
    if (w->number == 0) {
        for (uint32_t c = 0; c < all.columns; c++) {
            double sum = 0, n = 0;
            for (size_t i = 0; i < (size_t)all.threads; i++) {
                sum += all.squares[i * all.columns + c];
                n += all.counts[i * all.columns + c];
            }
            all.scale[c] = sum > 0 ? (float)sqrt(n / sum) : 1.0f;
        }
        free(all.squares);
        free(all.counts);
    }
    pthread_barrier_wait(&all.barrier);
    for (size_t k = 0; k < mine->nnz; k++)
        mine->values[k] *= all.scale[mine->ids[k]];
}

static void *work(void *number) {
    worker w = {.number = (int)(intptr_t)number};
    rows *mine = &all.parts[w.number];
    text own = part(all.train, w.number, all.threads);
    parse(mine, own.begin, own.end);
    scale_columns(&w);
    size_t room = all.table_rows * ROW_COLUMNS;
    w.cache = zeroed(room, sizeof *w.cache);
    w.change = zeroed(room, sizeof *w.change);
    w.changed = zeroed(room, sizeof *w.changed);
    w.next = zeroed(room, sizeof *w.next);
    w.copied_at = zeroed(all.table_rows, sizeof *w.copied_at);
    w.changed_rows = zeroed(all.table_rows, sizeof *w.changed_rows);
    w.first = zeroed(all.table_rows, sizeof *w.first);
    for (size_t i = 0; i < all.table_rows; i++)
        w.first[i] = NONE;
    float rate = all.rate;
    int least = 0;
    for (int epoch = 0; epoch < all.epochs && !all.reached; epoch++, rate *= all.decay) {
        for (size_t part_no = 0; part_no < EVALUATIONS && !all.reached; part_no++) {
            size_t end = mine->n_rows * (part_no + 1) / EVALUATIONS;
            for (size_t at = mine->n_rows * part_no / EVALUATIONS; at < end;) {
                size_t stop = at + (size_t)all.batch < end ? at + (size_t)all.batch : end;
                learn(&w, mine, at, stop, rate, least);
                push(&w);
                least = tick(&w);
                all.learnt += stop - at;
                at = stop;
            }
            /* Whoever has fewer mini-batches must not keep the others waiting. */
            pthread_mutex_lock(&all.clock_lock);
            all.clocks[w.number] = INT32_MAX;
            pthread_cond_broadcast(&all.clock_moved);
            pthread_mutex_unlock(&all.clock_lock);
            evaluate(&w);
            all.clocks[w.number] = w.clock;
            pthread_barrier_wait(&all.barrier);
        }
    }
    return NULL;
}

int main(int n, char **given) {
    if (n != 11)
        die("TRAIN TEST THREADS BATCH STALENESS RATE DECAY EPOCHS NUMBERS TARGET");
    all.threads = atoi(given[3]);
    all.batch = atoi(given[4]);
    all.staleness = atoi(given[5]);
    all.rate = (float)atof(given[6]);
    all.decay = (float)atof(given[7]);
    all.epochs = atoi(given[8]);
    by_library = strcmp(given[9], "library") == 0;
    all.target = atof(given[10]);
    if (all.threads < 1 || all.threads > MOST_THREADS || all.batch < 1 || all.staleness < 0)
        die("1 to 64 threads, mini-batches of at least a row, a staleness of at least 0");
    all.train = mapped(given[1]);
    all.test = mapped(given[2]);
    parse(&all.held, all.test.begin, all.test.end);
    pthread_barrier_init(&all.barrier, NULL, (unsigned)all.threads);
    pthread_mutex_init(&all.clock_lock, NULL);
    pthread_cond_init(&all.clock_moved, NULL);
    all.began = now();
    pthread_t threads[MOST_THREADS];
    for (intptr_t i = 0; i < all.threads; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            die("no more threads");
    for (int i = 0; i < all.threads; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
