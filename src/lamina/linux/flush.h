/* Puts many files on the disk with one call from Python: see lamina/linux/flush.py, which says what and why. */
#ifndef LAMINA_FLUSH_H
#define LAMINA_FLUSH_H
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "apart.h"

enum { AT_ONCE = 16 };

struct flushed {
    int fd, error;
};

/* Writing begins, and what is in a file gets its place, before the first is waited for: so a journal has all in one commit.
 * A hint: what goes wrong is what fsync says, and a directory knows no such thing. */
static void begin_writing(const struct flushed *files, int count)
{
    for (int at = 0; at < count; at++)
        sync_file_range(files[at].fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static void flush_one(void *given, long at)
{
    struct flushed *file = (struct flushed *)given + at;
    int result;
    do
        result = fsync(file->fd);
    while (result < 0 && errno == EINTR);
    file->error = result < 0 ? errno : 0;
}

/* All in the one commit that the last of them waits for: see flush.py. Whether that was possible, or something failed. */
static int flush_in_one(struct flushed *files, int count)
{
    const unsigned written = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    int failed = 0;
    for (int at = 0; at < count; at++)
        if (sync_file_range(files[at].fd, 0, 0, written) < 0)
            failed = files[at].error = errno;
    if (failed)
        return 1;
    if (futimens(files[count - 1].fd, NULL) < 0)
        return 0;
    flush_one(files, count - 1);
    return 1;
}

PyDoc_STRVAR(flush_doc, "flush(fds, in_one=False): fsync(2) of each descriptor of a list, all of them at once. Raises OSError, when\n"
    "all have been tried, for the first of the list that failed. *in_one*: they are files of one file system, which has all\n"
    "that was changed before in the commit that one of them waits for.");
static PyObject *native_flush(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *fds;
    int in_one = 0;
    if (!PyArg_ParseTuple(args, "O|p", &fds, &in_one))
        return NULL;
    Py_ssize_t count = PyList_Size(fds);
    if (count < 0)
        return NULL;
    int error = 0;
    for (Py_ssize_t begin = 0; begin < count; begin += AT_ONCE) {
        struct flushed files[AT_ONCE] = {0};
        int some = count - begin < AT_ONCE ? (int)(count - begin) : AT_ONCE, done;
        for (int at = 0; at < some; at++) {
            PyObject *fd = PyList_GetItem(fds, begin + at);
            long number = fd == NULL ? -1 : PyLong_AsLong(fd);
            files[at].fd = (int)number;
            if (files[at].fd != number)
                PyErr_SetString(PyExc_OverflowError, "a descriptor is an int of C");
            if (PyErr_Occurred())
                return NULL;
        }
        Py_BEGIN_ALLOW_THREADS      /* where much is to be written, it waits for room in the disk's queue */
        begin_writing(files, some);
        done = in_one && flush_in_one(files, some);
        Py_END_ALLOW_THREADS
        for (int at = 0; at < some; at++)
            error = error ? error : files[at].error;
        if (done)
            continue;
        struct shared *shared = begin_apart(flush_one, files, some, 1, some - 1);
        if (shared == NULL)
            return PyErr_NoMemory();
        Py_BEGIN_ALLOW_THREADS
        finish_together(shared);
        Py_END_ALLOW_THREADS
        for (int at = 0; at < some; at++)
            error = error ? error : files[at].error;
    }
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}
#endif
