/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * eventfd: carries one number at a time, so it takes part in round trips and idle waiting only. With
 * -DFUTEX the barest sleeping handover there is: a word, a flag and the futex call.
 */

#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include "work.h"

struct word {
    uint32_t full; /* the futex: 0 or 1 */
    uint64_t value;
};

struct queue {
    int fd;
    struct word *at;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (strcmp(w->name, "roundtrip") && strcmp(w->name, "idle")) cannot("one number at a time");
    if (w->item != 8) cannot("numbers only");
#ifdef FUTEX
    q->at = (struct word *)shared_memory(LINE);
#else
    q->fd = eventfd(0, 0);
    if (q->fd < 0) fail("eventfd");
#endif
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline size_t queue_push(struct queue *q, const void *item, size_t size, size_t n) {
    (void)size, (void)n;
    uint64_t value = *(const uint64_t *)item;
#ifdef FUTEX
    q->at->value = value;
    __atomic_store_n(&q->at->full, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &q->at->full, FUTEX_WAKE, 1, NULL, NULL, 0);
#else
    value++; /* an eventfd holds no zero */
    if (write(q->fd, &value, 8) != 8) fail("write");
#endif
    return 1;
}

static inline size_t queue_pop(struct queue *q, void *item, size_t size, size_t n) {
    (void)size, (void)n;
    uint64_t value;
#ifdef FUTEX
    while (!__atomic_load_n(&q->at->full, __ATOMIC_ACQUIRE))
        syscall(SYS_futex, &q->at->full, FUTEX_WAIT, 0, NULL, NULL, 0);
    value = q->at->value;
    __atomic_store_n(&q->at->full, 0, __ATOMIC_RELAXED);
#else
    if (read(q->fd, &value, 8) != 8) fail("read");
    value--;
#endif
    *(uint64_t *)item = value;
    return 1;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
