/* SPDX-License-Identifier: 0BSD
 *
 * wait_any_inbox: two rings and a pipe, all waited for by one call.
 *
 *     ./wait_any_inbox 1000
 *
 * No listing of the textbook waits for more than one source; select() and poll() take descriptors
 * only. event_loop.c does the same with a descriptor of each ring in an epoll loop that exists.
 */
#include "checked.h"

#include <fcntl.h>

enum { RED, BLUE, WORDS, SOURCES };

static int send_numbers(mdg_ring *ring, int count) {
    for (int i = 1; i <= count; i++) {
        CHECKED(mdg_ring_push(ring, &i, MDG_FOREVER));
    }
    CHECKED(mdg_ring_shutdown(ring));
    mdg_ring_close(ring);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("wait_any_inbox COUNT");
    }
    int count = number(argv[1], 1, 1000000);
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 16, .item_size = sizeof(int)};
    mdg_wait waits[SOURCES] = {[WORDS] = {.events = MDG_POLL_IN}};
    for (int i = RED; i <= BLUE; i++) {
        waits[i].events = MDG_POLL_IN;
        CHECKED(mdg_ring_open(&waits[i].ring, NULL, &opts, O_RDWR, 0));
        if (fork_checked() == 0) {
            exit(send_numbers(waits[i].ring, count));
        }
    }
    int words[2];
    CHECKED(mdg_pipe_open(words, 0));
    if (fork_checked() == 0) {
        CHECKED(mdg_pipe_write(words[1], "one line\n", 9, MDG_FOREVER));
        exit(0);
    }
    CHECKED_OS(close(words[1]));
    waits[WORDS].fd = words[0];

    long long sums[2] = {0, 0};
    for (int open = SOURCES; open > 0;) {
        CHECKED(mdg_wait_any(waits, SOURCES, MDG_FOREVER));
        for (int i = RED; i <= BLUE; i++) {
            int item = 0;
            ssize_t got = waits[i].ready ? mdg_ring_pop(waits[i].ring, &item, MDG_NOWAIT) : 0;
            sums[i] += item;
            if (got == -EPIPE) { /* the end of this one: leave its entry out from now on */
                mdg_ring_close(waits[i].ring);
                waits[i] = (mdg_wait){.fd = -1, .events = MDG_POLL_IN};
                open--;
            } else if (got != -EAGAIN) {
                checked(got, 0, "mdg_ring_pop");
            }
        }
        char line[64];
        if (waits[WORDS].ready) {
            ssize_t got = CHECKED(mdg_pipe_read(words[0], line, sizeof line, MDG_NOWAIT));
            if (got > 0) {
                printf("words: %.*s", (int)got, line);
            } else {
                waits[WORDS] = (mdg_wait){.fd = -1, .events = MDG_POLL_IN};
                open--;
            }
        }
    }
    printf("red: sum %lld\nblue: sum %lld\n", sums[RED], sums[BLUE]);
    CHECKED_OS(close(words[0]));
    return wait_for_children();
}
