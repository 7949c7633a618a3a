/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What every benchmark program needs around its queue: memory that its processes share, pinning, a
 * clock, a starting line, and the words for "cannot".
 */

#ifndef BENCH_SHARE_H
#define BENCH_SHARE_H

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_PROCESSES 32
#define LINE 128 /* two cache lines: processors fetch the neighbour, too */

/* Exit status of a program that cannot do what was asked; its last line on stderr says why. */
#define CANNOT 77

__attribute__((noreturn, format(printf, 1, 2), unused))
static void cannot(const char *words, ...) {
    va_list args;
    va_start(args, words);
    vfprintf(stderr, words, args);
    va_end(args);
    fputc('\n', stderr);
    exit(CANNOT);
}

__attribute__((noreturn, unused))
static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

__attribute__((unused))
static void *shared_memory(size_t size) {
    /* Populated: page faults are no part of the work. */
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) fail("mmap");
    return at;
}

static inline void pause_once(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A clock cheap enough for one round trip of 100 ns. */
static inline uint64_t ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return now_ns();
#endif
}

/* Ticks of one nanosecond, measured over some milliseconds. */
__attribute__((unused))
static double ticks_per_ns(void) {
    uint64_t t0 = now_ns(), c0 = ticks(), t1, c1;
    do {
        t1 = now_ns();
        c1 = ticks();
    } while (t1 - t0 < 5000000);
    return (double)(c1 - c0) / (double)(t1 - t0);
}

static inline void busy_for(uint64_t n) {
    uint64_t end = ticks() + n;
    while (ticks() < end) {}
}

/* The CPUs that this program may use, as taskset(1) or a container left them. */
__attribute__((unused))
static int usable_cpus(int *cpus, int most) {
    cpu_set_t set;
    int found = 0;
    if (sched_getaffinity(0, sizeof set, &set) < 0) fail("sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && found < most; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[found++] = cpu;
    return found;
}

__attribute__((unused))
static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) fail("sched_setaffinity");
}

/* Where the processes of one run meet and leave what they found. */
struct process {
    uint64_t began, ended;  /* nanoseconds */
    uint64_t items, sum, wrong;
    uint64_t cpu_ns;        /* processor time used */
    uint64_t pad[10];
} __attribute__((aligned(LINE)));

struct meeting {
    uint32_t ready __attribute__((aligned(LINE)));
    uint32_t expected __attribute__((aligned(LINE)));
    struct process process[MOST_PROCESSES];
};

__attribute__((unused))
static void start_together(struct meeting *m) {
    __atomic_fetch_add(&m->ready, 1, __ATOMIC_SEQ_CST);
    for (unsigned turns = 0; __atomic_load_n(&m->ready, __ATOMIC_ACQUIRE) < m->expected; turns++)
        if (turns % 64 == 63) sched_yield();
}

__attribute__((unused))
static uint64_t cpu_used_ns(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000u;
}

/* Waits for all children. A failed or killed one ends the program. */
__attribute__((unused))
static void join_all(void) {
    int status;
    while (wait(&status) > 0) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
        if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) exit(CANNOT);
        fprintf(stderr, "a process ended with status %#x\n", (unsigned)status);
        exit(1);
    }
}

#endif
