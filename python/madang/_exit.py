"""What a process does with its rings when it ends.

A process that ends without closing a ring counts as dead for its peers. An orderly end is not that,
and has three forms:

- the interpreter ends: atexit;
- a child of multiprocessing ends, which calls os._exit and so no function of atexit, but the
  finalizers of multiprocessing.util. Those registered before the child is under way are dropped
  there, so they are registered anew by what ``register_after_fork`` has registered;
- a child of os.fork ends: atexit as well, unless it calls os._exit itself.

An end by an exception that nobody has caught is told to the peers as a death.
"""

import atexit
import os
import sys
import threading
import weakref
from typing import Any, Optional

_rings: "weakref.WeakSet[Any]" = weakref.WeakSet()
_registered = 0
"""The process whose finalizer of multiprocessing closes the rings."""
_failed = False
"""Whether this is a child of multiprocessing that ends with another status than 0."""


def add(ring: Any) -> None:
    """From now on the ring is closed when the process ends."""
    _rings.add(ring)
    _watch()


def discard(ring: Any) -> None:
    """The ring was closed."""
    _rings.discard(ring)


def is_failure(kind: Any, error: Any) -> bool:
    """Whether an exception says that its program has failed: ``sys.exit(0)`` and the closing of a
    generator do not."""
    if kind is None or issubclass(kind, GeneratorExit):
        return False
    if issubclass(kind, SystemExit):
        return getattr(error, "code", error) not in (None, 0)
    return True


def _close_all(failed: bool) -> None:
    for ring in list(_rings):
        ring._close_at_exit(failed)


def _at_exit() -> None:
    # Set by the interpreter when an exception has ended the program; a prompt sets it as well.
    failed = hasattr(sys, "last_type") and not hasattr(sys, "ps1")
    _close_all(failed or _failed)


def _at_end_of_child() -> None:
    if sys.modules["multiprocessing.process"].parent_process() is None:
        _at_exit()  # it is no child
        return
    # Until Python 3.12 called while the exception that ends the child, if one does, is on its way.
    kind, error, _ = sys.exc_info()
    failed = _failed or is_failure(kind, error)
    me = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not me and not thread.daemon]
    if not others:
        _close_all(failed)
        return

    # Threads that the end of the process waits for may still use the rings. It waits for this one
    # as well.
    def close_after_them() -> None:
        for thread in others:
            thread.join()
        _close_all(failed)

    threading.Thread(target=close_after_them, name="madang-exit", daemon=False).start()


def _watch() -> None:
    """Sees to the end of a child of multiprocessing, if that is in use here."""
    util: Optional[Any] = sys.modules.get("multiprocessing.util")
    if util is None or not hasattr(util, "Finalize"):  # which may be half imported
        return
    global _registered
    if not _registered:
        util.register_after_fork(_rings, _register)
        if sys.version_info >= (3, 13):
            _watch_status()
    if _registered != os.getpid():
        _register(_rings)


def _register(_: Any) -> None:
    global _registered
    _registered = os.getpid()
    util = sys.modules["multiprocessing.util"]
    # After the finalizers of multiprocessing's own objects, which have greater numbers.
    util.Finalize(None, _at_end_of_child, exitpriority=-100)


def _watch_status() -> None:
    """Notes the status with which a child of multiprocessing ends: from Python 3.13 on its
    finalizers are called when the exception that has ended it is forgotten."""
    process: Any = sys.modules["multiprocessing.process"]
    bootstrap = process.BaseProcess._bootstrap

    def noting(*arguments: Any, **named: Any) -> Any:
        global _failed
        status = bootstrap(*arguments, **named)
        _failed = status != 0
        return status

    process.BaseProcess._bootstrap = noting


def _after_fork() -> None:
    for ring in list(_rings):
        ring._after_fork()
    _watch()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
_watch()
