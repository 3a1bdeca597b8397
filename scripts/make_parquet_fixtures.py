"""Writes mim-core/tests/fixtures/parquet/labels: files whose labels are text and booleans, and with two columns of images.
Needs pyarrow and pillow."""
import io, json, pathlib
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

OUT = pathlib.Path(__file__).parent.parent / "mim-core/tests/fixtures/parquet/labels"

def image(grey, turned=False):
    """Grey above white; with a note that it is to be shown a quarter turn to the right."""
    picture = Image.new("RGB", (1, 2), (grey,) * 3)
    picture.putpixel((0, 1), (255, 255, 255))
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    out = io.BytesIO()
    picture.save(out, "PNG", exif=exif)
    return out.getvalue()

def images(greys, turned=False):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": image(grey, turned), "path": None} for grey in greys], kind)

def write(name, columns, features=None):
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path = OUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)

write("text/train.parquet", {"image": images([0, 1, 2]), "label": ["dog", "cat", "dog"]})
write("text/validation.parquet", {"image": images([3, 4]), "label": ["eel", "dog"]})
write("bool/train.parquet", {"image": images([0, 1], True), "label": [True, False]})
kind = {"_type": "Image"}
write("two/train.parquet", {"source": images([5]), "edited": images([6]), "label": [[1, 2]]}, {"source": kind, "edited": kind})
path = pa.array([{"bytes": None, "path": "far/away.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
write("path/train.parquet", {"image": path})
