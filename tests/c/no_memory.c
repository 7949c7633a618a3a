/* SPDX-License-Identifier: 0BSD */
/* Makes every call of the library while allocations fail: the n-th alone, then all from the n-th on,
 * for every n until the call needs no more. The call then returns -ENOMEM with errno and a text, or
 * what it always returns; nothing is left behind; and the same call made again succeeds.
 *
 * TRY(before, call, after) is one such trial. IN_CHILD is one with each call in a forked process. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <madang.h>

/* What the C library's allocator is beneath the names that are replaced here. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static struct {
    int armed;
    long made;    /* allocations asked for since it was armed */
    long first;   /* this one fails */
    int all;      /* and all after it */
    int refused;  /* how many failed */
} plan;

static int is_refused(void)
{
    if (!plan.armed)
        return 0;
    plan.made++;
    if (plan.made != plan.first && !(plan.all && plan.made > plan.first))
        return 0;
    plan.refused++;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return is_refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return is_refused() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return is_refused() ? NULL : __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size)
{
    return is_refused() ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    void *new = memalign(alignment, size);
    if (!new)
        return ENOMEM;
    *memory = new;
    return 0;
}

struct trial {
    const char *call;
    int line;
    int step;        /* even: without failures; odd: with */
    long first;
    int all;
    long ordinary;   /* what the call returns otherwise */
    char text[1024]; /* and what it says then */
    int fds, names;
    int quiet;       /* the last trial had no failure */
};

static long trials, failures;

static int private; /* /dev/shm is this process's own */

static int entries(const char *path, const char *part)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int count = 0;
    if (!directory)
        abort();
    while ((entry = readdir(directory)))
        count += strstr(entry->d_name, part) != NULL;
    closedir(directory);
    return count;
}

static char mark[32]; /* in all names */

static int open_descriptors(void)
{
    return entries("/proc/self/fd", "");
}

static int names(void)
{
    return entries("/dev/shm", private ? "" : mark);
}

static void wrong(const struct trial *trial, const char *what, long result)
{
    fprintf(stderr, "line %d: %s: allocation %ld%s failed: %s (%ld, errno %d, \"%s\")\n",
            trial->line, trial->call, trial->first, trial->all ? " and all after it" : "", what,
            result, errno, mdg_last_error());
    exit(3);
}

static struct trial begin(const char *call, int line)
{
    struct trial trial;
    memset(&trial, 0, sizeof trial);
    trial.call = call;
    trial.line = line;
    trial.step = -1;
    return trial;
}

/* The next trial: the ordinary one, then one that fails and one that does not by turns. */
static int more(struct trial *trial)
{
    trial->step++;
    if (trial->step % 2 == 0)
        return 1;
    if (trial->step > 1 && trial->quiet) {
        if (trial->all)
            return 0;
        trial->all = 1;
        trial->first = 0;
    }
    trial->first++;
    if (trial->first > 1000)
        wrong(trial, "it never ends", 0);
    return 1;
}

static void arm(struct trial *trial)
{
    trial->fds = open_descriptors();
    trial->names = names();
    /* So that a text of this call is told from one of a call before. */
    (void)mdg_cond_signal(NULL);
    memset(&plan, 0, sizeof plan);
    plan.first = trial->step % 2 ? trial->first : 0;
    plan.all = trial->step % 2 && trial->all;
    plan.armed = 1;
    errno = 0;
}

static int has_text(long code)
{
    return code != -EAGAIN && code != -ETIMEDOUT && code != -EINTR;
}

/* base.h: the calls that allocate nothing, unless for the text of a failure. */
static int needs_none(const char *call)
{
    static const char *const calls[] = {
        "mdg_ring_push", "mdg_ring_pop", "mdg_ring_reserve", "mdg_ring_commit", "mdg_ring_peek",
        "mdg_ring_release", "mdg_ring_skip", "mdg_ring_lost", "mdg_ring_stat", "mdg_ring_fd",
        "mdg_ring_cancel", "mdg_ring_shutdown", "mdg_wait_any", "mdg_interrupt", "mdg_sem_wait",
        "mdg_sem_post", "mdg_sem_value", "mdg_sem_holders", "mdg_mutex_lock", "mdg_mutex_unlock",
        "mdg_cond_wait", "mdg_cond_signal", "mdg_cond_broadcast", "mdg_pipe_", "mdg_fd_", "(mdg_",
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strncmp(call, calls[i], strlen(calls[i])) == 0)
            return 1;
    return 0;
}

static void judge(struct trial *trial, long result)
{
    int code = errno;
    plan.armed = 0;
    if (needs_none(trial->call) && plan.made && (result >= 0 || !has_text(result)))
        wrong(trial, "it allocates", result);
    trials++;
    failures += plan.refused > 0;
    trial->quiet = !plan.refused;
    if (trial->step == 0) {
        trial->ordinary = result;
        strcpy(trial->text, mdg_last_error());
    }
    if (result < 0 && code != -result) {
        errno = code;
        wrong(trial, "errno differs", result);
    }
    if (result >= 0 ? trial->ordinary < 0 : result != trial->ordinary) {
        if (result != -ENOMEM || !plan.refused)
            wrong(trial, "another result", result);
        if (strcmp(mdg_last_error(), "") == 0 || strstr(mdg_last_error(), "mdg_cond"))
            wrong(trial, "no text", result);
    } else if (result < 0 && has_text(result) && trial->text[0] &&
               strcmp(mdg_last_error(), trial->text) != 0) {
        wrong(trial, trial->text, result);
    }
    if (result < 0 && trial->ordinary >= 0 && open_descriptors() != trial->fds)
        wrong(trial, "descriptors are left", result);
    if (result < 0 && trial->ordinary >= 0 && names() > trial->names)
        wrong(trial, "names are left", result);
}

/* `before` and `after` are run without failures, around every call. */
#define TRY(before, call, after)                                               \
    for (struct trial trial = begin(#call, __LINE__); more(&trial);) {         \
        int kept = open_descriptors(), named = names();                        \
        long result;                                                           \
        before;                                                                \
        arm(&trial);                                                           \
        result = (long)(call);                                                 \
        judge(&trial, result);                                                 \
        after;                                                                 \
        if (open_descriptors() != kept || names() != named)                    \
            wrong(&trial, "descriptors or names are left at the end", result); \
    }

/* The same in a forked process, for which `expected` is the ordinary result. */
#define IN_CHILD(expected, before, call, after)                                \
    for (struct trial trial = begin("in a child: " #call, __LINE__); more(&trial);) { \
        int status;                                                            \
        pid_t child;                                                           \
        before;                                                                \
        child = fork();                                                        \
        if (child < 0)                                                         \
            wrong(&trial, "fork", 0);                                          \
        if (child == 0) {                                                      \
            long result;                                                       \
            trial.ordinary = (expected);                                       \
            trial.step += 2;                                                   \
            arm(&trial);                                                       \
            result = (long)(call);                                             \
            judge(&trial, result);                                             \
            status = trial.quiet;                                              \
            trial.step = 2;                                                    \
            arm(&trial);                                                       \
            result = (long)(call);                                             \
            judge(&trial, result);                                             \
            _exit(status);                                                     \
        }                                                                      \
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status))         \
            wrong(&trial, "the child was killed", status);                     \
        if (WEXITSTATUS(status) > 1)                                           \
            exit(1);                                                           \
        trial.quiet = WEXITSTATUS(status);                                     \
        trials += 2;                                                           \
        failures += !trial.quiet;                                              \
        after;                                                                 \
    }

#define NOTHING (void)0
#define MUST(condition)                                                        \
    do {                                                                       \
        long answer = (long)(condition);                                       \
        if (answer < 0) {                                                      \
            fprintf(stderr, "line %d: %s: %ld (%s)\n", __LINE__, #condition,   \
                    answer, mdg_last_error());                                 \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

static char name[64], other[64], path[64], missing[64], slashes[] = "a/b";

static char longest[300];

static mdg_shm *segment; /* of a megabyte, aligned */
static uint64_t item, items[16];
static void *place;
static const void *looked;

static mdg_ring *ring, *second;
static mdg_sem *sem, *permit;
static mdg_mutex *mutex;
static mdg_cond *cond;
static mdg_shm *shm;

static void base(void)
{
    TRY(NOTHING, mdg_version(), NOTHING)
    TRY(NOTHING, (mdg_strerror(-EPIPE), 0), NOTHING)
    TRY(NOTHING, (mdg_last_error(), 0), NOTHING)
    TRY(NOTHING, mdg_interrupt(), (void)mdg_sem_wait(permit, 1000))
}

#define CLOSE_SHM (mdg_shm_close(shm), shm = NULL)

static void segments(void)
{
    int fd;
    mdg_shm *readable;
    TRY(NOTHING, mdg_shm_open(&shm, name, 5000, O_RDWR | O_CREAT | O_EXCL, 0600),
        (CLOSE_SHM, mdg_shm_unlink(name)))
    TRY(NOTHING, mdg_shm_open(&shm, slashes, 5000, O_RDWR, 0600), NOTHING)
    TRY(NOTHING, mdg_shm_open(&shm, longest, 5000, O_RDWR, 0600), NOTHING)
    TRY(NOTHING, mdg_shm_open(&shm, missing, 0, O_RDWR, 0600), NOTHING)
    TRY(NOTHING, mdg_shm_open(&shm, NULL, 0, O_RDWR, 0600), NOTHING)
    TRY(NOTHING, mdg_shm_open(&shm, missing, 0, O_RDWR | O_CREAT, 0600), NOTHING)
    MUST(mdg_shm_open(&segment, name, 1 << 20, O_RDWR | O_CREAT | O_EXCL, 0600));
    TRY(NOTHING, mdg_shm_open(&shm, name, 0, O_RDONLY, 0), CLOSE_SHM)
    TRY(NOTHING, mdg_shm_open(&shm, name, 5000, O_RDWR | O_CREAT | O_EXCL, 0600), NOTHING)
    TRY(NOTHING, mdg_shm_open(&shm, name, 1 << 21, O_RDWR, 0), NOTHING)
    TRY(NOTHING, mdg_shm_anonymous(&shm, 5000, 0), CLOSE_SHM)
    TRY(NOTHING, mdg_shm_anonymous(&shm, 0, 0), NOTHING)
    TRY(NOTHING, mdg_shm_from_fd(&shm, mdg_shm_fd(segment), O_RDWR), CLOSE_SHM)
    TRY(NOTHING, mdg_shm_from_fd(&shm, mdg_shm_fd(segment), O_RDWR | MDG_SEALED), NOTHING)
    TRY(NOTHING, mdg_shm_map_file(&shm, path, 5000, O_RDWR | O_CREAT | O_EXCL, 0600),
        (CLOSE_SHM, unlink(path)))
    MUST(fd = open(path, O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(fd, 100));
    close(fd);
    TRY(NOTHING, mdg_shm_map_file(&shm, path, 0, O_RDWR, 0), CLOSE_SHM)
    strcpy(other, path);
    strcat(other, ".link");
    MUST(symlink(path, other));
    TRY(NOTHING, mdg_shm_map_file(&shm, other, 0, O_RDWR, 0), CLOSE_SHM)
    unlink(other);
    unlink(path);
    TRY(NOTHING, mdg_shm_map_file(&shm, "/", 0, O_RDONLY, 0), NOTHING)
    TRY(NOTHING, mdg_shm_map_file(&shm, path, 0, O_RDONLY, 0), NOTHING)
    TRY(NOTHING, mdg_shm_addr(segment), NOTHING)
    TRY(NOTHING, mdg_shm_addr(NULL), NOTHING)
    TRY(NOTHING, mdg_shm_size(segment), NOTHING)
    TRY(NOTHING, mdg_shm_size(NULL), NOTHING)
    TRY(NOTHING, mdg_shm_fd(segment), NOTHING)
    TRY(NOTHING, mdg_shm_fd(NULL), NOTHING)
    TRY(mdg_shm_anonymous(&shm, 5000, 0), mdg_shm_resize(shm, 10000), CLOSE_SHM)
    TRY(mdg_shm_anonymous(&shm, 5000, 0), mdg_shm_resize(shm, 100), CLOSE_SHM)
    TRY(mdg_shm_open(&readable, name, 0, O_RDONLY, 0), mdg_shm_resize(readable, 100),
        mdg_shm_close(readable))
    TRY(NOTHING, mdg_shm_resize(NULL, 100), NOTHING)
    TRY(NOTHING, mdg_shm_sync(segment), NOTHING)
    TRY(NOTHING, mdg_shm_sync(NULL), NOTHING)
    TRY(NOTHING, mdg_sigbus_guard(), NOTHING)
    TRY(NOTHING, mdg_shm_intact(segment), NOTHING)
    TRY(NOTHING, mdg_shm_intact(NULL), NOTHING)
    TRY(mdg_shm_anonymous(&shm, 5000, 0), (mdg_shm_close(shm), 0), NOTHING)
    TRY(mdg_shm_open(&shm, other + 5, 100, O_RDWR | O_CREAT, 0600), mdg_shm_unlink(other + 5),
        (mdg_shm_unlink(other + 5), CLOSE_SHM))
    TRY(NOTHING, mdg_shm_unlink(missing), NOTHING)
    TRY(NOTHING, mdg_shm_unlink(slashes), NOTHING)
}

static void drain(void)
{
    while (mdg_ring_pop(ring, &item, MDG_NOWAIT) == 0)
        ;
}

#define CLOSE_SECOND (mdg_ring_close(second), second = NULL)

static void rings(uint32_t kind, uint32_t policy)
{
    mdg_ring_opts opts = MDG_RING_OPTS_INIT, others, bad;
    mdg_ring_stats stats = MDG_RING_STATS_INIT;
    mdg_wait waits[2];
    opts.capacity = 4;
    opts.item_size = 8;
    opts.kind = kind;
    opts.policy = policy;
    opts.max_handles = 8;
    others = bad = opts;
    others.capacity = 16;
    bad.policy = 0x4000;
    TRY(NOTHING, mdg_ring_open(&second, name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600),
        (CLOSE_SECOND, mdg_ring_unlink(name)))
    TRY(NOTHING, mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_open(&second, name, &bad, O_RDWR | O_CREAT, 0600), NOTHING)
    TRY(NOTHING, mdg_ring_open(&second, missing, NULL, O_RDWR, 0600), NOTHING)
    TRY(NOTHING, mdg_ring_open(&second, longest, &opts, O_RDWR | O_CREAT, 0600), NOTHING)
    MUST(mdg_ring_open(&ring, name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600));
    TRY(NOTHING, mdg_ring_open(&second, name, NULL, O_RDWR, 0), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_open(&second, name, &others, O_RDWR, 0), NOTHING)
    TRY(NOTHING, mdg_ring_open(&second, name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600), NOTHING)
    TRY(NOTHING, mdg_ring_dup(&second, ring, O_RDWR), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_dup(&second, NULL, O_RDWR), NOTHING)
    TRY(NOTHING, mdg_ring_from_fd(&second, mdg_ring_memory(ring), NULL, O_RDWR), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_from_fd(&second, mdg_shm_fd(segment), NULL, O_RDWR), NOTHING)
    TRY(NOTHING, mdg_ring_memory(ring), NOTHING)
    TRY(NOTHING, mdg_ring_memory(NULL), NOTHING)
    for (struct trial trial = begin("mdg_ring_memory_readonly(ring)", __LINE__); more(&trial);) {
        long fd;
        arm(&trial);
        fd = mdg_ring_memory_readonly(ring);
        judge(&trial, fd);
        if (fd >= 0)
            close((int)fd);
    }
    TRY(NOTHING, mdg_ring_memory_readonly(NULL), NOTHING)
    /* The first use of a handle takes its end. */
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), mdg_ring_push(second, &item, MDG_NOWAIT),
        CLOSE_SECOND)
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), mdg_ring_pop(second, &item, MDG_NOWAIT),
        CLOSE_SECOND)
    (void)mdg_ring_pop(ring, &item, MDG_NOWAIT);
    TRY(NOTHING, mdg_ring_push(ring, &item, MDG_NOWAIT), drain())
    TRY(NOTHING, mdg_ring_push(NULL, &item, MDG_NOWAIT), NOTHING)
    TRY(NOTHING, mdg_ring_push(ring, NULL, MDG_NOWAIT), NOTHING)
    TRY(mdg_ring_dup(&second, ring, O_RDWR), mdg_ring_push(second, &item, MDG_NOWAIT),
        (CLOSE_SECOND, drain()))
    TRY(mdg_ring_push(ring, &item, MDG_NOWAIT), mdg_ring_pop(ring, &item, MDG_NOWAIT), drain())
    TRY(NOTHING, mdg_ring_pop(ring, &item, 1000), NOTHING)
    TRY(NOTHING, mdg_ring_pop(NULL, &item, MDG_NOWAIT), NOTHING)
    TRY(NOTHING, mdg_ring_push_many(ring, items, 3, MDG_NOWAIT), drain())
    TRY(NOTHING, mdg_ring_push_many(ring, NULL, 3, MDG_NOWAIT), NOTHING)
    TRY(mdg_ring_push(ring, &item, MDG_NOWAIT), mdg_ring_pop_many(ring, items, 3, MDG_NOWAIT),
        drain())
    TRY(NOTHING, mdg_ring_pop_many(ring, NULL, 3, MDG_NOWAIT), NOTHING)
    TRY(NOTHING, mdg_ring_reserve(ring, &place, 1, MDG_NOWAIT),
        (mdg_ring_commit(ring, 0), drain()))
    TRY(NOTHING, mdg_ring_reserve(NULL, &place, 1, MDG_NOWAIT), NOTHING)
    TRY(mdg_ring_reserve(ring, &place, 1, MDG_NOWAIT), mdg_ring_commit(ring, 1), drain())
    TRY(NOTHING, mdg_ring_commit(ring, 100), NOTHING)
    TRY(mdg_ring_push(ring, &item, MDG_NOWAIT), mdg_ring_peek(ring, &looked, 1, MDG_NOWAIT),
        (mdg_ring_release(ring, 0), drain()))
    TRY(NOTHING, mdg_ring_peek(NULL, &looked, 1, MDG_NOWAIT), NOTHING)
    TRY((mdg_ring_push(ring, &item, MDG_NOWAIT), mdg_ring_peek(ring, &looked, 1, MDG_NOWAIT)),
        mdg_ring_release(ring, 1), drain())
    TRY(NOTHING, mdg_ring_release(ring, 100), NOTHING)
    TRY(mdg_ring_push(ring, &item, MDG_NOWAIT), mdg_ring_skip(ring, 0), drain())
    TRY(NOTHING, mdg_ring_skip(NULL, 0), NOTHING)
    TRY(NOTHING, mdg_ring_lost(ring), NOTHING)
    TRY(NOTHING, mdg_ring_lost(NULL), NOTHING)
    TRY(NOTHING, mdg_ring_stat(ring, &stats), NOTHING)
    TRY(stats.size = 1, mdg_ring_stat(ring, &stats), stats.size = sizeof stats)
    TRY(NOTHING, mdg_ring_footprint(&opts), NOTHING)
    TRY(NOTHING, mdg_ring_footprint(&bad), NOTHING)
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), mdg_ring_fd(second, MDG_POLL_IN),
        CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_fd(ring, 77), NOTHING)
    memset(waits, 0, sizeof waits);
    waits[0].events = waits[1].events = MDG_POLL_IN;
    waits[1].fd = -1;
    TRY((mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), waits[0].ring = second),
        mdg_wait_any(waits, 2, 1000), CLOSE_SECOND)
    TRY((mdg_ring_push(ring, &item, MDG_NOWAIT), waits[0].ring = ring),
        mdg_wait_any(waits, 2, MDG_NOWAIT), drain())
    TRY(NOTHING, mdg_wait_any(waits, 65, 0), NOTHING)
    TRY(NOTHING, mdg_ring_cancel(ring), (void)mdg_ring_pop(ring, &item, 1000))
    TRY(mdg_ring_cancel(ring), mdg_ring_pop(ring, &item, 1000000), NOTHING)
    TRY(NOTHING, mdg_ring_cancel(NULL), NOTHING)
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), mdg_ring_shutdown(second), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_shutdown(NULL), NOTHING)
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), (mdg_ring_close(second), 0), NOTHING)
    TRY(mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), (mdg_ring_abandon(second), 0),
        second = NULL)
    TRY(NOTHING, (mdg_ring_abandon(NULL), 0), NOTHING)
    /* A forked child attaches at its first operation. */
    IN_CHILD(0, mdg_ring_open(&second, NULL, &opts, O_RDWR, 0),
             mdg_ring_push(second, &item, MDG_NOWAIT), CLOSE_SECOND)
    IN_CHILD(-EAGAIN, mdg_ring_open(&second, NULL, &opts, O_RDWR, 0),
             mdg_ring_pop(second, &item, MDG_NOWAIT), CLOSE_SECOND)
    IN_CHILD(0, mdg_ring_open(&second, NULL, &opts, O_RDWR, 0), mdg_ring_fd(second, MDG_POLL_IN),
             CLOSE_SECOND)
    IN_CHILD(-EINVAL, NOTHING, mdg_ring_push(NULL, &item, MDG_NOWAIT), NOTHING)
    mdg_ring_close(ring);
    TRY(mdg_ring_open(&second, other, &opts, O_RDWR | O_CREAT, 0600), mdg_ring_unlink(other),
        (mdg_ring_unlink(other), CLOSE_SECOND))
    TRY(NOTHING, mdg_ring_unlink(missing), NOTHING)
    MUST(mdg_ring_unlink(name));
    /* In a segment. */
    TRY(NOTHING, mdg_ring_init(&second, segment, 4096, &opts, O_RDWR), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_init(&second, segment, 4097, &opts, O_RDWR), NOTHING)
    TRY(NOTHING, mdg_ring_attach(&second, segment, 4096, &opts, O_RDWR), CLOSE_SECOND)
    TRY(NOTHING, mdg_ring_attach(&second, segment, 4096, &others, O_RDWR), NOTHING)
    /* What could not be finished is not there. */
    for (long first = 1;; first++) {
        mdg_ring_init(&second, segment, 1 << 19, &opts, O_RDWR);
        CLOSE_SECOND;
        memset(mdg_shm_addr(segment), 0, 1 << 20);
        memset(&plan, 0, sizeof plan);
        plan.first = first;
        plan.armed = 1;
        long made = mdg_ring_init(&second, segment, 1 << 19, &opts, O_RDWR);
        plan.armed = 0;
        CLOSE_SECOND;
        if (!plan.refused)
            break;
        if (made == -ENOMEM && mdg_ring_attach(&second, segment, 1 << 19, NULL, O_RDWR) != -EPROTO) {
            fprintf(stderr, "a ring in a segment is left half-made (allocation %ld)\n", first);
            exit(1);
        }
    }
}

#define CLOSE_SEM (mdg_sem_close(sem), sem = NULL)

static void semaphores(uint32_t kind)
{
    mdg_sem_opts opts = MDG_SEM_OPTS_INIT, many;
    mdg_sem_holder holders[4];
    opts.kind = kind;
    opts.value = 2;
    many = opts;
    many.value = UINT32_MAX;
    TRY(NOTHING, mdg_sem_open(&sem, name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600),
        (CLOSE_SEM, mdg_sem_unlink(name)))
    TRY(NOTHING, mdg_sem_open(&sem, name, &many, O_RDWR | O_CREAT | O_EXCL, 0600), NOTHING)
    TRY(NOTHING, mdg_sem_open(&sem, missing, &opts, 0, 0600), NOTHING)
    TRY(NOTHING, mdg_sem_open(&sem, slashes, &opts, 0, 0600), NOTHING)
    MUST(mdg_sem_open(&permit, name, &opts, O_CREAT | O_EXCL, 0600));
    TRY(NOTHING, mdg_sem_open(&sem, name, &opts, 0, 0), CLOSE_SEM)
    TRY(NOTHING, mdg_sem_wait(permit, MDG_NOWAIT), (void)mdg_sem_post(permit))
    TRY(NOTHING, mdg_sem_wait(NULL, MDG_NOWAIT), NOTHING)
    TRY((mdg_sem_wait(permit, 0), mdg_sem_wait(permit, 0)), mdg_sem_wait(permit, 1000),
        (mdg_sem_post(permit), mdg_sem_post(permit)))
    TRY(NOTHING, mdg_sem_post(permit), (void)mdg_sem_wait(permit, 0))
    TRY(NOTHING, mdg_sem_post(NULL), NOTHING)
    TRY(NOTHING, mdg_sem_value(permit), NOTHING)
    TRY(NOTHING, mdg_sem_value(NULL), NOTHING)
    TRY(NOTHING, mdg_sem_holders(permit, holders, 4), NOTHING)
    TRY(NOTHING, mdg_sem_holders(NULL, holders, 4), NOTHING)
    IN_CHILD(0, NOTHING, mdg_sem_wait(permit, MDG_NOWAIT),
             (void)(kind == MDG_SEM_UNDO || (mdg_sem_post(permit), mdg_sem_post(permit))))
    IN_CHILD(-EINVAL, NOTHING, mdg_sem_wait(NULL, MDG_NOWAIT), NOTHING)
    mdg_sem_close(permit);
    TRY(mdg_sem_open(&sem, other, &opts, O_CREAT, 0600), mdg_sem_unlink(other),
        (mdg_sem_unlink(other), CLOSE_SEM))
    TRY(NOTHING, mdg_sem_unlink(missing), NOTHING)
    MUST(mdg_sem_unlink(name));
    TRY(NOTHING, (mdg_sem_close(NULL), 0), NOTHING)
    if (kind == MDG_SEM_UNDO) {
        TRY(NOTHING, mdg_sem_undo_footprint(&opts), NOTHING)
        TRY(NOTHING, mdg_sem_undo_footprint(&many), NOTHING)
        TRY(NOTHING, mdg_sem_undo_init(&sem, segment, 0, &opts), CLOSE_SEM)
        TRY(NOTHING, mdg_sem_undo_init(&sem, segment, 1, &opts), NOTHING)
        TRY(NOTHING, mdg_sem_undo_attach(&sem, segment, 0, &opts), CLOSE_SEM)
        TRY(NOTHING, mdg_sem_undo_attach(&sem, segment, 1, &opts), NOTHING)
    } else {
        void *memory = mdg_shm_addr(segment);
        TRY(NOTHING, mdg_sem_init(&sem, memory, 1), CLOSE_SEM)
        TRY(NOTHING, mdg_sem_init(&sem, NULL, 1), NOTHING)
        TRY(NOTHING, mdg_sem_attach(&sem, memory), CLOSE_SEM)
        TRY(memset(memory, 1, 64), mdg_sem_attach(&sem, memory), NOTHING)
    }
}

#define CLOSE_MUTEX (mdg_mutex_close(mutex), mutex = NULL)
#define CLOSE_COND (mdg_cond_close(cond), cond = NULL)

static long lock_and_unlock(void)
{
    long locked = mdg_mutex_lock(mutex, MDG_NOWAIT);
    return locked < 0 ? locked : mdg_mutex_unlock(mutex);
}

static void mutexes(void)
{
    void *memory = mdg_shm_addr(segment), *behind = (char *)memory + MDG_MUTEX_SIZE;
    memset(memory, 0, MDG_MUTEX_SIZE + MDG_COND_SIZE);
    TRY(NOTHING, mdg_mutex_open(&mutex, name, O_CREAT | O_EXCL, 0600),
        (CLOSE_MUTEX, mdg_mutex_unlink(name)))
    TRY(NOTHING, mdg_mutex_open(&mutex, missing, 0, 0600), NOTHING)
    TRY(NOTHING, mdg_mutex_attach(&mutex, memory), NOTHING)
    TRY(NOTHING, mdg_mutex_init(&mutex, memory), CLOSE_MUTEX)
    TRY(NOTHING, mdg_mutex_attach(&mutex, memory), CLOSE_MUTEX)
    TRY(NOTHING, mdg_cond_open(&cond, name, O_CREAT | O_EXCL, 0600),
        (CLOSE_COND, mdg_cond_unlink(name)))
    TRY(NOTHING, mdg_cond_open(&cond, missing, 0, 0600), NOTHING)
    TRY(NOTHING, mdg_cond_attach(&cond, behind), NOTHING)
    TRY(NOTHING, mdg_cond_init(&cond, behind), CLOSE_COND)
    TRY(NOTHING, mdg_cond_attach(&cond, behind), CLOSE_COND)
    MUST(mdg_mutex_open(&mutex, name, O_CREAT, 0600));
    MUST(mdg_cond_open(&cond, name, O_CREAT, 0600));
    TRY(NOTHING, mdg_mutex_lock(mutex, MDG_NOWAIT), (void)mdg_mutex_unlock(mutex))
    TRY(NOTHING, mdg_mutex_lock(NULL, MDG_NOWAIT), NOTHING)
    TRY(NOTHING, mdg_mutex_unlock(mutex), NOTHING)
    TRY(mdg_mutex_lock(mutex, 0), mdg_mutex_unlock(mutex), NOTHING)
    TRY(mdg_mutex_lock(mutex, 0), mdg_mutex_lock(mutex, 0), (void)mdg_mutex_unlock(mutex))
    TRY(NOTHING, mdg_mutex_consistent(mutex), NOTHING)
    TRY(mdg_mutex_lock(mutex, 0), mdg_cond_wait(cond, mutex, 1000),
        (void)mdg_mutex_unlock(mutex))
    TRY(NOTHING, mdg_cond_wait(cond, mutex, 1000), NOTHING)
    TRY(NOTHING, mdg_cond_signal(cond), NOTHING)
    TRY(NOTHING, mdg_cond_broadcast(cond), NOTHING)
    TRY(NOTHING, mdg_cond_broadcast(NULL), NOTHING)
    IN_CHILD(0, NOTHING, lock_and_unlock(), NOTHING)
    IN_CHILD(-EPERM, NOTHING, mdg_mutex_unlock(mutex), NOTHING)
    CLOSE_MUTEX;
    CLOSE_COND;
    TRY(mdg_mutex_open(&mutex, name, 0, 0600), (mdg_mutex_close(mutex), 0), NOTHING)
    TRY(mdg_cond_open(&cond, name, 0, 0600), (mdg_cond_close(cond), 0), NOTHING)
    TRY((mdg_mutex_open(&mutex, other, O_CREAT, 0600), CLOSE_MUTEX), mdg_mutex_unlink(other),
        (void)mdg_mutex_unlink(other))
    TRY((mdg_cond_open(&cond, other, O_CREAT, 0600), CLOSE_COND), mdg_cond_unlink(other),
        (void)mdg_cond_unlink(other))
    TRY(NOTHING, mdg_mutex_unlink(missing), NOTHING)
    TRY(NOTHING, mdg_cond_unlink(missing), NOTHING)
    MUST(mdg_mutex_unlink(name));
    MUST(mdg_cond_unlink(name));
}

/* A ring whose handle died with it, and its doorbell. */
static void leave_a_corpse(uint32_t kind)
{
    mdg_ring_opts opts = MDG_RING_OPTS_INIT;
    pid_t child;
    opts.capacity = 4;
    opts.item_size = 8;
    opts.kind = kind;
    child = fork();
    if (child == 0) {
        mdg_ring *left;
        if (mdg_ring_open(&left, name, &opts, O_RDWR | O_CREAT, 0600) < 0)
            _exit(1);
        (void)mdg_ring_reserve(left, &place, 1, 0);
        _exit(mdg_ring_fd(left, MDG_POLL_IN) < 0);
    }
    waitpid(child, NULL, 0);
}

static void objects(void)
{
    static char report[2048];
    static mdg_object_info info[8];
    static mdg_object_holder holders[8];
    mdg_sem_opts undo = MDG_SEM_OPTS_INIT;
    uint32_t mechanisms[] = {MDG_OBJECT_SEM, MDG_OBJECT_MUTEX, MDG_OBJECT_COND};
    undo.kind = MDG_SEM_UNDO;
    undo.value = 1;
    for (uint32_t kind = MDG_RING_SPSC; kind <= MDG_RING_BROADCAST; kind++) {
        leave_a_corpse(kind);
        info[0].size = sizeof info[0];
        if (private)
            TRY(NOTHING, mdg_object_list(info, 8), NOTHING)
        TRY(NOTHING, mdg_object_check(MDG_OBJECT_RING, name, report, sizeof report), NOTHING)
        TRY(NOTHING, mdg_object_holders(MDG_OBJECT_RING, name, holders, 8), NOTHING)
        TRY(NOTHING, mdg_object_holders(MDG_OBJECT_RING, missing, holders, 8), NOTHING)
        TRY(NOTHING, mdg_object_check(MDG_OBJECT_RING, missing, report, sizeof report), NOTHING)
        for (struct trial trial = begin("mdg_object_repair(...)", __LINE__); more(&trial);) {
            leave_a_corpse(kind);
            arm(&trial);
            judge(&trial, mdg_object_repair(MDG_OBJECT_RING, name));
            MUST(mdg_object_repair(MDG_OBJECT_RING, name));
        }
        TRY(NOTHING, mdg_object_repair(MDG_OBJECT_MUTEX, name), NOTHING)
        (void)mdg_object_reap(MDG_OBJECT_RING, name, MDG_REAP_WITH_ITEMS);
        for (struct trial trial = begin("mdg_object_reap(...)", __LINE__); more(&trial);) {
            leave_a_corpse(kind);
            arm(&trial);
            /* The name may be gone although its doorbells could not be found. */
            judge(&trial, mdg_object_reap(MDG_OBJECT_RING, name, MDG_REAP_WITH_ITEMS));
            if (private)
                MUST(mdg_object_reap(0, NULL, MDG_REAP_WITH_ITEMS));
            else
                (void)mdg_object_reap(MDG_OBJECT_RING, name, MDG_REAP_WITH_ITEMS);
        }
    }
    TRY(NOTHING, mdg_object_reap(MDG_OBJECT_RING, missing, 0), NOTHING)
    TRY(NOTHING, mdg_object_reap(0, name, 0), NOTHING)
    MUST(mdg_sem_open(&sem, name, &undo, O_CREAT, 0600));
    MUST(mdg_mutex_open(&mutex, name, O_CREAT, 0600));
    MUST(mdg_cond_open(&cond, name, O_CREAT, 0600));
    for (int i = 0; i < 3; i++) {
        TRY(NOTHING, mdg_object_check(mechanisms[i], name, report, sizeof report), NOTHING)
        TRY(NOTHING, mdg_object_reap(mechanisms[i], name, 0), NOTHING)
        TRY(NOTHING, mdg_object_holders(mechanisms[i], name, holders, 8), NOTHING)
    }
    if (private) {
        TRY(info[0].size = sizeof info[0], mdg_object_list(info, 8), NOTHING)
        TRY(NOTHING, mdg_object_reap(0, NULL, 0), NOTHING)
    }
    TRY(info[0].size = 3, mdg_object_list(info, 8), NOTHING)
    CLOSE_SEM;
    CLOSE_MUTEX;
    CLOSE_COND;
    MUST(mdg_sem_unlink(name));
    MUST(mdg_mutex_unlink(name));
    MUST(mdg_cond_unlink(name));
}

static void close_both(int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

static void pipes(void)
{
    static char large[20000], buffer[20000];
    int fds[2], more_fds[4];
    mdg_fd_peer peer;
    TRY(fds[0] = -1, mdg_pipe_open(fds, 0), if (result == 0) close_both(fds))
    TRY(NOTHING, mdg_pipe_open(fds, 0x100), NOTHING)
    TRY(NOTHING, mdg_pipe_pair(more_fds, more_fds + 2, 0),
        if (result == 0) (close_both(more_fds), close_both(more_fds + 2)))
    TRY(NOTHING, mdg_pipe_pair(NULL, NULL, 0), NOTHING)
    MUST(mdg_pipe_open(fds, 0));
    TRY(MUST(mdg_pipe_write(fds[1], "abc", 3, 0)), mdg_pipe_read(fds[0], buffer, 3, 0), NOTHING)
    TRY(NOTHING, mdg_pipe_read(-1, buffer, 3, 0), NOTHING)
    TRY(NOTHING, mdg_pipe_read(fds[0], buffer, 3, 1000), NOTHING)
    TRY(MUST(mdg_pipe_write(fds[1], "abc", 3, 0)), mdg_pipe_read_full(fds[0], buffer, 3, 0),
        NOTHING)
    TRY(NOTHING, mdg_pipe_read_full(fds[0], NULL, 3, 0), NOTHING)
    TRY(NOTHING, mdg_pipe_write(fds[1], "abc", 3, 0), (void)mdg_pipe_read(fds[0], buffer, 3, 0))
    TRY(NOTHING, mdg_pipe_write(fds[0], "abc", 3, 0), NOTHING)
    TRY(NOTHING, mdg_pipe_send(fds[1], large, sizeof large, 0),
        (void)mdg_pipe_receive(fds[0], buffer, sizeof buffer, 0))
    TRY(NOTHING, mdg_pipe_send(fds[1], large, 2 << 20, 0), NOTHING)
    TRY(MUST(mdg_pipe_send(fds[1], large, 9000, 0)),
        mdg_pipe_receive(fds[0], buffer, sizeof buffer, 0), NOTHING)
    TRY(MUST(mdg_pipe_send(fds[1], large, 9000, 0)), mdg_pipe_receive(fds[0], buffer, 10, 0),
        NOTHING)
    close_both(fds);
    TRY(NOTHING, mdg_fifo_create(path, 0600), unlink(path))
    TRY(NOTHING, mdg_fifo_create("/tmp", 0600), NOTHING)
    TRY(mdg_fifo_create(path, 0600), mdg_fifo_unlink(path), unlink(path))
    TRY(NOTHING, mdg_fifo_unlink("/tmp"), NOTHING)
    MUST(mdg_fifo_create(path, 0600));
    TRY(NOTHING, mdg_fifo_open(path, O_RDWR, 0), if (result >= 0) close((int)result))
    TRY(NOTHING, mdg_fifo_open(path, O_RDONLY, 1000), NOTHING)
    TRY(NOTHING, mdg_fifo_open(path, O_WRONLY, 1000), NOTHING)
    TRY(NOTHING, mdg_fifo_open(missing, O_WRONLY, 1000), NOTHING)
    MUST(mdg_fifo_unlink(path));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    TRY(NOTHING, mdg_fd_send(fds[0], 2, 0),
        if (result == 0) close(mdg_fd_receive(fds[1], &peer, 0)))
    TRY(NOTHING, mdg_fd_send(2, 2, 0), NOTHING)
    TRY(MUST(mdg_fd_send(fds[0], 2, 0)), mdg_fd_receive(fds[1], &peer, 0),
        if (result >= 0) close((int)result))
    TRY(NOTHING, mdg_fd_receive(-1, &peer, 0), NOTHING)
    close_both(fds);
}

int main(void)
{
    mdg_sem_opts posix = MDG_SEM_OPTS_INIT;
    snprintf(mark, sizeof mark, "no-memory-%d", (int)getpid());
    if (geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=32m") == 0)
        private = 1;
    snprintf(name, sizeof name, "/%s", mark);
    snprintf(missing, sizeof missing, "/%s-missing", mark);
    snprintf(path, sizeof path, "/tmp/%s", mark);
    memset(longest, 'n', sizeof longest - 1);
    MUST(mdg_sem_open(&permit, missing, &posix, O_CREAT, 0600));
    MUST(mdg_sem_unlink(missing));
    base();
    mdg_sem_close(permit);
    segments();
    snprintf(other, sizeof other, "/%s-other", mark);
    rings(MDG_RING_SPSC, 0);
    rings(MDG_RING_MPMC, 0);
    rings(MDG_RING_MPMC, MDG_RING_STOPPROOF);
    rings(MDG_RING_MPMC, MDG_RING_REDELIVER);
    rings(MDG_RING_BROADCAST, 0);
    rings(MDG_RING_BROADCAST, MDG_RING_OVERWRITE);
    semaphores(MDG_SEM_POSIX);
    semaphores(MDG_SEM_UNDO);
    mutexes();
    objects();
    pipes();
    mdg_shm_close(segment);
    MUST(mdg_shm_unlink(name));
    if (names() > (private ? 2 : 0)) {
        fprintf(stderr, "names are left\n");
        return 1;
    }
    printf("%ld calls, %ld of them without memory, /dev/shm %s\n", trials, failures,
           private ? "of its own" : "of the machine");
    return failures < 500;
}
