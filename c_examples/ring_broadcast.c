/* SPDX-License-Identifier: 0BSD
 *
 * ring_broadcast: one process tells the numbers 1..COUNT to three others, and
 * each of the three hears all of them.
 *
 *     ./ring_broadcast 1000 patient     the producer waits for the slowest
 *     ./ring_broadcast 1000 news        the producer waits for nobody
 *
 * The textbook's bounded buffer gives each item to one consumer. To tell all of
 * them it would need a buffer for each, or a count of readers in each slot that
 * a killed reader leaves wrong for ever. Here a consumer's place is its own: a
 * dead one is simply gone, and a slow one holds the producer or, where news is
 * worth more than history, is told how much of it went by.
 */
#include "checked.h"

#include <fcntl.h>
#include <stdbool.h>

enum { LISTENERS = 3, SLOTS = 8 };

/* Listens to the end, adding up what comes; 0 if nothing is missing but what it was told is. */
static int listen_to(mdg_ring *ring, int count, bool patient) {
    int64_t heard = 0;
    int told = 0;
    ssize_t result;
    while ((result = mdg_ring_pop(ring, &told, MDG_FOREVER)) != -EPIPE) {
        if (result == -EOVERFLOW) {
            continue; /* some went by; mdg_ring_lost counts them */
        }
        checked(result, 0, "mdg_ring_pop");
        heard++;
        if (told != heard + mdg_ring_lost(ring)) {
            return 1;
        }
    }
    if (patient) {
        printf("heard %d numbers, lost %d\n", (int)heard, (int)mdg_ring_lost(ring));
    } else {
        printf("heard and lost, together: %d numbers\n", (int)(heard + mdg_ring_lost(ring)));
    }
    return heard + mdg_ring_lost(ring) == count ? 0 : 1;
}

int main(int argc, char **argv) {
    bool patient = argc == 3 && strcmp(argv[2], "patient") == 0;
    if (argc != 3 || (!patient && strcmp(argv[2], "news") != 0)) {
        usage("ring_broadcast COUNT patient|news");
    }
    int count = number(argv[1], 1, 1000000000);

    mdg_ring_opts opts = {.size = sizeof opts,
                          .capacity = SLOTS,
                          .item_size = sizeof(int),
                          .kind = MDG_RING_BROADCAST,
                          .policy = patient ? 0 : MDG_RING_OVERWRITE};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_WRONLY, 0));

    /* Each listener joins before the first number is told. */
    for (int i = 0; i < LISTENERS; i++) {
        mdg_ring *ear = NULL;
        int joined[2];
        char byte = 0;
        CHECKED_OS(pipe(joined));
        if (fork_checked() == 0) {
            CHECKED(mdg_ring_dup(&ear, ring, O_RDONLY));
            CHECKED_OS(write(joined[1], &byte, 1));
            int result = listen_to(ear, count, patient);
            mdg_ring_close(ear);
            exit(result);
        }
        CHECKED_OS(read(joined[0], &byte, 1));
        CHECKED_OS(close(joined[0]));
        CHECKED_OS(close(joined[1]));
    }

    for (int i = 1; i <= count; i++) {
        CHECKED(mdg_ring_push(ring, &i, MDG_FOREVER));
    }
    CHECKED(mdg_ring_shutdown(ring));
    int failed = wait_for_children();
    mdg_ring_close(ring);
    return failed;
}
