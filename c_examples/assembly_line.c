/* SPDX-License-Identifier: 0BSD
 *
 * assembly_line: compiler, assembler and loader, three processes in a row,
 * each handing on its lines as soon as they are made: two rings without a
 * name, made before the fork and inherited.
 *
 *     ./assembly_line 'x=1+2' 'y=30+12'
 *
 * Replays the textbook's picture of a producer-consumer chain: the compiler
 * makes assembly code for the assembler, which makes object code for the
 * loader. The textbook has no listing; with its circular buffer, three
 * processes would spin on two buffers, and none would know when to stop.
 *
 * Textbook: Operating System Concepts, 10th edition, described in section 3.5; no figure.
 */
#include "checked.h"

#include <fcntl.h>

typedef struct line {
    char text[32];
} line;

static mdg_ring *new_ring(void) {
    mdg_ring_opts opts = {.size = sizeof opts, .capacity = 4, .item_size = sizeof(line)};
    mdg_ring *ring = NULL;
    /* O_RDWR: each process may take either end, once; it takes it at its first push or pop. */
    CHECKED(mdg_ring_open(&ring, NULL, &opts, O_CREAT | O_RDWR, 0600));
    return ring;
}

/* The next line, or 0 when the station before has shut the ring and it is empty. */
static int take(mdg_ring *ring, line *next) {
    return CHECKED_BUT(-EPIPE, mdg_ring_pop(ring, next, MDG_FOREVER)) != -EPIPE;
}

static int compiler(char **statements, mdg_ring *assembly) {
    int failed = 0;
    for (; *statements != NULL && !failed; statements++) {
        char to;
        int a, b;
        if (sscanf(*statements, "%c=%d+%d", &to, &a, &b) != 3) {
            fprintf(stderr, "compiler: cannot make sense of %s\n", *statements);
            failed = 1;
            break;
        }
        line code[3];
        snprintf(code[0].text, sizeof(line), "LOAD %d", a);
        snprintf(code[1].text, sizeof(line), "ADD %d", b);
        snprintf(code[2].text, sizeof(line), "STORE %d", to);
        for (int i = 0; i < 3; i++) {
            CHECKED(mdg_ring_push(assembly, &code[i], MDG_FOREVER));
        }
    }
    CHECKED(mdg_ring_shutdown(assembly));
    return failed;
}

static int assembler(mdg_ring *assembly, mdg_ring *object) {
    for (line in; take(assembly, &in);) {
        int opcode = in.text[0] == 'L' ? 1 : in.text[0] == 'A' ? 2 : 3;
        line out;
        snprintf(out.text, sizeof(line), "%02x %02x", opcode, atoi(strchr(in.text, ' ')));
        CHECKED(mdg_ring_push(object, &out, MDG_FOREVER));
    }
    CHECKED(mdg_ring_shutdown(object));
    return 0;
}

static int loader(mdg_ring *object) {
    int address = 0x1000;
    for (line next; take(object, &next); address += 2) {
        printf("%04x: %s\n", address, next.text);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        usage("assembly_line STATEMENT...");
    }
    mdg_ring *assembly = new_ring();
    mdg_ring *object = new_ring();
    for (int station = 0; station < 3; station++) {
        if (fork_checked() == 0) {
            int failed = station == 0   ? compiler(argv + 1, assembly)
                         : station == 1 ? assembler(assembly, object)
                                        : loader(object);
            mdg_ring_close(assembly);
            mdg_ring_close(object);
            return failed;
        }
    }
    mdg_ring_close(assembly);
    mdg_ring_close(object);
    return wait_for_children();
}
