/* What a supervisor is while nothing happens: the same process, executing this instead of Python (engine/idling.py).
 *
 *     lamina-idle 5,7,9 60000 /usr/bin/python3 -I -S .../isolated.py engine ...
 *
 * It waits until one of the descriptors has something to say, a signal is pending of those that are blocked, or so many
 * milliseconds (-1: any number) have passed; then it executes the words that follow. It touches nothing: what is to be
 * read, Python reads. A process id, its children, descriptors that are open and signals that are blocked survive
 * execve(2), so for the container nothing has changed. No libc: it takes the memory of a stack and a page.
 */
#include <asm/unistd.h>
#include <linux/poll.h>
#include <linux/signal.h>
#include <stdint.h>

#include "../linux/raw.h"

#ifndef SIG_BLOCK
#define SIG_BLOCK 0
#endif

enum { MOST = 64, FAILED = 125, SFD_CLOEXEC = 02000000, SIGNAL_BYTES = 8, BLIND = 2000 };

struct timespec64 { int64_t seconds, nanoseconds; };

static long call(long n, long a, long b, long c, long d, long e) { return raw(n, a, b, c, d, e, 0); }

/* A number, after which `text` stands behind the character that ends it, or at the end. */
static long number(const char **text)
{
    long found = 0, sign = 1;
    if (**text == '-')
        sign = -1, (*text)++;
    while (**text >= '0' && **text <= '9')
        found = found * 10 + (*(*text)++ - '0');
    if (**text)
        (*text)++;
    return sign * found;
}

static void leave(void) __attribute__((noreturn));
static void leave(void)
{
    for (;;)
        call(__NR_exit_group, FAILED, 0, 0, 0, 0);
}

void lamina_idle(long *stack)
{
    long count = stack[0];
    char **words = (char **)(stack + 1), **environment = words + count + 1;
    struct pollfd watched[MOST + 1];
    uint64_t blocked = 0;
    long many = 0;
    if (count < 4)
        leave();
    for (const char *list = words[1]; *list && many < MOST; many++) {
        watched[many].fd = number(&list);
        watched[many].events = POLLIN;
        watched[many].revents = 0;
    }
    const char *text = words[2];
    long left = number(&text);
    struct timespec64 time = {left / 1000, left % 1000 * 1000000};
    call(__NR_rt_sigprocmask, SIG_BLOCK, 0, (long)&blocked, SIGNAL_BYTES, 0);
    watched[many].fd = call(__NR_signalfd4, -1, (long)&blocked, SIGNAL_BYTES, SFD_CLOEXEC, 0);
    watched[many].events = POLLIN;
    watched[many].revents = 0;
    if (watched[many].fd < 0 && (left < 0 || left > BLIND)) {
        /* no descriptor or no memory is left (ENFILE, ENOMEM): who cannot see signals must not sleep through one */
        left = BLIND;
        time = (struct timespec64){BLIND / 1000, BLIND % 1000 * 1000000};
    }
    /* whatever it answers, Python is who knows what to do: also about an error */
    call(__NR_ppoll, (long)watched, many + 1, left < 0 ? 0 : (long)&time, 0, 0);
    call(__NR_execve, (long)words[3], (long)(words + 3), (long)environment, 0, 0);
    leave();
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tcall lamina_idle\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl lamina_idle\n\tbrk 1\n");
#endif
