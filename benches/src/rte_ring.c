/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * DPDK's rte_ring, from its headers alone: the ring is set up here as rte_ring_init would, so that
 * no DPDK environment is needed. Single and multiple producers take its default synchronisation.
 */

#include <rte_ring.h>
#include <rte_ring_peek_zc.h>
#include "work.h"

struct queue {
    struct rte_ring *ring;
    int many;
};

static void queue_make(struct queue *q, const struct work *w, unsigned index) {
    (void)index;
    if (w->broadcast) cannot("no broadcast");
    q->ring = (struct rte_ring *)shared_memory(sizeof *q->ring + w->capacity * w->item);
    q->many = w->mpmc;
    q->ring->size = (uint32_t)w->capacity; /* one less fits */
    q->ring->mask = (uint32_t)w->capacity - 1;
    q->ring->capacity = (uint32_t)w->capacity - 1;
    q->ring->prod.sync_type = q->ring->cons.sync_type = w->mpmc ? RTE_RING_SYNC_MT : RTE_RING_SYNC_ST;
}

static void queue_attach(struct queue *q, int side) { (void)q, (void)side; }

static inline __attribute__((always_inline))
size_t queue_push(struct queue *q, const void *items, size_t size, size_t n) {
    if (q->many)
        return rte_ring_mp_enqueue_burst_elem(q->ring, items, (unsigned)size, (unsigned)n, NULL);
    return rte_ring_sp_enqueue_burst_elem(q->ring, items, (unsigned)size, (unsigned)n, NULL);
}

static inline __attribute__((always_inline))
size_t queue_pop(struct queue *q, void *items, size_t size, size_t n) {
    if (q->many)
        return rte_ring_mc_dequeue_burst_elem(q->ring, items, (unsigned)size, (unsigned)n, NULL);
    return rte_ring_sc_dequeue_burst_elem(q->ring, items, (unsigned)size, (unsigned)n, NULL);
}

#define QUEUE_IN_PLACE

static inline void *queue_reserve(struct queue *q, size_t size) {
    struct rte_ring_zc_data run;
    if (!rte_ring_enqueue_zc_bulk_elem_start(q->ring, (unsigned)size, 1, &run, NULL)) return NULL;
    return run.ptr1;
}

static inline void queue_commit(struct queue *q, size_t size) {
    (void)size;
    rte_ring_enqueue_zc_elem_finish(q->ring, 1);
}

static inline const void *queue_peek(struct queue *q, size_t size) {
    struct rte_ring_zc_data run;
    if (!rte_ring_dequeue_zc_bulk_elem_start(q->ring, (unsigned)size, 1, &run, NULL)) return NULL;
    return run.ptr1;
}

static inline void queue_release(struct queue *q, size_t size) {
    (void)size;
    rte_ring_dequeue_zc_elem_finish(q->ring, 1);
}

static void queue_leave(struct queue *q, int side) { (void)q, (void)side; }
static void queue_remove(struct queue *q) { (void)q; }

#include "loop.h"
