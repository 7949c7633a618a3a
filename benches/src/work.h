/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The work that every queue is given: what is to be moved, how an item is filled, how it is read and
 * verified. The same code for ours and for every peer.
 *
 * Word j of the item with number n from producer p is (p << 48) + n + j. The producer writes every
 * word; the consumer adds up every word and compares the first with the number that is due. The sum
 * of a whole run is known beforehand, so an item that is lost, doubled or torn is found.
 */

#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include "share.h"

struct work {
    const char *name;        /* spsc, roundtrip, mpmc, broadcast, idle */
    size_t item, batch;
    uint64_t capacity, count;
    unsigned producers, consumers; /* of broadcast: the readers */
    uint64_t think_ns;       /* roundtrip: how long each side works before it answers */
    int in_place, broadcast, mpmc, stopproof;
};

static inline uint64_t stamp(unsigned producer, uint64_t number) {
    return ((uint64_t)producer << 48) + number;
}

static inline __attribute__((always_inline))
void fill(void *item, size_t size, uint64_t value) {
    uint64_t *words = (uint64_t *)item;
    for (size_t j = 0; j < size / 8; j++) words[j] = value + j;
}

static inline __attribute__((always_inline))
uint64_t sum_up(const void *item, size_t size) {
    const uint64_t *words = (const uint64_t *)item;
    uint64_t sum = 0;
    for (size_t j = 0; j < size / 8; j++) sum += words[j];
    return sum;
}

/* What sum_up adds up to over the first count items of one producer, modulo 2^64. */
__attribute__((unused))
static uint64_t expected_sum(size_t size, unsigned producer, uint64_t count) {
    uint64_t words = size / 8;
    uint64_t numbers = count % 2 ? (count - 1) / 2 * count : count / 2 * (count - 1);
    return words * (count * stamp(producer, 0) + numbers) + count * (words * (words - 1) / 2);
}

/* One consumer's view of the stream. */
struct seen {
    uint64_t next[MOST_PROCESSES]; /* number due, by producer */
    uint64_t sum, items, wrong;
};

/* With several consumers each sees a part of every producer's items, still in order. */
static inline __attribute__((always_inline))
void verify(struct seen *seen, const void *item, size_t size, int gaps) {
    uint64_t first;
    memcpy(&first, item, 8);
    uint64_t number = first & 0xffffffffffffu;
    unsigned producer = (unsigned)(first >> 48) % MOST_PROCESSES;
    uint64_t *due = &seen->next[producer];
    seen->wrong += gaps ? number < *due : number != *due;
    *due = number + 1;
    seen->sum += sum_up(item, size);
    seen->items++;
}

/* The same for one producer: cheap enough for 8 bytes. */
static inline __attribute__((always_inline))
void verify_one(struct seen *seen, const void *item, size_t size) {
    uint64_t first;
    memcpy(&first, item, 8);
    seen->wrong += first != seen->items;
    seen->sum += sum_up(item, size);
    seen->items++;
}

#endif
