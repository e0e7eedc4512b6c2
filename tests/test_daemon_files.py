"""Files are replaced whole or not at all, keep what is theirs, and can be brought back to the very byte."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_audio import SUFFIXES, make

from daemon.core.errors import BadFile, TryLater, UndoRefused
from daemon.core.records import FileState
from daemon.effects import files, tags
from daemon.effects.files import HardLinks, Mtime, Staged

CONTENT = b"the old content, as it was" * 100


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and more")


def accept(_original: Path, _copy: Path) -> None:
    """A verification that finds nothing wrong."""


@pytest.fixture
def track(tmp_path: Path) -> Path:
    path = tmp_path / "Sigur Rós - 日本.mp3"
    path.write_bytes(CONTENT)
    path.chmod(0o640)
    os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return path


def everything(path: Path) -> tuple[object, ...]:
    status = os.lstat(path)
    return (path.read_bytes(), FileState.of(status), status.st_ctime_ns, status.st_mode, status.st_nlink)


@contextlib.contextmanager
def untouched(path: Path) -> Iterator[None]:
    """Whatever happens inside, the file is as it was, and nothing has been left beside it."""
    before, beside = everything(path), sorted(path.parent.iterdir())
    yield
    assert everything(path) == before
    assert sorted(path.parent.iterdir()) == beside


class TestReplacing:
    def test_the_edited_copy_takes_the_place_of_the_file(self, track: Path) -> None:
        staged = files.stage(track, append, accept)
        assert track.read_bytes() == CONTENT
        state = files.commit(staged)
        assert track.read_bytes() == CONTENT + b" and more"
        assert list(track.parent.iterdir()) == [track]
        assert state == FileState.of(track.stat())
        assert state.same_content(staged.after_state)
        assert files.sha256_of(track) == staged.after_sha256

    def test_verification_sees_the_original_and_the_copy(self, track: Path) -> None:
        seen: list[tuple[Path, bytes, bytes]] = []
        staged = files.stage(track, append, lambda one, two: seen.append((one, one.read_bytes(), two.read_bytes())))
        assert seen == [(track, CONTENT, CONTENT + b" and more")]
        files.discard(staged)
        assert list(track.parent.iterdir()) == [track]

    def test_mode_and_mtime_are_kept(self, track: Path) -> None:
        before = track.stat()
        files.commit(files.stage(track, append, accept))
        after = track.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)

    def test_mtime_can_tell_of_the_edit(self, track: Path) -> None:
        staged = files.stage(track, append, accept, mtime=Mtime.NOW, now_ns=lambda: 1_700_000_000_000_000_000)
        assert files.commit(staged).mtime_ns == 1_700_000_000_000_000_000

    def test_extended_attributes_are_kept(self, track: Path) -> None:
        try:
            os.setxattr(track, "user.rating", b"\x00five")
        except OSError:
            pytest.skip("this file system has no extended attributes")
        files.commit(files.stage(track, append, accept))
        assert os.getxattr(track, "user.rating") == b"\x00five"

    def test_access_lists_are_kept(self, track: Path) -> None:
        name = "system.posix_acl_access"
        entries = [(1, 6, -1), (2, 6, 12_345), (4, 4, -1), (16, 6, -1), (32, 0, -1)]  # user 12345 may read and write
        try:
            os.setxattr(track, name, struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *each) for each in entries))
        except OSError:
            pytest.skip("this file system has no access lists")
        before = os.getxattr(track, name), track.stat().st_mode
        files.commit(files.stage(track, append, accept))
        assert (os.getxattr(track, name), track.stat().st_mode) == before

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_the_owner_and_set_id_bits_are_kept(self, track: Path) -> None:
        os.chown(track, 12_345, 23_456)
        track.chmod(0o2644)
        files.commit(files.stage(track, append, accept))
        after = track.stat()
        assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (12_345, 23_456, 0o2644)

    def test_the_copy_is_private_until_it_is_dressed(self, track: Path) -> None:
        modes: list[int] = []
        staged = files.stage(track, lambda copy: modes.append(stat.S_IMODE(copy.stat().st_mode)), accept)
        files.discard(staged)
        assert modes == [0o600]

    def test_an_edit_that_changes_nothing_shows_in_the_hashes(self, track: Path) -> None:
        staged = files.stage(track, lambda _: None, accept)
        files.discard(staged)
        assert staged.before_sha256 == staged.after_sha256

    @pytest.mark.parametrize("name", ["x" * 251 + ".mp3", "日" * 83 + ".flac", "no suffix", ".mp3", "a.b c", "ends."])
    def test_any_name_will_do(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.write_bytes(CONTENT)
        staged = files.stage(path, append, accept)
        assert files.is_temporary(staged.temporary)
        assert not files.is_temporary(path)
        assert staged.temporary.name.startswith(".")
        assert len(os.fsencode(staged.temporary.name)) <= 255
        files.commit(staged)
        assert path.read_bytes() == CONTENT + b" and more"

    def test_the_copy_keeps_the_suffix(self, track: Path) -> None:
        suffixes: list[str] = []
        files.discard(files.stage(track, lambda copy: suffixes.append(copy.suffix), accept))
        assert suffixes == [".mp3"]

    def test_a_copy_never_overwrites_a_stranger(self, track: Path) -> None:
        stranger = track.with_name(files.temporary_name(track.name, "abc"))
        stranger.write_bytes(b"mine")
        with pytest.raises(TryLater, match="exists"):
            files.stage(track, append, accept, token=lambda: "abc")
        assert stranger.exists()
        assert stranger.read_bytes() == b"mine"


class TestRefusing:
    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), BadFile("/x", "no"), SystemExit(1)])
    @pytest.mark.parametrize("where", ["edit", "verify"])
    def test_a_failing_edit_or_verification_leaves_everything_as_it_was(
        self, track: Path, error: BaseException, where: str
    ) -> None:
        def fail(*paths: Path) -> None:
            append(paths[-1])
            raise error

        with untouched(track), pytest.raises(type(error)):
            files.stage(track, fail if where == "edit" else append, fail if where == "verify" else accept)

    def test_trouble_with_the_copy_is_told_of_the_file(self, track: Path) -> None:
        def edit(copy: Path) -> None:
            raise BadFile(copy, "has no room")

        with untouched(track), pytest.raises(BadFile, match="has no room") as caught:
            files.stage(track, edit, accept)
        assert caught.value.path == track

    def test_a_hard_linked_file_is_parked(self, track: Path, tmp_path: Path) -> None:
        os.link(track, tmp_path / "seeding.mp3")
        with untouched(track), pytest.raises(BadFile, match="hard links"):
            files.stage(track, append, accept)

    def test_a_hard_linked_file_can_be_parted_from_its_twin(self, track: Path, tmp_path: Path) -> None:
        twin = tmp_path / "seeding.mp3"
        os.link(track, twin)
        files.commit(files.stage(track, append, accept, hard_links=HardLinks.SPLIT))
        assert twin.read_bytes() == CONTENT
        assert track.read_bytes() == CONTENT + b" and more"

    def test_a_symbolic_link_is_refused(self, track: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.mp3"
        link.symlink_to(track)
        with untouched(track), pytest.raises(BadFile, match="symbolic link"):
            files.stage(link, append, accept)
        assert link.is_symlink()

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp3")
        (tmp_path / "folder.mp3").mkdir()
        for name in ("pipe.mp3", "folder.mp3", "gone.mp3"):
            with pytest.raises(BadFile):
                files.stage(tmp_path / name, append, accept)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_may_not_be_written_to(self, track: Path) -> None:
        track.parent.chmod(0o500)
        try:
            with untouched(track), pytest.raises(BadFile, match="beside it: permission denied"):
                files.stage(track, append, accept)
        finally:
            track.parent.chmod(0o700)

    @pytest.mark.parametrize("limit", [1000, len(CONTENT) + 4])
    def test_a_full_disk_is_a_matter_of_time(self, track: Path, limit: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with untouched(track):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with pytest.raises(TryLater):
                    files.stage(track, append, accept)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def rewrite_with_the_same_size_and_mtime(path: Path) -> None:
    before = path.stat()
    path.write_bytes(CONTENT.swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.replace(other, path)


class TestMeanwhile:
    changes = pytest.mark.parametrize("change", [grow, rewrite_with_the_same_size_and_mtime, replace_by_another])

    @changes
    def test_a_change_while_staging_is_noticed(self, track: Path, change: Callable[[Path], None]) -> None:
        def edit(copy: Path) -> None:
            append(copy)
            change(track)

        with pytest.raises(TryLater, match="changed"):
            files.stage(track, edit, accept)
        assert not [path for path in track.parent.iterdir() if files.is_temporary(path)]

    @changes
    def test_a_change_before_the_commit_is_noticed_and_kept(self, track: Path, change: Callable[[Path], None]) -> None:
        staged = files.stage(track, append, accept)
        change(track)
        theirs = track.read_bytes()
        with pytest.raises(TryLater, match="changed"):
            files.commit(staged)
        assert track.read_bytes() == theirs
        assert not staged.temporary.exists()

    def test_a_file_deleted_before_the_commit_does_not_come_back(self, track: Path) -> None:
        staged = files.stage(track, append, accept)
        track.unlink()
        with pytest.raises(BadFile):
            files.commit(staged)
        assert list(track.parent.iterdir()) == []


class TestUndo:
    def restore(self, staged: Staged, path: Path, mtime_ns: int | None = None) -> Staged:
        return files.stage_restore(
            path,
            staged.patch,
            after_sha256=staged.after_sha256,
            before_sha256=staged.before_sha256,
            mtime_ns=mtime_ns,
        )

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_retag_can_be_taken_back_and_back_again(self, tmp_path: Path, suffix: str) -> None:
        path = make(tmp_path / f"track{suffix}")
        old, mtime_ns = path.read_bytes(), path.stat().st_mtime_ns
        staged = files.stage(path, lambda copy: tags.write_genres(copy, ("Rock", "x" * 3000)), accept, mtime=Mtime.NOW)
        files.commit(staged)
        new = path.read_bytes()
        assert len(staged.patch) < 2500
        undone = self.restore(staged, path, mtime_ns)
        files.commit(undone)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (old, mtime_ns)
        files.commit(self.restore(undone, path))
        assert path.read_bytes() == new

    def test_undo_follows_a_moved_file(self, track: Path) -> None:
        staged = files.stage(track, append, accept)
        files.commit(staged)
        moved = track.rename(track.with_name("elsewhere.mp3"))
        files.commit(self.restore(staged, moved))
        assert moved.read_bytes() == CONTENT

    def test_undo_is_refused_where_the_owner_changed_the_file(self, track: Path) -> None:
        staged = files.stage(track, append, accept)
        files.commit(staged)
        grow(track)
        with untouched(track), pytest.raises(UndoRefused, match="changed since"):
            self.restore(staged, track)

    def test_a_damaged_record_is_refused_and_the_file_untouched(self, track: Path) -> None:
        def rewrite(copy: Path) -> None:
            copy.write_bytes(b"quite another content" * 50)

        staged = files.stage(track, rewrite, accept)
        files.commit(staged)
        for patch in (
            b"",
            b"nonsense" * 20,
            staged.patch[:-1],
            staged.patch[:-9] + bytes([staged.patch[-9] ^ 0xFF]) + staged.patch[-8:],
        ):
            with untouched(track), pytest.raises(UndoRefused):
                files.stage_restore(
                    track,
                    patch,
                    after_sha256=staged.after_sha256,
                    before_sha256=staged.before_sha256,
                    mtime_ns=None,
                )


def restored(new: Path, patch: bytes) -> bytes:
    out = BytesIO()
    files.apply_patch(new, patch, out)
    return out.getvalue()


@st.composite
def versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two versions of a file: random content, and the same after a few random edits."""
    random_bytes = random.Random(draw(st.integers(0, 2**32)))
    old = bytearray(random_bytes.randbytes(draw(st.sampled_from([0, 1, 7, 100, 5000, 70_000]))))
    new = bytearray(old)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(new)))
        length = draw(st.sampled_from([0, 1, 8, 300, 20_000]))
        new[at : at + length] = random_bytes.randbytes(draw(st.sampled_from([0, 1, 8, 300, 20_000])))
    return bytes(old), bytes(new)


class TestPatch:
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(pair=versions())
    def test_gives_back_the_old_bytes_whatever_was_edited(self, tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        old.write_bytes(pair[0])
        new.write_bytes(pair[1])
        patch = files.make_patch(new, old)
        assert restored(new, patch) == pair[0]
        assert len(patch) <= len(pair[0]) + 200

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_damaged_patch_is_refused_or_harmless(self, tmp_path: Path, data: st.DataObject) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        old.write_bytes(random.Random(1).randbytes(3000))
        new.write_bytes(random.Random(2).randbytes(1500) + old.read_bytes()[1000:])
        patch = bytearray(files.make_patch(new, old))
        patch[data.draw(st.integers(0, len(patch) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert restored(new, bytes(patch)) == old.read_bytes()
        except UndoRefused:
            return

    def test_pieces_beyond_the_first_are_restored_too(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        content = bytearray(random.Random(3).randbytes(3_400_000))
        old.write_bytes(content)
        for at in range(0, len(content), 4500):
            content[at : at + 8] = at.to_bytes(8, "little")
        new.write_bytes(b"x" * 1300 + content)
        patch = files.make_patch(new, old)
        assert restored(new, patch) == old.read_bytes()
        assert len(patch) < 20_000

    def test_an_insertion_costs_next_to_nothing(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        content = random.Random(4).randbytes(3_000_000)
        old.write_bytes(content)
        new.write_bytes(content[:10] + b"a new genre" + content[10:])
        assert len(files.make_patch(new, old)) < 100

    def test_pieces_that_stayed_or_only_moved_cost_four_bytes(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        content = random.Random(5).randbytes(5_000_000)
        old.write_bytes(content)
        new.write_bytes(b"RIFF" + content[4:2_500_000] + b"inserted" + content[2_500_000:-4] + b"last")
        patch = files.make_patch(new, old)
        assert restored(new, patch) == content
        assert len(patch) < 2000
        new.write_bytes(b"RIFF" + content[4:2_500_000] + content[2_600_000:-4] + b"last")
        patch = files.make_patch(new, old)
        assert restored(new, patch) == content
        assert len(patch) < 102_000

    def test_belongs_to_one_version_only(self, track: Path, tmp_path: Path) -> None:
        new = tmp_path / "new"
        new.write_bytes(CONTENT[::-1])
        patch = files.make_patch(new, track)
        new.write_bytes(CONTENT[::-1] + b"x")
        with pytest.raises(UndoRefused, match="another version"):
            restored(new, patch)

    def test_another_format_is_named(self, track: Path) -> None:
        patch = files.make_patch(track, track)
        with pytest.raises(UndoRefused, match="format 9"):
            restored(track, patch[:3] + b"\x09" + patch[4:])


class TestLeftovers:
    def leftover(self, folder: Path, name: str = "song.mp3") -> Path:
        path = folder / files.temporary_name(name, "0123abcd")
        path.write_bytes(b"half")
        return path

    def test_a_sweep_removes_copies_in_its_folder_and_nothing_else(self, tmp_path: Path) -> None:
        folder = tmp_path / "album"
        folder.mkdir()
        left, below = self.leftover(tmp_path), self.leftover(folder)
        kept = [tmp_path / name for name in ("song.mp3", ".hidden.mp3", "x.reclass-tmp.mp3", ".y.tmp.mp3")]
        for path in kept:
            path.write_bytes(b"music")
        assert files.sweep(tmp_path) == (left,)
        assert all(path.exists() for path in (*kept, below))
        assert not left.exists()
        assert files.sweep(tmp_path / "not there") == ()

    def test_a_killed_process_leaves_the_old_file_or_the_new_one(self, track: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from daemon.effects import files\n"
            "path = Path(sys.argv[1])\n"
            "def flip(copy): copy.write_bytes(copy.read_bytes().swapcase())\n"
            "print('ready', flush=True)\n"
            "while True: files.commit(files.stage(path, flip, lambda a, b: None))\n"
        )
        for attempt in range(3):
            command = [sys.executable, "-c", program, str(track)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(0.02 + 0.013 * attempt)
                process.send_signal(signal.SIGKILL)
            assert track.read_bytes() in (CONTENT, CONTENT.swapcase())
        files.sweep(track.parent)
        assert list(track.parent.iterdir()) == [track]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_answer(track: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from daemon.effects import files\n"
        "def edit(copy): copy.write_bytes(b'new')\n"
        "files.commit(files.stage(Path(sys.argv[1]), edit, lambda a, b: None))\n"
    )
    log = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o", str(log)]
    done = subprocess.run([*command, sys.executable, "-c", program, str(track)], cwd=Path(__file__).parents[1])
    if done.returncode != 0 or not log.exists():
        pytest.skip("strace may not trace here")
    calls = [line for line in log.read_text().splitlines() if "reclass-tmp" in line or "fsync" in line]
    assert [re.split(r"[( ]+", line)[1] for line in calls] == ["fsync", "rename", "fsync"]
    assert "reclass-tmp" in calls[0]
    assert str(track.parent) + ">" in calls[2]
