/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The Rust crate ipc-channel: see rust_peers/src/channel.rs.
 */

#include "work.h"

void *channel_make(void);
void channel_push(void *channel, const void *item, size_t size);
void channel_pop(void *channel, void *item, size_t size);

struct queue {
    void *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast || w->mpmc) cannot("one producer, one consumer");
    q->at = channel_make();
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) channel_push(q->at, (const char *)items + i * size, size);
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)n;
    channel_pop(q->at, items, size);
    return 1;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
