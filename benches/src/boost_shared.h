/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * An item of S bytes, and an allocator whose memory processes share after fork(2).
 */

#ifndef BENCH_BOOST_SHARED_H
#define BENCH_BOOST_SHARED_H

#include "share.h"

template <size_t S>
struct Item {
    uint64_t words[S / 8];
};

template <class T>
struct Shared {
    using value_type = T;
    Shared() = default;
    template <class U>
    Shared(const Shared<U> &) {}
    template <class U>
    struct rebind {
        using other = Shared<U>;
    };
    T *allocate(size_t n) { return static_cast<T *>(shared_memory(n * sizeof(T) + LINE)); }
    void deallocate(T *, size_t) {}
    bool operator==(const Shared &) const { return true; }
    bool operator!=(const Shared &) const { return false; }
};

#endif
