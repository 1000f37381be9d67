#include "cf_status.h"

static const char *const TEXTS[CF_N_CODES] = {
#define CF_STATUS_TEXT(code, text) text,
    CF_STATUS_TABLE(CF_STATUS_TEXT)
#undef CF_STATUS_TEXT
};

const char *cf_strerror(cf_code code) {
    return (unsigned)code < CF_N_CODES ? TEXTS[code] : "unknown status";
}
