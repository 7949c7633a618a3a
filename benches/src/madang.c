/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Madang, through libmadang.so. Compiled twice: waiting inside the library (MDG_FOREVER), and, with
 * -DNOWAIT, asked again by the caller.
 */

#include <fcntl.h>
#include <madang.h>
#include "work.h"

#ifdef NOWAIT
#define TIMEOUT MDG_NOWAIT
#else
#define TIMEOUT MDG_FOREVER
#endif

struct queue {
    mdg_ring *ring;
    char name[64];
};

static void check(const char *call, long result) {
    if (result >= 0) return;
    fprintf(stderr, "%s: %s\n", call, mdg_last_error());
    exit(1);
}

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = w->capacity};
    opts.item_size = (uint32_t)w->item;
    opts.kind = w->mpmc ? MDG_RING_MPMC : w->broadcast ? MDG_RING_BROADCAST : MDG_RING_SPSC;
    opts.policy = w->stopproof ? MDG_RING_STOPPROOF : 0;
    snprintf(q->name, sizeof q->name, "bench.%d.%u", (int)getpid(), index);
    int result = mdg_ring_open(&q->ring, q->name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (result == -ENOSYS || result == -EINVAL) cannot("not in this build: %s", mdg_last_error());
    check("mdg_ring_open", result);
    mdg_ring_close(q->ring);
}

static void queue_attach(struct queue *q, int side) {
    check("mdg_ring_open", mdg_ring_open(&q->ring, q->name, NULL, side ? O_RDONLY : O_WRONLY, 0));
}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    (void)size;
    ssize_t result;
    if (n == 1) {
        result = mdg_ring_push(q->ring, items, TIMEOUT);
        if (__builtin_expect(result == 0, 1)) return 1;
    } else {
        result = mdg_ring_push_many(q->ring, items, n, TIMEOUT);
        if (__builtin_expect(result > 0, 1)) return (size_t)result;
    }
    if (result != -EAGAIN) check("push", result);
    return 0;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)size;
    ssize_t result;
    if (n == 1) {
        result = mdg_ring_pop(q->ring, items, TIMEOUT);
        if (__builtin_expect(result == 0, 1)) return 1;
    } else {
        result = mdg_ring_pop_many(q->ring, items, n, TIMEOUT);
        if (__builtin_expect(result > 0, 1)) return (size_t)result;
    }
    if (result != -EAGAIN) check("pop", result);
    return 0;
}

#define QUEUE_IN_PLACE

static inline void *queue_reserve(struct queue *q, size_t size) {
    void *at = NULL;
    (void)size;
    ssize_t result = mdg_ring_reserve(q->ring, &at, 1, TIMEOUT);
    if (result < 0 && result != -EAGAIN) check("mdg_ring_reserve", result);
    return at;
}

static inline void queue_commit(struct queue *q, size_t size) {
    (void)size;
    check("mdg_ring_commit", mdg_ring_commit(q->ring, 1));
}

static inline const void *queue_peek(struct queue *q, size_t size) {
    const void *at = NULL;
    (void)size;
    ssize_t result = mdg_ring_peek(q->ring, &at, 1, TIMEOUT);
    if (result < 0 && result != -EAGAIN) check("mdg_ring_peek", result);
    return at;
}

static inline void queue_release(struct queue *q, size_t size) {
    (void)size;
    check("mdg_ring_release", mdg_ring_release(q->ring, 1));
}

static void queue_leave(struct queue *q, int side) {
    (void)side;
    mdg_ring_close(q->ring);
}

static void queue_remove(struct queue *q) {
    mdg_ring_unlink(q->name);
}

#include "loop.h"
