/* SPDX-License-Identifier: 0BSD */
/* Uses every function, macro and field of the headers once, and checks that what can be checked in
 * passing is right: versions agree, structures hold what they say, calls succeed. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <madang.h>

#define EXPECT(condition)                                                             \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, mdg_last_error()); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

static char name[64];

static void base(void)
{
    int seconds = 3;
    EXPECT(mdg_version() == MDG_VERSION);
    EXPECT(MDG_VERSION ==
           MDG_VERSION_MAJOR * 65536 + MDG_VERSION_MINOR * 256 + MDG_VERSION_PATCH);
    EXPECT(strcmp(mdg_strerror(0), "success") == 0);
    EXPECT(strcmp(mdg_strerror(-EAGAIN), mdg_strerror(-EPIPE)) != 0);
    EXPECT(strcmp(mdg_last_error(), "") == 0);
    EXPECT(MDG_SECONDS(seconds) == INT64_C(3000000000) && MDG_SECONDS(0.5) == 500000000);
    EXPECT(MDG_MILLISECONDS(seconds + 1) == 4000000 && MDG_MICROSECONDS(seconds) == 3000);
}

static void shm(void)
{
    mdg_shm *shm, *other;
    char path[] = "/tmp/mdg-every-XXXXXX";
    int fd;
    EXPECT(mdg_shm_open(&shm, name, 5000, O_RDWR | O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_shm_size(shm) == 5000);
    memcpy(mdg_shm_addr(shm), "yard", 5);
    EXPECT(mdg_shm_open(&other, name, 0, O_RDONLY, 0) == 0);
    EXPECT(mdg_shm_size(other) == 5000 && strcmp(mdg_shm_addr(other), "yard") == 0);
    mdg_shm_close(other);
    EXPECT(mdg_shm_resize(shm, 10000) == 0 && mdg_shm_sync(shm) == 0);
    EXPECT(mdg_shm_unlink(name) == 0 && mdg_shm_unlink(name) == -ENOENT && errno == ENOENT);
    EXPECT(mdg_shm_from_fd(&other, mdg_shm_fd(shm), O_RDWR | MDG_SEALED) == -EPROTO);
    mdg_shm_close(shm);
    EXPECT(mdg_shm_anonymous(&shm, 100, MDG_INHERIT) == 0);
    EXPECT(mdg_sigbus_guard() == 0 && mdg_shm_intact(shm) == 0);
    EXPECT(mdg_shm_from_fd(&other, mdg_shm_fd(shm), O_RDWR | MDG_SEALED) == 0);
    mdg_shm_close(other);
    mdg_shm_close(shm);
    EXPECT((fd = mkstemp(path)) >= 0 && write(fd, "file", 4) == 4 && close(fd) == 0);
    EXPECT(mdg_shm_map_file(&shm, path, 0, O_RDONLY, 0) == 0 && mdg_shm_size(shm) == 4);
    mdg_shm_close(shm);
    unlink(path);
}

static void ring_in_segment(const mdg_ring_opts *opts)
{
    mdg_shm *shm;
    mdg_ring *ring, *reader;
    char item[64];
    ssize_t bytes = mdg_ring_footprint(opts);
    EXPECT(bytes > 0 && bytes % 4096 == 0);
    EXPECT(mdg_shm_anonymous(&shm, 4096 + (size_t)bytes, 0) == 0);
    EXPECT(mdg_ring_init(&ring, shm, 4096, opts, O_WRONLY) == 0);
    EXPECT(mdg_ring_attach(&reader, shm, 4096, NULL, O_RDONLY) == 0);
    errno = 0;
    EXPECT(mdg_interrupt() == 0 && errno == 0);
    EXPECT(mdg_ring_pop(reader, item, MDG_FOREVER) == -EINTR && errno == EINTR);
    mdg_ring_abandon(reader);
    mdg_ring_close(ring);
    mdg_shm_close(shm);
}

static void fresh(void)
{
    mdg_ring *ring;
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4};
    char name[64];
    snprintf(name, sizeof name, "/mdg-test-fresh-%d", (int)getpid());
    EXPECT(mdg_ring_open(&ring, name, &opts, O_CREAT | O_WRONLY | MDG_FRESH, 0600) == 0);
    EXPECT(mdg_ring_unlink(name) == 0);
    mdg_ring_close(ring);
}

static void descriptors(void)
{
    mdg_fd_peer peer;
    mdg_ring *ring, *same;
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4};
    int sockets[2], fd;
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_WRONLY, 0) == 0);
    EXPECT(mdg_fd_send(sockets[0], mdg_ring_memory(ring), MDG_FOREVER) == 0);
    EXPECT((fd = mdg_fd_receive(sockets[1], &peer, MDG_FOREVER)) >= 0);
    EXPECT(peer.pid == (uint32_t)getpid() && peer.uid == geteuid() && peer.gid == getegid());
    EXPECT(mdg_ring_from_fd(&same, fd, NULL, O_RDONLY | MDG_SEALED) == 0);
    EXPECT(close(fd) == 0 && close(sockets[0]) == 0 && close(sockets[1]) == 0);
    mdg_ring_close(same);
    mdg_ring_close(ring);
}

static void ring(void)
{
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4,
                          .kind = MDG_RING_SPSC, .max_handles = 8, .policy = 0};
    mdg_ring_stats stats = MDG_RING_STATS_INIT;
    mdg_ring_opts zero = MDG_RING_OPTS_INIT;
    mdg_ring *ring, *reader;
    int items[4] = {1, 2, 3, 4}, item = 0;
    void *free_run;
    EXPECT(zero.size == sizeof zero && zero.capacity == 0 && zero.flags == 0);
    const void *full_run;
    EXPECT(mdg_ring_open(&ring, name, &opts, O_WRONLY | O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_ring_dup(&reader, ring, O_RDONLY) == 0);
    EXPECT(mdg_ring_push(ring, &items[0], MDG_FOREVER) == 0);
    EXPECT(mdg_ring_push_many(ring, &items[1], 2, MDG_NOWAIT) == 2);
    EXPECT(mdg_ring_reserve(ring, &free_run, 5, MDG_NOWAIT) == 1);
    memcpy(free_run, &items[3], sizeof items[3]);
    EXPECT(mdg_ring_commit(ring, 1) == 0);
    EXPECT(mdg_ring_stat(ring, &stats) == 0);
    EXPECT(stats.capacity == 4 && stats.item_size == 4 && stats.kind == MDG_RING_SPSC);
    EXPECT(stats.length == 4 && stats.written == 4 && stats.read == 0 && stats.dropped == 0);
    EXPECT(stats.recovered == 0 && stats.push_waits == 0 && stats.pop_waits == 0);
    EXPECT(stats.producer_pid == (uint32_t)getpid() && stats.consumer_pid == stats.producer_pid);
    EXPECT(stats.producer_state == MDG_RING_END_LIVE && stats.consumer_state == MDG_RING_END_LIVE);
    EXPECT(stats.producers == 1 && stats.consumers == 1);
    EXPECT(stats.max_handles == 8 && stats.flags == 0 && stats.size == sizeof stats);
    EXPECT(MDG_RING_END_NEVER < MDG_RING_END_CLOSED && MDG_RING_END_CLOSED < MDG_RING_END_DEAD);
    EXPECT(mdg_ring_pop(reader, &item, MDG_NOWAIT) == 0 && item == 1);
    EXPECT(mdg_ring_pop_many(reader, items, 2, MDG_NOWAIT) == 2 && items[1] == 3);
    EXPECT(mdg_ring_peek(reader, &full_run, 9, MDG_NOWAIT) == 1);
    memcpy(&item, full_run, sizeof item);
    EXPECT(item == 4 && mdg_ring_release(reader, 1) == 0);
    EXPECT(mdg_ring_shutdown(ring) == 0);
    EXPECT(mdg_ring_pop(reader, &item, MDG_FOREVER) == -EPIPE);
    EXPECT(mdg_ring_unlink(name) == 0 && mdg_ring_stat(ring, &stats) == 0);
    EXPECT(stats.flags == (MDG_RING_SHUTDOWN | MDG_RING_UNLINKED));
    EXPECT((stats.flags & MDG_RING_CORRUPT) == 0);
    mdg_ring_close(reader);
    mdg_ring_close(ring);
    opts.kind = MDG_RING_MPMC;
    opts.policy = MDG_RING_FAIL;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    mdg_ring_close(ring);
    opts.policy = MDG_RING_REDELIVER;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    EXPECT(mdg_ring_stat(ring, &stats) == 0 && stats.redelivered == 0 && stats.notify_failures == 0);
    mdg_ring_close(ring);
    opts.item_align = 16;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == -EINVAL);
    opts.item_align = 0;
    opts.policy = MDG_RING_EXACT;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == -EINVAL);
    opts.policy = MDG_RING_STOPPROOF | MDG_RING_FAIL;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    mdg_ring_close(ring);
    opts.policy = MDG_RING_OVERWRITE;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    EXPECT(mdg_ring_stat(ring, &stats) == 0 && stats.policy == MDG_RING_OVERWRITE);
    mdg_ring_close(ring);
    ring_in_segment(&opts);
    opts.kind = MDG_RING_BROADCAST;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_WRONLY, 0) == 0);
    EXPECT(mdg_ring_dup(&reader, ring, O_RDONLY) == 0);
    for (item = 0; item < 6; item++) {
        EXPECT(mdg_ring_push(ring, &item, MDG_FOREVER) == 0);
    }
    EXPECT(mdg_ring_pop(reader, &item, MDG_NOWAIT) == -EOVERFLOW && mdg_ring_lost(reader) == 2);
    EXPECT(mdg_ring_pop(reader, &item, MDG_NOWAIT) == 0 && item == 2);
    item = mdg_ring_memory_readonly(ring);
    EXPECT(item >= 3 && close((int)item) == 0);
    EXPECT(mdg_ring_skip(reader, 1) == 2);
    EXPECT(mdg_ring_pop(reader, &item, MDG_NOWAIT) == 0 && item == 5);
    mdg_ring_close(reader);
    mdg_ring_close(ring);
    opts.policy = MDG_RING_EVICT;
    opts.flags = MDG_RING_OLDEST;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    EXPECT(mdg_ring_push(ring, &items[0], MDG_FOREVER) == 0);
    EXPECT(mdg_ring_pop(ring, &item, MDG_NOWAIT) == 0 && item == items[0]);
    mdg_ring_close(ring);
    opts.flags = MDG_RING_LATEST;
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    mdg_ring_close(ring);
}

static void waiting(void)
{
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 1, .item_size = 4};
    mdg_wait waits[2] = {{.events = MDG_POLL_IN | MDG_POLL_OUT}, {.fd = -1, .events = MDG_POLL_IN}};
    struct pollfd one = {.events = POLLIN};
    mdg_ring *ring;
    int item = 5;
    EXPECT(MDG_POLL_IN == POLLIN && MDG_POLL_OUT == POLLOUT);
    EXPECT(MDG_POLL_ERR == POLLERR && MDG_POLL_HUP == POLLHUP);
    EXPECT(mdg_ring_open(&ring, NULL, &opts, O_RDWR, 0) == 0);
    waits[0].ring = ring;
    EXPECT(mdg_wait_any(waits, 2, MDG_FOREVER) == 1 && waits[0].ready == MDG_POLL_OUT);
    EXPECT(mdg_wait_any(waits, MDG_WAIT_MAX + 1, MDG_NOWAIT) == -EINVAL && waits[1].reserved == 0);
    EXPECT((one.fd = mdg_ring_fd(ring, MDG_POLL_IN)) >= 0 && poll(&one, 1, 0) == 1);
    EXPECT(mdg_ring_pop(ring, &item, MDG_NOWAIT) == -EAGAIN && poll(&one, 1, 0) == 0);
    EXPECT(mdg_ring_push(ring, &item, MDG_NOWAIT) == 0 && poll(&one, 1, 0) == 1);
    EXPECT(mdg_ring_cancel(ring) == 0);
    EXPECT(mdg_ring_push(ring, &item, MDG_FOREVER) == -ECANCELED);
    mdg_ring_close(ring);
}

static void sem(void)
{
    mdg_sem_opts opts = {.size = sizeof opts, .value = 1, .kind = MDG_SEM_POSIX};
    mdg_sem *sem, *same;
    mdg_sem_holder holder;
    sem_t memory;
    EXPECT(mdg_sem_open(&sem, name, &opts, O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_sem_wait(sem, MDG_FOREVER) == 0 && mdg_sem_wait(sem, MDG_NOWAIT) == -EAGAIN);
    EXPECT(mdg_sem_post(sem) == 0 && mdg_sem_value(sem) == 1);
    EXPECT(mdg_sem_unlink(name) == 0);
    mdg_sem_close(sem);
    opts.kind = MDG_SEM_UNDO;
    opts.flags = MDG_SEM_TELL;
    opts.max_handles = 2;
    EXPECT(mdg_sem_open(&sem, name, &opts, O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_sem_wait(sem, MDG_FOREVER) == 0 && mdg_sem_holders(sem, &holder, 1) == 1);
    EXPECT(holder.pid == (uint32_t)getpid() && holder.count == 1 && holder.alive == 1);
    mdg_sem_close(sem);
    opts.value = MDG_SEM_UNDO_VALUE_MAX + 1;
    EXPECT(mdg_sem_open(&sem, name, &opts, O_CREAT, 0600) == -EINVAL);
    EXPECT(mdg_sem_unlink(name) == 0 && mdg_sem_unlink(name) == -ENOENT);
    EXPECT(mdg_sem_init(&sem, &memory, MDG_SEM_VALUE_MAX) == 0);
    EXPECT(mdg_sem_attach(&same, &memory) == 0 && mdg_sem_post(same) == -EOVERFLOW);
    mdg_sem_close(same);
    mdg_sem_close(sem);
}

static void sem_in_segment(void)
{
    mdg_sem_opts opts = MDG_SEM_OPTS_INIT;
    mdg_shm *shm;
    mdg_sem *sem, *same;
    ssize_t bytes = mdg_sem_undo_footprint(&opts);
    opts.value = 1;
    EXPECT(bytes > 0 && bytes % 4096 == 0 && mdg_sem_undo_footprint(NULL) == bytes);
    EXPECT(mdg_shm_anonymous(&shm, 4096 + (size_t)bytes, 0) == 0);
    EXPECT(mdg_sem_undo_init(&sem, shm, 4096, &opts) == 0);
    EXPECT(mdg_sem_undo_attach(&same, shm, 4096, NULL) == 0);
    mdg_shm_close(shm);
    EXPECT(mdg_sem_wait(same, MDG_NOWAIT) == 0 && mdg_sem_value(sem) == 0);
    mdg_sem_close(same);
    EXPECT(mdg_sem_value(sem) == 1);
    mdg_sem_close(sem);
}

static void mutex(void)
{
    static long long memory[(MDG_MUTEX_SIZE + MDG_COND_SIZE) / sizeof(long long)];
    void *behind = (char *)memory + MDG_MUTEX_SIZE;
    mdg_mutex *mutex, *same;
    mdg_cond *cond, *other;
    EXPECT(mdg_mutex_open(&mutex, name, O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_mutex_lock(mutex, MDG_FOREVER) == 0 && mdg_mutex_lock(mutex, 0) == -EDEADLK);
    EXPECT(mdg_mutex_consistent(mutex) == -EINVAL && mdg_mutex_unlock(mutex) == 0);
    EXPECT(mdg_mutex_unlink(name) == 0);
    mdg_mutex_close(mutex);
    EXPECT(mdg_cond_open(&cond, name, O_CREAT | O_EXCL, 0600) == 0);
    EXPECT(mdg_cond_unlink(name) == 0);
    mdg_cond_close(cond);
    EXPECT(mdg_mutex_init(&mutex, memory) == 0 && mdg_mutex_attach(&same, memory) == 0);
    EXPECT(mdg_cond_init(&cond, behind) == 0 && mdg_cond_attach(&other, behind) == 0);
    EXPECT(mdg_cond_wait(cond, mutex, MDG_NOWAIT) == -EPERM && mdg_mutex_unlock(same) == -EPERM);
    EXPECT(mdg_mutex_lock(mutex, MDG_NOWAIT) == 0);
    EXPECT(mdg_cond_wait(cond, same, 1000) == -ETIMEDOUT);
    EXPECT(mdg_cond_signal(cond) == 0 && mdg_cond_broadcast(other) == 0);
    EXPECT(mdg_mutex_unlock(same) == 0);
    mdg_mutex_close(same);
    mdg_mutex_close(mutex);
    mdg_cond_close(other);
    mdg_cond_close(cond);
}

static void pipes(void)
{
    int fds[2], parent[2], child[2], fifo, i;
    char bytes[8], path[80], *big = calloc(1, MDG_PIPE_MESSAGE_MAX + 1);
    EXPECT(mdg_pipe_open(fds, 0) == 0);
    EXPECT(mdg_pipe_write(fds[1], "abcdefgh", 8, MDG_FOREVER) == 8);
    EXPECT(mdg_pipe_read(fds[0], bytes, 3, MDG_FOREVER) == 3);
    EXPECT(mdg_pipe_read_full(fds[0], bytes, 5, MDG_FOREVER) == 5 && bytes[4] == 'h');
    EXPECT(mdg_pipe_send(fds[1], "hi", 2, MDG_NOWAIT) == 0);
    EXPECT(mdg_pipe_receive(fds[0], bytes, sizeof bytes, MDG_NOWAIT) == 2 && bytes[0] == 'h');
    EXPECT(big != NULL && mdg_pipe_send(fds[1], big, MDG_PIPE_MESSAGE_MAX + 1, 0) == -EMSGSIZE);
    free(big);
    EXPECT(mdg_pipe_pair(parent, child, 0) == 0);
    EXPECT(mdg_pipe_write(parent[1], "x", 1, 0) == 1 && mdg_pipe_read(child[0], bytes, 1, 0) == 1);
    for (i = 0; i < 2; i++) {
        close(fds[i]);
        close(parent[i]);
        close(child[i]);
    }
    snprintf(path, sizeof path, "/tmp%s", name);
    EXPECT(mdg_fifo_create(path, 0600) == 0 && mdg_fifo_create(path, 0600) == -EEXIST);
    EXPECT((fifo = mdg_fifo_open(path, O_RDWR, MDG_NOWAIT)) >= 0 && close(fifo) == 0);
    EXPECT(mdg_fifo_unlink(path) == 0);
}

static void object(void)
{
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4};
    mdg_object_info *all, first = MDG_OBJECT_INFO_INIT;
    mdg_ring *ring;
    char report[512];
    ssize_t count, i, mine = -1;
    EXPECT(mdg_ring_open(&ring, name, &opts, O_RDWR | O_CREAT, 0600) == 0);
    EXPECT((count = mdg_object_list(&first, 1)) >= 1 && first.size == sizeof first);
    EXPECT((all = calloc((size_t)count + 9, sizeof *all)) != NULL);
    all->size = sizeof *all;
    EXPECT((count = mdg_object_list(all, (size_t)count + 9)) >= 1);
    for (i = 0; i < count; i++) {
        if (all[i].mechanism == MDG_OBJECT_RING && strcmp(all[i].name, name) == 0) mine = i;
        EXPECT(all[i].mechanism <= MDG_OBJECT_COND && all[i].state <= MDG_OBJECT_UNREADABLE);
    }
    EXPECT(mine >= 0 && all[mine].state == MDG_OBJECT_SOUND && all[mine].bytes == 16384 + 16);
    EXPECT(all[mine].capacity == 4 && all[mine].item_size == 4 && all[mine].length == 0);
    EXPECT(all[mine].kind == MDG_RING_SPSC && all[mine].max_handles == 64);
    EXPECT(all[mine].handles_live == 1 && all[mine].handles_dead == 0);
    EXPECT(all[mine].creator_pid == (uint32_t)getpid() && all[mine].uid == (uint32_t)geteuid());
    EXPECT(all[mine].mode == 0600);
    free(all);
    EXPECT(mdg_object_check(MDG_OBJECT_RING, name, report, sizeof report) == 0);
    EXPECT(strncmp(report, "ring, ", 6) == 0);
    EXPECT(mdg_object_repair(MDG_OBJECT_RING, name) == 0);
    mdg_object_holder holder;
    EXPECT(mdg_object_holders(MDG_OBJECT_RING, name, &holder, 1) == 1 && holder.alive == 1);
    EXPECT(holder.pid == (uint32_t)getpid() && holder.uid == (uint32_t)geteuid() && holder.slot == 0);
    EXPECT(holder.since_ns > 0 && holder.command[0] != 0 && holder.permits == 0);
    EXPECT((holder.roles & ~(MDG_HOLDER_PRODUCER | MDG_HOLDER_CONSUMER)) == 0);
    EXPECT((MDG_HOLDER_PERMITS | MDG_HOLDER_LOCK) == 12);
    EXPECT(mdg_object_reap(MDG_OBJECT_RING, name, 0) == -EBUSY);
    mdg_ring_close(ring);
    EXPECT(mdg_object_reap(MDG_OBJECT_RING, name, MDG_REAP_DRY_RUN | MDG_REAP_WITH_ITEMS) == 1);
    EXPECT(mdg_object_reap(MDG_OBJECT_RING, name, 0) == 1);
    EXPECT(mdg_object_check(MDG_OBJECT_SEM, name, NULL, 0) == -ENOENT);
    EXPECT(mdg_object_check(MDG_OBJECT_MUTEX, name, NULL, 0) == -ENOENT);
    EXPECT(mdg_object_check(MDG_OBJECT_OTHER, name, NULL, 0) == -ENOENT);
    EXPECT(mdg_object_check(MDG_OBJECT_TEMPORARY, name, NULL, 0) == -ENOENT);
    EXPECT(MDG_OBJECT_DAMAGED < MDG_OBJECT_CORRUPT && MDG_OBJECT_CORRUPT < MDG_OBJECT_NOT_OURS);
}

int main(void)
{
    snprintf(name, sizeof name, "/mdg-every-%ld", (long)getpid());
    base();
    shm();
    ring();
    descriptors();
    fresh();
    waiting();
    sem();
    sem_in_segment();
    mutex();
    pipes();
    object();
    return 0;
}
