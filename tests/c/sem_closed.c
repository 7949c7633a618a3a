/* Handles that are closed, of another kind, or none at all are -EBADF as far as a look can tell. */
#include <errno.h>
#include <stddef.h>

#include <madang.h>

int main(void)
{
    mdg_shm *shm;
    mdg_sem *sem;
    if (mdg_shm_anonymous(&shm, 4096, 0) != 0 || mdg_sem_init(&sem, mdg_shm_addr(shm), 1) != 0)
        return 2;

    /* Each is a live handle, but of the other kind. */
    if (mdg_sem_wait((mdg_sem *)shm, MDG_NOWAIT) != -EBADF || mdg_shm_fd((mdg_shm *)sem) != -EBADF)
        return 3;
    mdg_shm_close((mdg_shm *)sem);
    mdg_sem_close((mdg_sem *)shm);
    if (mdg_sem_value(sem) != 1 || mdg_shm_size(shm) != 4096)
        return 4;

    errno = 77;
    mdg_sem_close(sem);
    mdg_sem_close(NULL);
    mdg_shm_close(NULL);
    if (errno != 77)
        return 5;
    /* The memory was given back to the C library, which has not unmapped it. */
    if (mdg_sem_wait(sem, MDG_NOWAIT) != -EBADF || errno != EBADF)
        return 6;
    if (mdg_sem_post(sem) != -EBADF || mdg_sem_value(sem) != -EBADF)
        return 7;
    mdg_shm_close(shm);
    return 0;
}
