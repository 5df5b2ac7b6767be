"""Compiled chat templates, kept in the user's cache folder: compiling a released one takes 15 to 60 ms.

What is read from there is run. So a file counts only if it is the user's own, nobody else may write it, and it is whole
and belongs to exactly this source and to what would compile it; else the template is compiled again. Where Python is
told to write no bytecode, none is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import jinja2.bccache
import jinja2.compiler
import jinja2.ext
import jinja2.idtracking
import jinja2.lexer
import jinja2.nodes
import jinja2.optimizer
import jinja2.parser

from ..machine import cache_folder
from . import filters, sandbox

# An upgrade or an edit of one of these may change what a template is compiled to.
_COMPILER = (
    *(jinja2.compiler, jinja2.ext, jinja2.idtracking, jinja2.lexer, jinja2.nodes, jinja2.optimizer, jinja2.parser),
    *(filters, sandbox),
)
_OTHERS_MAY_WRITE = 0o022
_DIGEST = 32  # bytes


def compiled(source: str, make: Callable[[], CodeType]) -> CodeType:
    """What ``make`` compiles ``source`` to, from the cache folder if it is there. What ``make`` raises is raised; what
    is wrong with the folder is not."""
    folder = cache_folder("templates")
    if folder is None:
        return make()
    # One file for each template, so that upgrades replace it.
    text = source.encode("utf-8", "surrogatepass")
    path, subject = folder / f"{hashlib.sha256(text).hexdigest()[:32]}.code", _subject(text)
    code = _read(path, subject)
    if code is None:
        code = make()
        if not sys.dont_write_bytecode:
            _write(path, subject, code)
    return code


def _subject(source: bytes) -> bytes:
    """Digest of everything that the code depends on."""
    files = [os.stat(module.__file__) for module in _COMPILER if module.__file__]
    made_by = [(file.st_size, file.st_mtime_ns) for file in files]
    parts = (source, importlib.util.MAGIC_NUMBER, jinja2.bccache.bc_magic, sys.flags.optimize, made_by)
    return hashlib.sha256(repr(parts).encode()).digest()


def _read(path: Path, subject: bytes) -> CodeType | None:
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
                return None
            held = stream.read()
        code = held[2 * _DIGEST :]
        # Marshal does not survive damage, so the digest comes first.
        if held[: 2 * _DIGEST] != subject + hashlib.sha256(code).digest():
            return None
        found = marshal.loads(code)
    except (OSError, EOFError, ValueError, TypeError):
        return None
    return found if isinstance(found, CodeType) else None


def _write(path: Path, subject: bytes, code: CodeType) -> None:
    """Whole or not at all."""
    held = marshal.dumps(code)
    own = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, own = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # for its owner only
        with open(descriptor, "wb") as stream:
            stream.write(subject + hashlib.sha256(held).digest() + held)
        os.replace(own, path)
    except OSError:
        if own is not None:
            with contextlib.suppress(OSError):
                os.unlink(own)
