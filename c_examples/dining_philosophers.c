/* SPDX-License-Identifier: 0BSD
 *
 * dining_philosophers: five philosophers, five chopsticks, and two are needed
 * to eat. One of them dies at the table with both in hand.
 *
 *     ./dining_philosophers 100
 *
 * Replays the textbook's dining philosophers. Its listing (each takes the left
 * one, then the right one) ends in a deadlock when all reach out at once; here
 * everybody takes the chopstick with the smaller number first. The textbook's
 * chopsticks are semaphores: those of the dead would be gone for ever, and with
 * them their neighbours' dinners. These are mutexes: who takes the chopstick of
 * a dead one is told (-EOWNERDEAD), wipes it, and eats.
 *
 * Textbook: Operating System Concepts, 10th edition, section 7.1.3, figure 7.6.
 */
#include "checked.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { SEATS = 5, DIES = 2 };

struct table {
    _Alignas(8) char chopsticks[SEATS][MDG_MUTEX_SIZE];
    atomic_int in_hand[SEATS]; /* more than 1 must never be seen */
    atomic_int meals[SEATS];
    atomic_int wiped;
    atomic_int shared; /* must stay 0 */
};

static void take(mdg_mutex *chopstick, struct table *table, int which) {
    if (CHECKED_BUT(-EOWNERDEAD, mdg_mutex_lock(chopstick, MDG_FOREVER)) == -EOWNERDEAD) {
        atomic_store(&table->in_hand[which], 0);
        atomic_fetch_add(&table->wiped, 1);
        CHECKED(mdg_mutex_consistent(chopstick));
    }
    if (atomic_fetch_add(&table->in_hand[which], 1) != 0) {
        atomic_fetch_add(&table->shared, 1);
    }
}

static void put_back(mdg_mutex *chopstick, struct table *table, int which) {
    atomic_fetch_sub(&table->in_hand[which], 1);
    CHECKED(mdg_mutex_unlock(chopstick));
}

static int philosopher(int seat, mdg_mutex **chopsticks, struct table *table, int meals) {
    int neighbour = (seat + 1) % SEATS;
    int first = seat < neighbour ? seat : neighbour;
    int second = seat < neighbour ? neighbour : seat;
    for (int i = 0; i < meals; i++) {
        take(chopsticks[first], table, first);
        take(chopsticks[second], table, second);
        if (seat == DIES && i == meals / 2) {
            raise(SIGKILL);
        }
        atomic_fetch_add(&table->meals[seat], 1);
        sched_yield();
        put_back(chopsticks[second], table, second);
        put_back(chopsticks[first], table, first);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("dining_philosophers MEALS");
    }
    int meals = number(argv[1], 1, 100000);

    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct table), 0));
    struct table *table = mdg_shm_addr(shm);
    mdg_mutex *chopsticks[SEATS];
    for (int i = 0; i < SEATS; i++) {
        CHECKED(mdg_mutex_init(&chopsticks[i], table->chopsticks[i]));
    }

    for (int seat = 0; seat < SEATS; seat++) {
        if (fork_checked() == 0) {
            exit(philosopher(seat, chopsticks, table, meals));
        }
    }
    /* One of them does not come back: that is the point. */
    wait_for_children();

    for (int seat = 0; seat < SEATS; seat++) {
        printf("philosopher %d ate %d times%s\n", seat, table->meals[seat],
               seat == DIES ? " and died" : "");
        /* What nobody has wiped is found by who clears the table. */
        take(chopsticks[seat], table, seat);
        put_back(chopsticks[seat], table, seat);
        mdg_mutex_close(chopsticks[seat]);
    }
    printf("chopsticks of the dead, wiped: %d\n", table->wiped);
    printf("in two hands at once: %d times\n", table->shared);
    int failed = table->shared != 0;
    mdg_shm_close(shm);
    return failed;
}
