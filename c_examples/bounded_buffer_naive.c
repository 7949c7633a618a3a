/* SPDX-License-Identifier: 0BSD
 *
 * bounded_buffer_naive: the bounded buffer as it is printed, with plain ints, seen failing. Both
 * processes are stopped after SECONDS.
 *
 *     ./bounded_buffer_naive 1000 1
 *
 * Replays Operating System Concepts, 10th edition, section 3.5, figures 3.12 and 3.13: producer
 * and consumer with shared memory.
 *
 * What it gets wrong: nothing tells the compiler that another process changes `in` and `out`. With
 * optimisation it reads the other side's index once before the loop, and the loop that should wait
 * for a change looks at a register for ever: both sides hang as soon as each has had to wait once.
 * Built without optimisation (-O0) it seems to work. bounded_buffer_textbook.c makes the two
 * indices _Atomic and leaves the loops as they are; ring_producer.c and ring_consumer.c are the
 * same on Madang, asleep while they wait.
 */
#include "checked.h"

#include <sys/mman.h>

#define BUFFER_SIZE 10

struct shared {
    int buffer[BUFFER_SIZE];
    int in;  /* the next free slot */
    int out; /* the first full slot */
};

static void produce(struct shared *s, int count) {
    for (int next_produced = 1; next_produced <= count; next_produced++) {
        while ((s->in + 1) % BUFFER_SIZE == s->out) {
            ; /* do nothing */
        }
        s->buffer[s->in] = next_produced;
        s->in = (s->in + 1) % BUFFER_SIZE;
    }
}

static long long consume(struct shared *s, int count) {
    long long sum = 0;
    for (int i = 0; i < count; i++) {
        while (s->in == s->out) {
            ; /* do nothing */
        }
        sum += s->buffer[s->out];
        s->out = (s->out + 1) % BUFFER_SIZE;
    }
    return sum;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("bounded_buffer_naive COUNT SECONDS");
    }
    int count = number(argv[1], 1, 1000000000);
    unsigned limit = (unsigned)number(argv[2], 1, 3600);
    struct shared *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECKED_OS(s == MAP_FAILED ? -1 : 0);

    for (int role = 0; role < 2; role++) {
        if (fork_checked() == 0) {
            alarm(limit); /* SIGALRM ends a process that is not done by then */
            if (role == 0) {
                produce(s, count);
                exit(0);
            }
            exit(consume(s, count) == (long long)count * (count + 1) / 2 ? 0 : 1);
        }
    }
    int failed = wait_for_children();
    printf("plain ints: %s\n", failed ? "the items did not get through" : "all items got through");
    return failed;
}
