#!/usr/bin/env python3
"""Gives the program files that are small and become large, that try to run something, and that name files elsewhere.

    scripts/attack/bombs.py target/release/mim [--tries N] [--quick]

Each must end soon and with little memory: in an error, or as one unreadable image among others. Nothing may be run, written outside, or printed
with escapes. --quick leaves out what takes gigabytes to make.
"""

import gzip
import io
import json
import os
import pickle
import socket
import struct
import tarfile
import zipfile
import zlib

from trial import Trials, config, content, images, png, run

MIB = 1 << 20
# Of the processor. A decompressor takes some seconds to reach a limit.
SECONDS = 15
ADDRESSES = 12 << 30
ESCAPE = "\x1b]0;owned\x07\x1b[31m"


def zeros(count, packer=None):
    """So many zeros, packed; in pieces, for there may be gigabytes."""
    packer = packer or zlib.compressobj(1)
    pieces = [packer.compress(bytes(MIB)) for _ in range(count // MIB)]
    return b"".join(pieces) + packer.compress(bytes(count % MIB)) + packer.flush()


def picture(width, height, depth, colour):
    """A whole PNG file of zeros."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return png(width, height, zeros(height * (1 + (width * samples * depth + 7) // 8)), depth, colour)


def text_chunk(kind, packed):
    data = b"a\0\0" + packed
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(entries, after=b"", following=0):
    """A TIFF file of 4-byte entries (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + after


def gif(width, height, frames):
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
    return head + frame * frames + b";"


def jpeg(width, height):
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes((1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0))
    return b"\xff\xd8\xff\xc2" + frame + b"\xff\xda" + struct.pack(">HB", 12, 3) + bytes((1, 0, 2, 0, 3, 0, 0, 63, 0)) + b"\xff\xd9"


def size(width, height):
    """The entries of a TIFF image of one channel without its bytes."""
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


def pictures(quick):
    """Files that are to count as one unreadable image."""
    yield "a png of 900 million pixels", "png", picture(30000, 30000, 1, 0)
    yield "a png of 2^31 pixels a side", "png", png(2**31 - 1, 2**31 - 1, zeros(1000), 8, 6)
    yield "a long png", "png", png(500_000_000, 1, zeros(1000), 8, 0)
    yield "a png with zero pixels", "png", png(0, 0, b"")
    yield "a png of half its rows", "png", png(20000, 20000, zeros(1000), 8, 2)
    yield "a gif of a large screen", "gif", gif(65535, 65535, 1)
    yield "a jpeg of a large frame", "jpg", jpeg(65535, 65535)
    yield "a bmp of a large frame", "bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 58, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "a pnm of a large frame", "ppm", b"P6 60000 60000 255\n" + bytes(100)
    yield "a pnm of digits", "pgm", b"P2 " + b"9" * 100_000 + b" 1 255\n0"
    yield "a webp of a large frame", "webp", b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8L" + struct.pack("<I", 18) + b"\x2f\xff\xff\xff\x0f" + bytes(13)
    yield "a tiff of a large frame", "tif", tiff(size(2**31, 2**31) + [(273, 4, 1, 200), (278, 4, 1, 2**31), (279, 4, 1, 2**31)])
    yield "a tiff of many strips", "tif", tiff(size(60000, 60000) + [(273, 4, 2**31, 8), (278, 4, 1, 1), (279, 4, 2**31, 8)])
    yield "a tiff of large tiles", "tif", tiff(size(64, 64) + [(322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 8)])
    yield "a tiff of 2^31 channels", "tif", tiff([entry for entry in size(9000, 9000) if entry[0] != 277] + [(277, 3, 1, 65535), (273, 4, 1, 8), (279, 4, 1, 2**31)])
    yield "a tiff with a folder in itself", "tif", tiff([(256, 4, 1, 1)], following=8)
    packed = [entry for entry in size(8000, 8000) if entry[0] != 259] + [(259, 3, 1, 8), (273, 4, 1, 500), (278, 4, 1, 8000), (279, 4, 1, 2**20)]
    yield "a tiff of packed zeros that are missing", "tif", tiff(packed, bytes(400) + zeros(1000))
    if not quick:
        yield "a png with a text of a gigabyte", "png", png(16, 16, zeros(16 * 49), extra=text_chunk(b"zTXt", zeros(1 << 30)))
        yield "a png with a profile of a gigabyte", "png", png(16, 16, zeros(16 * 49), extra=text_chunk(b"iCCP", zeros(1 << 30)).replace(b"a\0\0", b"a\0\0", 1))


# Within the limit of pixels. They are read, and may take what their pixels take.
LARGE = {"a png of 484 million pixels": (22000, 22000, 1, 0), "a png of 250 million deep pixels": (15900, 15900, 16, 0)}


class Attack:
    def __init__(self, trials):
        self.trials = trials
        self.folder = trials.folder / "in"
        self.folder.mkdir()
        self.images = images(self.folder / "images", train=20)
        self.config = config(self.folder, "mae", epochs=1, more="")
        # What a pickle would make, and names that lead outside.
        self.marker = trials.folder / "outside"

    def judge(self, kind, outcome, memory=500 * MIB, seconds=SECONDS, **expected):
        outside = [str(path) for path in (self.marker, self.folder.parent / "x", self.folder.parent / "a.npy") if path.exists()]
        if outside:
            self.trials.note(kind, "", f"made: {', '.join(outside)}")
            self.marker.unlink(missing_ok=True)
            return
        self.trials.judge(kind, outcome, seconds=seconds, memory=memory, **expected)

    def mim(self, *command, seconds=8 * SECONDS, **env):
        return run([self.trials.mim, *command], seconds, ADDRESSES, env=env, cwd=self.folder)

    def info(self, kind, path, **expected):
        self.judge(kind, self.mim("info", path), **{"fails": True, **expected})

    def train(self, kind, *more, batch=40, **expected):
        command = ["pretrain", "--config", self.config, "--threads", "1", "--no-eval", "--output-dir", "run", "--overwrite"]
        self.judge(kind, self.mim(*command, "--batch-size", str(batch), *more), **{"fails": None, **expected})

    def among_images(self, kind, name, make, **expected):
        """An image among forty whole ones."""
        path = self.images / "train/a" / name
        make(path)
        self.train(kind, batch=41, **{"fails": False, "says": [name], **expected})
        path.unlink()

    def pictures(self):
        for kind, end, data in pictures(self.trials.quick):
            if self.trials.wants(kind):
                # Text and profile of an image are not its pixels.
                says = [] if "gigabyte" in kind else [f"bad.{end}"]
                self.among_images(kind, f"bad.{end}", lambda path: path.write_bytes(data), says=says)
        for kind, sizes in LARGE.items():
            if self.trials.wants(kind) and not self.trials.quick:
                data = picture(*sizes)
                self.among_images(kind, "large.png", lambda path: path.write_bytes(data), says=[], memory=4096 * MIB, seconds=4 * SECONDS)

    def no_files(self):
        """Pipes, devices and links, as images, as data and as weights."""
        makers = {
            "a pipe": os.mkfifo,
            "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
            "a link to /dev/tty": lambda path: path.symlink_to("/dev/tty"),
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a link to nothing": lambda path: path.symlink_to("nothing"),
            "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
            "a folder": lambda path: path.mkdir(),
        }
        for kind, make in makers.items():
            for name in ("z.png", "z.tif", "z.gif") if self.trials.wants(f"{kind} among images") else ():
                path = self.images / "train/a" / name
                make(path)
                says = [] if kind == "a folder" else [name]
                self.train(f"{kind} among images", fails=False, says=says)
                path.rmdir() if kind == "a folder" else path.unlink()
            if self.trials.wants(f"{kind} as weights"):
                for name in ("z.safetensors", "z.pth", "z.npz", "z.safetensors.index.json"):
                    self.elsewhere(f"{kind} as weights", name, make, lambda path: self.mim("info", path))
            if self.trials.wants(f"{kind} as data"):
                for source in ("folder", "list", "tar", "idx", "cifar"):
                    name = {"list": "z.csv", "tar": "z.tar"}.get(source, "z")
                    command = ["pretrain", "--config", self.config, "--threads", "1", "--dry-run", "--data"]
                    self.elsewhere(f"{kind} as data", name, make, lambda path: self.mim(*command, f"{source}:{path}"))

    def elsewhere(self, kind, name, make, ask):
        path = self.folder / name
        make(path)
        self.judge(kind, ask(path), fails=True)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def in_a_run(self):
        """A pipe or a device in the place of each file of a run."""
        command = ["pretrain", "--config", self.config, "--threads", "1", "--output-dir", "whole", "--no-eval"]
        done = self.mim(*command)
        if done.code != 0:
            raise SystemExit(f"error: a usual run fails: {done.err}")
        run_folder = self.folder / "whole"
        checkpoint = next((run_folder / "checkpoints").iterdir())
        for name in content(run_folder):
            path = run_folder / name
            data = path.read_bytes()
            for kind, make in (("a pipe", os.mkfifo), ("/dev/zero", lambda path: path.symlink_to("/dev/zero"))):
                if not self.trials.wants(f"{kind} in a run"):
                    continue
                path.unlink()
                make(path)
                for ask in (
                    ["info", run_folder],
                    ["compare", run_folder],
                    ["report", run_folder],
                    ["eval", "knn", "--checkpoint", run_folder, "--threads", "1"],
                    ["export", "--checkpoint", checkpoint, "--output", "model"],
                    [*command, "--resume", "auto"],
                ):
                    self.judge(f"{kind} in a run: {ask[0]}", self.mim(*ask), fails=None)
                    if not path.is_symlink() and not path.is_fifo():
                        # A whole file took its place, or nothing did.
                        path.unlink(missing_ok=True)
                        make(path)
                path.unlink(missing_ok=True)
                path.write_bytes(data)

    def data(self):
        rows = struct.pack(">IIII", 2051, 10**6, 28, 28)
        for name, body in {
            "numbers": rows,
            "beyond": struct.pack(">IIII", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "nothing": b"",
            "another kind": struct.pack(">II", 2049, 2**31),
        }.items():
            for packed in (False, True):
                self.idx(f"idx: {name}{', packed' * packed}", gzip.compress(body) if packed else body, packed)
        # Sixteen million zeros a member.
        member = gzip.compress(bytes(16 * MIB), 9)
        self.idx("idx: 3 GB of zeros, packed", gzip.compress(rows) + member * (20 if self.trials.quick else 200), True)
        for kind, body in self.tars():
            path = self.folder / "data.tar"
            path.write_bytes(body)
            if self.trials.wants(kind):
                self.train(kind, "--data", f"tar:{path}")
        for kind, rows in {
            "list: a device": "/dev/zero,0\n",
            "list: a file elsewhere": "/etc/passwd,0\n",
            "list: an escape": f"{ESCAPE}.png,{ESCAPE}\n",
            "list: a long row": "a" * 50_000_000 + ",0\n",
            "list: half a quote": '"' + "a,b\n" * 1_000_000,
        }.items():
            if self.trials.wants(kind):
                path = self.folder / "list.csv"
                path.write_text("image,label\n" + rows * (1 if len(rows) > 1000 else 50))
                self.train(kind, "--data", f"list:{path}")

    def idx(self, kind, images, packed):
        folder = self.folder / "idx"
        folder.mkdir(exist_ok=True)
        end = ".gz" * packed
        labels = struct.pack(">II", 2049, 10**6) + bytes(1000)
        for split in ("train", "t10k"):
            (folder / f"{split}-images-idx3-ubyte{end}").write_bytes(images)
            (folder / f"{split}-labels-idx1-ubyte{end}").write_bytes(gzip.compress(labels) if packed else labels)
        if self.trials.wants(kind):
            self.train(kind, "--data", f"idx:{folder}", fails=True)
        for path in folder.iterdir():
            path.unlink()

    def tars(self):
        image = (self.images / "train/a/0.png").read_bytes()

        def archive(*members):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as out:
                for name, data in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    out.addfile(info, io.BytesIO(data))
            return file.getvalue()

        whole = archive(*((f"{number}.png", image) for number in range(40)))

        def sized(value, kind=b"0", name=b"z.png"):
            """The head of a member of another size than it has."""
            block = bytearray(whole[:512])
            block[: len(name)] = name
            block[124:136], block[156:157] = value, kind
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            return bytes(block) + whole[:-10240]

        yield "tar: names elsewhere", archive(*((name, image) for name in ("../../x", "/x", "a/../../x.png", f"{ESCAPE}.png") * 10))
        yield "tar: a size of 8 GB", sized(b"77777777777\0")
        yield "tar: a size of 2^62", sized(b"\x80" + bytes(3) + (2**62).to_bytes(8, "big"))
        yield "tar: a size of 2^88", sized(b"\x80" + b"\xff" * 11)
        yield "tar: a long name of 8 GB", sized(b"77777777777\0", b"L")
        yield "tar: a record of 8 GB", sized(b"77777777777\0", b"x")
        yield "tar: links", sized(b"00000000000\0", b"2")
        yield "tar: a sparse file", sized(b"77777777777\0", b"S")
        yield "tar: junk", os.urandom(100_000)
        yield "tar: nothing", b""
        yield "tar: half", whole[: len(whole) // 2 + 100]

    def weights(self):
        def put(name, data):
            path = self.folder / name
            path.write_bytes(data)
            return path

        def file(header, data=b"", length=None):
            header = header if isinstance(header, bytes) else json.dumps(header).encode()
            return struct.pack("<Q", len(header) if length is None else length) + header + data

        one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        for kind, data in {
            "safetensors: a header of 2^64": file(b"{}", length=2**64 - 1),
            "safetensors: a header of 99 MB": file(b"{", length=99_000_000),
            "safetensors: a deep header": file(b'{"a":' * 1_000_000),
            "safetensors: a large shape": file({"a": {**one, "shape": [2**40, 2**40]}}, bytes(4)),
            "safetensors: an offset of 2^63": file({"a": {**one, "data_offsets": [2**63, 2**63 + 4]}}, bytes(4)),
            "safetensors: a long name": file({"a" * 50_000_000: {**one, "data_offsets": [0, 9]}}, bytes(4)),
        }.items():
            if self.trials.wants(kind):
                path = put("a.safetensors", data)
                # What the header says may be shown; what it promises cannot be read.
                self.info(kind, path, fails=None)
                self.judge(f"{kind}, converted", self.mim("convert", "--from", "timm", path, "out.safetensors"), fails=True)
        many = {f"blocks.{number}.attn.qkv.weight": {**one, "data_offsets": [4 * number, 4 * number + 4]} for number in range(100_000)}
        if self.trials.wants("100,000 names"):
            self.info("100,000 names", put("a.safetensors", file(many, bytes(400_000))), fails=None)
        for name in (ESCAPE, "\x9b31m", "a\nb", "‮abc"):
            if self.trials.wants("escapes in names"):
                self.info("escapes in names", put("a.safetensors", file({name: one, "__metadata__": {name: name}}, bytes(4))), fails=None)
                self.info("escapes in names of files", put(f"{name}.safetensors", b""))
        self.archives(put)
        self.pickles(put)
        for name in ("../x", "/etc/passwd", "..", f"{ESCAPE}", "hf:../../x", "a\0b"):
            if self.trials.wants("index: names elsewhere"):
                path = put("model.safetensors.index.json", json.dumps({"weight_map": {"a": name}}).encode())
                self.info("index: names elsewhere", path)
        if self.trials.wants("index: deep"):
            self.info("index: deep", put("model.safetensors.index.json", b'{"weight_map":' + b"[" * 1_000_000))

    def archives(self, put):
        def archive(name, data, names=("a.npy",)):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
                for each in names:
                    info = zipfile.ZipInfo(each)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    with out.open(info, "w") as entry:
                        for piece in data:
                            entry.write(piece)
            return put(name, file.getvalue())

        def npy(shape):
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }\n" % shape
            return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header

        mebibytes = 100 if self.trials.quick else 1024
        large = npy(b"%d" % (mebibytes * MIB // 4))
        for kind, ask in {
            "npz: zeros": lambda: archive("a.npz", [large, *[bytes(MIB)] * mebibytes]),
            "npz: a large shape": lambda: archive("a.npz", [npy(b"4611686018427387904, 4")]),
            "npz: 2000 names of one array": lambda: archive("a.npz", [npy(b"262144"), bytes(MIB)], [f"{n}.npy" for n in range(2000)]),
            "pth: a packed pickle of zeros": lambda: archive("a.pth", [bytes(MIB)] * mebibytes, ["m/data.pkl"]),
        }.items():
            if self.trials.wants(kind):
                # Names alone may be shown, if that takes little.
                self.info(kind, ask(), fails=None if "names" in kind else True)
        if self.trials.wants("npz: names elsewhere"):
            path = archive("a.npz", [npy(b"1"), bytes(4)], ["../a.npy", f"{self.folder.parent}/a.npy", f"{ESCAPE}.npy", "a/../../a.npy"])
            self.info("npz: names elsewhere", path, fails=None)
            self.judge("npz: names elsewhere, converted", self.mim("convert", "--from", "timm", path, "out.safetensors"), fails=None)

    def pickles(self, put):
        order = f"touch {self.marker}".encode()

        class Run:
            def __reduce__(self_):
                return os.system, (order.decode(),)

        system = b"cposix\nsystem\n"
        unicode = b"X" + struct.pack("<I", len(order)) + order
        doubled = b"\x80\x02)" + b"2\x86" * 100 + b"."
        for kind, data in {
            "reduced": pickle.dumps(Run(), 2),
            "reduced, protocol 0": pickle.dumps(Run(), 0),
            "reduced, protocol 4": pickle.dumps({"model": {"a": Run()}}, 4),
            "an instance": b"(" + unicode + b"iposix\nsystem\n.",
            "an object": b"(" + system + unicode + b"o.",
            "built": b"\x80\x02cbuiltins\neval\n(" + unicode + b"tR}b.",
            "among tensors": b"\x80\x02}" + b"X\x01\0\0\0a" + system + b"(" + unicode + b"tRs.",
            "a name of torch": b"\x80\x02ctorch.serialization\nload\n(" + unicode + b"tR.",
            "an extension": b"\x80\x02\x82\x01.",
            "doubled": doubled,
            "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
            "a frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
            "a memo of 2^31": b"\x80\x02Nr\xff\xff\xff\x7f.",
            "deep lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        }.items():
            if not self.trials.wants(f"pickle: {kind}"):
                continue
            self.info(f"pickle: {kind}", put("bare.pth", data))
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as out:
                out.writestr("m/data.pkl", data)
            path = put("zipped.pth", file.getvalue())
            self.info(f"pickle: {kind}", path)
            self.judge(f"pickle: {kind}", self.mim("convert", "--from", "timm", path, "out.safetensors"), fails=True)

    def settings(self):
        for kind, text in {
            "settings: deep lists": "a = " + "[" * 100_000,
            "settings: deep tables": "[" + "a." * 100_000 + "a]\n",
            "settings: many tables": "".join(f"[a{number}]\n" for number in range(200_000)),
            "settings: escapes": 'method = "\\u001b]0;owned\\u0007"\n',
            "settings: raw escapes": f"method = '{ESCAPE}'\n",
        }.items():
            if self.trials.wants(kind):
                path = self.folder / "bad.toml"
                path.write_text(text)
                self.judge(kind, self.mim("pretrain", "--config", path, "--dry-run"), fails=True)


def main():
    trials = Trials(__doc__, tries=1, quick=1)
    attack = Attack(trials)
    for _ in range(trials.tries):
        attack.weights()
        attack.data()
        attack.settings()
        attack.no_files()
        attack.in_a_run()
        attack.pictures()
    trials.end()


if __name__ == "__main__":
    main()
