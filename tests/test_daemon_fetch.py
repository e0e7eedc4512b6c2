"""Fetching a file over HTTP: whole or not, on from where it stopped, and never by a way that others can read."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from publisher import Cut, Publisher, Say, Stall, Unmeasured, nobody, publishing

from daemon.core.errors import TryLater
from daemon.effects import fetch
from daemon.effects.fetch import FetchRefused, Plain, Terms

CONTENT = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
HALF = 150_000


@pytest.fixture(autouse=True)
def no_proxy_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def host() -> Iterator[Publisher]:
    with publishing() as publisher:
        publisher.put("model.pt", CONTENT)
        yield publisher


@dataclass
class Client:
    """Fetches into one partial file, and notes the pauses that it would have made and the progress that it told."""

    part: Path
    pauses: list[float] = field(default_factory=list)
    told: list[tuple[int, int | None]] = field(default_factory=list)

    def fetch(self, url: str, *, size_bytes: int | None = None, terms: Terms | None = None) -> bool:
        return fetch.download(
            url, self.part, size_bytes, lambda done, total: self.told.append((done, total)), terms, self.pauses.append
        )


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "model.pt.part")


# Whole


def test_a_file_comes_whole_and_is_told_as_it_comes(host: Publisher, client: Client) -> None:
    assert not client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    counts = [done for done, _ in client.told]
    assert counts == sorted(counts) and client.told[-1] == (len(CONTENT), len(CONTENT))
    assert os.listdir(client.part.parent) == [client.part.name]


def test_a_redirect_is_followed(host: Publisher, client: Client) -> None:
    host.script.append(Say(302, (("Location", host.url("model.pt")),)))
    client.fetch(host.url("latest"))
    assert client.part.read_bytes() == CONTENT


def test_a_file_of_unknown_size_comes_whole(host: Publisher, client: Client) -> None:
    host.script.append(Unmeasured())
    client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    assert client.told[-1] == (len(CONTENT), None)


def test_nothing_is_told_of_this_machine(host: Publisher, client: Client) -> None:
    client.fetch(host.url("model.pt"))
    _, headers = host.requests[0]
    assert set(headers) == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    assert headers["User-Agent"] == "music-reclass"


# On from where it stopped


@pytest.mark.parametrize("mark", [{"ETag": '"one"'}, {"Last-Modified": "Sun, 22 Nov 2026 08:00:00 GMT"}])
def test_a_cut_connection_is_taken_up_where_it_broke(host: Publisher, client: Client, mark: dict[str, str]) -> None:
    host.validators = mark
    host.script.append(Cut(HALF))
    assert client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    assert host.asked == ["", f"bytes={HALF}-"]
    assert host.requests[1][1]["If-Range"] == next(iter(mark.values()))
    assert client.pauses == [1.0]


def test_another_start_goes_on_where_the_last_one_stopped(host: Publisher, client: Client) -> None:
    host.script.extend([Cut(HALF), Say(404)])
    with pytest.raises(FetchRefused):
        client.fetch(host.url("model.pt"))
    assert client.part.stat().st_size == HALF
    assert client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    assert host.asked[-1] == f"bytes={HALF}-"


def test_a_server_without_ranges_is_asked_for_everything_again(host: Publisher, client: Client) -> None:
    host.ranges = False
    host.script.append(Cut(HALF))
    assert not client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_begun_again(host: Publisher, client: Client, heeds_if_range: bool) -> None:
    host.heeds_if_range = heeds_if_range
    host.script.extend([Cut(HALF), Say(404)])
    with pytest.raises(FetchRefused):
        client.fetch(host.url("model.pt"))
    host.put("model.pt", OTHER)
    host.validators = {"ETag": '"two"'}
    assert not client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == OTHER


@pytest.mark.parametrize("mark", [{}, {"ETag": 'W/"weak"'}])
def test_what_cannot_be_told_from_another_file_is_begun_again(
    host: Publisher, client: Client, mark: dict[str, str]
) -> None:
    host.validators = mark
    host.script.append(Cut(HALF))
    assert not client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    assert host.asked == ["", ""]


def test_a_part_that_is_whole_is_not_asked_for(host: Publisher, client: Client) -> None:
    client.part.write_bytes(CONTENT)
    assert client.fetch(host.url("model.pt"), size_bytes=len(CONTENT))
    assert host.requests == []


def test_a_part_longer_than_the_file_is_begun_again(host: Publisher, client: Client) -> None:
    host.script.extend([Cut(HALF), Say(404)])
    with pytest.raises(FetchRefused):
        client.fetch(host.url("model.pt"))
    host.put("model.pt", CONTENT[: HALF // 2])
    client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT[: HALF // 2]


# Patience


def test_a_server_in_trouble_is_asked_again(host: Publisher, client: Client) -> None:
    host.script.extend([Say(500), Say(503, (("Retry-After", "7"),))])
    client.fetch(host.url("model.pt"))
    assert client.part.read_bytes() == CONTENT
    assert client.pauses == [1.0, 7.0]


def test_patience_ends_and_starts_anew_with_every_byte(host: Publisher, client: Client) -> None:
    host.script.extend([Say(500)] * 3 + [Cut(1000)] + [Say(500)] * 4)
    with pytest.raises(FetchRefused, match=r"500 Internal Server Error .*tried 4 times; what came is kept"):
        client.fetch(host.url("model.pt"))
    assert client.pauses == [1.0, 3.0, 9.0, 1.0, 3.0, 9.0]
    assert client.part.read_bytes() == CONTENT[:1000]


def test_a_server_that_falls_silent_is_asked_again(host: Publisher, client: Client) -> None:
    host.script.append(Stall(HALF))
    assert client.fetch(host.url("model.pt"), terms=Terms(timeout_s=0.3))
    assert client.part.read_bytes() == CONTENT
    assert host.asked == ["", f"bytes={HALF}-"]


def test_where_nobody_answers_it_says_so(client: Client) -> None:
    with pytest.raises(FetchRefused, match=r"127\.0\.0\.1:\d+ cannot be reached: connection refused \(tried 4 times\)"):
        client.fetch(nobody() + "/model.pt")
    assert client.pauses == [1.0, 3.0, 9.0]


def test_without_a_network_it_says_so(client: Client) -> None:
    """Names below .invalid never exist (RFC 2606): the resolver's answer is that of a machine without a network."""
    with pytest.raises(FetchRefused, match=r"the name nowhere\.invalid cannot be looked up: is there a network\?"):
        client.fetch("https://nowhere.invalid/model.pt", terms=Terms(pauses_s=()))


@pytest.mark.parametrize(
    ("status", "words"), [(404, "there is no such file"), (403, "it refuses this file"), (410, "no longer there")]
)
def test_a_clear_no_is_taken_at_once(host: Publisher, client: Client, status: int, words: str) -> None:
    host.script.append(Say(status))
    with pytest.raises(FetchRefused, match=words):
        client.fetch(host.url("model.pt"))
    assert (client.pauses, client.part.exists()) == ([], False)


def test_a_file_of_another_size_is_not_even_begun(host: Publisher, client: Client) -> None:
    with pytest.raises(FetchRefused, match="300000 bytes there, but 7 were expected"):
        client.fetch(host.url("model.pt"), size_bytes=7)
    assert not client.part.exists()


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield place
    subprocess.run(["umount", place], check=True)


def test_what_does_not_fit_on_the_disk_is_not_begun(host: Publisher, small_disk: Path) -> None:
    client = Client(small_disk / "model.pt.part")
    with pytest.raises(TryLater, match=r"the disk is full: 0\.3 MB are to come and 0\.1 MB are left"):
        client.fetch(host.url("model.pt"))
    assert not client.part.exists()


def test_a_disk_that_fills_up_ends_it_and_what_came_is_kept(host: Publisher, small_disk: Path) -> None:
    client = Client(small_disk / "model.pt.part")
    host.script.append(Unmeasured())
    with pytest.raises(TryLater, match="no space left on device"):
        client.fetch(host.url("model.pt"))
    held = client.part.read_bytes()
    assert held and CONTENT.startswith(held)


# The way


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/model.pt", "is not encrypted; only https is followed"),
        ("ftp://example.org/model.pt", "is not an https address"),
        ("file:///etc/passwd", "is not an https address"),
        ("https:///model.pt", "is not an https address"),
    ],
)
def test_only_an_encrypted_address_is_followed(client: Client, url: str, words: str) -> None:
    with pytest.raises(FetchRefused, match=words):
        client.fetch(url)


@pytest.mark.parametrize("target", ["http://example.org/model.pt", "ftp://example.org/model.pt", "file:///etc/passwd"])
def test_a_redirect_leads_nowhere_that_an_address_may_not(host: Publisher, client: Client, target: str) -> None:
    host.script.append(Say(302, (("Location", target),)))
    with pytest.raises(FetchRefused, match=r"only https is followed|is not an https address|is not allowed"):
        client.fetch(host.url("model.pt"))
    assert not client.part.exists()


def test_the_environments_proxy_is_used(host: Publisher, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", host.address)
    client.fetch("http://models.example/model.pt", terms=Terms(plain=Plain.ANYWHERE))
    assert client.part.read_bytes() == CONTENT
    assert host.requests[0][0] == "http://models.example/model.pt"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that nobody has signed, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=here"
    words = [*request.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    with open(path, "ab") as out:
        out.write(Path(f"{path}.crt").read_bytes())
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused(client: Client, certificate: Path) -> None:
    with publishing(str(certificate)) as host:
        with pytest.raises(FetchRefused, match=r"the certificate of 127\.0\.0\.1:\d+ cannot be trusted: self-signed"):
            client.fetch(host.put("model.pt", CONTENT))
        assert host.requests == []


def test_an_encrypted_file_comes_and_is_not_redirected_into_the_open(
    client: Client, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    with publishing(str(certificate)) as host:
        client.fetch(host.put("model.pt", CONTENT))
        assert client.part.read_bytes() == CONTENT
        host.script.append(Say(301, (("Location", "http://example.org/model.pt"),)))
        client.part.unlink()
        with pytest.raises(FetchRefused, match="only https is followed"):
            client.fetch(host.url("model.pt"))
