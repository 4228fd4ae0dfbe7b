/* Asking a warm process to do the command (src/lamina/warm): it has imported everything that Python imports for one.
 *
 *     client                                       a worker, forked and parked by the warm process
 *       connect to a socket named by surroundings
 *       request: words, environment          ─▶  compares surroundings
 *                                      ready ◀─  and a descriptor of its process
 *       go, descriptors, working directory   ─▶  from now on it is the command, and dies with this client
 *       forwards signals, stops with it
 *                                     status ◀─  what it exits with
 *
 * Until "go" nothing was done: whatever is unlike, missing, slow or broken until then is left to Python, as if there
 * were no warm process. After it nothing is ever done a second time. Nor are descriptors sent before it: what lies in the
 * queue of a process that hangs would keep pipes open.
 *
 * A caller whose surroundings differ in anything that a command could notice asks at another name. The worker does not
 * believe that: it reads what matters for safety in /proc itself.
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

enum {
    MOST_DESCRIPTORS = 200,     /* SCM_MAX_FD is 253 */
    PATIENCE = 1000,            /* milliseconds for a worker to answer: forks take one, under load some tens */
    HOLD_OFF = 1000,            /* for how long a command that runs keeps the warm process from being started */
    NOT_AGAIN = 5,              /* seconds until it is started again after it did not come to life */
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

static long waited(long descriptor, short events, long milliseconds)
{
    struct pollfd one = {descriptor, events, 0};
    struct __kernel_timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    long ready = raw(__NR_ppoll, (long)&one, 1, (long)&time, 0, 8, 0);
    return ready == 1;
}

/* -- which warm process: one whose surroundings are these */

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

/* -- the request */

/* Every open descriptor that is not close-on-exec, so all that the caller left open; 0 if there are too many. */
static int descriptors(struct head *head)
{
    char buffer[ENTRIES] __attribute__((aligned(8)));
    long directory = call(__NR_openat, AT_FDCWD, (long)"/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n = directory;
    while (n >= 0 && (n = call(__NR_getdents64, directory, (long)buffer, sizeof buffer, 0)) > 0)
        for (long at = 0; at < n;) {
            const struct entry *entry = (const struct entry *)(buffer + at);
            long number = 0;
            at += entry->length;
            if (entry->name[0] == '.')
                continue;
            for (const char *digit = entry->name; *digit; digit++)
                number = number * 10 + *digit - '0';
            if (call(__NR_fcntl, number, F_GETFD, 0, 0) & FD_CLOEXEC)
                continue;
            if (head->descriptors == MOST_DESCRIPTORS)
                n = -EMFILE;
            else
                head->numbers[head->descriptors++] = number;
            if (n < 0)
                break;
        }
    if (directory >= 0)
        shut(directory);
    for (int number = 0; number < 3; number++) {
        char settings[64];
        if (call(__NR_ioctl, number, 0x5401 /* TCGETS */, (long)settings, 0) == 0)
            head->terminals |= 1 << number;
    }
    return n >= 0;
}

/* Send everything; 0 if it does not go through. */
static int sent(long connection, const struct head *head, const char *strings)
{
    uint64_t size = sizeof *head + head->size, done = 0;
    while (done < size) {
        struct message message = {0};
        typeof(*message.parts) parts[2];
        message.parts = parts;
        if (done < sizeof *head) {
            parts[message.count].base = (const char *)head + done;
            parts[message.count++].size = sizeof *head - done;
        }
        uint64_t from = done < sizeof *head ? 0 : done - sizeof *head;
        parts[message.count].base = strings + from;
        parts[message.count++].size = head->size - from;
        long n = call(__NR_sendmsg, connection, (long)&message, NO_SIGNAL, 0);
        if (n > 0)
            done += n;
        else if (n != -EAGAIN || !waited(connection, POLLOUT, PATIENCE))
            return 0;
    }
    return 1;
}

/* Words and variables lie in memory one after the other as the kernel put them there (execve(2)); 0 if they do not. */
static uint64_t strings_size(const struct client *client, struct head *head)
{
    const char *end = client->words[0];
    for (long i = 0; i < client->count; i++, head->words++) {
        if (client->words[i] != end)
            return 0;
        end += length(end) + 1;
    }
    for (char **one = client->environment; *one; one++, head->variables++) {
        if (*one != end)
            return 0;
        end += length(end) + 1;
    }
    return end - client->words[0];
}

/* The worker's answer: a descriptor of its process if it is ready, a negative number if Python is to do it. */
static long answered(long connection)
{
    char answer = 0;
    struct rights rights;
    struct message message = {0};
    typeof(*message.parts) part = {&answer, 1};
    message.parts = &part;
    message.count = 1;
    message.control = &rights;
    message.control_size = 24;  /* for one */
    rights.size = 0;
    if (!waited(connection, POLLIN, PATIENCE) || call(__NR_recvmsg, connection, (long)&message, CLOSE_RIGHTS, 0) != 1)
        return -EAGAIN;
    if (message.control_size < 20 || rights.size < 20 || rights.type != RIGHTS)
        return -EAGAIN;
    if (answer == 'r')
        return rights.descriptors[0];
    shut(rights.descriptors[0]);
    return -EAGAIN;
}

static long requested(long connection, const struct client *client, struct head *head)
{
    if (!(head->size = strings_size(client, head)) || !descriptors(head) || !sent(connection, head, client->words[0]))
        return -EAGAIN;
    return answered(connection);
}

/* "go", with the descriptors and, after them, the working directory `here`; 0 if it did not leave this process. */
static int told_to_go(long connection, const struct head *head, long here)
{
    struct rights rights = {16 + 4 * (head->descriptors + 1), LEVEL, RIGHTS, {0}};
    struct message message = {0};
    typeof(*message.parts) part = {"g", 1};
    message.parts = &part;
    message.count = 1;
    message.control = &rights;
    message.control_size = (rights.size + 7) & ~7ull;
    for (uint32_t i = 0; i < head->descriptors; i++)
        rights.descriptors[i] = head->numbers[i];
    rights.descriptors[head->descriptors] = here;
    return call(__NR_sendmsg, connection, (long)&message, NO_SIGNAL, 0) == 1;
}

/* -- while a worker does it */

static void set_mask(uint64_t mask) { raw(__NR_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8, 0, 0); }

/* To the worker alone, or, if a terminal sent it, to its process group: what it started would have got it as well. */
static void forward(long worker, int signal, int to_group)
{
    if (!to_group || call(__NR_pidfd_send_signal, worker, signal, 0, 4 /* PIDFD_SIGNAL_PROCESS_GROUP: Linux 6.9 */) < 0)
        call(__NR_pidfd_send_signal, worker, signal, 0, 0);
}

static void set_default(int signal)
{
    uint64_t action[4] = {0};   /* SIG_DFL, no flags, no mask */
    call(__NR_rt_sigaction, signal, (long)action, 0, 8);
}

/* Die as the worker did; a signal that does not end this process becomes a status, as shells have it. */
static void end_by(int signal) __attribute__((noreturn));
static void end_by(int signal)
{
    uint64_t no_core[2] = {0, 0};
    call(__NR_prlimit64, 0, RLIMIT_CORE, (long)no_core, 0);     /* the worker has left one, if anybody */
    set_default(signal);
    call(__NR_kill, call(__NR_getpid, 0, 0, 0, 0), signal, 0, 0);
    set_mask(0);
    for (;;)
        call(__NR_exit_group, 128 + signal, 0, 0, 0);
}

/* A worker ended without a word: by a signal, as a rule. `last` is the latest that was forwarded. */
static void end_as(long worker, int last) __attribute__((noreturn));
static void end_as(long worker, int last)
{
    struct { uint64_t mask, group; uint32_t ids[11]; int32_t status; } about = {0};     /* struct pidfd_info, 64 bytes */
    for (int patience = 100; patience; patience--) {    /* until its parent has waited for it */
        about.mask = 1 << 3;    /* PIDFD_INFO_EXIT: Linux 6.15 */
        long error = call(__NR_ioctl, worker, 0xc040ff0b /* PIDFD_GET_INFO */, (long)&about, 0);
        if (error == 0 && about.mask & 1 << 3) {
            if (about.status & 0x7f)
                end_by(about.status & 0x7f);
            for (;;)
                call(__NR_exit_group, about.status >> 8 & 0xff, 0, 0, 0);
        }
        if (error < 0 && error != -ESRCH)
            break;
        struct __kernel_timespec moment = {0, 2000000};
        call(__NR_nanosleep, (long)&moment, 0, 0, 0);
    }
    end_by(last ? last : SIGKILL);
}

/* Stop the worker, then this process as the signal would have, and go on together. */
static void stop(long worker, int signal, uint64_t mask)
{
    forward(worker, SIGSTOP, 1);
    call(__NR_kill, call(__NR_getpid, 0, 0, 0, 0), signal, 0, 0);
    set_mask(mask & ~(1ull << (signal - 1)));   /* does not stop if it is ignored, or nobody could continue us */
    set_mask(mask);
    forward(worker, SIGCONT, 1);
}

static int ends(int signal)
{
    return signal != SIGCHLD && signal != SIGCONT && signal != SIGURG && signal != SIGWINCH && signal != SIGPIPE;
}

/* Stay until the worker has ended, and end with what it ends with. */
static void attend(long connection, long worker, long signals, uint64_t mask) __attribute__((noreturn));
static void attend(long connection, long worker, long signals, uint64_t mask)
{
    int last = 0;
    for (;;) {
        struct pollfd all[] = {{connection, POLLIN, 0}, {signals, POLLIN, 0}, {worker, POLLIN, 0}};
        struct signalfd_siginfo arrived;
        unsigned char status;
        raw(__NR_ppoll, (long)all, 3, 0, 0, 8, 0);
        if (all[0].revents || all[2].revents) {
            long n = call(__NR_read, connection, (long)&status, 1, 0);
            if (n == 1)
                for (;;)
                    call(__NR_exit_group, status, 0, 0, 0);
            if (all[2].revents || n != -EAGAIN)
                end_as(worker, last);
        }
        if (!(all[1].revents & POLLIN) || call(__NR_read, signals, (long)&arrived, sizeof arrived, 0) != sizeof arrived)
            continue;
        int signal = arrived.ssi_signo;
        if (signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU)
            stop(worker, signal, mask);
        else
            forward(worker, signal, arrived.ssi_code > 0);
        if (ends(signal))
            last = signal;
    }
}

/* Every signal that is not ignored waits to be forwarded. SIGCHLD is nobody's: this process has no children. */
static void hand_over(long connection, long worker, const struct head *head)
{
    uint64_t mask = 0, action[4];
    for (int signal = 1; signal <= LAST_SIGNAL; signal++)
        if (signal != SIGCHLD && call(__NR_rt_sigaction, signal, 0, (long)action, 8) == 0 && action[0] != 1 /* SIG_IGN */)
            mask |= 1ull << (signal - 1);
    uint64_t before;
    raw(__NR_rt_sigprocmask, SIG_BLOCK, (long)&mask, (long)&before, 8, 0, 0);
    uint64_t ours = mask & ~before;     /* what the caller blocked stays pending, as it would have */
    long signals = call(__NR_signalfd4, -1, (long)&ours, 8, O_CLOEXEC | O_NONBLOCK);
    long here = call(__NR_openat, AT_FDCWD, (long)".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (signals >= 0 && here >= 0 && told_to_go(connection, head, here))
        attend(connection, worker, signals, mask | before);
    if (here >= 0)
        shut(here);
    if (signals >= 0)
        shut(signals);
    set_mask(before);
}

/* -- leaving one behind */

/* The file whose presence says that the user wants none (lamina system warm off); "" where nothing can say so, or
 * LAMINA_WARM=1 says otherwise. */
static void switch_of(const struct client *client, char path[LONGEST])
{
    const char *wish = variable(client->environment, "LAMINA_WARM=");
    const char *home = variable(client->environment, "XDG_CONFIG_HOME="), *below = "/lamina/warm-off";
    if (!home || *home != '/') {
        home = variable(client->environment, "HOME=");
        below = "/.config/lamina/warm-off";
    }
    if ((wish && equal(wish, "1")) || !home || *home != '/' || !join(path, (const char *const[]){home, below, 0}))
        path[0] = 0;
}

/* The lock of that name, as descriptor 3; a negative error if somebody else starts one, or has just tried to. */
static long locked(const char *directory, const char *name)
{
    char path[LONGEST];
    struct statx about;
    struct __kernel_timespec now;
    call(__NR_mkdirat, AT_FDCWD, (long)directory, 0700, 0);
    long at = opened(directory);
    if (at < 0 || !join(path, (const char *const[]){name, ".lock", 0}))
        return -EPERM;
    call(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, (long)&now, 0, 0);
    long tried = raw(__NR_statx, at, (long)path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, (long)&about, 0) == 0
        && about.stx_mtime.tv_sec <= now.tv_sec && about.stx_mtime.tv_sec > now.tv_sec - NOT_AGAIN;
    long lock = call(__NR_openat, at, (long)path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    shut(at);
    if (tried || lock < 0 || call(__NR_flock, lock, LOCK_NOW, 0, 0) < 0)
        return -EAGAIN;
    call(__NR_ftruncate, lock, 0, 0, 0);        /* the pid of one that was killed */
    call(__NR_utimensat, lock, 0, 0, 0);
    if (lock != 3) {
        call(__NR_dup3, lock, 3, 0, 0);
        shut(lock);
    }
    return 3;
}

/* In a process of its own, which has nothing of the caller's: wait until the command is done, or takes long, and be
 * the warm process. */
static void become(const struct client *client, const char *directory, const char *name, const char *off, long command)
    __attribute__((noreturn));
static void become(const struct client *client, const char *directory, const char *name, const char *off, long command)
{
    char *environment[MOST_WORDS / 16];
    long n = 0;
    raw(__NR_close_range, 0, ~0u, 0, 0, 0, 0);
    for (int i = 0; i < 3; i++)
        call(__NR_openat, AT_FDCWD, (long)"/dev/null", O_RDWR, 0);
    call(__NR_setsid, 0, 0, 0, 0);
    call(__NR_chdir, (long)"/", 0, 0, 0);
    call(__NR_umask, 077, 0, 0, 0);
    for (int signal = 1; signal <= LAST_SIGNAL; signal++)
        set_default(signal);
    set_mask(0);
    if (locked(directory, name) == 3) {
        long running = call(__NR_pidfd_open, command, 0, 0, 0);
        if (running >= 0) {
            waited(running, POLLIN, HOLD_OFF);
            shut(running);
        }
        for (char **one = client->environment; *one && n < MOST_WORDS / 16 - 1; one++)
            if (read_early(*one))
                environment[n++] = *one;
        environment[n] = 0;
        const char *argv[] = {client->python, "-I", "-S", client->start, "warm", "cli", directory, name, off, 0};
        call(__NR_execve, (long)client->python, (long)argv, (long)environment, 0);
    }
    for (;;)
        call(__NR_exit_group, 0, 0, 0, 0);
}

static long forked(void) { return raw(__NR_clone, SIGCHLD, 0, 0, 0, 0, 0); }

static void leave_behind(const struct client *client, const char *above, const char *directory, const char *name)
{
    long command = call(__NR_getpid, 0, 0, 0, 0);
    char off[LONGEST];
    switch_of(client, off);
    if (off[0] && exists(off))
        return;
    if (!exists(directory) && call(__NR_faccessat, AT_FDCWD, (long)above, 2 /* W_OK */, 0) != 0)
        return;
    long child = forked();
    if (child == 0) {           /* its child is no child of the command's: that may wait for all it has */
        if (forked() == 0)
            become(client, directory, name, off, command);
        for (;;)
            call(__NR_exit_group, 0, 0, 0, 0);
    }
    if (child > 0)
        call(__NR_wait4, child, 0, 0x40000000 /* __WALL */, 0);
}

/* Let a warm process do the command, and end with it. Returns where Python is to do it. */
static void try_warm(const struct client *client)
{
    char above[LONGEST], directory[LONGEST], name[17];
    const char *wish = variable(client->environment, "LAMINA_WARM=");
    if ((wish && equal(wish, "0")) || !directories(client, above, directory) || !surroundings(client, name))
        return;
    long connection = connected(directory, name);
    if (connection == -ENOENT || connection == -ECONNREFUSED)
        leave_behind(client, above, directory, name);
    if (connection < 0)
        return;
    struct head head = {.version = VERSION};
    long worker = requested(connection, client, &head);
    if (worker >= 0) {
        hand_over(connection, worker, &head);
        shut(worker);
    }
    shut(connection);
}
