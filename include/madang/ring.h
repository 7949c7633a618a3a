/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/ring.h: rings.
 *
 * A ring is a bounded buffer of items of one size that one process fills and another empties. Items
 * come out in the order they went in, whole or not at all, and those committed survive the death of
 * either side. No lock is involved, and an operation that need not wait enters the kernel only to wake
 * somebody who sleeps. (For items of 1 KiB and more it may look at the monotonic clock now and then.)
 *
 * Only mdg_ring_shutdown ends a stream. A producer that closes its handle without it, after its last
 * item, leaves the consumers waiting, with MDG_FOREVER without limit: another producer may come. Whether
 * one is attached is in producers of mdg_ring_stats. The death of the last producer is told:
 * -EOWNERDEAD, once to each handle, whose next calls then wait for a successor.
 */

#ifndef MADANG_RING_H
#define MADANG_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <madang/base.h>
#include <madang/shm.h>

/**
 * Kind: one producer and one consumer at a time. The default.
 */
#define MDG_RING_SPSC 1

/**
 * Kind: any number of producers and consumers; each item goes to one consumer.
 */
#define MDG_RING_MPMC 2

/**
 * Kind: one producer at a time, any number of consumers; each consumer sees every item that is
 * committed after it has joined. It joins when it opens the ring O_RDONLY, or with its first pop or
 * peek. A full ring waits for its slowest living consumer, unless a policy says otherwise.
 */
#define MDG_RING_BROADCAST 3

/**
 * Policy: no process waits for another that has begun an operation and not finished it, be it dead
 * or stopped. For MDG_RING_MPMC; may be combined with one of the others. Costs time, and memory for
 * two more items per handle that may be open.
 */
#define MDG_RING_STOPPROOF 1

/**
 * Policy: a push into a full ring gives up the oldest item instead of waiting. For MDG_RING_MPMC and
 * MDG_RING_BROADCAST; consumers of the latter need permission to read the ring only.
 */
#define MDG_RING_OVERWRITE 2

/**
 * Policy: a push into a full ring takes the slowest consumer out instead of waiting for it; that one
 * is told with -EOVERFLOW, and joins again. For MDG_RING_BROADCAST.
 */
#define MDG_RING_EVICT 4

/**
 * Policy: a push into a full ring is -EAGAIN at once, whatever its timeout.
 */
#define MDG_RING_FAIL 8

/**
 * Policy: an item whose consumer is killed, or closes its handle, after it has claimed the item and
 * before it was done with it, goes to another consumer: at the latest when that one finds nothing else.
 * Who reads in place (peek, release) may thus see an item that a dead one has worked on already; no
 * item is returned by two pops. Pops answer -EPIPE only when no other consumer has an item in hands.
 * For MDG_RING_MPMC. MDG_RING_SPSC accepts it, as it does that anyway; a broadcast, and
 * MDG_RING_STOPPROOF, do not.
 */
#define MDG_RING_REDELIVER 16

/**
 * Policy: capacity is not rounded up to a power of two: neither the limit nor the memory is more than
 * what was asked for. For items of more than 1024 bytes, in MDG_RING_SPSC, MDG_RING_BROADCAST and
 * MDG_RING_MPMC with MDG_RING_STOPPROOF.
 */
#define MDG_RING_EXACT 32

/**
 * Bit of mdg_ring_open's oflag, with O_CREAT: a ring that is there already, and that no living handle
 * uses, is removed and made anew.
 */
#define MDG_FRESH 536870912

/**
 * Bit in mdg_ring_opts.flags: this consumer of a broadcast begins with the oldest item that is still
 * there, not with the first one after it has joined.
 */
#define MDG_RING_OLDEST 1

/**
 * Bit in mdg_ring_opts.flags: this consumer of a broadcast begins with the newest item that is there,
 * if there is one, and goes on with those that are committed after it. Not with MDG_RING_OLDEST.
 */
#define MDG_RING_LATEST 2

/**
 * Event: a pop, or a read from a descriptor, may go on. The value of POLLIN.
 */
#define MDG_POLL_IN 1

/**
 * Event: a push, or a write to a descriptor, may go on. The value of POLLOUT.
 */
#define MDG_POLL_OUT 4

/**
 * State of an end: nobody has held it yet.
 */
#define MDG_RING_END_NEVER 0

/**
 * State of an end: a living process holds it.
 */
#define MDG_RING_END_LIVE 1

/**
 * State of an end: the last holder closed it.
 */
#define MDG_RING_END_CLOSED 2

/**
 * State of an end: the last holder died, and nobody has held it since.
 */
#define MDG_RING_END_DEAD 3

/**
 * Bit in mdg_ring_stats.flags: the stream was ended by mdg_ring_shutdown.
 */
#define MDG_RING_SHUTDOWN 1

/**
 * Bit in mdg_ring_stats.flags: somebody found an impossible index; the ring is of no more use.
 */
#define MDG_RING_CORRUPT 2

/**
 * Bit in mdg_ring_stats.flags: the ring had a name that is gone.
 */
#define MDG_RING_UNLINKED 4

/**
 * A handle on a ring. It belongs to one thread at a time (mdg_ring_dup makes another for another
 * thread); mdg_ring_stat, mdg_ring_shutdown and mdg_ring_cancel alone may be called from any thread
 * meanwhile.
 *
 * fork(2): a handle opened before works in both processes. The child is a new participant, attached
 * by its first operation. An end that the parent has used stays the parent's until the parent closes
 * the handle or dies; the child's attempt to use it is -EBUSY. Each process closes its own handle.
 *
 * A process that exits without mdg_ring_close or mdg_ring_shutdown counts as dead, however it exited.
 */
typedef struct mdg_ring mdg_ring;

/**
 * What a ring is to be, or must be. A zero means: whatever it is, or the default for a new one.
 */
typedef struct mdg_ring_opts {
  /**
   * sizeof(mdg_ring_opts), set by the caller.
   */
  size_t size;
  /**
   * Items that fit: rounded up to a power of two (not with MDG_RING_EXACT), and all of them are
   * usable. A new ring needs it.
   */
  uint64_t capacity;
  /**
   * Bytes of an item; a new ring needs it. Items stand one behind the other without padding, the
   * first on a 128-byte boundary; those of MDG_RING_MPMC, and of a broadcast that overwrites, do not:
   * there a run in place is one item, on an 8-byte boundary. So is it in a broadcast that evicts, if
   * the item size is not a multiple of 8.
   */
  uint32_t item_size;
  /**
   * MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
   */
  uint32_t kind;
  /**
   * Handles that may be open at once, in all processes: at most 4096, 64 by default.
   */
  uint32_t max_handles;
  /**
   * MDG_RING_OVERWRITE, MDG_RING_EVICT or MDG_RING_FAIL; 0: a push into a full ring waits.
   * MDG_RING_STOPPROOF, MDG_RING_REDELIVER and MDG_RING_EXACT may be added.
   */
  uint32_t policy;
  /**
   * MDG_RING_OLDEST or MDG_RING_LATEST. For this handle; not compared with the ring.
   */
  uint32_t flags;
  /**
   * A power of two that must divide the addresses of items in place, as the alignment of the item's
   * type; 0: none. For this handle: if items do not lie so, -EINVAL for a new ring, -EPROTO for one
   * that is there. Up to 128 is possible where items stand one behind the other, if it divides
   * item_size; up to 8 elsewhere.
   */
  uint32_t item_align;
} mdg_ring_opts;

/**
 * Initialiser of mdg_ring_opts: sets size, and everything else to zero.
 */
#define MDG_RING_OPTS_INIT \
    {sizeof(mdg_ring_opts), 0, 0, 0, 0, 0, 0, 0}

/**
 * A look at a ring, taken while others work on. At a quiet moment
 * written = read + dropped + lost + length. The numbers are the ring's, whatever handle is asked.
 */
typedef struct mdg_ring_stats {
  /**
   * sizeof(mdg_ring_stats), set by the caller; the library fills in what fits, sets what it does
   * not know to zero, and stores here how many bytes it filled in.
   */
  size_t size;
  /**
   * Items that fit.
   */
  uint64_t capacity;
  /**
   * Bytes of an item.
   */
  uint32_t item_size;
  /**
   * MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
   */
  uint32_t kind;
  /**
   * Items inside. MDG_RING_BROADCAST: how far the slowest consumer is behind, or, while there is none,
   * what is there for one with MDG_RING_OLDEST, whether others had read it or not: it does not go to
   * 0 when the last consumer closes, but to what stays, which the next consumer or a push to a full
   * ring changes. With MDG_RING_OVERWRITE, what is not overwritten.
   */
  uint64_t length;
  /**
   * Items ever committed.
   */
  uint64_t written;
  /**
   * Items ever taken. MDG_RING_BROADCAST: what is not length and not dropped, so it becomes less
   * when the last consumer closes, or one joins with MDG_RING_OLDEST; with MDG_RING_OVERWRITE 0, as
   * nobody tells.
   */
  uint64_t read;
  /**
   * Items given up for newer ones (MDG_RING_OVERWRITE), by evicting a consumer (MDG_RING_EVICT), or in
   * a broadcast while there was no consumer.
   */
  uint64_t dropped;
  /**
   * Ends whose holder was found dead.
   */
  uint64_t recovered;
  /**
   * How often a producer went to sleep because the ring was full.
   */
  uint64_t push_waits;
  /**
   * How often a consumer went to sleep because the ring was empty.
   */
  uint64_t pop_waits;
  /**
   * Process that holds the producing end, or held it last; 0 if none did. In its own PID namespace.
   */
  uint32_t producer_pid;
  /**
   * Process that holds the consuming end, or held it last; 0 if none did. In its own PID namespace.
   */
  uint32_t consumer_pid;
  /**
   * MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
   */
  uint32_t producer_state;
  /**
   * MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
   */
  uint32_t consumer_state;
  /**
   * Handles that may be open at once.
   */
  uint32_t max_handles;
  /**
   * MDG_RING_SHUTDOWN, MDG_RING_CORRUPT, MDG_RING_UNLINKED.
   */
  uint32_t flags;
  /**
   * Items that went down with a consumer that had just taken them, where that is known.
   */
  uint64_t lost;
  /**
   * Places that a producer has claimed and not filled yet; not in written. MDG_RING_MPMC only.
   */
  uint64_t pending;
  /**
   * MDG_RING_STOPPROOF, MDG_RING_OVERWRITE, MDG_RING_EVICT, MDG_RING_FAIL, MDG_RING_REDELIVER.
   */
  uint32_t policy;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * How often an item was given to another consumer after its own was gone (MDG_RING_REDELIVER). Such
   * items are in length while they lie there, and are in read once.
   */
  uint64_t redelivered;
  /**
   * Living handles that hold the producing end. 0: no producer is attached, and a pop of an empty
   * ring waits until one comes.
   */
  uint32_t producers;
  /**
   * Living handles that hold the consuming end. Consumers of a broadcast that may only read it are not
   * counted: they leave no trace in it.
   */
  uint32_t consumers;
  /**
   * How often handles that wait with a descriptor (mdg_ring_fd, mdg_wait_any) could not be told of
   * a change: the process that made it may no longer write to the ring's file, or the program has
   * closed the ring's descriptor.
   */
  uint64_t notify_failures;
} mdg_ring_stats;

/**
 * Initialiser of mdg_ring_stats: sets size, and everything else to zero.
 */
#define MDG_RING_STATS_INIT \
    {sizeof(mdg_ring_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Opens, or makes, the ring name, or an anonymous one if name is NULL.
 *
 * *ring receives a handle to be closed with mdg_ring_close. oflag: O_WRONLY takes the producing
 * end at once, O_RDONLY the consuming end; O_RDWR takes each end when it is first used, which is the
 * way to open a ring before fork(2). O_CREAT makes the ring when it is missing, O_EXCL in addition
 * fails when it is there; an anonymous ring is always made. mode gives the permissions of a new
 * one, trimmed by the umask; every end needs read and write permission, but a consumer of a broadcast
 * that overwrites, opened O_RDONLY, needs to read only: without more it takes no slot of max_handles, is
 * seen by nobody, and waits by looking again after naps: an eighth of
 * the time for which it has found nothing, at most 10 ms. A ring appears complete, with its memory
 * reserved, or not at all.
 *
 * A ring outlives its processes, with what is in it and with its shutdown. With MDG_FRESH beside
 * O_CREAT, a ring that no living handle uses is removed first, as by mdg_object_reap; one that is in use
 * is opened as it is. So the program that is started first begins a new stream. Give it to one side
 * only: the other side, started late, would remove what the first has left for it.
 *
 * Opening what exists: opts NULL, or a zero field, accepts what the ring has; a field that differs
 * is -EPROTO, with both values in mdg_last_error. Making one needs capacity and item_size. An end
 * whose holder died is taken over with everything that was committed.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name, no capacity or item_size for a new ring, an unknown kind,
 * policy, flag, oflag or mode bit, or one that is not for that kind); -E2BIG; -ENAMETOOLONG;
 * -ENOENT; -EEXIST; -EACCES; -ELOOP (a symbolic link under the name); -EBUSY (a living process has
 * that end; its pid is in mdg_last_error; or another process was stopped while it removed the name);
 * -EPROTO (not a ring, another layout or geometry); -EBADMSG (its indices are
 * impossible); -EMFILE (no descriptor, or max_handles are open); -EOVERFLOW; -ENOSPC;
 * -ENOMEM; -ENFILE; -EROFS (/dev/shm is read-only); -ESTALE (others removed and made it again all
 * the time); -ENOSYS (without a name, and /proc is not mounted).
 * Nothing is made or held then. Thread-safe; not async-signal-safe.
 */
int mdg_ring_open(struct mdg_ring **ring,
                  const char *name,
                  const struct mdg_ring_opts *opts,
                  int oflag,
                  mode_t mode);

/**
 * Another handle on the same ring, for another thread or another end; also of an anonymous or
 * unlinked ring. oflag is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. A consumer of a broadcast
 * begins with the first item that is committed after it has joined.
 *
 * Returns 0, or: -EINVAL (NULL, other oflag bits); -EBADF; -EBUSY; -EBADMSG; -EMFILE; -ENOMEM;
 * -EACCES (ring may only be read, and oflag is not O_RDONLY).
 * Thread-safe as far as ring is not closed meanwhile; not async-signal-safe.
 */
int mdg_ring_dup(struct mdg_ring **copy,
                 const struct mdg_ring *ring,
                 int oflag);

/**
 * Gives back this handle's ends and frees it; the ring and its name stay. Items committed stay for
 * whoever opens it next. NULL is fine. Closing is not ending the stream: a consumer goes on waiting
 * for the next producer, so call mdg_ring_shutdown before if there will be none. errno is left alone.
 * Not async-signal-safe.
 */
void mdg_ring_close(struct mdg_ring *ring);

/**
 * Closes a handle as the death of its process would: peers see a dead participant instead of one that
 * has left in order. Where they would be told of a death (-EOWNERDEAD), they are told of this one. For
 * a program that fails in the middle of a stream and lives on: an exception that leaves a block, a
 * worker thread that gives up. Others at the same end go on; after mdg_ring_shutdown it is an orderly
 * end all the same. Items committed stay; what was reserved or peeked is resolved as after a kill.
 * NULL is fine. errno is left alone. Not async-signal-safe.
 */
void mdg_ring_abandon(struct mdg_ring *ring);

/**
 * Removes the name of a ring; those who have it open go on using it, and mdg_ring_stat tells them.
 * Whatever file stands under a ring's name is removed, sound or not.
 *
 * Returns 0, or: -EINVAL (NULL, a bad name); -ENAMETOOLONG; -ENOENT; -EACCES (another user's);
 * -ELOOP (a symbolic link); -EPROTO (not a regular file); -EBUSY (another process was stopped while
 * it was removing the same ring). Thread-safe; not async-signal-safe.
 */
int mdg_ring_unlink(const char *name);

/**
 * Pushes one item: copies item_size bytes from item into the ring, waiting for room at most
 * timeout_ns nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
 * No system call is made while there is room and nobody sleeps. When it has returned 0 the item is
 * committed, and outlives this process.
 *
 * Returns 0, or: -EAGAIN (MDG_NOWAIT, full); -ETIMEDOUT; -EINTR (a signal was caught, whatever
 * SA_RESTART says); -ECANCELED (mdg_ring_cancel); -EPIPE (shut down); -EOWNERDEAD (full, and the
 * consumer died; once for each death, after which the calls of this handle wait for a new consumer);
 * -EBUSY (another process has the producing end); -EACCES (opened O_RDONLY, or this process may
 * no longer open the ring's file); -EMFILE, -ENFILE, -ENOMEM, -ENOENT (first use of an O_RDWR
 * handle in a process: no descriptor, no memory, no /proc); -EINVAL (NULL, or a reserved run not
 * given back); -EBADF (not a handle, or the ring's descriptor was closed); -EBADMSG (corrupt); the
 * item is not pushed then. Not async-signal-safe; not a cancellation point.
 */
int mdg_ring_push(struct mdg_ring *ring,
                  const void *item,
                  int64_t timeout_ns);

/**
 * Pops one item: copies item_size bytes into item, waiting for an item at most timeout_ns
 * nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
 *
 * Returns 0, or: -EAGAIN (MDG_NOWAIT, empty); -ETIMEDOUT; -EINTR (a signal was caught, whatever
 * SA_RESTART says); -ECANCELED (mdg_ring_cancel); -EPIPE (shut down and drained: end of stream);
 * -EOWNERDEAD (empty, and the producer died; everything it committed was delivered before; once for
 * each death, after which the calls of this handle wait for a new producer); -EBUSY (another
 * process has the consuming end); -EACCES (opened O_WRONLY, or this process may no longer open the
 * ring's file); -EMFILE, -ENFILE, -ENOMEM, -ENOENT (first use of an O_RDWR handle in a process: no
 * descriptor, no memory, no /proc); -EINVAL (NULL, or a peeked run not given back); -EBADF (not a
 * handle, or the ring's descriptor was closed); -EBADMSG (corrupt); item is untouched then. Or
 * -EOVERFLOW, for a consumer of a broadcast: items went by before it had read them, or it was
 * evicted; how many it has lost is in mdg_last_error and added to mdg_ring_lost, it stands at the
 * oldest item that is there, and the next pop goes on; what is in item is undefined then. Not
 * async-signal-safe; not a cancellation point.
 */
int mdg_ring_pop(struct mdg_ring *ring,
                 void *item,
                 int64_t timeout_ns);

/**
 * Waits for room for one item, then pushes as many of the count items at items as fit, with one
 * commit for all (in kinds whose items do not stand in a row, one commit each).
 *
 * Returns how many (1 or more; 0 only for a count of 0), or what mdg_ring_push returns, or
 * -EOVERFLOW (more bytes than memory has). Not async-signal-safe; not a cancellation point.
 */
ssize_t mdg_ring_push_many(struct mdg_ring *ring,
                           const void *items,
                           size_t count,
                           int64_t timeout_ns);

/**
 * Waits for one item, then pops as many as there are, at most count, into items.
 *
 * Returns how many (1 or more; 0 only for a count of 0), or what mdg_ring_pop returns, or
 * -EOVERFLOW (more bytes than memory has). What is in items behind those returned is undefined. Not
 * async-signal-safe; not a cancellation point.
 */
ssize_t mdg_ring_pop_many(struct mdg_ring *ring,
                          void *items,
                          size_t count,
                          int64_t timeout_ns);

/**
 * Waits for room for one item, then hands out free slots in place: *items receives the address of
 * a contiguous run of at least 1 and at most count items, to be filled and then committed. A run
 * ends at the end of the ring at the latest.
 *
 * The memory is the ring's; nothing in it is visible to the consumer before mdg_ring_commit, and a
 * process that dies meanwhile has sent nothing. One run at a time: until it is given back, pushing
 * and reserving are -EINVAL.
 *
 * Returns the length of the run, or what mdg_ring_push returns (-EINVAL for a count of 0, too); a
 * failure leaves *items untouched. Not async-signal-safe; not a cancellation point.
 */
ssize_t mdg_ring_reserve(struct mdg_ring *ring,
                         void **items,
                         size_t count,
                         int64_t timeout_ns);

/**
 * Commits the first count items of the reserved run, in one step, and gives the rest back. A
 * count of 0 gives the whole run back. With MDG_RING_STOPPROOF others may have filled the ring
 * since; a commit still succeeds, and the ring then holds more than its capacity, by at most one item
 * per handle.
 *
 * Returns 0, or: -EINVAL (NULL, or more than was reserved; the run stays); -EPIPE (shut down) or
 * -EBADMSG (corrupt), with nothing committed and the run given back; -EBADF. Not async-signal-safe.
 */
int mdg_ring_commit(struct mdg_ring *ring,
                    size_t count);

/**
 * Waits for one item, then hands out items in place: *items receives the address of a contiguous
 * run of at least 1 and at most count of them. They stay in the ring, and a consumer that takes
 * over after this process's death gets them again, until mdg_ring_release. In MDG_RING_MPMC the one item
 * is this handle's from then on: no other consumer gets it, and it is lost with the handle.
 *
 * The memory is the ring's; read it only, and do not rely on its staying the same if the producer
 * cannot be trusted. One run at a time: until it is given back, popping and peeking are -EINVAL.
 *
 * In a broadcast that overwrites, or evicts, the producer may write over what is peeked at any moment:
 * mdg_ring_release tells, and nothing that was computed from it counts before that.
 *
 * Returns the length of the run, or what mdg_ring_pop returns (-EINVAL for a count of 0, too); a
 * failure leaves *items untouched. Not async-signal-safe; not a cancellation point.
 */
ssize_t mdg_ring_peek(struct mdg_ring *ring,
                      const void **items,
                      size_t count,
                      int64_t timeout_ns);

/**
 * Takes the first count items of the peeked run off the ring and leaves the rest in it; with a count
 * of 0 all of it (in MDG_RING_MPMC for this handle's next pop or peek), which says nothing about whether
 * a broadcast's producer has written over it.
 *
 * Returns 0, or: -EINVAL (NULL, or more than was peeked; the run stays); -EBADF; -EOVERFLOW (a
 * broadcast's producer has written over the run, or was free to: discard what was read; it counts as
 * lost, as in mdg_ring_pop). Not async-signal-safe.
 */
int mdg_ring_release(struct mdg_ring *ring,
                     size_t count);

/**
 * Skips the oldest items until at most keep are left for this consumer: for a consumer that wants
 * the newest state only. It copies nothing and never waits.
 *
 * The skipped items count as read, not as lost. Consumers of a broadcast skip for themselves alone.
 * While a producer goes on, more than keep items may be there when the call returns. A ring in which
 * only one item is ever wanted has a capacity of 1 and MDG_RING_OVERWRITE.
 *
 * Returns how many items were skipped: 0 if there were at most keep. On failure:
 *   -EINVAL     NULL, or a peeked run was not released
 *   -EBADF      not a live handle
 *   -EACCES     the handle was opened O_WRONLY
 *   -EBUSY      another live process has the consuming end
 *   -EOVERFLOW  MDG_RING_EVICT: this consumer was evicted, as in mdg_ring_pop; the next call goes on
 *   -EBADMSG    the ring is corrupt
 *   -EMFILE, -ENFILE, -ENOMEM  the first use of an O_RDWR handle, or of a forked one
 * Thread: the handle's thread only. Not async-signal-safe; not a cancellation point.
 */
int64_t mdg_ring_skip(struct mdg_ring *ring,
                      uint64_t keep);

/**
 * Tells how many items this handle, a consumer of a broadcast, has lost: what -EOVERFLOW has told of,
 * added up since the handle was opened (in a forked child, since the fork). What it has received and
 * what it has lost are all that was committed since it began.
 *
 * Returns the number, 0 for other kinds and ends, or: -EINVAL (NULL); -EBADF. Belongs to the handle's
 * thread; async-signal-safe as long as it succeeds.
 */
int64_t mdg_ring_lost(const struct mdg_ring *ring);

/**
 * Ends the stream: from now on pushes are -EPIPE, and pops deliver what is inside and then are
 * -EPIPE. Wakes everyone who waits. Any participant may call it, from any thread, again too. It
 * cannot be undone; unlink the ring and make a new one.
 *
 * Returns 0, or -EINVAL (NULL), -EBADF, -EACCES (a consumer that may only read the ring). Thread-safe;
 * async-signal-safe as long as it succeeds.
 */
int mdg_ring_shutdown(struct mdg_ring *ring);

/**
 * A descriptor that poll(2), select(2), epoll(7) and the event loops built on them can wait on. It
 * becomes readable (POLLIN, also for MDG_POLL_OUT) when the ring may be ready for any of events:
 * MDG_POLL_IN for pops, MDG_POLL_OUT for pushes, or both.
 *
 * The rule: it is readable from the first call on, and stays so until a call on this handle, at an end
 * that was asked for, returns -EAGAIN; that call makes it unreadable (unless the other end was asked
 * for, too, and is ready), and looks once more before it returns. Whatever comes after that makes it
 * readable again. So nothing is missed, level-triggered or edge-triggered: after an event, pop (or
 * push) with MDG_NOWAIT, edge-triggered until -EAGAIN. It may be readable for nothing. Shutdown and
 * corruption make it readable without end. -EAGAIN takes some system calls then.
 *
 * A death makes nothing readable, and a process that is killed between its commit and its notice
 * gives none: poll with a timeout, of a second for instance, and when it is over pop (or push) with
 * MDG_NOWAIT, and look at mdg_ring_stat, or wait for the other process's pidfd as well. mdg_wait_any
 * does all of this.
 *
 * The descriptor belongs to the handle: the same one at every call, closed by mdg_ring_close; it must
 * not be read, written or closed. A call with other events replaces those asked for before; a call
 * with the same events changes nothing. The ends are taken as their first use would.
 *
 * It is an inotify(7) instance that watches the ring's own file, with a number of 3 or more. Whoever
 * pushes or pops touches that file: sets its times to now. Nothing has a name, /dev/shm is not needed,
 * and only processes that may write to the file can wake a waiter: in any mount namespace, under any
 * root, as any user. Rings in one segment have its file in common, and may wake each other's waiters
 * for nothing. A user has a limited number of instances (fs.inotify.max_user_instances, often 128).
 * To close one takes up to a millisecond, so do not make and close handles with a descriptor for each
 * item. A notice that cannot be given (the process may no longer write to the file, or has closed the
 * ring's descriptor) is counted in notify_failures of mdg_ring_stats.
 *
 * fork(2): the child's handle is a new one that nobody has asked for a descriptor; the parent's is
 * open in the child until the child first uses or closes its handle, and must not be waited on there.
 *
 * Returns the descriptor, or: -EINVAL (NULL, other events); -EBUSY; -EACCES (wrong end, a consumer
 * that may only read the ring, or no permission to read its file any more); -EMFILE (no descriptor,
 * or as many inotify instances as the user may have: mdg_last_error says which); -ENOSPC (as many
 * watches as the user may have); -ENFILE; -ENOMEM; -ENOSYS (no /proc and no name of the file, or
 * a kernel without inotify); -EBADF (not a handle, or one of its descriptors was closed); -EBADMSG
 * (corrupt).
 * Not async-signal-safe.
 */
int mdg_ring_fd(struct mdg_ring *ring,
                uint32_t events);

/**
 * Ends the wait of another thread's, or an interrupted, call on this handle: that call answers
 * -ECANCELED, with nothing done. If no call waits, the next one that would have to does so, at once,
 * so it does not matter which comes first; only one call answers for any number of cancellations
 * before. Calls that need not wait, and calls with MDG_NOWAIT, go on as ever and leave the
 * cancellation standing. A wait of mdg_wait_any for this handle is ended as well, and the handle's
 * descriptor becomes readable, if it has one.
 *
 * Returns 0, or -EINVAL (NULL), -EBADF. Callable from any thread that knows that the handle is not
 * closed meanwhile; async-signal-safe as long as it succeeds.
 */
int mdg_ring_cancel(struct mdg_ring *ring);

/**
 * Tells what is known about a ring. out->size must be set to sizeof(mdg_ring_stats).
 *
 * Returns 0, or: -EINVAL (NULL, or a size that holds no field); -EBADF. Thread-safe; asks the
 * kernel who is alive, one system call or so for each open handle; not async-signal-safe.
 */
int mdg_ring_stat(const struct mdg_ring *ring,
                  struct mdg_ring_stats *out);

/**
 * Bytes that a ring with these options takes up in a segment: a multiple of 4096. opts needs
 * capacity and item_size.
 *
 * Returns the bytes, or: -EINVAL (NULL, no capacity or item_size, an unknown kind or policy);
 * -E2BIG; -EOVERFLOW (larger than any memory). Thread-safe; async-signal-safe as long as it succeeds.
 */
ssize_t mdg_ring_footprint(const struct mdg_ring_opts *opts);

/**
 * Makes a ring inside a segment: at offset, a multiple of 4096, where mdg_ring_footprint bytes are
 * free for it. Many rings, and other data, can so share one segment and one descriptor. What was in
 * that place is overwritten, unless it is a ring that living handles use.
 *
 * *ring receives a handle; oflag is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. Others
 * find the ring by mdg_ring_attach on their own mapping of the segment, complete or not at all. The
 * handle may outlive shm, whose descriptor it keeps; the segment must not be resized to end before
 * the ring does, which is SIGBUS for everyone who uses it. Permissions are the segment's: every
 * handle needs read and write.
 *
 * Returns 0, or: -EINVAL (NULL, an offset that is no multiple of 4096, no capacity or item_size,
 * an unknown kind, policy or oflag bit); -E2BIG; -EBADF; -ENOSPC (the segment ends before the
 * ring); -EBUSY (living handles use a ring there, or another process is making one); -EACCES
 * (shm is read-only); -EPROTO (shm is a device); -EOVERFLOW; -EMFILE (no descriptor, or
 * others attached to all max_handles first); -ENFILE; -ENOMEM; -ENOSYS (/proc is not mounted,
 * and the segment has no name). Nothing is held then, and a ring that is in use is as it was.
 * Thread-safe; not async-signal-safe.
 */
int mdg_ring_init(struct mdg_ring **ring,
                  const mdg_shm *shm,
                  size_t offset,
                  const struct mdg_ring_opts *opts,
                  int oflag);

/**
 * Opens the ring that mdg_ring_init has made at offset of a segment, which may be mapped at another
 * address here. opts and oflag as in mdg_ring_open for a ring that exists.
 *
 * Returns 0, or: -EPROTO (no ring is there, or not complete yet; another layout or geometry; larger
 * than the segment); -EBUSY (a living process has that end); -ESTALE (another ring is being made in
 * its place); -EBADMSG; -EMFILE (no descriptor, or max_handles are open), or what mdg_ring_init
 * returns but -ENOSPC. Thread-safe; not async-signal-safe.
 */
int mdg_ring_attach(struct mdg_ring **ring,
                    const mdg_shm *shm,
                    size_t offset,
                    const struct mdg_ring_opts *opts,
                    int oflag);

/**
 * Opens the ring whose memory fd refers to, such as one that mdg_fd_receive gave: what
 * mdg_ring_memory returned in another process. The descriptor is duplicated; the caller closes its own.
 *
 * oflag is O_WRONLY, O_RDONLY or O_RDWR as in mdg_ring_open; with MDG_SEALED the descriptor is refused
 * unless it is sealed against shrinking, so that its sender cannot make this process fault by
 * truncating it. Anonymous rings are sealed. opts as in mdg_ring_open for a ring that exists.
 *
 * Returns 0, or: -EINVAL (NULL, other oflag bits); -E2BIG; -EBADF; -EPROTO (not a ring, another
 * layout or geometry, not sealed as required); -EBUSY (a living process has that end); -EBADMSG;
 * -EACCES (descriptor not open for reading and writing, or its file may not be opened again);
 * -EMFILE; -ENFILE; -ENOMEM; -ENOSYS (/proc is not mounted). Thread-safe; not
 * async-signal-safe.
 */
int mdg_ring_from_fd(struct mdg_ring **ring,
                     int fd,
                     const struct mdg_ring_opts *opts,
                     int oflag);

/**
 * The descriptor of the ring's memory, to be passed to another process by mdg_fd_send. It belongs to
 * the handle: do not close it.
 *
 * Returns the descriptor, or: -EINVAL (NULL, or a ring in a segment: pass the segment);
 * -EBADF (also: the program has closed this descriptor, or has another file under its number).
 * Thread-safe; async-signal-safe as long as it succeeds.
 */
int mdg_ring_memory(const struct mdg_ring *ring);

/**
 * Makes a descriptor of the ring's memory that can be read and not written, for subscribers that are
 * not trusted: send it by mdg_fd_send, and close it. They open it by mdg_ring_from_fd with O_RDONLY.
 * For a broadcast with MDG_RING_OVERWRITE, whose consumers need not write.
 *
 * The kernel lets a process open a descriptor anew for writing if the permission bits of the file
 * allow it. For a named ring the bits are those that it was made with. An anonymous ring gets the bits
 * 0600 from this call: processes of other users keep the handles that they have and can make no
 * new ones for writing, also in children after a change of the user. Processes of the same user are not
 * kept apart.
 *
 * Returns a new descriptor, 0 or more, which is close-on-exec and the caller's. On failure:
 *   -EINVAL  NULL, another kind of ring, or a ring in a segment
 *   -EBADF   not a live handle, or its descriptor was closed by the program
 *   -EACCES  the file may not be opened; an anonymous ring that another user has made
 *   -ENOSYS  an anonymous ring, and /proc is not mounted
 *   -EMFILE, -ENFILE, -ENOMEM
 * Thread-safe; not async-signal-safe.
 */
int mdg_ring_memory_readonly(const struct mdg_ring *ring);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_RING_H */
