/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * boost::lockfree::queue with a fixed number of nodes in shared memory: many producers and
 * consumers, one item per call.
 */

#include <boost/lockfree/queue.hpp>
#include <new>
#include "work.h"
#include "boost_shared.h"

using Queue = boost::lockfree::queue<uint64_t, boost::lockfree::fixed_sized<true>,
                                     boost::lockfree::allocator<Shared<uint64_t>>>;

struct queue {
    Queue *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned) {
    if (w->broadcast) cannot("no broadcast");
    if (w->item != 8) cannot("items of 8 bytes only");
    if (w->capacity > 65534) cannot("at most 65534 items");
    q->at = new (shared_memory(sizeof(Queue) + LINE)) Queue(w->capacity);
}

static void queue_attach(struct queue *, int) {}

static inline size_t queue_push(struct queue *q, const void *items, size_t, size_t n) {
    auto *from = static_cast<const uint64_t *>(items);
    size_t done = 0;
    while (done < n && q->at->bounded_push(from[done])) done++;
    return done;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t, size_t n) {
    auto *to = static_cast<uint64_t *>(items);
    size_t done = 0;
    while (done < n && q->at->pop(to[done])) done++;
    return done;
}

static void queue_leave(struct queue *, int) {}
static void queue_remove(struct queue *) {}

#include "loop.h"
