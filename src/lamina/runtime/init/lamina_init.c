/* One program, three names: the last step of every start, process 1 of a container that wants one (`--init`), and the
 * first program of a process that is still being made.
 *
 *     lamina-exec COMMAND [ARGUMENT...]
 *
 * executes COMMAND, looked for along PATH as execvp(3) does. Why not execute it from the plan: whoever calls execve(2)
 * is what /proc/self/exe means until it has succeeded, so a script that begins with "#!/proc/self/exe" is interpreted
 * by the caller's own program, and has it open: the host's Python, as a file of the host (CVE-2019-5736).
 *
 *     lamina-init COMMAND [ARGUMENT...]
 *
 * starts COMMAND as a child, hands it the terminal, forwards every signal to it, reaps whatever processes end up here,
 * and exits as the command did: its status, or 128 + the signal that killed it.
 *
 *     lamina-walk DESCRIPTOR
 *
 * maps the list of system calls in the file open as DESCRIPTOR (struct image, written by linux/program.py) and makes
 * them: how a container comes to be that outlives its maker, and how a process joins one. Nothing of Python, and no
 * memory of its, is in such a process. The list ends in execve(2); if a step fails, its index and errno are written to
 * the descriptor that the list names, and the exit status is 127 or 126 for an execve(2), 126 for everything else.
 *
 * If the command cannot be executed: 127 (not found) or 126, as a shell says it, and errno as four bytes on descriptor 3;
 * that descriptor closes without a byte once the command runs. 125: this program could not do its own work.
 *
 * No libc: it is executed from a sealed memory file inside any root file system, so it must need nothing and be small.
 * Sources: signal(7), pid_namespaces(7) ("the namespace init process"), tcsetpgrp(3), execvp(3), linux/signal.h.
 */
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/signal.h>
#include <linux/wait.h>
#include <asm/ioctls.h>
#include <asm/unistd.h>

#include "../../linux/walker.h"

enum { TERMINAL = 0, REPORT = 3, PATH_SIZE = 4096, SIGNAL_BYTES = 8 };
enum { OWN_FAILURE = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, KILLED = 128 };
#define FULL_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static long call(long n, long a, long b, long c, long d, long e)
{
    return raw(n, a, b, c, d, e, 0);
}

static void leave(int status) __attribute__((noreturn));
static void leave(int status)
{
    call(__NR_exit_group, status, 0, 0, 0, 0);
    __builtin_trap();     /* a filter of system calls may refuse even that */
}

/* Whether a path ends in the file name. */
static int named(const char *path, const char *name)
{
    const char *last = path, *n = name;
    for (const char *c = path; *c; c++)
        if (*c == '/')
            last = c + 1;
    while (*last && *last == *n)
        last++, n++;
    return *last == *n;
}

static int report(long error, int status)
{
    int number = (int)-error;
    call(__NR_write, REPORT, (long)&number, sizeof number, 0, 0);
    return status;
}

/* DIRECTORY/NAME into buffer; 0 if it does not fit. An empty directory of PATH is the current one. */
static int join(char *buffer, const char *directory, const char *end, const char *name)
{
    char *to = buffer, *limit = buffer + PATH_SIZE - 1;
    while (directory < end && to < limit)
        *to++ = *directory++;
    if (to != buffer && to < limit)
        *to++ = '/';
    while (*name && to < limit)
        *to++ = *name++;
    *to = 0;
    return directory == end && !*name;
}

static long execute(char **argv, char **envp)
{
    static char place[PATH_SIZE];
    const char *path = FULL_PATH;
    long error = -ENOENT;
    for (const char *c = argv[0]; *c; c++)
        if (*c == '/')
            return call(__NR_execve, (long)argv[0], (long)argv, (long)envp, 0, 0);
    if (!argv[0][0])
        return -ENOENT;
    for (char **variable = envp; *variable; variable++) {
        char *v = *variable;
        if (v[0] == 'P' && v[1] == 'A' && v[2] == 'T' && v[3] == 'H' && v[4] == '=') {
            path = v + 5;
            break;
        }
    }
    for (;;) {
        const char *end = path;
        while (*end && *end != ':')
            end++;
        long tried = join(place, path, end, argv[0])
            ? call(__NR_execve, (long)place, (long)argv, (long)envp, 0, 0) : -ENOENT;
        if (tried == -EACCES)
            error = tried;          /* go on, but remember that there was one */
        else if (tried != -ENOENT && tried != -ENOTDIR)
            return tried;
        if (!*end)
            return error;
        path = end + 1;
    }
}

/* Execute the command, or say why not; the report's descriptor must not get into it. */
static void command(char **argv, char **envp) __attribute__((noreturn));
static void command(char **argv, char **envp)
{
    /* a strict seccomp filter may leave only one of these ways */
    if (call(__NR_fcntl, REPORT, F_SETFD, 1, 0, 0) < 0 && call(__NR_ioctl, REPORT, FIOCLEX, 0, 0, 0) < 0)
        call(__NR_close, REPORT, 0, 0, 0, 0);
    long error = execute(argv, envp);
    leave(report(error, error == -ENOENT ? NOT_FOUND : NOT_EXECUTABLE));
}

/* In the new process: a process group of its own, in the terminal's foreground if there is one. All signals are blocked
 * here, so taking the terminal from the background raises no SIGTTOU. */
static void become(char **argv, char **envp, const unsigned long *mask) __attribute__((noreturn));
static void become(char **argv, char **envp, const unsigned long *mask)
{
    int group = (int)call(__NR_getpid, 0, 0, 0, 0, 0);
    call(__NR_setpgid, 0, 0, 0, 0, 0);
    call(__NR_ioctl, TERMINAL, TIOCSPGRP, (long)&group, 0, 0);
    call(__NR_rt_sigprocmask, SIG_SETMASK, (long)mask, 0, SIGNAL_BYTES, 0);
    command(argv, envp);
}

/* Reap all that have ended; the command's status once it is among them, else -1. */
static int reap(long started)
{
    int found = -1;
    for (;;) {
        int status = 0;
        long pid = call(__NR_wait4, -1, (long)&status, WNOHANG, 0, 0);
        if (pid <= 0)
            return found;
        if (pid == started)
            found = status & 0x7f ? KILLED + (status & 0x7f) : status >> 8 & 0xff;
    }
}

struct image {                  /* what a file for lamina-walk begins with; the rest is offsets into it */
    char magic[8];
    uint32_t count, registers, relocations;
    int32_t report;             /* descriptor */
    uint64_t values, steps, arena, offsets, size;
};

static int number(const char *text)
{
    int n = 0;
    while (*text >= '0' && *text <= '9')
        n = 10 * n + *text++ - '0';
    return n;
}

static void follow(int file) __attribute__((noreturn));
static void follow(int file)
{
    struct image head = {0};
    uint64_t magic, expected;
    if (call(__NR_pread64, file, (long)&head, sizeof head, 0, 0) != sizeof head)
        leave(OWN_FAILURE);
    __builtin_memcpy(&magic, head.magic, sizeof magic);
    __builtin_memcpy(&expected, "lamina 1", sizeof expected);
    if (magic != expected)
        leave(OWN_FAILURE);
    long mapped = raw(__NR_mmap, 0, (long)head.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (mapped < 0 && mapped > -4096)
        leave(OWN_FAILURE);
    call(__NR_close, file, 0, 0, 0, 0);
    char *base = (char *)mapped;
    struct program p = {.size = head.size, .count = head.count, .registers = head.registers,
        .values = (int64_t *)(base + head.values), .steps = (struct step *)(base + head.steps),
        .arena = base + head.arena, .failed = -1};
    const uint32_t *offset = (const uint32_t *)(base + head.offsets);
    for (uint32_t i = 0; i < head.relocations; i++) {   /* the file is our maker's: nobody else could write to it */
        uint64_t pointer;
        __builtin_memcpy(&pointer, p.arena + offset[i], sizeof pointer);
        pointer += (uint64_t)p.arena;
        __builtin_memcpy(p.arena + offset[i], &pointer, sizeof pointer);
    }
    if (!walk(&p))
        leave(0);
    int32_t said[2] = {p.failed, p.error};
    call(__NR_write, head.report, (long)said, sizeof said, 0, 0);
    int64_t failed = p.steps[p.failed].number;
    leave((failed == __NR_execve || failed == __NR_execveat) && p.error == ENOENT ? NOT_FOUND : EXIT_STEP_FAILED);
}

__attribute__((used)) void lamina_init(long *stack)
{
    long count = stack[0];
    char **argv = (char **)(stack + 1), **envp = argv + count + 1;
    unsigned long all = ~0UL, before = 0;
    if (count < 2)
        leave(report(-EINVAL, OWN_FAILURE));
    if (named(argv[0], "lamina-exec"))
        command(argv + 1, envp);
    if (named(argv[0], "lamina-walk"))
        follow(number(argv[1]));
    if (!named(argv[0], "lamina-init")) {
        static const char refusal[] = "lamina: a script cannot be interpreted by the program that executes it\n";
        call(__NR_write, 2, (long)refusal, sizeof refusal - 1, 0, 0);
        leave(NOT_EXECUTABLE);
    }
    call(__NR_prctl, PR_SET_NAME, (long)"lamina-init", 0, 0, 0);
    call(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);    /* in a shared pid namespace nobody is process 1 */
    call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, SIGNAL_BYTES, 0);
    long started = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (started == 0)
        become(argv + 1, envp, &before);
    if (started < 0)
        leave(report(started, OWN_FAILURE));
    call(__NR_close, REPORT, 0, 0, 0, 0);
    for (;;) {
        /* blocked signals are queued even for process 1, which ignores those it neither blocks nor handles */
        long signal = call(__NR_rt_sigtimedwait, (long)&all, 0, 0, SIGNAL_BYTES, 0);
        if (signal == SIGCHLD) {
            int status = reap(started);
            if (status >= 0)
                leave(status);
        } else if (signal > 0) {
            call(__NR_kill, started, signal, 0, 0, 0);
        }
    }
}

/* The kernel puts argc, argv and envp on the stack, and aligns it to 16 bytes (System V ABI; AAPCS64). */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tcall lamina_init\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl lamina_init\n\tbrk 1\n");
#endif
