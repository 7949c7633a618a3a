/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Concurrency Kit's ck_ring, with items of a type of each size. It moves one item per call; a batch
 * is a loop of calls.
 */

#include <stdbool.h>
#include <ck_ring.h>
#include "work.h"

#define SIZES_HERE(X) X(8) X(64) X(256) X(1024) X(4096) X(65536)
#define TYPE(S) \
    struct item##S { uint64_t words[S / 8]; }; \
    CK_RING_PROTOTYPE(b##S, item##S)
SIZES_HERE(TYPE)

struct queue {
    ck_ring_t *ring;
    char *buffer;
    int many;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    q->ring = (ck_ring_t *)shared_memory(sizeof *q->ring + LINE);
    q->buffer = (char *)shared_memory(w->capacity * w->item);
    q->many = w->mpmc;
    ck_ring_init(q->ring, (unsigned)w->capacity); /* one less fits */
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline __attribute__((always_inline))
size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    size_t done = 0;
    for (bool fits = true; done < n; done++) {
        const char *item = (const char *)items + done * size;
        switch (size) {
#define PUSH(S) case S: { \
            struct item##S *at = (struct item##S *)(uintptr_t)item; \
            struct item##S *in = (struct item##S *)(void *)q->buffer; \
            fits = q->many ? CK_RING_ENQUEUE_MPMC(b##S, q->ring, in, at) \
                           : CK_RING_ENQUEUE_SPSC(b##S, q->ring, in, at); \
            break; }
        SIZES_HERE(PUSH)
        }
        if (!fits) break;
    }
    return done;
}

static inline __attribute__((always_inline))
size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    size_t done = 0;
    for (bool got = true; done < n; done++) {
        char *item = (char *)items + done * size;
        switch (size) {
#define POP(S) case S: { \
            struct item##S *at = (struct item##S *)(void *)item; \
            struct item##S *in = (struct item##S *)(void *)q->buffer; \
            got = q->many ? CK_RING_DEQUEUE_MPMC(b##S, q->ring, in, at) \
                          : CK_RING_DEQUEUE_SPSC(b##S, q->ring, in, at); \
            break; }
        SIZES_HERE(POP)
        }
        if (!got) break;
    }
    return done;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
