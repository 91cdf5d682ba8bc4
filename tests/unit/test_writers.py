"""Who may change the configuration and what it names: what is a fault, and what is a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from carp_fast.config import writers
from carp_fast.config.load import ConfigurationError
from carp_fast.config.writers import Exposure, Writers
from carp_fast.daemon.hooks import HookError, load_function
from carp_fast.ucarp.options import Options, exposures
from tests.support.configurations import TABLE, fault_lines, host, write

SOMEBODY = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")


def shown(found: list[Exposure], directory: Path) -> list[tuple[bool, str]]:
    return [(each.to_all, each.text.replace(str(directory), "DIR")) for each in found]


def without_values(path: Path) -> list[str]:
    """The faults, without the values of keys: long paths are shortened."""
    return [re.sub(r' = "[^:]*: ', ": ", line) for line in fault_lines(path)]


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o644, []),
        (0o755, []),
        (0o600, []),
        (0o666, [(True, "everybody may write it (mode 0666); allowed: mode 0644")]),
        (0o777, [(True, "everybody may write it (mode 0777); allowed: mode 0755")]),
        (0o602, [(True, "everybody may write it (mode 0602); allowed: mode 0600")]),
        (0o664, [(False, f"group {os.getegid()} may write it (mode 0664); allowed: mode 0644")]),
        (0o620, [(False, f"group {os.getegid()} may write it (mode 0620); allowed: mode 0600")]),
    ],
)
def test_the_mode_of_a_file_decides_who_may_write_it(
    mode: int, expected: list[tuple[bool, str]], tmp_path: Path
) -> None:
    path = program(tmp_path / "file")
    os.chown(path, -1, os.getegid())
    path.chmod(mode)
    assert shown(Writers().of(path), tmp_path) == expected
    assert shown(Writers().of(path, path.stat()), tmp_path) == expected


@pytest.mark.parametrize(("mode", "to_all"), [(0o777, True), (0o1777, False), (0o775, False)])
def test_a_directory_that_everybody_may_write_needs_the_sticky_bit(
    mode: int, to_all: bool, tmp_path: Path
) -> None:
    path = program(tmp_path / "bin" / "hook")
    path.parent.chmod(mode)
    text = "everybody may exchange it in DIR/bin (mode 0777); allowed: mode 0755, or 1777"
    assert shown(Writers().of(path), tmp_path) == ([(True, text)] if to_all else [])


def test_every_directory_on_the_way_counts_not_only_the_last(tmp_path: Path) -> None:
    path = program(tmp_path / "open" / "hook")
    path = path.rename(path.parent / "moved")
    (tmp_path / "open" / "inner").mkdir()
    path = path.rename(tmp_path / "open" / "inner" / "hook")
    (tmp_path / "open").chmod(0o777)
    [found] = Writers().of(path)
    assert found.place == str(tmp_path / "open")


def test_symbolic_links_are_followed_one_by_one(tmp_path: Path) -> None:
    """What everybody can exchange may be a link half-way to the file."""
    target = program(tmp_path / "safe" / "hook")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "second").symlink_to("../safe/hook")
    (tmp_path / "first").symlink_to(tmp_path / "open" / "second")
    (tmp_path / "open").chmod(0o777)
    assert [each.place for each in Writers().of(tmp_path / "first")] == [str(tmp_path / "open")]
    assert Writers().of(target) == []
    (tmp_path / "loop").symlink_to("loop")
    assert Writers().of(tmp_path / "loop") == []


def test_a_file_that_does_not_exist_can_be_made_by_who_may_write_its_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert [each.to_all for each in Writers().of(tmp_path / "open" / "later")] == [True]


@needs_root
def test_another_owner_of_the_file_or_of_a_directory_is_named(tmp_path: Path) -> None:
    path = program(tmp_path / "bin" / "hook")
    os.chown(path, SOMEBODY, 0)
    text = "uid 12345 owns it and may change it; allowed: uid 0"
    assert shown(Writers().of(path), tmp_path) == [(False, text)]
    os.chown(path, 0, 0)
    os.chown(path.parent, SOMEBODY, 0)
    text = "uid 12345 owns DIR/bin and may change it; allowed: uid 0"
    assert shown(Writers().of(path), tmp_path) == [(False, text)]


@needs_root
def test_the_daemons_user_may_own_what_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "hook")
    os.chown(path, SOMEBODY, 0)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert Writers().of(path) == []


@needs_root
@pytest.mark.parametrize("initial", [True, False])
def test_a_user_namespace_shows_root_as_the_overflow_uid(
    initial: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "hook")
    os.chown(path, int(writers.OVERFLOW_UID.read_text()), 0)
    uid_map = tmp_path / "uid_map"
    uid_map.write_text("         0          0 4294967295\n" if initial else "0 1000 1\n")
    monkeypatch.setattr(writers, "UID_MAP", uid_map)
    assert [each.to_all for each in Writers().of(path)] == ([False] if initial else [])


# In a configuration


def test_a_configuration_that_everybody_may_write_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, host(), mode=0o666)
    assert fault_lines(path) == ["FILE: everybody may write it (mode 0666); allowed: mode 0644"]
    path.chmod(0o660)
    [warning] = [line for line in read_again(path) if "may write" in line]
    gid = path.stat().st_gid
    assert warning == f"{path}: group {gid} may write it (mode 0660); allowed: mode 0640"


def read_again(path: Path) -> tuple[str, ...]:
    from carp_fast.config.load import load

    return load(path).warnings


def test_an_included_file_and_its_directory_are_part_of_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, host(), "conf.d/a.toml", mode=0o606)
    path = write(tmp_path, 'include = ["conf.d/*.toml"]\n')
    assert fault_lines(path) == [
        "DIR/conf.d/a.toml: everybody may write it (mode 0606); allowed: mode 0604"
    ]
    (tmp_path / "conf.d" / "a.toml").chmod(0o600)
    (tmp_path / "conf.d").chmod(0o1777)
    assert fault_lines(path) == [
        'FILE: top level: include = "conf.d/*.toml": everybody may add files to DIR/conf.d'
        " (mode 1777); allowed: mode 0755"
    ]
    (tmp_path / "conf.d").chmod(0o775)
    gid = (tmp_path / "conf.d").stat().st_gid
    assert any(f"group {gid} may add files to" in line for line in read_again(path))


def test_a_directory_is_reported_once_for_all_files_in_it(tmp_path: Path) -> None:
    for vhid in (1, 2, 3):
        write(tmp_path, host(vhid=str(vhid)), f"conf.d/{vhid}.toml")
    path = write(tmp_path, 'include = ["conf.d/1.toml", "conf.d/2.toml", "conf.d/3.toml"]\n')
    (tmp_path / "conf.d").chmod(0o777)
    assert fault_lines(path) == [
        "DIR/conf.d/1.toml: everybody may exchange it in DIR/conf.d (mode 0777);"
        " allowed: mode 0755, or 1777"
    ]


@pytest.mark.parametrize("key", ["up", "down"])
def test_a_hook_that_everybody_may_write_is_a_fault(key: str, tmp_path: Path) -> None:
    hook = program(tmp_path / "bin" / "hook", mode=0o757)
    path = write(tmp_path, host(**{key: f'"{hook}"'}))
    said = f"{TABLE}{key}: everybody may"
    assert without_values(path) == [f"{said} write it (mode 0757); allowed: mode 0755"]
    hook.chmod(0o755)
    hook.parent.chmod(0o777)
    assert without_values(path) == [
        f"{said} exchange it in DIR/bin (mode 0777); allowed: mode 0755, or 1777"
    ]
    hook.parent.chmod(0o755)
    hook.chmod(0o775)
    gid = hook.stat().st_gid
    assert any(f"group {gid} may write it (mode 0775)" in line for line in read_again(path))
    hook.chmod(0o755)
    assert not [line for line in read_again(path) if " may " in line]


def test_the_notify_program_and_secrets_are_looked_at_as_well(tmp_path: Path) -> None:
    notify = program(tmp_path / "notify", mode=0o777)
    (tmp_path / "secret").write_text("a long passphrase\n")
    (tmp_path / "secret").chmod(0o602)
    table = host(passphrase="", passphrase_file='"secret"')
    path = write(tmp_path, f'[daemon]\nnotify = "{notify}"\n{table}')
    assert without_values(path) == [
        "FILE: daemon: notify: everybody may write it (mode 0777); allowed: mode 0755",
        "FILE: virtual_host[1]: passphrase_file: everybody may write it (mode 0602);"
        " allowed: mode 0600",
    ]


def test_a_pipe_has_no_directory_that_matters(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "w") as file:
        file.write(host())
    try:
        assert not [line for line in read_again(Path(f"/dev/fd/{read_fd}")) if " may " in line]
    finally:
        os.close(read_fd)


# Functions, and ucarp's scripts


@pytest.mark.parametrize("name", ["theirs", "package.inner"])
def test_a_function_in_a_file_that_everybody_may_write_is_not_imported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('it was imported')\n")
    if "." in name:
        (file.parent / "__init__.py").touch()
    file.chmod(0o666)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HookError) as refused:
        load_function(f"{name}:function")
    assert str(refused.value) == (
        f"cannot import {name}:function: {file}: everybody may write it (mode 0666);"
        " allowed: mode 0644"
    )


def test_ucarp_only_warns_of_its_scripts_and_passfile(tmp_path: Path) -> None:
    up, down = program(tmp_path / "up", 0o777), program(tmp_path / "down")
    (tmp_path / "pw").write_text("secret\n")
    (tmp_path / "pw").chmod(0o622)
    options = Options()
    options.upscript, options.downscript = str(up), str(down)
    options.passfile = str(tmp_path / "pw")
    assert list(exposures(options)) == [
        f"passfile {tmp_path}/pw: everybody may write it (mode 0622); allowed: mode 0600",
        f"upscript {up}: everybody may write it (mode 0777); allowed: mode 0755",
    ]


def test_check_prints_the_fault_and_fails(tmp_path: Path) -> None:
    path = write(tmp_path, host(), mode=0o666)
    argv = [sys.executable, "-m", "carp_fast", "check", "-c", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{path}: everybody may write it (mode 0666); allowed: mode 0644\n"
    with pytest.raises(ConfigurationError):
        read_again(path)
