/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The loop around a queue: a program defines the queue and includes this file last. The calls below
 * are inlined into loops compiled for each item size, so a peer made of headers runs as its authors
 * meant it. The program provides
 *
 *     struct queue { ... };
 *     static void queue_make(struct queue *, const struct work *, unsigned index);   before fork
 *     static void queue_attach(struct queue *, int side);                            after fork
 *     static size_t queue_push(struct queue *, const void *, size_t size, size_t n); 0: full
 *     static size_t queue_pop(struct queue *, void *, size_t size, size_t n);        0: empty
 *     static void queue_leave(struct queue *, int side);
 *     static void queue_remove(struct queue *);                                      at the end
 *
 * and, if it defines QUEUE_IN_PLACE, queue_reserve, queue_commit, queue_peek and queue_release. A
 * queue that blocks never answers 0. One that answers 0 is asked again after one pause instruction,
 * which is how Madang spins; where there are more processes than CPUs, it yields now and then.
 */

#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include "work.h"

#define INLINE static inline __attribute__((always_inline))

static struct queue queues[2];
static struct meeting *meeting;
static int crowded; /* more processes than CPUs */

INLINE void again(unsigned *turns) {
    pause_once();
    if (crowded && ++*turns % 64 == 0) sched_yield();
}

INLINE void push_all(struct queue *q, const char *items, size_t size, size_t n) {
    unsigned turns = 0;
    while (n) {
        size_t done = queue_push(q, items, size, n);
        if (!done) again(&turns);
        items += done * size;
        n -= done;
    }
}

INLINE size_t pop_some(struct queue *q, char *items, size_t size, size_t n) {
    unsigned turns = 0;
    size_t got;
    while (!(got = queue_pop(q, items, size, n))) again(&turns);
    return got;
}

#ifdef QUEUE_IN_PLACE
INLINE void produce_in_place(struct queue *q, uint64_t count, size_t size) {
    for (uint64_t i = 0; i < count; i++) {
        unsigned turns = 0;
        void *at;
        while (!(at = queue_reserve(q, size))) again(&turns);
        fill(at, size, i);
        queue_commit(q, size);
    }
}

INLINE void consume_in_place(struct queue *q, uint64_t count, size_t size, struct seen *seen) {
    for (uint64_t i = 0; i < count; i++) {
        unsigned turns = 0;
        const void *at;
        while (!(at = queue_peek(q, size))) again(&turns);
        verify_one(seen, at, size);
        queue_release(q, size);
    }
}
#endif

INLINE void produce(struct queue *q, unsigned who, uint64_t count, size_t size, size_t batch) {
    char *items = (char *)aligned_alloc(LINE, size * batch < LINE ? LINE : size * batch);
    for (uint64_t i = 0; i < count;) {
        size_t n = count - i < batch ? (size_t)(count - i) : batch;
        for (size_t k = 0; k < n; k++) fill(items + k * size, size, stamp(who, i + k));
        push_all(q, items, size, n);
        i += n;
    }
    free(items);
}

INLINE void consume(struct queue *q, uint64_t count, size_t size, size_t batch, int gaps,
                    struct seen *seen) {
    char *items = (char *)aligned_alloc(LINE, size * batch < LINE ? LINE : size * batch);
    while (seen->items < count) {
        uint64_t left = count - seen->items;
        size_t n = pop_some(q, items, size, left < batch ? (size_t)left : batch);
        for (size_t k = 0; k < n; k++) {
            if (gaps) verify(seen, items + k * size, size, gaps > 1);
            else verify_one(seen, items + k * size, size);
        }
    }
    free(items);
}

/* One loop per item size: with the size a constant, copies and sums are compiled for it. */
#define SIZES(X) X(8) X(64) X(256) X(1024) X(4096) X(65536)

static void produce_any(struct queue *q, const struct work *w, unsigned who, uint64_t count) {
    switch (w->item) {
#ifdef QUEUE_IN_PLACE
#define PRODUCE(S) case S: \
        if (w->in_place) produce_in_place(q, count, S); \
        else if (w->batch == 1) produce(q, who, count, S, 1); \
        else produce(q, who, count, S, w->batch); \
        return;
#else
#define PRODUCE(S) case S: \
        if (w->batch == 1) produce(q, who, count, S, 1); \
        else produce(q, who, count, S, w->batch); \
        return;
#endif
    SIZES(PRODUCE)
    }
    cannot("no loop for items of %zu bytes", w->item);
}

static void consume_any(struct queue *q, const struct work *w, uint64_t count, struct seen *seen) {
    int gaps = !w->mpmc ? 0 : w->consumers > 1 ? 2 : 1;
    switch (w->item) {
#ifdef QUEUE_IN_PLACE
#define CONSUME(S) case S: \
        if (w->in_place) consume_in_place(q, count, S, seen); \
        else if (gaps) consume(q, count, S, w->batch, gaps, seen); \
        else if (w->batch == 1) consume(q, count, S, 1, 0, seen); \
        else consume(q, count, S, w->batch, 0, seen); \
        return;
#else
#define CONSUME(S) case S: \
        if (gaps) consume(q, count, S, w->batch, gaps, seen); \
        else if (w->batch == 1) consume(q, count, S, 1, 0, seen); \
        else consume(q, count, S, w->batch, 0, seen); \
        return;
#endif
    SIZES(CONSUME)
    }
}

enum { PUSHES, POPS };

static struct process *begin(unsigned who) {
    struct process *me = &meeting->process[who];
    start_together(meeting);
    me->began = now_ns();
    return me;
}

/* What was sent may be lost when its sender leaves, in queues that live in their processes. */
static void wait_for(unsigned who) {
    while (!__atomic_load_n(&meeting->process[who].ended, __ATOMIC_ACQUIRE)) usleep(200);
}

static void producer(const struct work *w, unsigned who) {
    queue_attach(&queues[0], PUSHES);
    struct process *me = begin(who);
    if (strcmp(w->name, "idle") == 0) usleep(1000000);
    produce_any(&queues[0], w, who, w->count / w->producers);
    me->ended = now_ns();
    for (unsigned i = 0; i < w->consumers; i++) wait_for(w->producers + i);
    queue_leave(&queues[0], PUSHES);
}

static void consumer(const struct work *w, unsigned who) {
    struct seen seen = {};
    uint64_t quota = w->broadcast ? w->count : w->count / w->consumers;
    queue_attach(&queues[0], POPS);
    struct process *me = begin(who);
    uint64_t used = cpu_used_ns();
    consume_any(&queues[0], w, quota, &seen);
    uint64_t ended = now_ns();
    me->cpu_ns = cpu_used_ns() - used;
    me->items = seen.items;
    me->sum = seen.sum;
    me->wrong = seen.wrong;
    __atomic_store_n(&me->ended, ended, __ATOMIC_RELEASE);
    /* A reader that leaves while the last item is on its way to the others would be in its way. */
    for (unsigned i = 0; i < w->producers; i++) wait_for(i);
    queue_leave(&queues[0], POPS);
}

#include "roundtrip.h"
#include "main.h"

#endif
