/* SPDX-License-Identifier: 0BSD
 *
 * shm_consumer_textbook: the consumer of the textbook's POSIX shared memory
 * section, call for call, without the library, so that its failure can be
 * watched; only the name comes from the command line.
 *
 *     ./shm_producer_textbook OS
 *     ./shm_consumer_textbook OS       mmap: Permission denied, exit 1
 *
 * What it gets wrong: the object is opened O_RDONLY and then mapped
 * PROT_READ | PROT_WRITE. A shared writable mapping would let the program
 * change what it may only read, so mmap answers EACCES, for every user, root
 * too. The one thing added here is the check after mmap: the listing has none
 * and would go on to read at address MAP_FAILED. shm_consumer.c and
 * shm_consumer_posix.c do better.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.1, figure 3.17.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: shm_consumer_textbook NAME\n");
        return 2;
    }

    const int SIZE = 4096;
    const char *name = argv[1];

    int fd = shm_open(name, O_RDONLY, 0666);
    char *ptr = mmap(0, (size_t)SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ptr == MAP_FAILED) { /* added */
        perror("mmap");
        return 1;
    }
    printf("%s", ptr);
    shm_unlink(name);
    return 0;
}
