"""What the kernel refuses and what is mounted: told with a plain reason, and nothing is missed for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wired

from daemon.core.config import Settle
from daemon.core.ledger import FileStatus, KnownFile
from daemon.effects import scan
from daemon.effects.watch import Watch, Watcher
from daemon.effects.watch.mounts import Mount, mounted_below

DEADLINE_S = 20.0

# The watcher in a user namespace of its own, which has limits of its own: nothing else on this machine feels them.
# Speaks JSON lines: {"heal": 1}, {"limit": [name, value]} and {"hear": path} are answered with what was seen since.
SUBJECT = """
import json, sys, threading
from pathlib import Path
from daemon.effects.watch import Watch, Watcher

root = Path(sys.argv[1])
news = threading.Condition()
touched, losses = set(), []

def on_touch(path):
    with news:
        touched.add(str(path))
        news.notify_all()

watcher = Watcher(on_touch, lambda root, reason: losses.append(reason))
watcher.start([Watch(root, None, fallback_s=0.1)])
for line in sys.stdin:
    asked = json.loads(line)
    if "limit" in asked:
        Path("/proc/sys/user", asked["limit"][0]).write_text(str(asked["limit"][1]))
    if "heal" in asked:
        watcher.heal()
    heard = None
    if "hear" in asked:
        with news:
            heard = news.wait_for(lambda: asked["hear"] in touched, 20.0)
    print(json.dumps({"losses": losses, "troubles": watcher.troubles(), "heard": heard}), flush=True)
    losses.clear()
watcher.stop()
"""


class Confined:
    """A watcher whose kernel limits are its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def confined(root: Path, **limits: int) -> Iterator[Confined]:
    """A watcher for `root` under these limits of /proc/sys/user."""
    set_limits = "".join(f"echo {value} > /proc/sys/user/{name} && " for name, value in limits.items())
    alone = ["unshare", "--user", "--map-root-user"]
    able = subprocess.run([*alone, "sh", "-c", f"{set_limits} true"], capture_output=True, check=False)
    if able.returncode != 0:
        pytest.skip(f"no user namespace with limits of its own here: {able.stderr.decode().strip()}")
    inside = f'{set_limits} exec "$@"'
    with subprocess.Popen(
        [*alone, "sh", "-c", inside, "sh", sys.executable, "-c", SUBJECT, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Confined(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    root.mkdir()
    return root


# Limits


def test_a_library_with_more_folders_than_the_kernel_watches_is_polled_and_said_so(root: Path) -> None:
    for n in range(10):
        (root / f"album {n}").mkdir()
    with confined(root, max_inotify_watches=5) as subject:
        answer = subject.ask()
        (trouble,) = answer["troubles"]
        assert trouble.startswith(f"{root}: is looked at every 0.1 s only, the kernel watches no more: ")
        assert "user.max_inotify_watches is 5" in trouble
        assert "sysctl user.max_inotify_watches=524288" in trouble
        assert answer["losses"] == [trouble.removeprefix(f"{root}: ")]
        (root / "album 9" / "song.mp3").write_bytes(b"sound")
        assert subject.ask(hear=str(root / "album 9" / "song.mp3"))["heard"]
        assert subject.ask(heal=1)["losses"] == [], "told once"


def test_a_folder_that_can_no_longer_be_watched_is_noticed_while_running(root: Path) -> None:
    """watchdog 7.1 swallows the error below the root: the folder would stay unheard until the next rescan."""
    (root / "old").mkdir()
    with confined(root, max_inotify_watches=4) as subject:
        assert subject.ask() == {"losses": [], "troubles": [], "heard": None}
        (root / "a" / "b" / "c").mkdir(parents=True)
        (root / "seen.mp3").write_bytes(b"sound")
        assert subject.ask(hear=str(root / "seen.mp3"))["heard"], "the new folders were met before this file"
        answer = subject.ask(heal=1)
        assert "max_inotify_watches is 4" in answer["losses"][0], "a rescan is asked for after polling has begun"
        assert len(answer["troubles"]) == 1
        (root / "a" / "b" / "c" / "song.mp3").write_bytes(b"sound")
        assert subject.ask(hear=str(root / "a" / "b" / "c" / "song.mp3"))["heard"]


def test_a_raised_limit_is_taken_up_without_a_restart(root: Path) -> None:
    for n in range(10):
        (root / f"album {n}").mkdir()
    with confined(root, max_inotify_watches=5) as subject:
        assert subject.ask()["troubles"]
        answer = subject.ask(limit=["max_inotify_watches", 500], heal=1)
        assert answer["troubles"] == []
        assert answer["losses"] == ["the kernel's limits have changed, so it may be watched again"]
        (root / "album 9" / "song.mp3").write_bytes(b"sound")
        assert subject.ask(hear=str(root / "album 9" / "song.mp3"))["heard"]


def test_too_many_inotify_instances_are_told_by_name(root: Path) -> None:
    with confined(root, max_inotify_instances=0) as subject:
        (trouble,) = subject.ask()["troubles"]
        assert "sysctl user.max_inotify_instances=1024" in trouble
        (root / "song.mp3").write_bytes(b"sound")
        assert subject.ask(hear=str(root / "song.mp3"))["heard"]


# Polling


def test_polling_does_not_follow_links_to_folders(root: Path, tmp_path: Path) -> None:
    """watchdog's own poller follows them: a link that leads back makes it list the library forty times over."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "circle").symlink_to(root)
    (root / "elsewhere").symlink_to(outside)
    touched: set[Path] = set()
    watcher = Watcher(touched.add, lambda root, reason: None)
    watcher.start([Watch(root, 0.05)])
    try:
        (outside / "outside.mp3").write_bytes(b"sound")
        (root / "song.mp3").write_bytes(b"sound")
        wait_until(lambda: root / "song.mp3" in touched)
        (root / "last.mp3").write_bytes(b"sound")
        wait_until(lambda: root / "last.mp3" in touched)
    finally:
        watcher.stop()
    assert {path.name for path in touched if path.suffix} == {"song.mp3", "last.mp3"}
    assert touched.isdisjoint({root / "circle" / "song.mp3", root / "elsewhere" / "outside.mp3"})


# Mounts


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A small empty file system over a folder."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"cannot mount here: {mount.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


@pytest.fixture
def subject(root: Path, tmp_path: Path) -> Iterator[wired.Wired]:
    with wired.wired(root, tmp_path / "state", Settle(quiet_s=0.2)) as subject:
        yield subject


def put_songs(folder: Path, *names: str) -> set[Path]:
    paths = {folder / name for name in names}
    for path in paths:
        path.write_bytes(b"sound")
    return paths


def test_a_disk_mounted_over_the_root_is_heard_of_and_its_leaving_is_no_deletion(
    subject: wired.Wired, root: Path
) -> None:
    """Its empty mount point looks like an emptied library, and must not be taken for one."""
    with mounted(root):
        songs = put_songs(root, "1.mp3", "2.mp3")
        assert subject.misses(songs, DEADLINE_S) == set()
        for path in songs:
            state = scan.state_of(path)
            assert state is not None
            subject.ledger.remember(KnownFile(path, "sound", state, ("jazz",), FileStatus.TAGGED, ""))
        known, queued = subject.ledger.states_under(root), subject.queue.states()
        assert set(known) == songs
        losses = len(subject.losses)
    wait_until(lambda: len(subject.losses) > losses)
    subject.look_through(DEADLINE_S)
    wait_until(lambda: subject.intake.settling == 0)
    assert subject.ledger.states_under(root) == known, "forgotten"
    assert subject.queue.states() == queued
    # What comes to the bare mount point meanwhile is heard of as well.
    assert subject.misses(put_songs(root, "3.mp3"), DEADLINE_S, before=2) == set()


def test_a_root_that_goes_away_and_comes_back_is_no_deletion(subject: wired.Wired, root: Path) -> None:
    songs = put_songs(root, "1.mp3", "2.mp3")
    assert subject.misses(songs, DEADLINE_S) == set()
    queued = subject.queue.states()
    root.rename(root.with_name("away"))
    wait_until(lambda: subject.watcher.troubles() == [f"{root}: is not there, so it is not watched"])
    subject.look_through(DEADLINE_S)
    assert subject.queue.states() == queued
    put_songs(root.with_name("away"), "3.mp3")
    root.with_name("away").rename(root)
    assert subject.misses({root / "3.mp3"}, DEADLINE_S, before=2) == set()
    assert {path: state for path, state in subject.queue.states().items() if path in queued} == queued


def test_a_disk_mounted_inside_a_watched_folder_is_watched_at_once(subject: wired.Wired, root: Path) -> None:
    """inotify tells nothing of a mount, and nothing of what happens in it."""
    usb = root / "My usb"
    usb.mkdir()
    with mounted(usb):
        wait_until(lambda: "something was mounted or unmounted in it" in subject.losses)
        assert subject.misses(put_songs(usb, "1.mp3"), DEADLINE_S) == set()
        assert usb / "1.mp3" in subject.told, "an event told of it, not only the rescan"


MOUNTINFO = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / /srv/music rw,relatime shared:2 - nfs4 nas:/music rw,vers=4.2
31 30 0:41 / /srv/music/My\\040disk rw - ext4 /dev/vdb rw
32 22 0:42 / /srv/musical/box rw - ext4 /dev/vdc rw
"""


def test_only_what_is_mounted_inside_counts() -> None:
    assert mounted_below("/srv/music", MOUNTINFO) == (Mount("31", "/srv/music/My disk", "ext4"),)
    assert [mount.number for mount in mounted_below("/", MOUNTINFO)] == ["22", "30", "31", "32"]
    assert mounted_below("/home", MOUNTINFO) == ()
    assert mounted_below("/home", MOUNTINFO.replace("\\040", "")) == ()


# Walking


def passed_over(root: Path) -> dict[Path, str]:
    told: dict[Path, str] = {}
    list(scan.walk(root, lambda path: path.suffix == ".mp3", lambda name: name != "@eaDir", told.__setitem__))
    return told


def test_a_walk_tells_of_the_links_that_it_passes_over(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    put_songs(outside, "song.mp3", "cover.jpg")
    (root / "song.mp3").symlink_to(outside / "song.mp3")
    (root / "folder").symlink_to(outside)
    (root / "circle").symlink_to(root)
    (root / "cover.jpg").symlink_to(outside / "cover.jpg")
    (root / "nowhere.mp3").symlink_to("gone.mp3")
    (root / "@eaDir").symlink_to(outside)
    put_songs(root, "real.mp3")
    assert passed_over(root) == dict.fromkeys((root / "song.mp3", root / "folder", root / "circle"), scan.LINK)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_walk_tells_of_a_folder_that_it_may_not_read(root: Path) -> None:
    locked = root / "locked"
    locked.mkdir()
    put_songs(locked, "song.mp3")
    locked.chmod(0)
    program = (
        "import sys; from pathlib import Path; from daemon.effects import scan\n"
        "told = []\n"
        "list(scan.walk(Path(sys.argv[1]), lambda path: True, lambda name: True, lambda *what: told.append(what)))\n"
        "print([(str(path), why) for path, why in told])"
    )
    # Root reads everything: without its capabilities it is the owner, who may not.
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    try:
        done = subprocess.run([*drop, sys.executable, "-c", program, root], capture_output=True, text=True, check=True)
    finally:
        locked.chmod(0o700)
    assert done.stdout.strip() == str([(str(locked), scan.UNREADABLE)])
