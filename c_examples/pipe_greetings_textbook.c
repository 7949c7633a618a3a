/* SPDX-License-Identifier: 0BSD
 *
 * pipe_greetings_textbook: the ordinary pipe of the textbook's section on
 * pipes, parent to child, call for call, without the library.
 *
 *     ./pipe_greetings_textbook        prints read Greetings
 *
 * What it gets wrong: it hopes that one read brings everything that one write
 * sent, and prints up to a NUL that it hopes came along; looks at neither
 * result; a child that is gone makes the write kill the parent with SIGPIPE;
 * and the parent does not wait, so the shell's prompt may come first (the wait
 * at the end is added). pipe_greetings.c does better.
 *
 * Textbook: Operating System Concepts, 10th edition, section 3.7.4, figures 3.21 and 3.22.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFER_SIZE 25
#define READ_END 0
#define WRITE_END 1

int main(void) {
    char write_msg[BUFFER_SIZE] = "Greetings";
    char read_msg[BUFFER_SIZE];
    int fd[2];

    if (pipe(fd) == -1) {
        fprintf(stderr, "pipe failed\n");
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "fork failed\n");
        return 1;
    }

    ssize_t unchecked; /* kept, so that no compiler complains */
    if (pid > 0) {
        close(fd[READ_END]);
        unchecked = write(fd[WRITE_END], write_msg, strlen(write_msg) + 1);
        close(fd[WRITE_END]);
        wait(NULL); /* added */
    } else {
        close(fd[WRITE_END]);
        unchecked = read(fd[READ_END], read_msg, BUFFER_SIZE);
        printf("read %s\n", read_msg);
        close(fd[READ_END]);
    }
    (void)unchecked;
    return 0;
}
