/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * POSIX message queue. Its capacity is what the system allows, often 10 messages.
 */

#include <fcntl.h>
#include <mqueue.h>
#include "work.h"

struct queue {
    mqd_t at;
    char name[64];
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    if (w->broadcast) cannot("no broadcast");
    struct mq_attr attr = {.mq_maxmsg = (long)w->capacity, .mq_msgsize = (long)w->item};
    snprintf(q->name, sizeof q->name, "/bench.%d.%u", (int)getpid(), index);
    do { /* the largest that is allowed */
        q->at = mq_open(q->name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
        if (q->at >= 0) return;
        attr.mq_maxmsg = attr.mq_maxmsg > 16 ? attr.mq_maxmsg / 2 : attr.mq_maxmsg - 1;
    } while ((errno == EINVAL || errno == EMFILE) && attr.mq_maxmsg > 0);
    cannot("mq_open: %s", strerror(errno));
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (mq_send(q->at, (const char *)items + i * size, size, 0) < 0) fail("mq_send");
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)n;
    if (mq_receive(q->at, (char *)items, size, NULL) < 0) fail("mq_receive");
    return 1;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { mq_unlink(q->name); }

#include "loop.h"
