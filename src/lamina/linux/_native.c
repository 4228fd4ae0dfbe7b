/* lamina.linux._native: walks a flat list of system calls, in this process or in a new one; makes, looks at, or
 * puts on the disk, many files at once; and has some calls on descriptors.
 *
 * Why C: the child of a clone3(CLONE_VM) shares every byte of memory with its parent, an interpreter with threads. It
 * must not touch Python, libc's locks, malloc or errno. This walker touches a list, its own stack and the kernel, so
 * it is safe whatever the parent's other threads do, and costs the same whatever the parent's size.
 *
 * The format of the list is lamina/linux/program.py; lamina/linux/runner.py is the same walker in Python: the
 * reference, and the fallback where this file could not be compiled. Both run the same tests.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "walker.h"
#include "create.h"
#include "descriptors.h"
#include "flush.h"
#include "messages.h"
#include "survey.h"

enum { STACK_SIZE = 64 * 1024, SIGNALS = 64, MOST_REGISTERS = 65536 };

/* ---- no libc, no Python from here ... ---- */

#if defined(__x86_64__)
/* The child starts on a stack of its own and never returns: it calls enter(arg). */
static long clone3_call(struct clone_args *args, void (*enter)(struct program *), struct program *arg)
{
    long result;
    register void *function __asm__("r12") = (void *)enter;
    register void *argument __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone3), "D"(args), "S"(sizeof *args), "r"(function), "r"(argument)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static long clone3_call(struct clone_args *args, void (*enter)(struct program *), struct program *arg)
{
    register long x8 __asm__("x8") = SYS_clone3;
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = sizeof *args;
    register void *function __asm__("x19") = (void *)enter;
    register void *argument __asm__("x20") = arg;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0) : "r"(x8), "r"(x1), "r"(function), "r"(argument) : "memory");
    return x0;
}
#endif

/* CLONE_CLEAR_SIGHAND leaves ignored signals ignored, and Python ignores two: no signal state of ours may get in. */
static void forget_signals(void)
{
    struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } standard = {0};
    uint64_t none = 0;
    for (int signal = 1; signal <= SIGNALS; signal++)
        if (signal != SIGKILL && signal != SIGSTOP)
            raw(SYS_rt_sigaction, signal, (long)&standard, 0, sizeof none, 0, 0);
    raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof none, 0, 0);
}

static void child(struct program *p)
{
    forget_signals();
    int status = walk(p) ? EXIT_STEP_FAILED : 0;
    raw(SYS_exit_group, status, 0, 0, 0, 0, 0);
    __builtin_trap();     /* a filter of system calls may refuse even that */
}

/* ---- ... to here ---- */

static void discard(struct program *p) { munmap(p, p->size); }

static size_t aligned(size_t n) { return (n + 63) & ~(size_t)63; }

/* A mapping of its own, so that a child that shares our memory never meets the allocator. Shared, so that the report
 * of a child with a copy of our memory reaches us as well. */
static struct program *load(Py_buffer *steps, Py_buffer *arena, Py_buffer *relocations, Py_buffer *given)
{
    uint32_t registers = (uint32_t)((size_t)given->len / sizeof(int64_t));
    size_t head = aligned(sizeof(struct program)), values = aligned((size_t)given->len);
    size_t list = aligned((size_t)steps->len), data = aligned((size_t)arena->len + 1);
    size_t size = head + values + list + data + STACK_SIZE;
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    struct program *p = (struct program *)base;
    *p = (struct program){.size = size, .count = (uint32_t)((size_t)steps->len / sizeof(struct step)),
        .registers = registers, .values = (int64_t *)(base + head), .steps = (struct step *)(base + head + values),
        .arena = base + head + values + list, .failed = -1};
    memcpy(p->values, given->buf, (size_t)given->len);
    memcpy(p->steps, steps->buf, (size_t)steps->len);
    memcpy(p->arena, arena->buf, (size_t)arena->len);
    for (size_t i = 0; i < (size_t)relocations->len / sizeof(uint32_t); i++) {
        uint32_t offset;
        uint64_t pointer;
        memcpy(&offset, (const char *)relocations->buf + i * sizeof offset, sizeof offset);
        if ((size_t)offset + sizeof pointer > (size_t)arena->len)
            goto malformed;
        memcpy(&pointer, p->arena + offset, sizeof pointer);
        pointer += (uint64_t)(uintptr_t)p->arena;
        memcpy(p->arena + offset, &pointer, sizeof pointer);
    }
    for (uint32_t i = 0; i < p->count; i++) {
        const struct step *s = &p->steps[i];
        if (s->save >= (int32_t)registers)
            goto malformed;
        for (int k = 0; k < 6; k++)
            if ((s->kind[k] == REGISTER && s->argument[k] >= registers)
                || (s->kind[k] == IN_ARENA && s->argument[k] > (uint64_t)arena->len))
                goto malformed;
    }
    return p;
malformed:
    discard(p);
    PyErr_SetString(PyExc_ValueError, "malformed program");
    return NULL;
}

static PyObject *report(const struct program *p)
{
    int32_t step = __atomic_load_n(&p->failed, __ATOMIC_ACQUIRE);    /* before the rest */
    return Py_BuildValue("iiy#", step, p->error, (const char *)p->steps,
                         (Py_ssize_t)(p->count * sizeof(struct step)));
}

static struct program *parse_program(PyObject *args, const char *format, unsigned long long *flags, int *cgroup,
                                     PyObject **noted)
{
    Py_buffer steps, arena, relocations, registers;
    struct program *p = NULL;
    if (!PyArg_ParseTuple(args, format, &steps, &arena, &relocations, &registers, flags, cgroup, &PyList_Type, noted))
        return NULL;
    if ((size_t)steps.len % sizeof(struct step) || (size_t)registers.len % sizeof(int64_t)
        || (size_t)relocations.len % sizeof(uint32_t) || registers.len > MOST_REGISTERS * (Py_ssize_t)sizeof(int64_t))
        PyErr_SetString(PyExc_ValueError, "malformed program");
    else
        p = load(&steps, &arena, &relocations, &registers);
    PyBuffer_Release(&steps);
    PyBuffer_Release(&arena);
    PyBuffer_Release(&relocations);
    PyBuffer_Release(&registers);
    return p;
}

PyDoc_STRVAR(walk_doc, "walk(steps, arena, relocations, registers) -> (failed, errno, steps)\n\n"
    "registers: the value that each begins with, as 64 bits in the machine's order. "
    "Make the calls in this thread. failed is the index of the failing step or -1; steps comes back with results.");
static PyObject *native_walk(PyObject *self, PyObject *args)
{
    (void)self;
    struct program *p = parse_program(args, "y*y*y*y*", NULL, NULL, NULL);
    if (!p)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    walk(p);
    Py_END_ALLOW_THREADS
    PyObject *result = report(p);
    discard(p);
    return result;
}

/* Ids that change in a child that shares our memory mark that memory as not dumpable, ours too (prctl(2)), which keeps
 * who has these ids from tracing the child. So it is put back when no start is under way any more, in no thread. Both are
 * guarded by the interpreter's lock. */
static int starts;
static long dumpable;
static int32_t generation = 1;      /* one more in each fork */

static void start_begins(void)
{
    if (!starts++)
        dumpable = raw(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0);
}

static void start_ends(void)
{
    if (!--starts && raw(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0) != dumpable)
        raw(SYS_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0, 0);
}

/* In a fork: what other threads had under way is no concern of this process. Nor are the programs that it has copies of:
 * they lie in memory that both share. */
static void forked(void)
{
    generation++;
    coming_or_going = 0;
    if (starts) {
        starts = 0;
        raw(SYS_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0, 0);
    }
}

static void settle(struct program *p)
{
    if (p->unsettled != generation)
        return;
    p->unsettled = 0;
    start_ends();
}

static const char CAPSULE[] = "lamina.linux._native.program";

static void forget_program(PyObject *capsule)
{
    struct program *p = PyCapsule_GetPointer(capsule, CAPSULE);
    if (p) {
        settle(p);
        discard(p);
    }
}

/* A child of which nobody could be told ends, before the memory is gone that it may share with us. */
static void take_back(int pidfd)
{
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    Py_BEGIN_ALLOW_THREADS
    raw(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0, 0, 0);
    while (raw(SYS_ppoll, (long)&ended, 1, 0, 0, 0, 0) == -EINTR)
        ;
    raw(SYS_waitid, P_PIDFD, pidfd, 0, WEXITED | WNOHANG, 0, 0);     /* unless the kernel reaps for this program */
    raw(SYS_close, pidfd, 0, 0, 0, 0, 0);
    Py_END_ALLOW_THREADS
}

PyDoc_STRVAR(spawn_doc, "spawn(steps, arena, relocations, registers, flags, cgroup, noted)\n\n"
    "Appends (pid, pidfd, program) to the list `noted`. clone3(2) with flags | CLONE_PIDFD; the child makes the calls. With CLONE_VM but without CLONE_VFORK the caller\n"
    "must keep `program` until the child has executed or is gone, and then call settle(). cgroup: for CLONE_INTO_CGROUP, else -1.");
static PyObject *native_spawn(PyObject *self, PyObject *args)
{
    (void)self;
    unsigned long long flags;
    int cgroup, pidfd = -1;
    PyObject *noted = NULL;
    struct program *p = parse_program(args, "y*y*y*y*KiO!", &flags, &cgroup, &noted);
    if (!p)
        return NULL;
    struct clone_args clone = {
        .flags = flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)((char *)p + p->size - STACK_SIZE) & ~(uint64_t)63,
        .stack_size = STACK_SIZE - 64,
        .cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
    };
    sigset_t all, before;
    sigfillset(&all);
    long pid;
    start_begins();
    Py_BEGIN_ALLOW_THREADS
    pthread_sigmask(SIG_BLOCK, &all, &before);      /* the child inherits it, so nothing interrupts the walk's start */
    pid = clone3_call(&clone, child, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    Py_END_ALLOW_THREADS
    p->unsettled = pid >= 0 && flags & CLONE_VM && !(flags & CLONE_VFORK) ? generation : 0;
    if (!p->unsettled)
        start_ends();
    if (pid < 0) {
        discard(p);
        errno = (int)-pid;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *capsule = PyCapsule_New(p, CAPSULE, forget_program);
    PyObject *child = capsule ? Py_BuildValue("liO", pid, pidfd, capsule) : NULL;
    int result = child ? PyList_Append(noted, child) : -1;      /* before a signal handler of Python's can run */
    if (result)
        take_back(pidfd);
    if (!capsule) {
        settle(p);
        discard(p);
    }
    Py_XDECREF(child);
    Py_XDECREF(capsule);
    if (result)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(outcome_doc, "outcome(program) -> (failed, errno, steps): what the child has reported so far.");
static PyObject *native_outcome(PyObject *self, PyObject *capsule)
{
    (void)self;
    struct program *p = PyCapsule_GetPointer(capsule, CAPSULE);
    return p ? report(p) : NULL;
}

PyDoc_STRVAR(settle_doc, "settle(program): its child, of CLONE_VM without CLONE_VFORK, has executed or is gone.");
static PyObject *native_settle(PyObject *self, PyObject *capsule)
{
    (void)self;
    struct program *p = PyCapsule_GetPointer(capsule, CAPSULE);
    if (!p)
        return NULL;
    settle(p);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(syscall_doc, "syscall(number, *args) -> int\n\n"
    "One system call; arguments are int, None (0), bytes (a pointer to them) or a writable buffer (likewise).\n"
    "The kernel's own result: a negative errno on failure, no exception.");
static PyObject *native_syscall(PyObject *self, PyObject *args)
{
    (void)self;
    Py_ssize_t count = PyTuple_Size(args);
    Py_buffer held[6];
    int holding = 0;
    long value[7] = {0}, result = -1;
    if (count < 1 || count > 7) {
        PyErr_SetString(PyExc_TypeError, "syscall takes a number and at most six arguments");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(args, i);
        if (item == Py_None && i > 0)
            continue;
        if (PyLong_Check(item)) {
            value[i] = (long)PyLong_AsUnsignedLongLongMask(item);
            if (PyErr_Occurred())
                goto done;
        } else if (i == 0) {
            PyErr_SetString(PyExc_TypeError, "the system call number must be an int");
            goto done;
        } else {
            if (PyObject_GetBuffer(item, &held[holding], PyBUF_SIMPLE))
                goto done;
            value[i] = (long)held[holding++].buf;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    result = raw(value[0], value[1], value[2], value[3], value[4], value[5], value[6]);
    Py_END_ALLOW_THREADS
done:
    while (holding)
        PyBuffer_Release(&held[--holding]);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(result);
}

static PyMethodDef methods[] = {
    {"syscall", native_syscall, METH_VARARGS, syscall_doc},
    {"create_files", native_create_files, METH_O, create_files_doc},
    {"bound", native_bound, METH_VARARGS, bound_doc},
    {"connected", native_connected, METH_VARARGS, connected_doc},
    {"message", native_message, METH_VARARGS, message_doc},
    {"send", native_send, METH_VARARGS, send_doc},
    {"set_option", native_set_option, METH_VARARGS, set_option_doc},
    {"exchange", native_exchange, METH_VARARGS, exchange_doc},
    {"flush", native_flush, METH_VARARGS, flush_doc},
    {"fcntl", native_fcntl, METH_VARARGS, fcntl_doc},
    {"flock", native_flock, METH_VARARGS, flock_doc},
    {"locked", native_locked, METH_VARARGS, locked_doc},
    {"poll", native_poll, METH_VARARGS, poll_doc},
    {"receive", native_receive, METH_VARARGS, receive_doc},
    {"socketpair", native_socketpair, METH_VARARGS, socketpair_doc},
    {"walk", native_walk, METH_VARARGS, walk_doc},
    {"spawn", native_spawn, METH_VARARGS, spawn_doc},
    {"outcome", native_outcome, METH_O, outcome_doc},
    {"settle", native_settle, METH_O, settle_doc},
    {"survey", native_survey, METH_VARARGS, survey_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "lamina.linux._native", "Walks lists of system calls; see lamina.linux.program.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    pthread_atfork(await_idle, NULL, forked);
    return PyModule_Create(&module);
}
