/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/object.h: objects under /dev/shm, seen from outside.
 *
 * What there is, whether it is sound, what the dead have left in it, and whether anybody still uses
 * it.
 *
 * These are the objects of this library that have a name: files /dev/shm/mdg.*, and files
 * /dev/shm/.mdg.tmp.* that somebody was making. Segments and POSIX semaphores are not among them, nor
 * rings without a name or in a segment.
 *
 * Nothing here takes part in an object, and nothing waits for anybody. What stands under a name may
 * be anything, made by anybody: links are not followed, what is no regular file is not read, and an
 * object is read with checks at every step.
 */

#ifndef MADANG_OBJECT_H
#define MADANG_OBJECT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>

/**
 * Mechanism: a ring, /dev/shm/mdg.ring.NAME.
 */
#define MDG_OBJECT_RING 1

/**
 * Mechanism: a semaphore whose permits come back, /dev/shm/mdg.sem.NAME.
 */
#define MDG_OBJECT_SEM 2

/**
 * Mechanism: a mutex, /dev/shm/mdg.mutex.NAME.
 */
#define MDG_OBJECT_MUTEX 3

/**
 * Mechanism: a file that is being made and has no name of its own yet, /dev/shm/.mdg.tmp.NAME.
 */
#define MDG_OBJECT_TEMPORARY 5

/**
 * Mechanism: any other file /dev/shm/mdg.NAME.
 */
#define MDG_OBJECT_OTHER 6

/**
 * Mechanism: a condition variable, /dev/shm/mdg.cond.NAME.
 */
#define MDG_OBJECT_COND 7

/**
 * State: nothing is wrong with it.
 */
#define MDG_OBJECT_SOUND 0

/**
 * State: the dead have left something in it, or have left it.
 */
#define MDG_OBJECT_DAMAGED 1

/**
 * State: it has impossible words.
 */
#define MDG_OBJECT_CORRUPT 2

/**
 * State: no object of this library, or of a version that this one does not know.
 */
#define MDG_OBJECT_NOT_OURS 3

/**
 * State: this process may not read it.
 */
#define MDG_OBJECT_UNREADABLE 4

/**
 * Flag of mdg_object_reap: count what would be removed, and remove nothing.
 */
#define MDG_REAP_DRY_RUN 1

/**
 * Flag of mdg_object_reap: remove rings that hold items, too.
 */
#define MDG_REAP_WITH_ITEMS 2

/**
 * Role of a holder: it has the producing end of a ring, or is one of those that push.
 */
#define MDG_HOLDER_PRODUCER 1

/**
 * Role of a holder: it has the consuming end of a ring, or is one of those that pop.
 */
#define MDG_HOLDER_CONSUMER 2

/**
 * Role of a holder: it holds permits of a semaphore.
 */
#define MDG_HOLDER_PERMITS 4

/**
 * Role of a holder: it holds a mutex.
 */
#define MDG_HOLDER_LOCK 8

/**
 * A short look at one object, taken while others use it. What is not known is 0.
 */
typedef struct mdg_object_info {
  /**
   * sizeof(mdg_object_info), set by the caller in the first one; the library fills in what fits,
   * sets what it does not know to zero, and stores here how many bytes it filled in.
   */
  size_t size;
  /**
   * MDG_OBJECT_RING and so on: what its name says it is.
   */
  uint32_t mechanism;
  /**
   * MDG_OBJECT_SOUND, _DAMAGED, _CORRUPT, _NOT_OURS, _UNREADABLE. The cells of a ring are not
   * looked at one by one, as mdg_object_check does.
   */
  uint32_t state;
  /**
   * Length of the file.
   */
  uint64_t bytes;
  /**
   * Items that fit; of a semaphore the permits that it was made with.
   */
  uint64_t capacity;
  /**
   * Items inside, and places in progress; of a semaphore the permits that are free.
   */
  uint64_t length;
  /**
   * The kind within its mechanism, as MDG_RING_SPSC.
   */
  uint32_t kind;
  /**
   * Bytes of an item.
   */
  uint32_t item_size;
  /**
   * Handles that may be open at once.
   */
  uint32_t max_handles;
  /**
   * Handles of living processes.
   */
  uint32_t handles_live;
  /**
   * Handles of dead processes that nobody has cleared away yet.
   */
  uint32_t handles_dead;
  /**
   * The process that made it, in its own PID namespace; for people.
   */
  uint32_t creator_pid;
  /**
   * The owner of the file.
   */
  uint32_t uid;
  /**
   * The permission bits of the file.
   */
  uint32_t mode;
  /**
   * Its name, with the leading slash: what open calls of its mechanism take.
   */
  char name[256];
} mdg_object_info;

/**
 * Initialiser of mdg_object_info: sets size, and everything else to zero.
 */
#define MDG_OBJECT_INFO_INIT \
    {sizeof(mdg_object_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}}

/**
 * One handle on an object. What is not known is 0.
 */
typedef struct mdg_object_holder {
  /**
   * The process, as it saw itself (a number of its own PID namespace).
   */
  uint32_t pid;
  /**
   * Its effective user.
   */
  uint32_t uid;
  /**
   * The number of the handle in the object.
   */
  uint32_t slot;
  /**
   * Bits MDG_HOLDER_PRODUCER, _CONSUMER, _PERMITS, _LOCK; 0 for a handle that has none of them.
   */
  uint32_t roles;
  /**
   * 1 if the process lives, 0 if it is dead and not cleared away yet.
   */
  uint32_t alive;
  /**
   * Permits of a semaphore that it holds.
   */
  uint32_t permits;
  /**
   * When the handle was opened, in nanoseconds since 1970.
   */
  uint64_t since_ns;
  /**
   * The name of its program, at most 15 bytes; empty for the dead, and where /proc does not tell.
   */
  char command[16];
} mdg_object_holder;

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Lists the objects of this library under /dev/shm, by mechanism and name: those of all users, and
 * what cannot be read says so. At most count of them are stored in out, an array whose first
 * element has its size set to sizeof(mdg_object_info). out may be NULL if count is 0.
 *
 * Returns how many there are, which may be more than count; or: -EINVAL (NULL, a bad size);
 * -EOVERFLOW (count); -ENOENT (no /dev/shm); -EACCES (it cannot be read); -ENOMEM; -EMFILE;
 * -ENFILE. Thread-safe; not async-signal-safe.
 */
ssize_t mdg_object_list(struct mdg_object_info *out,
                        size_t count);

/**
 * Lists who uses the object name, the living and the dead: of a ring or a semaphore of kind
 * MDG_SEM_UNDO every open handle, of a mutex the one that holds it. At most count of them are stored in
 * holders, which may be NULL if count is 0. It only reads: read permission is enough. It may be out of
 * date when it returns.
 *
 * Returns how many there are, which may be more than count; or: -EINVAL (NULL, a bad name, no such
 * mechanism); -EOVERFLOW (count); -ENAMETOOLONG; -ENOENT; -EACCES; -ELOOP; -EPROTO, -EBADMSG (as
 * mdg_object_check); -ENOSYS (another mechanism: who has it open is not known); -ENOMEM; -EMFILE;
 * -ENFILE. Thread-safe; not async-signal-safe.
 */
int mdg_object_holders(uint32_t mechanism,
                       const char *name,
                       struct mdg_object_holder *holders,
                       size_t count);

/**
 * Tells whether an object is sound, and what the dead have left in it. It only reads: read
 * permission is enough, no handle is taken, nobody notices.
 *
 * report receives a NUL-terminated explanation of at most size bytes, or is NULL and size 0: a
 * line about the object, then a line for each finding, each of at most 255 bytes and a line feed.
 * 256 * (findings + 2) bytes always hold it; where it does not fit it is cut behind a line, and a
 * line "..." follows. For -EBADMSG and -EPROTO, which are verdicts too, it holds what
 * mdg_last_error says; with other failures it is left alone.
 *
 * A finding is a handle of a dead process that nobody has cleared away (with the places of a ring
 * that it has claimed and not finished, or the permits of a semaphore that it holds), an
 * end of a ring whose holder's death nobody has noted, a
 * sleeper announced in a ring in which nobody is left who could sleep: what mdg_object_repair mends.
 * (So does, for the most part, the next process that uses the object.) Of MDG_OBJECT_TEMPORARY: that
 * it is left behind, for mdg_object_reap.
 *
 * Returns 0 (sound), the number of findings, or: -EBADMSG (corrupt: mdg_last_error tells which word,
 * and where); -EPROTO (no object of this library, or of a version or kind that this one does not
 * know: mdg_last_error names the field); -EINVAL (NULL, a bad name, no such mechanism);
 * -ENAMETOOLONG; -ENOENT; -EACCES; -ELOOP (a symbolic link); -EOVERFLOW (size); -ENOMEM;
 * -EMFILE; -ENFILE. Thread-safe; not async-signal-safe.
 */
int mdg_object_check(uint32_t mechanism,
                     const char *name,
                     char *report,
                     size_t size);

/**
 * Mends what the dead have left in a ring, or a semaphore of kind MDG_SEM_UNDO: clears away their
 * handles, with what these have claimed and not finished; has the permits that they hold come back;
 * notes the deaths of those who held an end, wakes the sleepers.
 * What belongs to a living process is not touched, and the living may go on
 * meanwhile at full speed. It may be killed at any point, and run any number of times, by several at
 * once.
 *
 * Returns how many things were mended; or: -EBADMSG (the object is corrupt; nothing was changed);
 * -EPROTO, -EINVAL, -ENAMETOOLONG, -ENOENT, -ELOOP (as mdg_object_check); -EACCES (it takes write
 * permission); -ENOSYS (another mechanism: of a mutex, the next who locks it is told of a
 * death and mends what it protects; of the others there is nothing to repair); -ENOMEM; -EMFILE;
 * -ENFILE. Thread-safe; not async-signal-safe.
 */
int mdg_object_repair(uint32_t mechanism,
                      const char *name);

/**
 * Removes objects that no living process uses: the one called name, or with name NULL all of a
 * mechanism, or with 0 for the mechanism all there are. An object goes only if the kernel proves that
 * no living process has a handle on it, a temporary file only if its maker is dead.
 *
 * A ring that holds items is kept, unless flags has MDG_REAP_WITH_ITEMS. Items of a broadcast ring that
 * every consumer has read count as long as they are in the ring. A ring that was found corrupt counts as
 * empty. With MDG_REAP_DRY_RUN nothing is removed; the result is what it would be otherwise.
 *
 * Nobody is robbed of an object by opening it at the same moment: reap locks the object against
 * other removers and then looks for handles, an open call takes its handle and then waits until no
 * remover has the lock and looks whether the name still leads to the object. So either reap sees
 * the handle and leaves the object alone, or the opener sees that the name is gone, and finds nothing
 * or makes a new object, as its oflag says. A handle that fork(2) has copied and that has not been
 * used since in the child is no proof of life, nor is a consumer that may only read the file.
 *
 * Returns how many were removed; what may not or cannot be removed is passed over without a name.
 * With a name: -EBUSY (a living process uses it, or whether it does cannot be proven); -ENOTEMPTY (a ring
 * that holds items); -ENOENT;
 * -EACCES (another user's, or not writable); -EPROTO (no object of this library, or of a version that
 * this one does not know); -ELOOP. With and without:
 * -EINVAL (a bad name, a name without a mechanism, no such mechanism or flag); -ENAMETOOLONG; -ENOMEM;
 * -EMFILE; -ENFILE. Thread-safe; not async-signal-safe.
 */
int mdg_object_reap(uint32_t mechanism,
                    const char *name,
                    uint32_t flags);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_OBJECT_H */
