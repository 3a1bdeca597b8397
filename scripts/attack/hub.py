#!/usr/bin/env python3
"""Lets the program meet a malicious Hub, and a thief on another port, both on this machine.

    scripts/attack/hub.py target/release/mim [--tries N] [--quick]

The token must stay with the Hub and be printed nowhere, nothing may be written outside the cache, what is not as announced must not stay, and
every download must end. Servers that are slow take ten minutes, all at once; --quick leaves them out.
"""

import concurrent.futures
import hashlib
import http.server
import itertools
import json
import struct
import threading
import time

from trial import Trials, content, run

TOKEN, PASSWORD = "hf_SECRETTOKEN", "PASSWORD"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
MODEL = struct.pack("<Q", len(HEADER)) + HEADER + bytes(24)
SHA256 = hashlib.sha256(MODEL).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(MODEL) + MODEL).hexdigest()
SCENARIOS = {}


def scenario(fails=True, says=(), seconds=90, file="/model.safetensors", slow=False):
    """Declares what a Hub answers: a function of the request. `fails` is None if both ends are right."""

    def add(function):
        name = function.__name__
        SCENARIOS[name] = (function, dict(fails=fails, says=says), seconds, f"hf:{name}/x{file}", slow)
        return function

    return add


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization"), dict(self.headers)))
        self.close_connection = True
        name = self.path.removeprefix("/api/models").split("/")[1]
        try:
            if self.server.is_thief or name not in SCENARIOS:
                good(self)
            else:
                SCENARIOS[name][0](self)
        except OSError:
            # Who has heard enough goes.
            pass

    do_HEAD = do_GET

    @property
    def is_list(self):
        return self.path.startswith("/api/")

    def answer(self, status, body=b"", **headers):
        self.send_response_only(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": len(body), "Connection": "close", **named}.items():
            if value is not None:
                self.wfile_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def wfile_header(self, name, value):
        # Not `send_header`, which refuses what a malicious server sends.
        self._headers_buffer.append(f"{name}: {value}\r\n".encode("latin-1"))

    def endless(self, start, piece, pause=0.0, **headers):
        self.answer(200, b"", **headers)
        self.wfile.write(start)
        while True:
            self.wfile.write(piece)
            if pause:
                time.sleep(pause)

    def move(self, to, status=302):
        self.answer(status, Location=to)

    @property
    def thief(self):
        return f"http://127.0.0.1:{self.server.thief}"


def good(request, body=MODEL, **headers):
    if request.is_list:
        return listing(request, ["model.safetensors"])
    request.answer(200, body, **{"X_Repo_Commit": COMMIT, "ETag": f'"{SHA256}"', **headers})


def listing(request, names, sha=COMMIT):
    request.answer(200, json.dumps({"sha": sha, "siblings": [{"rfilename": name} for name in names]}).encode())


def missing(request):
    request.answer(404, b"", X_Error_Code="EntryNotFound")


def on_get(request, answer):
    """Tells the truth to HEAD, and something else to GET."""
    good(request) if request.command == "HEAD" else answer()


@scenario(fails=False)
def whole(request):
    good(request)


# Where the token might go.


@scenario(fails=None)
def to_port(request):
    request.move(request.thief + request.path)


@scenario(fails=None)
def get_to_port(request):
    on_get(request, lambda: request.move(request.thief + request.path, 307))


@scenario(fails=None, file="")
def list_to_port(request):
    request.move(request.thief + request.path) if request.is_list else missing(request)


@scenario(fails=None)
def to_userinfo(request):
    request.move(f"http://127.0.0.1:{request.server.server_port}@127.0.0.1:{request.server.thief}{request.path}")


@scenario(fails=None)
def to_backslash(request):
    request.move(f"http://127.0.0.1:{request.server.server_port}\\@127.0.0.1:{request.server.thief}{request.path}")


@scenario(fails=None)
def to_slashes(request):
    request.move(f"//127.0.0.1:{request.server.thief}{request.path}")


@scenario(fails=None)
def to_localhost(request):
    request.move(f"http://LOCALHOST:{request.server.thief}{request.path}")


@scenario(fails=None)
def to_port_by_refresh(request):
    request.answer(300, Location=request.thief + request.path, Refresh=f"0; url={request.thief}")


@scenario(fails=None)
def by_proxy(request):
    request.answer(305, Location=request.thief)


@scenario(fails=None)
def by_login(request):
    request.answer(407, Proxy_Authenticate="Basic", WWW_Authenticate="Basic", Location=request.thief)


# Redirects to nowhere.


@scenario(says=["redirects more than"])
def loop(request):
    request.move(request.path)


@scenario(says=["a redirect to"])
def to_file(request):
    request.move("file:///etc/passwd")


@scenario(says=["a redirect to"])
def to_ftp(request):
    request.move("ftp://127.0.0.1/x")


@scenario()
def to_nothing(request):
    request.move("")


@scenario()
def to_escape(request):
    request.move("\x1b]0;owned\x07http://x")


@scenario(fails=None)
def to_long(request):
    request.move(request.thief + "/" + "a" * 60000)


# Names.


@scenario(file="")
def listed_parent(request):
    listing(request, ["../../../../outside", "/etc/passwd", "a/../../b"]) if request.is_list else missing(request)


@scenario(file="")
def listed_escape(request):
    listing(request, ["\x1b]0;owned\x07.safetensors", "\x9b31m"]) if request.is_list else missing(request)


@scenario(file="")
def listed_many(request):
    listing(request, [f"{number}.safetensors" for number in range(500_000)]) if request.is_list else missing(request)


@scenario(file="")
def list_deep(request):
    request.answer(200, b'{"sha":' + b"[" * 1_000_000) if request.is_list else missing(request)


@scenario(file="")
def list_commit(request):
    listing(request, [], "../../../outside") if request.is_list else missing(request)


def index(request, name):
    body = json.dumps({"weight_map": {"a": name}}).encode()
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    good(request, body, ETag=f'"{git}"') if request.path.endswith("index.json") else good(request)


@scenario(says=["not a path inside"], file="/model.safetensors.index.json")
def index_parent(request):
    index(request, "../../../../outside")


@scenario(says=["not a path inside"], file="/model.safetensors.index.json")
def index_absolute(request):
    index(request, "/etc/passwd")


@scenario(file="/model.safetensors.index.json")
def index_escape(request):
    index(request, "\x1b]0;owned\x07/../x")


@scenario()
def etag_parent(request):
    good(request, ETag='"../../../../outside"')


@scenario()
def etag_dots(request):
    good(request, ETag="..")


@scenario()
def etag_long(request):
    good(request, ETag="a" * 5000)


@scenario()
def etag_escape(request):
    good(request, ETag='"\x1b[31m"')


@scenario()
def commit_parent(request):
    good(request, X_Repo_Commit="../../../../outside")


@scenario()
def commit_short(request):
    good(request, X_Repo_Commit="main")


# Content that is not as announced.


@scenario(says=["SHA-256"])
def wrong_sha256(request):
    on_get(request, lambda: good(request, MODEL[:-1] + b"\1"))


@scenario(says=["git hash"])
def wrong_git_hash(request):
    git = GIT.replace("a", "b").replace("1", "2")
    good(request, ETag=f'"{git}"')


@scenario(fails=False)
def right_git_hash(request):
    good(request, ETag=f'"{GIT}"')


@scenario(says=["bytes"])
def shorter(request):
    on_get(request, lambda: good(request, MODEL[:-4]))


@scenario(says=["bytes"])
def longer(request):
    on_get(request, lambda: good(request, MODEL + bytes(4)))


@scenario(says=["safetensors header"])
def page(request):
    body = b"<html>please log in</html>"
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    good(request, body, ETag=f'"{git}"')


@scenario()
def cut(request):
    on_get(request, lambda: good(request, MODEL[:9], Content_Length=len(MODEL)))


@scenario(fails=None)
def range_of_another(request):
    # hf-hub takes the bytes all the same; they are the right ones.
    on_get(request, lambda: request.answer(206, MODEL, Content_Range=f"bytes 7-{len(MODEL)}/{len(MODEL)}"))


@scenario()
def range_without_end(request):
    on_get(request, lambda: request.answer(416))


# Endless and huge.


@scenario(says=["bytes"])
def endless_body(request):
    on_get(request, lambda: request.endless(b"", MODEL * 1000, Content_Length=None))


@scenario(file="")
def endless_list(request):
    request.endless(b'{"sha":"', b"a" * 65536, Content_Length=10**15) if request.is_list else missing(request)


@scenario(says=["403"])
def endless_error(request):
    request.answer(403, Content_Length=10**15)
    while request.command != "HEAD":
        request.wfile.write(b"\x1b[31m" * 10000)


@scenario(seconds=130)
def endless_headers(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        request.wfile.write(b"X-%d: " % number + b"a" * 5000 + b"\r\n")


@scenario(file="")
def packed_list(request):
    # As many zeros, if it were unpacked.
    body = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xec\xc1\x01" + b"\0" * 5_000_000
    request.answer(200, body, Content_Encoding="gzip") if request.is_list else missing(request)


@scenario(says=["has room for only"])
def huge_size(request):
    good(request, X_Linked_Size=10**18, X_Linked_ETag=f'"{SHA256}"')


@scenario()
def size_beyond(request):
    good(request, X_Linked_Size=2**64, Content_Length=10**30)


@scenario()
def size_negative(request):
    good(request, X_Linked_Size=-1, Content_Length=-1)


@scenario(says=["429"])
def wait_for_ever(request):
    request.answer(429, Retry_After=10**18)


@scenario()
def wait_beyond(request):
    request.answer(503, Retry_After=2**64 - 1)


@scenario()
def junk(request):
    request.wfile.write(b"\x00\xff" * 5000)


@scenario()
def no_such_status(request):
    request.wfile.write(b"HTTP/1.1 99999 \x1b[31m\r\n\r\n")


@scenario()
def two_lengths(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 900\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")


@scenario()
def says_again(request):
    request.answer(403, X_Error_Message=f"\x1b[31mno {request.headers.get('Authorization')} {PASSWORD}")


@scenario(file="")
def says_again_in_json(request):
    body = json.dumps({"error": f"\x1b]0;owned\x07 no {request.headers.get('Authorization')}"}).encode()
    request.answer(403, body)


# Slow ones, which are given up.


@scenario(seconds=1000, slow=True)
def drip(request):
    on_get(request, lambda: slowly(request, Content_Length=len(MODEL) * 100))


@scenario(seconds=1000, slow=True)
def drip_of_large(request):
    size = 1 << 30
    headers = dict(X_Linked_Size=size, X_Linked_ETag=f'"{SHA256}"')
    good(request, **headers) if request.command == "HEAD" else slowly(request, Content_Length=size)


def slowly(request, **headers):
    request.answer(200, b"", **headers)
    while True:
        request.wfile.write(b"a")
        time.sleep(1)


@scenario(seconds=1000, slow=True)
def silent(request):
    time.sleep(1000)


@scenario(seconds=1000, slow=True)
def slow_headers(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        request.wfile.write(b"a")
        time.sleep(1)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, thief=None):
        super().__init__(("127.0.0.1", 0), Request)
        self.thief, self.is_thief, self.seen = thief, thief is None, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass


class Attack:
    def __init__(self, trials):
        self.trials = trials
        self.thief = Server()
        self.hub = Server(self.thief.server_port)

    def ask(self, path, seconds, **env):
        """`mim info` of a path, with a cache of its own."""
        cache = self.trials.folder / f"cache-{next(NUMBER)}"
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.hub.server_port}",
            "HF_TOKEN": TOKEN,
            "HF_HUB_CACHE": str(cache / "in/hub"),
            "HF_HOME": str(cache / "in/home"),
            **env,
        }
        outcome = run([self.trials.mim, "info", path], seconds, env=settings)
        return cache, outcome

    def finding(self, cache, outcome):
        """What must not happen with any Hub."""
        for secret in (TOKEN, PASSWORD):
            if secret in outcome.err + outcome.out:
                return f"{secret} is printed: {outcome.last}"
        stolen = [request for request in self.thief.seen if TOKEN in str(request)]
        if stolen:
            return f"the token goes to another port: {stolen[0]}"
        names = content(cache) if cache.exists() else {}
        outside = [name for name in names if not name.startswith(("in/hub/models--", "in/hub/.locks/models--"))]
        if outside or (self.trials.folder / "outside").exists():
            return f"written outside of the cache: {outside}"
        kept = [name for name in names if "/snapshots/" in name]
        return f"it stays: {kept[0]}" if outcome.code and kept and not kept[0].endswith(".index.json") else None

    def one(self, name):
        _, expected, seconds, path, _ = SCENARIOS[name]
        cache, outcome = self.ask(path, seconds)
        finding = self.finding(cache, outcome)
        if finding:
            self.trials.note(name, "", finding)
        else:
            self.trials.judge(name, outcome, memory=1 << 30, **expected)

    def addresses(self):
        """Addresses and tokens that are none, or say too much."""
        port = self.hub.server_port
        for kind, fails, env in [
            ("password in the address", None, {"HF_ENDPOINT": f"http://me:{PASSWORD}@127.0.0.1:{port}"}),
            ("password, nobody answers", True, {"HF_ENDPOINT": f"http://me:{PASSWORD}@127.0.0.1:9"}),
            ("file: as the address", True, {"HF_ENDPOINT": "file:///etc"}),
            ("no host in the address", True, {"HF_ENDPOINT": "http://"}),
            ("escape in the address", True, {"HF_ENDPOINT": "http://\x1b[31m"}),
            ("line break in the token", None, {"HF_TOKEN": f"{TOKEN}\r\nX-Evil: 1"}),
        ]:
            if not self.trials.wants(kind):
                continue
            self.hub.seen.clear()
            cache, outcome = self.ask("hf:whole/x/model.safetensors", 60, **env)
            finding = self.finding(cache, outcome)
            if any("X-Evil" in request[3] for request in self.hub.seen):
                finding = "a header is smuggled"
            if finding:
                self.trials.note(kind, "", finding)
            else:
                self.trials.judge(kind, outcome, fails=fails)


NUMBER = itertools.count()


def main():
    trials = Trials(__doc__, tries=1, quick=1)
    attack = Attack(trials)
    wanted = [name for name in SCENARIOS if trials.wants(name)]
    # Nearly all of their time is waiting; the slow ones begin first.
    wanted = sorted(name for name in wanted if not (trials.quick and SCENARIOS[name][-1]))
    wanted.sort(key=lambda name: not SCENARIOS[name][-1])
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(attack.one, name) for _ in range(trials.tries) for name in wanted]:
            done.result()
    attack.addresses()
    trials.end()


if __name__ == "__main__":
    main()
