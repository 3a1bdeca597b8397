"""Compares `mim eval` with Python: the same encoder in timm, the same images, scikit-learn's classifiers.

    pip install torch timm scikit-learn safetensors numpy pillow
    cargo build --release
    python scripts/check_eval.py target/release/mim [RUN]

RUN is a finished run on the embedded images; a MAE is trained for 5 epochs if none is given. The encoder goes through
`mim export --format timm`, the images are read and resized here. k-NN, logistic regression and low-shot accuracy (with the
draws that `mim eval lowshot --json` names) must agree within 0.2 points, one of the 500 test images.
"""

import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MIM = sys.argv[1]
IMAGES = pathlib.Path(__file__).parent.parent / "mim-core/data/fashion-mnist-mini"
MOST = 0.2


def mim(*args):
    done = subprocess.run([MIM, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mim {args[0]}: {done.stderr}")
    return done.stdout


def idx(name):
    """An array of an IDX file: a magic number that tells the axes, their lengths, then bytes."""
    data = gzip.decompress((IMAGES / name).read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def embedded(split, side, norm):
    """Images `[count, channels, side, side]` as the network gets them, and their labels."""
    pictures = [Image.fromarray(pixels) for pixels in idx(f"{split}-images-idx3-ubyte.gz")]
    pixels = np.stack([np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures])
    mean, std = (torch.tensor(norm[key], dtype=torch.float32).reshape(1, -1, 1, 1) for key in ["mean", "std"])
    x = torch.from_numpy(pixels).float()[:, None] / 255
    return (x.expand(-1, mean.shape[1], -1, -1) - mean) / std, idx(f"{split}-labels-idx1-ubyte.gz")


@torch.no_grad()
def features(model, x):
    """The mean of the patch tokens."""
    tokens = torch.cat([model.forward_features(part) for part in x.split(250)])
    return tokens[:, model.num_prefix_tokens:].mean(1).double().numpy()


def knn(settings):
    """Votes of the nearest by cosine, each `exp(cosine / temperature)`."""
    weights = lambda distances: np.exp((1 - distances) / settings["temperature"])
    return KNeighborsClassifier(settings["k"], weights=weights, metric="cosine", algorithm="brute")


def linear(settings):
    regression = LogisticRegression(C=settings["c"], max_iter=settings["max_iter"], tol=settings["tolerance"])
    return make_pipeline(StandardScaler(), regression)


def check_is_plain(config):
    """Refuses a run whose images are prepared in another way than here."""
    steps = config["eval"]["views"]["shared"]
    plain = [step["type"] for step in steps] == ["resize"] and config["data"]["source"] == "embedded"
    if not plain or config["eval"]["pooling"] != "mean":
        sys.exit("give a run on the embedded images whose evaluation resizes them and takes the mean of the patches")


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    run = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "run"
    if len(sys.argv) <= 2:
        mim("pretrain", "--epochs", 5, "--no-eval", "--output-dir", run)
    config = tomllib.loads((run / "config.toml").read_text())
    check_is_plain(config)
    mim("export", "--checkpoint", run, "--format", "timm", "--output", folder / "timm")
    model = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    side = model.patch_embed.img_size[0]
    (x, train_labels), (y, test_labels) = (embedded(split, side, config["norm"]) for split in ["train", "t10k"])
    train, test = features(model, x), features(model, y)
    ours = {name: json.loads(mim("eval", name, "--checkpoint", run, "--split", "test", "--json")) for name in ["knn", "linear", "lowshot"]}

    def top1(classifier, rows=slice(None)):
        return 100 * classifier.fit(train[rows], train_labels[rows]).score(test, test_labels)

    theirs = [
        ("k-NN", ours["knn"]["knn_top1"], top1(knn(ours["knn"]["settings"]))),
        ("logistic regression", ours["linear"]["linear_top1"], top1(linear(ours["linear"]["settings"]))),
    ]
    settings = config["eval"]["linear"] | {"c": 1.0} | ours["lowshot"]["settings"].get("linear", {})
    for draw, rows in enumerate(ours["lowshot"]["drawn"]):
        name = f"{len(rows)} labels, draw {draw}"
        theirs.append((name, ours["lowshot"][f"lowshot_top1_draw_{draw}"], top1(linear(settings), rows)))
    print(f"{'top-1 in percent':24} {'mim':>8} {'Python':>8} {'apart':>8}")
    for name, own, other in theirs:
        print(f"{name:24} {own:8.2f} {other:8.2f} {abs(own - other):8.2f}")
    worst = max(abs(own - other) for _, own, other in theirs)
    if worst > MOST + 1e-6:
        sys.exit(f"mim and Python are {worst:.2f} points apart, more than {MOST}")
    print(f"all within {MOST} points")


if __name__ == "__main__":
    main()
