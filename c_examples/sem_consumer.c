/* SPDX-License-Identifier: 0BSD
 *
 * sem_consumer: the bounded buffer with three semaphores, consuming side.
 *
 *     ./sem_producer /numbers 1000 &
 *     ./sem_consumer /numbers 5000     waits up to 5000 ms for each number
 *     ./sem_consumer /nobody 100       gives up after 100 ms, exit 1
 *
 * Replays the consumer of the textbook's bounded-buffer solution with empty,
 * full and mutex. The printed loop waits for ever when the producer has died:
 * a semaphore does not know who was going to signal it. A time limit is all
 * one can do with semaphores; a ring says -EOWNERDEAD instead.
 *
 * Textbook: Operating System Concepts, 10th edition, section 7.1.1, figure 7.2.
 */
#include "sem_buffer.h"

/* 0, or -ETIMEDOUT with nothing taken. */
static int consume(struct shared *s, int *next_consumed, int patience) {
    if (CHECKED_BUT(-ETIMEDOUT, mdg_sem_wait(s->full, MDG_MILLISECONDS(patience))) == -ETIMEDOUT) {
        return -ETIMEDOUT;
    }
    CHECKED(mdg_sem_wait(s->mutex, MDG_FOREVER));
    *next_consumed = s->buffer->items[s->buffer->out++ % BUFFER_SIZE];
    CHECKED(mdg_sem_post(s->mutex));
    CHECKED(mdg_sem_post(s->empty));
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        usage("sem_consumer NAME TIMEOUT_MS");
    }
    int patience = number(argv[2], 1, 1000000);
    struct shared s = open_shared(argv[1]);

    int count = 0;
    long long sum = 0;
    int item = NO_MORE;
    int result = consume(&s, &item, patience);
    while (result == 0 && item != NO_MORE) {
        count++;
        sum += item;
        result = consume(&s, &item, patience);
    }
    if (result == -ETIMEDOUT) {
        fprintf(stderr, "nothing came for %d ms: giving up\n", patience);
    } else {
        printf("consumed %d items, sum %lld\n", count, sum);
    }

    close_shared(&s);
    unlink_shared(argv[1]);
    return result == 0 ? 0 : 1;
}
