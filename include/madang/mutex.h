/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/mutex.h: mutexes and condition variables between processes.
 *
 * A mutex survives its holder: who takes it after a holder's death is told, with -EOWNERDEAD, mends
 * what the mutex protects, declares it consistent and goes on. Underneath is a robust, process-shared
 * pthread_mutex_t. A lock belongs to the thread that took it.
 *
 * Processes that share one must trust each other: the C library keeps addresses of the holder's in
 * it. They must be in one PID namespace, as the kernel knows a holder by its number there: every call
 * on a mutex of another namespace is refused with -EOPNOTSUPP and does nothing. A named mutex belongs to
 * the namespace of those who have it open, one in memory to that of its maker. A semaphore of kind
 * MDG_SEM_UNDO with value 1 works between namespaces.
 */

#ifndef MADANG_MUTEX_H
#define MADANG_MUTEX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

/**
 * Bytes of memory that mdg_mutex_init needs, aligned to 8.
 */
#define MDG_MUTEX_SIZE 128

/**
 * Bytes of memory that mdg_cond_init needs, aligned to 8.
 */
#define MDG_COND_SIZE 64

/**
 * A condition variable. Free-threaded, and works after fork(2), as a mutex does.
 */
typedef struct mdg_cond mdg_cond;

/**
 * A mutex. Free-threaded: any thread may use it at any time, but for mdg_mutex_close, which needs it
 * alone. A handle opened before fork(2) works in both processes, and each closes its own; a lock
 * stays the parent's.
 */
typedef struct mdg_mutex mdg_mutex;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Opens, or makes, the mutex name: /dev/shm/mdg.mutex.NAME.
 *
 * *mutex receives a handle to be closed with mdg_mutex_close. oflag takes O_CREAT and O_EXCL; its
 * access mode is ignored. mode gives the permissions of a new one, trimmed by the umask; opening
 * needs read and write permission. It appears complete or not at all.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name, an unknown oflag or mode bit); -ENAMETOOLONG (more than
 * 245 bytes); -ENOENT; -EEXIST; -EACCES; -ELOOP (a symbolic link under the name); -EPROTO (what
 * stands there is no mutex); -ENOSPC; -ENOMEM; -EMFILE; -ENFILE; -EROFS; -ESTALE (others removed
 * and made it again all the time); -EBUSY (a process that was removing or opening it was stopped);
 * -EOPNOTSUPP (processes of another PID namespace have it open). Thread-safe; not async-signal-safe.
 */
int mdg_mutex_open(struct mdg_mutex **mutex,
                   const char *name,
                   int oflag,
                   mode_t mode);

/**
 * Makes a mutex in memory, MDG_MUTEX_SIZE bytes inside memory that processes share, such as a
 * segment. Others use it with mdg_mutex_attach.
 *
 * *mutex receives a handle; memory stays the caller's. It must stay mapped until mdg_mutex_close,
 * and as long as a thread of this process holds the mutex.
 *
 * Returns 0, or: -EINVAL (NULL, misaligned memory); -ENOMEM. Thread-safe; not async-signal-safe.
 * Making one where a mutex is in use is undefined.
 */
int mdg_mutex_init(struct mdg_mutex **mutex,
                   void *memory);

/**
 * Uses a mutex that mdg_mutex_init made in memory, which stays mapped as for mdg_mutex_init.
 *
 * Returns 0, or: -EINVAL (NULL, misaligned memory); -EPROTO (no mutex there); -ENOMEM; -EOPNOTSUPP
 * (made in another PID namespace). Thread-safe; not async-signal-safe.
 */
int mdg_mutex_attach(struct mdg_mutex **mutex,
                     void *memory);

/**
 * Takes the mutex, waiting for it at most timeout_ns nanoseconds of monotonic time (MDG_NOWAIT: not
 * at all, MDG_FOREVER: without limit).
 *
 * Returns 0 with the mutex held, or -EOWNERDEAD, *with the mutex held, too*: the thread that held it
 * ended, or was killed, without unlocking. Mend what the mutex protects, call mdg_mutex_consistent,
 * go on. Else it is not held: -EAGAIN (MDG_NOWAIT); -ETIMEDOUT; -EINTR (a signal was caught);
 * -EDEADLK (this thread holds it); -ENOTRECOVERABLE (a thread that was told of a death unlocked it
 * without mdg_mutex_consistent: nobody gets it any more); -EOPNOTSUPP (a child in another PID namespace);
 * -EINVAL (NULL); -EBADF. A death while others wait is noticed within 100 ms. Thread-safe; not
 * async-signal-safe; not a cancellation point.
 */
int mdg_mutex_lock(struct mdg_mutex *mutex,
                   int64_t timeout_ns);

/**
 * Lets go of the mutex and wakes who waits for it.
 *
 * Returns 0, or: -EPERM (this thread does not hold it); -EOPNOTSUPP (as mdg_mutex_lock); -EINVAL (NULL);
 * -EBADF. Thread-safe; not async-signal-safe.
 */
int mdg_mutex_unlock(struct mdg_mutex *mutex);

/**
 * Declares what the mutex protects whole again, after -EOWNERDEAD and before unlocking.
 *
 * Returns 0, or: -EINVAL (NULL, nobody died with it); -EOPNOTSUPP (as mdg_mutex_lock); -EBADF.
 * Thread-safe; not async-signal-safe.
 */
int mdg_mutex_consistent(struct mdg_mutex *mutex);

/**
 * Frees the handle. A mutex that a thread of this process still holds stays locked, and its named
 * memory mapped; when that thread ends others get -EOWNERDEAD. NULL is fine. No other thread may use
 * the handle any more. errno is left alone. Not async-signal-safe.
 */
void mdg_mutex_close(struct mdg_mutex *mutex);

/**
 * Removes the name of a mutex; those who have it open go on using it.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name); -ENAMETOOLONG; -ENOENT; -EACCES (another user's);
 * -EPROTO (no regular file); -ELOOP (a symbolic link); -EBUSY (another process is removing it and was
 * stopped). Thread-safe; not async-signal-safe.
 */
int mdg_mutex_unlink(const char *name);

/**
 * Opens, or makes, the condition variable name: /dev/shm/mdg.cond.NAME. As mdg_mutex_open, with the
 * same results; names have at most 246 bytes.
 */
int mdg_cond_open(struct mdg_cond **cond,
                  const char *name,
                  int oflag,
                  mode_t mode);

/**
 * Makes a condition variable in memory, MDG_COND_SIZE bytes inside memory that processes share. As
 * mdg_mutex_init, with the same results.
 */
int mdg_cond_init(struct mdg_cond **cond,
                  void *memory);

/**
 * Uses a condition variable that mdg_cond_init made in memory. As mdg_mutex_attach, with the same
 * results.
 */
int mdg_cond_attach(struct mdg_cond **cond,
                    void *memory);

/**
 * Lets go of mutex, which the caller holds, waits until the condition variable is signalled, at most
 * timeout_ns nanoseconds, and takes the mutex again, however long that takes. It may return 0
 * without a signal: look at what you wait for in a loop.
 *
 * Returns, with the mutex held: 0; -EAGAIN (MDG_NOWAIT: it was let go for a moment only); -ETIMEDOUT;
 * -EINTR (a signal handler ran); -EOWNERDEAD (as mdg_mutex_lock; whatever the wait came to). With
 * nothing done: -EPERM (the caller does not hold the mutex); -EOPNOTSUPP (as mdg_mutex_lock); -EINVAL
 * (NULL); -EBADF. With the mutex lost: -ENOTRECOVERABLE. Thread-safe; not async-signal-safe; not a
 * cancellation point.
 */
int mdg_cond_wait(struct mdg_cond *cond,
                  struct mdg_mutex *mutex,
                  int64_t timeout_ns);

/**
 * Wakes one who waits, or more; nobody is fine. The mutex may be held or not.
 *
 * Returns 0, or -EINVAL (NULL), -EBADF. Thread-safe; async-signal-safe as long as it succeeds.
 */
int mdg_cond_signal(struct mdg_cond *cond);

/**
 * Wakes all who wait. As mdg_cond_signal, with the same results.
 */
int mdg_cond_broadcast(struct mdg_cond *cond);

/**
 * Frees the handle. NULL is fine. No other thread may use it any more. errno is left alone. Not
 * async-signal-safe.
 */
void mdg_cond_close(struct mdg_cond *cond);

/**
 * Removes the name of a condition variable. As mdg_mutex_unlink, with the same results.
 */
int mdg_cond_unlink(const char *name);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_MUTEX_H */
