/* SPDX-License-Identifier: 0BSD */
/* No call that waits is a cancellation point: with a cancellation pending each of them waits its
 * time and answers, and the thread ends where it asks for it. It leaves nothing locked.
 * cancel NAME FIFO   a name that nobody uses, and a path; exit 0, or the number of what failed */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <madang.h>

#define TIME ((int64_t)10 * 1000 * 1000)

static const char *name, *fifo;
static mdg_mutex *held, *mine;
static mdg_cond *cond;
static int fds[2], full[2], sockets[2];
static int reached;

#define ENDS(call)                                                     \
    do {                                                               \
        long answer = (long)(call);                                    \
        if (answer != -ETIMEDOUT) {                                    \
            fprintf(stderr, "line %d: %ld %s\n", __LINE__, answer, mdg_last_error()); \
            failed = 1;                                                \
        }                                                              \
    } while (0)
#define WORKS(call)                                                    \
    do {                                                               \
        long answer = (long)(call);                                    \
        if (answer < 0) {                                              \
            fprintf(stderr, "line %d: %ld %s\n", __LINE__, answer, mdg_last_error()); \
            failed = 1;                                                \
        }                                                              \
    } while (0)

static int of_rings(void)
{
    static const uint32_t kinds[][2] = {
        {MDG_RING_SPSC, 0}, {MDG_RING_MPMC, 0}, {MDG_RING_MPMC, MDG_RING_STOPPROOF},
        {MDG_RING_BROADCAST, 0}};
    int failed = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mdg_ring_opts opts = {.size = sizeof opts, .capacity = 2, .item_size = 8,
                              .kind = kinds[i][0], .policy = kinds[i][1]};
        mdg_ring *ring, *copy;
        uint64_t items[2] = {1, 2};
        const void *peeked;
        void *reserved;
        WORKS(mdg_ring_open(&ring, name, &opts, O_RDWR | O_CREAT, 0600));
        ENDS(mdg_ring_pop(ring, items, TIME));
        ENDS(mdg_ring_pop_many(ring, items, 2, TIME));
        ENDS(mdg_ring_peek(ring, &peeked, 1, TIME));
        mdg_wait waits[] = {{.ring = ring, .fd = -1, .events = MDG_POLL_IN}};
        ENDS(mdg_wait_any(waits, 1, TIME));
        WORKS(mdg_ring_fd(ring, MDG_POLL_IN));
        WORKS(mdg_ring_push_many(ring, items, 2, TIME));
        ENDS(mdg_ring_push(ring, items, TIME));
        ENDS(mdg_ring_push_many(ring, items, 2, TIME));
        ENDS(mdg_ring_reserve(ring, &reserved, 1, TIME));
        WORKS(mdg_ring_dup(&copy, ring, O_RDWR));
        mdg_ring_close(copy);
        WORKS(mdg_ring_unlink(name));
        mdg_ring_close(ring);
    }
    return failed;
}

static int of_semaphores(void)
{
    static const uint32_t kinds[] = {MDG_SEM_POSIX, MDG_SEM_UNDO};
    int failed = 0;
    for (size_t i = 0; i < 2; i++) {
        mdg_sem_opts opts = {.size = sizeof opts, .kind = kinds[i]};
        mdg_sem *sem;
        WORKS(mdg_sem_open(&sem, name, &opts, O_CREAT, 0600));
        ENDS(mdg_sem_wait(sem, TIME));
        WORKS(mdg_sem_post(sem));
        WORKS(mdg_sem_wait(sem, TIME));
        WORKS(mdg_sem_unlink(name));
        mdg_sem_close(sem);
    }
    return failed;
}

static void *worker(void *unused)
{
    static char bytes[4096];
    mdg_fd_peer peer;
    int failed = 0;
    pthread_cancel(pthread_self());
    failed |= of_rings();
    failed |= of_semaphores();
    ENDS(mdg_mutex_lock(held, TIME));
    WORKS(mdg_mutex_lock(mine, TIME));
    ENDS(mdg_cond_wait(cond, mine, TIME));
    WORKS(mdg_mutex_unlock(mine));
    ENDS(mdg_pipe_read(fds[0], bytes, sizeof bytes, TIME));
    ENDS(mdg_pipe_read_full(fds[0], bytes, sizeof bytes, TIME));
    ENDS(mdg_pipe_receive(fds[0], bytes, sizeof bytes, TIME));
    ENDS(mdg_pipe_write(full[1], bytes, sizeof bytes, TIME));
    ENDS(mdg_pipe_send(full[1], bytes, 4000, TIME));
    ENDS(mdg_pipe_send(full[1], bytes, sizeof bytes, TIME));
    ENDS(mdg_fifo_open(fifo, O_RDONLY, TIME));
    ENDS(mdg_fifo_open(fifo, O_WRONLY, TIME));
    ENDS(mdg_fd_receive(sockets[0], &peer, TIME));
    WORKS(mdg_pipe_send(fds[1], bytes, 100, TIME));
    WORKS(mdg_pipe_receive(fds[0], bytes, sizeof bytes, TIME));
    WORKS(mdg_fd_send(sockets[1], fds[0], TIME));
    WORKS(mdg_fd_receive(sockets[0], &peer, TIME));
    reached = !failed;
    pthread_testcancel();
    reached = 0;
    return unused;
}

int main(int argc, char **argv)
{
    static char bytes[4096];
    pthread_t thread;
    void *result;
    if (argc != 3)
        return 2;
    name = argv[1];
    fifo = argv[2];
    if (mdg_mutex_open(&held, name, O_CREAT, 0600) < 0 || mdg_mutex_unlink(name) < 0 ||
        mdg_mutex_open(&mine, name, O_CREAT, 0600) < 0 || mdg_mutex_unlink(name) < 0 ||
        mdg_cond_open(&cond, name, O_CREAT, 0600) < 0 || mdg_cond_unlink(name) < 0 ||
        mdg_mutex_lock(held, MDG_NOWAIT) < 0 || mdg_fifo_create(fifo, 0600) < 0 ||
        mdg_pipe_open(fds, 0) < 0 || mdg_pipe_open(full, 0) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) < 0)
        return 3;
    while (mdg_pipe_write(full[1], bytes, sizeof bytes, MDG_NOWAIT) > 0)
        ;
    if (pthread_create(&thread, NULL, worker, NULL) != 0 || pthread_join(thread, &result) != 0)
        return 4;
    if (!reached || result != PTHREAD_CANCELED)
        return 5;
    if (mdg_mutex_lock(mine, MDG_NOWAIT) != 0 || mdg_mutex_unlock(mine) != 0 ||
        mdg_mutex_unlock(held) != 0)
        return 6;
    mdg_fifo_unlink(fifo);
    mdg_mutex_close(held);
    mdg_mutex_close(mine);
    mdg_cond_close(cond);
    return 0;
}
