#!/usr/bin/env python3
"""Writes the reference results of Pillow that mim-core's augmentation and image-reading tests compare with.

    python scripts/augment_fixtures.py

Needs pillow and numpy (made with Pillow 13.0.0, numpy 2.4.6). Writes below mim-core/tests/fixtures:
augment/cases.json   one entry a result: operation, parameters, input name, shape, offset into pixels.bin
augment/pixels.bin   the bytes [height, width, channels] of the inputs and the results, one after the other
images/              small files of every kind a folder of images may hold, and images/rgb.json with what
                     Pillow's convert("RGB") makes of them
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

FIXTURES = Path(__file__).parent.parent / "mim-core" / "tests" / "fixtures"
FILL = (124, 116, 104)
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def photo(height, width):
    """Smooth colours, noise and hard edges, with black, white and grey patches."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:height, 0:width]
    waves = [127 + 127 * np.sin(xs / a + ys / b) for a, b in ((5, 9), (7, -6), (-11, 4))]
    pixels = np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    pixels[4:12, 6:14] = 255
    pixels[15:20, 30:44] = 0
    pixels[22:30, 3:9] = 128
    pixels[8:14, 36:46] = rng.integers(0, 256, (6, 10, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def turn_hue(image, turn):
    """What torchvision does to Pillow images: the hue byte wraps around."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue).astype(np.int32) + int(turn * 255)
    turned = Image.fromarray((turned % 256).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


class Recorder:
    def __init__(self):
        self.cases, self.pixels = [], bytearray()

    def add(self, op, image, **parameters):
        pixels = np.asarray(image)
        shape = [*pixels.shape, 1][:3]
        self.cases.append(dict(op=op, shape=shape, offset=len(self.pixels), **parameters))
        self.pixels += pixels.tobytes()


def grey_cases(record, grey):
    """Every operation on a grey image; of its hue torchvision leaves it alone."""
    for op, result, parameters in (
        ("brightness", ImageEnhance.Brightness(grey).enhance(1.37), dict(factor=1.37)),
        ("contrast", ImageEnhance.Contrast(grey).enhance(1.37), dict(factor=1.37)),
        ("saturation", ImageEnhance.Color(grey).enhance(0.6), dict(factor=0.6)),
        ("hue", grey, dict(factor=0.07)),
        ("grayscale", ImageOps.grayscale(grey), {}),
        ("solarize", ImageOps.solarize(grey, 128), {}),
        ("autocontrast", ImageOps.autocontrast(grey), {}),
        ("posterize", ImageOps.posterize(grey, 2), dict(bits=2)),
        ("sharpness", ImageEnhance.Sharpness(grey).enhance(1.81), dict(factor=1.81)),
        ("rotate", grey.rotate(13.0, resample=Image.Resampling.BICUBIC, fillcolor=117), dict(factor=13.0)),
        ("gaussian_blur", grey.filter(ImageFilter.GaussianBlur(0.5)), dict(factor=0.5)),
    ):
        record.add(op, result, input="grey", **parameters)


def augment_cases():
    record = Recorder()
    inputs = {"colour": photo(33, 47), "grey": photo(33, 47).convert("L")}
    inputs["faint"] = inputs["colour"].point(lambda value: 40 + value // 2)
    for name, image in inputs.items():
        record.add("input", image, input=name)
    colour, grey = inputs["colour"], inputs["grey"]

    def resized(name, box, size, interpolation):
        top, left, height, width = box
        cut = inputs[name].crop((left, top, left + width, top + height))
        result = cut.resize((size[1], size[0]), FILTERS[interpolation])
        record.add("resize", result, input=name, box=box, size=size, interpolation=interpolation)

    for interpolation in FILTERS:
        resized("colour", [0, 0, 33, 47], [16, 24], interpolation)
        resized("colour", [5, 7, 20, 31], [20, 20], interpolation)
        resized("colour", [3, 2, 9, 11], [24, 40], interpolation)
        resized("grey", [1, 4, 30, 41], [17, 13], interpolation)
    for factor in (0.6, 1.0, 1.37):
        record.add("brightness", ImageEnhance.Brightness(colour).enhance(factor), input="colour", factor=factor)
        record.add("contrast", ImageEnhance.Contrast(colour).enhance(factor), input="colour", factor=factor)
        record.add("saturation", ImageEnhance.Color(colour).enhance(factor), input="colour", factor=factor)
    record.add("contrast", ImageEnhance.Contrast(grey).enhance(0.7), input="grey", factor=0.7)
    for turn in (-0.1, 0.0, 0.07, 0.5):
        record.add("hue", turn_hue(colour, turn), input="colour", factor=turn)
    record.add("grayscale", colour.convert("L").convert("RGB"), input="colour")
    record.add("solarize", ImageOps.solarize(colour, 128), input="colour")
    record.add("autocontrast", ImageOps.autocontrast(inputs["faint"]), input="faint")
    record.add("equalize", ImageOps.equalize(colour), input="colour")
    record.add("equalize", ImageOps.equalize(grey), input="grey")
    record.add("posterize", ImageOps.posterize(colour, 2), input="colour", bits=2)
    for factor in (0.19, 1.81):
        record.add("sharpness", ImageEnhance.Sharpness(colour).enhance(factor), input="colour", factor=factor)
    for angle in (-27.3, 13.0):
        turned = colour.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=FILL)
        record.add("rotate", turned, input="colour", factor=angle)
    for op, factor, matrix in (
        ("shear_x", 0.27, (1, 0.27, 0, 0, 1, 0)),
        ("shear_y", -0.3, (1, 0, 0, -0.3, 1, 0)),
        ("translate_x", 19.035, (1, 0, 19.035, 0, 1, 0)),
    ):
        moved = colour.transform(colour.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)
        record.add(op, moved, input="colour", factor=factor)
    for radius in (0.1, 0.3, 0.5, 1.0, 1.7, 2.0, 4.3, 20.0):
        name = "grey" if radius == 1.7 else "colour"
        blurred = inputs[name].filter(ImageFilter.GaussianBlur(radius))
        record.add("gaussian_blur", blurred, input=name, factor=radius)
    grey_cases(record, grey)

    folder = FIXTURES / "augment"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in record.cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n")
    (folder / "pixels.bin").write_bytes(record.pixels)


def image_files():
    folder = FIXTURES / "images"
    folder.mkdir(parents=True, exist_ok=True)
    small = photo(33, 47).crop((0, 0, 12, 9))
    alpha = Image.linear_gradient("L").resize(small.size)
    clear = small.copy()
    clear.putalpha(alpha)
    deep = (np.arange(9 * 12, dtype=np.uint16) * 601).reshape(9, 12)
    files = {
        "rgb.png": small,
        "grey.png": small.convert("L"),
        "grey_alpha.png": clear.convert("LA"),
        "alpha.png": clear,
        "palette.png": small.quantize(16),
        "bits.png": small.convert("1"),
        "grey16.png": Image.fromarray(deep),
        "lossless.webp": small,
        "colour.JPG": small,
        "grey.jpeg": small.convert("L"),
        "cmyk.jpg": small.convert("CMYK"),
    }
    expected = {}
    for name, image in files.items():
        options = dict(quality=95) if name.lower().endswith(("jpg", "jpeg")) else {}
        if name.endswith("webp"):
            options = dict(lossless=True)
        image.save(folder / name, **options)
        read = Image.open(folder / name)
        # Pillow clips 16-bit greys at 255, which loses the picture; its rule for 16-bit RGB is the high byte.
        pixels = np.stack([deep >> 8] * 3, -1) if name == "grey16.png" else np.asarray(read.convert("RGB"))
        expected[name] = pixels.reshape(-1).tolist()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(pixels)}" for name, pixels in expected.items())
    (folder / "rgb.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    augment_cases()
    image_files()
