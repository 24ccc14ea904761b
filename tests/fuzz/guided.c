/* Runs a harness written in Python (fuzz.NAME_harness: run, mutate, MAX_INPUT) under libFuzzer. What is guided by coverage
 * are the Cython modules that the harness imports, where they are built with -fsanitize=fuzzer-no-link.
 *
 * FUZZ_HARNESS names the harness; scripts/fuzz builds and runs this. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static PyObject *run, *mutate;

/* The exception of Python is the finding: shown, then an abort that libFuzzer takes for one. */
static void *required(void *value) {
    if (value) return value;
    PyErr_Print();
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    Py_InitializeEx(0);
    PyGC_Disable(); /* nothing here goes in circles, and a leak would show in the memory taken */
    PyObject *harness = required(PyImport_ImportModule(getenv("FUZZ_HARNESS")));
    run = required(PyObject_GetAttrString(harness, "run"));
    mutate = required(PyObject_GetAttrString(harness, "mutate"));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *input = required(PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size));
    Py_DECREF((PyObject *)required(PyObject_CallOneArg(run, input)));
    Py_DECREF(input);
    return 0;
}

/* One of two: libFuzzer's own, of bytes, which knows what was compared; or the harness's, of lines and commands. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    if (seed & 1) return LLVMFuzzerMutate(data, size, max_size);
    PyObject *changed = required(
        PyObject_CallFunction(mutate, "y#In", (const char *)data, (Py_ssize_t)size, seed >> 1, (Py_ssize_t)max_size));
    size = (size_t)PyBytes_Size(changed);
    if (size > max_size) size = max_size;
    memcpy(data, PyBytes_AS_STRING(changed), size);
    Py_DECREF(changed);
    return size;
}
