/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Round trips over two queues: one process asks, the other answers with the same item. With a
 * thinking time, each side works for that long before it sends, so that the other has gone to sleep
 * if it sleeps at all; the thinking of the side that answers is taken off again.
 */

#ifndef BENCH_ROUNDTRIP_H
#define BENCH_ROUNDTRIP_H

static const double percentiles[] = {1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99};
#define PERCENTILES (sizeof percentiles / sizeof *percentiles)

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/*
 * A percentile of sorted times. The clock goes in steps (10 ns on some machines), so thousands of trips
 * have the same time: they are taken to be spread evenly over the step, which reaches half way to the
 * next shorter and the next longer time (the median of grouped data, in every textbook of statistics).
 */
static double percentile(const uint64_t *took, uint64_t count, double percent) {
    double rank = (double)(count - 1) * percent / 100;
    uint64_t at = (uint64_t)rank, first = at, last = at;
    while (first > 0 && took[first - 1] == took[at]) first--;
    while (last + 1 < count && took[last + 1] == took[at]) last++;
    double here = (double)took[at], from = here, to = here;
    if (first > 0) from = (here + (double)took[first - 1]) / 2;
    if (last + 1 < count) to = (here + (double)took[last + 1]) / 2;
    return from + (to - from) * (rank - (double)first + 0.5) / (double)(last - first + 1);
}

static void print_latencies(uint64_t *took, uint64_t count, uint64_t off, double per_ns) {
    qsort(took, count, sizeof *took, by_size);
    for (size_t i = 0; i < PERCENTILES; i++) {
        double t = percentile(took, count, percentiles[i]) - (double)off;
        printf("p%g=%.1f ", percentiles[i], t > 0 ? t / per_ns : 0);
    }
}

/* Trips left out at the start, in which caches and the spinning budget settle. */
static uint64_t settling(const struct work *w) { return w->count / 10; }

static void asker(const struct work *w, uint64_t *took) {
    queue_attach(&queues[0], PUSHES);
    queue_attach(&queues[1], POPS);
    uint64_t think = (uint64_t)((double)w->think_ns * ticks_per_ns()), warm = settling(w);
    struct process *me = begin(0);
    for (uint64_t i = 0; i < w->count + warm; i++) {
        uint64_t item = i, back = 0;
        if (think) busy_for(think);
        uint64_t t0 = ticks();
        push_all(&queues[0], (char *)&item, 8, 1);
        pop_some(&queues[1], (char *)&back, 8, 1);
        uint64_t t1 = ticks();
        me->wrong += back != i;
        me->sum += back;
        me->items++;
        if (i >= warm) took[i - warm] = t1 - t0;
    }
    me->ended = now_ns();
    queue_leave(&queues[0], PUSHES);
    queue_leave(&queues[1], POPS);
}

static void answerer(const struct work *w) {
    queue_attach(&queues[0], POPS);
    queue_attach(&queues[1], PUSHES);
    uint64_t think = (uint64_t)((double)w->think_ns * ticks_per_ns());
    struct process *me = begin(1);
    for (uint64_t i = 0; i < w->count + settling(w); i++) {
        uint64_t item = 0;
        pop_some(&queues[0], (char *)&item, 8, 1);
        me->wrong += item != i;
        if (think) busy_for(think);
        push_all(&queues[1], (char *)&item, 8, 1);
    }
    wait_for(0);
    queue_leave(&queues[0], POPS);
    queue_leave(&queues[1], PUSHES);
}

#endif
