"""The source keeps its own rules, and the check that says so notices when it does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKER = ROOT / "scripts" / "check_source.py"

if not CHECKER.exists():
    pytest.skip("an installed package has no scripts/check_source.py", allow_module_level=True)

spec = importlib.util.spec_from_file_location("check_source", CHECKER)
check_source = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_source)


def test_this_tree_keeps_its_rules():
    assert check_source.problems(ROOT) == []


@pytest.fixture
def tree(tmp_path):
    """write(path, text) -> the problems of the small tree with this file in it."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return check_source.problems(tmp_path)

    return write


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bulkmail/wire/body.py", "from bulkmail.net import dial"),
        ("bulkmail/wire/body.py", "import bulkmail.smtp.session"),
        ("bulkmail/wire/body.py", "from bulkmail import job"),
        ("bulkmail/wire/body.py", "from .. import job"),
        ("bulkmail/wire/body.py", "def f():\n    from ..pool.pool import Pool\n"),
        ("bulkmail/net/proxies/http.py", "from ...smtp.session import Session"),
        ("bulkmail/wire/body.pxd", "from bulkmail.smtp.session cimport Session\n"),
        ("bulkmail/wire/body.pxd", "cimport bulkmail.job.detail\n"),
        ("bulkmail/wire/body.pxd", "from ..message cimport compiled\n"),
        ("bulkmail/message/mime.py", "from bulkmail.net.loop import run"),
        ("bulkmail/errors.py", "from bulkmail.url import Endpoint"),
    ],
)
def test_an_import_against_the_arrows_is_found(tree, path, text):
    (problem,) = tree(path, text)
    assert problem.startswith(path) and "must not import" in problem


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("bulkmail/wire/body.py", "from bulkmail.errors import E\nfrom . import reply\nfrom .reply import x"),
        ("bulkmail/job/job.py", "from ..message import compiled\nimport bulkmail.pool.pool\nimport jobs, os.path"),
        ("bulkmail/__init__.py", "from bulkmail.job.job import Job"),
        ("bulkmail/smtp/session.pxd", "from bulkmail.wire.client cimport Client\nfrom libc.string cimport memcpy\n"),
    ],
)
def test_an_import_along_the_arrows_is_let_pass(tree, path, text):
    assert tree(path, text) == []


def test_a_file_that_is_no_layer_is_found(tree):
    assert tree("bulkmail/helpers.py", "") == [
        "bulkmail/helpers.py: helpers is no layer; scripts/check_source.py has the table"
    ]


def test_a_long_file_is_found_and_what_cython_writes_is_not(tree):
    assert "501 lines" in tree("csrc/scalar.c", "\n" * 501)[0]
    tree("bulkmail/wire/body.pyi", "")
    tree("bulkmail/wire/body.pyx", "")
    assert not any("body.c" in problem for problem in tree("bulkmail/wire/body.c", "\n" * 501))


def test_a_module_without_a_stub_is_found(tree):
    assert tree("bulkmail/wire/body.pyx", "") == ["bulkmail/wire/body.pyx: no stub body.pyi beside it"]
