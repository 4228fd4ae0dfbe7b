/* The commands `lamina` and `lamina-runtime`, as they are installed beside the Python they belong to. They find that
 * Python, and start it in the way that costs least; `lamina` asks a warm process first (warm_client.h).
 *
 *     <prefix>/bin/lamina                              this program
 *     <prefix>/bin/lamina-python                       the script that an installer writes; its first line names Python
 *     <prefix>/lib/python3.N/site-packages/lamina/     the package: isolated.py is what Python executes
 *
 * Python is told to be isolated from the environment and not to import `site` (-I -S): that costs one to three
 * milliseconds in a clean environment, and tens where packages put code into .pth files, of the twenty that a container
 * takes. `isolated.py` makes up for it. Why a program: an installer writes the first line of a script itself, and drops
 * such options. Whatever is not as drawn above (a user's own site-packages, a system's dist-packages, several Pythons) is
 * left to the script, which is slower and always right.
 *
 * No libc: the program starts in a fraction of the time, and serves any system of its architecture. Memory is what lies
 * in the stack of main.
 */
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <stdint.h>

#include "../linux/raw.h"

enum { LONGEST = 4096, MOST_WORDS = 1 << 16, FAILED = 125, ENTRIES = 8192 };
#define SCRIPT "-python"
#define PACKAGE "/site-packages/lamina/isolated.py"

struct entry {                  /* getdents64(2): struct linux_dirent64 */
    uint64_t inode;
    int64_t next;
    uint16_t length;
    uint8_t type;
    char name[];
};

static long call(long n, long a, long b, long c, long d) { return raw(n, a, b, c, d, 0, 0); }

/* What compilers expect to be there even without a library, to fill in and copy structures; `volatile` keeps them from
 * finding out what these loops are, and calling themselves. */
void *memset(void *to, int byte, __SIZE_TYPE__ size)
{
    for (volatile char *at = to; size--; at++)
        *at = (char)byte;
    return to;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ size)
{
    const char *source = from;
    for (volatile char *at = to; size--; at++)
        *at = *source++;
    return to;
}

static long length(const char *text)
{
    long n = 0;
    while (text[n])
        n++;
    return n;
}

/* Put the parts, up to a null pointer, into `path` one after the other; 0 if they do not fit. */
static int join(char path[LONGEST], const char *const *parts)
{
    long at = 0;
    for (; *parts; parts++)
        for (const char *c = *parts; *c; c++) {
            if (at >= LONGEST - 1)
                return 0;
            path[at++] = *c;
        }
    path[at] = 0;
    return 1;
}

/* The path of this program; where the name begins in it, or 0. */
static long own_path(char path[LONGEST])
{
    long n = call(__NR_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, LONGEST - 1);
    if (n <= 0 || n >= LONGEST - 1)
        return 0;
    path[n] = 0;
    while (n > 0 && path[n - 1] != '/')
        n--;
    return n;
}

/* Whether a path ends in a file whose name begins so. */
static int begins(const char *path, const char *name)
{
    const char *last = path;
    for (const char *c = path; *c; c++)
        if (*c == '/')
            last = c + 1;
    while (*name && *name == *last)
        name++, last++;
    return !*name;
}

/* The interpreter in the first line of the script: an absolute path and nothing else. (Where that would be too long, or
 * contains a space, installers write a script of the shell's, which goes on to Python.) */
static int interpreter(const char *script, char path[LONGEST])
{
    long file = call(__NR_openat, AT_FDCWD, (long)script, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return 0;
    long n = call(__NR_read, file, (long)path, LONGEST - 1, 0);
    call(__NR_close, file, 0, 0, 0);
    if (n < 4 || path[0] != '#' || path[1] != '!' || path[2] != '/')
        return 0;
    for (long i = 2; i < n; i++) {
        path[i - 2] = path[i];
        if (path[i] == ' ' || path[i] == '\t')
            return 0;
        if (path[i] == '\n') {
            path[i - 2] = 0;
            return begins(path, "python");
        }
    }
    return 0;
}

static int exists(const char *path) { return call(__NR_faccessat, AT_FDCWD, (long)path, 4 /* R_OK */, 0) == 0; }

#ifdef SOURCE                   /* an editable installation: the package is where it was written */
static int package(const char *own, char path[LONGEST])
{
    (void)own;
    return join(path, (const char *const[]){SOURCE "/lamina/isolated.py", 0}) && exists(path);
}
#else
/* The package in the one lib/python3.N that has it; 0 if there are several, or none. */
static int package(const char *own, char path[LONGEST])
{
    char library[LONGEST], buffer[ENTRIES] __attribute__((aligned(8))), found[LONGEST];
    int many = 0;
    if (!join(library, (const char *const[]){own, "/../lib", 0}))
        return 0;
    long directory = call(__NR_openat, AT_FDCWD, (long)library, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (directory < 0)
        return 0;
    for (long n; (n = call(__NR_getdents64, directory, (long)buffer, sizeof buffer, 0)) > 0;)
        for (long at = 0; at < n;) {
            const struct entry *entry = (const struct entry *)(buffer + at);
            const char *wanted = "python3.", *name = entry->name;
            at += entry->length;
            while (*wanted && *wanted == *name)
                wanted++, name++;
            if (*wanted || !join(found, (const char *const[]){library, "/", entry->name, PACKAGE, 0}) || !exists(found))
                continue;
            many++;
            join(path, (const char *const[]){found, 0});
        }
    call(__NR_close, directory, 0, 0, 0);
    return many == 1;
}
#endif

#include "warm_client.h"

static void say(const char *text) { call(__NR_write, 2, (long)text, length(text), 0); }

static void leave(void) __attribute__((noreturn));
static void leave(void)
{
    for (;;)
        call(__NR_exit_group, FAILED, 0, 0, 0);
}

/* Called with what the kernel put on the stack: argc, argv, a null, the environment, a null. */
void lamina_client(long *stack)
{
    long count = stack[0];
    char **words = (char **)(stack + 1), **environment = words + count + 1;
    char own[LONGEST], script[LONGEST], python[LONGEST], start[LONGEST];
    long name = own_path(own);
    if (!name || !join(script, (const char *const[]){own, SCRIPT, 0})) {
        say("lamina: cannot find out where it is installed (is /proc mounted?)\n");
        leave();
    }
    char *room = begins(own, "lamina-runtime") ? "runtime_cli" : "cli";
    own[name - 1] = 0;
    if (count > 0 && count < MOST_WORDS && interpreter(script, python) && package(own, start)) {
        if (equal(room, "cli"))
            try_warm(&(struct client){words, environment, count, python, start});
        char *argv[count + 5];
        long n = 0;
        argv[n++] = python;
        argv[n++] = "-I";
        argv[n++] = "-S";
        argv[n++] = start;
        argv[n++] = room;
        for (long i = 1; i < count; i++)
            argv[n++] = words[i];
        argv[n] = 0;
        call(__NR_execve, (long)python, (long)argv, (long)environment, 0);
    }
    long error = call(__NR_execve, (long)script, (long)words, (long)environment, 0);
    say("lamina: cannot execute ");
    say(script);
    say(error == -ENOENT ? ": it, or the Python it names, is not there; install Lamina again\n" : "\n");
    leave();
}

/* The kernel puts argc, argv and envp on the stack, and aligns it to 16 bytes (System V ABI; AAPCS64). */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tcall lamina_client\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl lamina_client\n\tbrk 1\n");
#endif
