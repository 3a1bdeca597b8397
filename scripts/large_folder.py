"""Times the opening of a large folder of tiny images: python scripts/large_folder.py MIM [COUNT] [FOLDER].
The second opening takes the listing that the first one kept. Prints seconds and peak memory; Linux only."""
import os, pathlib, resource, shutil, struct, subprocess, sys, tempfile, time, zlib

mim, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
root = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp(prefix="large-folder"))

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
png += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))) + chunk(b"IEND", b"")
for index in range(count):
    folder = root / "images" / f"class{index % 100:03}"
    if index < 100:
        folder.mkdir(parents=True, exist_ok=True)
    (folder / f"image_{index:08}.png").write_bytes(png)
time.sleep(3)  # What changed a moment ago is not kept.
small = ["encoder={ image_size = 8, patch_size = 4, embed_dim = 8, depth = 1, num_heads = 2 }",
         "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }", "norm={ mean = [0.5], std = [0.2] }", "encoder.in_channels=1", "data.val_share=0"]
command = [mim, "pretrain", "--dry-run", "--device", "cpu", "--batch-size", "8", "--data", f"folder:{root}/images", "--output-dir", str(root / "run")]
command += sum((["--set", one] for one in small), [])
env = dict(os.environ, MIM_CACHE=str(root / "cache"))
for opening in "first", "second":
    start = time.time()
    child = subprocess.run(command, env=env, capture_output=True, text=True)
    seconds = time.time() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{opening}: {seconds:.1f} s, at most {peak:.0f} MiB so far, exit status {child.returncode}")
    print(child.stderr.strip()[-300:])
shutil.rmtree(root)
