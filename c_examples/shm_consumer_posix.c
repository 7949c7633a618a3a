/* SPDX-License-Identifier: 0BSD
 *
 * shm_consumer_posix: shm_consumer again, without the library. A segment that
 * Madang makes is a plain POSIX object with no header in it, so a program that
 * knows only shm_open, fstat and mmap is a full peer.
 *
 *     ./shm_producer OS
 *     ./shm_consumer_posix OS      prints HelloWorld!
 *
 * Replays the consumer of the textbook's POSIX shared memory section, mended:
 * mapped for reading only, as it was opened; size asked for; calls checked.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.1, figure 3.17.
 */
#include "checked.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("shm_consumer_posix NAME");
    }

    int fd = (int)CHECKED_OS(shm_open(argv[1], O_RDONLY, 0));
    struct stat object;
    CHECKED_OS(fstat(fd, &object));

    void *text = mmap(NULL, (size_t)object.st_size, PROT_READ, MAP_SHARED, fd, 0);
    CHECKED_OS(text == MAP_FAILED ? -1 : 0);
    printf("%.*s\n", (int)object.st_size, (const char *)text);

    CHECKED_OS(munmap(text, (size_t)object.st_size));
    CHECKED_OS(close(fd));
    CHECKED_OS(shm_unlink(argv[1]));
    return 0;
}
