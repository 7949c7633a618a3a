/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * SysV message queue. Its capacity is in bytes, 16 KiB unless the system allows more.
 */

#include <sys/ipc.h>
#include <sys/msg.h>
#include "work.h"

struct message {
    long type;
    char bytes[65536];
};

struct queue {
    int id;
    struct message *message;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    if (w->item > 8192) cannot("messages of at most 8192 bytes");
    q->id = msgget(IPC_PRIVATE, 0600);
    if (q->id < 0) fail("msgget");
    struct msqid_ds attr;
    if (msgctl(q->id, IPC_STAT, &attr) == 0 && attr.msg_qbytes < w->capacity * w->item) {
        attr.msg_qbytes = w->capacity * w->item;
        (void)!msgctl(q->id, IPC_SET, &attr); /* needs a privilege; smaller without */
    }
    q->message = (struct message *)calloc(1, sizeof *q->message);
}

static void queue_attach(struct queue *q, int side) { (void)side; q->message->type = 1; }

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) {
        memcpy(q->message->bytes, (const char *)items + i * size, size);
        if (msgsnd(q->id, q->message, size, 0) < 0) fail("msgsnd");
    }
    return n;
}

static inline size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    (void)n;
    if (msgrcv(q->id, q->message, size, 0, 0) < 0) fail("msgrcv");
    memcpy(items, q->message->bytes, size);
    return 1;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { msgctl(q->id, IPC_RMID, NULL); }

#include "loop.h"
