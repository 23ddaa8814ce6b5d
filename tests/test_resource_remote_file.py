"""The kind remote_file."""

from __future__ import annotations

import hashlib
import http.server
import socket
import stat
import threading

import pytest

from tests.kitchens import changes, failure, states
from tests.support import eventually


class Server:
    """An HTTP server on this machine that answers what a test tells it to."""

    def __init__(self):
        self.content = b"fetched\n"
        self.etag = ""
        self.last_modified = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.announced = None
        self.leads_to = ""
        self.stalls = threading.Event()
        self.goes_on = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append((self.path, dict(self.headers)))
                server.answer(self)

            def log_message(self, *_arguments):
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = False
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._httpd.server_port}/file"

    def answer(self, request):
        known = self.etag and request.headers.get("If-None-Match") == self.etag
        known = known or (
            self.last_modified and request.headers.get("If-Modified-Since") == self.last_modified
        )
        status = 304 if known else self.status
        request.send_response(status)
        if self.leads_to:
            request.send_header("Location", self.leads_to)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.last_modified:
            request.send_header("Last-Modified", self.last_modified)
        content = b"" if status == 304 else self.content
        length = len(content) if self.announced is None else self.announced
        request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(content)
        if self.announced is not None and self.stalls.is_set():
            request.wfile.flush()
            self.goes_on.wait(20)

    def close(self):
        self.goes_on.set()
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def waiting_content(site):
    return list((site.folder / "state" / "remote_files").glob("*.content"))


# --- http


def test_a_file_is_fetched_with_its_mode_and_not_written_again(site, server):
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}', mode='0640')")

    assert changes(site.converge()) == [[f"write {site.folder}/a"]]
    assert site.text("a") == "fetched\n"
    assert stat.S_IMODE((site.folder / "a").stat().st_mode) == 0o640
    inode = (site.folder / "a").stat().st_ino

    assert states(site.converge()) == ["unchanged"]
    assert (site.folder / "a").stat().st_ino == inode
    assert waiting_content(site) == []


def test_with_a_checksum_nobody_is_asked_while_the_file_is_right(site, server):
    digest = sha256(server.content)
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}', checksum='{digest}')")
    site.converge()
    assert len(server.asked) == 1

    assert states(site.converge()) == ["unchanged"]
    assert len(server.asked) == 1


def test_content_with_another_checksum_is_refused_and_the_old_file_stays(site, server):
    site.write("a", "old")
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}', checksum='{sha256(b'x')}')")

    error = failure(site.converge())
    assert f"has the checksum {sha256(server.content)}, not {sha256(b'x')}" in error
    assert site.text("a") == "old"
    assert waiting_content(site) == []


@pytest.mark.parametrize(
    ("attribute", "value", "header"),
    [
        ("etag", '"v1"', "If-None-Match"),
        ("last_modified", "Tue, 24 Nov 2026 04:00:00 GMT", "If-Modified-Since"),
    ],
)
def test_a_server_is_asked_only_for_another_version(site, server, attribute, value, header):
    setattr(server, attribute, value)
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}')")
    site.converge()

    assert states(site.converge()) == ["unchanged"]
    assert [header in headers for _, headers in server.asked] == [False, True]

    setattr(server, attribute, value.replace("1", "2").replace("04:", "05:"))
    server.content = b"newer"
    assert states(site.converge()) == ["changed"]
    assert site.text("a") == "newer"


def test_a_file_that_drifted_is_fetched_whole(site, server):
    server.etag = '"v1"'
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}')")
    site.converge()
    (site.folder / "a").write_text("drifted")

    assert states(site.converge()) == ["changed"]
    assert site.text("a") == "fetched\n"
    assert "If-None-Match" not in server.asked[-1][1]


def test_conditions_can_be_switched_off(site, server):
    server.etag = '"v1"'
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}', use_etag=False)")
    site.converge()
    site.converge()

    assert "If-None-Match" not in server.asked[-1][1]


def test_headers_are_sent_and_not_to_another_server(site, server):
    other = Server()
    try:
        server.status, server.leads_to, other.content = 302, other.url, b"there"
        site.recipe(
            f"remote_file('{{here}}/a', source='{server.url}', headers={{'Authorization': 'x'}})"
        )
        site.converge()
    finally:
        other.close()

    assert site.text("a") == "there"
    assert server.asked[0][1]["Authorization"] == "x"
    assert "Authorization" not in other.asked[0][1]


def test_the_next_source_is_tried_and_all_are_named_if_none_has_it(site, server):
    server.status = 404
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        site.recipe(f"remote_file('{{here}}/a', source=['{server.url}', '{nobody}'])")
        error = failure(site.converge())
    assert f"{server.url} answered 404" in error
    assert f"{nobody} cannot be fetched: [Errno 111] Connection refused" in error

    good = site.write("good", "from the disk")
    site.recipe(f"remote_file('{{here}}/a', source=['{server.url}', '{good}'])")
    assert states(site.converge()) == ["changed"]
    assert site.text("a") == "from the disk"


def test_content_that_was_cut_off_is_never_written(site, server):
    site.write("a", "old")
    server.announced = 1000
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}')")

    assert "was cut off after 8 of 1000 bytes" in failure(site.converge())
    assert site.text("a") == "old"


def test_a_silent_server_is_given_up(site, server):
    server.announced = 1000
    server.stalls.set()
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}', timeout=0.2)")

    assert "silent for 0.2 s" in failure(site.converge())
    assert not (site.folder / "a").exists()


def test_a_cancelled_run_does_not_read_an_endless_file_to_its_end(site):
    site.recipe("remote_file('{here}/a', source='/dev/zero')")
    kitchen = site.kitchen()
    run = kitchen.order_run("the test")
    begun = "resource started"
    assert eventually(lambda: any(each["event"] == begun for each in site.events), within=30)
    kitchen.cancel(run.run_id, reason="enough")
    report = run.wait(30)
    assert report is not None
    assert report["state"] == "cancelled"


def test_a_cancelled_run_does_not_wait_for_a_silent_server(site, server):
    server.announced = 1000
    server.stalls.set()
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}')")
    kitchen = site.kitchen()
    run = kitchen.order_run("the test")
    assert eventually(lambda: waiting_content(site), within=30)

    kitchen.cancel(run.run_id, reason="enough")

    report = run.wait(30)
    assert report is not None and report["state"] == "cancelled"
    assert not (site.folder / "a").exists()


def test_a_why_run_names_the_change_and_writes_nothing(site, server):
    site.recipe(f"remote_file('{{here}}/a', source='{server.url}')")

    assert changes(site.converge(why_run=True)) == [[f"write {site.folder}/a"]]
    assert not (site.folder / "a").exists()
    assert waiting_content(site) == []


# --- other sources


def test_a_path_a_file_url_and_a_file_of_the_cookbook_are_copied(site):
    site.write("one two", "1")
    site.write("cookbooks/cb/files/deep/three", "3")
    site.recipe("""
        remote_file('{here}/a', source='{here}/one two')
        remote_file('{here}/b', source='file://{here}/one%20two')
        remote_file('{here}/c', source='deep/three')
    """)

    assert states(site.converge()) == ["changed"] * 3
    assert [site.text(name) for name in "abc"] == ["1", "1", "3"]
    assert states(site.converge()) == ["unchanged"] * 3


def test_a_change_is_shown_as_a_difference(site):
    site.write("source", "new\n")
    site.write("a", "old\n")
    site.recipe("remote_file('{here}/a', source='{here}/source')")
    site.converge()

    diffs = [diff for event in site.events for diff in event.get("diffs", [])]
    assert [diff.splitlines()[-2:] for diff in diffs] == [["-old", "+new"]]


def test_create_if_missing_and_delete(site):
    site.write("source", "new")
    site.write("a", "mine")
    site.recipe("remote_file('{here}/a', source='{here}/source', action='create_if_missing')")
    assert states(site.converge()) == ["unchanged"]

    site.recipe("remote_file('{here}/a', action='delete')")
    assert states(site.converge()) == ["changed"]
    assert not (site.folder / "a").exists()


def test_a_source_that_is_not_there_is_named(site):
    site.recipe("remote_file('{here}/a', source='{here}/nothing')")

    assert f"{site.folder}/nothing cannot be read: No such file" in failure(site.converge())


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'/a'", "source is missing"),
        ("'/a', source='gopher://x/y'", "source must be an http, https or file URL"),
        ("'/a', source='http://fry:secret@x/y'", "source must not hold a password"),
        ("'/a', source='/b', checksum='abc'", "checksum must be a SHA-256"),
        ("'/a', source='/b', timeout=0", "timeout must be more than 0 s"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"remote_file({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
    assert "secret" not in error
