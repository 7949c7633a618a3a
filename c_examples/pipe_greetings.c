/* SPDX-License-Identifier: 0BSD
 *
 * pipe_greetings: a parent sends its child a word through an ordinary pipe.
 *
 *     ./pipe_greetings        prints read Greetings
 *
 * Replays the textbook's ordinary pipe (pipe_greetings_textbook.c is that
 * listing, which looks at no result and trusts that one read brings all).
 * Here the write is complete or an error, never a SIGPIPE; the read goes on
 * until the end of the file, and the program knows how much it got instead of
 * looking for a NUL. The descriptors are ordinary ones: close() closes them.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.4, figures 3.21 and 3.22.
 */
#include "checked.h"

enum { READ_END, WRITE_END };

static int child(const int fds[2]) {
    /* As long as we held the writing end ourselves, the end of the file would never come. */
    CHECKED_OS(close(fds[WRITE_END]));

    char words[25];
    ssize_t length = CHECKED(mdg_pipe_read_full(fds[READ_END], words, sizeof words, MDG_FOREVER));
    printf("read %.*s\n", (int)length, words);

    CHECKED_OS(close(fds[READ_END]));
    return 0;
}

int main(void) {
    int fds[2];
    CHECKED(mdg_pipe_open(fds, 0));

    if (fork_checked() == 0) {
        return child(fds);
    }

    const char *words = "Greetings";
    CHECKED_OS(close(fds[READ_END]));
    CHECKED(mdg_pipe_write(fds[WRITE_END], words, strlen(words), MDG_FOREVER));
    CHECKED_OS(close(fds[WRITE_END])); /* the child's end of file */
    return wait_for_children();
}
