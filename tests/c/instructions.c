/* instructions FUNCTION OPERATIONS KIND
 *
 * Fills a ring of a kind (a number; 3 is a broadcast) and empties it again: by single items of 8 bytes,
 * by batches of 32 if FUNCTION is push_many or pop_many, in place if it is reserve, commit, peek or
 * release. With a fourth argument, pops an empty ring so often. Nothing waits; only the first call of each kind looks at the other side. Who runs this counts
 * instructions inside FUNCTION. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <madang/ring.h>

enum { CAPACITY = 4096, BATCH = 32 };

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, mdg_last_error());
        exit(1);
    }
}

int main(int argc, char **argv)
{
    mdg_ring_opts opts = { .size = sizeof opts, .capacity = CAPACITY, .item_size = 8 };
    mdg_ring *ring;
    uint64_t items[BATCH], sent = 0, seen = 0;

    check(argc == 4 || argc == 5, "usage: instructions FUNCTION OPERATIONS KIND [empty]");
    opts.kind = (uint32_t)atoi(argv[3]);
    opts.flags = opts.kind == MDG_RING_BROADCAST ? MDG_RING_OLDEST : 0;
    size_t operations = strtoul(argv[2], NULL, 10);
    int many = strstr(argv[1], "_many") != NULL;
    int in_place = strcmp(argv[1], "push") && strcmp(argv[1], "pop") && !many;
    void *room;
    const void *item;
    check(operations * (many ? BATCH : 1) < CAPACITY, "too many operations");
    check(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0, "mdg_ring_open");
    if (argc == 5) {
        for (size_t i = 0; i < operations; i++)
            check(mdg_ring_pop(ring, items, MDG_NOWAIT) == -EAGAIN, "empty");
        mdg_ring_close(ring);
        return 0;
    }
    for (size_t i = 0; i < operations; i++) {
        for (size_t j = 0; j < BATCH; j++)
            items[j] = sent + j;
        if (many)
            check(mdg_ring_push_many(ring, items, BATCH, MDG_NOWAIT) == BATCH, "push_many");
        else if (in_place) {
            check(mdg_ring_reserve(ring, &room, 1, MDG_NOWAIT) == 1, "reserve");
            memcpy(room, items, sizeof items[0]);
            check(mdg_ring_commit(ring, 1) == 0, "commit");
        } else
            check(mdg_ring_push(ring, items, MDG_NOWAIT) == 0, "push");
        sent += many ? BATCH : 1;
    }
    for (size_t i = 0; i < operations; i++) {
        if (many)
            check(mdg_ring_pop_many(ring, items, BATCH, MDG_NOWAIT) == BATCH, "pop_many");
        else if (in_place) {
            check(mdg_ring_peek(ring, &item, 1, MDG_NOWAIT) == 1, "peek");
            memcpy(items, item, sizeof items[0]);
            check(mdg_ring_release(ring, 1) == 0, "release");
        } else
            check(mdg_ring_pop(ring, items, MDG_NOWAIT) == 0, "pop");
        for (size_t j = 0; j < (many ? BATCH : 1); j++)
            check(items[j] == seen++, "order");
    }
    check(sent == seen, "count");
    mdg_ring_close(ring);
    return 0;
}
