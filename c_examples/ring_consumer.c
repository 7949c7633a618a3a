/* SPDX-License-Identifier: 0BSD
 *
 * ring_consumer: takes numbers out of a bounded buffer until the producer says
 * that there are no more; when it is empty, sleeps, but not for ever.
 *
 *     ./ring_producer /numbers 1000 &
 *     ./ring_consumer /numbers 5000    waits up to 5000 ms for each number
 *     ./ring_consumer /nobody 100      gives up after 100 ms, exit 1
 *
 * Replays the consumer of the textbook's bounded buffer. The listing spins
 * while the buffer is empty, and has no way to learn that the producer has
 * finished, or that it has died: here the first is -EPIPE, after the last item,
 * and the second -EOWNERDEAD.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.5, figure 3.13.
 */
#include "checked.h"
#include "ring_item.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("ring_consumer NAME TIMEOUT_MS");
    }
    int patience = number(argv[2], 1, 1000000);

    /* O_RDONLY: the consuming end. */
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &ring_of_items, O_CREAT | O_RDONLY, 0600));

    int count = 0;
    long long sum = 0;
    struct item next;
    int result;
    while ((result = mdg_ring_pop(ring, &next, MDG_MILLISECONDS(patience))) >= 0) {
        count++;
        sum += next.value;
    }
    if (result == -ETIMEDOUT) {
        fprintf(stderr, "nothing came for %d ms: giving up\n", patience);
    } else if (result == -EOWNERDEAD) {
        fprintf(stderr, "the producer died after %d items\n", count);
    } else {
        /* -EPIPE: the producer has shut the ring, and we have everything. */
        checked(result, -EPIPE, "mdg_ring_pop");
        printf("consumed %d items, sum %lld\n", count, sum);
    }

    mdg_ring_close(ring);
    CHECKED(mdg_ring_unlink(argv[1]));
    return result == -EPIPE ? 0 : 1;
}
