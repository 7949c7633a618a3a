/* SPDX-License-Identifier: 0BSD
 *
 * sem_producer: the bounded buffer with three semaphores, producing side. The
 * buffer is plain memory; the semaphores alone keep the two sides apart.
 *
 *     ./sem_producer /numbers 1000 &
 *     ./sem_consumer /numbers 5000
 *
 * Replays the textbook's bounded-buffer solution with empty, full and mutex.
 * The printed loops are right, and all BUFFER_SIZE slots are used; the care is
 * in what they leave out: named semaphores outlive a program that crashed,
 * with whatever value they had then; two waits in the wrong order are a
 * deadlock; a producer that dies between wait(mutex) and signal(mutex) takes
 * the consumer with it. ring_producer.c needs none of this.
 *
 * Textbook: Operating System Concepts, 10th edition, section 7.1.1, figure 7.1.
 */
#include "sem_buffer.h"

static void produce(struct shared *s, int next_produced) {
    CHECKED(mdg_sem_wait(s->empty, MDG_FOREVER));
    CHECKED(mdg_sem_wait(s->mutex, MDG_FOREVER));
    s->buffer->items[s->buffer->in++ % BUFFER_SIZE] = next_produced;
    CHECKED(mdg_sem_post(s->mutex));
    CHECKED(mdg_sem_post(s->full));
}

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("sem_producer NAME COUNT");
    }
    int count = number(argv[2], 1, 1000000000);
    struct shared s = open_shared(argv[1]);

    for (int i = 1; i <= count; i++) {
        produce(&s, i);
    }
    produce(&s, NO_MORE);

    close_shared(&s);
    return 0;
}
