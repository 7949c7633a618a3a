/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Madang: segments, rings, semaphores, mutexes and pipes between Unix programs.
 * Includes everything; madang/base.h states the rules that all calls follow. Link with -lmadang. */
#ifndef MADANG_H
#define MADANG_H

#include <madang/base.h>
#include <madang/fd.h>
#include <madang/mutex.h>
#include <madang/object.h>
#include <madang/pipe.h>
#include <madang/ring.h>
#include <madang/sem.h>
#include <madang/shm.h>
#include <madang/wait.h>

#endif /* MADANG_H */
