/* SPDX-License-Identifier: 0BSD
 *
 * What sem_producer and sem_consumer share: a buffer in a segment NAME, and
 * the three semaphores NAME.empty, NAME.full and NAME.mutex around it.
 */
#ifndef SEM_BUFFER_H
#define SEM_BUFFER_H

#include "checked.h"

#include <fcntl.h>

#define BUFFER_SIZE 10
#define NO_MORE 0 /* the item that ends the stream */

struct buffer {
    int items[BUFFER_SIZE];
    unsigned in, out; /* how many went in and came out; they start as 0, as all new memory */
};

struct shared {
    mdg_shm *shm;
    struct buffer *buffer;
    mdg_sem *empty; /* counts free slots */
    mdg_sem *full;  /* counts items */
    mdg_sem *mutex; /* 1: nobody is at the buffer */
};

static inline const char *with_ending(const char *name, const char *ending) {
    static char whole[300];
    snprintf(whole, sizeof whole, "%s%s", name, ending);
    return whole;
}

static inline mdg_sem *open_sem(const char *name, const char *ending, uint32_t value) {
    /* `value` counts only for the one who creates it; who comes second changes nothing. */
    mdg_sem_opts opts = {.size = sizeof opts, .value = value};
    mdg_sem *sem = NULL;
    CHECKED(mdg_sem_open(&sem, with_ending(name, ending), &opts, O_CREAT, 0600));
    return sem;
}

/* Both sides call this, and either may be first. */
static inline struct shared open_shared(const char *name) {
    struct shared s;
    CHECKED(mdg_shm_open(&s.shm, name, sizeof(struct buffer), O_CREAT | O_RDWR, 0600));
    s.buffer = mdg_shm_addr(s.shm);
    s.empty = open_sem(name, ".empty", BUFFER_SIZE);
    s.full = open_sem(name, ".full", 0);
    s.mutex = open_sem(name, ".mutex", 1);
    return s;
}

static inline void close_shared(struct shared *s) {
    mdg_sem_close(s->mutex);
    mdg_sem_close(s->full);
    mdg_sem_close(s->empty);
    mdg_shm_close(s->shm);
}

static inline void unlink_shared(const char *name) {
    CHECKED(mdg_sem_unlink(with_ending(name, ".mutex")));
    CHECKED(mdg_sem_unlink(with_ending(name, ".full")));
    CHECKED(mdg_sem_unlink(with_ending(name, ".empty")));
    CHECKED(mdg_shm_unlink(name));
}

#endif
