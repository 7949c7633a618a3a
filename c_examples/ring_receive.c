/* SPDX-License-Identifier: 0BSD
 *
 * ring_receive: what ring_send put into a ring, to standard output; removes
 * the ring at the end.
 *
 *     ./ring_receive /stream >copy.tar &
 *     tar -cf - /usr/include | ./ring_send /stream
 *     kill -9 the sender while it runs: says so, exit 1
 *
 * The textbook's consumer, with bytes as items and many of them at a time:
 * write() takes them straight out of the ring's memory. It replays no listing;
 * a consumer that only compares in and out could not tell a finished sender
 * from a dead one, or from a slow one.
 */
#include "checked.h"
#include "ring_stream.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_receive NAME >output");
    }

    /* O_CREAT on this side too: either may be started first. */
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &ring_of_bytes, O_CREAT | O_RDONLY, 0600));

    const void *bytes = NULL;
    ssize_t length;
    while ((length = mdg_ring_peek(ring, &bytes, STREAM_RUN, MDG_FOREVER)) >= 0) {
        /* What write() did not take stays in the ring for the next turn. */
        length = CHECKED_OS(write(STDOUT_FILENO, bytes, (size_t)length));
        CHECKED(mdg_ring_release(ring, (size_t)length));
    }
    if (length == -EOWNERDEAD) {
        fprintf(stderr, "the sender died before the end\n");
    } else {
        checked(length, -EPIPE, "mdg_ring_peek");
    }

    mdg_ring_close(ring);
    CHECKED(mdg_ring_unlink(argv[1]));
    return length == -EPIPE ? 0 : 1;
}
