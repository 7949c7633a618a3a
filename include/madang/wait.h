/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/wait.h: waiting for any of many rings and descriptors.
 *
 * For programs without an event loop of their own. Those that have one put the descriptor that
 * mdg_ring_fd gives into it.
 */

#ifndef MADANG_WAIT_H
#define MADANG_WAIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>
#include <madang/ring.h>

/**
 * Most entries of one wait.
 */
#define MDG_WAIT_MAX 64

/**
 * Found, never asked for: an error that lasts; the next call on the ring or descriptor tells. The
 * value of POLLERR.
 */
#define MDG_POLL_ERR 8

/**
 * Found, never asked for: the end of the stream, or the other side is gone. Of a ring, beside the
 * event that was asked for: the next call is -EPIPE; alone: the process at the other end died, once
 * for each death to each handle; a call that may wait tells so as well (-EOWNERDEAD), but not one with
 * MDG_NOWAIT. The value of POLLHUP.
 */
#define MDG_POLL_HUP 16

/**
 * One thing to wait for, and what was found.
 */
typedef struct mdg_wait {
  /**
   * A ring, by a handle of this thread; NULL: fd counts.
   */
  mdg_ring *ring;
  /**
   * A descriptor of any kind, if ring is NULL; negative: the entry is left out.
   */
  int fd;
  /**
   * MDG_POLL_IN, MDG_POLL_OUT or both.
   */
  uint32_t events;
  /**
   * What mdg_wait_any found: bits of events, MDG_POLL_ERR, MDG_POLL_HUP; 0 if nothing.
   */
  uint32_t ready;
  /**
   * 0.
   */
  uint32_t reserved;
} mdg_wait;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Waits until at least one of count entries is ready, at most timeout_ns nanoseconds of monotonic
 * time (MDG_NOWAIT: looks only, MDG_FOREVER: without limit), and stores in each what was found.
 *
 * A ring is ready for MDG_POLL_IN when a pop, for MDG_POLL_OUT when a push would not answer -EAGAIN:
 * because it would move an item, or fail for good (MDG_POLL_HUP, MDG_POLL_ERR beside it). Where many
 * hold the same end another may be quicker, and the call is -EAGAIN after all. MDG_POLL_HUP alone
 * says that the process at the other end died, everything it committed being delivered; it stands
 * until somebody takes its place, so leave the entry out till then. The same handle may stand in
 * several entries; ends are taken as their first use would. A wait that has to
 * sleep makes one inotify instance for all its rings (see mdg_ring_fd), which the first handle keeps.
 * Where it can have none, or cannot watch one of the files, it looks again after naps of 1 to 10 ms.
 *
 * Returns how many entries are ready (1 or more), or: -EAGAIN; -ETIMEDOUT; -EINTR (a signal was
 * caught, whatever SA_RESTART says); -ECANCELED (mdg_ring_cancel on any of the rings); -EINVAL
 * (NULL, a count of 0 or above MDG_WAIT_MAX, other events, a reserved field that is not 0); -EBADF
 * (not a handle, or not an open descriptor); what taking an end returns (-EBUSY, -EACCES, also for a
 * consumer that may only read its ring, -EMFILE, -ENFILE, -ENOMEM, -ENOENT, -EBADMSG). No ready is
 * written then. Not async-signal-safe; not a cancellation point.
 */
int mdg_wait_any(struct mdg_wait *entries,
                 size_t count,
                 int64_t timeout_ns);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_WAIT_H */
