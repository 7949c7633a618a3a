/* SPDX-License-Identifier: 0BSD */
/* Makes every call of the library on threads with the smallest stack that POSIX threads may have, and
 * prints how much of it was used. Each group of calls has a thread to itself. */
#define main every_name_main
#include "every_name.c"
#undef main

#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef STACK
#define STACK 16384
#endif

enum { PAINT = 0xa5 };

struct job {
    const char *name;
    void (*body)(void);
    size_t used;   /* below the frame of the thread's function */
    size_t before; /* above it: the C library's own, and thread-local storage */
};

static unsigned char *memory;

/* What fails has words to find, for which there are buffers: the longest texts of all. */
static void failures(void)
{
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = 4};
    mdg_ring_opts others = {.size = sizeof others, .capacity = 8, .item_size = 4};
    mdg_sem_opts undo = {.size = sizeof undo, .value = 1, .kind = MDG_SEM_UNDO};
    static char longest[300];
    mdg_shm *shm;
    mdg_ring *ring, *same;
    mdg_sem *sem;
    mdg_mutex *mutex;
    mdg_cond *cond;
    char item[4];
    memset(longest, 'n', sizeof longest - 1);
    EXPECT(mdg_ring_open(&ring, longest, &opts, O_RDWR | O_CREAT, 0600) == -ENAMETOOLONG);
    longest[240] = 0;
    EXPECT(mdg_ring_open(&ring, longest, &opts, O_RDWR | O_CREAT, 0600) == 0);
    EXPECT(mdg_ring_open(&same, longest, &others, O_RDWR | O_CREAT, 0600) == -EPROTO);
    EXPECT(mdg_ring_open(&same, longest, &opts, O_RDWR | O_CREAT | O_EXCL, 0600) == -EEXIST);
    EXPECT(mdg_ring_open(&same, longest, &opts, O_RDWR, 0) == 0);
    EXPECT(mdg_ring_push(ring, item, 0) == 0 && mdg_ring_push(same, item, 0) == -EBUSY);
    EXPECT(mdg_ring_commit(ring, 3) == -EINVAL && mdg_ring_release(ring, 3) == -EINVAL);
    EXPECT(mdg_ring_pop(NULL, item, 0) == -EINVAL && mdg_ring_push(same, NULL, 0) == -EINVAL);
    EXPECT(mdg_object_check(MDG_OBJECT_RING, longest, NULL, 0) == 0);
    EXPECT(mdg_object_repair(MDG_OBJECT_RING, longest) == 0);
    mdg_ring_close(same);
    mdg_ring_close(ring);
    EXPECT(mdg_ring_unlink(longest) == 0 && mdg_ring_unlink(longest) == -ENOENT);
    EXPECT(mdg_ring_open(&ring, longest, &opts, O_RDWR, 0) == -ENOENT);
    EXPECT(mdg_shm_open(&shm, longest, 0, O_RDWR, 0) == -ENOENT);
    EXPECT(mdg_shm_open(&shm, longest, 0, O_RDWR | O_CREAT, 0600) == -EINVAL);
    /* More than any machine has: what its memory and that of its cgroups can hold is looked up. */
    EXPECT(mdg_shm_open(&shm, longest, (size_t)1 << 46, O_RDWR | O_CREAT, 0600) == -ENOSPC);
    EXPECT(mdg_shm_map_file(&shm, "/dev/shm", 0, O_RDONLY, 0) == -EPROTO);
    EXPECT(mdg_shm_anonymous(&shm, 8192, 0) == 0 && mdg_shm_resize(shm, 0) == -EINVAL);
    EXPECT(mdg_ring_attach(&ring, shm, 4096, &opts, O_RDWR) < 0);
    EXPECT(mdg_ring_init(&ring, shm, 4096, &opts, O_RDWR) == -ENOSPC);
    EXPECT(mdg_sem_undo_attach(&sem, shm, 0, &undo) < 0);
    mdg_shm_close(shm);
    EXPECT(mdg_sem_open(&sem, longest, NULL, 0, 0) == -ENOENT);
    EXPECT(mdg_sem_open(&sem, longest, &undo, 0, 0) == -ENOENT);
    EXPECT(mdg_mutex_open(&mutex, longest, 0, 0) == -ENOENT);
    EXPECT(mdg_cond_open(&cond, longest, 0, 0) == -ENOENT);
    EXPECT(mdg_mutex_attach(&mutex, longest) < 0 && mdg_cond_attach(&cond, NULL) == -EINVAL);
    EXPECT(mdg_fifo_open("/tmp", O_RDONLY, 0) < 0 && mdg_fifo_unlink("/tmp") < 0);
    EXPECT(mdg_fd_send(0, -1, 0) < 0);
}

static void nothing(void)
{
}

static void *work(void *argument)
{
    struct job *job = argument;
    unsigned char here, *lowest = memory, *paint, *at;
    job->before = STACK - (size_t)((uintptr_t)&here - (uintptr_t)memory);
    at = memory + STACK - job->before - 256;
    /* Not with memset, whose own frame would lie there. */
    for (paint = memory; paint < at; paint++) *(volatile unsigned char *)paint = PAINT;
    job->body();
    while (lowest < at && *(volatile unsigned char *)lowest == PAINT) lowest++;
    job->used = STACK - job->before - (size_t)(lowest - memory);
    return NULL;
}

int main(void)
{
    struct job jobs[] = {{"nothing", nothing, 0, 0},
                         {"base", base, 0, 0},
                         {"shm", shm, 0, 0},
                         {"ring", ring, 0, 0},
                         {"descriptors", descriptors, 0, 0},
                         {"waiting", waiting, 0, 0},
                         {"sem", sem, 0, 0},
                         {"sem_in_segment", sem_in_segment, 0, 0},
                         {"mutex", mutex, 0, 0},
                         {"pipes", pipes, 0, 0},
                         {"object", object, 0, 0},
                         {"failures", failures, 0, 0}};
    size_t i, most = 0;
    pthread_attr_t attributes;
    pthread_t thread;
    unsigned char *pages = mmap(NULL, 2 * STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(name, sizeof name, "/mdg-stack-%ld", (long)getpid());
    /* Below the stack there is nothing: who needs more of it dies. */
    EXPECT(pages != MAP_FAILED);
    memory = pages + STACK;
    EXPECT(mprotect(memory, STACK, PROT_READ | PROT_WRITE) == 0);
    for (i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        EXPECT(pthread_attr_init(&attributes) == 0);
        EXPECT(pthread_attr_setstack(&attributes, memory, STACK) == 0);
        EXPECT(pthread_create(&thread, &attributes, work, &jobs[i]) == 0);
        EXPECT(pthread_join(thread, NULL) == 0 && pthread_attr_destroy(&attributes) == 0);
        printf("%s: %zu below %zu\n", jobs[i].name, jobs[i].used, jobs[i].before);
        if (jobs[i].used > most) most = jobs[i].used;
    }
    printf("most: %zu\n", most);
    return 0;
}
