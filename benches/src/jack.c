/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * JACK's ring buffer of bytes, in shared memory: its public structure is set up here.
 */

#include <jack/ringbuffer.h>
#include "work.h"

struct queue {
    jack_ringbuffer_t *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast || w->mpmc) cannot("one producer, one consumer");
    q->at = (jack_ringbuffer_t *)shared_memory(sizeof *q->at);
    q->at->size = w->capacity * w->item; /* one byte less fits */
    q->at->size_mask = q->at->size - 1;
    q->at->buf = (char *)shared_memory(q->at->size);
    if (q->at->size & q->at->size_mask) cannot("powers of two only");
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    size_t fits = jack_ringbuffer_write_space(q->at) / size;
    if (fits < n) n = fits;
    if (n) jack_ringbuffer_write(q->at, (const char *)items, n * size);
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    size_t there = jack_ringbuffer_read_space(q->at) / size;
    if (there < n) n = there;
    if (n) jack_ringbuffer_read(q->at, (char *)items, n * size);
    return n;
}

#define QUEUE_IN_PLACE

static inline void *queue_reserve(struct queue *q, size_t size) {
    jack_ringbuffer_data_t run[2];
    jack_ringbuffer_get_write_vector(q->at, run);
    return run[0].len + run[1].len >= size ? run[0].buf : NULL; /* items never straddle the end */
}

static inline void queue_commit(struct queue *q, size_t size) {
    jack_ringbuffer_write_advance(q->at, size);
}

static inline const void *queue_peek(struct queue *q, size_t size) {
    jack_ringbuffer_data_t run[2];
    jack_ringbuffer_get_read_vector(q->at, run);
    return run[0].len + run[1].len >= size ? run[0].buf : NULL;
}

static inline void queue_release(struct queue *q, size_t size) {
    jack_ringbuffer_read_advance(q->at, size);
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
