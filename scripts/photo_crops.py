"""Cuts the photographs of scikit-image into classes of crops: folders for `mim eval knn`.

    pip install scikit-image pillow
    python scripts/photo_crops.py photos
    mim eval knn --checkpoint zoo:dinov2_small=focus.safetensors --pooling cls --k 10 --data folder:photos

A class is a photograph, its training images are square crops of random size from the left half, its test images from
the right half, each turned by a random multiple of 90 degrees: pixels of one half say little about the other.
"""

import random
import sys
from pathlib import Path

import skimage.data
from PIL import Image

PHOTOS = ["astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
          "immunohistochemistry", "moon", "page", "retina", "rocket", "text"]
COUNTS = {"train": 16, "val": 8}


def main(folder):
    draw = random.Random(0)
    for name in PHOTOS:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        half = image.width // 2
        for split, count in COUNTS.items():
            target = Path(folder) / split / name
            target.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                side = int(min(half, image.height) * draw.uniform(0.4, 0.9))
                left = draw.randrange(half - side + 1) + (half if split == "val" else 0)
                top = draw.randrange(image.height - side + 1)
                crop = image.crop((left, top, left + side, top + side))
                crop.rotate(90 * draw.randrange(4)).resize((256, 256), Image.BICUBIC).save(target / f"{index:02}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
