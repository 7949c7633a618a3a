/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What this machine can do at all, one line per question:
 *
 *     limits probe                       two-line ping-pong between the two CPUs, ns per round trip
 *     limits memcpy --footprint BYTES    copying between two buffers, bytes per second
 *     limits call                        a C call into libmadang.so that does nothing, ns
 *     limits copy --item S --footprint F the copy-in/copy-out limit, items per second
 *     limits fill --item S --footprint F the same with the bytes written and read in place
 *
 * The limit of a footprint: two processes share a buffer of that size in two halves. One copies items
 * into a half while the other copies them out of the other half, and a flag per half, on a line of
 * its own, tells whose it is: one handover per half, no index, no check per item.
 */

#include <madang.h>
#include "work.h"

struct flag {
    uint32_t value __attribute__((aligned(LINE)));
};

struct arena {
    struct meeting meeting;
    struct flag flag[2];
    uint64_t best;
};

static struct arena *arena;
static int cpus[MOST_PROCESSES];

static void wait_for_value(struct flag *flag, uint32_t value) {
    while (__atomic_load_n(&flag->value, __ATOMIC_ACQUIRE) != value) pause_once();
}

static void set(struct flag *flag, uint32_t value) {
    __atomic_store_n(&flag->value, value, __ATOMIC_RELEASE);
}

/* Runs role(0) here and role(1) in a child, each on its CPU. */
static void both(void (*role)(unsigned, const void *), const void *what, int cpu_count) {
    arena->meeting.expected = 2;
    fflush(stdout);
    for (unsigned who = 0; who < 2; who++) {
        if (fork() != 0) continue;
        alarm(60);
        pin(cpus[(int)who % cpu_count]);
        start_together(&arena->meeting);
        role(who, what);
        _exit(0);
    }
    join_all();
}

/* Shortest of many short runs: what an interrupt took is not distance. No pause in the loop, whose
 * length would hide the distance. */
static void ping_pong(unsigned who, const void *what) {
    const uint32_t trips = 1000, runs = 20;
    (void)what;
    double per_ns = ticks_per_ns(), best = 1e9;
    for (uint32_t run = 0, n = 0; run < runs; run++) {
        uint64_t t0 = ticks();
        for (uint32_t i = 0; i < trips; i++, n++) {
            struct flag *mine = &arena->flag[who], *other = &arena->flag[!who];
            if (who == 0) set(mine, n + 1);
            while (__atomic_load_n(&other->value, __ATOMIC_ACQUIRE) != n + 1) {}
            if (who == 1) set(mine, n + 1);
        }
        double took = (double)(ticks() - t0) / trips / per_ns;
        if (took < best) best = took;
    }
    if (who == 0) arena->best = (uint64_t)(best * 10);
}

struct copying {
    size_t item, footprint;
    uint64_t rounds; /* halves moved */
    int in_place;
    char *buffer;
};

static void copies(unsigned who, const void *what) {
    const struct copying *c = (const struct copying *)what;
    size_t half = c->footprint / 2, items = half / c->item;
    char *own = (char *)aligned_alloc(LINE, c->item);
    struct seen seen = {};
    struct process *me = &arena->meeting.process[who];
    memset(own, 0, c->item);
    me->began = now_ns();
    for (uint64_t round = 0; round < c->rounds; round++) {
        char *at = c->buffer + round % 2 * half;
        wait_for_value(&arena->flag[round % 2], who);
        for (size_t i = 0; i < items; i++, at += c->item) {
            uint64_t number = round * items + i;
            if (who == 0 && c->in_place) fill(at, c->item, number);
            if (who == 1 && c->in_place) verify_one(&seen, at, c->item);
            if (c->in_place) continue;
            if (who == 0) {
                memcpy(own, &number, 8);
                memcpy(at, own, c->item);
            } else {
                memcpy(own, at, c->item);
                __asm__ volatile("" : : "r"(own) : "memory"); /* all of the copy is wanted */
                verify_one(&seen, own, 8);
            }
        }
        set(&arena->flag[round % 2], !who);
    }
    me->ended = now_ns();
    me->wrong = seen.wrong;
    me->items = seen.items;
    me->sum = seen.sum;
}

static int limit_of_copying(struct copying c, uint64_t count, int cpu_count) {
    size_t items = c.footprint / 2 / c.item;
    if (!items) cannot("a half holds no item");
    c.rounds = (count + items - 1) / items;
    c.buffer = (char *)shared_memory(c.footprint);
    both(copies, &c, cpu_count);
    struct process *p = arena->meeting.process;
    uint64_t began = p[0].began < p[1].began ? p[0].began : p[1].began;
    double seconds = (double)(p[1].ended - began) / 1e9;
    uint64_t sum = expected_sum(c.in_place ? c.item : 8, 0, c.rounds * items);
    int ok = !p[1].wrong && p[1].items == c.rounds * items && p[1].sum == sum;
    printf("ok=%d ops=%.1f seconds=%.6f\n", ok, (double)p[1].items / seconds, seconds);
    return !ok;
}

static void limit_of_memcpy(size_t footprint) {
    char *from = (char *)shared_memory(footprint), *to = (char *)shared_memory(footprint);
    uint64_t bytes = 0, t0, t1;
    memset(from, 1, footprint);
    for (t0 = now_ns(); (t1 = now_ns()) - t0 < 50000000; bytes += footprint) {
        memcpy(to, from, footprint);
        __asm__ volatile("" ::: "memory");
    }
    printf("ok=1 ops=%.1f seconds=%.6f\n", (double)bytes * 1e9 / (double)(t1 - t0),
           (double)(t1 - t0) / 1e9);
}

static void limit_of_calls(void) {
    const int calls = 10000000;
    uint64_t t0 = now_ns();
    for (int i = 0; i < calls; i++) mdg_version();
    double seconds = (double)(now_ns() - t0) / 1e9;
    printf("ok=1 ops=%.1f seconds=%.6f\n", calls / seconds, seconds);
}

int main(int argc, char **argv) {
    struct copying c = {.item = 4096, .footprint = 65536};
    uint64_t count = 1000000;
    const char *what = argc > 1 ? argv[1] : "";
    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--item") == 0) c.item = value;
        else if (strcmp(argv[i], "--footprint") == 0) c.footprint = value;
        else if (strcmp(argv[i], "--count") == 0) count = value;
        else cannot("%s: unknown option", argv[i]);
    }
    arena = (struct arena *)shared_memory(sizeof *arena);
    int cpu_count = usable_cpus(cpus, MOST_PROCESSES);
    if (strcmp(what, "memcpy") == 0) return limit_of_memcpy(c.footprint), 0;
    if (strcmp(what, "call") == 0) return limit_of_calls(), 0;
    if (strcmp(what, "probe") == 0) {
        if (cpu_count < 2) cannot("one CPU only");
        both(ping_pong, NULL, cpu_count);
        printf("ok=1 ns=%.1f\n", (double)arena->best / 10);
        return 0;
    }
    c.in_place = strcmp(what, "fill") == 0;
    if (!c.in_place && strcmp(what, "copy")) cannot("which limit?");
    if (c.in_place && c.item != 4096 && c.item != 65536) cannot("4096 or 65536 bytes");
    return limit_of_copying(c, count, cpu_count);
}
