/* Leaving a warm process behind: for the next command, when there is none for this one. */
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
