/* SPDX-License-Identifier: 0BSD
 *
 * What shm_producer and shm_consumer must agree on: the object holds one
 * NUL-terminated text, and this is how many bytes there are for it.
 */
#ifndef SHM_GREETING_H
#define SHM_GREETING_H

enum { GREETING_SIZE = 4096 };

#endif
