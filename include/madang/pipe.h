/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/pipe.h: pipes and FIFOs with timeouts, without SIGPIPE, and with messages.
 */

#ifndef MADANG_PIPE_H
#define MADANG_PIPE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

/**
 * Longest message of mdg_pipe_send, in bytes (1 MiB).
 */
#define MDG_PIPE_MESSAGE_MAX 1048576

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Makes a pipe.
 *
 * On success fds[0] is its reading end and fds[1] its writing end: ordinary blocking descriptors
 * that belong to the caller, who closes them with close(2). flags is 0 (close-on-exec) or
 * MDG_INHERIT (they stay open across execve(2)).
 *
 * Returns 0, or: -EINVAL fds is NULL or misaligned, or flags has an unknown bit; -EMFILE this
 * process, or -ENFILE the system, has too many open descriptors; -ENOMEM. On failure fds is
 * left as it was.
 *
 * Thread-safe; not async-signal-safe. After fork(2) both processes hold both ends: close in each
 * what it does not use, or end of file will never be seen.
 */
int mdg_pipe_open(int *fds,
                  uint32_t flags);

/**
 * Makes two pipes: one for each way between a parent and a child.
 *
 * On success each of parent and child is {reading end, writing end}: what is written to
 * parent[1] is read from child[0], and what is written to child[1] is read from parent[0]. After
 * fork(2) the parent closes both of child, the child both of parent. All four are ordinary
 * blocking descriptors that belong to the caller. flags is 0 (close-on-exec) or MDG_INHERIT.
 *
 * Returns 0, or: -EINVAL a pointer is NULL or misaligned, or flags has an unknown bit; -EMFILE,
 * -ENFILE too many open descriptors; -ENOMEM. On failure both arrays are left as they were and
 * nothing stays open.
 *
 * Thread-safe; made for fork(2); not async-signal-safe. Not a cancellation point.
 */
int mdg_pipe_pair(int *parent,
                  int *child,
                  uint32_t flags);

/**
 * Makes a FIFO (named pipe) in the file system.
 *
 * mode is its permission bits (0 to 0777), trimmed by the umask as open(2) does.
 *
 * Returns 0, or: -EINVAL path is NULL or mode has other bits; -EEXIST something, be it a
 * FIFO or a dangling symbolic link, has that name; -EACCES no permission to write in the
 * directory; -ENOENT a directory of the path is missing, or the path is empty; -ENOTDIR; -ELOOP
 * too many symbolic links on the way; -ENAMETOOLONG; -ENOSPC; -EROFS.
 *
 * Thread-safe; fork(2) does not matter; not async-signal-safe. Not a cancellation point.
 */
int mdg_fifo_create(const char *path, mode_t mode);

/**
 * Removes a FIFO's name. Those who have it open go on using it.
 *
 * Only a FIFO is removed. The look at what it is and the removal are two steps: who may write in
 * the directory can put something else there in between.
 *
 * Returns 0, or: -EINVAL path is NULL; -ENOENT nothing has that name; -ELOOP a symbolic link has
 * it; -EPROTO something else that is not a FIFO has it; -EACCES no permission; -ENOTDIR;
 * -ENAMETOOLONG; -EROFS.
 *
 * Thread-safe; fork(2) does not matter; not async-signal-safe. Not a cancellation point.
 */
int mdg_fifo_unlink(const char *path);

/**
 * Opens a FIFO and waits until its other end is open too.
 *
 * oflag is O_RDONLY, O_WRONLY or O_RDWR from <fcntl.h> and nothing else. With O_RDONLY the call
 * waits for a writer (one that came and went meanwhile counts, as for open(2)), with O_WRONLY for
 * a reader. O_RDWR never waits; whoever holds it keeps the FIFO open, so that no reader sees end
 * of file when a writer leaves. timeout_ns is in nanoseconds on the monotonic clock: MDG_NOWAIT
 * (0) never waits, negative waits without limit.
 *
 * Returns the descriptor, an ordinary blocking one, close-on-exec, which belongs to the caller;
 * or: -EAGAIN MDG_NOWAIT and the other end is not open; -ETIMEDOUT; -EINTR a signal was caught
 * while waiting, whatever SA_RESTART says; -EINVAL path is NULL or oflag has another bit;
 * -ENOENT nothing has that name; -ELOOP a symbolic link has it; -EPROTO something that is not a
 * FIFO has it, which is not opened; -ESTALE the FIFO was unlinked or replaced while the call
 * waited; -EACCES no permission; -EMFILE, -ENFILE too many open descriptors (the call takes up to
 * five for its length); -ENOTDIR; -ENAMETOOLONG; -ENOMEM.
 *
 * A reader counts as open while it waits. Two sides that both retry with MDG_NOWAIT may therefore
 * miss one another for ever; let one of them wait. The wait is woken by inotify(7); where that is
 * not to be had (limits used up, or no permission to read the FIFO) the call looks every 2 ms. A
 * writer finds a reader that is blocked in a plain open(2) within 10 ms.
 *
 * Thread-safe. A child forked by another thread during the call holds copies of its descriptors
 * until it exits or executes a program. Not async-signal-safe. Not a cancellation point.
 */
int mdg_fifo_open(const char *path,
                  int oflag,
                  int64_t timeout_ns);

/**
 * Reads what is there, at least one byte, at most len.
 *
 * Works on every pipe and FIFO, and on other descriptors that poll(2) knows. The descriptor may be
 * blocking or not: its flags, which belong to all its holders, are neither heeded nor changed;
 * only timeout_ns decides (nanoseconds, monotonic clock; MDG_NOWAIT (0) never waits, negative
 * waits without limit). buf may be NULL when len is 0.
 *
 * Returns the number of bytes; 0 is end of file (all writers have closed) or len 0; or: -EAGAIN
 * MDG_NOWAIT and nothing there; -ETIMEDOUT; -EINTR a signal was caught while waiting, whatever
 * SA_RESTART says, with nothing read; -EINVAL buf is NULL; -EOVERFLOW len exceeds SSIZE_MAX;
 * -EBADF not an open descriptor, or not open for reading; what read(2) says otherwise.
 *
 * Pipes made by pipe(2) on Linux 6.4 or later are read directly. Elsewhere the call works on a
 * private second opening of the same pipe through /proc; where that is not permitted (no /proc; a
 * pipe of another user; no free descriptor) it polls and then reads, and another reader that is
 * quicker can make it wait beyond its timeout, until the next byte.
 *
 * Thread-safe: concurrent readers each get different bytes. Usable on both sides of a fork(2). Not
 * async-signal-safe. Not a cancellation point.
 */
ssize_t mdg_pipe_read(int fd,
                      void *buf,
                      size_t len,
                      int64_t timeout_ns);

/**
 * Reads exactly len bytes, or what came before the end of file.
 *
 * As mdg_pipe_read, but goes on until buf is full. One timeout covers the whole call.
 *
 * Returns the number of bytes. Fewer than len means that the file ended, or that time, a signal
 * or an error ended the call after these bytes; nothing that was read is lost, and the next call
 * tells which it was. 0 is end of file or len 0. When nothing was read, the errors are those of
 * mdg_pipe_read: -EAGAIN, -ETIMEDOUT, -EINTR, -EINVAL, -EOVERFLOW, -EBADF and read(2)'s. With
 * MDG_NOWAIT it takes what is there.
 *
 * Thread-safe, but concurrent readers share the bytes out between them. Usable on both sides of a
 * fork(2). Not async-signal-safe. Not a cancellation point.
 */
ssize_t mdg_pipe_read_full(int fd,
                           void *buf,
                           size_t len,
                           int64_t timeout_ns);

/**
 * Writes all len bytes; never raises SIGPIPE.
 *
 * The descriptor's O_NONBLOCK is neither heeded nor changed, as for mdg_pipe_read. timeout_ns is
 * in nanoseconds on the monotonic clock and covers the whole call: MDG_NOWAIT (0) writes what fits
 * now, negative waits without limit. buf may be NULL when len is 0.
 *
 * Returns the number of bytes written. Fewer than len means that time, a signal or an error
 * ended the call after these bytes; the next call tells which it was. When nothing was written:
 * -EAGAIN MDG_NOWAIT and no room; -ETIMEDOUT; -EINTR a signal was caught while waiting, whatever
 * SA_RESTART says; -EPIPE all readers have closed; -EINVAL buf is NULL; -EOVERFLOW len exceeds
 * SSIZE_MAX, or the descriptor is a file's that would exceed RLIMIT_FSIZE (no SIGXFSZ is raised);
 * -EBADF not an open descriptor, or not open for writing; what write(2) says otherwise.
 *
 * Up to PIPE_BUF (4096) bytes are written all or not at all, and are never mixed with another's;
 * longer ones may be: see mdg_pipe_send. On Linux before 6.18 SIGPIPE is blocked in this thread
 * for the length of each write and taken off if the write raised it; one that was pending before
 * stays pending. Where neither the direct way nor a second opening of the pipe is to be had (see
 * mdg_pipe_read), another writer that is quicker can make the call wait beyond its timeout.
 *
 * Thread-safe. Usable on both sides of a fork(2); a child forked by another thread during the call
 * may hold the writing end open a little longer. Not async-signal-safe. Not a cancellation point.
 */
ssize_t mdg_pipe_write(int fd,
                       const void *buf,
                       size_t len,
                       int64_t timeout_ns);

/**
 * Sends one message, which mdg_pipe_receive takes off the pipe whole.
 *
 * len is 0 to MDG_PIPE_MESSAGE_MAX; a message of no bytes is a message (msg may be NULL then).
 * Messages of many senders, threads and processes, never mix. Those of at most 4088 bytes go as
 * one atomic write, and their senders never wait for one another; a longer one goes in pieces, and
 * other senders wait until it is through. timeout_ns covers the whole call, in nanoseconds on
 * the monotonic clock: MDG_NOWAIT (0) never waits, negative waits without limit.
 *
 * Returns 0 when all of the message is in the pipe; or: -EAGAIN MDG_NOWAIT and no room, or another
 * sender is at it; -ETIMEDOUT; -EINTR a signal was caught while waiting, whatever SA_RESTART says;
 * -EPIPE all readers have closed, and never a SIGPIPE; -EMSGSIZE len exceeds the limit; -EINVAL
 * msg is NULL; -EOVERFLOW len exceeds SSIZE_MAX; -EBADF not an open descriptor, or not open
 * for writing; -EPROTO not a pipe or FIFO; -EMFILE, -ENFILE no free descriptor (the call takes one
 * for its length); -ENOLCK, -ENOMEM; -EIO.
 *
 * After any failure receivers see nothing of the message: if a part of a long one was already
 * written (time, a signal, death of the sender) they drop it when the next message comes. With
 * MDG_NOWAIT a message longer than the pipe's capacity (normally 65536 bytes, 8 of every 4096
 * being headers) is always -EAGAIN.
 *
 * Senders exclude one another by flock(2) on a private second opening of the pipe, which the
 * kernel takes back if the sender dies. Where that is not permitted (no /proc; a pipe of another
 * user) they use a process-owned fcntl(2) lock on its first byte: it excludes processes, not the
 * threads of one process, nor those senders who can use flock; messages longer than 4088 bytes
 * then need one sender at a time.
 *
 * Thread-safe. Usable on both sides of a fork(2). A child that another thread forks during the
 * call holds a copy of the writing end until it exits or executes a program. Not
 * async-signal-safe. Not a cancellation point.
 */
int mdg_pipe_send(int fd,
                  const void *msg,
                  size_t len,
                  int64_t timeout_ns);

/**
 * Receives one message of mdg_pipe_send.
 *
 * buf may be NULL when len is 0. timeout_ns is in nanoseconds on the monotonic clock:
 * MDG_NOWAIT (0) takes a message that is there, negative waits without limit.
 *
 * Returns the message's length, 0 for one of no bytes; or: -EPIPE end of stream, all senders have
 * closed; -EMSGSIZE the message is longer than len: it is off the pipe and lost,
 * mdg_last_error() tells its length; -EAGAIN MDG_NOWAIT and no message; -ETIMEDOUT; -EINTR a
 * signal was caught before a message began, whatever SA_RESTART says; -EBADMSG a message was cut
 * off and dropped (the stream ended within it, or its rest did not come in time), the next call
 * goes on behind it, or else the bytes are not messages: something else writes to or reads from
 * the pipe; -EINVAL buf is NULL; -EOVERFLOW len exceeds SSIZE_MAX; -EBADF not an open
 * descriptor, or not open for reading; -EPROTO not a pipe or FIFO; what read(2) says otherwise.
 * After a failure the contents of buf are unspecified.
 *
 * The beginning of a message longer than 4088 bytes cannot be put back into the pipe. Once it has
 * been taken, a signal does not end the call; the timeout does, with -EBADMSG, and the message is
 * lost. With MDG_NOWAIT the call then waits for the rest as long as the sender is at it, but at
 * most 1 second for each piece. A message whose sender died or gave up is dropped silently when
 * the next one begins.
 *
 * One receiver at a time on a pipe: concurrent ones tear messages apart, and each may get
 * -EBADMSG. Otherwise thread-safe. Usable on both sides of a fork(2), in one process at a time.
 * Not async-signal-safe. Not a cancellation point.
 */
ssize_t mdg_pipe_receive(int fd,
                         void *buf,
                         size_t len,
                         int64_t timeout_ns);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_PIPE_H */
