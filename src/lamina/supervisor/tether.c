/* Who keeps a helper of a container (pasta, slirp4netns) as long as the container's first process lives, and not longer.
 *
 *     lamina-tether /usr/bin/pasta --config-net ...
 *
 * It is given (supervisor/tether.py): 2, where the helper says what goes wrong; 3, a pidfd of the container's first
 * process; 4, where the helper's process id is written; 5, the other end of 2, kept so that the helper is never ended by
 * SIGPIPE; and 6 and 7, which are the helper's own. It is nobody's child. When the container ends it kills the helper;
 * when it is killed itself, the kernel does (PR_SET_PDEATHSIG). No libc: it takes the memory of a stack and a page.
 */
#include <asm/unistd.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/signal.h>

#include "../linux/raw.h"

enum { LOG = 2, CONTAINER = 3, REPORT = 4, LOG_END = 5, OWN = 6, OWN_TOO = 7, FAILED = 125, NO_COMMAND = 127 };
enum { DIGITS = 20, EINTR = 4 };

static long call(long n, long a, long b, long c, long d, long e) { return raw(n, a, b, c, d, e, 0); }
static void close_(long fd) { call(__NR_close, fd, 0, 0, 0, 0); }

static void leave(long status) __attribute__((noreturn));
static void leave(long status)
{
    for (;;)
        call(__NR_exit_group, status, 0, 0, 0, 0);
}

static void say(long fd, long number)
{
    char text[DIGITS];
    long at = DIGITS;
    text[--at] = '\n';
    do
        text[--at] = '0' + number % 10;
    while (number /= 10);
    call(__NR_write, fd, (long)(text + at), DIGITS - at, 0, 0);
}

static void help(long parent, char **words, char **environment) __attribute__((noreturn));
static void help(long parent, char **words, char **environment)
{
    static const char failed[] = "it cannot be executed\n";
    call(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (call(__NR_getppid, 0, 0, 0, 0, 0) != parent) /* it was killed before this took effect */
        leave(FAILED);
    close_(CONTAINER);
    close_(REPORT);
    close_(LOG_END);
    call(__NR_execve, (long)words[0], (long)words, (long)environment, 0, 0);
    call(__NR_write, LOG, (long)failed, sizeof failed - 1, 0, 0);
    leave(NO_COMMAND);
}

void lamina_tether(long *stack)
{
    long count = stack[0];
    char **words = (char **)(stack + 1), **environment = words + count + 1;
    if (count < 2)
        leave(FAILED);
    long child = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child)
        leave(child < 0 ? FAILED : 0); /* whoever started this waits for the first process alone */
    call(__NR_setsid, 0, 0, 0, 0, 0);
    call(__NR_chdir, (long)"/", 0, 0, 0, 0);
    call(__NR_close_range, OWN_TOO + 1, 0xFFFFFFFF, 0, 0, 0);
    long self = call(__NR_getpid, 0, 0, 0, 0, 0);
    child = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child < 0)
        leave(FAILED);
    if (child == 0)
        help(self, words + 1, environment);
    close_(LOG);
    close_(OWN);
    close_(OWN_TOO);
    say(REPORT, child);
    close_(REPORT);
    int helper = call(__NR_pidfd_open, child, 0, 0, 0, 0);
    struct pollfd watched[] = {{CONTAINER, POLLIN, 0}, {helper, POLLIN, 0}};
    while (call(__NR_ppoll, (long)watched, 2, 0, 0, 0) == -EINTR)
        ;
    call(__NR_kill, child, SIGKILL, 0, 0, 0); /* not waited for so far: the number is still its own */
    leave(0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tcall lamina_tether\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl lamina_tether\n\tbrk 1\n");
#endif
