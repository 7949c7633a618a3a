/* SPDX-License-Identifier: 0BSD
 *
 * ring_workers: two producers hand out tasks, three workers take them, and one
 * ring leads from all to all. A worker is killed at its work; the others go on.
 *
 *     ./ring_workers 1000
 *
 * Replays the textbook's bounded buffer with many producers and consumers, which
 * it makes of one buffer and three semaphores, `empty`, `full` and `mutex`. A
 * worker that is killed between wait(mutex) and signal(mutex) there stops all the
 * others for ever. A ring of kind MDG_RING_MPMC has no lock: the dead are in
 * nobody's way. The task that the dead one had in hand is another matter: here
 * each worker notes its task before it begins, in memory that outlives it, and
 * what was begun and not done is done again at the end.
 *
 * Textbook: Operating System Concepts, 10th edition, section 7.1.1, figures 7.1 and 7.2.
 */
#include "checked.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>

enum { PRODUCERS = 2, WORKERS = 3, SLOTS = 8 };

struct board {
    atomic_int at[WORKERS]; /* the task that a worker has in hand, or 0 */
    atomic_int done;        /* how many tasks are done */
    atomic_llong sum;       /* of their numbers */
};

static int produce(mdg_ring *ring, int first, int tasks) {
    for (int task = first; task <= tasks; task += PRODUCERS) {
        CHECKED(mdg_ring_push(ring, &task, MDG_FOREVER));
    }
    mdg_ring_close(ring);
    return 0;
}

static int work(mdg_ring *ring, struct board *board, int me, int deadly) {
    int task = 0;
    while (CHECKED_BUT(-EPIPE, mdg_ring_pop(ring, &task, MDG_FOREVER)) != -EPIPE) {
        atomic_store(&board->at[me], task);
        if (task == deadly) {
            raise(SIGKILL);
        }
        atomic_fetch_add(&board->sum, task); /* the work */
        atomic_fetch_add(&board->done, 1);
        atomic_store(&board->at[me], 0);
    }
    mdg_ring_close(ring);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_workers TASKS");
    }
    int tasks = number(argv[1], 1, 1000000);

    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct board), 0));
    struct board *board = mdg_shm_addr(shm);
    mdg_ring_opts opts = {.size = sizeof opts,
                          .capacity = SLOTS,
                          .item_size = sizeof(int),
                          .kind = MDG_RING_MPMC};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0));

    /* All workers are there before the first task is: with none there, a producer that waits for
     * room is told of the dead one (-EOWNERDEAD). */
    int ready[2];
    CHECKED_OS(pipe(ready));
    for (int i = 0; i < WORKERS; i++) {
        if (fork_checked() == 0) {
            mdg_ring *mine = NULL;
            CHECKED(mdg_ring_dup(&mine, ring, O_RDONLY));
            CHECKED_OS(write(ready[1], "", 1));
            exit(work(mine, board, i, tasks / 2 + 1));
        }
    }
    for (int i = 0; i < WORKERS; i++) {
        char byte;
        CHECKED_OS(read(ready[0], &byte, 1));
    }

    pid_t producers[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        if ((producers[i] = fork_checked()) == 0) {
            exit(produce(ring, i + 1, tasks));
        }
    }
    int status = 0;
    for (int i = 0; i < PRODUCERS; i++) {
        CHECKED_OS(waitpid(producers[i], &status, 0));
    }
    CHECKED(mdg_ring_shutdown(ring)); /* the end of the stream: workers drain it, and end */
    printf("a worker died: %s\n", wait_for_children() ? "yes" : "no");

    printf("tasks done by the others: %d\n", board->done);
    for (int i = 0; i < WORKERS; i++) {
        if (board->at[i] != 0) {
            printf("begun and not done: task %d\n", board->at[i]);
            board->sum += board->at[i];
        }
    }
    long long sum = board->sum;
    printf("done again, the sum is %lld\n", sum);
    mdg_ring_close(ring);
    mdg_shm_close(shm);
    return sum == (long long)tasks * (tasks + 1) / 2 ? 0 : 1;
}
