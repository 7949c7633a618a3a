/* SPDX-License-Identifier: 0BSD
 *
 * mutex_counter: processes that know a mutex and a segment by name count together. One is killed
 * with the mutex locked and the data half changed; the next one mends it and goes on.
 *
 *     ./mutex_counter /count 1000
 *
 * Replays the mutex lock of Operating System Concepts, 10th edition, section 6.5. There the death
 * of a process between acquire() and release() stops all the others for good.
 */
#include "checked.h"

#include <fcntl.h>
#include <signal.h>

enum { COUNTERS = 3 };

struct count {
    int begun, done; /* the same, unless somebody died in between */
    int mended;
};

static int count_up(const char *name, int rounds, int deadly) {
    mdg_mutex *mutex = NULL;
    mdg_shm *shm = NULL;
    CHECKED(mdg_mutex_open(&mutex, name, O_CREAT, 0600));
    CHECKED(mdg_shm_open(&shm, name, sizeof(struct count), O_CREAT | O_RDWR, 0600));
    struct count *count = mdg_shm_addr(shm);

    for (int i = 0; i < rounds; i++) {
        if (CHECKED_BUT(-EOWNERDEAD, mdg_mutex_lock(mutex, MDG_FOREVER)) == -EOWNERDEAD) {
            count->begun = count->done; /* held, and what it protects may be in pieces */
            count->mended++;
            CHECKED(mdg_mutex_consistent(mutex));
        }
        count->begun++;
        if (i == deadly) {
            raise(SIGKILL);
        }
        count->done++;
        CHECKED(mdg_mutex_unlock(mutex));
    }
    mdg_shm_close(shm);
    mdg_mutex_close(mutex);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("mutex_counter NAME ROUNDS");
    }
    int rounds = number(argv[2], 2, 1000000);
    for (int i = 0; i < COUNTERS; i++) {
        if (fork_checked() == 0) {
            exit(count_up(argv[1], rounds, i == 0 ? rounds / 2 : -1));
        }
    }
    printf("a process died with the mutex: %s\n", wait_for_children() ? "yes" : "no");

    /* Once more, so that the last one to die would be noticed, too. */
    int failed = count_up(argv[1], 1, -1);
    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_open(&shm, argv[1], 0, O_RDONLY, 0));
    const struct count *count = mdg_shm_addr(shm);
    printf("counted to %d, mended %d time\n", count->done, count->mended);
    mdg_shm_close(shm);
    CHECKED(mdg_shm_unlink(argv[1]));
    CHECKED(mdg_mutex_unlink(argv[1]));
    return failed;
}
