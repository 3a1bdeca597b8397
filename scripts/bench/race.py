"""Races `mim bench step` against the same step in PyTorch, and prints a table in Markdown.

    pip install torch transformers timm lightly
    cargo build --release
    python scripts/bench/race.py target/release/mim [--only ibot] [--pairs 5] [--precision f32 bf16] [--compile]

A pair is one run of each program, one after the other; pairs alternate which comes first. Seconds are medians over pairs of the
median step; the ratio is the median of the pairs' ratios, with the smallest and the largest. Below 1 mim is faster. Nothing else
should run on the machine. What the peers compute is said in `peers.py`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

# Method, arch, images of a step, and settings of mim that make the work comparable.
RACES = [
    ("mae", "vit_small", 16, []),
    ("mae", "vit_base", 8, []),
    ("mae", "vit_large", 4, []),
    ("simmim", "vit_base", 8, []),
    ("simmim", "swin_base", 4, []),
    # The peer has no tokenizer, so that of mim is as good as none.
    ("beit", "vit_base", 8, ["target.checkpoint=random", "target.network.n_hid=8", "target.network.n_blk_per_group=1"]),
    ("ibot", "vit_small", 4, ["crops.local=10"]),
    ("data2vec", "vit_base", 8, []),
    ("bootmae", "vit_base", 8, []),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mim", help="the program")
    parser.add_argument("--only", nargs="*", metavar="METHOD", help="these methods alone")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="*", choices=["f32", "bf16"], default=["f32"])
    parser.add_argument("--compile", action="store_true", help="torch.compile in PyTorch's program")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median(results, field):
    return statistics.median(result[field] for result in results)


def race(args, method, arch, batch, settings, precision):
    shared = ["--method", method, "--arch", arch, "--batch", batch, "--device", args.device]
    shared += ["--threads", args.threads, "--steps", args.steps, "--warmup", args.warmup]
    ours = [args.mim, "bench", "step", *shared, "--precision", precision]
    ours += [part for setting in settings for part in ("--set", setting)]
    theirs = [sys.executable, pathlib.Path(__file__).with_name("torch_step.py"), *shared]
    theirs += ["--bf16"] * (precision == "bf16") + ["--compile"] * args.compile
    pairs = []
    for index in range(args.pairs):
        if index % 2:
            other = run(theirs)
            pairs.append((run(ours), other))
        else:
            own = run(ours)
            pairs.append((own, run(theirs)))
    own, other = zip(*pairs)
    ratios = [a["wall_s_median"] / b["wall_s_median"] for a, b in pairs]
    speed = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    memory = f"{median(own, 'peak_mib'):.0f} | {median(other, 'peak_mib'):.0f}"
    seconds = f"{median(own, 'wall_s_median'):.2f} | {median(other, 'wall_s_median'):.2f}"
    print(f"| {method} {arch}, batch {batch}, {precision} | {seconds} | {speed} | {memory} |", flush=True)
    return other[0]["framework"]


def main():
    args = arguments()
    known = {row[0] for row in RACES}
    unknown = set(args.only or []) - known
    if unknown:
        sys.exit(f"no race of {sorted(unknown)}; there are {sorted(known)}")
    print("| step | mim, s | PyTorch, s | ratio | mim, MiB | PyTorch, MiB |\n|---|---|---|---|---|---|", flush=True)
    framework = None
    for method, arch, batch, settings in RACES:
        if args.only and method not in args.only:
            continue
        for precision in args.precision:
            framework = race(args, method, arch, batch, settings, precision)
    print(f"\n{args.pairs} pairs, {args.threads} threads, {args.device}, {framework}{', compiled' * args.compile}")


if __name__ == "__main__":
    main()
