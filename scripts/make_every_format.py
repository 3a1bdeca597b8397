"""Writes mim-core/tests/fixtures/every_format: random images of 7 x 5 pixels in every format, depth and number of channels
that mim reads, and what Pillow, tifffile, imagecodecs and numpy read back from them.

`index.json` says of each file:
  values  [height, width, channels] of what is in it, of which `values.bin` has the f32 values one after another
  depth   the type of its values
  layout  the order of an array's axes
  pages   whether the channels are those of all pages
  rgb     where `rgb.bin` has its bytes as RGB (Pillow's; of 16 bits the high byte), or a word of the refusal
  far     how far values and bytes of a lossy format may be off
Needs pillow, numpy, tifffile and imagecodecs."""
import io, itertools, json, pathlib, struct, warnings, zlib
import imagecodecs, numpy as np, tifffile
from PIL import Image

OUT = pathlib.Path(__file__).parent.parent / "mim-core/tests/fixtures/every_format"
OUT.mkdir(parents=True, exist_ok=True)
for old in OUT.iterdir():
    old.unlink()
rng = np.random.default_rng(7)
H, W = 5, 7
index, all_values, all_rgb = {}, bytearray(), bytearray()

def random(dtype, channels):
    """[H, W, channels] over all of the type; floats around zero."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(0, 100, (H, W, channels)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, (H, W, channels), np.int64).astype(dtype)

def smooth(channels):
    """A ramp in another direction for each channel, which lossy formats keep."""
    y, x = np.mgrid[:H, :W]
    return np.stack([40 + 20 * x + 8 * y * c for c in range(channels)], -1).astype(np.uint8)

def keep(name, data, values=None, rgb=None, layout=None, far=0, pages=False):
    """Keeps a file. `values` are an array or a word of the refusal, `rgb` likewise; by default RGB is Pillow's."""
    assert name not in index, name
    (OUT / name).write_bytes(data)
    if rgb is None:
        rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    said = index[name] = {"rgb": rgb if isinstance(rgb, str) else len(all_rgb)}
    if not isinstance(rgb, str):
        assert rgb.shape == (H, W, 3), (name, rgb.shape)
        all_rgb.extend(np.asarray(rgb, np.uint8).tobytes())
    if isinstance(values, str):
        said["refused"] = values
    else:
        values = np.asarray(values)
        values = values.reshape(H, W, -1)
        depth = values.dtype.kind.replace("b", "u") + str(8 * values.dtype.itemsize)
        said |= {"values": list(values.shape), "at": len(all_values) // 4, "depth": depth}
        all_values.extend(values.astype("<f4").tobytes())
    if layout:
        said["layout"] = layout
    if far:
        said["far"] = far
    if pages:
        said["pages"] = True

def pillow(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()

def of_pillow(data):
    """Grey or RGB without alpha, as Pillow reads it."""
    image = Image.open(io.BytesIO(data))
    grey = image.mode in ("1", "L", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"))

def png(values, bits, kind, *chunks):
    """A PNG that Pillow does not write: of few bits a pixel, or with further chunks."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = b""
    for row in values.reshape(H, -1):
        packed = "".join(f"{value:0{bits}b}" for value in row)
        packed += "0" * (-len(packed) % 8)
        rows += b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big")
    head = struct.pack(">IIBBBBB", W, H, bits, kind, 0, 0, 0)
    more = b"".join(chunk(name, data) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

def high(array):
    """As RGB of 8 bits: the high byte of 16 bits, without alpha."""
    array = array.reshape(H, W, -1)
    array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    return np.repeat(array[:, :, :1], 3, 2) if array.shape[2] < 3 else array[:, :, :3]

def pngs():
    for bits in 1, 2, 4, 8:
        grey = rng.integers(0, 1 << bits, (H, W), np.uint8)
        for name, kind, chunks in [
            ("grey", 0, []),
            ("key", 0, [(b"tRNS", struct.pack(">H", int(grey[0, 0])))]),
            ("palette", 3, [(b"PLTE", rng.bytes(3 << bits))]),
            ("palette_alpha", 3, [(b"PLTE", rng.bytes(3 << bits)), (b"tRNS", rng.bytes(1 << bits))]),
        ]:
            data = png(grey, bits, kind, *chunks)
            keep(f"{name}{bits}.png", data, of_pillow(data))
    for dtype, (name, channels) in itertools.product(
        (np.uint8, np.uint16), [("grey_whole", 1), ("grey_alpha", 2), ("rgb", 3), ("rgb_alpha", 4)]
    ):
        data = imagecodecs.png_encode(random(dtype, channels).squeeze())
        back = imagecodecs.png_decode(data).reshape(H, W, -1)
        shown = back[:, :, : 1 if channels < 3 else 3]
        keep(f"{name}{8 * np.dtype(dtype).itemsize}.png", data, shown, high(back))

def jpegs():
    for name, image, options in [
        ("grey", Image.fromarray(smooth(1)[:, :, 0]), {}),
        ("rgb444", Image.fromarray(smooth(3)), {"subsampling": 0}),
        ("rgb420", Image.fromarray(smooth(3)), {"subsampling": 2}),
        ("progressive", Image.fromarray(smooth(3)), {"subsampling": 0, "progressive": True}),
        ("grey_progressive", Image.fromarray(smooth(1)[:, :, 0]), {"progressive": True}),
        ("cmyk", Image.fromarray(smooth(4), "CMYK"), {"subsampling": 0}),
    ]:
        data = pillow(image, "JPEG", quality=95, **options)
        keep(f"{name}.jpg", data, of_pillow(data), far=3)

def webps():
    for channels, lossless in itertools.product((3, 4), (True, False)):
        values = random(np.uint8, channels) if lossless else smooth(channels)
        data = pillow(Image.fromarray(values), "WEBP", lossless=lossless, quality=95, exact=True)
        name = f"{'rgb' if channels == 3 else 'rgb_alpha'}_{'exact' if lossless else 'lossy'}.webp"
        keep(name, data, of_pillow(data), far=0 if lossless else 3)
    frames = [Image.fromarray(random(np.uint8, 3)) for _ in range(2)]
    data = pillow(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    keep("frames.webp", data, of_pillow(data))

def bitmaps():
    grey, colour = random(np.uint8, 1)[:, :, 0], random(np.uint8, 3)
    images = {
        "bits": Image.fromarray(grey).convert("1"),
        "grey": Image.fromarray(grey),
        "palette": Image.fromarray(colour).quantize(16),
        "rgb": Image.fromarray(colour),
        "rgb_alpha": Image.fromarray(random(np.uint8, 4)),
    }
    for name, image in images.items():
        data = pillow(image, "BMP")
        # A table of colours stands for grey, too, so all are RGB.
        keep(f"{name}.bmp", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    for name, image in images.items():
        if name not in ("rgb", "rgb_alpha"):
            data = pillow(image, "GIF")
            keep(f"{name}.gif", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    data = pillow(images["palette"], "GIF", transparency=3, interlace=1)
    keep("transparent.gif", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

def anymaps():
    bits, grey, colour = rng.integers(0, 2, (H, W)), random(np.uint8, 1), random(np.uint8, 3)
    words, colours = random(np.uint16, 1), random(np.uint16, 3)
    text = lambda array: " ".join(map(str, array.flatten().tolist())).encode() + b"\n"
    size = b"%d %d\n" % (W, H)
    one = ((1 - bits) * 255).astype(np.uint8)
    keep("text.pbm", b"P1\n# ones are black\n" + size + text(bits), one)
    keep("text.pgm", b"P2\n" + size + b"255\n" + text(grey), grey)
    keep("text.ppm", b"P3\n" + size + b"255\n" + text(colour), colour)
    keep("bits.pbm", pillow(Image.fromarray(one).convert("1"), "PPM"), one)
    keep("grey.pgm", pillow(Image.fromarray(grey[:, :, 0]), "PPM"), grey)
    keep("rgb.ppm", pillow(Image.fromarray(colour), "PPM"), colour)
    keep("grey16.pgm", b"P5\n" + size + b"65535\n" + words.astype(">u2").tobytes(), words, high(words))
    keep("rgb16.ppm", b"P6\n" + size + b"65535\n" + colours.astype(">u2").tobytes(), colours, high(colours))
    # Of another largest value Pillow stretches to 255, and rounds halves down.
    data = b"P5\n" + size + b"100\n" + (grey % 101).tobytes()
    keep("to100.pgm", data, of_pillow(data), far=1)

def tiff(array, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()

def tiffs():
    """Files in which any two choices of type, channels, planes, tiles and compression meet."""
    choices = [
        ("uint8", "uint16", "float32"), (1, 3, 4, 12), ("contig", "separate"), (None, (16, 16)), (None, "zlib", "lzw"),
        (False, True),
    ]
    pairs = lambda combination: set(itertools.combinations(enumerate(map(str, combination)), 2))
    def possible(dtype, channels, planes, tile, packed, predictor):
        # The decoder refuses some LZW tiles of nearly equal values, as the borders of these small images are.
        return (packed or not predictor) and (planes == "contig" or channels > 1) and (not tile or packed == "zlib")
    combinations = [c for c in itertools.product(*choices) if possible(*c)]
    missing = set().union(*map(pairs, combinations))
    while missing:
        best = max(combinations, key=lambda c: (len(pairs(c) & missing), -c[1]))
        missing -= pairs(best)
        dtype, channels, planes, tile, packed, predictor = best
        array = random(dtype, channels)
        written = array.transpose(2, 0, 1).copy() if planes == "separate" else array.squeeze()
        photometric = "rgb" if channels in (3, 4) else "minisblack"
        data = tiff(written, photometric=photometric, planarconfig=planes if channels > 1 else None, tile=tile,
                    compression=packed, predictor=predictor, metadata=None)
        back = tifffile.imread(io.BytesIO(data)).reshape(written.shape)
        back = back.transpose(1, 2, 0) if planes == "separate" else back
        word = "-".join(map(str, (dtype, channels, planes, "tiles" if tile else "strips", packed, predictor)))
        rgb = {"float32": "data.range"}.get(dtype) or ("data.range" if channels == 12 else high(back))
        keep(f"{word}.tif", data, back, rgb)
    for dtype in "int8", "int16", "uint32", "int32", "float16", "float64":
        array = random(dtype, 2)
        data = tiff(array, photometric="minisblack", planarconfig="contig", metadata=None)
        keep(f"{dtype}.tif", data, tifffile.imread(io.BytesIO(data)), "data.range")
    big = random("uint16", 3)
    keep("big_endian.tif", tiff(big, photometric="rgb", byteorder=">", metadata=None), big, high(big))
    keep("big.tif", tiff(big, photometric="rgb", bigtiff=True, metadata=None), big, high(big))
    data = tiff(big.transpose(2, 0, 1).copy(), photometric="minisblack", metadata=None)
    assert len(tifffile.TiffFile(io.BytesIO(data)).pages) == 3
    keep("pages.tif", data, tifffile.imread(io.BytesIO(data), key=0), high(big[:, :, :1]))
    keep("pages-channels.tif", data, tifffile.imread(io.BytesIO(data)).transpose(1, 2, 0), high(big[:, :, :1]), pages=True)
    grey = random("uint8", 1)[:, :, 0]
    data = tiff(grey, photometric="miniswhite", metadata=None)
    keep("white_is_zero.tif", data, of_pillow(data))
    data = pillow(Image.fromarray(grey).convert("1"), "TIFF")
    keep("bits.tif", data, of_pillow(data))
    data = pillow(Image.fromarray(random("uint8", 3)).quantize(16), "TIFF")
    keep("palette.tif", data, "palette", "decoded as RGB")

def arrays():
    def npy(array, **options):
        out = io.BytesIO()
        np.lib.format.write_array(out, array, **options)
        return out.getvalue()
    def npz(array, packed):
        out = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(out, array)
        return out.getvalue()
    def put(name, array, layout, data):
        loaded = np.load(io.BytesIO(data))
        loaded = loaded if isinstance(loaded, np.ndarray) else loaded["arr_0"]
        values = loaded.transpose(1, 2, 0) if layout == "chw" else loaded
        keep(name, data, values.astype(values.dtype.newbyteorder("=")), "cannot", layout)
    for dtype, channels, layout in itertools.product(("uint8", "uint16", "float32"), (1, 3, 12), ("hwc", "chw")):
        array = random(dtype, channels)
        array = array.transpose(2, 0, 1).copy() if layout == "chw" else array
        name = f"{layout}-{dtype}-{channels}"
        # By turns plain, in an archive, and in a compressed archive.
        way = len(index) % 3
        put(f"{name}.{'npz' if way else 'npy'}", array, layout, npz(array, way == 2) if way else npy(array))
    for dtype in "int8", "int16", "uint32", "int32", "float16", "float64", ">u2", ">f4":
        array = random(dtype, 2)
        put(f"hwc-{dtype.replace('>', 'big_')}.npy", array, "hwc", npy(array))
    array = random("uint8", 3)
    put("hwc-columns.npy", array, "hwc", npy(np.asfortranarray(array)))
    put("hwc-version3.npy", array, "hwc", npy(array, version=(3, 0)))
    put("hwc-flat.npy", array[:, :, 0], "hwc", npy(array[:, :, 0]))

warnings.simplefilter("ignore")  # Pillow would have palettes with alpha as RGBA.
for part in pngs, jpegs, webps, bitmaps, anymaps, tiffs, arrays:
    part()
(OUT / "values.bin").write_bytes(zlib.compress(bytes(all_values), 9))
(OUT / "rgb.bin").write_bytes(zlib.compress(bytes(all_rgb), 9))
(OUT / "index.json").write_text(json.dumps(index, indent=0, separators=(",", ":")).replace("\n", "").replace("},", "},\n") + "\n")
sizes = [path.stat().st_size for path in OUT.iterdir()]
print(f"{len(index)} images, {sum(sizes)} bytes")
