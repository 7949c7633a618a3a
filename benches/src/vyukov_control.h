/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The control for crash safety: Vyukov's bounded queue for many producers and consumers, behind a
 * shared library with calls of the same shape as mdg_ring_push and mdg_ring_pop, and without
 * anything that a crash or a sleeper would need.
 */

#ifndef VYUKOV_CONTROL_H
#define VYUKOV_CONTROL_H

#include <stdint.h>

typedef struct vyukov vyukov;

vyukov *vyukov_make(void *memory, uint64_t capacity, uint32_t item_size);
uint64_t vyukov_bytes(uint64_t capacity, uint32_t item_size);
int vyukov_push(vyukov *queue, const void *item, int64_t timeout_ns);
int vyukov_pop(vyukov *queue, void *item, int64_t timeout_ns);

#endif
