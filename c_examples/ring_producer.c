/* SPDX-License-Identifier: 0BSD
 *
 * ring_producer: puts the numbers 1..COUNT into a bounded buffer; when it is
 * full, sleeps until there is room.
 *
 *     ./ring_producer /numbers 1000 &
 *     ./ring_consumer /numbers 1000
 *
 * Replays the producer of the textbook's bounded buffer
 * (bounded_buffer_textbook.c is that listing, which burns a processor while it
 * waits and holds one item less than it has slots). This ring is asked for 10
 * as well. The library rounds up to a power of two, so it has 16 slots, and
 * since it counts what went in and out instead of comparing two positions, all
 * 16 can be full at once: a ring of N holds N.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.5, figure 3.12.
 */
#include "checked.h"
#include "ring_item.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("ring_producer NAME COUNT");
    }
    int count = number(argv[2], 1, 1000000000);

    /* O_CREAT on both sides: either may be started first. O_WRONLY: the producing end. */
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &ring_of_items, O_CREAT | O_WRONLY, 0600));

    mdg_ring_stats stats = {.size = sizeof stats};
    CHECKED(mdg_ring_stat(ring, &stats));

    /* Without waiting, until the ring says -EAGAIN: full. */
    struct item next = {.value = 1};
    while (next.value <= count &&
           CHECKED_BUT(-EAGAIN, mdg_ring_push(ring, &next, MDG_NOWAIT)) != -EAGAIN) {
        next.value++;
    }
    printf("asked for %d slots, got %d; %d items went in without waiting\n", BUFFER_SIZE,
           (int)stats.capacity, next.value - 1);
    fflush(stdout);

    /* The textbook's loop, asleep instead of spinning while the ring is full. */
    while (next.value <= count) {
        CHECKED(mdg_ring_push(ring, &next, MDG_FOREVER));
        next.value++;
    }

    /* "That was all": the consumer takes out what is left and then gets -EPIPE. */
    CHECKED(mdg_ring_shutdown(ring));
    mdg_ring_close(ring);
    return 0;
}
