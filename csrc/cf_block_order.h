/* cf_block_order.h -- a block's entries from the order of the tiers into that of the ids
 * (internal). */
#ifndef CF_BLOCK_ORDER_H
#define CF_BLOCK_ORDER_H

#include "cf_block.h"

/* Orders every row; 0 if an id is twice in one. scratch: 2 max_row words. */
int cf_block_order(const cf_block_header *header, cf_block_rows *rows, uint64_t *scratch);

#endif
