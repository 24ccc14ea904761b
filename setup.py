"""Builds the Cython modules and the C kernels. Everything else is in pyproject.toml.

BULKMAIL_DEBUG_BUILD=1   assertions, bounds checks, AddressSanitizer and UBSan (scripts/sanitize preloads libasan)
BULKMAIL_EXT=a,b         build only these modules, such as wire.body
"""

import multiprocessing
import os
import sys
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("BULKMAIL_DEBUG_BUILD") == "1"
JOBS = os.cpu_count() or 1

# Every .pyx is a module; these link C sources besides their own.
MODULES = {".".join(path.with_suffix("").parts[1:]): path.as_posix() for path in Path("bulkmail").rglob("*.pyx")}
LINKS = {"wire.body": sorted(glob("csrc/*.c"))}

if sys.platform == "win32":
    FLAGS, LINK_FLAGS = ["/O2", "/W3"], []
elif DEBUG:
    FLAGS = ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK_FLAGS = ["-fsanitize=address,undefined"]
else:
    FLAGS, LINK_FLAGS = ["-O3", "-g0", "-DNDEBUG", "-fvisibility=hidden"], []
if sys.platform != "win32":
    # Cython's own output has unused functions and parameters; the rest must be clean, ours and its.
    FLAGS += ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]

wanted = set(filter(None, os.environ.get("BULKMAIL_EXT", "").split(","))) or set(MODULES)
if not wanted <= set(MODULES):
    sys.exit(f"BULKMAIL_EXT: no bulkmail/**/*.pyx is called {', '.join(sorted(wanted - set(MODULES)))}")
extensions = [
    Extension(
        f"bulkmail.{name}",
        [MODULES[name], *LINKS.get(name, [])],
        include_dirs=["csrc"],
        depends=glob("csrc/*.h"),
        extra_compile_args=FLAGS,
        extra_link_args=LINK_FLAGS,
    )
    for name in sorted(wanted)
]

setup(
    ext_modules=cythonize(
        extensions,
        # Where processes are not forked, a worker would import this file again and start a build of its own.
        nthreads=JOBS if multiprocessing.get_start_method() == "fork" else 0,
        # The directives differ, so the C of the two builds is kept apart.
        build_dir="build/debug" if DEBUG else None,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "embedsignature": True,
        },
    ),
    options={"build_ext": {"parallel": JOBS}},
)
