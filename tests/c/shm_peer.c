/* A program that knows POSIX and nothing of this library.
 * shm_peer make NAME SIZE   makes the object and fills it with a pattern
 * shm_peer check NAME SIZE  finds the object with exactly SIZE bytes of the pattern, read-write
 * The pattern of byte i is (i * 7 + 3) & 0xff. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned char pattern(size_t i)
{
    return (unsigned char)(i * 7 + 3);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int make = strcmp(argv[1], "make") == 0;
    size_t size = strtoul(argv[3], NULL, 10);
    int fd = shm_open(argv[2], make ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0600);
    if (fd < 0)
        return 3;
    if (make && ftruncate(fd, (off_t)size) != 0)
        return 4;
    struct stat status;
    if (fstat(fd, &status) != 0 || (size_t)status.st_size != size)
        return 5;
    unsigned char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return 6;
    for (size_t i = 0; i < size; i++) {
        if (make)
            bytes[i] = pattern(i);
        else if (bytes[i] != pattern(i))
            return 7;
    }
    /* What it writes back is seen by the other side at once. */
    if (!make)
        bytes[size - 1] = 'X';
    return munmap(bytes, size) != 0 || close(fd) != 0;
}
