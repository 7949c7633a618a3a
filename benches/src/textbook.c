/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The bounded buffer of the textbooks in shared memory: a mutex and two condition variables, or,
 * with -DSEMAPHORES, three semaphores. One item per turn; both block.
 */

#include <pthread.h>
#include <semaphore.h>
#include "work.h"

struct buffer {
#ifdef SEMAPHORES
    sem_t mutex, full, empty;
#else
    pthread_mutex_t mutex;
    pthread_cond_t not_full, not_empty;
    size_t inside;
#endif
    size_t in, out;
};

struct queue {
    struct buffer *at;
    char *slots;
    size_t capacity;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    struct buffer *b = q->at = (struct buffer *)shared_memory(sizeof *b);
    q->slots = (char *)shared_memory(w->capacity * w->item);
    q->capacity = w->capacity;
#ifdef SEMAPHORES
    sem_init(&b->mutex, 1, 1);
    sem_init(&b->full, 1, 0);
    sem_init(&b->empty, 1, (unsigned)w->capacity);
#else
    pthread_mutexattr_t m;
    pthread_condattr_t c;
    pthread_mutexattr_init(&m);
    pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
    pthread_condattr_init(&c);
    pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&b->mutex, &m);
    pthread_cond_init(&b->not_full, &c);
    pthread_cond_init(&b->not_empty, &c);
#endif
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline void put(struct queue *q, const void *item, size_t size) {
    struct buffer *b = q->at;
    memcpy(q->slots + b->in * size, item, size);
    b->in = (b->in + 1) & (q->capacity - 1);
}

static inline void take(struct queue *q, void *item, size_t size) {
    struct buffer *b = q->at;
    memcpy(item, q->slots + b->out * size, size);
    b->out = (b->out + 1) & (q->capacity - 1);
}

static inline size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    struct buffer *b = q->at;
    for (size_t i = 0; i < n; i++) {
        const char *item = (const char *)items + i * size;
#ifdef SEMAPHORES
        sem_wait(&b->empty);
        sem_wait(&b->mutex);
        put(q, item, size);
        sem_post(&b->mutex);
        sem_post(&b->full);
#else
        pthread_mutex_lock(&b->mutex);
        while (b->inside == q->capacity) pthread_cond_wait(&b->not_full, &b->mutex);
        put(q, item, size);
        b->inside++;
        pthread_cond_signal(&b->not_empty);
        pthread_mutex_unlock(&b->mutex);
#endif
    }
    return n;
}

static inline size_t queue_pop(struct queue *q, void *item, size_t size, size_t n) {
    struct buffer *b = q->at;
    (void)n;
#ifdef SEMAPHORES
    sem_wait(&b->full);
    sem_wait(&b->mutex);
    take(q, item, size);
    sem_post(&b->mutex);
    sem_post(&b->empty);
#else
    pthread_mutex_lock(&b->mutex);
    while (b->inside == 0) pthread_cond_wait(&b->not_empty, &b->mutex);
    take(q, item, size);
    b->inside--;
    pthread_cond_signal(&b->not_full);
    pthread_mutex_unlock(&b->mutex);
#endif
    return 1;
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
