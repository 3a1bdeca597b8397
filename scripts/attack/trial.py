"""What the attacks share: toy runs, a process under limits, and the table of tries."""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

ENCODER = "encoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }\n"
DECODER = "decoder = { embed_dim = 8, depth = 1, num_heads = 2 }\n"
FEATURES = "feature_decoder = { embed_dim = 8, depth = 1, num_heads = 2 }\n"
HEAD = "head = { out_dim = 8, patch_out_dim = 8, hidden_dim = 8, bottleneck_dim = 8 }\n"
PROJECTORS = "projector = { hidden_dim = 8, out_dim = 8 }\npredictor = { hidden_dim = 8, out_dim = 8 }\n"
TWO = 'hidden = { type = "patches", count = 2 }'
# A network alone, and with what else a checkpoint can hold: teachers, projectors with batch statistics, centres.
METHODS = {
    "mae": ENCODER + DECODER,
    "bootmae": ENCODER + DECODER + FEATURES + f"masker = {{ {TWO}, blocks = {{ {TWO}, min_block = 1, max_block = 2 }} }}\n",
    "cmae": ENCODER + DECODER + FEATURES + PROJECTORS + "mask_patch_size = 8\n",
    "ibot": ENCODER + HEAD + "crops = { global = 2, local = 2, local_size = 8 }\n",
}
# What has not ended yet.
RUNNING = set()
# What the log and the summary measure of the machine.
MEASURED = {"images_per_s", "seconds", "data_wait", "waiting", "time", "peak_memory"}


def png(width, height, rows, depth=8, colour=2, extra=b""):
    """A PNG file of rows, which may be compressed bytes already."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def images(folder, train=4, test=2):
    """Images of 16 pixels in two classes."""
    for split, count in (("train", train), ("val", test)):
        for name, red in (("a", 20), ("b", 120)):
            (folder / split / name).mkdir(parents=True)
            for image in range(count):
                rows = b"".join(
                    b"\0" + b"".join(bytes((red + 3 * x, 30 * (image % 8) + 2 * y, 90 + x * y % 99)) for x in range(16)) for y in range(16)
                )
                (folder / split / name / f"{image}.png").write_bytes(png(16, 16, zlib.compress(rows)))
    return folder


def config(folder, method, epochs=3, keep=2, more=""):
    """A toy config of a method on the images in `folder`."""
    data = f'[data]\nsource = "folder:{folder / "images"}"\n'
    train = f"[train]\nepochs = {epochs}\nbatch_size = 4\nkeep_checkpoints = {keep}\n"
    evaluation = "[eval.linear]\nmax_iter = 20\n[eval.knn]\nk = 3\n"
    path = folder / f"{method}-{epochs}-{keep}.toml"
    path.write_text(f'method = "{method}"\n' + METHODS[method] + data + train + evaluation + more)
    return path


class Outcome:
    """How a process ended, and what it said."""

    def __init__(self, status, late, out, err, usage, seconds):
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        self.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        self.late, self.out, self.err = late, out, err
        # Of the processor: other programs may make it wait.
        self.seconds, self.cpu = seconds, usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss << 10

    @property
    def last(self):
        lines = self.err.strip().splitlines()
        told = [line for line in lines if line.startswith("error:")] or lines
        return told[-1][:300] if told else ""

    @property
    def fault(self):
        """What must not happen, whatever the input is."""
        if self.late:
            return f"it hangs ({self.seconds:.0f} s)"
        if self.signal is not None:
            return f"signal {signal.Signals(self.signal).name}: {self.last}"
        for word in ("panicked", "internal error", "stack overflow", "memory allocation of"):
            if word in self.err:
                return f"{word}: {self.err.strip()[:400]}"
        if self.code not in (0, 1, 2, 130, 143):
            return f"exit status {self.code}"
        if self.code in (1, 2) and "error:" not in self.err:
            return f"exit status {self.code} without an error"
        if "\x1b" in re.sub("\x1b\\[[0-9;]*m", "", self.err + self.out):
            return "an escape of the terminal is printed"
        return None

    def __str__(self):
        return f"exit {self.code}" if self.signal is None else signal.Signals(self.signal).name


def run(command, seconds=60, memory=None, env=None, during=None, cwd=None):
    """Runs a command under limits of time and of address space (bytes). `during` gets the process while it runs."""

    def limit():
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    settings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "RAYON_NUM_THREADS": "1", "NO_COLOR": "1", **(env or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        # Its start must not read what this process has open.
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=settings, preexec_fn=limit, cwd=cwd
        )
        RUNNING.add(process)
        late = []
        timer = threading.Timer(seconds, lambda: (late.append(True), process.kill()))
        # It shall not keep a script that is ended early.
        timer.daemon = True
        timer.start()
        if during:
            threading.Thread(target=during, args=(process,), daemon=True).start()
        _, status, usage = os.wait4(process.pid, 0)
        RUNNING.discard(process)
        timer.cancel()
        process.returncode = status
        took = time.monotonic() - start
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(1 << 24).decode(errors="replace"))
    return Outcome(status, bool(late), *texts, usage, took)


class Trials:
    """The tries of an attack, their results and the findings."""

    def __init__(self, doc, tries, quick):
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("mim", metavar="MIM", help="the program, such as target/release/mim")
        parser.add_argument("--tries", type=int, help=f"tries of each kind [default: {tries}]")
        parser.add_argument("--quick", action="store_true", help=f"{quick} tries of each kind, and none that takes minutes")
        parser.add_argument("--seed", type=int, default=0, help="seed of all that is random [default: 0]")
        parser.add_argument("--only", default="", help="only kinds whose name contains this text")
        args = parser.parse_args()
        self.mim = shutil.which(args.mim) or sys.exit(f"error: {args.mim} is no program; build one with cargo build --release")
        self.mim = os.path.abspath(self.mim)
        self.quick, self.only = args.quick, args.only
        self.tries = args.tries or (quick if args.quick else tries)
        self.random = random.Random(args.seed)
        self.temporary = tempfile.TemporaryDirectory(prefix="mim-attack-")
        self.folder = pathlib.Path(self.temporary.name)
        self.results = collections.defaultdict(collections.Counter)
        self.findings = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, *_):
        """Prints what there is when somebody ends the script."""
        for process in list(RUNNING):
            process.kill()
        print("ended before all was tried")
        self.end()

    def wants(self, kind):
        return self.only in kind

    def note(self, kind, result, finding=None):
        """Counts a try; with a finding it is a fault of the program."""
        self.results[kind]["FINDING" if finding else result] += 1
        if finding:
            self.findings.append(f"{kind}: {finding}")
            print(f"FINDING {self.findings[-1]}", file=sys.stderr, flush=True)

    def judge(self, kind, outcome, *, fails=None, says=(), seconds=None, memory=None):
        """Counts a try by how a process ended; returns whether it was as it should be."""
        finding = outcome.fault
        if not finding and fails is not None and fails != (outcome.code != 0):
            finding = f"exit {outcome.code}: {outcome.last}"
        text = outcome.err + outcome.out
        missing = [word for word in says if word not in text]
        if not finding and missing:
            finding = f"{missing[0]!r} is not said: {outcome.last}"
        if not finding and seconds and outcome.cpu > seconds:
            finding = f"{outcome.cpu:.1f} s of the processor, more than {seconds}"
        if not finding and memory and outcome.peak > memory:
            finding = f"{outcome.peak >> 20} MiB, more than {memory >> 20}"
        self.note(kind, "error" if outcome.code else "works", finding)
        return finding is None

    def end(self):
        """Prints the table and the findings, and ends the program."""
        width = max(map(len, self.results), default=6)
        print(f"{'attack':<{width}}  tries  results")
        for kind, counts in self.results.items():
            parts = ", ".join(f"{name} {count}" for name, count in counts.most_common())
            print(f"{kind:<{width}}  {sum(counts.values()):>5}  {parts}")
        tries = sum(sum(counts.values()) for counts in self.results.values())
        print(f"{tries} tries, {len(self.findings)} findings")
        for finding in self.findings:
            print(f"  {finding}")
        self.temporary.cleanup()
        if not tries:
            sys.exit("error: nothing was tried")
        sys.exit(bool(self.findings))


def content(path):
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def log(folder):
    """The log of a run without what depends on the machine."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def last(folder):
    """The name of the newest checkpoint."""
    steps = [path.name for path in (folder / "checkpoints").iterdir() if re.fullmatch(r"step-\d+", path.name)]
    return max(steps, key=lambda name: int(name[5:]))
