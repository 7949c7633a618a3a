/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The control of vyukov_control.h, called across its shared library as Madang is.
 */

#include "vyukov_control.h"
#include "work.h"

struct queue {
    vyukov *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    void *memory = shared_memory(vyukov_bytes(w->capacity, (uint32_t)w->item));
    q->at = vyukov_make(memory, w->capacity, (uint32_t)w->item);
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) vyukov_push(q->at, (const char *)items + i * size, -1);
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)size, (void)n;
    return vyukov_pop(q->at, items, -1) == 0;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
