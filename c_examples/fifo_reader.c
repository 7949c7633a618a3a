/* SPDX-License-Identifier: 0BSD
 *
 * fifo_reader: copies what comes through a FIFO to standard output, until the
 * writer closes it; then removes the FIFO.
 *
 *     ./fifo_reader /tmp/letters 5000 &
 *     echo hello | ./fifo_writer /tmp/letters 5000
 *     ./fifo_reader /tmp/letters 100       nobody writes: says so, exit 1
 *
 * The other half of fifo_writer.c, where the textbook's words on FIFOs are
 * compared with this. The plain read says 0 for "the writer has finished" and
 * also for "no writer has come yet": opening with a time limit tells the two
 * apart.
 *
 * Textbook: Operating System Concepts, 10th edition, described in section 3.7.4; no listing.
 */
#include "checked.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("fifo_reader PATH TIMEOUT_MS");
    }
    int patience = number(argv[2], 1, 1000000);

    CHECKED_BUT(-EEXIST, mdg_fifo_create(argv[1], 0600));

    int fd = mdg_fifo_open(argv[1], O_RDONLY, MDG_MILLISECONDS(patience));
    if (fd == -ETIMEDOUT) {
        fprintf(stderr, "no writer came within %d ms\n", patience);
        CHECKED(mdg_fifo_unlink(argv[1]));
        return 1;
    }
    checked(fd, 0, "mdg_fifo_open");

    char bytes[4096];
    ssize_t length;
    while ((length = CHECKED(mdg_pipe_read(fd, bytes, sizeof bytes, MDG_FOREVER))) > 0) {
        fwrite(bytes, 1, (size_t)length, stdout);
    }
    CHECKED_OS(fflush(stdout));

    CHECKED_OS(close(fd));
    CHECKED(mdg_fifo_unlink(argv[1]));
    return 0;
}
