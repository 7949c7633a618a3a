/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Bytes of an empty ring: what its file in /dev/shm takes.
 *
 *     memory --capacity N --item S [--kind 1]
 */

#include <fcntl.h>
#include <madang.h>
#include <sys/stat.h>
#include "share.h"

int main(int argc, char **argv) {
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 1024, .item_size = 8, .kind = 1};
    char name[64], path[128];
    mdg_ring *ring;
    struct stat found;
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--capacity") == 0) opts.capacity = value;
        else if (strcmp(argv[i], "--item") == 0) opts.item_size = (uint32_t)value;
        else if (strcmp(argv[i], "--kind") == 0) opts.kind = (uint32_t)value;
        else cannot("%s: unknown option", argv[i]);
    }
    snprintf(name, sizeof name, "bench.%d", (int)getpid());
    snprintf(path, sizeof path, "/dev/shm/mdg.ring.%s", name);
    int result = mdg_ring_open(&ring, name, &opts, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (result == -ENOSYS || result == -EINVAL) cannot("not in this build: %s", mdg_last_error());
    if (result < 0) cannot("%s", mdg_last_error());
    int failed = stat(path, &found);
    mdg_ring_close(ring);
    mdg_ring_unlink(name);
    if (failed) fail(path);
    uint64_t taken = (uint64_t)found.st_blocks * 512, size = (uint64_t)found.st_size;
    printf("ok=1 bytes=%llu\n", (unsigned long long)(taken > size ? taken : size));
    return 0;
}
