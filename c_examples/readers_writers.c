/* SPDX-License-Identifier: 0BSD
 *
 * readers_writers: many may read at once, but nobody while one writes. A reader
 * dies while it reads.
 *
 *     ./readers_writers /page 3 2 100
 *
 * Replays the textbook's readers-writers problem. Its listing counts the readers
 * in a variable: a reader that dies leaves it one too high, and no writer ever
 * gets in again. Here the count is a semaphore of kind MDG_SEM_UNDO: a reader
 * holds one permit, a writer takes all of them, and the permit of a dead reader
 * comes back by itself. A mutex lets one writer at a time collect permits.
 *
 * Textbook: Operating System Concepts, 10th edition, section 7.1.2, figures 7.3 and 7.4.
 */
#include "checked.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { READERS_AT_ONCE = 4 };

struct page {
    _Alignas(8) char writers[MDG_MUTEX_SIZE];
    int first; /* equal to `second` whenever nobody writes */
    int second;
    atomic_int torn; /* must stay 0 */
};

static int reader(mdg_sem *room, struct page *page, int rounds, int dies) {
    for (int i = 0; i < rounds; i++) {
        CHECKED(mdg_sem_wait(room, MDG_FOREVER));
        if (dies && i == rounds / 2) {
            raise(SIGKILL);
        }
        int first = page->first;
        sched_yield();
        if (first != page->second) {
            atomic_fetch_add(&page->torn, 1);
        }
        CHECKED(mdg_sem_post(room));
    }
    return 0;
}

static int writer(mdg_sem *room, mdg_mutex *writers, struct page *page, int rounds) {
    for (int i = 0; i < rounds; i++) {
        CHECKED(mdg_mutex_lock(writers, MDG_FOREVER));
        for (int taken = 0; taken < READERS_AT_ONCE; taken++) {
            CHECKED(mdg_sem_wait(room, MDG_FOREVER));
        }
        page->first++;
        sched_yield();
        page->second++;
        for (int taken = 0; taken < READERS_AT_ONCE; taken++) {
            CHECKED(mdg_sem_post(room));
        }
        CHECKED(mdg_mutex_unlock(writers));
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        usage("readers_writers NAME READERS WRITERS ROUNDS");
    }
    int readers = number(argv[2], 1, 20);
    int writers = number(argv[3], 1, 20);
    int rounds = number(argv[4], 1, 100000);

    mdg_sem_opts opts = {
        .size = sizeof opts, .value = READERS_AT_ONCE, .kind = MDG_SEM_UNDO};
    mdg_sem *room = NULL;
    CHECKED(mdg_sem_open(&room, argv[1], &opts, O_CREAT | O_EXCL, 0600));
    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct page), 0));
    struct page *page = mdg_shm_addr(shm);
    mdg_mutex *one_writer = NULL;
    CHECKED(mdg_mutex_init(&one_writer, page->writers));

    for (int i = 0; i < readers + writers; i++) {
        if (fork_checked() == 0) {
            /* The first reader dies. Each child's permits are its own. */
            exit(i < readers ? reader(room, page, rounds, i == 0)
                             : writer(room, one_writer, page, rounds));
        }
    }
    wait_for_children();

    printf("%d writers wrote %d times\n", writers, page->first);
    printf("torn pages read: %d\n", page->torn);
    printf("permits at the end: %d of %d\n", (int)CHECKED(mdg_sem_value(room)), READERS_AT_ONCE);
    int failed = page->torn != 0 || page->first != writers * rounds;
    mdg_mutex_close(one_writer);
    mdg_shm_close(shm);
    mdg_sem_close(room);
    CHECKED(mdg_sem_unlink(argv[1]));
    return failed;
}
