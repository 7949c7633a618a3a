/* SPDX-License-Identifier: 0BSD
 *
 * fd_ring: a ring without a name, given to a process that was there before the ring was.
 *
 *     ./fd_ring 1000
 *
 * The textbook's processes find shared memory by its name, which any process of the user can open,
 * or inherit it from their parent. A descriptor sent over a Unix socket reaches the one process at
 * the other end, and nobody else. MDG_SEALED refuses memory that the sender could still cut off.
 */
#include "checked.h"

#include <fcntl.h>
#include <sys/socket.h>

static int receive_and_sum(int socket) {
    mdg_fd_peer peer;
    int memory = (int)CHECKED(mdg_fd_receive(socket, &peer, MDG_FOREVER));
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_from_fd(&ring, memory, NULL, O_RDONLY | MDG_SEALED));
    CHECKED_OS(close(memory)); /* the ring has one of its own */
    printf("a ring came from %s\n", peer.pid == (uint32_t)getppid() ? "my parent" : "a stranger");

    long long sum = 0;
    int item = 0;
    while (CHECKED_BUT(-EPIPE, mdg_ring_pop(ring, &item, MDG_FOREVER)) != -EPIPE) {
        sum += item;
    }
    printf("the sum is %lld\n", sum);
    mdg_ring_close(ring);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("fd_ring COUNT");
    }
    int count = number(argv[1], 1, 1000000);
    int sockets[2];
    CHECKED_OS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
    if (fork_checked() == 0) {
        exit(receive_and_sum(sockets[1]));
    }

    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 16, .item_size = sizeof(int)};
    mdg_ring *ring = NULL;
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_WRONLY, 0));
    CHECKED(mdg_fd_send(sockets[0], mdg_ring_memory(ring), MDG_FOREVER));
    for (int i = 1; i <= count; i++) {
        CHECKED(mdg_ring_push(ring, &i, MDG_FOREVER));
    }
    CHECKED(mdg_ring_shutdown(ring));
    mdg_ring_close(ring);
    return wait_for_children();
}
