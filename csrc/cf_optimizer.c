#include "cf_optimizer.h"

static float first_state(cf_optimizer optimizer, size_t member) {
    return optimizer.kind == CF_ADAGRAD && member == 1 ? optimizer.initial : 0.0f;
}

void cf_optimizer_clear(cf_optimizer optimizer, float *state, size_t n) {
    const size_t width = cf_optimizer_width(optimizer.kind);
    for (size_t i = 0; i < n; i++)
        for (size_t member = 0; member < width; member++)
            state[i * width + member] = first_state(optimizer, member);
}

void cf_optimizer_set(cf_optimizer optimizer, float *state, float w) {
    cf_optimizer_clear(optimizer, state, 1);
    if (optimizer.kind == CF_FTRL) /* the z that gives this weight back */
        w *= -(optimizer.initial / optimizer.learning_rate);
    state[0] = w;
}

void cf_optimizer_weights(cf_optimizer optimizer, const float *state, size_t n,
                          cf_penalties penalties, double rows_seen, float *weights) {
    const size_t width = cf_optimizer_width(optimizer.kind);
    for (size_t i = 0; i < n; i++) {
        const cf_penalty due = cf_penalty_due(penalties, i, (float)rows_seen);
        weights[i] = cf_optimizer_weight(optimizer, state + i * width, due);
    }
}
