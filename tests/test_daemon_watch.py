"""Watching real folders with the real kernel, and walking them for what watching missed."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import wired
from watchdog.observers.api import EventEmitter

from daemon.core.config import Settle
from daemon.core.errors import TryLater
from daemon.core.records import FileState
from daemon.effects import scan
from daemon.effects.watch import Watch, Watcher, is_on_network
from daemon.effects.watch.inotify import Handling, Reader

DEADLINE_S = 20.0


class Ear:
    """Remembers what a watcher reports, and waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.touched: list[Path] = []
        self.losses: list[tuple[Path, str]] = []

    def on_touch(self, path: Path) -> None:
        with self._changed:
            self.touched.append(path)
            self._changed.notify_all()

    def on_loss(self, root: Path, reason: str) -> None:
        with self._changed:
            self.losses.append((root, reason))
            self._changed.notify_all()

    def hears(self, paths: Sequence[Path]) -> None:
        """Wait until every one of `paths` was touched."""
        with self._changed:
            complete = self._changed.wait_for(lambda: set(paths) <= set(self.touched), DEADLINE_S)
            assert complete, f"never heard of {set(paths) - set(self.touched)}"

    def loses(self, reason: str) -> Path:
        """Wait for a loss for this reason; the root that it was about."""
        with self._changed:
            found = self._changed.wait_for(lambda: [root for root, why in self.losses if reason in why], DEADLINE_S)
            assert found, f"no loss because {reason!r}, only {self.losses}"
            return found[0]

    def forget(self) -> None:
        with self._changed:
            self.touched.clear()
            self.losses.clear()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def watcher(ear: Ear) -> Iterator[Watcher]:
    watcher = Watcher(ear.on_touch, ear.on_loss)
    yield watcher
    watcher.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    root.mkdir()
    return root


def tree(folder: Path, files: int = 30) -> list[Path]:
    """A small album collection; the paths of its files."""
    paths = [folder / f"artist {n % 3}" / f"album {n % 5}" / f"{n}.mp3" for n in range(files)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")
    return paths


def moved(paths: Sequence[Path], source: Path, target: Path) -> list[Path]:
    return [target / path.relative_to(source) for path in paths]


def only(kind: type[threading.Thread]) -> threading.Thread:
    """The one running thread of this class."""
    (found,) = [thread for thread in threading.enumerate() if isinstance(thread, kind)]
    return found


# What is heard


def test_a_created_file_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start([Watch(root, None)])
    assert watcher.troubles() == []
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


def test_every_write_and_the_closing_are_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    with open(root / "song.mp3", "wb", buffering=0) as file:
        watcher.start([Watch(root, None)])
        file.write(b"half")
        ear.hears([root / "song.mp3"])
        ear.forget()
    ear.hears([root / "song.mp3"])


def test_a_file_moved_in_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    outside = root.parent / "download.mp3"
    outside.write_bytes(b"sound")
    watcher.start([Watch(root, None)])
    outside.rename(root / "song.mp3")
    ear.hears([root / "song.mp3"])


def test_a_renamed_file_is_heard_of_under_its_new_name(watcher: Watcher, ear: Ear, root: Path) -> None:
    (root / "song.mp3.part").write_bytes(b"sound")
    watcher.start([Watch(root, None)])
    (root / "song.mp3.part").rename(root / "song.mp3")
    ear.hears([root / "song.mp3"])
    assert ear.touched == [root / "song.mp3"]


def test_a_file_in_a_new_folder_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start([Watch(root, None)])
    (root / "new" / "deep").mkdir(parents=True)
    (root / "new" / "deep" / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "new" / "deep" / "song.mp3"])


def test_every_file_of_a_copied_tree_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    source = root.parent / "cd"
    paths = tree(source)
    watcher.start([Watch(root, None)])
    shutil.copytree(source, root / "cd")
    ear.hears(moved(paths, source, root / "cd"))


def test_every_file_of_a_tree_moved_in_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    source = root.parent / "cd"
    paths = tree(source)
    watcher.start([Watch(root, None)])
    source.rename(root / "cd")
    ear.hears(moved(paths, source, root / "cd"))


def test_every_file_of_a_renamed_folder_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    paths = tree(root / "old")
    watcher.start([Watch(root, None)])
    (root / "old").rename(root / "new")
    ear.hears(moved(paths, root / "old", root / "new"))


def test_a_name_that_is_not_utf8_is_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start([Watch(root, None)])
    path = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp3"))
    path.write_bytes(b"sound")
    ear.hears([path])


def test_reading_and_deleting_are_not_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    """A player's reading must not make the daemon look; what is gone is found gone by whoever looks."""
    (root / "song.mp3").write_bytes(b"sound")
    watcher.start([Watch(root, None)])
    (root / "song.mp3").read_bytes()
    (root / "song.mp3").unlink()
    (root / "folder").mkdir()
    (root / "last.mp3").write_bytes(b"sound")
    ear.hears([root / "last.mp3"])
    assert set(ear.touched) == {root / "last.mp3"}


def test_a_root_that_is_a_link_is_watched_under_its_own_name(watcher: Watcher, ear: Ear, root: Path) -> None:
    link = root.parent / "Music"
    link.symlink_to(root)
    watcher.start([Watch(link, None)])
    (root / "song.mp3").write_bytes(b"sound")
    (root / "cd").mkdir()
    (root / "cd" / "1.mp3").write_bytes(b"sound")
    ear.hears([link / "song.mp3", link / "cd" / "1.mp3"])
    assert all(path.is_relative_to(link) for path in ear.touched)


def test_several_roots_are_watched_and_others_no_more(watcher: Watcher, ear: Ear, root: Path) -> None:
    first, second, third = (root / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    watcher.start([Watch(first, None), Watch(second, None)])
    watcher.start([Watch(second, None), Watch(third, None)])
    for folder in (first, second, third):
        (folder / "song.mp3").write_bytes(b"sound")
    ear.hears([second / "song.mp3", third / "song.mp3"])
    assert first / "song.mp3" not in ear.touched


def test_polling_sees_what_inotify_would(watcher: Watcher, ear: Ear, root: Path) -> None:
    source = root.parent / "cd"
    paths = tree(source, files=10)
    (root / "old.mp3").write_bytes(b"sound")
    watcher.start([Watch(root, 0.05)])
    assert watcher.troubles() == []
    shutil.copytree(source, root / "cd")
    (root / "old.mp3").rename(root / "new.mp3")
    ear.hears([*moved(paths, source, root / "cd"), root / "new.mp3"])
    ear.forget()
    (root / "new.mp3").write_bytes(b"more sound")
    ear.hears([root / "new.mp3"])


# What goes wrong


def test_a_missing_root_is_watched_as_soon_as_it_appears(watcher: Watcher, ear: Ear, root: Path) -> None:
    mount = root / "usb"
    watcher.start([Watch(mount, None)])
    assert watcher.troubles() == [f"{mount}: is not there, so it is not watched"]
    mount.mkdir()
    (mount / "before.mp3").write_bytes(b"sound")
    watcher.heal()
    assert watcher.troubles() == []
    assert ear.losses == [(mount, "it can be watched now")], "what came before must be looked for"
    (mount / "song.mp3").write_bytes(b"sound")
    ear.hears([mount / "song.mp3"])


@pytest.mark.parametrize("poll_s", [None, 0.05])
def test_a_vanished_root_is_reported_and_watched_when_it_is_back(
    watcher: Watcher, ear: Ear, root: Path, poll_s: float | None
) -> None:
    watcher.start([Watch(root, poll_s)])
    shutil.rmtree(root)
    watcher.heal()
    assert ear.loses("vanished") == root
    assert watcher.troubles() == [f"{root}: is not there, so it is not watched"]
    root.mkdir()
    watcher.heal()
    assert watcher.troubles() == []
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


def test_a_root_replaced_between_two_looks_is_watched_anew(watcher: Watcher, ear: Ear, root: Path) -> None:
    """As when a disk is mounted over an empty folder: the path was there all the time."""
    watcher.start([Watch(root, None)])
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    watcher.heal()
    assert ear.loses("another folder has taken its place") == root
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


def test_a_linked_root_that_leads_elsewhere_now_is_watched_anew(watcher: Watcher, ear: Ear, root: Path) -> None:
    other, link = root.with_name("other"), root.with_name("Music")
    other.mkdir()
    link.symlink_to(root)
    watcher.start([Watch(link, None)])
    link.unlink()
    link.symlink_to(other)
    watcher.heal()
    assert ear.loses("another folder has taken its place") == link
    (other / "song.mp3").write_bytes(b"sound")
    ear.hears([link / "song.mp3"])


@pytest.mark.parametrize("kind", [EventEmitter, Reader])
def test_a_dead_thread_is_found_and_replaced(
    watcher: Watcher, ear: Ear, root: Path, kind: type[EventEmitter] | type[Reader]
) -> None:
    watcher.start([Watch(root, None)])
    thread = only(kind)
    assert isinstance(thread, (EventEmitter, Reader))
    thread.stop()
    thread.join(DEADLINE_S)
    (trouble,) = watcher.troubles()
    assert trouble.startswith(f"{root}: thread {type(thread).__name__}")
    assert trouble.endswith(" has died")
    watcher.heal()
    assert watcher.troubles() == []
    assert ear.loses("the watching thread had died") == root
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_of_an_error_is_found_and_replaced(watcher: Watcher, ear: Ear, root: Path) -> None:
    """The one that works through the events: without it the others look as busy as ever and tell nothing."""
    watcher.start([Watch(root, None)])
    thread = only(Handling)
    only(Reader)._unhandled.put(["no event"])  # type: ignore[attr-defined]
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert "Handling has died" in watcher.troubles()[0]
    watcher.heal()
    assert ear.loses("the watching thread had died") == root
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


def test_running_out_of_descriptors_is_told_once_and_healed(watcher: Watcher, ear: Ear, root: Path) -> None:
    """As where the kernel's limit of watches or instances is reached: the daemon goes on with its rescans."""
    with no_descriptors_left():
        watcher.start([Watch(root, None)])
        watcher.heal()
    assert len(ear.losses) == 1
    (trouble,) = watcher.troubles()
    assert trouble.startswith(f"{root}: cannot be watched: ")
    ear.forget()
    watcher.heal()
    assert watcher.troubles() == []
    assert ear.losses == [(root, "it can be watched now")]
    (root / "song.mp3").write_bytes(b"sound")
    ear.hears([root / "song.mp3"])


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_healing_what_is_healthy_changes_nothing(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start([Watch(root, None)])
    before = set(threading.enumerate())
    for _ in range(3):
        watcher.heal()
    assert set(threading.enumerate()) == before
    assert ear.losses == []


# A program that does something to ROOT, many times.
FLOODS = {
    "write": "open(f'{root}/{n % 2}.mp3', 'ab').close()",
    "list": "os.listdir(root), open(f'{root}/0.mp3').close()",
    "chmod": "os.chmod(f'{root}/{n % 2}.mp3', 0o640 + n % 4)",
}
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def while_nobody_reads(*command: str | Path) -> None:
    """Run a program to its end while this process holds the interpreter's lock, so that no event is taken."""
    process = subprocess.Popen([str(part) for part in command])
    waitid = ctypes.PyDLL(None).waitid  # unlike CDLL, it keeps the lock
    waitid(os.P_PID, process.pid, ctypes.create_string_buffer(128), os.WEXITED | os.WNOWAIT)
    assert process.wait(DEADLINE_S) == 0


def flood(what: str, root: Path) -> None:
    """Do so much in `root` that the kernel's queue overflows if it counts each."""
    limit = int(QUEUE.read_text())
    if limit > 200_000:
        pytest.skip(f"the kernel's queue holds {limit} events: too many to fill in a test")
    program = f"import os, sys; root = sys.argv[1]\nfor n in range({2 * limit}): {FLOODS[what]}"
    while_nobody_reads(sys.executable, "-c", program, root)


@pytest.fixture
def two_songs(root: Path) -> Path:
    for name in ("0.mp3", "1.mp3"):
        (root / name).write_bytes(b"sound")
    return root


def test_an_overflowing_kernel_queue_is_a_loss_of_that_root_alone(
    watcher: Watcher, ear: Ear, two_songs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = two_songs.with_name("other")
    other.mkdir()
    watcher.start([Watch(two_songs, None), Watch(other, None), Watch(two_songs.parent, 3600.0)])
    flood("write", two_songs)
    assert ear.loses("overflowed") == two_songs
    assert {lost for lost, _ in ear.losses} == {two_songs}
    assert "overflowed" not in caplog.text, "the warning floods a log"


@pytest.mark.parametrize("what", ["list", "chmod"])
def test_reading_a_library_does_not_fill_the_kernels_queue(
    watcher: Watcher, ear: Ear, two_songs: Path, what: str
) -> None:
    """Else the walk that an overflow asks for would make the next overflow, for ever."""
    watcher.start([Watch(two_songs, None)])
    flood(what, two_songs)
    (two_songs / "last.mp3").write_bytes(b"sound")
    ear.hears([two_songs / "last.mp3"])
    assert ear.losses == []


def test_a_burst_that_the_kernel_can_hold_is_told_in_full(watcher: Watcher, ear: Ear, root: Path) -> None:
    """Three events a file, all of them waiting when the reader wakes up."""
    count = int(QUEUE.read_text()) // 4
    watcher.start([Watch(root, None)])
    program = "import sys\nfor n in range(int(sys.argv[2])): open(f'{sys.argv[1]}/{n}.mp3', 'w').write('sound')"
    while_nobody_reads(sys.executable, "-c", program, root, str(count))
    ear.hears([root / f"{n}.mp3" for n in range(count)])
    assert ear.losses == []


def test_when_an_overflow_is_told_every_folder_is_watched_already(ear: Ear, two_songs: Path) -> None:
    """A walk that started earlier could pass a folder, and what came to it before its watch would be missed."""
    late = two_songs / "made in the flood" / "late.mp3"

    def on_loss(root: Path, reason: str) -> None:
        late.write_bytes(b"sound")
        ear.on_loss(root, reason)

    watcher = Watcher(ear.on_touch, on_loss)
    try:
        watcher.start([Watch(two_songs, None)])
        program = (
            "import os, sys; root = sys.argv[1]\n"
            "for n in range(2 * int(sys.argv[2])): open(f'{root}/{n % 2}.mp3', 'ab').close()\n"
            "os.mkdir(sys.argv[3])"
        )
        while_nobody_reads(sys.executable, "-c", program, two_songs, QUEUE.read_text().strip(), late.parent)
        ear.loses("overflowed")
        ear.hears([late])
    finally:
        watcher.stop()


def test_many_renamed_files_are_heard_of(watcher: Watcher, ear: Ear, root: Path) -> None:
    """watchdog looks for the departure of each arrival through all that waits, which takes ten times as long."""
    count = 5000
    for n in range(count):
        (root / f"{n}.wav").touch()
    watcher.start([Watch(root, None)])
    while_nobody_reads(sys.executable, "-c", "import os, sys\n" + RENAME, root, str(count))
    ear.hears([root / f"0{n}.wav" for n in range(count)])


RENAME = "for n in range(int(sys.argv[2])): os.rename(f'{sys.argv[1]}/{n}.wav', f'{sys.argv[1]}/0{n}.wav')"


@pytest.mark.slow
@pytest.mark.parametrize("asked_meanwhile", [False, True], ids=["", "rescans all the time"])
def test_a_burst_that_overflows_the_kernels_queue_misses_no_file(
    root: Path, tmp_path: Path, asked_meanwhile: bool
) -> None:
    """Watcher, intake and queue together: what the events do not tell, the rescan finds."""
    count = 20_000
    paths = {root / f"{n}.wav" for n in range(count)}
    with wired.wired(root, tmp_path, Settle(quiet_s=0.5)) as subject:
        while_nobody_reads(*wired.command("create", root, count))
        deadline = time.monotonic() + 120
        while asked_meanwhile and len(subject.queue) < count and time.monotonic() < deadline:
            subject.rescan()
            time.sleep(0.05)
        assert subject.misses(paths, 120) == set()
        assert any("overflowed" in loss for loss in subject.losses)
        assert len(subject.told & paths) < count, "the events alone told of everything: nothing overflowed"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["copy", "move", "tree", "rename"])
def test_a_burst_that_comes_while_the_folder_is_looked_through_misses_no_file(
    root: Path, tmp_path: Path, program: str
) -> None:
    """Rescans one after the other, as of a large library, with every processor busy."""
    count = 3000
    source, target = tmp_path / "source", root if program == "rename" else root / "tree"
    wired.write("create" if program == "rename" else "tree", root if program == "rename" else source, count)
    with wired.wired(root, tmp_path, Settle(quiet_s=0.5)) as subject, wired.busy(os.cpu_count() or 1):
        before = count if program == "rename" else 0
        assert not before or not subject.misses({root / f"{n}.wav" for n in range(count)}, 120)
        writing = wired.start_writing(program, target, count, source)
        while writing.poll() is None:
            subject.rescan()
            time.sleep(0.01)
        paths = {root / f"0{n}.wav" for n in range(count)} if program == "rename" else set(target.rglob("*.wav"))
        assert len(paths) == count
        assert subject.misses(paths, 120, before) == set()


def test_other_messages_of_watchdog_are_let_through(
    watcher: Watcher, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher.start([Watch(root, None)])
    logging.getLogger("watchdog.observers.inotify").error("something else")
    assert "something else" in caplog.text


def test_stopping_leaves_no_thread_and_no_descriptor(ear: Ear, root: Path) -> None:
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    watcher = Watcher(ear.on_touch, ear.on_loss)
    watcher.start([Watch(root, None), Watch(root.parent, 0.05)])
    assert set(threading.enumerate()) != threads
    watcher.stop()
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert watcher.troubles() == []
    # What watchdog logs from now on is no longer ours to hear.
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert ear.losses == []


# Network file systems

MOUNTINFO = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / /srv/music rw,relatime shared:2 - nfs4 nas:/music rw,vers=4.2
31 22 0:41 / /srv/My\\040Music rw - cifs //nas/music rw
32 22 0:42 / /srv/back\\134slash rw - fuse.sshfs owner@nas: rw
33 30 254:2 / /srv/music/local rw - xfs /dev/vdb rw
34 22 0:43 / /srv/twice rw - ext4 /dev/vdc rw
35 22 0:44 / /srv/twice rw - nfs nas:/twice rw
a line that is not one
"""


@pytest.mark.parametrize(
    ("path", "on_network"),
    [
        ("/home/owner/Music", False),
        ("/srv/music", True),
        ("/srv/music/Jazz", True),
        ("/srv/musical", False),
        ("/srv/My Music/Jazz", True),
        ("/srv/back\\slash", True),
        ("/srv/music/local/Jazz", False),
        ("/srv/twice", True),
    ],
)
def test_the_innermost_and_last_mount_decides(path: str, on_network: bool) -> None:
    assert is_on_network(Path(path), MOUNTINFO) is on_network


def test_a_link_to_a_network_share_is_on_the_network(tmp_path: Path) -> None:
    link = tmp_path / "Music"
    link.symlink_to("/srv/music")
    assert is_on_network(link / "Jazz", MOUNTINFO)


def test_this_machines_own_mounts_can_be_read(tmp_path: Path) -> None:
    assert is_on_network(tmp_path) in (True, False)


# Walking


def everything(path: Path) -> bool:
    return True


def every_folder(name: str) -> bool:
    return True


def walked(
    root: Path, wanted: Callable[[Path], bool] = everything, enter: Callable[[str], bool] = every_folder
) -> dict[Path, FileState]:
    found = list(scan.walk(root, wanted, enter))
    assert len(found) == len(dict(found)), "a file was found twice"
    return dict(found)


def test_a_walk_finds_every_file_with_its_state(root: Path) -> None:
    paths = [*tree(root), Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp3"))]
    paths[-1].write_bytes(b"sound")
    found = walked(root)
    assert set(found) == set(paths)
    for path, state in found.items():
        assert state == FileState.of(os.stat(path)) == scan.state_of(path)


def test_a_walk_passes_over_what_is_not_wanted(root: Path) -> None:
    paths = tree(root)
    assert set(walked(root, lambda path: path.stem == "7")) == {path for path in paths if path.stem == "7"}


def test_a_walk_does_not_enter_junk(root: Path) -> None:
    kept, _ = tree(root / "cd", 1), tree(root / "@eaDir", 1)
    entered: list[str] = []

    def enter(name: str) -> bool:
        entered.append(name)
        return name != "@eaDir"

    assert list(walked(root, enter=enter)) == kept
    assert "@eaDir" in entered


def test_links_are_not_followed(root: Path) -> None:
    outside = root.parent / "outside"
    tree(outside, 3)
    (root / "circle").symlink_to(root)
    (root / "elsewhere").symlink_to(outside)
    (root / "song.mp3").symlink_to(next(outside.rglob("*.mp3")))
    (root / "nowhere.mp3").symlink_to("gone")
    assert walked(root) == {}
    assert scan.state_of(root / "song.mp3") is None


def test_a_root_that_is_a_link_is_walked_under_its_own_name(root: Path) -> None:
    paths = tree(root, 4)
    link = root.parent / "Music"
    link.symlink_to(root)
    assert set(walked(link)) == set(moved(paths, root, link))


def test_only_regular_files_are_files(root: Path) -> None:
    os.mkfifo(root / "pipe.mp3")
    (root / "folder.mp3").mkdir()
    assert walked(root) == {}
    assert scan.state_of(root / "pipe.mp3") is None
    assert scan.state_of(root / "folder.mp3") is None
    assert scan.state_of(root / "gone.mp3") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_passed_over(root: Path) -> None:
    paths = tree(root, 3)
    locked = root / "locked"
    tree(locked, 1)
    locked.chmod(0)
    try:
        assert set(walked(root)) == set(paths)
    finally:
        locked.chmod(stat.S_IRWXU)


def test_a_folder_that_vanishes_during_the_walk_is_passed_over(root: Path) -> None:
    (root / "a.mp3").write_bytes(b"sound")
    tree(root / "vanishing", 3)

    def wanted(path: Path) -> bool:
        shutil.rmtree(root / "vanishing", ignore_errors=True)
        return True

    assert set(walked(root, wanted)) == {root / "a.mp3"}


@pytest.mark.parametrize("name", ["gone", "a file", "x" * 300])
def test_a_root_that_cannot_be_walked_is_not_an_emptied_library(root: Path, name: str) -> None:
    """Nor is one that the system has trouble with, as a network share that went stale."""
    (root / "a file").touch()
    with pytest.raises(TryLater, match="not there") as caught:
        walked(root / name)
    assert caught.value.path == root / name


def test_a_root_that_the_system_has_trouble_with_is_a_missing_one(watcher: Watcher, root: Path) -> None:
    trouble = root / ("x" * 300)
    watcher.start([Watch(trouble, None)])
    watcher.heal()
    assert watcher.troubles() == [f"{trouble}: is not there, so it is not watched"]


def test_a_walk_is_lazy(root: Path) -> None:
    """So that whoever walks can say that it is alive, and stop."""
    tree(root, 30)
    started = time.monotonic()
    walk = scan.walk(root, everything, every_folder)
    assert next(walk)[0].is_file()
    walk.close()
    assert time.monotonic() - started < DEADLINE_S
