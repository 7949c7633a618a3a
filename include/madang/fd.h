/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/fd.h: descriptors passed to another process.
 *
 * A segment or a ring without a name reaches a process that is no child by its descriptor, sent over
 * a connected Unix-domain socket (socketpair(2), or accept(2) and connect(2) on AF_UNIX). Sealed
 * memory cannot be truncated by whoever has it, which is the form for peers that do not trust each
 * other: mdg_shm_anonymous or an anonymous ring on one side, MDG_SEALED on the other.
 */

#ifndef MADANG_FD_H
#define MADANG_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

/**
 * Who was at the other end of a socket when it was connected, by the kernel's word.
 */
typedef struct mdg_fd_peer {
  /**
   * Process id, in the caller's PID namespace; 0 if the process is not visible there.
   */
  uint32_t pid;
  /**
   * Effective user id.
   */
  uint32_t uid;
  /**
   * Effective group id.
   */
  uint32_t gid;
} mdg_fd_peer;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Sends the descriptor fd over socket, waiting for room at most timeout_ns nanoseconds of
 * monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit). The receiver gets a descriptor
 * of its own for the same open file; the caller keeps fd, and may close it at once. One byte
 * travels with it, so on a stream socket do not mix this with other data.
 *
 * Returns 0, or: -EAGAIN; -ETIMEDOUT; -EINTR; -EPIPE (nobody is at the other end; never SIGPIPE);
 * -EBADF; -EPROTO (socket is not a connected Unix-domain socket); -EMFILE (too many descriptors of
 * this user are on their way); -ENOMEM. Thread-safe; not async-signal-safe.
 */
int mdg_fd_send(int socket,
                int fd,
                int64_t timeout_ns);

/**
 * Receives a descriptor that mdg_fd_send has sent, waiting for it at most timeout_ns nanoseconds of
 * monotonic time. It is close-on-exec, and the caller's to close. *peer, unless peer is NULL,
 * receives who was at the other end when the connection was made (SO_PEERCRED): a process may since
 * have handed its end on.
 *
 * Returns the descriptor, 0 or more, or: -EAGAIN; -ETIMEDOUT; -EINTR; -EPIPE (the other end is
 * closed, or was never connected); -EPROTO (not a Unix-domain socket, or a message without exactly
 * one descriptor, which is taken off the socket and its descriptors closed); -EMFILE (no descriptor
 * free here: the message is lost); -EBADF; -ENOMEM; *peer is untouched then. Thread-safe; not
 * async-signal-safe.
 */
int mdg_fd_receive(int socket,
                   struct mdg_fd_peer *peer,
                   int64_t timeout_ns);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_FD_H */
