/* SPDX-License-Identifier: 0BSD
 *
 * sem_then_mutex: N tasks share M resources, and a table says who has which. A
 * task dies with a resource in use.
 *
 *     ./sem_then_mutex /pool 5 2
 *
 * Replays the textbook's order of locks: first the counting semaphore (is there
 * a resource for me?), then the mutex (which one?); the other way round, who has
 * the mutex would wait for a resource that nobody can give back. With a plain
 * semaphore and a plain mutex a dead task keeps its permit and its entry in the
 * table. Here the permit comes back, who gets it is told (-EOWNERDEAD, with the
 * permit), and clears the table of those who hold no permit any more.
 */
#include "checked.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { ROUNDS = 100, MOST = 100 };

struct pool {
    _Alignas(8) char mutex[MDG_MUTEX_SIZE];
    int resources;
    uint32_t user[MOST]; /* the task that has it; 0: free */
    int uses;
    int told;
    int freed;
    int none_left; /* must stay 0: a permit, and no resource */
};

static void lock(mdg_mutex *mutex) {
    /* Nobody dies with the mutex in this program; the table would be whole. */
    if (CHECKED_BUT(-EOWNERDEAD, mdg_mutex_lock(mutex, MDG_FOREVER)) == -EOWNERDEAD) {
        CHECKED(mdg_mutex_consistent(mutex));
    }
}

/* Frees what is in the table for those who hold no permit: with the mutex held. */
static void clear_away_the_dead(mdg_sem *permits, struct pool *pool) {
    mdg_sem_holder holders[MOST];
    ssize_t count = CHECKED(mdg_sem_holders(permits, holders, MOST));
    for (int i = 0; i < pool->resources; i++) {
        int held = pool->user[i] == 0;
        for (ssize_t at = 0; at < count && !held; at++) {
            held = holders[at].pid == pool->user[i] && holders[at].alive;
        }
        if (!held) {
            pool->user[i] = 0;
            pool->freed++;
        }
    }
}

static int find(const struct pool *pool, uint32_t user) {
    for (int i = 0; i < pool->resources; i++) {
        if (pool->user[i] == user) {
            return i;
        }
    }
    return -1;
}

static int task(mdg_sem *permits, mdg_mutex *mutex, struct pool *pool, int dies) {
    uint32_t me = (uint32_t)getpid();
    for (int i = 0; i < ROUNDS; i++) {
        int told =
            CHECKED_BUT(-EOWNERDEAD, mdg_sem_wait(permits, MDG_FOREVER)) == -EOWNERDEAD;
        lock(mutex);
        pool->told += told;
        /* Another one may have been told, and not have come so far yet. */
        if (told || find(pool, 0) < 0) {
            clear_away_the_dead(permits, pool);
        }
        int mine = find(pool, 0);
        if (mine < 0) {
            pool->none_left++;
        } else {
            pool->user[mine] = me;
            pool->uses++;
        }
        CHECKED(mdg_mutex_unlock(mutex));
        if (dies && i == ROUNDS / 2) {
            raise(SIGKILL);
        }
        sched_yield();
        lock(mutex);
        if (mine >= 0) {
            pool->user[mine] = 0;
        }
        CHECKED(mdg_mutex_unlock(mutex));
        CHECKED(mdg_sem_post(permits));
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        usage("sem_then_mutex NAME TASKS RESOURCES");
    }
    int tasks = number(argv[2], 2, 50);
    int resources = number(argv[3], 1, MOST);

    mdg_sem_opts opts = {.size = sizeof opts,
                         .value = (uint32_t)resources,
                         .kind = MDG_SEM_UNDO,
                         .flags = MDG_SEM_TELL};
    mdg_sem *permits = NULL;
    CHECKED(mdg_sem_open(&permits, argv[1], &opts, O_CREAT | O_EXCL, 0600));
    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct pool), 0));
    struct pool *pool = mdg_shm_addr(shm);
    pool->resources = resources;
    mdg_mutex *mutex = NULL;
    CHECKED(mdg_mutex_init(&mutex, pool->mutex));

    for (int i = 0; i < tasks; i++) {
        if (fork_checked() == 0) {
            exit(task(permits, mutex, pool, i == 0));
        }
    }
    wait_for_children();

    /* A death is found by who waits, or looks at the value. If nobody has had to
     * wait since, we are the ones who find it, and are told. */
    CHECKED(mdg_sem_value(permits));
    if (CHECKED_BUT(-EOWNERDEAD, mdg_sem_wait(permits, MDG_MILLISECONDS(10000))) == -EOWNERDEAD) {
        pool->told++;
        clear_away_the_dead(permits, pool);
    }
    CHECKED(mdg_sem_post(permits));
    printf("%d tasks used %d resources %d times\n", tasks, resources, pool->uses);
    printf("told of a death: %d, resources taken from the dead: %d\n", pool->told, pool->freed);
    printf("a permit, and no resource: %d times\n", pool->none_left);
    printf("permits at the end: %d\n", (int)CHECKED(mdg_sem_value(permits)));
    int failed = pool->none_left != 0;
    mdg_mutex_close(mutex);
    mdg_shm_close(shm);
    mdg_sem_close(permits);
    CHECKED(mdg_sem_unlink(argv[1]));
    return failed;
}
