"""Loads what `mim export` writes with timm and transformers, strictly, and compares features with `mim features`.

    pip install torch transformers timm safetensors numpy
    cargo build --release
    python scripts/check_exports.py target/release/mim

Trains three tiny models for an epoch (seconds), exports each, and runs both programs on the same images.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import timm
import torch
import transformers
from PIL import Image

MIM = sys.argv[1]
SIZE = 32


def mim(*args):
    done = subprocess.run([MIM, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mim {args[0]}: {done.stderr}")
    return done.stdout


def images(folder):
    """Pictures of the size the encoders take, so that nothing is resized."""
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(4)]
    folder.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return (torch.from_numpy(np.stack(pixels)).float() / 255).permute(0, 3, 1, 2)


def normalised(x, run):
    norm = tomllib.loads((run / "config.toml").read_text())["norm"]
    mean, std = (torch.tensor(norm[key], dtype=torch.float32).reshape(1, -1, 1, 1) for key in ["mean", "std"])
    return (x - mean) / std


def of_timm(folder, x, prefix):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = json.loads((folder / "config.json").read_text())
    overlay = dict(file=str(folder / "model.safetensors"))
    again = timm.create_model(
        config["architecture"], pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **config["model_args"]).eval()
    tokens = model.forward_features(x)
    assert torch.equal(tokens, again.forward_features(x))
    return tokens.flatten(1, -2)[:, prefix:].mean(1)


def of_transformers(folder, x, prefix):
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    options = {"add_pooling_layer": False} if name in ("ViTModel", "BeitModel", "SwinModel") else {}
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **options)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, f"{name}: {wrong}"
    model.eval()
    if name == "ViTMAEForPreTraining":
        model.config.mask_ratio = 0.0
        model.vit.embeddings.config.mask_ratio = 0.0
        order = torch.arange((SIZE // 8) ** 2).float().expand(len(x), -1)
        tokens = model.vit(x, noise=order).last_hidden_state
    elif name == "SwinForMaskedImageModeling":
        tokens = model.swin(x).last_hidden_state
    else:
        tokens = model(x).last_hidden_state
    return tokens[:, prefix:].mean(1)


# Evaluation resizes with a margin; here images are taken as they are, and grey ones in training as three channels.
VIEWS = 'eval.views={ shared = [{ type = "resize", size = 32 }], views = [[{ type = "to_channels", channels = 3 }]] }'
VIT = "image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2"
RUNS = {
    "mae": (["--method", "mae", "--set", f"encoder={{ {VIT} }}", "--set", "decoder={ embed_dim=8, depth=1, num_heads=2 }"], 1),
    "simmim": (["--method", "simmim", "--set", f"encoder={{ {VIT} }}", "--set", "mask_patch_size=8"], 1),
    "swin": (["--config", "simmim_swin_32px"], 0),
    "maskfeat": (["--method", "maskfeat", "--set", f"encoder={{ {VIT}, mask_token=true }}"], 1),
}


@torch.no_grad()
def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    pixels = images(folder / "images")
    for name, (options, prefix) in RUNS.items():
        run = folder / name
        mim("pretrain", *options, "--set", VIEWS, "--epochs", 1, "--batch-size", 500, "--output-dir", run)
        mim("features", "--checkpoint", run, "--data", f"folder:{folder / 'images'}", "--pooling", "mean", "--output", folder / "x.npy")
        x = normalised(pixels, run)
        ours = torch.from_numpy(np.load(folder / "x.npy"))
        for format, load in [("hf", of_transformers), ("timm", of_timm)]:
            if (name, format) == ("simmim", "timm"):
                continue  # timm's ViT has no relative position bias: refused
            out = folder / f"{name}-{format}"
            print(name, format, mim("export", "--checkpoint", run, "--format", format, "--output", out).strip())
            theirs = load(out, x, prefix)
            worst = (ours - theirs).abs().max().item()
            print(f"  largest difference of a feature: {worst:.2e}")
            assert worst < 1e-4, "the features differ"
    print("all exports load and agree")


if __name__ == "__main__":
    main()
