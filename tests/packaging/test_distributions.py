"""What others get: an sdist that holds everything, a wheel that builds from it, an installation that imports."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# What stands in the tree beside the sources and belongs into no distribution.
LEFT_OVERS = {".so", ".pyd", ".pyc"}
SOURCE_FOLDERS = ("bulkmail", "csrc", "tests", "benchmarks", "scripts", "examples", "docs")
# What a wheel leaves out: it is compiled.
COMPILED = {".pyx", ".pxi", ".c"}


def command(*arguments, cwd):
    done = subprocess.run([str(part) for part in arguments], cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def sources(root, folders):
    """The files under `folders` that people wrote, as paths relative to root."""
    for folder in folders:
        for file in (root / folder).rglob("*"):
            generated = file.suffix in LEFT_OVERS or (file.suffix == ".c" and file.with_suffix(".pyx").exists())
            if file.is_file() and not generated and "__pycache__" not in file.parts:
                yield file.relative_to(root).as_posix()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist of this tree, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    command(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, cwd=ROOT)
    (archive,) = out.glob("bulkmail-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")
    return out / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """A wheel that was built from the sdist alone."""
    out = tmp_path_factory.mktemp("wheel")
    command(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=sdist)
    (made,) = out.glob("bulkmail-*.whl")
    return made


def test_the_sdist_holds_every_source_and_nothing_that_was_built(sdist):
    held = {file.relative_to(sdist).as_posix() for file in sdist.rglob("*") if file.is_file()}
    assert set(sources(ROOT, SOURCE_FOLDERS)) - held == set()
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "setup.py", "pyproject.toml"} <= held
    built = {name for name in held if Path(name).suffix in LEFT_OVERS}
    built |= {name for name in held if name.startswith("bulkmail/") and name.endswith(".c")}
    assert built == set()


def test_the_wheel_holds_the_package_compiled_and_nothing_else(sdist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    written = {name for name in sources(sdist, ["bulkmail"]) if Path(name).suffix not in COMPILED}
    assert written - held == set()
    modules = {str(Path(name).with_suffix("")) for name in sources(sdist, ["bulkmail"]) if name.endswith(".pyx")}
    compiled = {name.split(".")[0] for name in held if name.endswith((".so", ".pyd"))}
    assert compiled == modules
    assert {name for name in held - written if not name.endswith((".so", ".pyd"))} == set()


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter with the wheel installed. Its dependencies are those of the interpreter that runs the tests."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, system_site_packages=False)
    python = home / "bin" / "python"
    site = command(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    command(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=home)
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (Path(site) / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return python


def test_the_installed_wheel_imports_and_has_its_command(python, tmp_path):
    where = command(python, "-c", "import bulkmail; print(bulkmail.__file__)", cwd=tmp_path)
    assert where.startswith(str(python.parents[1]))
    names = "import bulkmail; [getattr(bulkmail, name) for name in bulkmail.__all__]; print(len(bulkmail.__all__))"
    assert int(command(python, "-c", names, cwd=tmp_path)) > 10
    assert "send" in command(python, "-m", "bulkmail", "--help", cwd=tmp_path)


def test_the_installed_wheel_gives_pytest_its_fixture(python, tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(smtp_sink):\n    assert smtp_sink.url.startswith('smtp://')\n")
    options = ["-q", "--strict-markers", "-W", "error::ResourceWarning", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    assert "1 passed" in command(python, "-m", "pytest", *options, cwd=tmp_path)
