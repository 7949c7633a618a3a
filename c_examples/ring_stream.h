/* SPDX-License-Identifier: 0BSD
 *
 * What ring_send and ring_receive must agree on: a ring whose items are single
 * bytes. Both ends work in place on long runs of them, so the size of an item
 * costs nothing, and no run needs a length in front.
 */
#ifndef RING_STREAM_H
#define RING_STREAM_H

#include <madang.h>

enum {
    STREAM_SIZE = 256 * 1024, /* bytes the ring holds: small enough for a processor's cache */
    STREAM_RUN = 64 * 1024    /* bytes handed to one read() or write() at most */
};

static const mdg_ring_opts ring_of_bytes = {
    .size = sizeof(mdg_ring_opts),
    .capacity = STREAM_SIZE,
    .item_size = 1,
};

#endif
