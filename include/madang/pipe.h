/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Stub.
 */

#ifndef MADANG_PIPE_H
#define MADANG_PIPE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

#endif  /* MADANG_PIPE_H */
