/* Work shared with threads that Python does not know: they touch nothing of it, and get no signals.
 *
 * Whoever has begun it works as well, and waits for what others have begun but never for a thread that has yet to run: where
 * other processes keep the processors busy that takes milliseconds. Such a thread finds nothing left, and goes; who forks
 * waits for that, for a fork beside threads is worth a warning to Python (3.12), and to nobody's liking. */
#ifndef LAMINA_APART_H
#define LAMINA_APART_H
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* On it are the variables that libraries of the program have for each thread as well: some have tens of kilobytes of these.
 * What nobody writes to takes no memory. */
enum { SMALL_STACK = 256 * 1024 };

struct shared {
    void (*one)(void *what, long at);
    void *what;                 /* is there until all is done; a late thread does not look at it */
    long count, piece, next;    /* `next`: the first that nobody has taken, of which each takes `piece` at once */
    int helpers, users;         /* how many threads more may begin; of how many this is in use */
    long done;
    pthread_mutex_t turn;       /* of `done` and `users` */
    pthread_cond_t all_done;
};

static int coming_or_going;     /* threads that have nothing to do yet, or any more */

static void count_idle(int more)
{
    __atomic_fetch_add(&coming_or_going, more, __ATOMIC_ACQ_REL);
}

/* Before a fork(2): those that have nothing to do are gone, or it has taken too long (a tenth of a second). */
static void await_idle(void)
{
    struct timespec moment = {.tv_nsec = 20000};
    for (int turn = 0; turn < 1500 && __atomic_load_n(&coming_or_going, __ATOMIC_ACQUIRE) > 0; turn++)
        nanosleep(&moment, NULL);
}

static void let_go(struct shared *shared)
{
    pthread_mutex_lock(&shared->turn);
    int left = --shared->users;
    pthread_mutex_unlock(&shared->turn);
    if (left)
        return;
    pthread_cond_destroy(&shared->all_done);
    pthread_mutex_destroy(&shared->turn);
    free(shared);
}

static void *help(void *given);

/* Each thread has the next one begin, so that nobody waits until all have. Where none can be made the others do it all. */
static void have_helped(struct shared *shared)
{
    pthread_t thread;
    pthread_attr_t small;
    if (__atomic_fetch_sub(&shared->helpers, 1, __ATOMIC_RELAXED) <= 0 || pthread_attr_init(&small) != 0)
        return;
    pthread_attr_setstacksize(&small, SMALL_STACK);     /* refused where that is too small: then it is the usual one */
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&shared->turn);
    shared->users++;
    pthread_mutex_unlock(&shared->turn);
    count_idle(1);
    if (pthread_create(&thread, &small, help, shared) != 0) {
        count_idle(-1);
        let_go(shared);         /* never the last: the caller has it */
    }
    pthread_attr_destroy(&small);
}

/* Take what is next until nothing is left. */
static void take_part(struct shared *shared, int is_helper)
{
    long first;
    int first_time = 1;
    while ((first = __atomic_fetch_add(&shared->next, shared->piece, __ATOMIC_RELAXED)) < shared->count) {
        long end = first + shared->piece < shared->count ? first + shared->piece : shared->count;
        if (is_helper && first_time && end < shared->count)
            have_helped(shared);
        first_time = 0;
        if (is_helper)
            count_idle(-1);
        for (long at = first; at < end; at++)
            shared->one(shared->what, at);
        if (is_helper)
            count_idle(1);
        pthread_mutex_lock(&shared->turn);
        shared->done += end - first;
        if (shared->done == shared->count)
            pthread_cond_signal(&shared->all_done);
        pthread_mutex_unlock(&shared->turn);
    }
}

static void *help(void *given)
{
    take_part(given, 1);
    let_go(given);
    count_idle(-1);
    return NULL;
}

/* Begin `one(what, at)` for each `at` below `count`, in threads of which there are `helpers` at most. NULL: no memory. */
static struct shared *begin_apart(void (*one)(void *, long), void *what, long count, long piece, int helpers)
{
    struct shared *shared = calloc(1, sizeof *shared);
    if (shared == NULL)
        return NULL;
    *shared = (struct shared){.one = one, .what = what, .count = count, .piece = piece, .helpers = helpers, .users = 1};
    pthread_mutex_init(&shared->turn, NULL);
    pthread_cond_init(&shared->all_done, NULL);
    sigset_t every, before;     /* a thread inherits the mask, and so do those that it has begin */
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    have_helped(shared);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return shared;
}

/* Do what nobody has begun, and wait for the rest. Without the interpreter's lock. */
static void finish_together(struct shared *shared)
{
    take_part(shared, 0);
    pthread_mutex_lock(&shared->turn);
    while (shared->done < shared->count)
        pthread_cond_wait(&shared->all_done, &shared->turn);
    pthread_mutex_unlock(&shared->turn);
    let_go(shared);
}
#endif
