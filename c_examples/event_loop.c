/* SPDX-License-Identifier: 0BSD
 *
 * event_loop: three rings and standard input, served by one epoll loop that
 * sleeps until one of the four has something.
 *
 *     for ring in /red /green /blue; do ./ring_producer $ring 1000 & done
 *     echo hello | ./event_loop /red /green /blue
 *
 * Replays no listing: the textbook's consumer waits for one buffer only. The
 * rule of the loop: after an event, take things out until -EAGAIN. A producer's
 * death is no event, so the loop also looks around once in a while.
 */
#include "checked.h"
#include "ring_item.h"

#include <fcntl.h>
#include <sys/epoll.h>

#define RINGS 3
#define LOOK_AROUND_MS 200

struct source {
    mdg_ring *ring; /* NULL once it has ended */
    int count;
    long long sum;
    const char *end;
};

static int finish(struct source *source, const char *name, const char *end) {
    mdg_ring_close(source->ring); /* takes its descriptor out of the epoll set, too */
    CHECKED(mdg_ring_unlink(name));
    source->ring = NULL;
    source->end = end;
    return 1;
}

/* Takes out what there is; 1 if that was the end of the ring. */
static int serve(struct source *source, const char *name) {
    struct item next;
    int result;
    while ((result = mdg_ring_pop(source->ring, &next, MDG_NOWAIT)) >= 0) {
        source->count++;
        source->sum += next.value;
    }
    if (result == -EPIPE) {
        return finish(source, name, "has finished");
    }
    checked(result, -EAGAIN, "mdg_ring_pop"); /* from here on its descriptor is quiet again */
    return 0;
}

/* What no event tells: what a producer that died has left, and that it died. */
static int look_around(struct source *source, const char *name) {
    mdg_ring_stats stats = {.size = sizeof stats};
    if (source->ring == NULL) {
        return 0;
    }
    CHECKED(mdg_ring_stat(source->ring, &stats));
    if (serve(source, name)) {
        return 1;
    }
    return stats.producer_state == MDG_RING_END_DEAD ? finish(source, name, "died") : 0;
}

static void add(int epoll, int fd, uint32_t which) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = which};
    CHECKED_OS(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

int main(int argc, char **argv) {
    if (argc != 1 + RINGS) {
        usage("event_loop NAME NAME NAME <input");
    }
    struct source sources[RINGS] = {{0}};
    int epoll = (int)CHECKED_OS(epoll_create1(EPOLL_CLOEXEC));
    for (uint32_t i = 0; i < RINGS; i++) {
        struct source *source = &sources[i];
        CHECKED(mdg_ring_open(&source->ring, argv[1 + i], &ring_of_items, O_CREAT | O_RDONLY, 0600));
        add(epoll, (int)CHECKED(mdg_ring_fd(source->ring, MDG_POLL_IN)), i);
    }
    add(epoll, STDIN_FILENO, RINGS);

    long long bytes = 0;
    int open = RINGS + 1;
    while (open > 0) {
        struct epoll_event events[RINGS + 1];
        int count = (int)CHECKED_OS(epoll_wait(epoll, events, RINGS + 1, LOOK_AROUND_MS));
        for (int i = 0; i < count; i++) {
            uint32_t which = events[i].data.u32;
            if (which < RINGS) {
                open -= serve(&sources[which], argv[1 + which]);
                continue;
            }
            char buffer[4096];
            ssize_t length = CHECKED_OS(read(STDIN_FILENO, buffer, sizeof buffer));
            bytes += length;
            if (length == 0) {
                CHECKED_OS(epoll_ctl(epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL));
                open--;
            }
        }
        for (int i = 0; count == 0 && i < RINGS; i++) {
            open -= look_around(&sources[i], argv[1 + i]);
        }
    }
    for (int i = 0; i < RINGS; i++) {
        printf("ring %d: %d items, sum %lld, its producer %s\n", i + 1, sources[i].count,
               sources[i].sum, sources[i].end);
    }
    printf("standard input: %lld bytes\n", bytes);
    close(epoll);
    return 0;
}
