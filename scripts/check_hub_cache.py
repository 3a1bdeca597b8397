"""Downloads from a Hub on this machine with mim and with Python, and reads each one's cache with the other, offline.

    pip install huggingface_hub safetensors numpy
    cargo build --release
    python scripts/check_hub_cache.py target/release/mim
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import numpy as np
from safetensors.numpy import save

MIM = sys.argv[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "model.safetensors"
BYTES = save({"a": np.arange(1000, dtype=np.float32)})
ETAG = hashlib.sha256(BYTES).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        parts = self.path.split("?")[0].split("/")
        if parts[1] == "api":
            data = json.dumps({"id": "o/n", "sha": COMMIT, "siblings": [{"rfilename": FILE}]}).encode()
        elif parts[-1] == FILE:
            data = BYTES
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{ETAG}"', "X-Linked-ETag": f'"{ETAG}"', "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *_):
        pass


def run(program, cache, endpoint=None):
    env = dict(os.environ, HF_HUB_CACHE=str(cache), HF_HUB_DISABLE_XET="1")
    env |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(program, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program}: {done.stderr}")
    return done.stdout


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    code = f"from huggingface_hub import hf_hub_download as get; print(get('o/n', '{FILE}'))"
    python, ours = [sys.executable, "-c", code], [MIM, "info", "hf:o/n"]
    for first, second in [(ours, python), (python, ours)]:
        cache = pathlib.Path(tempfile.mkdtemp())
        run(first, cache, endpoint)
        files = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
        print(f"{pathlib.Path(first[0]).name} wrote {files}")
        said = run(second, cache)
        path = cache / "models--o--n/snapshots" / COMMIT / FILE
        assert path.read_bytes() == BYTES
        assert (str(path) in said) or ("1000 values" in said), said
        print(f"{pathlib.Path(second[0]).name} read it offline")


if __name__ == "__main__":
    main()
