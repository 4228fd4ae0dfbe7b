/* Threads beside the one that Python knows: they know nothing of Python, get no signals, and end before the call does. */
#ifndef LAMINA_APART_H
#define LAMINA_APART_H
#include <pthread.h>
#include <signal.h>

enum { SMALL_STACK = 64 * 1024 };

/* Whether `work(given)` is now done in a thread of its own, which is to be joined. */
static int begin_apart(pthread_t *thread, void *(*work)(void *), void *given)
{
    sigset_t every, before;
    pthread_attr_t small;
    sigfillset(&every);
    int has_small = pthread_attr_init(&small) == 0;
    if (has_small)
        pthread_attr_setstacksize(&small, SMALL_STACK);     /* refused where that is too small: then it is the usual one */
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int began = pthread_create(thread, has_small ? &small : NULL, work, given) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (has_small)
        pthread_attr_destroy(&small);
    return began;
}
#endif
