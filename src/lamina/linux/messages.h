/* Sockets of this machine, and what is said by them: see lamina/linux/messages.py, which says why. */
#ifndef LAMINA_MESSAGES_H
#define LAMINA_MESSAGES_H
#include <sys/un.h>
#include "descriptors.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 4     /* linux/socket.h, since Linux 6.5 */
#endif

/* Room for everything that may come beside one message. Where something else does not come, the kernel fills it with
 * descriptors that nobody has asked for. */
enum { CREDENTIALS = sizeof(int[3]), ROOM = CMSG_SPACE(MOST_RIGHTS * sizeof(int)) + CMSG_SPACE(CREDENTIALS) + CMSG_SPACE(sizeof(int)) };

static PyObject *made_at(PyObject *args, long call)
{
    int type;
    const char *path;
    Py_ssize_t length;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!PyArg_ParseTuple(args, "iy#", &type, &path, &length))
        return NULL;
    /* none at all is the name of an abstract socket, which anybody may have (unix(7)) */
    if (!length || length >= (Py_ssize_t)sizeof address.sun_path || memchr(path, 0, (size_t)length)) {
        PyErr_SetString(PyExc_ValueError, "the path of a socket has 1 to 107 bytes, and no null");
        return NULL;
    }
    memcpy(address.sun_path, path, (size_t)length);
    long fd = patient(SYS_socket, AF_UNIX, type | SOCK_CLOEXEC, 0, 0, 0);
    if (fd < 0)
        return NULL;
    if (patient(call, fd, (long)&address, sizeof address, 0, 0) < 0) {
        close((int)fd);
        return NULL;
    }
    return PyLong_FromLong(fd);
}

PyDoc_STRVAR(bound_doc, "bound(type, path) -> fd: a new socket of AF_UNIX at *path*, close-on-exec. socket(2), bind(2)");
static PyObject *native_bound(PyObject *self, PyObject *args)
{
    (void)self;
    return made_at(args, SYS_bind);
}

PyDoc_STRVAR(connected_doc, "connected(type, path) -> fd: a new socket of AF_UNIX, close-on-exec, that is connected to the\n"
    "one at *path*. socket(2), connect(2)");
static PyObject *native_connected(PyObject *self, PyObject *args)
{
    (void)self;
    return made_at(args, SYS_connect);
}

PyDoc_STRVAR(set_option_doc, "set_option(fd, option, number): setsockopt(2) at SOL_SOCKET.");
static PyObject *native_set_option(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, option, number;
    if (!PyArg_ParseTuple(args, "iii", &fd, &option, &number)
        || patient(SYS_setsockopt, fd, SOL_SOCKET, option, (long)&number, sizeof number) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc, "send(fd, data, descriptors=()) -> int\n\n"
    "sendmsg(2) of bytes, and of a tuple of descriptors beside them; how many bytes went. Nobody is killed by SIGPIPE.");
static PyObject *native_send(PyObject *self, PyObject *args)
{
    (void)self;
    int fd;
    Py_buffer data;
    PyObject *descriptors = NULL;
    if (!PyArg_ParseTuple(args, "iy*|O!", &fd, &data, &PyTuple_Type, &descriptors))
        return NULL;
    char control[CMSG_SPACE(MOST_RIGHTS * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec bytes = {.iov_base = data.buf, .iov_len = (size_t)data.len};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    Py_ssize_t count = descriptors ? PyTuple_Size(descriptors) : 0;
    long sent = -1;
    if (count > MOST_RIGHTS) {
        PyErr_SetString(PyExc_ValueError, "send takes at most 64 descriptors");
        goto done;
    }
    if (count) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        *part = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
            .cmsg_len = CMSG_LEN((size_t)count * sizeof(int))};
        for (Py_ssize_t i = 0; i < count; i++) {
            long number = PyLong_AsLong(PyTuple_GetItem(descriptors, i));
            int one = (int)number;
            if (one != number)
                PyErr_SetString(PyExc_OverflowError, "a descriptor is an int of C");
            if (PyErr_Occurred())
                goto done;
            memcpy(CMSG_DATA(part) + (size_t)i * sizeof one, &one, sizeof one);
        }
    }
    sent = patient(SYS_sendmsg, fd, (long)&message, MSG_NOSIGNAL, 0, 0);
done:
    PyBuffer_Release(&data);
    return sent < 0 ? NULL : PyLong_FromLong(sent);
}

static size_t count_of(const struct cmsghdr *part)
{
    return (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

static int number_at(struct cmsghdr *part, size_t i)
{
    int one;
    memcpy(&one, CMSG_DATA(part) + i * sizeof one, sizeof one);
    return one;
}

/* The first numbers of a part, as a tuple. */
static PyObject *numbers_of(struct cmsghdr *part, size_t count)
{
    PyObject *all = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; all && i < count; i++) {
        PyObject *number = PyLong_FromLong(number_at(part, i));
        if (!number || PyTuple_SetItem(all, (Py_ssize_t)i, number))
            Py_CLEAR(all);
    }
    return all;
}

/* Close what nobody is given: descriptors beyond *most*; if nothing is *given*, all. Closing may take its time. */
static void close_rest(struct msghdr *message, size_t most, int given)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        int are_rights = part->cmsg_type == SCM_RIGHTS;
        if (part->cmsg_level != SOL_SOCKET || !(are_rights || (part->cmsg_type == SCM_PIDFD && !given)))
            continue;
        for (size_t i = given ? most : 0; i < count_of(part); i++)
            if (number_at(part, i) >= 0)
                close(number_at(part, i));
    }
}

PyDoc_STRVAR(message_doc, "message(fd, size, most, flags=0) -> (bytes, descriptors, credentials, pidfd, whether something is missing)\n\n"
    "recvmsg(2) of at most *size* bytes and *most* descriptors, close-on-exec: a tuple of these (more are closed, and are\n"
    "missing); and what a socket with SO_PASSCRED and SO_PASSPIDFD is told of the sender: its (pid, uid, gid), and a tuple\n"
    "of one descriptor of it (or of a negative number). None each where nothing was told.");
static PyObject *native_message(PyObject *self, PyObject *args)
{
    (void)self;
    int fd, most, flags = 0, missing = 0;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "ini|i", &fd, &size, &most, &flags))
        return NULL;
    if (most < 0 || most > MOST_RIGHTS || size < 0) {
        PyErr_SetString(PyExc_ValueError, "message takes a size, and 0 to 64 descriptors");
        return NULL;
    }
    char control[ROOM] __attribute__((aligned(8)));
    char *buffer = PyMem_Malloc((size_t)size + 1);
    if (!buffer)
        return PyErr_NoMemory();
    struct iovec bytes = {.iov_base = buffer, .iov_len = (size_t)size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control,
        .msg_controllen = (most ? CMSG_SPACE((size_t)most * sizeof(int)) : 0) + CMSG_SPACE(CREDENTIALS) + CMSG_SPACE(sizeof(int))};
    PyObject *told = NULL, *rights = NULL, *credentials = NULL, *pidfd = NULL;
    long got = patient(SYS_recvmsg, fd, (long)&message, flags | MSG_CMSG_CLOEXEC, 0, 0);
    if (got < 0)
        goto done;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        PyObject **which = part->cmsg_level != SOL_SOCKET ? NULL : part->cmsg_type == SCM_RIGHTS ? &rights
            : part->cmsg_type == SCM_CREDENTIALS ? &credentials : part->cmsg_type == SCM_PIDFD ? &pidfd : NULL;
        size_t count = count_of(part);
        if (which == &rights && count > (size_t)most) {
            count = (size_t)most;
            missing = 1;
        }
        if (which && !*which && !(*which = numbers_of(part, count)))
            goto received;
    }
    missing |= message.msg_flags & MSG_CTRUNC;
    told = Py_BuildValue("y#OOOO", buffer, (Py_ssize_t)got, rights ? rights : Py_None,
        credentials ? credentials : Py_None, pidfd ? pidfd : Py_None, missing ? Py_True : Py_False);
received:
    if (missing || !told) {
        Py_BEGIN_ALLOW_THREADS
        close_rest(&message, (size_t)most, told != NULL);
        Py_END_ALLOW_THREADS
    }
done:
    Py_XDECREF(rights);
    Py_XDECREF(credentials);
    Py_XDECREF(pidfd);
    PyMem_Free(buffer);
    return told;
}
#endif
