/* SPDX-License-Identifier: 0BSD
 *
 * ring_redeliver: tasks that must all be done. A worker is killed in the middle of one; the ring
 * hands that task to another worker.
 *
 *     ./ring_redeliver 100
 *
 * Replays the bounded buffer with several consumers (Operating System Concepts, 10th edition,
 * section 7.1.1, figures 7.1 and 7.2). There an item belongs to nobody from the moment when its
 * consumer has taken it out: if that process dies, the item is gone. Here a worker looks at its
 * task (peek), does it, and only then takes it out (release). ring_workers.c does without, and has
 * to note its tasks.
 */
#include "checked.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>

enum { WORKERS = 3, SLOTS = 16 };

struct board {
    atomic_int tries;        /* how often the deadly task was begun */
    atomic_llong done, sum;  /* tasks done, and the sum of their numbers */
};

static int work(mdg_ring *ring, struct board *board, int deadly) {
    const void *item = NULL;
    /* -EPIPE: the stream has ended, and no worker has a task that might come back. */
    while (CHECKED_BUT(-EPIPE, mdg_ring_peek(ring, &item, 1, MDG_FOREVER)) != -EPIPE) {
        int task = *(const int *)item;
        if (task == deadly && atomic_fetch_add(&board->tries, 1) == 0) {
            raise(SIGKILL); /* with the task in hand */
        }
        atomic_fetch_add(&board->sum, task); /* the work */
        atomic_fetch_add(&board->done, 1);
        CHECKED(mdg_ring_release(ring, 1));
    }
    mdg_ring_close(ring);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_redeliver TASKS");
    }
    int tasks = number(argv[1], 1, 1000000);

    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct board), 0));
    struct board *board = mdg_shm_addr(shm);
    mdg_ring_opts opts = {.size = sizeof opts,
                          .capacity = SLOTS,
                          .item_size = sizeof(int),
                          .kind = MDG_RING_MPMC,
                          .policy = MDG_RING_REDELIVER};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0));

    for (int i = 0; i < WORKERS; i++) {
        if (fork_checked() == 0) {
            exit(work(ring, board, tasks / 2 + 1));
        }
    }
    for (int task = 1; task <= tasks; task++) {
        /* -EOWNERDEAD: the one worker that was here so far has died, and the next will come. */
        while (CHECKED_BUT(-EOWNERDEAD, mdg_ring_push(ring, &task, MDG_FOREVER)) != 0) {
        }
    }
    CHECKED(mdg_ring_shutdown(ring));
    printf("a worker died: %s\n", wait_for_children() ? "yes" : "no");

    mdg_ring_stats stats = {.size = sizeof stats};
    CHECKED(mdg_ring_stat(ring, &stats));
    long long sum = board->sum;
    printf("tasks done: %lld, sum %lld, handed out twice: %d\n", (long long)board->done, sum,
           (int)stats.redelivered);
    mdg_ring_close(ring);
    mdg_shm_close(shm);
    return sum == (long long)tasks * (tasks + 1) / 2 ? 0 : 1;
}
