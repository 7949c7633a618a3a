/* SPDX-License-Identifier: 0BSD
 *
 * cond_bounded_buffer: a bounded buffer in a segment, guarded by a mutex and two condition
 * variables.
 *
 *     ./cond_bounded_buffer 1000
 *
 * Replays the monitors of Operating System Concepts, 10th edition, section 6.7, and its POSIX
 * condition variables of section 7.3, between processes instead of threads. What the listings leave
 * out: a wait may end without a signal, so each is in a loop that looks again; and a process may
 * die with the mutex, which the next one is told with -EOWNERDEAD.
 */
#include "checked.h"

#include <stdalign.h>

enum { SLOTS = 10 };

struct buffer {
    alignas(8) char mutex[MDG_MUTEX_SIZE];
    alignas(8) char not_full[MDG_COND_SIZE];
    alignas(8) char not_empty[MDG_COND_SIZE];
    int items[SLOTS];
    int count, in, out;
};

/* The handles of one process on what lies in the segment. */
struct monitor {
    mdg_mutex *mutex;
    mdg_cond *not_full, *not_empty;
    struct buffer *buffer;
};

static void put(struct monitor *m, int item) {
    struct buffer *b = m->buffer;
    CHECKED(mdg_mutex_lock(m->mutex, MDG_FOREVER));
    while (b->count == SLOTS) {
        CHECKED(mdg_cond_wait(m->not_full, m->mutex, MDG_FOREVER));
    }
    b->items[b->in] = item;
    b->in = (b->in + 1) % SLOTS;
    b->count++;
    CHECKED(mdg_cond_signal(m->not_empty));
    CHECKED(mdg_mutex_unlock(m->mutex));
}

static int get(struct monitor *m) {
    struct buffer *b = m->buffer;
    CHECKED(mdg_mutex_lock(m->mutex, MDG_FOREVER));
    while (b->count == 0) {
        CHECKED(mdg_cond_wait(m->not_empty, m->mutex, MDG_FOREVER));
    }
    int item = b->items[b->out];
    b->out = (b->out + 1) % SLOTS;
    b->count--;
    CHECKED(mdg_cond_signal(m->not_full));
    CHECKED(mdg_mutex_unlock(m->mutex));
    return item;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("cond_bounded_buffer COUNT");
    }
    int count = number(argv[1], 1, 1000000);
    mdg_shm *shm = NULL;
    CHECKED(mdg_shm_anonymous(&shm, sizeof(struct buffer), 0));
    struct monitor m = {.buffer = mdg_shm_addr(shm)};
    CHECKED(mdg_mutex_init(&m.mutex, m.buffer->mutex));
    CHECKED(mdg_cond_init(&m.not_full, m.buffer->not_full));
    CHECKED(mdg_cond_init(&m.not_empty, m.buffer->not_empty));

    if (fork_checked() == 0) { /* handles work on in a child */
        for (int i = 1; i <= count; i++) {
            put(&m, i);
        }
        exit(0);
    }
    long long sum = 0;
    for (int i = 0; i < count; i++) {
        sum += get(&m);
    }
    printf("consumed %d items, sum %lld, %d left\n", count, sum, m.buffer->count);
    int failed = wait_for_children();
    mdg_cond_close(m.not_empty);
    mdg_cond_close(m.not_full);
    mdg_mutex_close(m.mutex);
    mdg_shm_close(shm);
    return failed;
}
