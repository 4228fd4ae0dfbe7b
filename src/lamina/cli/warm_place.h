/* Which warm process would do a command: one whose surroundings are the caller's, in a directory that is the user's alone.
 * Asking it is warm_client.h, leaving one behind warm_start.h.
 */
#include <asm/signal.h>
#include <linux/ioprio.h>
#include <linux/poll.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <linux/un.h>
#include <linux/wait.h>

#ifndef PATIENCE                /* tests have more of all three, so as not to depend on how busy a machine is */
#define PATIENCE 1000           /* milliseconds for a worker to answer: forks take one, under load some tens */
#define HOLD_OFF 1000           /* for how long a command that runs keeps the warm process from being started */
#define NOT_AGAIN 5             /* seconds until it is started again after it did not come to life */
#endif

enum {
    MOST_DESCRIPTORS = 200,     /* SCM_MAX_FD is 253 */
    LAST_SIGNAL = 64,
    VERSION = 1,                /* of the request: lamina/warm/request.py */
};
/* sys/socket.h and sys/file.h, which are the C library's */
enum { AF_UNIX = 1, STREAM = 1, LEVEL = 1, RIGHTS = 1, PEER = 17, NO_SIGNAL = 0x4000, CLOSE_RIGHTS = 0x40000000 };
enum { LOCK_NOW = 2 | 4 };

struct message { void *name; uint32_t name_size; struct { const void *base; uint64_t size; } *parts; uint64_t count;
                 void *control; uint64_t control_size; int flags; };
struct rights { uint64_t size; int32_t level, type, descriptors[MOST_DESCRIPTORS + 1]; };
struct head { uint32_t version, descriptors, words, variables, terminals, padding; uint64_t size;
              int32_t numbers[MOST_DESCRIPTORS]; };
struct client { char **words, **environment; long count; const char *python, *start; };

static int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* What follows `prefix` in the text, or 0. */
static const char *after(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return 0;
    return text;
}

static const char *variable(char **environment, const char *name)
{
    const char *found = 0;
    for (; *environment && !found; environment++)
        found = after(*environment, name);
    return found;
}

static void shut(long descriptor) { call(__NR_close, descriptor, 0, 0, 0); }

static void set_mask(uint64_t mask) { raw(__NR_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8, 0, 0); }

static void set_default(int signal)
{
    uint64_t action[4] = {0};   /* SIG_DFL, no flags, no mask */
    call(__NR_rt_sigaction, signal, (long)action, 0, 8);
}

static long waited(long descriptor, short events, long milliseconds)
{
    struct pollfd one = {descriptor, events, 0};
    struct __kernel_timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    long ready = raw(__NR_ppoll, (long)&one, 1, (long)&time, 0, 8, 0);
    return ready == 1;
}

/* FNV-1a. Not against forgers, who are told apart by the worker: against accidents. */
static uint64_t mixed(uint64_t hash, const void *data, long size)
{
    for (const unsigned char *byte = data; size-- > 0; byte++)
        hash = (hash ^ *byte) * 0x100000001b3;
    return hash;
}

/* A file of /proc/self as text; its size, or a negative error. */
static long content(const char *path, char *text, long most)
{
    long file = call(__NR_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0), n = 0, got = file;
    while (file >= 0 && (got = call(__NR_read, file, (long)(text + n), most - 1 - n, 0)) > 0)
        n += got;
    if (file >= 0)
        shut(file);
    text[n] = 0;
    return got < 0 ? got : n == most - 1 ? -EFBIG : n;
}

/* What a process may be and do, of /proc/self/status. Sandboxed and traced ones get no warm process: what confines them
 * (seccomp, Landlock), and who watches them, cannot be passed on. */
static int status_mixed(uint64_t *hash)
{
    static const char *const same[] = {"Uid:", "Gid:", "Groups:", "Cap", "Speculation", "THP_enabled:", "Cpus_allowed:",
                                       "Mems_allowed:", 0},
        *const none[] = {"NoNewPrivs:\t0", "Seccomp:\t0", "TracerPid:\t0", 0};
    char text[LONGEST * 3];
    int plain = 0;
    if (content("/proc/self/status", text, sizeof text) <= 0)
        return 0;
    for (char *line = text, *end; *line; line = end) {
        for (end = line; *end && *end++ != '\n';)
            ;
        for (const char *const *name = same; *name; name++)
            if (after(line, *name))
                *hash = mixed(*hash, line, end - line);
        for (const char *const *wanted = none; *wanted; wanted++) {
            const char *rest = after(line, *wanted);
            plain += rest && *rest == '\n';
        }
    }
    return plain == 3;
}

static int file_mixed(uint64_t *hash, const char *path)
{
    struct statx about;
    if (raw(__NR_statx, AT_FDCWD, (long)path, 0, STATX_BASIC_STATS, (long)&about, 0) < 0)
        return 0;
    uint64_t what[] = {about.stx_dev_major, about.stx_dev_minor, about.stx_ino};
    *hash = mixed(*hash, what, sizeof what);
    if (!equal(path, "/")) {    /* whose times change with every file that is made there */
        uint64_t when[] = {about.stx_size, about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec, about.stx_ctime.tv_sec,
                           about.stx_ctime.tv_nsec};
        *hash = mixed(*hash, when, sizeof when);
    }
    return 1;
}

/* Whether the interpreter, its C library or their loader read that variable when they start. */
static int read_early(const char *variable)
{
    static const char *const early[] = {"LC_ALL=", "LC_CTYPE=", "LANG=", "LD_", "GLIBC_TUNABLES=", "MALLOC_",
                                        "LOCPATH=", 0};
    for (const char *const *prefix = early; *prefix; prefix++)
        if (after(variable, *prefix))
            return 1;
    return 0;
}

static int surroundings(const struct client *client, char name[17])
{
    static const char *const files[] = {"/proc/self/limits", "/proc/self/cgroup", "/proc/self/oom_score_adj", 0},
        *const links[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user",
                          "uts", 0};
    uint64_t hash = 0xcbf29ce484222325;
    char text[LONGEST * 2];
    long n;
    if (!status_mixed(&hash))
        return 0;
    for (const char *const *file = files; *file; file++) {
        if ((n = content(*file, text, sizeof text)) < 0)
            return 0;
        hash = mixed(hash, text, n);
    }
    n = content("/proc/self/attr/current", text, sizeof text);  /* EINVAL where no security module labels anything */
    hash = mixed(hash, text, n > 0 ? n : 0);
    for (const char *const *link = links; *link; link++) {
        char path[LONGEST];
        join(path, (const char *const[]){"/proc/self/ns/", *link, 0});
        n = call(__NR_readlinkat, AT_FDCWD, (long)path, (long)text, sizeof text);
        hash = mixed(hash, text, n > 0 ? n : 0);        /* older kernels have no time namespaces */
    }
    long others[] = {
        call(__NR_personality, 0xffffffff, 0, 0, 0),
        call(__NR_getpriority, PRIO_PROCESS, 0, 0, 0),
        call(__NR_sched_getscheduler, 0, 0, 0, 0),
        call(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0, 0, 0),
        call(__NR_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* KEY_SPEC_SESSION_KEYRING */, 0, 0),
    };
    hash = mixed(hash, others, sizeof others);
    for (char **one = client->environment; *one; one++)
        if (read_early(*one))
            hash = mixed(hash, *one, length(*one) + 1);
    hash = mixed(hash, client->start, length(client->start) + 1);
    if (!file_mixed(&hash, "/") || !file_mixed(&hash, client->python) || !file_mixed(&hash, client->start))
        return 0;
    for (int i = 0; i < 16; i++)
        name[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
    name[16] = 0;
    return 1;
}

/* The directory of the sockets, and the one it is in. */
static int directories(const struct client *client, char above[LONGEST], char directory[LONGEST])
{
    const char *runtime = "/run";
    if (call(__NR_geteuid, 0, 0, 0, 0) != 0) {
        runtime = variable(client->environment, "XDG_RUNTIME_DIR=");
        if (!runtime || *runtime != '/')
            return 0;
    }
    return join(above, (const char *const[]){runtime, 0}) && join(directory, (const char *const[]){runtime, "/lamina", 0});
}

/* Open the directory if it is a directory of ours alone. */
static long opened(const char *directory)
{
    struct statx about;
    long at = call(__NR_openat, AT_FDCWD, (long)directory, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (at < 0)
        return at;
    long error = raw(__NR_statx, at, (long)"", AT_EMPTY_PATH, STATX_BASIC_STATS, (long)&about, 0);
    if (error == 0 && about.stx_uid == call(__NR_geteuid, 0, 0, 0, 0) && (about.stx_mode & 07777) == 0700)
        return at;
    shut(at);
    return -EPERM;
}

/* A connection to the warm process of that name, or a negative error: -ENOENT and -ECONNREFUSED say that there is none. */
static long connected(const char *directory, const char *name)
{
    struct sockaddr_un address = {AF_UNIX, "/proc/self/fd/"};
    struct { int32_t pid; uint32_t uid, gid; } peer;
    uint32_t size = sizeof peer;
    long at = opened(directory), end = length(address.sun_path);
    if (at < 0)
        return at;
    char digits[8];
    int n = 0;
    for (long rest = at; rest || !n; rest /= 10)
        digits[n++] = '0' + rest % 10;
    while (n)
        address.sun_path[end++] = digits[--n];
    address.sun_path[end++] = '/';
    for (const char *c = name; *c; c++)
        address.sun_path[end++] = *c;
    long connection = call(__NR_socket, AF_UNIX, STREAM | O_CLOEXEC | O_NONBLOCK, 0, 0), error = connection;
    if (connection >= 0)
        error = call(__NR_connect, connection, (long)&address, sizeof address, 0);
    shut(at);
    if (connection < 0)
        return connection;
    if (error == 0)
        error = raw(__NR_getsockopt, connection, LEVEL, PEER, (long)&peer, (long)&size, 0);
    if (error == 0 && peer.uid != call(__NR_geteuid, 0, 0, 0, 0))
        error = -EPERM;
    if (error == 0)
        return connection;
    shut(connection);
    return error;
}

