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
#include "warm_place.h"
#include "warm_start.h"

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

/* To the worker alone, or, if a terminal sent it, to its process group: what it started would have got it as well. */
static void forward(long worker, int signal, int to_group)
{
    if (!to_group || call(__NR_pidfd_send_signal, worker, signal, 0, 4 /* PIDFD_SIGNAL_PROCESS_GROUP: Linux 6.9 */) < 0)
        call(__NR_pidfd_send_signal, worker, signal, 0, 0);
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
