/* SPDX-License-Identifier: 0BSD
 *
 * pipe_two_way: question and answer between parent and child. A pipe runs one
 * way, so two-way takes two of them; each side gets one end of each.
 *
 *     ./pipe_two_way 5000 hello world      prints hello -> HELLO, …
 *     ./pipe_two_way 100 hello sulk world  the child never answers "sulk":
 *                                          the parent gives up after 100 ms
 *
 * The textbook says that two-way communication needs two pipes and leaves the
 * listing to the reader. What readers get wrong: with plain read and write,
 * two questions may arrive as one and half an answer as a whole one; and a
 * forgotten close keeps both sides waiting for each other's end of file. Here
 * each send is one message, received as one, and waiting has a limit.
 *
 * Textbook: Operating System Concepts, 10th edition, described in section 3.7.4; no listing.
 */
#include "checked.h"

#include <ctype.h>

enum { READ_END, WRITE_END, LONGEST = 100 };

/* Answers each word with the same in capitals, until the parent closes its end. */
static int child(const int fds[2]) {
    char word[LONGEST];
    ssize_t length;
    while ((length = CHECKED_BUT(
                -EPIPE, mdg_pipe_receive(fds[READ_END], word, sizeof word, MDG_FOREVER))) >= 0) {
        if (length == 4 && memcmp(word, "sulk", 4) == 0) {
            continue;
        }
        for (ssize_t i = 0; i < length; i++) {
            word[i] = (char)toupper((unsigned char)word[i]);
        }
        CHECKED(mdg_pipe_send(fds[WRITE_END], word, (size_t)length, MDG_FOREVER));
    }
    return 0;
}

/* Asks for one word; 0, or 1 if no answer came in time. */
static int ask(const int fds[2], const char *word, int patience) {
    CHECKED(mdg_pipe_send(fds[WRITE_END], word, strlen(word), MDG_FOREVER));

    char answer[LONGEST];
    ssize_t length =
        CHECKED_BUT(-ETIMEDOUT, mdg_pipe_receive(fds[READ_END], answer, sizeof answer,
                                                 MDG_MILLISECONDS(patience)));
    if (length == -ETIMEDOUT) {
        fprintf(stderr, "%s: no answer in %d ms\n", word, patience);
        return 1;
    }
    printf("%s -> %.*s\n", word, (int)length, answer);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        usage("pipe_two_way TIMEOUT_MS WORD...");
    }
    int patience = number(argv[1], 1, 1000000);
    int parent_fds[2];
    int child_fds[2];
    CHECKED(mdg_pipe_pair(parent_fds, child_fds, 0));

    int is_child = fork_checked() == 0;
    const int *others = is_child ? parent_fds : child_fds;
    CHECKED_OS(close(others[READ_END]));
    CHECKED_OS(close(others[WRITE_END]));
    if (is_child) {
        return child(child_fds);
    }

    int failed = 0;
    for (int i = 2; i < argc && !failed; i++) {
        failed = ask(parent_fds, argv[i], patience);
    }
    CHECKED_OS(close(parent_fds[WRITE_END])); /* the child's -EPIPE */
    failed |= wait_for_children();
    return failed;
}
