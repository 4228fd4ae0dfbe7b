/* The walker: makes the system calls of a flat list, one after the other.
 *
 * Shared by _native.c, in whose child it may touch neither libc nor Python, and by runtime/init/lamina_init.c, where there
 * is no libc. So this file needs the kernel's headers and nothing else. The format of the list is
 * lamina/linux/program.py; lamina/linux/runner.py is the same walker in Python.
 */
#ifndef LAMINA_WALKER_H
#define LAMINA_WALKER_H
#include <asm/unistd.h>
#include <linux/errno.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"

enum { VALUE, IN_ARENA, REGISTER };        /* what step.argument[i] means: see program.py */
enum { EXIT_STEP_FAILED = 126, MOST_TRIES = 1000 };

struct step {
    int64_t number;             /* of the system call */
    uint64_t argument[6];
    uint8_t kind[6];
    uint8_t has_wanted;
    uint8_t unused;
    int64_t wanted;             /* with has_wanted: any other result is a failure */
    uint64_t tolerated[2];      /* bit n: errno n is no failure */
    uint16_t skip;              /* steps to pass over after a tolerated error */
    uint16_t leap;              /* steps to pass over after success */
    int32_t save;               /* the register that takes the result, or -1 */
    int64_t result;
};

struct program {                /* somewhere behind it lie the registers, the steps and the arena */
    size_t size;                /* of everything */
    uint32_t count, registers;
    int64_t *values;
    struct step *steps;
    char *arena;
    int32_t failed;             /* index of the failing step, or -1 */
    int32_t error;              /* its errno, 0: it returned something else than it should */
    int32_t unsettled;          /* not 0: a child that shares our memory may still be walking (_native.c) */
};

static long step_value(const struct program *p, const struct step *s, int i)
{
    switch (s->kind[i]) {
    case IN_ARENA: return (long)(p->arena + s->argument[i]);
    case REGISTER: return (long)p->values[s->argument[i]];
    default: return (long)s->argument[i];
    }
}

/* In this order, for who shares our memory may look meanwhile: what has failed is told together with why. */
static int fail(struct program *p, uint32_t step, int32_t error)
{
    p->error = error;
    __atomic_store_n(&p->failed, (int32_t)step, __ATOMIC_RELEASE);
    return -1;
}

/* 0, or -1 with failed and error set. */
static int walk(struct program *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct step *s = &p->steps[i];
        long result;
        int tries = 0;
        do      /* openat2(2): EAGAIN means that something was renamed or mounted meanwhile, and to try again */
            result = raw(s->number, step_value(p, s, 0), step_value(p, s, 1), step_value(p, s, 2),
                         step_value(p, s, 3), step_value(p, s, 4), step_value(p, s, 5));
        while (result == -EAGAIN && s->number == __NR_openat2 && ++tries < MOST_TRIES);
        s->result = result;
        if (result < 0 && result > -4096) {
            long error = -result;
            if (error < 128 && (s->tolerated[error >> 6] >> (error & 63)) & 1) {
                i += s->skip;
                continue;
            }
            return fail(p, i, (int32_t)error);
        }
        if (s->has_wanted && result != s->wanted)
            return fail(p, i, 0);
        if (s->save >= 0)
            p->values[s->save] = result;
        i += s->leap;
    }
    return 0;
}

#endif
