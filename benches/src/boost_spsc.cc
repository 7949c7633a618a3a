/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * boost::lockfree::spsc_queue, its slots in shared memory by way of an allocator.
 */

#include <boost/lockfree/spsc_queue.hpp>
#include <new>
#include "work.h"
#include "boost_shared.h"

template <size_t S>
using Queue = boost::lockfree::spsc_queue<Item<S>, boost::lockfree::allocator<Shared<Item<S>>>>;

struct queue {
    void *at;
};

#define SIZES_HERE(X) X(8) X(64) X(256) X(1024) X(4096) X(65536)

static void queue_make(struct queue *q, const struct work *w, unsigned) {
    if (w->broadcast || w->mpmc) cannot("one producer, one consumer");
    switch (w->item) {
#define MAKE(S) \
    case S: q->at = new (shared_memory(sizeof(Queue<S>))) Queue<S>(w->capacity); return;
    SIZES_HERE(MAKE)
    }
    cannot("no items of %zu bytes", w->item);
}

static void queue_attach(struct queue *, int) {}

static inline __attribute__((always_inline))
size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    switch (size) {
#define PUSH(S) \
    case S: { \
        auto *queue = static_cast<Queue<S> *>(q->at); \
        auto *from = static_cast<const Item<S> *>(items); \
        return n == 1 ? queue->push(*from) : queue->push(from, n); \
    }
    SIZES_HERE(PUSH)
    }
    return 0;
}

static inline __attribute__((always_inline))
size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    switch (size) {
#define POP(S) \
    case S: { \
        auto *queue = static_cast<Queue<S> *>(q->at); \
        auto *to = static_cast<Item<S> *>(items); \
        return n == 1 ? queue->pop(*to) : queue->pop(to, n); \
    }
    SIZES_HERE(POP)
    }
    return 0;
}

static void queue_leave(struct queue *, int) {}
static void queue_remove(struct queue *) {}

#include "loop.h"
