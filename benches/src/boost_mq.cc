/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Boost.Interprocess message_queue: a mutex, two condition variables, priorities. Blocks.
 */

#include <boost/interprocess/ipc/message_queue.hpp>
#include "work.h"

namespace ipc = boost::interprocess;

struct queue {
    ipc::message_queue *at;
    char name[64];
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->broadcast) cannot("no broadcast");
    snprintf(q->name, sizeof q->name, "bench.%d.%u", (int)getpid(), index);
    q->at = new ipc::message_queue(ipc::create_only, q->name, w->capacity, w->item);
}

static void queue_attach(struct queue *, int) {}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) q->at->send(static_cast<const char *>(items) + i * size, size, 0);
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t) {
    ipc::message_queue::size_type got;
    unsigned priority;
    q->at->receive(items, size, got, priority);
    return 1;
}

static void queue_leave(struct queue *, int) {}
static void queue_remove(struct queue *q) { ipc::message_queue::remove(q->name); }

#include "loop.h"
