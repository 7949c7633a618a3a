/* SPDX-License-Identifier: 0BSD
 *
 * ring_stopproof: a producer is stopped in the middle of a push. In an ordinary ring with many
 * producers those behind it wait until it goes on; in a stop-proof one they do not.
 *
 *     ./ring_stopproof 1000
 *
 * The textbook's critical section (Operating System Concepts, 10th edition, section 6.2) assumes
 * that each process goes on at some speed: one that is stopped inside stops all the others. A
 * lock-free ring makes no such assumption: a process that runs makes progress.
 */
#include "checked.h"

#include <fcntl.h>
#include <signal.h>

static pid_t stopped_in_a_push(mdg_ring *ring) {
    pid_t child = fork_checked();
    if (child == 0) {
        void *room = NULL;
        CHECKED(mdg_ring_reserve(ring, &room, 1, MDG_FOREVER));
        raise(SIGSTOP); /* between the beginning and the end */
        exit(1);
    }
    int status = 0;
    CHECKED_OS(waitpid(child, &status, WUNTRACED));
    return child;
}

static void try_kind(const char *kind, uint32_t policy, int count) {
    mdg_ring_opts opts = {.size = sizeof opts,
                          .capacity = 8,
                          .item_size = sizeof(int),
                          .kind = MDG_RING_MPMC,
                          .policy = policy};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0));
    pid_t child = stopped_in_a_push(ring);

    int passed = 0, item = 0;
    while (passed < count) {
        CHECKED(mdg_ring_push(ring, &passed, MDG_NOWAIT));
        if (CHECKED_BUT(-EAGAIN, mdg_ring_pop(ring, &item, MDG_NOWAIT)) == -EAGAIN) {
            break; /* what was pushed stands behind the place of the stopped one */
        }
        passed++;
    }
    printf("%s: %d of %d items passed a stopped producer\n", kind, passed, count);

    CHECKED_OS(kill(child, SIGKILL)); /* the dead are in nobody's way, in either kind */
    CHECKED_OS(waitpid(child, NULL, 0));
    if (passed < count) {
        CHECKED(mdg_ring_pop(ring, &item, MDG_FOREVER));
        printf("%s: item %d came when it was dead\n", kind, item);
    }
    mdg_ring_close(ring);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_stopproof COUNT");
    }
    int count = number(argv[1], 1, 1000000);
    try_kind("ordinary", 0, count);
    try_kind("stop-proof", MDG_RING_STOPPROOF, count);
    return 0;
}
