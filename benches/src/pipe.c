/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A kernel pipe; with -DSOCKETPAIR a Unix stream socket pair. Both block, and move bytes.
 */

#include <fcntl.h>
#include <sys/socket.h>
#include "work.h"

struct queue {
    int ends[2]; /* read from the first, write to the second */
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    int bytes = (int)(w->capacity * w->item);
#ifdef SOCKETPAIR
    if (w->mpmc && w->item > 8) cannot("items could be torn");
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, q->ends) < 0) fail("socketpair");
    setsockopt(q->ends[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
#else
    if (w->mpmc && w->item > 4096) cannot("items could be torn");
    if (pipe(q->ends) < 0) fail("pipe");
    /* As large as the ring where the system allows it. */
    if (bytes > 1 << 20) bytes = 1 << 20;
    if (bytes > 1 << 16) fcntl(q->ends[1], F_SETPIPE_SZ, bytes);
#endif
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t done = 0; done < n * size;) {
        ssize_t wrote = write(q->ends[1], (const char *)items + done, n * size - done);
        if (wrote < 0) fail("write");
        done += (size_t)wrote;
    }
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    size_t got = 0;
    do {
        size_t most = got ? (got + size - 1) / size * size : n * size;
        ssize_t result = read(q->ends[0], (char *)items + got, most - got);
        if (result <= 0) fail("read");
        got += (size_t)result;
    } while (got % size);
    return got / size;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
