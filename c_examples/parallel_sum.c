/* SPDX-License-Identifier: 0BSD
 *
 * parallel_sum: ten children add up a tenth of 1..10000 each; the parent
 * collects. Once over a pipe, once over a shared segment and a semaphore.
 *
 *     ./parallel_sum pipe
 *     ./parallel_sum segment
 *
 * Replays the textbook exercise of summing in parallel with forked children.
 * The usual slips: adding to one shared total without a lock; a pipe that
 * everybody writes to and nobody can tell apart; reading the results before
 * they are there. Here a message is never mixed with another child's, and
 * each child has a slot of its own, announced by a post.
 */
#include "checked.h"

#include <semaphore.h>

enum { CHILDREN = 10, SHARE = 1000 };

struct part {
    int child;
    int sum;
};

static struct part part_of(int child) {
    struct part part = {.child = child, .sum = 0};
    for (int i = child * SHARE + 1; i <= (child + 1) * SHARE; i++) {
        part.sum += i;
    }
    return part;
}

static void over_a_pipe(int sums[CHILDREN]) {
    int fds[2];
    CHECKED(mdg_pipe_open(fds, 0));
    for (int child = 0; child < CHILDREN; child++) {
        if (fork_checked() == 0) {
            struct part part = part_of(child);
            CHECKED(mdg_pipe_send(fds[1], &part, sizeof part, MDG_FOREVER));
            exit(0);
        }
    }
    CHECKED_OS(close(fds[1])); /* if a child dies, receive says -EPIPE instead of waiting */
    for (int i = 0; i < CHILDREN; i++) { /* in the order in which they finish */
        struct part part;
        CHECKED(mdg_pipe_receive(fds[0], &part, sizeof part, MDG_FOREVER));
        sums[part.child] = part.sum;
    }
    CHECKED_OS(close(fds[0]));
}

struct board {
    sem_t written; /* the memory that mdg_sem_init makes a semaphore of */
    int sums[CHILDREN];
};

static void over_a_segment(int sums[CHILDREN]) {
    mdg_shm *shm = NULL;
    mdg_sem *written = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct board), 0));
    struct board *board = mdg_shm_addr(shm);
    CHECKED(mdg_sem_init(&written, &board->written, 0));
    for (int child = 0; child < CHILDREN; child++) {
        if (fork_checked() == 0) {
            board->sums[child] = part_of(child).sum;
            CHECKED(mdg_sem_post(written));
            exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        CHECKED(mdg_sem_wait(written, MDG_FOREVER));
    }
    memcpy(sums, board->sums, sizeof board->sums);
    mdg_sem_close(written);
    mdg_shm_close(shm);
}

int main(int argc, char **argv) {
    int sums[CHILDREN];
    int total = 0;
    if (argc == 2 && strcmp(argv[1], "pipe") == 0) {
        over_a_pipe(sums);
    } else if (argc == 2 && strcmp(argv[1], "segment") == 0) {
        over_a_segment(sums);
    } else {
        usage("parallel_sum pipe|segment");
    }
    for (int child = 0; child < CHILDREN; child++) {
        printf("%5d to %5d: %d\n", child * SHARE + 1, (child + 1) * SHARE, sums[child]);
        total += sums[child];
    }
    printf("all together: %d\n", total);
    return wait_for_children();
}
