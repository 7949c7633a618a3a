/* SPDX-License-Identifier: 0BSD
 *
 * ring_evict: a broadcast that waits for nobody but gives up nothing that a quick listener needs. A
 * listener that falls asleep is taken out, is told so, and comes back.
 *
 *     ./ring_evict 1000
 *
 * The textbook's bounded buffer has one answer to a slow consumer: the producer waits.
 */
#include "checked.h"

#include <fcntl.h>

enum { SLOTS = 16 };

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_evict COUNT");
    }
    int count = number(argv[1], SLOTS + 1, 1000000);
    mdg_ring_opts opts = {.size = sizeof opts,
                          .capacity = SLOTS,
                          .item_size = sizeof(int),
                          .kind = MDG_RING_BROADCAST,
                          .policy = MDG_RING_EVICT};
    /* One process is enough to see it: each handle is a participant of its own. */
    mdg_ring *ring = NULL, *quick = NULL, *asleep = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_WRONLY, 0));
    CHECKED(mdg_ring_dup(&quick, ring, O_RDONLY));
    CHECKED(mdg_ring_dup(&asleep, ring, O_RDONLY));

    int item = 0, heard = 0;
    for (int i = 1; i <= count; i++) {
        CHECKED(mdg_ring_push(ring, &i, MDG_FOREVER)); /* never waits for the one who sleeps */
        CHECKED(mdg_ring_pop(quick, &item, MDG_FOREVER));
        heard += item == i;
    }
    CHECKED(mdg_ring_shutdown(ring));
    printf("quick: heard %d, lost %d\n", heard, (int)mdg_ring_lost(quick));

    ssize_t first = CHECKED_BUT(-EOVERFLOW, mdg_ring_pop(asleep, &item, MDG_FOREVER));
    printf("asleep: %s\n", first == -EOVERFLOW ? "told -EOVERFLOW" : "not told");
    heard = 0;
    while (CHECKED_BUT(-EPIPE, mdg_ring_pop(asleep, &item, MDG_FOREVER)) != -EPIPE) {
        heard++;
    }
    printf("asleep: the last it heard is %d; heard and lost, together: %d\n", item,
           heard + (int)mdg_ring_lost(asleep));
    mdg_ring_close(asleep);
    mdg_ring_close(quick);
    mdg_ring_close(ring);
    return 0;
}
