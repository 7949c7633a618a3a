/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * See vyukov_control.h. A cell is a sequence word and an item. The word is the position for which the
 * cell is free, or the position plus one once the item of that position is in.
 */

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "share.h"
#include "vyukov_control.h"

#define TAG 0x766f6b757976u /* what a handle begins with */

struct place {
    uint64_t tail __attribute__((aligned(LINE)));
    uint64_t head __attribute__((aligned(LINE)));
    char cells[] __attribute__((aligned(LINE)));
};

struct vyukov {
    uint64_t tag;
    struct place *place;
    uint64_t mask;
    uint32_t item_size, cell_size;
};

uint64_t vyukov_bytes(uint64_t capacity, uint32_t item_size) {
    return sizeof(struct place) + capacity * (8 + item_size);
}

vyukov *vyukov_make(void *memory, uint64_t capacity, uint32_t item_size) {
    struct vyukov *q = (struct vyukov *)calloc(1, sizeof *q);
    if (!q) return NULL;
    *q = (struct vyukov){TAG, (struct place *)memory, capacity - 1, item_size, 8 + item_size};
    for (uint64_t i = 0; i < capacity; i++) memcpy(q->place->cells + i * q->cell_size, &i, 8);
    return q;
}

static inline uint64_t *cell_at(const struct vyukov *q, uint64_t position) {
    return (uint64_t *)(void *)(q->place->cells + (position & q->mask) * q->cell_size);
}

/* Waits as Madang's own loop does at first; a control needs no sleep. 1: again. */
static int wait_again(int64_t timeout_ns, unsigned *turns) {
    if (timeout_ns == 0) return 0;
    pause_once();
    if (++*turns % 64 == 0) sched_yield();
    return 1;
}

int vyukov_push(vyukov *q, const void *item, int64_t timeout_ns) {
    if (!q || !item) return -EINVAL;
    if (q->tag != TAG) return -EBADF;
    unsigned turns = 0;
    uint64_t position = __atomic_load_n(&q->place->tail, __ATOMIC_RELAXED);
    for (;;) {
        uint64_t *cell = cell_at(q, position);
        int64_t ahead = (int64_t)(__atomic_load_n(cell, __ATOMIC_ACQUIRE) - position);
        if (ahead == 0) {
            if (__atomic_compare_exchange_n(&q->place->tail, &position, position + 1, 1,
                                            __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
                if (q->item_size == 8) memcpy(cell + 1, item, 8);
                else memcpy(cell + 1, item, q->item_size);
                __atomic_store_n(cell, position + 1, __ATOMIC_RELEASE);
                return 0;
            }
            continue;
        }
        if (ahead < 0 && !wait_again(timeout_ns, &turns)) return -EAGAIN;
        position = __atomic_load_n(&q->place->tail, __ATOMIC_RELAXED);
    }
}

int vyukov_pop(vyukov *q, void *item, int64_t timeout_ns) {
    if (!q || !item) return -EINVAL;
    if (q->tag != TAG) return -EBADF;
    unsigned turns = 0;
    uint64_t position = __atomic_load_n(&q->place->head, __ATOMIC_RELAXED);
    for (;;) {
        uint64_t *cell = cell_at(q, position);
        int64_t ahead = (int64_t)(__atomic_load_n(cell, __ATOMIC_ACQUIRE) - (position + 1));
        if (ahead == 0) {
            if (__atomic_compare_exchange_n(&q->place->head, &position, position + 1, 1,
                                            __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
                if (q->item_size == 8) memcpy(item, cell + 1, 8);
                else memcpy(item, cell + 1, q->item_size);
                __atomic_store_n(cell, position + q->mask + 1, __ATOMIC_RELEASE);
                return 0;
            }
            continue;
        }
        if (ahead < 0 && !wait_again(timeout_ns, &turns)) return -EAGAIN;
        position = __atomic_load_n(&q->place->head, __ATOMIC_RELAXED);
    }
}
