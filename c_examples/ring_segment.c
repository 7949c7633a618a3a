/* SPDX-License-Identifier: 0BSD
 *
 * ring_segment: a segment with two rings in it, one for questions and one for answers.
 *
 *     ./ring_segment /calculator 6 7
 *
 * The textbook's shared-memory region holds whatever the processes agree on. Here they agree on two
 * rings, one behind the other: one name, one descriptor, one unlink for both directions.
 */
#include "checked.h"

#include <fcntl.h>

struct question {
    int left, right;
};

static const mdg_ring_opts questions = {
    .size = sizeof(mdg_ring_opts), .capacity = 4, .item_size = sizeof(struct question)};
static const mdg_ring_opts answers = {
    .size = sizeof(mdg_ring_opts), .capacity = 4, .item_size = sizeof(int)};

static int calculate(const char *name, size_t second) {
    mdg_shm *shm = NULL;
    mdg_ring *in = NULL, *out = NULL;
    CHECKED(mdg_shm_open(&shm, name, 0, O_RDWR, 0));
    CHECKED(mdg_ring_attach(&in, shm, 0, &questions, O_RDONLY));
    CHECKED(mdg_ring_attach(&out, shm, second, &answers, O_WRONLY));
    mdg_shm_close(shm); /* the rings have a mapping of their own */

    struct question q;
    while (CHECKED_BUT(-EPIPE, mdg_ring_pop(in, &q, MDG_FOREVER)) != -EPIPE) {
        int answer = q.left * q.right;
        CHECKED(mdg_ring_push(out, &answer, MDG_FOREVER));
    }
    mdg_ring_close(out);
    mdg_ring_close(in);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        usage("ring_segment NAME NUMBER NUMBER");
    }
    struct question q = {number(argv[2], 0, 10000), number(argv[3], 0, 10000)};

    /* Sizes are multiples of 4096, so the second ring may begin where the first one ends. */
    size_t first = (size_t)CHECKED(mdg_ring_footprint(&questions));
    size_t both = first + (size_t)CHECKED(mdg_ring_footprint(&answers));
    mdg_shm *shm = NULL;
    mdg_ring *out = NULL, *in = NULL;
    CHECKED(mdg_shm_open(&shm, argv[1], both, O_CREAT | O_EXCL | O_RDWR, 0600));
    CHECKED(mdg_ring_init(&out, shm, 0, &questions, O_WRONLY));
    CHECKED(mdg_ring_init(&in, shm, first, &answers, O_RDONLY));
    if (fork_checked() == 0) {
        exit(calculate(argv[1], first));
    }

    int answer = 0;
    CHECKED(mdg_ring_push(out, &q, MDG_FOREVER));
    CHECKED(mdg_ring_pop(in, &answer, MDG_FOREVER));
    printf("%d * %d = %d\n", q.left, q.right, answer);
    CHECKED(mdg_ring_shutdown(out));
    int failed = wait_for_children();
    mdg_ring_close(in);
    mdg_ring_close(out);
    mdg_shm_close(shm);
    CHECKED(mdg_shm_unlink(argv[1]));
    return failed;
}
