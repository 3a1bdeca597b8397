#!/usr/bin/env python3
"""Lets strangers talk to processes that look for each other to train with NCCL.

    scripts/attack/strangers.py target/release/mim [--tries N] [--quick]

Whatever they say, the two processes of a run must find each other soon; who does not know the secret of the group gets nothing. Needs a build with
the feature nccl, and two GPUs or the pretend device: `scripts/cuda_setup.sh --pretend && . .cuda/env.sh`, PRETEND_CUDA_DEVICES=2.
"""

import concurrent.futures
import hashlib
import os
import socket
import struct
import threading
import time

from trial import Trials, config, images, run

GREETING, OLD = b"mim-joi2", b"mim-join"
SECRET = "what the group knows"
# NCCL's id, which comes last.
ID = 128
SECONDS = 90


def read(stream, count):
    data = b""
    while len(data) < count and (piece := stream.recv(count - len(data))):
        data += piece
    return data


def claim(stream, rank, world, secret=b""):
    """What a process says; gives all that it is answered."""
    numbers = struct.pack("<QQ", rank, world)
    stream.sendall(GREETING + numbers + bytes(32))
    answer = read(stream, 64)
    key = hashlib.sha256(secret).digest()
    stream.sendall(hashlib.sha256(key + b"\1" + answer[:32] + numbers).digest())
    return answer + read(stream, ID)


def drip(stream):
    for byte in GREETING + bytes(1000):
        stream.sendall(bytes((byte,)))
        time.sleep(0.5)


def flood(stream):
    others = [socket.create_connection(stream.getpeername(), 1) for _ in range(40)]
    time.sleep(3)
    return len(others) and b""


# Each gets a connection to rank 0, and gives what it learned.
STRANGERS = {
    "silence": lambda stream: time.sleep(30),
    "the web": lambda stream: stream.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"),
    "an old greeting": lambda stream: stream.sendall(OLD + struct.pack("<QQ", 1, 2)),
    "junk": lambda stream: stream.sendall(os.urandom(1 << 20)),
    "half a greeting": lambda stream: stream.sendall(GREETING[:5]),
    "a byte at a time": drip,
    "many connections": flood,
    "rank 0": lambda stream: claim(stream, 0, 2),
    "rank 99": lambda stream: claim(stream, 99, 2),
    "rank 2^64": lambda stream: claim(stream, 2**64 - 1, 2),
    "another world": lambda stream: claim(stream, 1, 2**64 - 1),
    "rank 1 without the secret": lambda stream: claim(stream, 1, 2),
    "rank 1 with another secret": lambda stream: claim(stream, 1, 2, b"guessed"),
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Attack:
    def __init__(self, trials):
        self.trials = trials
        images(trials.folder / "images", train=8)
        self.config = config(trials.folder, "mae", epochs=1)
        self.learned = []

    def stranger(self, port, say, end):
        """Connects again and again until the run has begun."""
        while not end.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as stream:
                    stream.settimeout(5)
                    said = say(stream)
                    if said and len(said) > 64:
                        self.learned.append(said)
            except OSError:
                pass
            time.sleep(0.02)

    def process(self, rank, port, folder):
        env = {
            **dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"),
            **dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), MIM_GROUP_SECRET=SECRET),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0,1"),
        }
        command = ["pretrain", "--config", self.config, "--device", "cuda", "--threads", "1", "--no-eval", "--output-dir", folder]
        return run([self.trials.mim, *command], SECONDS, env=env)

    def together(self, kind, say, first=0):
        """Two processes with strangers beside them; `first` starts some seconds before the other."""
        port = free_port()
        end, folder = threading.Event(), self.trials.folder / f"run-{len(os.listdir(self.trials.folder))}"
        self.learned.clear()
        for _ in range(3) if say else ():
            threading.Thread(target=self.stranger, args=(port, say, end), daemon=True).start()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            one = pool.submit(self.process, first, port, folder)
            time.sleep(2)
            other = pool.submit(self.process, 1 - first, port, folder)
            outcomes = [one.result(), other.result()]
        end.set()
        for outcome in outcomes:
            finding = outcome.fault or (outcome.code and f"the run fails: {outcome.last}")
            if self.learned:
                finding = f"a stranger learns {len(self.learned[0])} bytes"
            self.trials.note(kind, f"both join, {'soon' if outcome.seconds < 30 else 'late'}", finding or None)

    def control(self):
        """Who knows the secret gets the id, so this script speaks the language of the processes."""
        port, learned = free_port(), b""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            one = pool.submit(self.process, 0, port, self.trials.folder / "control")
            while not learned and not one.done():
                try:
                    with socket.create_connection(("127.0.0.1", port), 1) as stream:
                        stream.settimeout(5)
                        learned = claim(stream, 1, 2, SECRET.encode())
                except OSError:
                    time.sleep(0.05)
        finding = None if len(learned) == 64 + ID else f"it gets {len(learned)} bytes, so nothing here is tried as meant"
        self.trials.note("who knows the secret", "gets the id", finding)

    def impostor(self):
        """A stranger listens where rank 0 will: rank 0 says that it cannot listen."""
        with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
            port = server.getsockname()[1]

            def answer():
                while True:
                    try:
                        stream = server.accept()[0]
                        stream.sendall(bytes(64 + ID) + bytes(1 << 16))
                    except OSError:
                        return

            threading.Thread(target=answer, daemon=True).start()
            outcome = pool.submit(self.process, 0, port, self.trials.folder / "impostor").result()
            self.trials.judge("an impostor at the port", outcome, fails=True, says=["listen"])


def main():
    trials = Trials(__doc__, tries=2, quick=1)
    attack = Attack(trials)
    attack.together("nobody", None)
    attack.control()
    if trials.findings:
        trials.end()
    for _ in range(trials.tries):
        for kind, say in STRANGERS.items():
            if trials.wants(kind):
                attack.together(kind, say, first=trials.random.randrange(2))
        attack.impostor()
    trials.end()


if __name__ == "__main__":
    main()
