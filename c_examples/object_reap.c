/* SPDX-License-Identifier: 0BSD
 *
 * object_reap: what a killed process has left in a ring is found from outside, mended, and the ring
 * removed when nobody uses it any more.
 *
 *     ./object_reap /left
 *
 * The textbook names objects and says nothing of what becomes of them: a shared-memory object, a
 * named semaphore stay until somebody unlinks them, in use or not. Here the kernel proves that no
 * living process has a handle before anything is removed.
 */
#include "checked.h"

#include <fcntl.h>
#include <signal.h>

/* How the list of all objects describes this one. */
static void look(const char *name) {
    mdg_object_info all[256] = {{.size = sizeof all[0]}};
    ssize_t count = CHECKED(mdg_object_list(all, 256));
    for (ssize_t i = 0; i < count && i < 256; i++) {
        if (all[i].mechanism == MDG_OBJECT_RING && strcmp(all[i].name, name) == 0) {
            printf("listed: %d items, handles: %d living, %d dead\n", (int)all[i].length,
                   (int)all[i].handles_live, (int)all[i].handles_dead);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 2 || argv[1][0] != '/') {
        usage("object_reap /NAME");
    }
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = sizeof(int)};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, argv[1], &opts, O_CREAT | O_EXCL | O_RDONLY, 0600));

    if (fork_checked() == 0) {
        mdg_ring *end = NULL;
        int item = 1;
        void *room = NULL;
        CHECKED(mdg_ring_open(&end, argv[1], NULL, O_WRONLY, 0));
        CHECKED(mdg_ring_push(end, &item, MDG_FOREVER));
        CHECKED(mdg_ring_reserve(end, &room, 1, MDG_FOREVER));
        raise(SIGKILL); /* with room reserved */
    }
    wait_for_children();

    look(argv[1]);
    printf("findings: %d\n", (int)CHECKED(mdg_object_check(MDG_OBJECT_RING, argv[1], NULL, 0)));
    printf("mended: %d\n", (int)CHECKED(mdg_object_repair(MDG_OBJECT_RING, argv[1])));
    look(argv[1]);

    ssize_t removed = CHECKED_BUT(-EBUSY, mdg_object_reap(MDG_OBJECT_RING, argv[1], 0));
    printf("reaped while I have it open: %s\n", removed == -EBUSY ? "no, -EBUSY" : "yes");
    mdg_ring_close(ring);
    removed = CHECKED_BUT(-ENOTEMPTY, mdg_object_reap(MDG_OBJECT_RING, argv[1], 0));
    printf("reaped with an item in it: %s\n", removed == -ENOTEMPTY ? "no, -ENOTEMPTY" : "yes");
    removed = CHECKED(mdg_object_reap(MDG_OBJECT_RING, argv[1], MDG_REAP_WITH_ITEMS));
    printf("reaped with its item: %d\n", (int)removed);
    return 0;
}
