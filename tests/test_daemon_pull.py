"""`music-reclass models pull`: the right file or none, taken up where it stopped, and nothing that nobody asked for."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from console import Command
from live import PATIENCE_S, clean_environment
from make_bundle import make_track
from publisher import Cut, Publisher, Say, Stall, nobody, publishing

from daemon import pulling
from daemon.core import bundle, catalogue
from daemon.core.catalogue import Network, Pretrained, RemoteFile
from daemon.core.errors import BadFile, BundleError, TryLater
from daemon.effects import checkpoints, models
from daemon.effects.fetch import Advance, FetchRefused, Terms
from daemon.pulling import Arrival, How, Known, Order, PullRefused, Trust

WEIGHTS = random.Random(3).randbytes(400_000)
SETTINGS = b'{"model_type": "none"}'
WRONG = random.Random(4).randbytes(400_000)
HALF = 200_000


@pytest.fixture(autouse=True)
def no_proxy_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def host() -> Iterator[Publisher]:
    with publishing() as publisher:
        publisher.put("releases/net.pt", WEIGHTS)
        publisher.put("releases/settings.json", SETTINGS)
        yield publisher


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def published(host: Publisher, *, known: bool = True) -> Pretrained:
    """A network of two files at the host, with hashes and sizes or without."""
    files = [
        RemoteFile(
            name,
            host.url(f"releases/{name}"),
            sha256(content) if known else None,
            len(content) if known else None,
        )
        for name, content in (("net.pt", WEIGHTS), ("settings.json", SETTINGS))
    ]
    return Pretrained("net", (), Network.MOBILENET, tuple(files), "MIT", "tests", "nobody")


@pytest.fixture
def order(host: Publisher, tmp_path: Path) -> Order:
    return Order(published(host), tmp_path / "models", terms=Terms(pauses_s=(0.0, 0.0)))


@contextmanager
def unseen(file: RemoteFile) -> Iterator[Advance]:
    yield lambda done, total: None


def pull(order: Order) -> tuple[Arrival, ...]:
    return pulling.pull(order, unseen)


def held(order: Order) -> dict[str, bytes]:
    """What is in the checkpoint's folder, but for the list of hashes."""
    return {path.name: path.read_bytes() for path in order.folder.iterdir() if path.name != checkpoints.SUMS}


WHOLE = {"net.pt": WEIGHTS, "settings.json": SETTINGS}


# What arrives


def test_every_file_arrives_with_the_hash_that_the_catalogue_knows(order: Order) -> None:
    arrived = pull(order)
    assert held(order) == WHOLE
    assert [(each.how, each.known) for each in arrived] == [(How.FETCHED, Known.CATALOGUE)] * 2
    assert order.folder == order.models_directory / "checkpoints" / "net"


def test_the_hashes_are_kept_in_the_form_that_sha256sum_checks(order: Order) -> None:
    pull(order)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=order.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split() == ["net.pt:", "OK", "settings.json:", "OK"]


def test_checkpoints_are_not_taken_for_bundles(order: Order) -> None:
    pull(order)
    assert models.available(order.models_directory) == []


def test_what_is_there_is_not_asked_for_again(order: Order, host: Publisher) -> None:
    pull(order)
    host.requests.clear()
    assert [each.how for each in pull(order)] == [How.THERE, How.THERE]
    assert host.requests == []


def test_a_pull_that_stopped_between_two_files_fetches_the_rest(order: Order, host: Publisher) -> None:
    settings = host.files.pop("/releases/settings.json")
    with pytest.raises(FetchRefused, match="there is no such file"):
        pull(order)
    host.files["/releases/settings.json"] = settings
    assert [each.how for each in pull(order)] == [How.THERE, How.FETCHED]
    assert held(order) == WHOLE


def test_a_file_that_rotted_on_disk_is_fetched_again(order: Order) -> None:
    pull(order)
    (order.folder / "net.pt").write_bytes(WRONG)
    assert pull(order)[0].how is How.FETCHED
    assert held(order) == WHOLE


# The wrong bytes


def test_a_file_with_another_hash_is_refused_and_replaces_nothing(order: Order, host: Publisher) -> None:
    pull(order)
    (order.folder / "net.pt").write_bytes(b"what was there")
    host.put("releases/net.pt", WRONG)
    with pytest.raises(BadFile, match=f"has the SHA-256 {sha256(WRONG)}, expected was {sha256(WEIGHTS)}; nothing was"):
        pull(order)
    assert held(order) == WHOLE | {"net.pt": b"what was there"}


def test_a_part_with_the_wrong_beginning_is_not_trusted_for_long(order: Order, host: Publisher) -> None:
    """Another process, or a bad disk, spoilt what an earlier try had left: the file comes whole in the same pull."""
    host.script.extend([Cut(HALF), Say(404)])
    with pytest.raises(FetchRefused):
        pull(order)
    (order.folder / "net.pt.part").write_bytes(WRONG[:HALF])
    host.requests.clear()
    assert pull(order)[0].how is How.FETCHED
    assert held(order) == WHOLE
    assert host.asked[:2] == [f"bytes={HALF}-", ""]


def test_a_host_that_always_cuts_and_sends_the_wrong_bytes_is_given_up(order: Order, host: Publisher) -> None:
    host.put("releases/net.pt", WRONG)
    host.script.extend([Cut(HALF), Cut(HALF), Cut(HALF), Cut(HALF)])
    with pytest.raises(BadFile, match="nothing was replaced"):
        pull(order)
    assert held(order) == {}


# Where it comes from


def test_a_folder_of_this_machine_will_do(order: Order, host: Publisher, tmp_path: Path) -> None:
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content)
    arrived = pull(replace(order, given=str(tmp_path)))
    assert [each.how for each in arrived] == [How.COPIED, How.COPIED]
    assert held(order) == WHOLE
    assert host.requests == []


def test_a_file_of_this_machine_will_do_whatever_its_name(order: Order, tmp_path: Path) -> None:
    alone = replace(order, entry=replace(order.entry, files=order.entry.files[:1]))
    (tmp_path / "a download(1)").write_bytes(WEIGHTS)
    pull(replace(alone, given=str(tmp_path / "a download(1)")))
    assert held(alone) == {"net.pt": WEIGHTS}


def test_the_wrong_file_of_this_machine_is_refused_and_stays(order: Order, tmp_path: Path) -> None:
    alone = replace(order, entry=replace(order.entry, files=order.entry.files[:1]))
    (tmp_path / "net.pt").write_bytes(WRONG)
    with pytest.raises(BadFile, match="refused"):
        pull(replace(alone, given=str(tmp_path)))
    assert held(alone) == {}
    assert (tmp_path / "net.pt").read_bytes() == WRONG


def test_a_folder_must_hold_every_file_before_any_is_taken(order: Order, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(WEIGHTS)
    with pytest.raises(PullRefused, match=r"settings\.json: there is no such file"):
        pull(replace(order, given=str(tmp_path)))
    with pytest.raises(PullRefused, match=r"is not a folder; net needs one with net\.pt, settings\.json"):
        pull(replace(order, given=str(tmp_path / "net.pt")))
    assert not order.folder.exists()


def test_a_mirror_has_the_same_paths_on_another_host(order: Order, host: Publisher) -> None:
    with publishing() as mirror:
        mirror.files = {f"/europe{path}": content for path, content in host.files.items()}
        pull(replace(order, mirror=f"{mirror.address}/europe/"))
    assert held(order) == WHOLE
    assert host.requests == []


def test_an_address_is_that_of_the_file_or_of_its_folder(order: Order, host: Publisher) -> None:
    host.put("copies/net.pt", WEIGHTS)
    host.put("copies/settings.json", SETTINGS)
    pull(replace(order, given=host.url("copies")))
    assert [path for path, _ in host.requests] == ["/copies/net.pt", "/copies/settings.json"]
    alone = replace(order.entry, name="alone", files=order.entry.files[:1])
    host.requests.clear()
    for given in (host.url("copies/net.pt"), host.url("copies/")):
        one = replace(order, entry=alone, given=given)
        pull(one)
        (one.folder / "net.pt").unlink()
    assert [path for path, _ in host.requests] == ["/copies/net.pt", "/copies/net.pt"]


def test_a_part_of_one_host_is_not_continued_with_another_file_of_another(order: Order, host: Publisher) -> None:
    host.script.extend([Cut(HALF), Say(404)])
    with pytest.raises(FetchRefused):
        pull(order)
    with publishing() as mirror:
        mirror.files = host.files
        mirror.validators = {"ETag": '"of the mirror"'}
        assert pull(replace(order, mirror=mirror.address))[0].how is How.FETCHED
    assert held(order) == WHOLE


# Whom to believe


def test_what_nobody_knows_the_hash_of_is_not_fetched(order: Order, host: Publisher) -> None:
    with pytest.raises(PullRefused, match=r"does not know the hash of net\.pt.* --sha256 HEX .*--trust-first-use"):
        pull(replace(order, entry=published(host, known=False)))
    assert host.requests == []


def test_trust_at_first_use_is_trust_in_those_very_bytes(order: Order, host: Publisher) -> None:
    unknown = replace(order, entry=published(host, known=False))
    assert pull(replace(unknown, trust=Trust.FIRST_USE))[0].known is Known.NOBODY
    (order.folder / "net.pt").unlink()
    host.put("releases/net.pt", WRONG)
    for trust in Trust:
        with pytest.raises(BadFile, match=f"expected was {sha256(WEIGHTS)}"):
            pull(replace(unknown, trust=trust))
    host.put("releases/net.pt", WEIGHTS)
    assert pull(unknown)[0].known is Known.RECORD


def test_the_owner_can_say_that_there_is_a_new_release(order: Order, host: Publisher) -> None:
    pull(order)
    host.put("releases/net.pt", WRONG)
    entry = replace(order.entry, files=(replace(order.entry.files[0], size_bytes=None), *order.entry.files[1:]))
    arrived = pull(replace(order, entry=entry, sha256=sha256(WRONG)))
    assert [(each.how, each.known) for each in arrived] == [(How.FETCHED, Known.OWNER), (How.THERE, Known.CATALOGUE)]
    assert held(order)["net.pt"] == WRONG


def test_two_pulls_of_one_network_do_not_meet(order: Order) -> None:
    with checkpoints.alone(order.folder), pytest.raises(TryLater, match="another pull is at work there"):
        pull(order)
    pull(order)


# The catalogue


def test_names_and_aliases_lead_to_one_network_each() -> None:
    names = [name for entry in catalogue.CATALOGUE for name in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)
    assert all(catalogue.find(name).name == entry.name for entry in catalogue.CATALOGUE for name in entry.aliases)
    with pytest.raises(BundleError, match="nonsense: no pretrained network of that name; there are efficientat-mn04,"):
        catalogue.find("nonsense")


def test_every_address_is_encrypted_and_every_hash_is_one() -> None:
    for entry in catalogue.CATALOGUE:
        for file in entry.files:
            assert file.url.startswith("https://") and file.url.endswith(f"/{file.name}")
            assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
            assert (file.sha256 is None) == (file.size_bytes is None)


@pytest.mark.data
def test_the_catalogue_knows_the_real_file(data_dir: Path, tmp_path: Path) -> None:
    content = (data_dir / "weights" / "efficientat_mn04_as_mAP_432.pt").read_bytes()
    with publishing() as host:
        host.put("fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt", content)
        host.script.append(Cut(1_000_000))
        order = Order(catalogue.find("mn04"), tmp_path, mirror=host.address, terms=Terms(pauses_s=(0.0,)))
        (arrival,) = pull(order)
    assert (arrival.how, arrival.known) == (How.CONTINUED, Known.CATALOGUE)
    assert arrival.path.read_bytes() == content


# The command


@pytest.fixture
def without_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the trainer's libraries are not installed."""
    monkeypatch.setattr(pulling, "TRAINERS_LIBRARIES", ("a_library_that_nobody_has",))


def test_the_list_says_what_there_is_and_what_is_here(command: Command, music: Path) -> None:
    shown = command("models", "pull", "--list")
    assert shown.code == 0
    for word in ("efficientat-mn04", "mn04", "4.1 MB", "MIT", "ast", "346.4 MB", "BSD-3-Clause", "not known"):
        assert word in shown.out
    folder = music.parent / "models" / "checkpoints" / "efficientat-mn20"
    folder.mkdir(parents=True)
    (folder / "mn20_as_mAP_478.pt").touch()
    rows = {row["name"]: row for row in command("models", "pull", "--list", "--json").objects}
    assert {name for name, row in rows.items() if row["here"]} == {"efficientat-mn20"}
    assert rows["ast"]["files"][0]["size_bytes"] == 346_404_948


@pytest.mark.usefixtures("without_the_trainer")
def test_without_the_trainer_it_ends_with_the_checkpoint(command: Command, music: Path, host: Publisher) -> None:
    arguments = ("models", "pull", "mn04", "--from", host.url("releases/net.pt"), "--sha256", sha256(WEIGHTS).upper())
    done = command(*arguments)
    assert done.code == 0, done.err
    path = music.parent / "models" / "checkpoints" / "efficientat-mn04" / "mn04_as_mAP_432.pt"
    assert path.read_bytes() == WEIGHTS
    assert f"{path}: fetched, with the hash that you gave\n" in done.out
    assert "pip install 'music-reclass[trainer]'; missing: a_library_that_nobody_has" in done.out
    again = command(*arguments, "--json")
    (told,) = again.objects
    assert told == {
        "name": "efficientat-mn04",
        "files": [
            {"path": str(path), "sha256": sha256(WEIGHTS), "how": "already there", "hash_known_by": "--sha256"},
        ],
        "bundle": None,
        "note": told["note"],
    }
    assert "the checkpoint is there" in told["note"]


@pytest.mark.usefixtures("without_the_trainer")
def test_where_no_terminal_is_lines_tell_how_it_goes(command: Command, host: Publisher) -> None:
    done = command("models", "pull", "mn04", "--from", host.url("releases/net.pt"), "--sha256", sha256(WEIGHTS))
    lines = [line for line in done.err.splitlines() if line.startswith("mn04_as_mAP_432.pt: ")]
    assert lines[0] == "mn04_as_mAP_432.pt: 0.0 kB of 0.4 MB (0 %)"
    assert lines[-1] == "mn04_as_mAP_432.pt: 0.4 MB of 0.4 MB (100 %)"
    assert len(lines) <= 11


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "name what to pull"),
        (("nonsense",), 1, "no pretrained network of that name; there are efficientat-mn04"),
        (("mn04", "--sha256", "abc"), 2, "a SHA-256 has 64 hexadecimal digits"),
        (("mn04", "--from", "x", "--mirror", "https://example.org"), 2, "exclude each other"),
        (("mn04", "--from", "/nowhere/at/all"), 1, "there is no such file"),
        (("mn04", "--from", "ftp://example.org/net.pt"), 1, "is not an https address"),
        (("mn04", "--mirror", "http://example.org"), 1, "is not encrypted; only https is followed"),
        (("mn20",), 1, "does not know the hash of mn20_as_mAP_478.pt"),
    ],
)
def test_what_cannot_be_done_is_said(command: Command, arguments: tuple[str, ...], code: int, words: str) -> None:
    refused = command("models", "pull", *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert words in refused.err


def test_a_wrong_file_ends_it(command: Command, music: Path, host: Publisher) -> None:
    refused = command("models", "pull", "mn04", "--from", host.url("releases/net.pt"), "--sha256", sha256(WRONG))
    assert refused.code == 1
    assert f"refused: what came has the SHA-256 {sha256(WEIGHTS)}" in refused.err
    assert os.listdir(music.parent / "models" / "checkpoints" / "efficientat-mn04") == []


@pytest.mark.usefixtures("without_the_trainer")
def test_an_unencrypted_address_is_taken_where_it_was_typed_out(
    command: Command, host: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy stands for the host that has no https: no name is looked up here."""
    monkeypatch.setenv("http_proxy", host.address)
    arguments = ("--from", "http://models.example/releases/net.pt", "--sha256", sha256(WEIGHTS))
    assert command("models", "pull", "mn04", *arguments).code == 0


@pytest.mark.usefixtures("without_the_trainer")
def test_a_bundle_of_the_owners_is_not_replaced(
    command: Command, music: Path, host: Publisher, tone_bundle: Path
) -> None:
    place = music.parent / "models" / "efficientat-mn04-audioset"
    place.parent.mkdir()
    place.symlink_to(tone_bundle)
    refused = command("models", "pull", "mn04", "--from", host.url("releases/net.pt"), "--sha256", sha256(WEIGHTS))
    assert refused.code == 1
    assert "is a bundle of yours and is not replaced" in refused.err


# The bundle


@pytest.mark.data
@pytest.mark.slow
def test_a_pulled_network_becomes_a_bundle_that_serves(
    command: Command, music: Path, host: Publisher, data_dir: Path
) -> None:
    host.put("mn04.pt", (data_dir / "weights" / "efficientat_mn04_as_mAP_432.pt").read_bytes())
    done = command("models", "pull", "mn04", "--from", host.url("mn04.pt"))
    assert done.code == 0, done.err
    place = music.parent / "models" / "efficientat-mn04-audioset"
    assert f"{place}: made; `music-reclass models use efficientat-mn04-audioset`" in done.out
    assert "no genre for: Hip hop," in done.out
    assert command("models", "check", "efficientat-mn04-audioset").code == 0
    host.requests.clear()
    made = place.stat().st_ino
    assert f"{place}: was there" in command("models", "pull", "mn04", "--from", host.url("mn04.pt")).out
    assert (host.requests, place.stat().st_ino) == ([], made)


def test_a_bundle_is_made_again_for_another_checkpoint_or_other_genres(order: Order, tone_bundle: Path) -> None:
    place = order.bundle_folder
    shutil.copytree(tone_bundle, place)
    facts = json.loads((place / bundle.MANIFEST).read_text(encoding="utf-8"))
    facts["provenance"] = {"converted_from": "net", "checkpoint_sha256": "a" * 64, "taxonomy_hash": "genres"}
    (place / bundle.MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    assert pulling.is_made(order, "a" * 64, "genres")
    assert not pulling.is_made(order, "b" * 64, "genres")
    assert not pulling.is_made(order, "a" * 64, "other genres")
    (place / "golden.npz").unlink()
    with pytest.raises(PullRefused, match=r"golden\.npz.*; remove that folder and pull again"):
        pulling.is_made(order, "a" * 64, "genres")


@pytest.mark.slow
def test_what_is_no_network_makes_no_bundle_and_the_trainer_says_why(
    command: Command, music: Path, host: Publisher
) -> None:
    arguments = ("--from", host.url("releases/net.pt"), "--sha256", sha256(WEIGHTS))
    refused = command("models", "pull", "mn04", *arguments)
    assert refused.code == 1
    assert "mn04_as_mAP_432.pt: is no file of weights" in refused.err
    assert "the checkpoint is there, but no bundle could be made of it (exit code 1)" in refused.err
    assert sorted(path.name for path in (music.parent / "models").iterdir()) == ["checkpoints"]


# Ends of the process


@contextmanager
def pulling_process(music: Path, home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "daemon", "--config", str(music.parent / "config.yaml"), "models", "pull", "mn04"]
    process = subprocess.Popen(
        [*command, *arguments],
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background of a shell ignores Ctrl-C, and so does what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_is_ended_in_the_middle_goes_on_from_there(
    music: Path, host: Publisher, home: Path, how: signal.Signals
) -> None:
    order = Order(catalogue.find("mn04"), music.parent / "models", host.url("releases/net.pt"), sha256=sha256(WEIGHTS))
    part = order.folder / "mn04_as_mAP_432.pt.part"
    host.script.append(Stall(HALF))
    with pulling_process(music, home, "--from", str(order.given), "--sha256", str(order.sha256)) as process:
        wait_until(lambda: part.exists() and part.stat().st_size == HALF)
        process.send_signal(how)
        code = process.wait(PATIENCE_S)
    assert code == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    (arrival,) = pull(order)
    assert arrival.how is How.CONTINUED
    assert arrival.path.read_bytes() == WEIGHTS
    assert host.asked == ["", f"bytes={HALF}-"]
    assert sorted(path.name for path in order.folder.iterdir()) == ["SHA256SUMS", "mn04_as_mAP_432.pt"]


BAR = """
import sys, time
from daemon import show_pull
from daemon.core import bundle, catalogue

with show_pull.transfer(catalogue.find("mn04").weights) as advance:
    advance(4_000_000, 4_066_513)
"""


def test_on_a_terminal_a_bar_tells_how_it_goes() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", BAR], stderr=theirs, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"mn04_as_mAP_432.pt" in shown and b"4.0/4.1 MB" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        # What Linux says where nobody has the other end open any more.
        return b""


WATCHED = """
import json, sys

def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise AssertionError(f"{event} {details}")

sys.addaudithook(watch)
from daemon.__main__ import main

config, commands = sys.argv[1], json.loads(sys.argv[2])
for arguments in commands:
    sys.argv = ["music-reclass", "--config", config, *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 1), f"{arguments}: {end.code}"
"""


def run_watched(music: Path, home: Path, *commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run commands in one process that dies at the first attempt to reach anybody."""
    words = [sys.executable, "-c", WATCHED, str(music.parent / "config.yaml"), json.dumps(commands)]
    environment = clean_environment(home) | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(words, cwd=music, env=environment, capture_output=True, text=True, check=False)


def test_no_other_command_opens_a_connection(music: Path, home: Path) -> None:
    make_track(music / "song.flac", "jazz")
    quiet = [
        ("models", "list"),
        ("models", "pull", "--list"),
        ("classify", "."),
        ("apply", "."),
        ("doctor",),
        ("status",),
    ]
    done = run_watched(music, home, *quiet)
    assert done.returncode == 0, done.stderr
    assert "1 applied" in done.stdout


def test_a_connection_would_have_been_noticed(music: Path, home: Path) -> None:
    done = run_watched(music, home, ("models", "pull", "mn04", "--from", f"{nobody()}/net.pt"))
    assert "AssertionError: urllib.Request" in done.stderr
