"""Files are moved whole or not at all, never over another, and a crash anywhere leaves exactly one of each."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.core.errors import BadFile, FileTrouble, TryLater
from daemon.core.records import FileState
from daemon.effects import files
from daemon.effects.files.renaming import RenameNoReplace, renameat2_noreplace

CONTENT = b"a track that took someone months to record " * 3000
CHECKOUT = Path(__file__).parents[1]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")


def no_flag(source: Path, target: Path) -> int:
    """What NFS says to RENAME_NOREPLACE."""
    return errno.EINVAL


WAYS: list[RenameNoReplace] = [renameat2_noreplace, no_flag]
ways = pytest.mark.parametrize("rename", WAYS, ids=["renameat2", "placeholder"])


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tree(*roots: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder with None; links are files."""
    found: dict[str, bytes | None] = {}
    for path in itertools.chain.from_iterable(root.rglob("*") for root in roots):
        folder = path.is_dir() and not path.is_symlink()
        found[str(path)] = (
            None if folder else os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        )
    return found


@contextlib.contextmanager
def untouched(*roots: Path) -> Iterator[None]:
    """Whatever happens inside, every file and folder is as it was, and no other is there."""
    before = tree(*roots)
    yield
    assert tree(*roots) == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    return folder


@pytest.fixture
def track(root: Path) -> Path:
    path = put(root / "in" / "Sigur Rós.mp3")
    path.chmod(0o640)
    os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another device."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second device")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def mount(*arguments: str | Path) -> None:
    """Run a command that mounts something, or skip."""
    command = [str(argument) for argument in arguments]
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not there, or only for root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine cannot {Path(arguments[0]).name} a file system of this kind")


@contextlib.contextmanager
def unmounted_afterwards(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@pytest.fixture(params=["ext4", "ntfs", "exfat"])
def caseless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system to which A and a are one name."""
    image, folder = tmp_path / "image", tmp_path / "caseless"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(48 << 20)
    with unmounted_afterwards(folder):
        if request.param == "ext4":
            mount("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", image)
            mount("mount", "-o", "loop", image, folder)
            (folder / "music").mkdir()
            mount("chattr", "+F", folder / "music")
        elif request.param == "ntfs":
            mount("mkntfs", "-q", "-F", "-f", image)
            mount("lowntfs-3g", "-o", "ignore_case", image, folder)
        else:
            mount("mkfs.exfat", image)
            device = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
            if device.returncode != 0:
                pytest.skip("this machine has no loop devices")
            request.addfinalizer(lambda: subprocess.run(["losetup", "-d", device.stdout.strip()], check=False))
            mount("mount.exfat-fuse", device.stdout.strip(), folder)
        (folder / "music").mkdir(exist_ok=True)
        yield folder / "music"


class TestMoving:
    @ways
    def test_a_file_is_at_its_target_the_very_same(self, root: Path, track: Path, rename: RenameNoReplace) -> None:
        before, target = track.stat(), root / "jazz" / "album" / "song.mp3"
        with untouched(root):
            staged = files.stage_move(track, target, within=root)
        state = files.commit_move(staged, rename=rename)
        after = target.stat()
        assert state == FileState.of(after) and state.same_content(staged.state)
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
        assert tree(root) == {
            str(root / "in"): None,
            str(root / "jazz"): None,
            str(root / "jazz" / "album"): None,
            str(target): CONTENT,
        }
        assert staged.made_folders == (root / "jazz", root / "jazz" / "album")
        assert (staged.temporary, staged.sha256) == (None, None)

    @ways
    def test_a_hard_link_moves_and_leaves_its_twin(self, root: Path, track: Path, rename: RenameNoReplace) -> None:
        twin = root / "seeding.mp3"
        os.link(track, twin)
        files.commit_move(files.stage_move(track, root / "jazz" / "song.mp3", within=root), rename=rename)
        assert (root / "jazz" / "song.mp3").samefile(twin) and not track.exists()

    def test_a_write_protected_file_moves(self, root: Path, track: Path, elsewhere: Path) -> None:
        track.chmod(0o444)
        files.commit_move(files.stage_move(track, root / "song.mp3", within=root))
        files.commit_move(files.stage_move(root / "song.mp3", elsewhere / "song.mp3", within=elsewhere))
        assert stat.S_IMODE((elsewhere / "song.mp3").stat().st_mode) == 0o444

    def test_a_staged_move_that_is_discarded_leaves_nothing(self, root: Path, track: Path, elsewhere: Path) -> None:
        for within in (root, elsewhere):
            with untouched(root, elsewhere):
                files.discard_move(files.stage_move(track, within / "a" / "b.mp3", within=within))

    def test_discarding_a_move_that_has_happened_changes_nothing(
        self, root: Path, track: Path, elsewhere: Path
    ) -> None:
        for within in (elsewhere, root):
            staged = files.stage_move(track, within / "a" / "b.mp3", within=within)
            files.commit_move(staged)
            with untouched(root, elsewhere):
                files.discard_move(staged)
            track = staged.target


class TestFolders:
    def made(self, root: Path, track: Path) -> Path:
        files.commit_move(files.stage_move(track, root / "a" / "b" / "song.mp3", within=root))
        return root / "a" / "b"

    def test_new_folders_are_like_their_parents_whatever_the_umask(self, root: Path, track: Path) -> None:
        root.chmod(0o2775)
        umask = os.umask(0o077)
        try:
            folder = self.made(root, track)
        finally:
            os.umask(umask)
        for each in (folder, folder.parent):
            assert stat.S_IMODE(each.stat().st_mode) == 0o2775

    @ROOT_ONLY
    def test_new_folders_belong_to_whom_their_parents_belong(self, root: Path, track: Path) -> None:
        os.chown(root, 12_345, 23_456)
        root.chmod(0o2750)
        status = self.made(root, track).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12_345, 23_456, 0o2750)

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_a_shared_folder_is_made_where_no_set_id_bit_may_be_set(self, root: Path, track: Path) -> None:
        """As systemd's RestrictSUIDSGID has it: chmod fails with EPERM."""
        root.chmod(0o2775)
        program = (
            "import os, sys; from pathlib import Path; from daemon.effects import files\n"
            "os.umask(0o077)\n"
            "source, target, root = map(Path, sys.argv[1:])\n"
            "files.commit_move(files.stage_move(source, target, within=root))\n"
        )
        target = root / "a" / "b" / "song.mp3"
        inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=chmod,fchmod,fchmodat:error=EPERM"]
        done = subprocess.run(
            [*inject, sys.executable, "-c", program, str(track), str(target), str(root)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        if "ptrace" in done.stderr:
            pytest.skip("strace may not trace here")
        if "not permitted" in done.stderr:
            pytest.skip("this file system has no access lists")
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE((root / "a" / "b").stat().st_mode) == 0o2775

    def test_a_folder_that_appears_meanwhile_is_used_and_kept(self, root: Path, track: Path) -> None:
        staged = files.stage_move(track, root / "a" / "song.mp3", within=root)
        put(root / "a" / "theirs.mp3", b"theirs")
        files.commit_move(staged)
        assert sorted(os.listdir(root / "a")) == ["song.mp3", "theirs.mp3"]

    def test_only_the_made_folders_that_are_empty_are_removed(self, root: Path) -> None:
        for name in ("a/b/c", "a/x"):
            (root / name).mkdir(parents=True)
        made = [root / "a", root / "a" / "b", root / "a" / "b" / "c", root / "gone"]
        assert files.remove_made(made) == (root / "a" / "b" / "c", root / "a" / "b")
        assert tree(root) == {str(root / "a"): None, str(root / "a" / "x"): None}


class TestEmptied:
    def test_emptied_folders_go_up_to_the_first_that_is_not(self, root: Path) -> None:
        (root / "a" / "b" / "c").mkdir(parents=True)
        put(root / "a" / "keep.mp3")
        assert files.remove_emptied(root / "a" / "b" / "c", root) == (root / "a" / "b" / "c", root / "a" / "b")
        assert sorted(os.listdir(root)) == ["a"]

    def test_the_root_and_what_is_outside_stay(self, root: Path, tmp_path: Path) -> None:
        (root / "a").mkdir()
        assert files.remove_emptied(root / "a", root) == (root / "a",)
        (tmp_path / "outside" / "x").mkdir(parents=True)
        (root / "link").symlink_to(tmp_path / "outside")
        with untouched(tmp_path):
            for folder in (
                root,
                tmp_path,
                tmp_path / "outside",
                root / "link" / "x",
                root / "link",
                root / ".." / "outside",
            ):
                assert files.remove_emptied(folder, root) == ()

    @pytest.mark.parametrize("junk", [".DS_Store", "Thumbs.db", "desktop.ini", ".hidden"])
    def test_what_holds_only_junk_is_not_empty(self, root: Path, junk: str) -> None:
        put(root / "a" / junk, b"junk")
        with untouched(root):
            assert files.remove_emptied(root / "a", root) == ()

    def test_a_root_that_is_reached_by_a_link_is_a_root(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "alias").symlink_to(root)
        (root / "a").mkdir()
        assert files.remove_emptied(tmp_path / "alias" / "a", tmp_path / "alias") == (tmp_path / "alias" / "a",)
        assert root.is_dir()


class TestRefusing:
    def refused(self, source: Path, target: Path, root: Path, reason: str, kind: type[FileTrouble] = BadFile) -> None:
        with untouched(root.parent), pytest.raises(kind, match=reason) as caught:
            files.stage_move(source, target, within=root)
        assert caught.value.path == source

    def test_what_stands_at_the_target_is_never_replaced(self, root: Path, track: Path) -> None:
        put(root / "file.mp3", b"theirs")
        put(root / "empty.mp3", b"")
        (root / "folder.mp3").mkdir()
        (root / "dangling.mp3").symlink_to(root / "nowhere")
        os.link(track, root / "twin.mp3")
        for name in ("file", "empty", "folder", "dangling", "twin"):
            self.refused(track, root / f"{name}.mp3", root, "something else stands")
            assert not files.is_free(root / f"{name}.mp3", track)
        assert files.is_free(root / "new" / "song.mp3", track)

    def test_a_file_is_not_moved_to_where_it_is(self, root: Path, track: Path) -> None:
        (root / "alias").symlink_to(track.parent)
        self.refused(track, track, root, "already")
        self.refused(track, root / "alias" / track.name, root, "already")
        assert not files.is_free(track, track)
        assert files.is_same_place(root / "alias" / track.name, track)
        assert not files.is_same_place(root / "alias" / "other.mp3", track)

    def test_no_way_leads_out_of_the_root(self, root: Path, track: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (root / "jazz").symlink_to(outside)
        (root / "self").symlink_to(root / "in")
        self.refused(track, root / "jazz" / "song.mp3", root, "a link on the way leads out")
        self.refused(track, root / "jazz" / "new" / "song.mp3", root, "a link on the way leads out")
        self.refused(track, outside / "song.mp3", root, "not below")
        self.refused(track, root / "in" / ".." / ".." / "song.mp3", root, "not below")
        self.refused(track, tmp_path / "musical" / "song.mp3", root, "not below")
        files.commit_move(files.stage_move(track, root / "self" / "song.mp3", within=root))
        assert (root / "in" / "song.mp3").read_bytes() == CONTENT

    def test_a_folder_of_the_way_that_is_none(self, root: Path, track: Path) -> None:
        put(root / "file", b"")
        (root / "dangling").symlink_to(root / "nowhere")
        self.refused(track, root / "file" / "a" / "song.mp3", root, "no folder")
        self.refused(track, root / "dangling" / "song.mp3", root, "no folder")

    def test_what_is_no_file_is_refused(self, root: Path, track: Path) -> None:
        os.mkfifo(root / "pipe.mp3")
        (root / "folder.mp3").mkdir()
        (root / "link.mp3").symlink_to(track)
        for name in ("pipe", "folder", "link", "gone"):
            with pytest.raises(BadFile):
                files.stage_move(root / f"{name}.mp3", root / "x" / "song.mp3", within=root)

    def test_a_root_that_is_away_is_a_matter_of_time(self, track: Path, tmp_path: Path) -> None:
        with pytest.raises(TryLater, match="not mounted"):
            files.stage_move(track, tmp_path / "away" / "song.mp3", within=tmp_path / "away")

    def test_a_name_that_is_too_long_is_no_matter_of_time(self, root: Path, track: Path) -> None:
        self.refused(track, root / ("x" * 256 + ".mp3"), root, "too long")
        staged = files.stage_move(track, root / "a" / ("x" * 256 + ".mp3"), within=root)
        with untouched(root), pytest.raises(BadFile, match="too long"):
            files.commit_move(staged)
        staged = files.stage_move(track, root / "a" / ("x" * 256) / "song.mp3", within=root)
        with untouched(root), pytest.raises(BadFile, match="too long"):
            files.commit_move(staged)

    def test_a_hard_link_does_not_leave_its_device(self, root: Path, track: Path, elsewhere: Path) -> None:
        os.link(track, root / "seeding.mp3")
        with untouched(root, elsewhere), pytest.raises(BadFile, match="hard links"):
            files.stage_move(track, elsewhere / "song.mp3", within=elsewhere)

    @ROOT_ONLY
    def test_a_read_only_disk_is_a_matter_of_time(self, root: Path, track: Path) -> None:
        other = root / "mounted"
        other.mkdir()
        with unmounted_afterwards(other):
            mount("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", other)
            self.refused(track, other / "a" / "song.mp3", root, "read-only", TryLater)

    @ROOT_ONLY
    def test_a_full_disk_is_a_matter_of_time(self, root: Path, track: Path) -> None:
        other = root / "mounted"
        other.mkdir()
        with unmounted_afterwards(other):
            mount("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", other)
            self.refused(track, other / "a" / "song.mp3", root, "no space", TryLater)

    def test_no_more_open_files_is_a_matter_of_time(self, root: Path, track: Path, elsewhere: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with untouched(root, elsewhere):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(TryLater):
                    files.stage_move(track, elsewhere / "song.mp3", within=elsewhere)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestMeanwhile:
    def staged(self, track: Path, within: Path) -> files.StagedMove:
        return files.stage_move(track, within / "a" / "b" / "song.mp3", within=within)

    @ways
    @pytest.mark.parametrize("far", [False, True])
    @pytest.mark.parametrize("kind", ["file", "empty", "folder", "link"])
    def test_what_appears_at_the_target_is_kept_and_the_file_too(
        self, root: Path, track: Path, elsewhere: Path, rename: RenameNoReplace, far: bool, kind: str
    ) -> None:
        staged = self.staged(track, elsewhere if far else root)
        staged.target.parent.mkdir(parents=True)
        if kind == "folder":
            staged.target.mkdir()
        elif kind == "link":
            staged.target.symlink_to("nowhere")
        else:
            staged.target.write_bytes(b"theirs" if kind == "file" else b"")
        before = tree(root, elsewhere)
        with pytest.raises(TryLater, match="something else stands"):
            files.commit_move(staged, rename=rename)
        after = tree(root, elsewhere)
        assert {path: bytes_ for path, bytes_ in before.items() if ".reclass-tmp" not in path} == after

    @pytest.mark.parametrize("far", [False, True])
    def test_a_change_of_the_file_is_noticed_and_kept(
        self, root: Path, track: Path, elsewhere: Path, far: bool
    ) -> None:
        staged = self.staged(track, elsewhere if far else root)
        times = track.stat()
        track.write_bytes(CONTENT.swapcase())
        os.utime(track, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(TryLater, match="changed"):
            files.commit_move(staged)
        assert tree(root, elsewhere) == {str(track.parent): None, str(track): CONTENT.swapcase()}

    @pytest.mark.parametrize("far", [False, True])
    def test_a_deleted_file_does_not_come_back(self, root: Path, track: Path, elsewhere: Path, far: bool) -> None:
        staged = self.staged(track, elsewhere if far else root)
        track.unlink()
        with pytest.raises(BadFile):
            files.commit_move(staged)
        assert tree(root, elsewhere) == {str(track.parent): None}

    def test_a_change_after_the_copy_got_its_name_takes_the_move_back(
        self, root: Path, track: Path, elsewhere: Path
    ) -> None:
        def rename(source: Path, target: Path) -> int:
            code = renameat2_noreplace(source, target)
            track.write_bytes(b"retagged")
            return code

        with pytest.raises(TryLater, match="changed"):
            files.commit_move(self.staged(track, elsewhere), rename=rename)
        assert tree(root, elsewhere) == {str(track.parent): None, str(track): b"retagged"}

    def test_a_deletion_after_the_copy_got_its_name_leaves_the_copy(
        self, root: Path, track: Path, elsewhere: Path
    ) -> None:
        def rename(source: Path, target: Path) -> int:
            code = renameat2_noreplace(source, target)
            track.unlink()
            return code

        staged = self.staged(track, elsewhere)
        files.commit_move(staged, rename=rename)
        assert staged.target.read_bytes() == CONTENT

    def test_an_error_between_devices_after_all_leaves_the_file(self, root: Path, track: Path) -> None:
        with untouched(root), pytest.raises(TryLater, match="cross-device"):
            files.commit_move(self.staged(track, root), rename=lambda source, target: errno.EXDEV)


class TestAcrossDevices:
    @ways
    def test_bytes_mode_times_and_attributes_arrive(
        self, root: Path, track: Path, elsewhere: Path, rename: RenameNoReplace
    ) -> None:
        with contextlib.suppress(OSError):
            os.setxattr(track, "user.rating", b"\x00five")
        attributes = os.listxattr(track)
        if os.geteuid() == 0:
            os.chown(track, 12_345, 23_456)
        before, target = track.stat(), elsewhere / "jazz" / "song.mp3"
        staged = files.stage_move(track, target, within=elsewhere)
        assert track.read_bytes() == CONTENT and staged.sha256 == files.sha256_of(track)
        assert staged.temporary is not None and files.is_temporary(staged.temporary) and staged.owner_kept
        state = files.commit_move(staged, rename=rename)
        after = target.stat()
        assert state == FileState.of(after)
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns"):
            assert getattr(after, name) == getattr(before, name), name
        assert [os.getxattr(target, name) for name in attributes] == [b"\x00five"] * len(attributes)
        assert tree(root, elsewhere) == {str(track.parent): None, str(target.parent): None, str(target): CONTENT}

    def test_an_attribute_that_would_get_lost_stops_the_move(self, root: Path, track: Path, elsewhere: Path) -> None:
        name = "user." + "x" * 20
        try:
            os.setxattr(track, name, b"y" * 3000)
        except OSError:
            pytest.skip("this file system has no extended attributes")
        other = root / "mounted"
        other.mkdir()
        with unmounted_afterwards(other):
            mount("mount", "-t", "ramfs", "ramfs", other)
            with untouched(root), pytest.raises(BadFile, match="attribute"):
                files.stage_move(track, other / "song.mp3", within=root)

    @ROOT_ONLY
    def test_between_two_mounts_of_one_device_the_file_is_copied(self, root: Path, track: Path, tmp_path: Path) -> None:
        """Between bind mounts rename says EXDEV, though the device has one number."""
        (tmp_path / "other").mkdir()
        (root / "bound").mkdir()
        with unmounted_afterwards(root / "bound"):
            mount("mount", "--bind", tmp_path / "other", root / "bound")
            target = root / "bound" / "jazz" / "song.mp3"
            assert (root / "bound").stat().st_dev == root.stat().st_dev
            staged = files.stage_move(track, target, within=root)
            assert staged.sha256 is not None
            files.commit_move(staged)
            assert target.read_bytes() == CONTENT and not track.exists()

    @ROOT_ONLY
    def test_a_file_that_may_not_be_removed_is_not_copied_either(self) -> None:
        """A user who may read the file's folder, but not write there, ends up with what there was."""
        with (
            tempfile.TemporaryDirectory(dir="/var/tmp") as here,
            tempfile.TemporaryDirectory(dir="/dev/shm") as there,
        ):
            if os.stat(here).st_dev == os.stat(there).st_dev:
                pytest.skip("there is no second device")
            os.chmod(here, 0o755)
            os.chmod(there, 0o777)
            track = put(Path(here, "song.mp3"))

            def work() -> None:
                os.setuid(65_534)
                with pytest.raises(BadFile, match="permission denied"):
                    files.commit_move(files.stage_move(track, Path(there, "a", "song.mp3"), within=Path(there)))

            with untouched(Path(here), Path(there)):
                assert in_child(work) == 0


class TestCase:
    """On real file systems: ext4 with casefold, NTFS (one inode for both spellings), exFAT (another inode for each)."""

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def as_shown(self, folder: Path, name: str) -> str:
        """The NTFS driver shows all names in lower case, whatever they are."""
        (folder / "Probe").mkdir()
        shown = "Probe" in os.listdir(folder)
        (folder / "Probe").rmdir()
        return name if shown else name.lower()

    def test_nothing_but_the_case_of_a_name_can_change(self, caseless: Path) -> None:
        put(caseless / "in" / "song.mp3")
        staged = files.stage_move(caseless / "in" / "song.mp3", caseless / "in" / "SONG.mp3", within=caseless)
        files.commit_move(staged)
        assert self.names(caseless / "in") == [self.as_shown(caseless, "SONG.mp3")]
        assert (caseless / "in" / "SONG.mp3").read_bytes() == CONTENT

    def test_a_folder_of_another_case_is_the_same_folder(self, caseless: Path) -> None:
        source = put(caseless / "rock" / "song.mp3")
        with untouched(caseless), pytest.raises(BadFile, match="already"):
            files.stage_move(source, caseless / "Rock" / "song.mp3", within=caseless)
        other = put(caseless / "in" / "song.mp3", b"other")
        with untouched(caseless), pytest.raises(BadFile, match="something else"):
            files.stage_move(other, caseless / "ROCK" / "Song.mp3", within=caseless)
        files.commit_move(files.stage_move(source, caseless / "Rock" / "Song.mp3", within=caseless))
        assert self.names(caseless) == ["in", "rock"] and self.names(caseless / "rock") == [
            self.as_shown(caseless, "Song.mp3")
        ]

    def test_is_free_sees_through_the_case(self, caseless: Path) -> None:
        source = put(caseless / "in" / "song.mp3")
        put(caseless / "in" / "other.mp3", b"other")
        assert files.is_free(caseless / "in" / "SONG.mp3", source)
        assert not files.is_free(caseless / "IN" / "song.mp3", source)
        assert files.is_same_place(caseless / "IN" / "song.mp3", source)
        assert not files.is_same_place(caseless / "in" / "SONG.mp3", source) or self.as_shown(caseless, "A") == "a"
        assert not files.is_free(caseless / "in" / "Other.mp3", source)

    def test_a_move_there_and_back(self, caseless: Path, root: Path, track: Path) -> None:
        target = caseless / "jazz" / "song.mp3"
        track.chmod(stat.S_IMODE(put(caseless / "probe").stat().st_mode))
        files.commit_move(files.stage_move(track, target, within=caseless))
        assert target.read_bytes() == CONTENT
        files.commit_move(files.stage_move(target, caseless / "rock" / "song.mp3", within=caseless))
        files.commit_move(files.stage_move(caseless / "rock" / "song.mp3", track, within=root))
        assert track.read_bytes() == CONTENT and self.names(caseless / "rock") == []

    def test_a_name_that_it_cannot_hold_is_no_matter_of_time(self, caseless: Path) -> None:
        source = put(caseless / "in" / "song.mp3")
        probe = caseless / "what?"
        try:
            probe.write_bytes(b"")
        except OSError:
            for target in (caseless / "what?.mp3", caseless / "what?" / "song.mp3"):
                with untouched(caseless), pytest.raises(BadFile):
                    files.commit_move(files.stage_move(source, target, within=caseless))
        else:
            pytest.skip("this file system takes every name")

    def test_a_change_of_case_that_fails_halfway_loses_nothing(self, caseless: Path) -> None:
        source, target = put(caseless / "in" / "song.mp3"), caseless / "in" / "SONG.mp3"
        staged = files.stage_move(source, target, within=caseless)
        codes = iter([None, errno.EIO, errno.EIO])

        def rename(one: Path, other: Path) -> int:
            code = next(codes)
            if code is None:
                os.rename(one, other)
            return code or 0

        with contextlib.suppress(TryLater):
            files.commit_move(staged, rename=rename)
        assert list(tree(caseless / "in").values()) == [CONTENT]
        files.settle_move(source, target, temporary=staged.temporary, sha256=None, made_folders=())
        assert tree(caseless / "in") == {str(caseless / "in" / self.as_shown(caseless, "SONG.mp3")): CONTENT}

    @pytest.mark.slow
    def test_killed_at_any_step_of_a_change_of_case_the_file_is_whole(self, caseless: Path, tmp_path: Path) -> None:
        for step in itertools.count(1):
            folder = caseless / f"at{step}"
            source, target = put(folder / "song.mp3", CONTENT[:100]), folder / "SONG.mp3"
            code = killed_at(step, source, target, folder, tmp_path / f"{step}.json", renameat2_noreplace)
            finished = settled(tmp_path / f"{step}.json", folder)
            name = self.as_shown(folder, "SONG.mp3" if finished else "song.mp3")
            assert tree(folder) == {str(folder / name): CONTENT[:100]}
            if code == 0:
                assert name == target.name or not finished
                assert step > 5
                break


# A crash anywhere: the process kills itself at its n-th call into the system (PEP 578 audit events: open, rename,
# remove, mkdir, chmod, utime), for every n until it gets through alive. What the caller writes into its ledger stands
# in a file here; then another process settles.


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit code."""
    with warnings.catch_warnings():
        # Python warns that other tests' libraries have threads; the child only touches files.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def die_at(step: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event.startswith(("open", "os.", "shutil.", "ctypes.")):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at(step: int, source: Path, target: Path, within: Path, record: Path, rename: RenameNoReplace) -> int:
    def work() -> None:
        die_at(step)
        staged = files.stage_move(source, target, within=within)
        fields = (staged.temporary, staged.sha256, staged.made_folders)
        record.with_suffix(".new").write_text(json.dumps([str(source), str(target), *fields], default=str))
        os.replace(record.with_suffix(".new"), record)
        files.commit_move(staged, rename=rename)

    code = in_child(work)
    assert code in (0, -signal.SIGKILL)
    return code


def settled(record: Path, within: Path) -> bool:
    if not record.exists():
        # Before the move was on record only a copy can lie about, which its name gives away.
        for folder in (within, *(path for path in within.rglob("*") if path.is_dir())):
            files.sweep(folder)
        return False
    source, target, temporary, sha256, made = json.loads(record.read_text())
    return files.settle_move(
        Path(source),
        Path(target),
        temporary=Path(temporary) if temporary else None,
        sha256=sha256,
        made_folders=[Path(folder) for folder in made],
    )


@pytest.mark.slow
@pytest.mark.parametrize("far", [False, True], ids=["one device", "two devices"])
@ways
def test_killed_at_any_step_of_a_move_there_is_one_whole_file_and_nothing_else(
    tmp_path: Path, elsewhere: Path, far: bool, rename: RenameNoReplace
) -> None:
    seen = {False: 0, True: 0}
    for step in itertools.count(1):
        here = tmp_path / f"at{step}"
        there = (elsewhere if far else here) / f"music{step}"
        there.mkdir(parents=True)
        source, target = put(here / "in" / "song.mp3"), there / "jazz" / "album" / "song.mp3"
        code = killed_at(step, source, target, there, tmp_path / f"{step}.json", rename)
        finished = settled(tmp_path / f"{step}.json", there)
        assert settled(tmp_path / f"{step}.json", there) is finished
        seen[finished] += 1
        found = {path: content for path, content in tree(here, there).items() if content is not None}
        assert found == {str(target if finished else source): CONTENT}
        assert finished or not any(there.iterdir())
        if code == 0:
            assert finished
            break
    assert step > 10 and seen[False] > 5 and seen[True] > 2


# Whatever is on disk: every combination of what may stand at the three places.

STATES = ("nothing", "whole", "half", "empty", "other", "folder", "link")


def arrange(path: Path, state: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if state == "folder":
        path.mkdir()
    elif state == "link":
        path.symlink_to("nowhere")
    elif state != "nothing":
        content = {"whole": b"music" * 9, "half": b"music", "empty": b"", "other": b"theirs"}
        path.write_bytes(content[state])


@pytest.mark.parametrize("copied", [False, True], ids=["renamed", "copied"])
@pytest.mark.parametrize("at_source", STATES)
def test_settling_never_loses_a_whole_file_nor_touches_a_strangers(
    tmp_path: Path, at_source: str, copied: bool
) -> None:
    for at_target, at_temporary in itertools.product(STATES, STATES):
        folder = tmp_path / f"{at_target}-{at_temporary}"
        source, target = folder / "in" / "song.mp3", folder / "jazz" / "song.mp3"
        name = files.temporary_name("song.mp3", "abc") if copied else "song.abc.moving.mp3"
        temporary = folder / name
        for path, state in ((source, at_source), (target, at_target), (temporary, at_temporary)):
            arrange(path, state)
        before = tree(folder)
        sha256 = files.sha256_of(put(tmp_path / "whole", b"music" * 9)) if copied else None
        with contextlib.suppress(FileTrouble):
            finished = files.settle_move(
                source, target, temporary=temporary, sha256=sha256, made_folders=[folder / "jazz"]
            )
            assert not finished or target.is_file()
            assert not finished or target.stat().st_size > 0 or at_temporary == "empty"
            assert not finished or not copied or target.read_bytes() == b"music" * 9
        after = tree(folder)
        case = f"{at_source} {at_target} {at_temporary}: {before} -> {after}"
        assert (b"music" * 9 in before.values()) == (b"music" * 9 in after.values()), case
        assert list(before.values()).count(b"theirs") - (copied and at_temporary == "other") == list(
            after.values()
        ).count(b"theirs"), case
        for path, state in ((source, at_source), (target, at_target)):
            if state in ("other", "half", "folder", "link"):
                assert after.get(str(path), "gone") == before[str(path)], case


class TestSettling:
    def settle(self, source: Path, target: Path, temporary: Path | None = None, made: tuple[Path, ...] = ()) -> bool:
        sha256 = files.sha256_of(put(source.parent.parent / "whole", CONTENT)) if temporary else None
        return files.settle_move(source, target, temporary=temporary, sha256=sha256, made_folders=made)

    def test_a_file_that_the_owner_changed_since_is_not_given_up_for_its_copy(self, root: Path, track: Path) -> None:
        target = put(root / "jazz" / "song.mp3")
        track.write_bytes(b"retagged")
        assert not self.settle(track, target, root / ".gone")
        assert (track.read_bytes(), target.read_bytes()) == (b"retagged", CONTENT)

    def test_the_only_copy_gets_a_name_that_is_seen(self, root: Path, track: Path) -> None:
        copy = put(root / files.temporary_name("song.mp3", "abc"))
        put(root / "jazz" / "song.mp3", b"theirs")
        track.write_bytes(b"")
        assert not self.settle(track, root / "jazz" / "song.mp3", copy)
        assert (root / "jazz" / "song (2).mp3").read_bytes() == CONTENT and not copy.exists()

    def test_both_spellings_of_one_file_are_not_two_copies(self, caseless: Path) -> None:
        source = put(caseless / "in" / "song.mp3")
        for target in (caseless / "in" / "SONG.mp3", caseless / "IN" / "song.mp3"):
            for temporary in (None, caseless / ".gone"):
                sha256 = files.sha256_of(source) if temporary else None
                files.settle_move(source, target, temporary=temporary, sha256=sha256, made_folders=())
                assert source.read_bytes() == CONTENT

    def test_the_only_copy_stays_on_its_device(self, root: Path, track: Path, elsewhere: Path) -> None:
        copy = put(elsewhere / files.temporary_name("song.mp3", "abc"))
        target = put(elsewhere / "jazz" / "song.mp3", b"theirs")
        track.unlink()
        assert not self.settle(track, target, copy)
        assert (elsewhere / "jazz" / "song (2).mp3").read_bytes() == CONTENT and not copy.exists()

    def test_a_second_name_of_the_same_file_is_one_too_many(self, root: Path, track: Path) -> None:
        target = root / "jazz" / "song.mp3"
        target.parent.mkdir()
        os.link(track, target)
        assert self.settle(track, target, root / ".gone")
        assert target.read_bytes() == CONTENT and not track.exists()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_copy_is_on_disk_before_the_original_goes(track: Path, elsewhere: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from daemon.effects import files\n"
        "source, target = map(Path, sys.argv[1:])\n"
        "files.commit_move(files.stage_move(source, target, within=target.parent))\n"
    )
    log, target = tmp_path / "trace", elsewhere / "song.mp3"
    command = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync,rename,renameat2,unlink,unlinkat", "-o", str(log)]
    done = subprocess.run([*command, sys.executable, "-c", program, str(track), str(target)], cwd=CHECKOUT)
    if done.returncode != 0 or not log.exists():
        pytest.skip("strace may not trace here")
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    assert [re.split(r"[(]", call)[0] for call in calls] == ["fsync", "renameat2", "fsync", "unlink", "fsync", "fsync"]
    assert "reclass-tmp" in calls[0] and "RENAME_NOREPLACE" in calls[1]
    assert f"{elsewhere}>" in calls[2] and str(track.parent) in calls[5]
