/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * iceoryx2 publish/subscribe: see rust_peers/src/pubsub.rs. Items are always filled and read in
 * place, unless they come from the caller's memory.
 */

#include <stdbool.h>
#include "work.h"

void *pubsub_open(const char *name, size_t item, size_t capacity, size_t readers, bool pops);
void *pubsub_reserve(void *end);
void pubsub_commit(void *end);
const void *pubsub_peek(void *end);
void pubsub_release(void *end);
void pubsub_close(void *end);

struct queue {
    char name[64];
    size_t item, capacity, readers;
    void *ends[2];
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->mpmc) cannot("every subscriber gets every item");
    snprintf(q->name, sizeof q->name, "bench/%d/%u", (int)getpid(), index);
    q->item = w->item;
    q->capacity = w->capacity;
    q->readers = w->consumers;
}

static void queue_attach(struct queue *q, int side) {
    q->ends[side] = pubsub_open(q->name, q->item, q->capacity, q->readers, side);
    if (!q->ends[side]) cannot("no items of %zu bytes", q->item);
}

#define QUEUE_IN_PLACE

static inline void *queue_reserve(struct queue *q, size_t size) {
    (void)size;
    return pubsub_reserve(q->ends[0]);
}

static inline void queue_commit(struct queue *q, size_t size) {
    (void)size;
    pubsub_commit(q->ends[0]);
}

static inline const void *queue_peek(struct queue *q, size_t size) {
    (void)size;
    return pubsub_peek(q->ends[1]);
}

static inline void queue_release(struct queue *q, size_t size) {
    (void)size;
    pubsub_release(q->ends[1]);
}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) {
        memcpy(queue_reserve(q, size), (const char *)items + i * size, size);
        queue_commit(q, size);
    }
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    size_t done = 0;
    for (const void *at; done < n && (at = queue_peek(q, size)); done++) {
        memcpy((char *)items + done * size, at, size);
        queue_release(q, size);
    }
    return done;
}

static void queue_leave(struct queue *q, int side) { pubsub_close(q->ends[side]); }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
