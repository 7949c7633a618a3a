"""Descriptors passed to another process, over a connected Unix-domain socket.

The way by which memory without a name reaches a process that is no child: send ``ring.memory()`` or
``shm.fileno()``, and open what arrives with ``Ring.from_fd`` or ``Shm.from_fd``.
"""

import ctypes
from typing import NamedTuple, Optional, Tuple

from ._check import Descriptor, FdPeer, descriptor, lib, wait

__all__ = ["Peer", "receive", "send"]


class Peer(NamedTuple):
    """Who was at the other end of a socket when it was connected, by the kernel's word."""

    pid: int
    """Process, as this one's PID namespace numbers it; 0 if it is not visible there."""
    uid: int
    gid: int


def send(socket: Descriptor, fd: Descriptor, timeout: Optional[float] = None) -> None:
    """Sends a descriptor: the receiver gets one of its own for the same open file.

    Both arguments are numbers or objects with ``fileno()``. BrokenPipeError if nobody is at the
    other end. One byte travels with it: do not mix this with other data on a stream socket.
    """
    where, what = descriptor(socket), descriptor(fd)
    wait(lambda ns: lib.mdg_fd_send(where, what, ns), timeout)


def receive(socket: Descriptor, timeout: Optional[float] = None) -> Tuple[int, Peer]:
    """Receives a descriptor, which is the caller's to close, and who is at the other end.

    BrokenPipeError if the other end is closed; OSError with EPROTO for a message without exactly
    one descriptor.
    """
    where, peer = descriptor(socket), FdPeer()
    fd = wait(lambda ns: lib.mdg_fd_receive(where, ctypes.byref(peer), ns), timeout)
    return fd, Peer(peer.pid, peer.uid, peer.gid)
