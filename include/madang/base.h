/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * madang/base.h: version, words for errors, constants shared by all mechanisms, and the rules that
 * every call of this library follows.
 *
 * Results. A call that can fail returns int, ssize_t, ptrdiff_t or int64_t: 0 or more is success, a
 * negative number is a negative errno. Test for < 0. (mdg_shm_addr returns NULL, mdg_shm_size 0, with
 * errno set.) errno is set to the same positive code as the last thing the call
 * does, so perror(3) works; success leaves errno alone. mdg_strerror gives fixed words for a result,
 * mdg_last_error the whole story of this thread's last failure.
 *
 * Arguments stand in this order: handle (or where to store it), outputs, inputs (a length right
 * behind its pointer), flags, mode, timeout. Outputs are written only on success.
 *
 * Handles are opaque pointers that the library allocates and mdg_x_close frees. Closing NULL is
 * fine; closing never removes a name, mdg_x_unlink does. NULL where a handle or pointer is required
 * is -EINVAL; memory that is not a live handle of the right kind is -EBADF as far as a look at its
 * first eight bytes can tell.
 *
 * Opening follows open(2): oflag takes the access mode, O_CREAT and O_EXCL from <fcntl.h>, any other
 * bit is -EINVAL; mode takes permission bits, which the umask trims. Descriptors are close-on-exec
 * unless MDG_INHERIT is given.
 *
 * Names are POSIX names: "/name", and "name" means the same. Any bytes but NUL and slash, not "."
 * or "..", at most 255 bytes for a segment, 251 for a semaphore, 247 for one of kind MDG_SEM_UNDO, 246
 * for a ring or a condition variable, 245 for a mutex. Kinds do not collide: a segment is
 * /dev/shm/NAME (as shm_open has it), a semaphore /dev/shm/sem.NAME (as sem_open has it), ours are
 * /dev/shm/mdg.KIND.NAME: mdg.ring, mdg.sem, mdg.mutex, mdg.cond.
 *
 * Timeouts are relative nanoseconds on the monotonic clock, int64_t timeout_ns: MDG_NOWAIT never
 * waits and answers -EAGAIN, MDG_FOREVER (any negative number) waits without limit, else -ETIMEDOUT.
 * MDG_SECONDS, MDG_MILLISECONDS and MDG_MICROSECONDS compute them without overflow, which
 * seconds * 1000000000 does not where seconds is an int.
 * A caught signal ends every wait with -EINTR, whatever SA_RESTART says, with nothing done; what was
 * done already is returned as a count instead. A signal that is caught just before the thread sleeps
 * in the kernel, while the call spins for instance, leaves no trace, and the call goes on. A program
 * that must react to signals calls mdg_interrupt in the handler: the current or next wait of that
 * thread then ends with -EINTR, at most 100 milliseconds after the handler has returned, usually some
 * microseconds (plus what the machine needs to run the thread).
 *
 * Options structures begin with size_t size, which the caller sets to sizeof the structure. Zero
 * means default, NULL means all defaults. A non-zero field that this version of the library does not
 * know is -E2BIG, so programs and libraries of different age understand each other.
 *
 * Descriptors that a handle keeps are numbered 3 or more, and belong to the handle. If the program
 * closes one all the same, calls that need it return -EBADF, and whatever file has its number by then
 * is neither changed nor closed. Descriptors that a call gives to the caller have the lowest free
 * number, as from pipe(2), which is 0, 1 or 2 where a standard stream is closed.
 *
 * The library starts no thread and installs no exit handler. It installs no signal handler unless
 * mdg_sigbus_guard asks for one. It raises no SIGPIPE and no SIGXFSZ, and
 * does not abort. It does two things to its host:
 *   - The first handle on a ring or on a semaphore of kind MDG_SEM_UNDO registers handlers with
 *     pthread_atfork(3). A fork(2) then waits until no other thread is in the middle of proving that
 *     its process is live, some microseconds and 100 milliseconds at most.
 *   - The shared library is linked with -z nodelete: dlclose(3) does not unmap it.
 *
 * All that the library takes from the process is in docs/host.md.
 *
 * Without memory from malloc(3) a call returns -ENOMEM, and leaves nothing behind; the text of a
 * failure, for which no memory is needed then, is there all the same. Any call that opens, makes,
 * removes, resizes, lists, checks or repairs an object may return it. These allocate nothing: close
 * functions; mdg_ring_push, mdg_ring_pop and all that moves items, also the first time and in a
 * forked child; mdg_ring_fd; mdg_wait_any and every other wait; semaphores and mutexes that are open;
 * mdg_pipe_*, mdg_fd_send and mdg_fd_receive. One thing is not the library's to decide: when the
 * library was loaded with dlopen(3), glibc allocates its thread-local storage at a thread's first
 * failure (or interruptible wait), and ends the process if that is not possible.
 *
 * An internal error is -ENOTRECOVERABLE, and the handle can then only be closed.
 * Waiting calls are no cancellation points of pthread_cancel(3).
 *
 * A call takes at most 9 KiB of stack on x86-64, so a thread may have PTHREAD_STACK_MIN bytes.
 *
 * Codes mean the same everywhere: -EINVAL bad argument; -ENAMETOOLONG; -ENOENT; -EEXIST; -EACCES no
 * permission, or the wrong end for this handle; -ELOOP a symbolic link stands under the name; -EBUSY
 * a living process has it; -EDEADLK this thread has it; -EPERM this thread does not have it; -EAGAIN
 * would wait; -ETIMEDOUT; -EINTR; -ECANCELED by mdg_ring_cancel; -EMSGSIZE does not fit; -EOVERFLOW
 * arithmetic or counter limit, a file above RLIMIT_FSIZE, items overwritten; -ENOSPC, -ENOMEM,
 * -EMFILE, -ENFILE resources; -E2BIG newer options; -EPIPE stream shut down; -EOWNERDEAD the peer or
 * holder died; -EPROTO not such an object, or another kind, version or geometry; -EBADMSG contents
 * corrupt; -ESTALE replaced all the time; -EBADF not a live handle or descriptor; -EOPNOTSUPP a mutex
 * of another PID namespace; -ENOTEMPTY a ring that holds items; -ENOSYS not in this platform or version;
 * -ENOTRECOVERABLE internal error.
 */

#ifndef MADANG_BASE_H
#define MADANG_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
/*
 * Timeouts in larger units: MDG_SECONDS(2), MDG_MILLISECONDS(500), MDG_SECONDS(0.5). They compute in
 * 64 bits, or as floating-point numbers. Without them, seconds * 1000000000 with an int overflows from
 * 3 on, without a warning of the compiler, and is most likely negative then: no time limit.
 * A result below one nanosecond is MDG_NOWAIT, a negative one MDG_FOREVER.
 */
#define MDG_SECONDS(x) ((int64_t)((x) * (int64_t)1000000000))
#define MDG_MILLISECONDS(x) ((int64_t)((x) * (int64_t)1000000))
#define MDG_MICROSECONDS(x) ((int64_t)((x) * (int64_t)1000))

/**
 * Major version of these headers: differs when programs must be rebuilt.
 */
#define MDG_VERSION_MAJOR 0

/**
 * Minor version of these headers: grows when something is added.
 */
#define MDG_VERSION_MINOR 1

/**
 * Patch version of these headers: grows with every correction.
 */
#define MDG_VERSION_PATCH 0

/**
 * Version of these headers in the form mdg_version returns: major * 65536 + minor * 256 + patch.
 */
#define MDG_VERSION 256

/**
 * Timeout: never wait; the call answers -EAGAIN when it would have to.
 */
#define MDG_NOWAIT 0

/**
 * Timeout: wait without limit. Any negative timeout means the same.
 */
#define MDG_FOREVER (-1)

/**
 * Flag of calls that make descriptors: keep them open across execve(2). Without it every
 * descriptor is close-on-exec.
 */
#define MDG_INHERIT 1

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/**
 * Ends the waiting call that the calling thread is in, or else its next one: it returns -EINTR with
 * nothing done. For signal handlers, which run in the thread that is to stop waiting; a signal for the
 * whole process runs in any thread that does not block it, so block it in the others, or send it to the
 * right one with pthread_kill(3).
 *
 * All waits of all mechanisms take notice: rings, mdg_wait_any, semaphores, mutexes, condition
 * variables, pipes, FIFOs, descriptors. The interruption stays pending until one call of the thread has
 * returned -EINTR (or, having done a part of its work, a count). Two that meet are one. A call that
 * need not wait, or must not (MDG_NOWAIT), takes no notice and leaves it pending; so does a call that
 * gets what it waits for at the same time, and what must be finished once begun: the rest of a message
 * in mdg_pipe_receive, and taking the mutex again in mdg_cond_wait. A forked child starts without one.
 *
 * Returns 0, or: -EAGAIN (1024 other threads have one pending); errno is left alone either way.
 * Thread-safe and async-signal-safe. See mdg_ring_cancel for another thread's wait.
 */
int mdg_interrupt(void);

/**
 * Version of the library at run time: major * 65536 + minor * 256 + patch, comparable with
 * MDG_VERSION.
 *
 * Thread-safe and async-signal-safe; cannot fail.
 */
uint32_t mdg_version(void);

/**
 * Fixed English words for a result of any call of this library.
 *
 * result is what the call returned: a negative errno, or 0 or more for "success". An unknown
 * code gives "unknown error", never NULL. The string is constant and lives as long as the
 * program. Thread-safe and async-signal-safe.
 */
const char *mdg_strerror(int result);

/**
 * This thread's last failure in full: which call, which object, what was found, what to do.
 *
 * Never NULL: an empty string before the first failure. At most 1023 bytes. The expected answers
 * -EAGAIN, -ETIMEDOUT and -EINTR have one short text each, which names no call and no object. The
 * string belongs to the library and is valid until this thread's next failing call, or the thread's
 * end. Thread-safe (each thread has its own); not async-signal-safe. A forked child inherits the
 * text of the thread that forked.
 */
const char *mdg_last_error(void);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* MADANG_BASE_H */
