"""Loads what `mim export` writes with timm and transformers, strictly, and compares features with `mim features`.

    pip install torch transformers timm safetensors numpy pillow
    cargo build --release
    python scripts/check_exports.py target/release/mim

Trains tiny models for an epoch (seconds), exports each, and runs both programs on the same images: once on tensors, and
once end to end from image files, prepared as the export says (timm's data config, transformers' image processor).
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


def photos(folder):
    """Smooth pictures of odd sizes, as PNG and as JPEG.

    None of them shrinks in height by more than twice as many pixels as in width: there Pillow 13 resizes in another order.
    """
    generator = np.random.default_rng(1)
    for number, (height, width) in enumerate([(37, 61), (64, 64), (200, 150), (33, 48)]):
        small = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        for kind, options in [("png", {}), ("jpeg", {"quality": 90})]:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / kind / f"{number}.{kind}", **options)


def timm_from_files(out, files):
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    return model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))


def transformers_from_files(out, files, prefix):
    # Its default, torchvision, rounds otherwise than Pillow, by up to 1 in 255.
    processor = transformers.AutoImageProcessor.from_pretrained(out, backend="pil")
    images = [Image.open(file).convert("RGB") for file in files]
    return of_transformers(out, processor(images, return_tensors="pt")["pixel_values"], prefix)


def end_to_end(folder, run, name, prefix):
    """Largest difference of a feature from files, in timm and in transformers."""
    for kind, most in [("png", 1e-4), ("jpeg", None)]:
        files = sorted((folder / "photos" / kind).iterdir())
        data = f"folder:{folder / 'photos' / kind}"
        mim("features", "--checkpoint", run, "--data", data, "--output", folder / "x.npy")
        ours = torch.from_numpy(np.load(folder / "x.npy"))
        loads = {"timm": lambda out: timm_from_files(out, files), "hf": lambda out: transformers_from_files(out, files, prefix)}
        for format, load in loads.items():
            if (name, format) == ("simmim", "timm"):
                continue  # timm's ViT has no relative position bias: refused
            worst = (ours - load(folder / f"{name}-{format}")).abs().max().item()
            print(f"  {format} from {kind} files: largest difference {worst:.2e} (deviation of the features {ours.std():.2f})")
            assert most is None or worst < most, "the features differ"


# Evaluation resizes with a margin; here images are taken as they are.
VIEWS = 'eval.views={ shared = [{ type = "resize", size = [32, 32] }], views = [[]] }'
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
    photos(folder / "photos")
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
        end_to_end(folder, run, name, prefix)
    print("all exports load and agree")


if __name__ == "__main__":
    main()
