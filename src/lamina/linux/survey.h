/* Looks at many files with one call from Python: see lamina/linux/survey.py, which says what and why. */
#ifndef LAMINA_SURVEY_H
#define LAMINA_SURVEY_H
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "apart.h"

enum { MOST_LOOKS = 16 };      /* files of one directory */
enum { PIECE = 32, WORTH_A_THREAD = 128 };      /* directories: taken at once; from how many on two threads look */

/* What was found of one file: `error` is that of errno(3), and ENOENT where there is none. */
struct found {
    int error, is_held;
    unsigned long long inode, size;
    struct timespec content, itself;
};

/* What is asked of many directories, and what was found: of each directory `count` files, one after the other. */
struct asked {
    void (*ask)(const struct asked *, const char *name, struct found *);
    int directory;
    Py_ssize_t directories, count, enough;
    const char **names, *files[MOST_LOOKS];
    struct found *found;
};

static int path_of(char path[PATH_MAX], const char *name, const char *file)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", name, file);
    return length >= 0 && length < PATH_MAX ? 0 : ENAMETOOLONG;
}

static void look(const struct asked *asked, const char *name, struct found *found)
{
    for (Py_ssize_t at = 0; at < asked->count; at++, found++) {
        char path[PATH_MAX];
        struct stat stat;
        found->error = path_of(path, name, asked->files[at]);
        if (!found->error && fstatat(asked->directory, path, &stat, AT_SYMLINK_NOFOLLOW) < 0)
            found->error = errno;
        if (found->error)
            continue;
        found->inode = stat.st_ino;
        found->size = (unsigned long long)stat.st_size;
        found->content = stat.st_mtim;
        found->itself = stat.st_ctim;
        if (at == asked->enough)
            break;
    }
}

static void try_lock(const struct asked *asked, const char *name, struct found *found)
{
    char path[PATH_MAX];
    if ((found->error = path_of(path, name, asked->files[0])))
        return;
    int lock = openat(asked->directory, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int taken = lock < 0 ? -1 : flock(lock, LOCK_SH | LOCK_NB), why = errno;
    if (taken == 0)             /* closing alone does not give it up while a child that was forked just now has a copy */
        flock(lock, LOCK_UN);
    if (lock >= 0)
        close(lock);
    found->is_held = lock >= 0 && taken < 0 && why == EWOULDBLOCK;
    found->error = taken < 0 && !found->is_held ? why : 0;
}

static void ask_one(void *given, long at)
{
    struct asked *asked = given;
    asked->ask(asked, asked->names[at], &asked->found[at * asked->count]);
}

/* The kernel's part, without Python: by two where there is much of it. -1: no memory. */
static int ask_all(struct asked *asked)
{
    if (asked->directories >= WORTH_A_THREAD) {
        struct shared *shared = begin_apart(ask_one, asked, asked->directories, PIECE, 1);
        if (shared == NULL)
            return -1;
        finish_together(shared);
        return 0;
    }
    for (Py_ssize_t at = 0; at < asked->directories; at++)
        ask_one(asked, at);
    return 0;
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

static PyObject *failed(const struct asked *asked, Py_ssize_t directory, Py_ssize_t file, int error)
{
    char path[PATH_MAX];
    int is_whole = path_of(path, asked->names[directory], asked->files[file]) == 0;
    errno = error;
    return PyErr_SetFromErrnoWithFilename(PyExc_OSError, is_whole ? path : asked->names[directory]);
}

/* A new reference, NULL with an exception, as all that follow. */
static PyObject *said_of_look(const struct found *found)
{
    char said[4 * 20], *at = said;
    if (found->error)
        Py_RETURN_NONE;
    at = in_digits(at, found->inode);
    *at++ = ' ';
    at = in_digits(at, found->size);
    at = in_nanoseconds(at, found->content);
    at = in_nanoseconds(at, found->itself);
    return PyUnicode_FromStringAndSize(said, at - said);
}

static PyObject *said_of_looks(const struct asked *asked, Py_ssize_t directory)
{
    const struct found *found = &asked->found[directory * asked->count];
    int is_enough = asked->enough >= 0 && asked->enough < asked->count && !found[asked->enough].error;
    Py_ssize_t count = is_enough ? asked->enough + 1 : asked->count;
    PyObject *all = PyTuple_New(count);
    for (Py_ssize_t at = 0; all != NULL && at < count; at++) {
        int error = found[at].error;
        PyObject *one = error && error != ENOENT ? failed(asked, directory, at, error) : said_of_look(&found[at]);
        if (one == NULL || PyTuple_SetItem(all, at, one) < 0)
            Py_CLEAR(all);
    }
    return all;
}

static PyObject *said_of_lock(const struct asked *asked, Py_ssize_t directory)
{
    const struct found *found = &asked->found[directory];
    if (found->error == ENOENT)
        Py_RETURN_NONE;
    return found->error ? failed(asked, directory, 0, found->error) : PyBool_FromLong(found->is_held);
}

/* What is in a bytes object, as long as that is there; NULL with an exception. */
static const char *path_in(PyObject *bytes)
{
    char *path;
    return bytes != NULL && PyBytes_AsStringAndSize(bytes, &path, NULL) == 0 ? path : NULL;   /* without a null byte */
}

/* A list of what `said` makes of each of `names`, a list of bytes. */
static PyObject *of_each(struct asked *asked, PyObject *names, PyObject *(*said)(const struct asked *, Py_ssize_t))
{
    /* a list of our own: another thread may change that one meanwhile */
    PyObject *own = PyList_GetSlice(names, 0, PyList_Size(names)), *all = NULL;
    if (own == NULL)
        return NULL;
    asked->directories = PyList_Size(own);
    size_t count = (size_t)asked->directories;
    asked->names = PyMem_Calloc(count, sizeof *asked->names);
    asked->found = PyMem_Calloc(count * (size_t)asked->count, sizeof *asked->found);
    if (asked->names == NULL || asked->found == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t at = 0; !PyErr_Occurred() && at < asked->directories; at++)
        asked->names[at] = path_in(PyList_GetItem(own, at));
    if (!PyErr_Occurred()) {
        int result;
        Py_BEGIN_ALLOW_THREADS
        result = ask_all(asked);
        Py_END_ALLOW_THREADS
        all = result < 0 ? PyErr_NoMemory() : PyList_New(asked->directories);
    }
    for (Py_ssize_t at = 0; all != NULL && at < asked->directories; at++) {
        PyObject *one = said(asked, at);
        if (one == NULL || PyList_SetItem(all, at, one) < 0)
            Py_CLEAR(all);
    }
    PyMem_Free(asked->names);
    PyMem_Free(asked->found);
    Py_DECREF(own);
    return all;
}

PyDoc_STRVAR(survey_doc, "survey(directory, names, files, enough) -> list\n\n"
    "Of each of names, a list of bytes: a tuple with what is known of each of files, a tuple of bytes, in the directory of\n"
    "that name below the descriptor directory: inode, size, mtime and ctime as text, or None. Where files[enough] is there,\n"
    "it is the last that is looked at. Raises OSError.");
static PyObject *native_survey(PyObject *self, PyObject *args)
{
    struct asked asked = {.ask = look};
    PyObject *names, *files;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!O!n", &asked.directory, &PyList_Type, &names, &PyTuple_Type, &files, &asked.enough))
        return NULL;
    asked.count = PyTuple_Size(files);
    if (asked.count > MOST_LOOKS) {
        PyErr_SetString(PyExc_ValueError, "too many files");
        return NULL;
    }
    for (Py_ssize_t at = 0; at < asked.count; at++)
        if ((asked.files[at] = path_in(PyTuple_GetItem(files, at))) == NULL)
            return NULL;
    return of_each(&asked, names, said_of_looks);
}

PyDoc_STRVAR(locked_doc, "locked(directory, names, file) -> list\n\n"
    "Of each of names, a list of bytes: whether anybody holds an exclusive flock on file, bytes, in the directory of that\n"
    "name below the descriptor directory; None where it is not there. Raises OSError.");
static PyObject *native_locked(PyObject *self, PyObject *args)
{
    struct asked asked = {.ask = try_lock, .count = 1};
    PyObject *names, *file;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!O", &asked.directory, &PyList_Type, &names, &file))
        return NULL;
    if ((asked.files[0] = path_in(file)) == NULL)
        return NULL;
    return of_each(&asked, names, said_of_lock);
}
#endif
