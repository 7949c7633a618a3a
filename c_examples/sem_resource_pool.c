/* SPDX-License-Identifier: 0BSD
 *
 * sem_resource_pool: N tasks share M resources. A semaphore that starts at M
 * counts the free ones; whoever comes while it is 0 waits.
 *
 *     ./sem_resource_pool /pool 5 2
 *
 * Replays the textbook's counting semaphore, "initialized to the number of
 * resources available". The usual slips: creating it with O_CREAT alone, so
 * that a semaphore left over from yesterday is taken, with yesterday's value
 * (O_EXCL refuses it); and letting a task that fails keep its resource. The
 * program counts what it should prevent, in an anonymous shared segment.
 *
 * Textbook: Operating System Concepts, 10th edition, section 6.6.1; no figure.
 */
#include "checked.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>

enum { ROUNDS = 200 };

struct tally {
    atomic_int in_use;
    atomic_int uses;
    atomic_int too_many; /* must stay 0 */
};

static int task(mdg_sem *pool, struct tally *tally, int resources) {
    for (int i = 0; i < ROUNDS; i++) {
        /* Is one free? If not (-EAGAIN), wait for one. */
        if (CHECKED_BUT(-EAGAIN, mdg_sem_wait(pool, MDG_NOWAIT)) == -EAGAIN) {
            CHECKED(mdg_sem_wait(pool, MDG_FOREVER));
        }
        if (atomic_fetch_add(&tally->in_use, 1) >= resources) {
            atomic_fetch_add(&tally->too_many, 1);
        }
        atomic_fetch_add(&tally->uses, 1);
        sched_yield(); /* let the others try while this one is taken */
        atomic_fetch_sub(&tally->in_use, 1);
        CHECKED(mdg_sem_post(pool));
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        usage("sem_resource_pool NAME TASKS RESOURCES");
    }
    int tasks = number(argv[2], 1, 100);
    int resources = number(argv[3], 1, 100);

    mdg_sem_opts opts = {.size = sizeof opts, .value = (uint32_t)resources};
    mdg_sem *pool = NULL;
    CHECKED(mdg_sem_open(&pool, argv[1], &opts, O_CREAT | O_EXCL, 0600));
    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct tally), 0));
    struct tally *tally = mdg_shm_addr(shm);

    for (int i = 0; i < tasks; i++) {
        if (fork_checked() == 0) {
            exit(task(pool, tally, resources));
        }
    }
    int failed = wait_for_children();

    printf("%d tasks used %d resources %d times\n", tasks, resources, tally->uses);
    printf("more than %d in use at once: %d times\n", resources, tally->too_many);
    printf("free at the end: %d\n", (int)CHECKED(mdg_sem_value(pool)));
    mdg_shm_close(shm);
    mdg_sem_close(pool);
    CHECKED(mdg_sem_unlink(argv[1]));
    return failed;
}
