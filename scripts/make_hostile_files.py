"""Writes the seed corpus of the fuzz targets: small whole files, damaged ones, and ones that ask for too much.

    python scripts/make_hostile_files.py

Files go to fuzz/corpus/TARGET; `cargo test --test hostile` replays them, `cargo +nightly fuzz run TARGET` starts from them.
Needs nothing but Python.
"""

import io
import json
import pathlib
import shutil
import struct
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
OUT = ROOT / "fuzz/corpus"
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


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for target in [torch, safetensors, index, settings]:
        (OUT / target.__name__).mkdir(parents=True)
        target()
