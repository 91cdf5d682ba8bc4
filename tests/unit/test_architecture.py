"""The rules of the layout: which module may import which, how long files and functions may be.

A new module needs no entry here unless it reaches the system or is a new package.
"""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import uvloop.loop

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "src" / "carp_fast"
PACKAGE = ROOT / "carp_fast"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70


def of(package: str, names: str) -> tuple[str, ...]:
    """Modules of a package, by their names within it."""
    return tuple(f"{package}.{name}" for name in names.split())


def dotted(path: Path, top: Path) -> str:
    """The name of a module's source below a directory: "package.module"."""
    return ".".join(path.relative_to(top).with_suffix("").parts)


# Compiled modules that reach a socket, clock or thread. All others are pure: frames and the time
# come in as arguments, so that the same code runs in the pump, in tests and in simulated time.
WITH_SYSTEM = (
    of(
        "pump",
        "_socket _netlink _promotion _existing _changes _requests _clones _environment _freezing"
        " _thread _pump",
    )
    + of("bench", "_floor")
    + of("loadtest", "_sink _flood")
)
COMPILED = tuple(sorted(dotted(path, SOURCES) for path in SOURCES.rglob("*.pyx")))
PURE = tuple(name for name in COMPILED if name not in WITH_SYSTEM)
# Python modules of plain classes and rows, which compiled ones make and read: they know msgspec and
# nothing of ours.
PLAIN = of("engine", "actions copies keys reports states tallied") + of("pump", "facts")
# Headers of ours that a pure module may include, none of the system's.
PURE_HEADERS = {"sha1.h", "atomic.h", "random.h", "foresee.h"}
# "cython" is the compiler's: directives, nothing that is linked; "cpython.buffer" gives the bytes
# of an object, and "array" is one that holds plain numbers.
PURE_LIBC = {
    *("libc.stdint", "libc.stdlib", "libc.string", "libc.errno", "libc.math"),
    *("cython", "cpython.buffer", "array"),
}

# The packages: each imports only from itself, from those before it, and from modules in none, which
# know nothing. Compiled and Python modules of one name are one package.
ENTRANCES = {"__main__"}
IN_NO_PACKAGE = ENTRANCES | {
    *("capabilities", "closing", "errors", "inet", "inotify", "signals", "standard")
}
PACKAGES: tuple[str, ...] = (
    "engine",
    "pump",
    "config",
    "control",
    "metrics",
    "bpf",
    "net",
    "simulate",
    "capture",
    "replay",
    "lab",
    "bench",
    "programs",
    "privileged",
    "tracking",
    "daemon",
    "loadtest",
    "ucarp",
    "cli",
)
# What imports from a package after its own, for types alone.
TYPES_ONLY = {("replay.recording", "daemon.table"), ("replay.recording", "daemon.orders")}
# Libraries that cost memory or belong to one place, and who may import them at all.
LIBRARIES: dict[str, set[str]] = {
    "click": {
        "cli.bench",
        "cli.main",
        "cli.demote",
        "cli.dump",
        "cli.events",
        "cli.explain",
        "cli.flood",
        "cli.hand_over",
        "cli.interrupts",
        "cli.maintenance",
        "cli.masters",
        "cli.replay",
        "cli.upgrade",
        "cli.watch",
    }
    | {
        "cli.check",
        "cli.sink",
        "cli.status",
        "cli.trial",
        "cli.terminal",
        "cli.conflicts",
        "cli.flood_options",
    },
    "rich": {"cli.bench", "cli.main", "cli.terminal", "lab.demo", "lab.observer", "bench.run"},
    "h11": {"metrics.connection"},
    "prometheus_client": {"metrics.collector"},
    "pyroute2": {
        "net.monitor",
        "net.addresses",
        "net.interfaces",
        "lab.lab",
        "lab.namespaces",
        "lab.observer",
        "net.sockets",
    },
}

# What reaches a socket, a clock, a file, a process or a thread, by libc's names.
FORBIDDEN = re.compile(
    r"""^(__)?(
        socket(pair)?|bind|connect|listen|accept4?|shutdown|[gs]etsockopt
        |send|sendto|sendm?msg|sendmmsg|recv|recvfrom|recvm?msg|recvmmsg
        |poll|ppoll|select|pselect|epoll_\w+|eventfd\w*|timerfd_\w+|signalfd
        |clock_\w+|nanosleep|usleep|sleep|gettimeofday|time|times|ftime
        |open(at)?(64)?(_2)?|creat(64)?|fopen(64)?|fdopen|freopen(64)?|fread|fwrite|fput\w+|fget\w+
        |read|write|pread(64)?|pwrite(64)?|readv|writev|close|ioctl|fcntl(64)?|mmap(64)?
        |fork|vfork|exec\w+|posix_spawn\w*|system|popen|syscall|pthread_create
        |printf|v?[fd]printf|vprintf|puts|perror|syslog|if_nametoindex|getaddrinfo|getrandom|getenv
    )(_chk)?(@.*)?$""",
    re.VERBOSE,
)


def of_ours() -> list[Path]:
    """Every source file of the project that the rules on size and opening hold for."""
    return [
        *sorted(SOURCES.rglob("*.pyx")),
        *sorted(SOURCES.rglob("*.pxd")),
        *sorted(SOURCES.rglob("*.h")),
        *sorted(PACKAGE.rglob("*.py")),
        *sorted((ROOT / "tests").rglob("*.py")),
        *sorted((ROOT / "benches").rglob("*.py")),
        ROOT / "setup.py",
    ]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def source(name: str, suffix: str) -> Path:
    """The source of a compiled module."""
    return SOURCES / f"{name.replace('.', '/')}.{suffix}"


# -------------------------------------------------------------------------------- compiled modules


def compiled_imports(name: str) -> Iterator[tuple[str, str]]:
    """(file, module) for each import and cimport of a compiled module, `carp_fast.` included."""
    for path in (source(name, "pyx"), source(name, "pxd")):
        text = path.read_text() if path.exists() else ""
        # What is imported from a package is a module of it.
        text = re.sub(r"from (carp_fast\.\w+) cimport (\w+)", r"cimport \1.\2", text)
        for first, second in re.findall(
            r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", text, re.MULTILINE
        ):
            yield path.name, first or second


def test_the_modules_that_reach_the_system_exist() -> None:
    assert set(WITH_SYSTEM) < set(COMPILED)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_only_pure_modules(name: str) -> None:
    ours = {module.removeprefix("carp_fast.") for _, module in compiled_imports(name)}
    assert ours & set(WITH_SYSTEM) == set()
    assert ours & set(modules()) <= set(PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_classes_that_compiled_modules_make_know_nothing(name: str) -> None:
    imported = python_imports(python_source(name))
    plain = tuple(f"carp_fast.{other}" for other in PLAIN)
    others = {module.partition(".")[0] for module in imported if not module.startswith(plain)}
    assert others <= {"__future__", "collections", "typing", "msgspec"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_else(name: str) -> None:
    others = {module for _, module in compiled_imports(name) if not module.startswith("carp_fast.")}
    assert others <= PURE_LIBC
    for suffix in ("pyx", "pxd"):
        text = source(name, suffix).read_text()
        assert set(re.findall(r'cdef extern from "([^"]+)"', text)) <= PURE_HEADERS


def library(name: str) -> Path:
    """The compiled module as it was built in place."""
    found = sorted(PACKAGE.glob(f"{name.replace('.', '/')}.*.so"))
    if not found:
        pytest.skip(f"needs carp_fast.{name}, built in place")
    return found[0]


def undefined(path: Path) -> set[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs the program nm (Debian package binutils)")
    listing = subprocess.run(
        [nm, "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[-1] for line in listing.splitlines()}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reference_no_socket_clock_or_file(name: str) -> None:
    symbols = undefined(library(name))
    assert any(symbol.startswith("Py") for symbol in symbols)
    assert {symbol for symbol in symbols if FORBIDDEN.match(symbol)} == set()


@pytest.mark.parametrize("name", [*WITH_SYSTEM, "uvloop"])
def test_that_check_catches_a_module_that_does(name: str) -> None:
    path = Path(uvloop.loop.__file__) if name == "uvloop" else library(name)
    assert {symbol for symbol in undefined(path) if FORBIDDEN.match(symbol)} != set()


@pytest.mark.parametrize(
    ("symbol", "forbidden"),
    [
        *((name, True) for name in ("sendmmsg", "recvmmsg", "clock_gettime@GLIBC_2.17", "open64")),
        *((name, True) for name in ("time@GLIBC_2.2.5", "fopen", "__read_chk", "write", "socket")),
        *(
            (name, False)
            for name in ("memcpy", "calloc", "PyObject_Call", "_Py_read", "PyOS_snprintf")
        ),
    ],
)
def test_the_names_that_are_forbidden(symbol: str, forbidden: bool) -> None:
    assert bool(FORBIDDEN.match(symbol)) == forbidden


# To GCC 12 a function that only fetches has no effect: see foresee.h.
FETCH = {"x86_64": "prefetch", "aarch64": "prfm"}
FORESEES = tuple(name for name in COMPILED if "vhid_foresee" in source(name, "pyx").read_text())


def test_hosts_are_fetched_ahead_of_what_they_hear_and_send() -> None:
    assert set(FORESEES) == {"engine._receive", "engine._transitions"}


@pytest.mark.parametrize("name", FORESEES)
def test_what_is_fetched_ahead_is_in_the_machine_code(name: str) -> None:
    objdump, fetch = shutil.which("objdump"), FETCH.get(platform.machine())
    if objdump is None or fetch is None:
        pytest.skip("needs the program objdump (Debian package binutils), and x86-64 or arm64")
    listing = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", library(name)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(rf"^ *[0-9a-f]+:\t{fetch}", listing, re.MULTILINE)


# ------------------------------------------------------------------------------ the Python package


def python_imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, also in functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module or "")
            # What is imported from a package is a module of it.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[str]:
    return sorted(dotted(path, PACKAGE) for path in PACKAGE.rglob("*.py") if not is_init(path))


def is_init(path: Path) -> bool:
    return path.name == "__init__.py"


def python_source(name: str) -> Path:
    return PACKAGE / f"{name.replace('.', '/')}.py"


def imported_by(name: str) -> set[str]:
    """Modules of ours that a module imports, its stub included, but for types alone."""
    if name in COMPILED:
        stub = python_source(name).with_suffix(".pyi")
        found = {module for _, module in compiled_imports(name)}
        found |= python_imports(stub) if stub.exists() else set()
    else:
        found = python_imports(python_source(name))
    ours = {module.removeprefix("carp_fast.") for module in found}
    types = {other for user, other in TYPES_ONLY if user == name}
    return ours & {*modules(), *COMPILED} - types - {name}


def test_no_modules_import_each_other_in_a_circle() -> None:
    # graphlib names the circle in its message.
    TopologicalSorter({name: imported_by(name) for name in [*modules(), *COMPILED]}).prepare()


def package(name: str) -> str:
    """The package of a module or of what is imported from one; empty where it is in none."""
    first = name.partition(".")[0]
    return first if first in PACKAGES else ""


def in_packages() -> list[str]:
    return [name for name in [*modules(), *COMPILED] if package(name)]


def test_every_module_is_in_a_package_of_the_order() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(PACKAGES)
    assert {package(name) or name for name in [*modules(), *COMPILED]} == {
        *PACKAGES,
        *IN_NO_PACKAGE,
    }


def test_the_map_lists_the_packages_in_their_order() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert tuple(listed) == PACKAGES


def test_the_map_names_modules_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`((?:src/carp_fast/|carp_fast/)?[a-z]+/[a-z_]+\.\w+)`", text)
    assert named
    tops = (ROOT, PACKAGE, SOURCES)
    assert [name for name in named if not any((top / name).exists() for top in tops)] == []


@pytest.mark.parametrize("name", in_packages())
def test_packages_import_only_from_those_before_them(name: str) -> None:
    others = {package(other) for other in imported_by(name)} - {"", package(name)}
    before = PACKAGES[: PACKAGES.index(package(name))]
    assert others <= set(before)


@pytest.mark.parametrize("name", sorted(IN_NO_PACKAGE - ENTRANCES))
def test_modules_in_no_package_know_nothing_of_ours(name: str) -> None:
    assert imported_by(name) == set()


def test_what_is_imported_the_other_way_is_for_types_alone() -> None:
    for name, other in TYPES_ONLY:
        tree = ast.parse(python_source(name).read_text())
        for_types = next(
            node
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        importing = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == f"carp_fast.{other}"
        ]
        assert importing
        assert all(node in for_types.body for node in importing), (name, other)


def test_a_package_imports_nothing_by_itself() -> None:
    # Who needs one of its modules pays for that module alone.
    for name in PACKAGES:
        path = PACKAGE / name / "__init__.py"
        statements = ast.parse(path.read_text()).body
        assert [type(statement) for statement in statements] == [ast.Expr], path


@pytest.mark.parametrize("name", LIBRARIES)
def test_who_imports_a_library(name: str) -> None:
    users = {
        module
        for module in modules()
        if any(used.split(".")[0] == name for used in python_imports(python_source(module)))
    }
    assert users <= LIBRARIES[name]


def test_nothing_forks() -> None:
    # The daemon never forks: uvloop's and asyncio's subprocesses do, and so does Popen when it
    # is given a user, a group or a function to call, but not for a umask. What forks for
    # --daemonize does so before there is a daemon.
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and dotted(path, PACKAGE) != "ucarp.process":
                assert node.attr not in {"fork", "forkpty", "create_subprocess_exec"}, path.name
                assert node.attr != "create_subprocess_shell", path.name
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess."):
                given = {keyword.arg for keyword in node.keywords}
                forking = {"preexec_fn", "user", "group", "extra_groups"}
                assert not given & forking, path.name


def test_no_file_is_named_for_nothing() -> None:
    vague = {"util", "utils", "common", "helper", "helpers", "manager", "misc"}
    assert {path.stem.strip("_") for path in of_ours()} & vague == set()


# ------------------------------------------------------------------------------- size and opening


@pytest.mark.parametrize("path", of_ours(), ids=relative)
def test_a_file_is_not_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", of_ours(), ids=relative)
def test_a_file_opens_with_what_it_holds(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".h":
        assert re.match(r"/\* \w.*[.:]", text)
    elif path.suffix == ".py":
        assert ast.get_docstring(ast.parse(text))
    else:
        assert re.match(r'"""\w', text)


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and length of each function: from its head to the last line indented deeper."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        head = re.match(r"(\s*)(?:cp?def|def)\b(?!.*\b(?:extern|class)\b)[^=#]*?(\w+)\(", line)
        if head is None:
            continue
        indent, last = len(head[1]), number
        for following in range(number + 1, len(lines)):
            stripped = lines[following].strip()
            if stripped and len(lines[following]) - len(lines[following].lstrip()) <= indent:
                break
            last = following if stripped else last
        yield head[2], last - number + 1


@pytest.mark.parametrize("path", of_ours(), ids=relative)
def test_functions_are_not_too_long(path: Path) -> None:
    if path.suffix == ".h":
        return
    read = python_functions if path.suffix == ".py" else cython_functions
    too_long = {name: lines for name, lines in read(path.read_text()) if lines > MAX_FUNCTION_LINES}
    assert too_long == {}


def test_the_scan_of_cython_functions_sees_them() -> None:
    text = source("engine._wheel", "pyx").read_text()
    found = dict(cython_functions(text))
    assert {"wheel_open", "wheel_pop", "next_occupied", "spin", "__cinit__"} <= set(found)
    body = "\n".join("    x = 1" for _ in range(80))
    assert dict(cython_functions(f"cdef void long(int x) noexcept nogil:\n{body}\n\nx = 2\n")) == {
        "long": 81
    }
