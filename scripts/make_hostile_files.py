"""Writes the seed corpus of the fuzz targets: small whole files, damaged ones, and ones that ask for too much.

    python scripts/make_hostile_files.py

Files go to fuzz/corpus/TARGET; `cargo test --test hostile` replays them, `cargo +nightly fuzz run TARGET` starts from them.
Needs nothing but Python.
"""

import gzip
import hashlib
import io
import json
import pathlib
import shutil
import struct
import tarfile
import zipfile
import zlib

ROOT = pathlib.Path(__file__).parent.parent
OUT = ROOT / "fuzz/corpus"
# Between the files of a target that reads several.
NEXT = b"\n=====\n"
FORMATS = ROOT / "mim-core/tests/fixtures/weights/formats"


def put(target, name, data):
    (OUT / target).mkdir(parents=True, exist_ok=True)
    (OUT / target / name).write_bytes(data)


def archive(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in entries.items():
            out.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return b"(" + b"".join(number(value) for value in values) + b"t"


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4) + b"tQ"


def tensor(shape, strides, offset=0, storage=STORAGE):
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return function + b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89}tR"


def pickled(entries):
    return b"\x80\x02}" + b"".join(text(name) + value + b"s" for name, value in entries) + b"."


def checkpoint(pickle, storage=bytes(16)):
    return archive({"m/data.pkl": pickle, "m/data/0": storage, "m/version": b"3\n"})


def torch():
    for name in ["plain.pth", "student_teacher.pth", "protocol4.bin", "script.pt", "module.pth", "arrays.npz", "compressed.npz"]:
        shutil.copy(FORMATS / name, OUT / "torch" / name)
    one = [("a", tensor([2, 2], [2, 1]))]
    whole = checkpoint(pickled(one))
    put("torch", "whole.pth", whole)
    put("torch", "half.pth", whole[: len(whole) // 2])
    shapes = {
        "negative": ([-2, 2], [2, 1], 0),
        "huge_shape": ([2**62, 4], [4, 1], 0),
        "huge_stride": ([2, 2], [2**62, 2**62], 0),
        "huge_offset": ([2, 2], [2, 1], 2**63 - 1),
        "beyond": ([2, 3], [3, 1], 0),
        "zero_of_many": ([0, 2**60], [1, 1], 0),
        "many_axes": ([1] * 100, [1] * 100, 0),
        "uneven": ([2, 2], [1], 0),
        "repeated": ([2**20, 2**20], [0, 0], 0),
    }
    for name, (shape, strides, offset) in shapes.items():
        put("torch", f"{name}.pth", checkpoint(pickled([("a", tensor(shape, strides, offset))])))
    put("torch", "no_storage.pth", archive({"m/data.pkl": pickled(one)}))
    compressed = archive({"m/data.pkl": pickled(one), "m/data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    put("torch", "compressed_storage.pth", compressed)

    # Two thousand tensors of one storage: 120 MB.
    storage = STORAGE.replace(number(4) + b"tQ", number(15000) + b"tQ")
    first = b"\x80\x02}" + text("t") + tensor([15000], [1], 0, storage) + b"q\x01s"
    # The value itself is named again, then made again from its parts, which are memoised.
    parts = b"ctorch._utils\n_rebuild_tensor_v2\nq\x02(" + storage + number(0) + numbers([15000]) + numbers([1]) + b"\x89}tq\x03"
    many = b"".join(text(f"{index}") + b"h\x02h\x03Rs" for index in range(2000))
    pickle = first + text("first") + parts + b"R" + b"s" + many + b"."
    put("torch", "shared_by_many.pth", checkpoint(pickle, bytes(60000)))

    # Names that are copied again and again, dicts in each other and in themselves.
    long = text("n" * 60000) + b"q\x000"
    put("torch", "long_globals.pth", checkpoint(b"\x80\x02" + long + b"}(" + b"h\x00h\x00h\x00\x93" * 5000 + b"u."))
    put("torch", "in_itself.pth", checkpoint(b"\x80\x02}q\x00" + text("model") + b"h\x00s" + text("a") + one[0][1] + b"s."))
    doubled = b"}q\x00" + text("a") + one[0][1] + b"s0"
    for level in range(1, 60):
        doubled += b"}" + b"q" + bytes([level]) + b"".join(text(n) + b"h" + bytes([level - 1]) + b"s" for n in "ab") + b"0"
    put("torch", "doubled.pth", checkpoint(b"\x80\x02" + doubled + b"h" + bytes([59]) + b"."))
    names = text("k" * 60000) + b"q\x000}q\x01" + b"".join(text(f"{i}") + one[0][1] + b"s" for i in range(300)) + b"0"
    put("torch", "long_names.pth", checkpoint(b"\x80\x02" + names + b"}h\x00}h\x00h\x01ss."))
    for name, pickle in {"empty": b"", "stop": b".", "deep": b"(" * 60000, "long_text": b"X\xff\xff\xff\xffa", "huge_int": b"\x8b\xff\xff\xff\xff."}.items():
        put("torch", f"{name}.pth", checkpoint(pickle))

    def npy(header, values=b"", version=1):
        length = struct.pack("<H" if version == 1 else "<I", len(header))
        return b"\x93NUMPY" + bytes([version, 0]) + length + header + values

    header = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"
    arrays = {
        "zeros": npy((header % "(26214400,)").encode(), bytes(26214400 * 4)),
        "huge": npy((header % "(4611686018427387904, 4)").encode()),
        "negative": npy((header % "(-1,)").encode()),
        "short": npy((header % "(4,)").encode(), bytes(4)),
        "longer": npy((header % "(1,)").encode(), bytes(400)),
        "long_header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 1000,
        "no_header": b"\x93NUMPY",
    }
    for name, array in arrays.items():
        put("torch", f"{name}.npz", archive({"a.npy": array}, zipfile.ZIP_DEFLATED))

    # Many entries of one place.
    data = checkpoint(pickled([(f"{i}", tensor([4], [1], 0, STORAGE.replace(text("0"), text(f"{i}")))) for i in range(9)]), bytes(4000))
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = next(e for e in data[start:end].split(b"PK\x01\x02")[1:] if b"m/data/0" in e)
    directory = data[start:end] + b"".join(b"PK\x01\x02" + entry.replace(b"m/data/0", b"m/data/%d" % i) for i in range(1, 9))
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, 11, 11, len(directory), start)
    put("torch", "overlapping.pth", data[:start] + directory + bytes(tail))


def safetensors():
    shutil.copy(FORMATS / "types.safetensors", OUT / "safetensors")

    def file(header, data=b""):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(header)) + header + data

    def one(shape, offsets, dtype="F32"):
        return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    cases = {
        "empty": b"",
        "no_tensors": file({}),
        "length": struct.pack("<Q", 2**64 - 1) + b"{}",
        "long": struct.pack("<Q", 99_999_999) + b"{",
        "half": file(one([4], [0, 16]), bytes(8)),
        "more": file(one([1], [0, 4]), bytes(8)),
        "product": file(one([2**40, 2**40], [0, 4]), bytes(4)),
        "zero_of_many": file(one([0, 2**60], [0, 0])),
        "backwards": file(one([1], [4, 0]), bytes(4)),
        "negative": file(one([-1], [0, 4]), bytes(4)),
        "far": file(one([1], [2**63, 2**63 + 4]), bytes(4)),
        "dtype": file(one([1], [0, 4], "F99"), bytes(4)),
        "float8": file(one([4], [0, 4], "F8_E4M3"), bytes(4)),
        "deep": file(b"[" * 60000),
        "not_text": file(b"\xff\xfe\xfd"),
        "twice": file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)),
        "overlap": file({"a": one([4], [0, 4], "U8")["a"], "b": one([4], [2, 6], "U8")["a"]}, bytes(6)),
        "metadata": file({"__metadata__": {"a": 1}}),
    }
    for name, data in cases.items():
        put("safetensors", f"{name}.safetensors", data)


def index():
    names = {
        "parent": "../model.safetensors",
        "absolute": "/etc/hostname",
        "windows": "C:\\x.safetensors",
        "folder": ".",
        "itself": "model.safetensors.index.json",
        "hub": "hf:o/n",
        "nul": "a\0b",
        "empty_name": "",
        "missing": "model-00001-of-00002.safetensors",
    }
    for name, file in names.items():
        put("index", f"{name}.json", json.dumps({"metadata": {}, "weight_map": {"a": file}}).encode())
    put("index", "deep.json", b'{"weight_map":' + b"[" * 60000)
    put("index", "number.json", b'{"weight_map": {"a": 1e999}}')
    put("index", "no_map.json", b'{"metadata": {}}')
    put("index", "empty.json", b"")


def settings():
    mae = {"method": "mae", "encoder": {"image_size": 32, "patch_size": 4}, "train": {"epochs": 3}}
    cases = {
        "mae.json": mae,
        "no_method.json": {},
        "other_method.json": {"method": "\u0000"},
        "type.json": {"method": ["mae"]},
        "unknown.json": {"method": "mae", "encodr": {}},
        "huge.json": {"method": "mae", "encoder": {"image_size": 2**63, "depth": -1}},
        "fraction.json": {"method": "mae", "mask_ratio": 1e308, "train": {"epochs": 0.5}},
        "null.json": None,
        "hf.json": {"model_type": "vit_mae", "hidden_size": 16, "mask_ratio": 0.75},
    }
    for name, value in cases.items():
        put("settings", name, json.dumps(value).encode())
    put("settings", "deep.json", b'{"a":' * 20000)


def pgm(width, height, values=b""):
    return b"P5 %d %d 255 " % (width, height) + values


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(tags, data=b"", count=None):
    """A page with these tags, all of one 32-bit number; its data lie behind the header."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    place = 8 + len(data)
    return struct.pack("<2sHI", b"II", 42, place) + data + struct.pack("<H", count or len(tags)) + entries + bytes(4)


def page(width, height, length, **others):
    names = {"bits": 258, "packed": 259, "channels": 277, "rows": 278}
    return {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: length} | {names[n]: v for n, v in others.items()}


def copies(target, folder, names):
    for name in names:
        shutil.copy(ROOT / "mim-core/tests/fixtures" / folder / name, OUT / target / name)


def image():
    copies("image", "every_format", ["rgb420.jpg", "grey_progressive.jpg", "palette4.png", "rgb.bmp", "palette.gif", "rgb_exact.webp", "rgb_lossy.webp", "text.ppm"])
    whole = (ROOT / "mim-core/tests/fixtures/every_format/rgb420.jpg").read_bytes()
    size = whole.index(b"\xff\xc0") + 5
    put("image", "half.jpg", whole[: len(whole) // 2])
    put("image", "large.jpg", whole[:size] + b"\xff\xff\xff\xff" + whole[size + 4 :])
    put("image", "empty", b"")
    put("image", "wide.pgm", pgm(2**32 - 1, 2**32 - 1))
    put("image", "short.pgm", pgm(4000, 4000, bytes(9)))
    put("image", "bomb.png", png(40000, 40000, bytes(100000)))
    put("image", "no_rows.png", png(3, 3, b""))
    put("image", "no_width.png", png(0, 3, b""))
    put("image", "far.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 2**32 - 1, 40, 9, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0))


def deep_image():
    copies("deep_image", "every_format", ["uint16-4-separate-tiles-zlib-False.tif", "uint8-1-contig-tiles-zlib-False.tif", "float16.tif", "pages.tif", "big.tif", "hwc-big_u2.npy", "chw-uint8-3.npz"])
    put("deep_image", "whole.tif", tiff(page(2, 2, 4), bytes(4)))
    put("deep_image", "short.tif", tiff(page(2, 2, 2), bytes(2)))
    put("deep_image", "huge.tif", tiff(page(2**31, 2**31, 4), bytes(4)))
    put("deep_image", "wide_channels.tif", tiff(page(2, 2, 4, channels=65535), bytes(4)))
    put("deep_image", "bits.tif", tiff(page(2, 2, 4, bits=2**31), bytes(4)))
    put("deep_image", "no_rows.tif", tiff(page(2, 2, 4, rows=0), bytes(4)))
    put("deep_image", "far.tif", struct.pack("<2sHI", b"II", 42, 2**32 - 1))
    put("deep_image", "itself.tif", tiff(page(2, 2, 4), bytes(4))[:-4] + struct.pack("<I", 12))
    put("deep_image", "many_tags.tif", tiff(page(2, 2, 4), bytes(4), count=65535))
    header = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"
    for name, kind, shape in [("huge", "<f4", (2**62, 4)), ("flat", "|u1", (4,)), ("empty", "|u1", (0, 2, 2)), ("objects", "|O", (2, 2))]:
        text = (header % (kind, shape)).encode()
        put("deep_image", f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16))


def packed(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    # Without the zeros that fill the last record.
    return file.getvalue()[:-9216]


def tar():
    one = pgm(1, 1, b"\0")
    pair = [("a.pgm", one), ("a.cls", b"3")]
    whole = packed(pair)
    put("tar", "whole.tar", whole)
    put("tar", "half.tar", whole[: len(whole) // 2 + 9])
    put("tar", "empty.tar", b"")
    put("tar", "json.tar", packed([("a.pgm", one), ("a.json", b'{"label": 2}')]))
    put("tar", "deep.tar", packed([("a.pgm", one), ("a.json", b"[" * 3000)]))
    put("tar", "class.tar", packed([("a.pgm", one), ("a.cls", b"99999999999999999999")]))
    put("tar", "twice.tar", packed(pair + pair))
    put("tar", "label_alone.tar", packed(pair[1:]))
    put("tar", "parent.tar", packed([("../a.pgm", one), ("/b.pgm", one)]))
    put("tar", "long_name.tar", packed([("n" * 3000 + ".pgm", one)]))
    put("tar", "arrays.tar", packed([("a.npy", b"\x93NUMPY")]))
    # The size of its first member.
    for name, size in [("huge", b"77777777777\0"), ("binary", b"\x80" + b"\xff" * 11), ("words", b"not a size..")]:
        put("tar", f"{name}.tar", whole[:124] + size + whole[136:])


def of_idx(sides, values=b"", start=b"\0\0\x08"):
    return start + bytes([len(sides)]) + struct.pack(f">{len(sides)}I", *sides) + values


def idx():
    images, labels = of_idx([2, 3, 3], bytes(18)), of_idx([2], b"\0\1")
    cases = {
        "whole": (images, labels),
        "packed": (gzip.compress(images, mtime=0), gzip.compress(labels, mtime=0)),
        "unlabelled": (images,),
        "fewer_labels": (images, of_idx([1], b"\0")),
        "huge": (of_idx([2**32 - 1] * 3), labels),
        "floats": (of_idx([1, 1, 1], bytes(4), b"\0\0\x0d"), labels),
        "no_rows": (of_idx([2, 0, 3]), labels),
        "bomb": (gzip.compress(of_idx([1, 1, 1]) + bytes(2**22), mtime=0), labels),
        "half": (gzip.compress(images, mtime=0)[:20], labels),
    }
    for name, files in cases.items():
        put("idx", name, NEXT.join(files))


def cifar():
    ten, hundred = bytes([3]) + bytes(3072), bytes([1, 99]) + bytes(3072)
    for name, data in {"ten": ten * 2, "hundred": hundred, "half": ten[:1000], "class": b"\xff" + ten[1:], "empty": b""}.items():
        put("cifar", f"{name}.bin", data)


def image_list():
    cases = {
        "whole.csv": b"path,label\na.pgm,cat\n",
        "numbers.tsv": b"image\tclass\na.pgm\t0\na.pgm\t7\n",
        "whole.jsonl": b'{"path": "a.pgm", "label": 1}\n',
        "whole.txt": b"a.pgm\na.pgm\n",
        "quotes.csv": b'path,label\n"a.pgm","a ""b""\n',
        "ragged.csv": b"path,label\na.pgm\na.pgm,1,2,3\n",
        "deep.jsonl": b'{"path": ' + b"[" * 3000,
        "huge.jsonl": b'{"path": "a.pgm", "label": 1e999}\n{"path": "a.pgm", "label": -1}\n',
        "nul.txt": b"a\0b\n",
        "mark.csv": b"\xef\xbb\xbfpath,label\r\na.pgm,\r\n",
        "not_text.csv": b"path,label\n\xff\xfe,1\n",
        "empty": b"",
    }
    for name, data in cases.items():
        put("image_list", name, data)


def clouds():
    cases = {
        "text.ply": b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n1 1 1\n",
        "binary.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n" + bytes(24),
        "lists.ply": b"ply\nformat binary_big_endian 1.0\nelement face 1\nproperty list uchar int i\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n\xff" + bytes(12),
        "nothing.ply": b"ply\nformat ascii 1.0\nelement nothing 18446744073709551615\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n",
        "many.ply": b"ply\nformat ascii 1.0\nelement vertex 18446744073709551615\nproperty float x\nproperty float y\nproperty float z\nend_header\n",
        "many_faces.ply": b"ply\nformat binary_little_endian 1.0\nelement face 4294967295\nproperty list uint int i\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n\xff\xff\xff\xff",
        "whole.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        "no_face.off": b"OFF 2 0 0\n0 0 0\n1 1 1\n",
        "many.off": b"OFF\n18446744073709551615 4294967295 0\n",
        "beyond.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n",
        "flat.off": b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n",
        "infinite.off": b"OFF\n3 1 0\n1e308 0 0\n-1e308 0 0\nnan inf 0\n3 0 1 2\n",
        "whole.xyz": b"0 0 0\n# a comment\n1 1 1 9\n",
        "short.xyz": b"0 0\n",
        "empty": b"",
    }
    for name, data in cases.items():
        put("clouds", name, data)
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
    put("clouds", "whole.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(24))


def golden():
    header = {"kind": "component", "method": "m", "case": "c", "config": {}, "tolerance": {"rtol": 1e-3, "atol": 1e-3}, "source": {}, "tensors": {}, "notes": []}
    tensor = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = struct.pack("<Q", len(tensor)) + tensor + bytes(4)
    cases = {
        "whole": header,
        "table": header | {"kind": "table", "values": [1]},
        "trajectory": header | {"kind": "trajectory"},
        "no_tolerance": header | {"tolerance": {}},
        "negative": header | {"tolerance": {"rtol": -1, "atol": 1e308}},
        "no_kind": {},
        "list": [],
    }
    for name, value in cases.items():
        put("golden", name, json.dumps(value).encode() + NEXT + tensors)
    put("golden", "deep", b'{"kind":' * 3000)


def hub():
    def answer(body, *headers, status="200 OK", length=None):
        headers = [f"Content-Length: {len(body) if length is None else length}", *headers]
        return "".join(f"{line}\r\n" for line in [f"HTTP/1.1 {status}", *headers, ""]).encode() + body

    def weights(*ends):
        tensors = [{"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]} for start, end in zip((0, *ends), ends)]
        header = json.dumps({str(at): tensor for at, tensor in enumerate(tensors)}).encode()
        return struct.pack("<Q", len(header)) + header

    commit = "0123456789abcdef" * 2 + "01234567"
    files = answer(json.dumps({"sha": commit, "siblings": [{"rfilename": "a.safetensors"}]}).encode())
    whole = weights(4) + bytes(4)
    about = [f"X-Repo-Commit: {commit}", f'ETag: "{hashlib.sha256(whole).hexdigest()}"']
    file = answer(whole, *about)
    # A server that names no hash of the bytes, so that the file itself has to be looked at.
    other = [f"X-Repo-Commit: {commit}", 'ETag: "other"']
    unlikely = answer(weights(*(at * (2**61 - 1) for at in range(1, 9))), *other)
    busy = "429 Too Many Requests"
    # What is asked: the list, then headers of the file, then the file.
    cases = {
        "whole": [files, file, file],
        "no_commit": [files, answer(whole), answer(whole)],
        "other_bytes": [files, file, answer(whole[:-1] + b"x", *about)],
        "cut": [files, file, file[:-2]],
        "longer": [files, file, answer(whole + b"more", *about)],
        "huge": [files, answer(b"", *about, length=2**64 - 1), file],
        "not_found": [answer(b"", "X-Error-Code: EntryNotFound", "X-Error-Message: no\x1b[2J", status="404 Not Found")],
        "busy": [answer(b"", "Retry-After: 99999999999999999999", status=busy)],
        "busy_for_ever": [answer(b"", status=busy), answer(b"", f"Retry-After: {2**64 - 1}", status=busy)],
        "other_server": [files, answer(whole, *other), answer(whole, *other)],
        "unlikely_lengths": [files, unlikely, unlikely],
        "deep": [answer(b"[" * 3000)],
        "parent": [answer(json.dumps({"sha": "../..", "siblings": [{"rfilename": "../../a"}]}).encode())],
        "pieces": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"],
        "no_http": [b"\0" * 100],
        "empty": [],
    }
    for name, answers in cases.items():
        put("hub", name, NEXT.join(answers))


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for target in [torch, safetensors, index, settings, image, deep_image, tar, idx, cifar, image_list, clouds, golden, hub]:
        (OUT / target.__name__).mkdir(parents=True)
        target()
