/* SPDX-License-Identifier: 0BSD
 *
 * sem_task_sync: task B must not do its part before task A has done its own.
 * A semaphore that starts at 0 is enough.
 *
 *     ./sem_task_sync /synch B &       waits, whoever is started first
 *     ./sem_task_sync /synch A
 *
 * Replays the textbook's two statements S1 and S2 with the semaphore synch:
 * S1; signal(synch) in one process, wait(synch); S2 in the other. The printed
 * fragment leaves open who creates the semaphore; if each side made its own,
 * or the second set it to 0 again, B would sleep for ever. O_CREAT without
 * O_EXCL gives both the same one, and the value counts only when it is new.
 *
 * Textbook: Operating System Concepts, 10th edition, section 6.6.1; no figure.
 */
#include "checked.h"

#include <fcntl.h>

static void task_a(mdg_sem *synch) {
    printf("A: statement S1\n");
    fflush(stdout); /* S1 is done only when it can be seen */
    CHECKED(mdg_sem_post(synch));
}

static void task_b(mdg_sem *synch) {
    /* Not waiting at all answers -EAGAIN: a way to ask. */
    if (CHECKED_BUT(-EAGAIN, mdg_sem_wait(synch, MDG_NOWAIT)) == -EAGAIN) {
        printf("B: A is not ready, waiting\n");
        fflush(stdout);
        CHECKED(mdg_sem_wait(synch, MDG_FOREVER));
    }
    printf("B: statement S2\n");
}

int main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[2], "A") != 0 && strcmp(argv[2], "B") != 0)) {
        usage("sem_task_sync NAME A|B");
    }

    mdg_sem *synch = NULL;
    CHECKED(mdg_sem_open(&synch, argv[1], NULL, O_CREAT, 0600)); /* no options: it starts at 0 */

    if (argv[2][0] == 'A') {
        task_a(synch);
    } else {
        task_b(synch);
        CHECKED(mdg_sem_unlink(argv[1])); /* A has posted, so A has opened it: nobody looks again */
    }
    mdg_sem_close(synch);
    return 0;
}
