/* SPDX-License-Identifier: 0BSD
 *
 * bounded_buffer_textbook: the bounded buffer of the textbook's section on
 * shared-memory systems, between two processes, without the library.
 *
 *     ./bounded_buffer_textbook 1000
 *
 * What it gets wrong:
 * - "in == out" has to mean empty, so one slot must stay free: a buffer of
 *   BUFFER_SIZE 10 holds 9.
 * - Both loops wait by asking again and again, each burning a processor for as
 *   long as the other side has nothing to say.
 * - As printed, in and out are plain ints. A compiler may read them once and
 *   spin forever, and a processor may let `in` overtake the item it announces.
 *   _Atomic, the one change here, forbids both and leaves the loops as they are.
 * - If one side dies the other spins until somebody kills it.
 * ring_producer.c and ring_consumer.c are the same loops on Madang.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.5, figures 3.12 and 3.13.
 */
#include "checked.h"

#include <sys/mman.h>

#define BUFFER_SIZE 10

struct shared {
    int buffer[BUFFER_SIZE];
    _Atomic int in;  /* the next free slot */
    _Atomic int out; /* the first full slot */
};

static void produce(struct shared *s, int next_produced) {
    while ((s->in + 1) % BUFFER_SIZE == s->out) {
        ; /* do nothing */
    }
    s->buffer[s->in] = next_produced;
    s->in = (s->in + 1) % BUFFER_SIZE;
}

static int consume(struct shared *s) {
    while (s->in == s->out) {
        ; /* do nothing */
    }
    int next_consumed = s->buffer[s->out];
    s->out = (s->out + 1) % BUFFER_SIZE;
    return next_consumed;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        usage("bounded_buffer_textbook COUNT");
    }
    int count = number(argv[1], BUFFER_SIZE, 1000000);
    struct shared *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECKED_OS(s == MAP_FAILED ? -1 : 0);

    /* With nobody to take anything out: how many go in before produce() would spin? */
    int item = 0;
    while ((s->in + 1) % BUFFER_SIZE != s->out) {
        produce(s, ++item);
    }
    printf("a buffer of %d slots holds %d items\n", BUFFER_SIZE, item);

    if (fork_checked() == 0) { /* the producer: the rest of them */
        while (item < count) {
            produce(s, ++item);
        }
        exit(0);
    }
    long long sum = 0;
    for (int i = 0; i < count; i++) {
        sum += consume(s);
    }
    printf("consumed %d items, sum %lld\n", count, sum);
    return wait_for_children();
}
