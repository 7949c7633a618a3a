/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ZeroMQ, PUSH to PULL over ipc; for broadcast PUB to SUB, told to block rather than to drop.
 */

#include <zmq.h>
#include "work.h"

struct queue {
    char path[64];
    int hwm, broadcast;
    unsigned readers;
    void *context, *socket;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->mpmc && w->producers + w->consumers > 2) cannot("one producer, one consumer");
    snprintf(q->path, sizeof q->path, "ipc:///tmp/bench.%d.%u.zmq", (int)getpid(), index);
    q->hwm = (int)w->capacity;
    q->broadcast = w->broadcast;
    q->readers = w->consumers;
}

static void queue_attach(struct queue *q, int pops) {
    q->context = zmq_ctx_new();
    int types[] = {ZMQ_PUSH, ZMQ_PULL, ZMQ_XPUB, ZMQ_SUB}, yes = 1;
    q->socket = zmq_socket(q->context, types[q->broadcast * 2 + pops]);
    zmq_setsockopt(q->socket, pops ? ZMQ_RCVHWM : ZMQ_SNDHWM, &q->hwm, sizeof q->hwm);
    if (pops) {
        if (q->broadcast) zmq_setsockopt(q->socket, ZMQ_SUBSCRIBE, "", 0);
        if (zmq_connect(q->socket, q->path) < 0) fail("zmq_connect");
        return;
    }
    if (q->broadcast) zmq_setsockopt(q->socket, ZMQ_XPUB_NODROP, &yes, sizeof yes);
    if (q->broadcast) zmq_setsockopt(q->socket, ZMQ_XPUB_VERBOSE, &yes, sizeof yes);
    if (zmq_bind(q->socket, q->path) < 0) fail("zmq_bind");
    char told[8]; /* every subscription is announced to the publisher */
    for (unsigned i = 0; q->broadcast && i < q->readers; i++)
        if (zmq_recv(q->socket, told, sizeof told, 0) < 0) fail("zmq_recv");
}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (zmq_send(q->socket, (const char *)items + i * size, size, 0) < 0) fail("zmq_send");
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)n;
    if (zmq_recv(q->socket, items, size, 0) != (int)size) fail("zmq_recv");
    return 1;
}

static void queue_leave(struct queue *q, int side) {
    (void)side;
    zmq_close(q->socket); /* what was sent is still delivered */
    zmq_ctx_term(q->context);
}

static void queue_remove(struct queue *q) { unlink(q->path + strlen("ipc://")); }

#include "loop.h"
