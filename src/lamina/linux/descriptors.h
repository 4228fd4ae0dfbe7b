/* What the standard library has in extension modules of their own: see lamina/linux/descriptors.py, which says why. */
#ifndef LAMINA_DESCRIPTORS_H
#define LAMINA_DESCRIPTORS_H
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

enum { MOST_RIGHTS = 64 };

/* A call that may block: again when a signal interrupts it, unless its handler raises (PEP 475). Negative: raised. */
static long patient(long number, long a, long b, long c, long d, long e)
{
    long result;
    do {
        Py_BEGIN_ALLOW_THREADS
        result = raw(number, a, b, c, d, e, 0);
        Py_END_ALLOW_THREADS
    } while (result == -EINTR && !PyErr_CheckSignals());
    if (result < 0 && result != -EINTR) {
        errno = (int)-result;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return result;
}

PyDoc_STRVAR(fcntl_doc, "fcntl(fd, command, argument=0) -> int: fcntl(2), for commands that take a number.");
static PyObject *native_fcntl(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, command;
    long argument = 0;
    if (!PyArg_ParseTuple(args, "ii|l", &fd, &command, &argument))
        return NULL;
    long result = patient(SYS_fcntl, fd, command, argument, 0, 0);
    return result < 0 ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(flock_doc, "flock(fd, operation): flock(2).");
static PyObject *native_flock(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, operation;
    if (!PyArg_ParseTuple(args, "ii", &fd, &operation) || patient(SYS_flock, fd, operation, 0, 0, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(exchange_doc, "exchange(one, other): two files change their names: renameat2(2) with RENAME_EXCHANGE.");
static PyObject *native_exchange(PyObject *self, PyObject *args)
{
    (void)self;
    const char *one, *other;
    if (!PyArg_ParseTuple(args, "yy", &one, &other)
        || patient(SYS_renameat2, AT_FDCWD, (long)one, AT_FDCWD, (long)other, RENAME_EXCHANGE) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(poll_doc, "poll(wanted, milliseconds) -> list of (fd, events)\n\n"
    "poll(2) of a list of (fd, events); -1 waits for ever. Those of which something is to be told.");
static PyObject *native_poll(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *wanted, *told = NULL;
    long long milliseconds;
    if (!PyArg_ParseTuple(args, "O!L", &PyList_Type, &wanted, &milliseconds))
        return NULL;
    Py_ssize_t count = PyList_Size(wanted);
    struct pollfd *entries = PyMem_Calloc((size_t)count + 1, sizeof *entries);
    if (!entries)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GetItem(wanted, i);
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "poll takes a list of (fd, events)");
            goto done;
        }
        if (!PyArg_ParseTuple(item, "ih", &entries[i].fd, &entries[i].events))
            goto done;
    }
    /* the kernel writes into it how much is left, so an interrupted call goes on where it was */
    struct timespec left = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    if (patient(SYS_ppoll, (long)entries, count, milliseconds < 0 ? 0 : (long)&left, 0, 0) < 0)
        goto done;
    told = PyList_New(0);
    for (Py_ssize_t i = 0; told && i < count; i++) {
        if (!entries[i].revents)
            continue;
        PyObject *pair = Py_BuildValue("ii", entries[i].fd, (int)entries[i].revents);
        if (!pair || PyList_Append(told, pair))
            Py_CLEAR(told);
        Py_XDECREF(pair);
    }
done:
    PyMem_Free(entries);
    return told;
}

PyDoc_STRVAR(socketpair_doc, "socketpair(type) -> (fd, fd): socketpair(2) of AF_UNIX, both ends close-on-exec.");
static PyObject *native_socketpair(PyObject *self, PyObject *args)
{
    (void)self;
    int type, ends[2];
    if (!PyArg_ParseTuple(args, "i", &type)
        || patient(SYS_socketpair, AF_UNIX, type | SOCK_CLOEXEC, 0, (long)ends, 0) < 0)
        return NULL;
    PyObject *told = Py_BuildValue("ii", ends[0], ends[1]);
    for (int i = 0; !told && i < 2; i++)
        raw(SYS_close, ends[i], 0, 0, 0, 0, 0);
    return told;
}

/* All of the descriptors of a message into a list, or, with none, closed. 0, or -1 with an exception. */
static int each_right(struct msghdr *message, PyObject *list)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int one;
            memcpy(&one, CMSG_DATA(part) + i * sizeof one, sizeof one);
            if (!list) {
                raw(SYS_close, one, 0, 0, 0, 0, 0);
                continue;
            }
            PyObject *number = PyLong_FromLong(one);
            int result = number ? PyList_Append(list, number) : -1;
            Py_XDECREF(number);
            if (result)
                return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(receive_doc, "receive(fd, most) -> (list of descriptors, whether there were more)\n\n"
    "recvmsg(2) of one byte, and of up to `most` descriptors that came with it, close-on-exec.");
static PyObject *native_receive(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, most;
    if (!PyArg_ParseTuple(args, "ii", &fd, &most))
        return NULL;
    if (most < 1 || most > MOST_RIGHTS) {
        PyErr_SetString(PyExc_ValueError, "receive takes 1 to 64 descriptors");
        return NULL;
    }
    char byte, control[CMSG_SPACE(MOST_RIGHTS * sizeof(int))] __attribute__((aligned(8)));
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
        .msg_controllen = CMSG_SPACE((size_t)most * sizeof(int))};
    if (patient(SYS_recvmsg, fd, (long)&message, MSG_CMSG_CLOEXEC, 0, 0) < 0)
        return NULL;
    PyObject *received = PyList_New(0), *told = NULL;
    if (received && each_right(&message, received) == 0)
        told = Py_BuildValue("OO", received, message.msg_flags & MSG_CTRUNC ? Py_True : Py_False);
    if (!told)
        each_right(&message, NULL);     /* nobody else knows of them */
    Py_XDECREF(received);
    return told;
}
#endif
