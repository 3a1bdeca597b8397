"""Compares one run of `mim finetune` with PyTorch: timm's ViT, torch's AdamW, the layer-wise rates and the cosine written here.

    pip install torch timm scikit-learn safetensors numpy pillow
    cargo build --release
    python scripts/check_finetune.py target/release/mim [RUN]

RUN is a finished run of MAE on the embedded images; a small one is trained for 5 epochs if none is given. Nothing is drawn: all 1000
images are one batch, without augmentation, mixing, erasing or dropped paths, and the first learning rate is 0, so the
checkpoint after the first step holds the weights that the run starts from. Test accuracy must agree within 0.5 points.
"""

import functools
import json
import math
import pathlib
import sys
import tempfile
import tomllib

import safetensors.torch
import timm
import torch

from check_eval import embedded, mim

EPOCHS = 20
MOST = 0.5
PLAIN = [
    "mix.mixup_alpha=0.0",
    "mix.cutmix_alpha=0.0",
    "erasing_prob=0.0",
    "encoder.drop_path_rate=0.0",
    'views={ shared = [{ type = "resize", size = "image_size" }], views = [[]] }',
]


def finetune(run, output, *more):
    settings = [part for setting in PLAIN for part in ("--set", setting)]
    options = ["--epochs", EPOCHS, "--batch-size", 1000, "--lr", 4e-3]
    mim("finetune", "--checkpoint", run, *options, *settings, "--output-dir", output, *more)
    return tomllib.loads((output / "config.toml").read_text())


def network(config, weights):
    encoder = config["encoder"]
    model = timm.models.VisionTransformer(
        img_size=encoder["image_size"],
        patch_size=encoder["patch_size"],
        in_chans=encoder["in_channels"],
        embed_dim=encoder["embed_dim"],
        depth=encoder["depth"],
        num_heads=encoder["num_heads"],
        mlp_ratio=encoder["mlp_ratio"],
        num_classes=config["num_classes"],
        global_pool="avg",
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=encoder["norm_eps"]),
    )
    model.load_state_dict(weights)
    model.pos_embed.requires_grad = encoder["pos_embed"] == "learned"
    return model


def groups(model, config):
    """Each parameter by itself: weight decay, and the factor of its learning rate by layer."""
    settings, depth = config["train"]["optimizer"], config["encoder"]["depth"]
    no_decay = settings["no_decay"]
    all = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("cls_token", "pos_embed", "patch_embed")):
            layer = 0
        elif name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = depth + 1
        plain = parameter.ndim <= 1 or name.endswith(".bias") or name in no_decay["names"]
        decay = 0.0 if plain else settings["weight_decay"]
        factor = settings["layer_decay"] ** (depth + 1 - layer)
        all.append({"params": [parameter], "weight_decay": decay, "factor": factor})
    return all


def rate(step, config):
    """Linear growth from 0 over a share of the steps, then half a cosine to 0."""
    schedule = config["train"]["lr_schedule"]
    assert schedule["type"] == "warmup_cosine" and schedule.get("min", 0.0) == 0.0, schedule
    warmup = schedule["warmup"]["share"] * EPOCHS
    if step < warmup:
        return config["train"]["lr"] * step / warmup
    return config["train"]["lr"] * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (EPOCHS - warmup)))


def train(model, config, x, labels):
    settings = config["train"]["optimizer"]
    optimizer = torch.optim.AdamW(groups(model, config), betas=settings["betas"], eps=settings["eps"])
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=config["label_smoothing"])
    losses = []
    for step in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, config) * group["factor"]
        loss = criterion(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    run = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "run"
    if len(sys.argv) <= 2:
        small = ["--set", "encoder.embed_dim=64", "--set", "encoder.depth=2", "--set", "encoder.num_heads=2"]
        mim("pretrain", "--epochs", 5, "--no-eval", *small, "--output-dir", run)
    finetune(run, folder / "start", "--no-eval", "--stop-if", "loss > 0 @ epoch 1")
    config = finetune(run, folder / "finetune")
    own = json.loads((folder / "finetune/summary.json").read_text())["finetuned_top1"]
    log = [json.loads(line)["train_loss"] for line in (folder / "finetune/log.jsonl").read_text().splitlines()]

    model = network(config, safetensors.torch.load_file(folder / "start/checkpoints/step-1/student.safetensors"))
    side = config["encoder"]["image_size"]
    (x, labels), (y, wanted) = (embedded(split, side, config["norm"]) for split in ["train", "t10k"])
    losses = train(model, config, x, torch.from_numpy(labels).long())
    with torch.no_grad():
        right = model.eval()(y).argmax(1) == torch.from_numpy(wanted)
    other = 100 * right.double().mean().item()

    print(f"{'':28} {'mim':>9} {'PyTorch':>9} {'apart':>9}")
    for epoch in [0, EPOCHS // 2, EPOCHS - 1]:
        pair = log[epoch], losses[epoch]
        print(f"{f'loss of epoch {epoch + 1}':28} {pair[0]:9.5f} {pair[1]:9.5f} {abs(pair[0] - pair[1]):9.5f}")
    print(f"{'top-1 in percent':28} {own:9.2f} {other:9.2f} {abs(own - other):9.2f}")
    if abs(own - other) > MOST + 1e-6:
        sys.exit(f"mim and PyTorch are {abs(own - other):.2f} points apart, more than {MOST}")
    print(f"within {MOST} points")


if __name__ == "__main__":
    main()
