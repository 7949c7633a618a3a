/* SPDX-License-Identifier: 0BSD
 *
 * checked.h: the one way in which every example checks its calls.
 *
 * CHECKED(mdg_…(…)) hands the result on if it is >= 0; otherwise it prints the
 * call and the library's words to standard error and ends the program with 1.
 * An answer that the program wants to handle itself (-EAGAIN, -ETIMEDOUT,
 * -EPIPE, …) is named first: CHECKED_BUT(-EPIPE, mdg_ring_pop(…)) hands that
 * one on as well. CHECKED_OS is the same for calls of the operating system,
 * which return -1 and set errno.
 */
#ifndef CHECKED_H
#define CHECKED_H

#include <errno.h>
#include <madang.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECKED(call) checked((call), 0, #call)
#define CHECKED_BUT(expected, call) checked((call), (expected), #call)
#define CHECKED_OS(call) checked_os((call), #call)

static inline ssize_t checked(ssize_t result, int expected, const char *call) {
    if (result >= 0 || result == expected) {
        return result;
    }
    fprintf(stderr, "%s: %s\n", call, mdg_strerror((int)result));
    fprintf(stderr, "    details: %s\n", mdg_last_error());
    exit(1);
}

static inline ssize_t checked_os(ssize_t result, const char *call) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", call, strerror(errno));
        exit(1);
    }
    return result;
}

/* Says how the program is called, and ends it with 2. */
static inline void usage(const char *words) {
    fprintf(stderr, "usage: %s\n", words);
    exit(2);
}

/* The number in `text`, from `least` to `most`; anything else ends the program with 2. */
static inline int number(const char *text, int least, int most) {
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "%s: a number from %d to %d is wanted here\n", text, least, most);
        exit(2);
    }
    return (int)value;
}

/* fork(), with nothing left in the buffers that the child would print again. */
static inline pid_t fork_checked(void) {
    fflush(NULL);
    return (pid_t)CHECKED_OS(fork());
}

/* Waits for every child: 0 if all of them ended with 0, else 1. */
static inline int wait_for_children(void) {
    int status = 0;
    int failed = 0;
    while (wait(&status) > 0) {
        failed |= !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    return failed;
}

#endif
