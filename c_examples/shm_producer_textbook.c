/* SPDX-License-Identifier: 0BSD
 *
 * shm_producer_textbook: the producer of the textbook's POSIX shared memory
 * section, call for call, without the library; only the name comes from the
 * command line. It runs, as long as nothing goes wrong.
 *
 *     ./shm_producer_textbook OS
 *     ./shm_consumer OS            prints HelloWorld!: both are plain POSIX
 *
 * What it gets wrong: no result is looked at (try a name that another user
 * owns: it dies of SIGSEGV, on MAP_FAILED); a reader that comes between
 * shm_open and ftruncate sees an object of size 0; the pages are not reserved,
 * so a full /dev/shm is a SIGBUS at the sprintf. shm_producer.c does better.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.1, figure 3.16.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: shm_producer_textbook NAME\n");
        return 2;
    }

    const int SIZE = 4096;
    const char *name = argv[1];
    const char *message_0 = "Hello";
    const char *message_1 = "World!";

    int fd = shm_open(name, O_CREAT | O_RDWR, 0666);
    int unchecked = ftruncate(fd, SIZE); /* kept, so that no compiler complains */
    (void)unchecked;

    char *ptr = mmap(0, (size_t)SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    sprintf(ptr, "%s", message_0);
    ptr += strlen(message_0);
    sprintf(ptr, "%s", message_1);
    ptr += strlen(message_1);
    return 0;
}
