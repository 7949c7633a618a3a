/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * nng (nanomsg next generation), push0 to pull0 over ipc.
 */

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include "work.h"

struct queue {
    char path[64];
    int buffered;
    nng_socket socket;
};

static void must(const char *call, int result) {
    if (!result) return;
    fprintf(stderr, "%s: %s\n", call, nng_strerror(result));
    exit(1);
}

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->broadcast) cannot("its pub/sub drops what a slow reader misses");
    if (w->mpmc && w->producers + w->consumers > 2) cannot("one producer, one consumer");
    snprintf(q->path, sizeof q->path, "ipc:///tmp/bench.%d.%u.nng", (int)getpid(), index);
    q->buffered = w->capacity < 8192 ? (int)w->capacity : 8192; /* its limit */
}

static void queue_attach(struct queue *q, int pops) {
    if (pops) {
        must("nng_pull0_open", nng_pull0_open(&q->socket));
        int result; /* the listener may not be there yet */
        while ((result = nng_dial(q->socket, q->path, NULL, 0)) == NNG_ECONNREFUSED ||
               result == NNG_ENOENT)
            usleep(1000);
        must("nng_dial", result);
        return;
    }
    must("nng_push0_open", nng_push0_open(&q->socket));
    nng_socket_set_int(q->socket, NNG_OPT_SENDBUF, q->buffered);
    must("nng_listen", nng_listen(q->socket, q->path, NULL, 0));
}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++)
        must("nng_send", nng_send(q->socket, (char *)(uintptr_t)items + i * size, size, 0));
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)n;
    must("nng_recv", nng_recv(q->socket, items, &size, 0));
    return 1;
}

static void queue_leave(struct queue *q, int side) {
    (void)side;
    nng_close(q->socket);
}

static void queue_remove(struct queue *q) { unlink(q->path + strlen("ipc://")); }

#include "loop.h"
