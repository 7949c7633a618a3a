/* A program that knows POSIX semaphores and nothing of this library.
 * sem_peer make NAME VALUE   makes the semaphore
 * sem_peer echo PING PONG N  N times: takes a permit of PING, gives one to PONG
 * sem_peer value NAME N      finds the semaphore with N permits */
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "make") == 0) {
        sem_t *made = sem_open(argv[2], O_CREAT | O_EXCL, 0600, (unsigned)atoi(argv[3]));
        return made == SEM_FAILED || sem_close(made) != 0;
    }
    if (argc == 4 && strcmp(argv[1], "value") == 0) {
        sem_t *found = sem_open(argv[2], 0);
        int value;
        if (found == SEM_FAILED || sem_getvalue(found, &value) != 0)
            return 1;
        return value != atoi(argv[3]);
    }
    if (argc == 5 && strcmp(argv[1], "echo") == 0) {
        sem_t *ping = sem_open(argv[2], 0);
        sem_t *pong = sem_open(argv[3], 0);
        if (ping == SEM_FAILED || pong == SEM_FAILED)
            return 1;
        for (int i = atoi(argv[4]); i > 0; i--) {
            if (sem_wait(ping) != 0 || sem_post(pong) != 0)
                return 1;
        }
        return 0;
    }
    return 2;
}
