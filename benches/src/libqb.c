/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libqb's ring buffer, without its semaphore, which is its faster form. It holds bytes, in chunks
 * with a header.
 */

#include <qb/qbrb.h>
#include "work.h"

struct queue {
    qb_ringbuffer_t *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->broadcast || w->mpmc) cannot("one producer, one consumer");
    char name[64];
    snprintf(name, sizeof name, "bench.%d.%u", (int)getpid(), index);
    q->at = qb_rb_open(name, w->capacity * (w->item + 8),
                       QB_RB_FLAG_CREATE | QB_RB_FLAG_SHARED_PROCESS | QB_RB_FLAG_NO_SEMAPHORE, 0);
    if (!q->at) fail("qb_rb_open");
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    size_t done = 0;
    while (done < n && qb_rb_chunk_write(q->at, (const char *)items + done * size, size) > 0) done++;
    return done;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    size_t done = 0;
    while (done < n && qb_rb_chunk_read(q->at, (char *)items + done * size, size, 0) > 0) done++;
    return done;
}

#define QUEUE_IN_PLACE

static inline void *queue_reserve(struct queue *q, size_t size) {
    return qb_rb_chunk_alloc(q->at, size);
}

static inline void queue_commit(struct queue *q, size_t size) {
    if (qb_rb_chunk_commit(q->at, size) < 0) fail("qb_rb_chunk_commit");
}

static inline const void *queue_peek(struct queue *q, size_t size) {
    void *at = NULL;
    return qb_rb_chunk_peek(q->at, &at, 0) == (ssize_t)size ? at : NULL;
}

static inline void queue_release(struct queue *q, size_t size) {
    (void)size;
    qb_rb_chunk_reclaim(q->at);
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { qb_rb_close(q->at); }

#include "loop.h"
