/* SPDX-License-Identifier: 0BSD
 *
 * shm_consumer: reads the text that shm_producer left, and removes the object.
 *
 *     ./shm_producer OS
 *     ./shm_consumer OS        prints HelloWorld!
 *     ./shm_consumer OS        the object is gone: says so, exit 1
 *
 * Replays the consumer of the textbook's POSIX shared memory section. The
 * printed listing (shm_consumer_textbook.c) cannot run: it opens the object
 * O_RDONLY and then maps it PROT_READ | PROT_WRITE, which mmap refuses with
 * EACCES, because a writable shared mapping needs a descriptor open for
 * writing. It does not look at the result either, and hands MAP_FAILED to
 * printf. Here the access mode is said once, and the mapping follows it.
 *
 * A mapping has no notion of waiting, so there is nothing like -EAGAIN to
 * handle; "not there yet" is -ENOENT.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.1, figure 3.17.
 */
#include "checked.h"
#include "shm_greeting.h"

#include <fcntl.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("shm_consumer NAME");
    }

    mdg_shm *shm = NULL;
    /* Asking for GREETING_SIZE makes a smaller object an error here, not a fault later. */
    if (CHECKED_BUT(-ENOENT, mdg_shm_open(&shm, argv[1], GREETING_SIZE, O_RDONLY, 0)) == -ENOENT) {
        fprintf(stderr, "no such object: run shm_producer first\n");
        return 1;
    }

    /* Whoever wrote this may have left out the NUL: never print more than there is. */
    printf("%.*s\n", (int)mdg_shm_size(shm), (const char *)mdg_shm_addr(shm));

    mdg_shm_close(shm);
    CHECKED(mdg_shm_unlink(argv[1]));
    return 0;
}
