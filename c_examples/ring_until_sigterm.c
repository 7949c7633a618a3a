/* SPDX-License-Identifier: 0BSD
 *
 * ring_until_sigterm: a service that takes items without a time limit, until
 * the stream ends or it is told to stop by SIGTERM or SIGINT.
 *
 *     ./ring_until_sigterm /numbers & sleep 1; kill -TERM $!
 *
 * Replays no listing: textbooks set a flag in the handler and look at it
 * between two calls. A signal that is caught after that look and before the
 * sleep is then not noticed: the program sleeps on. mdg_interrupt in the handler
 * ends the call that is going on, or else the next one.
 */
#include "checked.h"
#include "ring_item.h"

#include <fcntl.h>
#include <signal.h>

static volatile sig_atomic_t told_to_stop;

static void stop(int signal) {
    (void)signal;
    told_to_stop = 1;
    mdg_interrupt();
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("ring_until_sigterm NAME");
    }
    struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};
    CHECKED_OS(sigaction(SIGTERM, &action, NULL));
    CHECKED_OS(sigaction(SIGINT, &action, NULL));
    mdg_ring *ring;
    CHECKED(mdg_ring_open(&ring, argv[1], &ring_of_items, O_CREAT | O_RDONLY, 0600));
    puts("waiting for items");
    fflush(stdout);

    int count = 0;
    struct item next;
    const char *end = "was told to stop";
    while (!told_to_stop) {
        int result = mdg_ring_pop(ring, &next, MDG_FOREVER);
        if (result == -EPIPE) {
            end = "found the end of the stream";
            break;
        }
        if (result != -EINTR) {
            CHECKED(result);
            count++;
        }
    }
    printf("%d items taken; %s\n", count, end);
    mdg_ring_close(ring);
    CHECKED(mdg_ring_unlink(argv[1]));
    return 0;
}
