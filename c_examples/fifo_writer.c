/* SPDX-License-Identifier: 0BSD
 *
 * fifo_writer: copies standard input into a FIFO, a pipe with a name in the
 * file system, for a process that it is not related to.
 *
 *     echo hello | ./fifo_writer /tmp/letters 5000 &
 *     ./fifo_reader /tmp/letters 5000
 *     ./fifo_writer /tmp/letters 100       nobody reads: says so, exit 1
 *
 * The textbook describes FIFOs without a listing (mkfifo, then open, read,
 * write). What the plain calls do to the unwary: open blocks for ever until
 * the other side opens too, or fails with ENXIO if told not to block; and when
 * the reader goes away the writer is killed by SIGPIPE. Here opening takes a
 * time limit, and a reader that has gone is -EPIPE.
 *
 * Textbook: Operating System Concepts, 10th edition, described in section 3.7.4; no listing.
 */
#include "checked.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("fifo_writer PATH TIMEOUT_MS");
    }
    int patience = number(argv[2], 1, 1000000);

    /* Either side may come first; the second finds the FIFO there. */
    CHECKED_BUT(-EEXIST, mdg_fifo_create(argv[1], 0600));

    int fd = mdg_fifo_open(argv[1], O_WRONLY, MDG_MILLISECONDS(patience));
    if (fd == -ETIMEDOUT) {
        fprintf(stderr, "no reader came within %d ms\n", patience);
        CHECKED(mdg_fifo_unlink(argv[1]));
        return 1;
    }
    checked(fd, 0, "mdg_fifo_open");

    char bytes[4096];
    ssize_t length;
    while ((length = CHECKED_OS(read(STDIN_FILENO, bytes, sizeof bytes))) > 0) {
        CHECKED(mdg_pipe_write(fd, bytes, (size_t)length, MDG_FOREVER));
    }
    CHECKED_OS(close(fd));
    return 0;
}
