/* SPDX-License-Identifier: 0BSD
 *
 * What ring_producer and ring_consumer must agree on: the item, and how many
 * of them the ring is asked to hold.
 */
#ifndef RING_ITEM_H
#define RING_ITEM_H

#include <madang.h>

#define BUFFER_SIZE 10

struct item {
    int value;
};

static const mdg_ring_opts ring_of_items = {
    .size = sizeof(mdg_ring_opts),
    .capacity = BUFFER_SIZE,
    .item_size = sizeof(struct item),
};

#endif
