/* SPDX-License-Identifier: 0BSD
 *
 * ring_afresh: one run of a stream, as often as one likes. A named ring outlives its programs, and
 * keeps its contents and the end of its stream: the next run must begin with a new one.
 *
 *     ./ring_afresh /runs 3 fresh    # as often as one likes
 *     ./ring_afresh /runs 3 old      # takes what is there: the stream of the last run has ended
 *     ./ring_afresh /runs 3 crash    # leaves items behind, and no end
 *     ./ring_afresh /runs 3 fresh    # is not concerned
 *
 * The textbook's consumer removes the object at the end (figure 3.17 of Operating System Concepts,
 * 10th edition). So a run that was killed leaves it, and the next one finds what nobody wanted.
 */
#include "checked.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 4) {
        usage("ring_afresh NAME COUNT fresh|old|crash");
    }
    int count = number(argv[2], 1, 16);
    /* The side that is started first says MDG_FRESH: what no living process uses is made anew. */
    int fresh = strcmp(argv[3], "old") == 0 ? 0 : MDG_FRESH;

    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 16, .item_size = sizeof(int)};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &opts, O_CREAT | O_RDWR | fresh, 0600));
    for (int i = 1; i <= count; i++) {
        if (CHECKED_BUT(-EPIPE, mdg_ring_push(ring, &i, MDG_NOWAIT)) == -EPIPE) {
            printf("push: -EPIPE, the stream of an earlier run has ended\n");
            mdg_ring_close(ring);
            return 1;
        }
    }
    if (strcmp(argv[3], "crash") == 0) {
        printf("%d items are left behind\n", count);
        fflush(stdout);
        _exit(3); /* without closing, and without the end of the stream */
    }
    CHECKED(mdg_ring_shutdown(ring));

    int item = 0, got = 0;
    while (CHECKED_BUT(-EPIPE, mdg_ring_pop(ring, &item, MDG_FOREVER)) != -EPIPE) {
        got++;
    }
    printf("%d items in, %d items out\n", count, got);
    mdg_ring_close(ring);
    return 0;
}
