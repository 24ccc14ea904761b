/* The module _counter: what Python's allocators are asked for between start() and stop(), and marks for callgrind.
 *
 * Counted are calls of malloc, calloc and realloc for objects and for what they hold (PYMEM_DOMAIN_OBJ and _MEM), on any
 * thread. Not seen is what never reaches an allocator: objects out of a free list, and memory that C code takes from
 * libc itself. Both domains are used under the GIL, which guards the counters.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_STOP_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) ((void)(name))
#endif

/* By size, in steps of 16 bytes as Python's own allocator has them; the last counts all that are larger. */
enum { STEP = 16, SIZES = 33 };

static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_OBJ, PYMEM_DOMAIN_MEM};
enum { DOMAINS = sizeof(domains) / sizeof(domains[0]) };
static PyMemAllocatorEx real[DOMAINS];
static long long calls[SIZES];
static int counting;

static void count(size_t size)
{
    size_t place = size ? (size - 1) / STEP : 0;
    calls[place < SIZES ? place : SIZES - 1]++;
}

static void *count_malloc(void *real_one, size_t size)
{
    PyMemAllocatorEx *own = real_one;
    count(size);
    return own->malloc(own->ctx, size);
}

static void *count_calloc(void *real_one, size_t items, size_t size)
{
    PyMemAllocatorEx *own = real_one;
    count(items * size);
    return own->calloc(own->ctx, items, size);
}

static void *count_realloc(void *real_one, void *block, size_t size)
{
    PyMemAllocatorEx *own = real_one;
    count(size);
    return own->realloc(own->ctx, block, size);
}

static void pass_free(void *real_one, void *block)
{
    PyMemAllocatorEx *own = real_one;
    own->free(own->ctx, block);
}

static PyObject *start(PyObject *self, PyObject *none)
{
    if (counting) {
        PyErr_SetString(PyExc_RuntimeError, "it is counting already");
        return NULL;
    }
    for (int i = 0; i < DOMAINS; i++) {
        PyMem_GetAllocator(domains[i], &real[i]);
        PyMemAllocatorEx counter = {&real[i], count_malloc, count_calloc, count_realloc, pass_free};
        PyMem_SetAllocator(domains[i], &counter);
    }
    memset(calls, 0, sizeof(calls));
    counting = 1;
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *self, PyObject *none)
{
    if (!counting) {
        PyErr_SetString(PyExc_RuntimeError, "it is not counting");
        return NULL;
    }
    for (int i = 0; i < DOMAINS; i++)
        PyMem_SetAllocator(domains[i], &real[i]);
    counting = 0;
    PyObject *found = PyDict_New();
    for (int i = 0; found != NULL && i < SIZES; i++) {
        if (calls[i] == 0)
            continue;
        PyObject *size = PyLong_FromLong((i + 1) * STEP), *number = PyLong_FromLongLong(calls[i]);
        if (size == NULL || number == NULL || PyDict_SetItem(found, size, number) < 0)
            Py_CLEAR(found);
        Py_XDECREF(size);
        Py_XDECREF(number);
    }
    return found;
}

static PyObject *callgrind_start(PyObject *self, PyObject *none)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    Py_RETURN_NONE;
}

static PyObject *callgrind_stop(PyObject *self, PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL)
        return NULL;
    CALLGRIND_DUMP_STATS_AT(text);
    CALLGRIND_STOP_INSTRUMENTATION;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"start", start, METH_NOARGS, "Count from now on."},
    {"stop", stop, METH_NOARGS, "Stop counting. {size: calls}; the size is rounded up to 16 bytes, above 512 it is 528."},
    {"callgrind_start", callgrind_start, METH_NOARGS, "Under callgrind: count instructions from now on."},
    {"callgrind_stop", callgrind_stop, METH_O, "Under callgrind: stop, and dump what was counted under this name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_counter", NULL, -1, functions};

PyMODINIT_FUNC PyInit__counter(void) { return PyModule_Create(&module); }
