/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The command line of a benchmark program, its processes, and the one line it prints:
 *
 *     PROGRAM spsc|mpmc|broadcast|roundtrip|idle [--item 8] [--capacity 1024] [--batch 1]
 *             [--count N] [--producers 1] [--consumers 1] [--readers 1] [--think NS]
 *             [--in-place] [--stop-proof] [--many]
 *     ok=1 ops=123456789.0 seconds=0.081
 *
 * Exit status 77 means that this queue has no such work; stderr says why.
 */

#ifndef BENCH_MAIN_H
#define BENCH_MAIN_H

static struct work parse(int argc, char **argv) {
    struct work w = {};
    w.item = 8, w.batch = 1, w.capacity = 1024, w.count = 1000000;
    w.producers = w.consumers = 1;
    if (argc < 2) cannot("which work?");
    w.name = argv[1];
    w.broadcast = strcmp(w.name, "broadcast") == 0;
    w.mpmc = strcmp(w.name, "mpmc") == 0;
    for (int i = 2; i < argc; i++) {
        const char *key = argv[i];
        if (strcmp(key, "--in-place") == 0) { w.in_place = 1; continue; }
        if (strcmp(key, "--stop-proof") == 0) { w.stopproof = 1; continue; }
        if (strcmp(key, "--many") == 0) { w.mpmc = 1; continue; } /* a queue for many, used by two */
        uint64_t value = ++i < argc ? strtoull(argv[i], NULL, 10) : 0;
        if (strcmp(key, "--item") == 0) w.item = value;
        else if (strcmp(key, "--batch") == 0) w.batch = value;
        else if (strcmp(key, "--capacity") == 0) w.capacity = value;
        else if (strcmp(key, "--count") == 0) w.count = value;
        else if (strcmp(key, "--producers") == 0) w.producers = (unsigned)value;
        else if (strcmp(key, "--consumers") == 0) w.consumers = (unsigned)value;
        else if (strcmp(key, "--readers") == 0) w.consumers = (unsigned)value;
        else if (strcmp(key, "--think") == 0) w.think_ns = value;
        else cannot("%s: unknown option", key);
    }
    if (!w.item || !w.batch || !w.capacity || !w.count || !w.producers || !w.consumers ||
        w.producers + w.consumers > MOST_PROCESSES)
        cannot("nothing to do");
    /* Every process does its whole part. */
    uint64_t parts = (uint64_t)w.producers * w.consumers;
    w.count = (w.count + parts - 1) / parts * parts;
    return w;
}

static void spawn(const struct work *w, unsigned who, int cpu, uint64_t *took) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child > 0) return;
    alarm(30); /* a queue that hangs ends as a failure */
    pin(cpu);
    if (took && who == 0) asker(w, took);
    else if (took) answerer(w);
    else if (who < w->producers) producer(w, who);
    else consumer(w, who);
    _exit(0);
}

/* Nothing lost, nothing doubled, nothing torn, all in order. */
static int verified(const struct work *w, int trips) {
    uint64_t sum = 0, expected = 0, items = 0, wrong = 0;
    for (unsigned i = 0; i < w->producers + w->consumers; i++) {
        sum += meeting->process[i].sum;
        items += meeting->process[i].items;
        wrong += meeting->process[i].wrong;
    }
    if (trips) {
        uint64_t n = w->count + settling(w);
        return !wrong && items == n && sum == expected_sum(8, 0, n);
    }
    uint64_t each = w->count / w->producers, copies = w->broadcast ? w->consumers : 1;
    for (unsigned p = 0; p < w->producers; p++) expected += copies * expected_sum(w->item, p, each);
    return !wrong && items == copies * w->count && sum == expected;
}

int main(int argc, char **argv) {
    struct work w = parse(argc, argv);
    int trips = strcmp(w.name, "roundtrip") == 0, cpus[MOST_PROCESSES];
    unsigned processes = w.producers + w.consumers;
    int cpu_count = usable_cpus(cpus, MOST_PROCESSES);
    uint64_t *took = NULL;
    crowded = processes > (unsigned)cpu_count;
    meeting = (struct meeting *)shared_memory(sizeof *meeting);
    meeting->expected = processes;
    queue_make(&queues[0], &w, 0);
    if (trips) {
        queue_make(&queues[1], &w, 1);
        took = (uint64_t *)shared_memory(w.count * sizeof *took);
    }
    for (unsigned who = 0; who < processes; who++) spawn(&w, who, cpus[(int)who % cpu_count], took);
    join_all();
    queue_remove(&queues[0]);
    if (trips) queue_remove(&queues[1]);

    uint64_t began = UINT64_MAX, ended = 0, used = 0;
    for (unsigned i = 0; i < processes; i++) {
        struct process *p = &meeting->process[i];
        if (p->began < began) began = p->began;
        if (p->ended > ended) ended = p->ended;
        if (p->cpu_ns > used) used = p->cpu_ns;
    }
    double seconds = (double)(ended - began) / 1e9;
    int ok = verified(&w, trips);
    printf("ok=%d ops=%.1f seconds=%.6f ", ok, (double)w.count / seconds, seconds);
    if (strcmp(w.name, "idle") == 0) printf("cpu_us=%.1f ", (double)used / 1e3);
    if (trips) {
        double per_ns = ticks_per_ns();
        print_latencies(took, w.count, (uint64_t)((double)w.think_ns * per_ns), per_ns);
    }
    printf("\n");
    return ok ? 0 : 1;
}

#endif
