/*
 * The C side of the tests that let Python and C exchange data.
 *
 *   peer_stream send NAME CAPACITY ITEM_SIZE      standard input -> ring
 *   peer_stream receive NAME CAPACITY ITEM_SIZE   ring -> standard output
 *   peer_stream shm-write NAME                    standard input -> new segment of that size
 *   peer_stream shm-read NAME                     segment -> standard output
 *   peer_stream sem-post NAME COUNT
 *   peer_stream sem-wait NAME COUNT               each within ten seconds
 *   peer_stream message-send PATH                 lines of standard input -> messages into a FIFO
 *   peer_stream message-receive PATH              messages of a FIFO -> lines
 *
 * A ring is opened or made, whoever comes first. Exit status 0, or 1 with words on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <madang.h>

#define PATIENCE INT64_C(10000000000)
#define CHECKED(call) checked((long)(call), #call)

static long checked(long result, const char *call)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s (%s)\n", call, mdg_strerror((int)result), mdg_last_error());
        exit(1);
    }
    return result;
}

/* All of standard input; *length says how many bytes. */
static char *input(size_t *length)
{
    size_t room = 65536, used = 0, got;
    char *data = malloc(room);

    while (data != NULL && (got = fread(data + used, 1, room - used, stdin)) > 0)
        if ((used += got) == room)
            data = realloc(data, room *= 2);
    if (data == NULL) {
        perror("input");
        exit(1);
    }
    *length = used;
    return data;
}

static void output(const void *data, size_t length)
{
    if (fwrite(data, 1, length, stdout) != length) {
        perror("output");
        exit(1);
    }
}

static mdg_ring *ring_end(char **argv, int end)
{
    mdg_ring *ring;
    mdg_ring_opts opts;

    memset(&opts, 0, sizeof opts);
    opts.size = sizeof opts;
    opts.capacity = strtoull(argv[3], NULL, 10);
    opts.item_size = (uint32_t)strtoul(argv[4], NULL, 10);
    CHECKED(mdg_ring_open(&ring, argv[2], &opts, O_CREAT | end, 0600));
    return ring;
}

static void ring_send(char **argv)
{
    mdg_ring *ring = ring_end(argv, O_WRONLY);
    size_t size = strtoul(argv[4], NULL, 10), length, done;
    char *data = input(&length);

    for (done = 0; done < length / size;)
        done += (size_t)CHECKED(mdg_ring_push_many(ring, data + done * size, length / size - done,
                                                   PATIENCE));
    CHECKED(mdg_ring_shutdown(ring));
    mdg_ring_close(ring);
    free(data);
}

static void ring_receive(char **argv)
{
    mdg_ring *ring = ring_end(argv, O_RDONLY);
    size_t size = strtoul(argv[4], NULL, 10);
    const void *items;
    long got;

    while ((got = mdg_ring_peek(ring, &items, 1024, PATIENCE)) != -EPIPE) {
        output(items, (size_t)CHECKED(got) * size);
        CHECKED(mdg_ring_release(ring, (size_t)got));
    }
    mdg_ring_close(ring);
}

static void shm_write(const char *name)
{
    mdg_shm *shm;
    size_t length;
    char *data = input(&length);

    CHECKED(mdg_shm_open(&shm, name, length, O_CREAT | O_EXCL | O_RDWR, 0600));
    memcpy(mdg_shm_addr(shm), data, length);
    mdg_shm_close(shm);
    free(data);
}

static void shm_read(const char *name)
{
    mdg_shm *shm;

    CHECKED(mdg_shm_open(&shm, name, 0, O_RDONLY, 0));
    output(mdg_shm_addr(shm), mdg_shm_size(shm));
    mdg_shm_close(shm);
}

static void semaphore(char **argv, int post)
{
    mdg_sem *sem;
    int count = atoi(argv[3]);

    CHECKED(mdg_sem_open(&sem, argv[2], NULL, 0, 0));
    while (count-- > 0)
        CHECKED(post ? mdg_sem_post(sem) : mdg_sem_wait(sem, PATIENCE));
    mdg_sem_close(sem);
}

static void message_send(const char *path)
{
    char line[65536];
    int fd = (int)CHECKED(mdg_fifo_open(path, O_WRONLY, PATIENCE));

    while (fgets(line, sizeof line, stdin) != NULL)
        CHECKED(mdg_pipe_send(fd, line, strcspn(line, "\n"), PATIENCE));
    close(fd);
}

static void message_receive(const char *path)
{
    char message[65536];
    long got;
    int fd = (int)CHECKED(mdg_fifo_open(path, O_RDONLY, PATIENCE));

    while ((got = mdg_pipe_receive(fd, message, sizeof message, PATIENCE)) != -EPIPE) {
        output(message, (size_t)CHECKED(got));
        output("\n", 1);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";

    if (argc == 5 && strcmp(verb, "send") == 0)
        ring_send(argv);
    else if (argc == 5 && strcmp(verb, "receive") == 0)
        ring_receive(argv);
    else if (argc == 3 && strcmp(verb, "shm-write") == 0)
        shm_write(argv[2]);
    else if (argc == 3 && strcmp(verb, "shm-read") == 0)
        shm_read(argv[2]);
    else if (argc == 4 && strcmp(verb, "sem-post") == 0)
        semaphore(argv, 1);
    else if (argc == 4 && strcmp(verb, "sem-wait") == 0)
        semaphore(argv, 0);
    else if (argc == 3 && strcmp(verb, "message-send") == 0)
        message_send(argv[2]);
    else if (argc == 3 && strcmp(verb, "message-receive") == 0)
        message_receive(argv[2]);
    else {
        fprintf(stderr, "see the top of peer_stream.c\n");
        return 1;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
