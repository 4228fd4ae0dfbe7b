/* Looks at many files with one call from Python: see lamina/linux/survey.py, which says what and why. */
#ifndef LAMINA_SURVEY_H
#define LAMINA_SURVEY_H
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { MOST_LOOKS = 16 };      /* files of one directory */

static int path_of(char path[PATH_MAX], const char *name, const char *file)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", name, file);
    if (length >= 0 && length < PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    return -1;
}

static char *in_digits(char *at, unsigned long long number)
{
    int highest = 60;
    while (highest > 0 && !(number >> highest))
        highest -= 4;
    for (int shift = highest; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[number >> shift & 15];
    return at;
}

static char *in_nanoseconds(char *at, struct timespec time)
{
    unsigned long long since = (unsigned long long)time.tv_sec * 1000000000 + (unsigned long long)time.tv_nsec;
    *at++ = ' ';
    if (time.tv_sec >= 0)       /* up to 2554: later than any file system of ours knows */
        return in_digits(at, since);
    *at++ = '-';
    return in_digits(at, -since);
}

/* What is to be known of directory/name/file, a new reference: None where there is nothing, NULL with an exception. */
static PyObject *looked_at(int directory, const char *name, const char *file)
{
    char path[PATH_MAX], said[4 * 20], *at = said;
    struct stat found;
    if (path_of(path, name, file) < 0)
        return NULL;
    if (fstatat(directory, path, &found, AT_SYMLINK_NOFOLLOW) == 0) {
        at = in_digits(at, found.st_ino);
        *at++ = ' ';
        at = in_digits(at, (unsigned long long)found.st_size);
        at = in_nanoseconds(at, found.st_mtim);
        at = in_nanoseconds(at, found.st_ctim);
        return PyUnicode_FromStringAndSize(said, at - said);
    }
    if (errno == ENOENT)
        Py_RETURN_NONE;
    return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
}

static PyObject *all_looked_at(int directory, PyObject *name, PyObject *files, Py_ssize_t enough)
{
    PyObject *found[MOST_LOOKS], *all = NULL;
    const char *text = PyBytes_AsString(name);
    Py_ssize_t count = PyTuple_Size(files), made = 0;
    int is_enough = 0;
    while (text != NULL && made < count && !is_enough) {
        const char *file = PyBytes_AsString(PyTuple_GetItem(files, made));
        PyObject *one = file == NULL ? NULL : looked_at(directory, text, file);
        if (one == NULL)
            break;
        is_enough = made == enough && one != Py_None;
        found[made++] = one;
    }
    if (!PyErr_Occurred() && (all = PyTuple_New(made)) != NULL)
        for (; made > 0; made--)
            PyTuple_SetItem(all, made - 1, found[made - 1]);
    while (made > 0)            /* there is an exception */
        Py_DECREF(found[--made]);
    return all;
}

/* A list of what `about` says of each of `names` and `what`, NULL with an exception. */
static PyObject *of_each(int directory, PyObject *names, PyObject *what, Py_ssize_t enough,
                         PyObject *(*about)(int, PyObject *, PyObject *, Py_ssize_t))
{
    Py_ssize_t count = PyList_Size(names);
    PyObject *all = count < 0 ? NULL : PyList_New(count);
    for (Py_ssize_t at = 0; all != NULL && at < count; at++) {
        PyObject *name = PyList_GetItem(names, at);
        PyObject *found = name == NULL ? NULL : about(directory, name, what, enough);
        if (found == NULL || PyList_SetItem(all, at, found) < 0) {
            Py_DECREF(all);
            return NULL;
        }
    }
    return all;
}

PyDoc_STRVAR(survey_doc, "survey(directory, names, files, enough) -> list\n\n"
    "Of each of names, a list of bytes: a tuple with what is known of each of files, a tuple of bytes, in the directory of\n"
    "that name below the descriptor directory: inode, size, mtime and ctime as text, or None. Where files[enough] is there,\n"
    "it is the last that is looked at. Raises OSError.");
static PyObject *native_survey(PyObject *self, PyObject *args)
{
    int directory;
    PyObject *names, *files;
    Py_ssize_t enough;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!O!n", &directory, &PyList_Type, &names, &PyTuple_Type, &files, &enough))
        return NULL;
    if (PyTuple_Size(files) > MOST_LOOKS) {
        PyErr_SetString(PyExc_ValueError, "too many files");
        return NULL;
    }
    return of_each(directory, names, files, enough, all_looked_at);
}

static PyObject *is_locked(int directory, PyObject *name, PyObject *file, Py_ssize_t unused)
{
    char path[PATH_MAX];
    const char *text = PyBytes_AsString(name), *last = PyBytes_AsString(file);
    (void)unused;
    if (text == NULL || last == NULL || path_of(path, text, last) < 0)
        return NULL;
    int lock = openat(directory, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (lock < 0 && errno == ENOENT)
        Py_RETURN_NONE;
    int taken = lock < 0 ? -1 : flock(lock, LOCK_SH | LOCK_NB), why = errno;
    if (taken == 0)             /* closing alone does not give it up while a child that was forked just now has a copy */
        flock(lock, LOCK_UN);
    if (lock >= 0)
        close(lock);
    if (taken < 0 && why != EWOULDBLOCK) {
        errno = why;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    }
    return PyBool_FromLong(taken < 0);
}

PyDoc_STRVAR(locked_doc, "locked(directory, names, file) -> list\n\n"
    "Of each of names, a list of bytes: whether anybody holds an exclusive flock on file, bytes, in the directory of that\n"
    "name below the descriptor directory; None where it is not there. Raises OSError.");
static PyObject *native_locked(PyObject *self, PyObject *args)
{
    int directory;
    PyObject *names, *file;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!O", &directory, &PyList_Type, &names, &file))
        return NULL;
    return of_each(directory, names, file, 0, is_locked);
}
#endif
