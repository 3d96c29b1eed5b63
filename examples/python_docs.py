"""Passages that every Python carries: standard-library docstrings and the language reference of `pydoc`.

    python examples/python_docs.py OUT.jsonl

One passage is a docstring or a part of one, at most 700 characters, with the object's full name as its title.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

from shortlist.text import split_passages

# Modules people ask about; importing all of the standard library would start GUIs and open browsers.
MODULES = (
    "argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections collections.abc concurrent.futures "
    "configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis email.message enum fileinput "
    "fnmatch fractions ftplib functools gc getpass glob graphlib gzip hashlib heapq hmac html html.parser http.client "
    "http.cookies http.server imaplib importlib importlib.metadata inspect io ipaddress itertools json keyword linecache "
    "locale logging logging.handlers lzma mailbox math mimetypes mmap multiprocessing multiprocessing.pool "
    "multiprocessing.shared_memory netrc numbers operator optparse os os.path pathlib pdb pickle pickletools pkgutil "
    "platform plistlib poplib pprint profile pstats queue random re reprlib sched secrets select selectors shelve shlex "
    "shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess "
    "symtable sys sysconfig tarfile tempfile textwrap threading time timeit tokenize trace traceback tracemalloc types "
    "typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid venv warnings wave weakref webbrowser "
    "wsgiref.util xml.dom.minidom xml.etree.ElementTree xml.sax xmlrpc.client zipapp zipfile zipimport zlib zoneinfo "
    "builtins"
).split()


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(full name, docstring) of a module, its public classes and functions, and the classes' public methods."""
    yield module.__name__, inspect.getdoc(module) or ""
    for name, thing in inspect.getmembers(module, lambda t: inspect.isclass(t) or inspect.isroutine(t)):
        if name.startswith("_"):
            continue
        full = f"{module.__name__}.{name}"
        yield full, inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            for method, member in inspect.getmembers(thing, inspect.isroutine):
                if not method.startswith("_") and method in vars(thing):
                    yield f"{full}.{method}", inspect.getdoc(member) or ""


def documents() -> Iterator[tuple[str, str]]:
    """(title, text) of every topic and docstring, each text once and long enough to say something."""
    seen: set[str] = set()
    for name, text in topics.items():
        yield f"Python language: {name}", text
    for name in MODULES:
        for title, doc in documented(import_module(name)):
            if len(doc) > 80 and doc not in seen:
                seen.add(doc)
                yield title, doc


def main(path: Path) -> int:
    """Write the passages and return how many."""
    count = 0
    with warnings.catch_warnings(), path.open("w", encoding="utf-8") as file:
        warnings.simplefilter("ignore")
        for title, text in documents():
            for number, part in enumerate(split_passages(text, max_chars=700, lang="en"), 1):
                file.write(json.dumps({"id": f"{title}#{number}", "title": title, "text": part, "lang": "en"}) + "\n")
                count += 1
    return count


if __name__ == "__main__":
    print(main(Path(sys.argv[1])), "passages")
