/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What calls on one ring cost beside many idle handles of the same ring, or beside many rings.
 *
 *     growth [--handles N] [--rings N] [--kind K] [--rounds R]
 *
 * Prints nanoseconds, each the least of several rounds: push and pop of one item, attaching and
 * closing one more handle, mdg_ring_stat.
 */

#include <fcntl.h>
#include <madang.h>
#include <sys/resource.h>
#include "share.h"

enum { CALLS = 2000, ATTACHES = 8 };

static void check(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, mdg_last_error());
        exit(1);
    }
}

int main(int argc, char **argv) {
    mdg_ring_opts opts = MDG_RING_OPTS_INIT;
    unsigned handles = 1, rings = 1, rounds = 5;
    uint64_t call = UINT64_MAX, attach = UINT64_MAX, stat = UINT64_MAX, item = 7;
    struct rlimit files;
    mdg_ring *ring, *other;
    opts.capacity = 64;
    opts.item_size = 8;
    opts.kind = MDG_RING_MPMC;
    opts.max_handles = 4096;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned value = (unsigned)strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--handles") == 0) handles = value;
        else if (strcmp(argv[i], "--rings") == 0) rings = value;
        else if (strcmp(argv[i], "--kind") == 0) opts.kind = value;
        else if (strcmp(argv[i], "--rounds") == 0) rounds = value;
        else cannot("%s: unknown option", argv[i]);
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    check(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0), "open");
    /* They stay until the process ends. */
    for (unsigned i = 1; i < handles; i++) check(mdg_ring_dup(&other, ring, O_RDWR), "dup");
    opts.max_handles = 4;
    for (unsigned i = 1; i < rings; i++) check(mdg_ring_open(&other, NULL, &opts, O_RDWR, 0), "open");
    for (unsigned round = 0; round < rounds; round++) {
        mdg_ring_stats stats = MDG_RING_STATS_INIT;
        uint64_t began = now_ns(), took;
        for (int i = 0; i < CALLS; i++) {
            check(mdg_ring_push(ring, &item, MDG_NOWAIT), "push");
            check(mdg_ring_pop(ring, &item, MDG_NOWAIT), "pop");
        }
        took = (now_ns() - began) / CALLS;
        if (took < call) call = took;
        began = now_ns();
        for (int i = 0; i < ATTACHES; i++) {
            check(mdg_ring_dup(&other, ring, O_RDWR), "dup");
            mdg_ring_close(other);
        }
        took = (now_ns() - began) / ATTACHES;
        if (took < attach) attach = took;
        began = now_ns();
        for (int i = 0; i < ATTACHES; i++) check(mdg_ring_stat(ring, &stats), "stat");
        took = (now_ns() - began) / ATTACHES;
        if (took < stat) stat = took;
    }
    printf("ok=1 call=%llu attach=%llu stat=%llu\n", (unsigned long long)call,
           (unsigned long long)attach, (unsigned long long)stat);
    return 0;
}
