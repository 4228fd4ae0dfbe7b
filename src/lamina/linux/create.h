/* Makes many small files with one call from Python: see lamina/linux/create.py, which says what and why. */
#ifndef LAMINA_CREATE_H
#define LAMINA_CREATE_H
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

enum { NOBODY = -1, OPEN, WRITE, FCHOWN, FCHMOD, FUTIMENS, CLOSE };  /* CALLS of create.py, in this order */

struct new_file {
    const char *name, *data;
    size_t length;
    int directory, mode, set_owner;
    uint32_t uid, gid;
    struct timespec times[2];
};

/* -1, or which call failed, with its errno in *error. A file that was made is left as far as it came. */
static int create_file(const struct new_file *f, int *error)
{
    int failed = NOBODY;
    long fd = raw(SYS_openat, f->directory, (long)f->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600, 0, 0);
    long result = fd;
    if (fd < 0) {
        *error = (int)-fd;
        return OPEN;
    }
    for (size_t done = 0; done < f->length; done += (size_t)result) {
        result = raw(SYS_write, fd, (long)(f->data + done), (long)(f->length - done), 0, 0, 0);
        if (result == -EINTR)
            result = 0;
        else if (result <= 0) {
            failed = WRITE;
            result = result ? result : -ENOSPC;
            break;
        }
    }
    if (failed == NOBODY && f->set_owner && (result = raw(SYS_fchown, fd, f->uid, f->gid, 0, 0, 0)) < 0)
        failed = FCHOWN;
    if (failed == NOBODY && f->mode != 0600 && (result = raw(SYS_fchmod, fd, f->mode, 0, 0, 0, 0)) < 0)
        failed = FCHMOD;
    if (failed == NOBODY && (result = raw(SYS_utimensat, fd, 0, (long)f->times, 0, 0, 0)) < 0)
        failed = FUTIMENS;
    if (failed != NOBODY)
        *error = (int)-result;
    result = raw(SYS_close, fd, 0, 0, 0, 0, 0);
    if (failed == NOBODY && result < 0 && result != -EINTR) {       /* NFS and quotas say so here */
        failed = CLOSE;
        *error = (int)-result;
    }
    return failed;
}

PyDoc_STRVAR(create_files_doc, "create_files(files) -> (made, call, errno)\n\n"
    "files: a list of (directory, name, mode, uid, gid, seconds, nanoseconds, data). Makes one after the other until one\n"
    "fails; made is how many were, call which call failed (-1: none). uid and gid of -1 both: they are not set.");
static PyObject *native_create_files(PyObject *self, PyObject *files)
{
    (void)self;
    if (!PyList_Check(files))
        return PyErr_Format(PyExc_TypeError, "create_files takes a list");
    PyObject *own = PyList_GetSlice(files, 0, PyList_Size(files)); /* another thread may change that one meanwhile */
    if (!own)
        return NULL;
    Py_ssize_t count = PyList_Size(own), held = 0, made = 0;
    struct new_file *list = PyMem_Calloc((size_t)count + 1, sizeof *list);
    Py_buffer *buffers = PyMem_Calloc((size_t)count + 1, sizeof *buffers);
    PyObject *result = NULL;
    int failed = NOBODY, error = 0;
    if (!list || !buffers) {
        PyErr_NoMemory();
        goto done;
    }
    for (; held < count; held++) {
        struct new_file *f = &list[held];
        PyObject *item = PyList_GetItem(own, held);
        long long uid, gid, seconds;
        long nanoseconds;
        if (!item || !PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "a file to create is a tuple");
            goto done;
        }
        if (!PyArg_ParseTuple(item, "iyiLLLly*", &f->directory, &f->name, &f->mode, &uid, &gid, &seconds, &nanoseconds,
                              &buffers[held]))
            goto done;
        f->data = buffers[held].buf;
        f->length = (size_t)buffers[held].len;
        f->set_owner = uid != -1 || gid != -1;
        f->uid = (uint32_t)uid;
        f->gid = (uint32_t)gid;
        f->times[0] = f->times[1] = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = nanoseconds};
    }
    Py_BEGIN_ALLOW_THREADS
    while (made < count && (failed = create_file(&list[made], &error)) == NOBODY)
        made++;
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("nii", made, failed, error);
done:
    while (held)
        PyBuffer_Release(&buffers[--held]);
    PyMem_Free(list);
    PyMem_Free(buffers);
    Py_DECREF(own);
    return result;
}

#endif
