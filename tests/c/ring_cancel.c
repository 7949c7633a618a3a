/* SPDX-License-Identifier: 0BSD */
/* No call on rings is a cancellation point: a thread with a cancellation pending opens, pushes,
 * waits, duplicates and closes, and is cancelled only where it asks for it. Exit 0, or 1. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#include <madang.h>

static int reached;

static void *worker(void *unused)
{
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4};
    mdg_ring *ring, *copy;
    mdg_ring_stats stats = {.size = sizeof stats};
    int item = 7;
    pthread_cancel(pthread_self());
    if (mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0 &&
        mdg_ring_push(ring, &item, MDG_FOREVER) == 0 &&
        mdg_ring_pop(ring, &item, MDG_FOREVER) == 0 &&
        mdg_ring_pop(ring, &item, MDG_MILLISECONDS(20)) == -ETIMEDOUT &&
        mdg_ring_stat(ring, &stats) == 0 &&
        mdg_ring_dup(&copy, ring, O_RDWR) == 0) {
        mdg_ring_close(copy);
        mdg_ring_close(ring);
        reached = 1;
    }
    pthread_testcancel();
    reached = 0;
    return unused;
}

int main(void)
{
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, worker, NULL) != 0 || pthread_join(thread, &result) != 0)
        return 1;
    if (!reached || result != PTHREAD_CANCELED)
        fprintf(stderr, "%d %s\n", reached, mdg_last_error());
    return reached && result == PTHREAD_CANCELED ? 0 : 1;
}
