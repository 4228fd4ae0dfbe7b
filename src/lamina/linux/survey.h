/* Looks at many files with one call from Python: see lamina/linux/survey.py, which says what and why. */
#ifndef LAMINA_SURVEY_H
#define LAMINA_SURVEY_H
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

static long long nanoseconds(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* What is to be known of directory/name/file, a new reference: None where there is nothing, NULL with an exception. */
static PyObject *looked_at(int directory, const char *name, const char *file)
{
    char path[PATH_MAX];
    struct stat found;
    int length = snprintf(path, sizeof path, "%s/%s", name, file);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    }
    if (fstatat(directory, path, &found, AT_SYMLINK_NOFOLLOW) == 0)
        return Py_BuildValue("(KLLL)", (unsigned long long)found.st_ino, (long long)found.st_size,
                             nanoseconds(found.st_mtim), nanoseconds(found.st_ctim));
    if (errno == ENOENT)
        Py_RETURN_NONE;
    return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
}

static PyObject *all_looked_at(int directory, PyObject *name, PyObject *files)
{
    const char *text = PyBytes_AsString(name);
    Py_ssize_t count = PyTuple_Size(files);
    PyObject *found = text == NULL || count < 0 ? NULL : PyTuple_New(count);
    for (Py_ssize_t at = 0; found != NULL && at < count; at++) {
        const char *file = PyBytes_AsString(PyTuple_GetItem(files, at));
        PyObject *one = file == NULL ? NULL : looked_at(directory, text, file);
        if (one == NULL || PyTuple_SetItem(found, at, one) < 0) {
            Py_DECREF(found);
            return NULL;
        }
    }
    return found;
}

PyDoc_STRVAR(survey_doc, "survey(directory, names, files) -> list\n\n"
    "Of each of names, a list of bytes: a tuple with what is known of each of files, a tuple of bytes, in the directory of\n"
    "that name below the descriptor directory: (inode, size, mtime, ctime), or None. Raises OSError.");
static PyObject *native_survey(PyObject *self, PyObject *args)
{
    int directory;
    PyObject *names, *files;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!O!", &directory, &PyList_Type, &names, &PyTuple_Type, &files))
        return NULL;
    Py_ssize_t count = PyList_Size(names);
    PyObject *all = count < 0 ? NULL : PyList_New(count);
    for (Py_ssize_t at = 0; all != NULL && at < count; at++) {
        PyObject *name = PyList_GetItem(names, at);
        PyObject *found = name == NULL ? NULL : all_looked_at(directory, name, files);
        if (found == NULL || PyList_SetItem(all, at, found) < 0) {
            Py_DECREF(all);
            return NULL;
        }
    }
    return all;
}
#endif
