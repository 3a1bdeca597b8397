"""Writes mim-core/tests/fixtures/formats: small images of many formats, and their pixels as Pillow reads them (RGB).
Of 16 bits the high byte is expected, where Pillow clips. Needs pillow, numpy and tifffile."""
import io, json, pathlib
import numpy as np, tifffile
from PIL import Image

OUT = pathlib.Path(__file__).parent.parent / "mim-core/tests/fixtures/formats"
OUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)
H, W = 9, 13
expected = {}

def keep(name, data, pixels=None):
    (OUT / name).write_bytes(data)
    if pixels is None:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected[name] = np.asarray(pixels, np.uint8).flatten().tolist()

def pillow(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()

def tiff(array, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()

rgb = rng.integers(0, 256, (H, W, 3), np.uint8)
grey = rng.integers(0, 256, (H, W), np.uint8)
deep = rng.integers(0, 65536, (H, W), np.uint16)
deep_rgb = rng.integers(0, 65536, (H, W, 3), np.uint16)
three = lambda one: np.repeat(one[:, :, None], 3, 2)
colours = Image.fromarray(rgb).quantize(16)
bits = Image.fromarray(grey).convert("1")

for name, image in ("rgb", Image.fromarray(rgb)), ("grey", Image.fromarray(grey)), ("palette", colours), ("bits", bits):
    keep(f"{name}.bmp", pillow(image, "BMP"))
    keep(f"{name}.gif", pillow(image, "GIF"))
    keep(f"{name}.pnm", pillow(image if name != "palette" else image.convert("RGB"), "PPM"))
    # A palette in a TIFF is refused.
    for way in ("raw", "tiff_deflate", "tiff_lzw", "packbits") if name != "palette" else ():
        keep(f"{name}_{way}.tif", pillow(image, "TIFF", compression=way))
keep("rgba.tif", pillow(Image.fromarray(np.dstack([rgb, grey])), "TIFF"))
frames = [Image.fromarray(rng.integers(0, 256, (H, W, 3), np.uint8)) for _ in range(3)]
keep("frames.gif", pillow(frames[0], "GIF", save_all=True, append_images=frames[1:]))
keep("pages.tif", pillow(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
keep("tiles.tif", tiff(rng.integers(0, 256, (40, 40, 3), np.uint8), tile=(16, 16), compression="zlib"))
keep("planes.tif", tiff(rgb.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"), rgb)
keep("predictor.tif", tiff(rgb, compression="zlib", predictor=True))
keep("big_endian.tif", tiff(rgb, byteorder=">"))
keep("deep.tif", tiff(deep), three(deep >> 8))
keep("deep_rgb.tif", tiff(deep_rgb, photometric="rgb"), deep_rgb >> 8)
keep("deep.pgm", b"P5\n%d %d\n65535\n" % (W, H) + deep.astype(">u2").tobytes(), three(deep >> 8))
keep("text.ppm", b"P3\n# a comment\n2 1\n255\n1 2 3  250 251 252\n")
png = pillow(Image.fromarray(rgb), "PNG")
keep("no_end.png", png[:-12])
keep("bmp_inside.jpg", pillow(Image.fromarray(rgb), "BMP"))
jpeg = pillow(Image.fromarray(np.kron(rgb[:2, :2], np.ones((8, 8, 1), np.uint8))), "JPEG", quality=95)
keep("trailer.jpg", jpeg + b"MotionPhoto_Data" + bytes(400) + b"\xff\xda\x00\x0c moov")
# Images of values: files, and what they hold as [height, width, channels].
values = {}
def deep(name, data, array):
    (OUT / name).write_bytes(data)
    values[name] = [list(array.shape), np.asarray(array, np.float64).flatten().tolist()]

def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()

bands = rng.normal(0, 100, (4, 5, 12)).astype(np.float32)
words = rng.integers(0, 65536, (4, 5, 5), np.uint16)
deep("bands_f32.tif", tiff(bands, photometric="minisblack", planarconfig="contig", compression="zlib"), bands)
deep("bands_f32_planes.tif", tiff(bands.transpose(2, 0, 1).copy(), photometric="minisblack", planarconfig="separate"), bands)
deep("bands_u16.tif", tiff(words, photometric="minisblack", planarconfig="contig", compression="zlib", predictor=True), words / 65535)
deep("bands_u8.tif", tiff((words >> 8).astype(np.uint8), photometric="minisblack", planarconfig="contig", tile=(16, 16)), (words >> 8) / 255)
deep("grey16.png", pillow(Image.fromarray(words[:, :, 0]), "PNG"), words[:, :, :1] / 65535)
deep("hwc_f32.npy", npy(bands), bands)
deep("grey_f64.npy", npy(bands[:, :, 0].astype(np.float64)), bands[:, :, :1])
# An archive of two arrays, compressed; tests/deep_images.rs takes `bands`, which are [channels, height, width].
np.savez_compressed(OUT / "arrays.npz", bands=np.arange(24, dtype=np.uint16).reshape(3, 2, 4), mask=np.zeros((2, 4), np.uint8))
(OUT / "values.json").write_text(json.dumps(values, separators=(",", ":")) + "\n")
(OUT / "rgb.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
