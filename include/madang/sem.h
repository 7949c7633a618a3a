/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/sem.h: counting semaphores.
 *
 * A semaphore counts permits: waiting takes one, posting gives one back, and any process may do
 * either. Named ones are exactly those of sem_open(3), unnamed ones are a sem_t in shared memory.
 * A process that dies with a permit does not give it back.
 */

#ifndef MADANG_SEM_H
#define MADANG_SEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

/**
 * Kind: the C library's own semaphores; sem_open(3) programs are full peers. The default.
 */
#define MDG_SEM_POSIX 0

/**
 * Kind: permits of a dead holder come back by themselves. Reserved: this version answers -ENOSYS.
 */
#define MDG_SEM_UNDO 1

/**
 * The greatest value of a semaphore.
 */
#define MDG_SEM_VALUE_MAX 2147483647

/**
 * A semaphore. Free-threaded: any thread may use it at any time, but for mdg_sem_close, which needs
 * it alone. A handle opened before fork(2) works in both processes, and each closes its own.
 */
typedef struct mdg_sem mdg_sem;

/**
 * What a new semaphore is to be. Zero means default.
 */
typedef struct mdg_sem_opts {
  /**
   * sizeof(mdg_sem_opts), set by the caller.
   */
  size_t size;
  /**
   * Permits it starts with, at most MDG_SEM_VALUE_MAX. Ignored when the semaphore exists.
   */
  uint32_t value;
  /**
   * MDG_SEM_POSIX.
   */
  uint32_t kind;
} mdg_sem_opts;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Opens, or makes, the semaphore name: the object that sem_open(3) makes, /dev/shm/sem.NAME.
 *
 * *sem receives a handle to be closed with mdg_sem_close. opts NULL means value 0. oflag takes
 * O_CREAT and O_EXCL; its access mode is ignored, as in sem_open. mode gives the permissions of a
 * new one, trimmed by the umask; opening needs read and write permission. It appears complete or not
 * at all.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name, a value over the greatest, an unknown kind, oflag or mode
 * bit); -E2BIG; -ENAMETOOLONG; -ENOENT; -EEXIST; -EACCES; -ELOOP (a symbolic link under the
 * name); -EPROTO (what stands there is too short, too long or no semaphore); -ENOSYS (MDG_SEM_UNDO);
 * -ENOSPC; -ENOMEM; -EMFILE; -ENFILE; -EROFS (/dev/shm is read-only); -ESTALE (others removed
 * and made it again all the time). Thread-safe; not async-signal-safe.
 */
int mdg_sem_open(struct mdg_sem **sem,
                 const char *name,
                 const struct mdg_sem_opts *opts,
                 int oflag,
                 mode_t mode);

/**
 * Makes an unnamed semaphore with value permits in memory, which is a sem_t inside memory that
 * processes share, such as a segment. Others use it with mdg_sem_attach, or with sem_wait(3).
 *
 * *sem receives a handle; memory stays the caller's and must stay mapped until mdg_sem_close,
 * which leaves the semaphore itself as it is.
 *
 * Returns 0, or -EINVAL (NULL, misaligned memory, a value over MDG_SEM_VALUE_MAX). Thread-safe; not
 * async-signal-safe. Making one where a semaphore is in use is undefined, as with sem_init(3).
 */
int mdg_sem_init(struct mdg_sem **sem,
                 void *memory,
                 unsigned int value);

/**
 * Uses a semaphore that mdg_sem_init, or sem_init(3) with pshared, made in memory.
 *
 * *sem receives a handle; memory must stay mapped until mdg_sem_close.
 *
 * Returns 0, or: -EINVAL (NULL, misaligned memory); -EPROTO (no process-shared semaphore there).
 * Thread-safe; not async-signal-safe.
 */
int mdg_sem_attach(struct mdg_sem **sem,
                   void *memory);

/**
 * Takes a permit, waiting for one at most timeout_ns nanoseconds of monotonic time (MDG_NOWAIT:
 * not at all, MDG_FOREVER: without limit).
 *
 * Returns 0 with a permit taken, or: -EAGAIN (MDG_NOWAIT, none there); -ETIMEDOUT; -EINTR (a signal
 * was caught, whatever SA_RESTART says); -EINVAL (NULL); -EBADF; no permit is taken then.
 * Thread-safe; not async-signal-safe; not a cancellation point.
 */
int mdg_sem_wait(struct mdg_sem *sem,
                 int64_t timeout_ns);

/**
 * Gives a permit back and wakes one who waits for it. Any process may, not just who took one.
 *
 * Returns 0, or: -EOVERFLOW (the value is MDG_SEM_VALUE_MAX already, and stays); -EINVAL (NULL);
 * -EBADF. Thread-safe. Async-signal-safe as long as it succeeds: only a failure formats a text.
 */
int mdg_sem_post(struct mdg_sem *sem);

/**
 * Permits there are now (0 or more), out of date as soon as others use the semaphore; or -EINVAL
 * (NULL), -EBADF. Thread-safe; async-signal-safe as long as it succeeds.
 */
int mdg_sem_value(struct mdg_sem *sem);

/**
 * Frees the handle. The name, and permits taken through the handle, stay as they are. NULL is fine.
 * No other thread may use the handle any more. errno is left alone. Not async-signal-safe.
 */
void mdg_sem_close(struct mdg_sem *sem);

/**
 * Removes the name of a semaphore, as sem_unlink(3) does; those who have it open go on using it.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name); -ENAMETOOLONG; -ENOENT; -EACCES (another user's:
 * /dev/shm is sticky); -EPROTO (a directory). Thread-safe; not async-signal-safe.
 */
int mdg_sem_unlink(const char *name);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_SEM_H */
