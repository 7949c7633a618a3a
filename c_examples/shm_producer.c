/* SPDX-License-Identifier: 0BSD
 *
 * shm_producer: leaves a text in shared memory for a process that comes later.
 *
 *     ./shm_producer OS
 *     ./shm_consumer OS        prints HelloWorld! and removes the object
 *
 * Replays the producer of the textbook's POSIX shared memory section
 * (shm_producer_textbook.c is that listing). The listing checks no call, so a
 * full /dev/shm shows up as a signal at the first store; between its shm_open
 * and its ftruncate a reader finds an object of size 0; and its sprintf would
 * run past the end with a longer text. Here the object appears with its full
 * size and its pages reserved, or not at all.
 *
 * Nothing here tells a reader *when* the text is complete: the shell does, by
 * running one program after the other. See sem_producer.c for two that run at
 * the same time.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.1, figure 3.16.
 */
#include "checked.h"
#include "shm_greeting.h"

#include <fcntl.h>

/* Appends `words` to the text of `length` bytes at `text`; returns the new length. */
static size_t append(char *text, size_t length, const char *words) {
    size_t more = strlen(words);
    if (length + more >= GREETING_SIZE) {
        fprintf(stderr, "the text does not fit into %d bytes\n", GREETING_SIZE);
        exit(1);
    }
    memcpy(text + length, words, more + 1);
    return length + more;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("shm_producer NAME");
    }

    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_open(&shm, argv[1], GREETING_SIZE, O_CREAT | O_RDWR, 0600));

    char *text = mdg_shm_addr(shm);
    size_t length = append(text, 0, "Hello");
    append(text, length, "World!");

    /* The object stays under its name until somebody unlinks it. */
    mdg_shm_close(shm);
    return 0;
}
