/* No call of the library is a cancellation point: a thread that is cancelled while it waits, or
 * before it opens, gets its answer and ends at the next cancellation point of its own.
 * sem_cancel NAME SEGMENT   two names that nobody uses */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>

#include <madang.h>

static mdg_sem *sem;
static char **names;
static atomic_int started;
static atomic_int answers;

static void *waiter(void *unused)
{
    (void)unused;
    atomic_store(&started, 1);
    if (mdg_sem_wait(sem, 200 * 1000 * 1000) == -ETIMEDOUT)
        atomic_fetch_add(&answers, 1);
    pthread_testcancel();
    return NULL;
}

static void *opener(void *unused)
{
    (void)unused;
    /* Cancellation is pending from here on. */
    pthread_cancel(pthread_self());
    mdg_sem *other;
    mdg_shm *shm;
    mdg_sem_opts opts = {.size = sizeof opts, .value = 1, .kind = MDG_SEM_POSIX};
    int good = mdg_sem_open(&other, names[1], &opts, O_CREAT, 0600) == 0
        && mdg_sem_wait(other, MDG_FOREVER) == 0
        && mdg_sem_unlink(names[1]) == 0
        && mdg_shm_open(&shm, names[2], 5000, O_CREAT | O_EXCL | O_RDWR, 0600) == 0
        && mdg_shm_resize(shm, 10000) == 0
        && mdg_shm_sync(shm) == 0
        && mdg_shm_unlink(names[2]) == 0
        && mdg_shm_unlink(names[2]) == -ENOENT;
    mdg_sem_close(other);
    mdg_shm_close(shm);
    if (good)
        atomic_fetch_add(&answers, 1);
    pthread_testcancel();
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    names = argv;
    sem_t memory;
    if (mdg_sem_init(&sem, &memory, 0) != 0)
        return 3;
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, waiter, NULL) != 0)
        return 4;
    while (!atomic_load(&started))
        ;
    if (pthread_cancel(thread) != 0 || pthread_join(thread, &result) != 0)
        return 5;
    if (result != PTHREAD_CANCELED || atomic_load(&answers) != 1)
        return 6;
    if (pthread_create(&thread, NULL, opener, NULL) != 0 || pthread_join(thread, &result) != 0)
        return 7;
    if (result != PTHREAD_CANCELED || atomic_load(&answers) != 2)
        return 8;
    mdg_sem_close(sem);
    return 0;
}
