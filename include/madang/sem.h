/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/sem.h: counting semaphores.
 *
 * A semaphore counts permits: waiting takes one, posting gives one back, and any process may do
 * either. Those of the default kind are exactly those of sem_open(3), unnamed ones are a sem_t in
 * shared memory: a process that dies with a permit does not give it back. Those of kind MDG_SEM_UNDO
 * are the library's own: they know who holds what, and permits of the dead come back.
 */

#ifndef MADANG_SEM_H
#define MADANG_SEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>
#include <madang/shm.h>

/**
 * Kind: the C library's own semaphores; sem_open(3) programs are full peers. The default.
 */
#define MDG_SEM_POSIX 0

/**
 * Kind: permits of a dead holder come back by themselves. Only this library's programs are peers.
 */
#define MDG_SEM_UNDO 16

/**
 * The greatest value of a semaphore of kind MDG_SEM_POSIX.
 */
#define MDG_SEM_VALUE_MAX 2147483647

/**
 * The greatest value of a semaphore of kind MDG_SEM_UNDO, and the most permits a handle holds.
 */
#define MDG_SEM_UNDO_VALUE_MAX 1048575

/**
 * Flag of mdg_sem_opts, kind MDG_SEM_UNDO: waits through this handle tell of the dead. When permits
 * of a dead holder came back, the next wait that takes one answers -EOWNERDEAD: once, and with the
 * permit taken, to be posted as any other.
 */
#define MDG_SEM_TELL 1

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
   * Permits it starts with, at most MDG_SEM_VALUE_MAX or MDG_SEM_UNDO_VALUE_MAX. Ignored when the
   * semaphore exists.
   */
  uint32_t value;
  /**
   * MDG_SEM_POSIX or MDG_SEM_UNDO. For the calls mdg_sem_undo_* 0 means MDG_SEM_UNDO, too.
   */
  uint32_t kind;
  /**
   * MDG_SEM_TELL; for MDG_SEM_UNDO only.
   */
  uint32_t flags;
  /**
   * For MDG_SEM_UNDO only: how many handles may be open at once, at most 4096. 0: 64 for a new one,
   * whatever it has for one that exists.
   */
  uint32_t max_handles;
} mdg_sem_opts;

/**
 * Initialiser of mdg_sem_opts: sets size, and everything else to zero.
 */
#define MDG_SEM_OPTS_INIT \
    {sizeof(mdg_sem_opts), 0, 0, 0, 0}

/**
 * One handle that holds permits of a semaphore of kind MDG_SEM_UNDO.
 */
typedef struct mdg_sem_holder {
  /**
   * The process, as it saw itself (a number of its own PID namespace).
   */
  uint32_t pid;
  /**
   * Permits it holds.
   */
  uint32_t count;
  /**
   * 1 if it lives; 0: it is dead, and the next who waits gives its permits back.
   */
  uint32_t alive;
} mdg_sem_holder;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Opens, or makes, the semaphore name. Of kind MDG_SEM_POSIX it is the object that sem_open(3)
 * makes, /dev/shm/sem.NAME; of kind MDG_SEM_UNDO it is /dev/shm/mdg.sem.NAME. The two do not see each
 * other.
 *
 * *sem receives a handle to be closed with mdg_sem_close. opts NULL means value 0. oflag takes
 * O_CREAT and O_EXCL; its access mode is ignored, as in sem_open. mode gives the permissions of a
 * new one, trimmed by the umask; opening needs read and write permission. It appears complete or not
 * at all.
 *
 * Of kind MDG_SEM_UNDO, a permit belongs to the handle through which it was taken. A handle opened
 * before fork(2) works in the child, too, where it holds nothing: what the parent holds stays the
 * parent's.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name, a value over the greatest, an unknown kind, flag, oflag or
 * mode bit); -E2BIG; -ENAMETOOLONG; -ENOENT; -EEXIST; -EACCES; -ELOOP (a symbolic link under the
 * name); -EPROTO (what stands there is too short, too long or no semaphore, or has another
 * max_handles); -ENOSPC; -ENOMEM; -EMFILE (descriptors, or all max_handles are open); -ENFILE;
 * -EROFS (/dev/shm is read-only); -ESTALE (others removed and made it again all the time).
 * Thread-safe; not async-signal-safe.
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
 * Bytes that a semaphore of kind MDG_SEM_UNDO with these options takes up in a segment: a multiple of
 * 4096. opts NULL means all defaults; it depends on max_handles alone.
 *
 * Returns the bytes, or: -EINVAL (another kind, a value or max_handles over the greatest, an unknown
 * flag); -E2BIG. Thread-safe; async-signal-safe as long as it succeeds.
 */
ssize_t mdg_sem_undo_footprint(const struct mdg_sem_opts *opts);

/**
 * Makes a semaphore of kind MDG_SEM_UNDO inside a segment: at offset, a multiple of 4096, where
 * mdg_sem_undo_footprint bytes are free for it. Many of them, rings, and other data can so share one
 * segment and one descriptor. What was in that place is overwritten, unless it is a semaphore or ring
 * that living handles use. (mdg_sem_init makes one of kind MDG_SEM_POSIX.)
 *
 * *sem receives a handle. Others find the semaphore by mdg_sem_undo_attach on their own mapping of
 * the segment, complete or not at all. All else is as with a named one: permits of the dead come
 * back, mdg_sem_holders tells who has them, MDG_SEM_TELL asks to be told. The handle may outlive shm,
 * whose descriptor it keeps; the segment must not be resized to end before the semaphore does, which
 * is SIGBUS for everyone who uses it. Permissions are the segment's: every handle needs read and
 * write. opts NULL means value 0.
 *
 * Returns 0, or: -EINVAL (NULL, an offset that is no multiple of 4096, a value or max_handles over
 * the greatest, another kind, an unknown flag); -E2BIG; -EBADF; -ENOSPC (the segment ends
 * before the semaphore); -EBUSY (living handles use an object there, or another process is making
 * one); -EACCES (shm is read-only); -EPROTO (shm is a device); -EMFILE (no descriptor, or
 * others attached to all max_handles first); -ENFILE; -ENOMEM; -ENOSYS (/proc is not mounted,
 * and the segment has no name). Nothing is held then, and an object that is in use is as it was.
 * Thread-safe; not async-signal-safe.
 */
int mdg_sem_undo_init(struct mdg_sem **sem,
                      const mdg_shm *shm,
                      size_t offset,
                      const struct mdg_sem_opts *opts);

/**
 * Opens the semaphore that mdg_sem_undo_init has made at offset of a segment, which may be mapped at
 * another address here. opts as in mdg_sem_open for one that exists: its value is ignored, its flags
 * are this handle's, a max_handles that is not 0 must be what it has.
 *
 * Returns 0, or: -EPROTO (no semaphore is there, or not complete yet; another layout; another
 * max_handles; larger than the segment); -ESTALE (another object is being made in its place);
 * -EBADMSG (its contents are corrupt); -EMFILE (no descriptor, or all max_handles are open), or what
 * mdg_sem_undo_init returns but -ENOSPC and -EBUSY. Thread-safe; not async-signal-safe.
 */
int mdg_sem_undo_attach(struct mdg_sem **sem,
                        const mdg_shm *shm,
                        size_t offset,
                        const struct mdg_sem_opts *opts);

/**
 * Takes a permit, waiting for one at most timeout_ns nanoseconds of monotonic time (MDG_NOWAIT:
 * not at all, MDG_FOREVER: without limit).
 *
 * Returns 0 with a permit taken, or: -EOWNERDEAD (kind MDG_SEM_UNDO opened with MDG_SEM_TELL: *with a
 * permit taken*, the first since permits of a dead holder came back); -EAGAIN (MDG_NOWAIT, none
 * there); -ETIMEDOUT; -EINTR (a signal was caught, whatever SA_RESTART says); -EOVERFLOW
 * (MDG_SEM_UNDO: the handle holds MDG_SEM_UNDO_VALUE_MAX); -EBADMSG (MDG_SEM_UNDO: its contents are
 * corrupt); -EMFILE, -ENOMEM (MDG_SEM_UNDO, in a forked child's first call); -ESTALE (there, in a
 * segment: all handles were gone, and another object was made in its place); -EINVAL (NULL); -EBADF;
 * with all but -EOWNERDEAD no permit is taken. A permit that is free is taken without a look at who
 * lives. Who waits finds the dead within 100 ms; who never waits looks for them once in 10 ms.
 * Thread-safe; not async-signal-safe; not a cancellation point.
 */
int mdg_sem_wait(struct mdg_sem *sem,
                 int64_t timeout_ns);

/**
 * Gives a permit back and wakes one who waits for it. Any process may, not just who took one.
 *
 * Of kind MDG_SEM_UNDO: a handle that holds permits gives one of them back; one that holds none adds a
 * permit for good, which no death takes back.
 *
 * Returns 0, or: -EOVERFLOW (the value is the greatest already, and stays); -EBADMSG, -EMFILE, -ENOMEM,
 * -ESTALE (as for mdg_sem_wait); -EINVAL (NULL); -EBADF. Thread-safe. Of kind MDG_SEM_POSIX async-signal-safe
 * as long as it succeeds: only a failure formats a text; of kind MDG_SEM_UNDO it is not.
 */
int mdg_sem_post(struct mdg_sem *sem);

/**
 * Permits there are now (0 or more), out of date as soon as others use the semaphore; or -EINVAL
 * (NULL), -EBADF, -EBADMSG, -ESTALE (as for mdg_sem_wait). Of kind MDG_SEM_UNDO it has the permits of
 * the dead come back first. Thread-safe; of kind MDG_SEM_POSIX async-signal-safe as long as it succeeds.
 */
int mdg_sem_value(struct mdg_sem *sem);

/**
 * Lists who holds permits of a semaphore of kind MDG_SEM_UNDO: the first count of them in holders,
 * one for each handle that holds any. The dead whose permits are still out are among them.
 *
 * Returns how many there are, which may be more than count (0 just asks), or: -EINVAL (NULL, or a
 * semaphore of kind MDG_SEM_POSIX: nobody knows who holds those); -EBADF. A look in passing while
 * others go on. Thread-safe; not async-signal-safe.
 */
ptrdiff_t mdg_sem_holders(struct mdg_sem *sem,
                          struct mdg_sem_holder *holders,
                          size_t count);

/**
 * Frees the handle. The name stays as it is. So do permits of kind MDG_SEM_POSIX taken through the
 * handle; those of kind MDG_SEM_UNDO are given back. NULL is fine. No other thread may use the handle
 * any more. errno is left alone. Not async-signal-safe.
 */
void mdg_sem_close(struct mdg_sem *sem);

/**
 * Removes the name of a semaphore, as sem_unlink(3) does; those who have it open go on using it. Where
 * a semaphore of each kind has the name, both lose it.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name); -ENAMETOOLONG; -ENOENT; -EACCES (another user's:
 * /dev/shm is sticky); -EPROTO (a directory). Thread-safe; not async-signal-safe.
 */
int mdg_sem_unlink(const char *name);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_SEM_H */
