"""Packs the images of a folder into tar and parquet files, to compare how fast each is read:

    python pack_images.py photos packed
    mim bench data --images folder:photos --images tar:packed/tar --images parquet:packed/parquet --workers 2

With --make N the folder is made first: N JPEGs of 224 to 400 pixels of ramps and noise, about 50 kB each.
Needs pyarrow, and with --make also numpy and pillow."""
import argparse, io, pathlib, tarfile

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--make", type=int)
parser.add_argument("--shards", type=int, default=4)
args = parser.parse_args()

def make(count):
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    args.folder.mkdir(parents=True)
    for number in range(count):
        height, width = rng.integers(224, 401, 2)
        y, x = np.mgrid[:height, :width]
        ramps = np.stack([rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y + rng.uniform(0, 255) for _ in range(3)], -1)
        pixels = (ramps % 256 + rng.normal(0, 16, ramps.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(args.folder / f"{number:06}.jpg", quality=92)

def pack():
    import pyarrow as pa, pyarrow.parquet as pq
    files = sorted(path for path in args.folder.rglob("*") if path.is_file())
    for kind in "tar", "parquet":
        (args.out / kind).mkdir(parents=True, exist_ok=True)
    for shard in range(args.shards):
        part = files[len(files) * shard // args.shards : len(files) * (shard + 1) // args.shards]
        with tarfile.open(args.out / f"tar/train-{shard:05}.tar", "w") as tar:
            for path in part:
                name = tarfile.TarInfo("-".join(path.relative_to(args.folder).parts))
                name.size = path.stat().st_size
                tar.addfile(name, io.BytesIO(path.read_bytes()))
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in part]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images, kind)})
        # Groups of 100 rows, as Hugging Face's `datasets` writes images.
        pq.write_table(table, args.out / f"parquet/train-{shard:05}.parquet", row_group_size=100)
    print(f"{len(files)} images, {sum(path.stat().st_size for path in files) / len(files) / 1000:.1f} kB each")

if args.make:
    make(args.make)
pack()
