"""The kernel's limits for inotify: which one was hit, and the line that raises it. Reads /proc/sys; sets nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# The errno of inotify_add_watch(2) and inotify_init(2) at a limit; its name; what most distributions set by now.
_NAMES = {errno.ENOSPC: ("watches", 524_288), errno.EMFILE: ("instances", 1024)}


def readings() -> tuple[int | None, ...]:
    """All limits as they stand, for comparison: when they change, another try is worth it."""
    names = [name for name, _ in _NAMES.values()]
    return tuple(_read(setting) for name in names for setting in (_of_machine(name), _of_namespace(name)))


def is_limit(error: OSError) -> bool:
    """Whether the error says that a limit was hit; too many open files in this process give the same number."""
    return error.errno in _NAMES and (error.errno != errno.EMFILE or _can_open())


def explain(number: int) -> str:
    """What the error of this number means, and what to do about it.

    A user namespace, as containers have, brings limits of its own (user_namespaces(7), /proc/sys/user): the lower of
    the two counts, and only the machine's has the name that everybody knows.
    """
    name, usual = _NAMES[number]
    machine, namespace = _read(_of_machine(name)), _read(_of_namespace(name))
    inner = namespace is not None and (machine is None or namespace < machine)
    limit = namespace if inner else machine
    setting = (_of_namespace if inner else _of_machine)(name).replace("/", ".")
    return f"{setting} is {limit}; for more: sysctl {setting}={max(usual, 2 * (limit or 0))}"


def _can_open() -> bool:
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _of_machine(name: str) -> str:
    return f"fs/inotify/max_user_{name}"


def _of_namespace(name: str) -> str:
    return f"user/max_inotify_{name}"


def _read(setting: str) -> int | None:
    try:
        return int(Path("/proc/sys", setting).read_text())
    except (OSError, ValueError):
        return None
