/* SPDX-License-Identifier: 0BSD
 *
 * ring_send: standard input into a ring in shared memory, for ring_receive.
 *
 *     tar -cf - /usr/include | ./ring_send /stream &
 *     ./ring_receive /stream | tar -tf -
 *
 * The textbook's producer, with bytes as items and many of them at a time:
 * read() puts them straight into the ring's memory, so that nothing is copied
 * here. It replays no listing; what the textbook's loop would get wrong is the
 * same as in bounded_buffer_textbook.c, once per byte.
 */
#include "checked.h"
#include "ring_stream.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_send NAME <input");
    }

    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &ring_of_bytes, O_CREAT | O_WRONLY, 0600));

    for (;;) {
        void *room = NULL;
        ssize_t size = mdg_ring_reserve(ring, &room, STREAM_RUN, MDG_FOREVER);
        if (size == -EOWNERDEAD) {
            fprintf(stderr, "the receiver died; not everything has arrived\n");
            mdg_ring_close(ring);
            CHECKED(mdg_ring_unlink(argv[1])); /* it cannot do this any more */
            return 1;
        }
        checked(size, 0, "mdg_ring_reserve");

        ssize_t length = CHECKED_OS(read(STDIN_FILENO, room, (size_t)size));
        if (length == 0) {
            break;
        }
        CHECKED(mdg_ring_commit(ring, (size_t)length));
    }

    /* Only this tells the end of the stream from a sender that was killed. */
    CHECKED(mdg_ring_shutdown(ring));
    mdg_ring_close(ring);
    return 0;
}
