"""Times pre-training steps of a method in PyTorch: forward, backward, AdamW, momentum teacher. Prints the fields of
`mim bench step` as one line of JSON.

    pip install torch transformers timm lightly
    python scripts/bench/torch_step.py --method ibot --arch vit_small --batch 8 --threads 2 [--bf16] [--compile]
"""

import argparse
import json
import statistics
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", required=True, help="mae, simmim, beit, data2vec, ibot or bootmae")
    parser.add_argument("--arch", default="vit_base", help="vit_tiny, vit_small, vit_base, vit_large, swin_tiny or swin_base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, with f32 weights")
    parser.add_argument("--compile", action="store_true", help="torch.compile the whole step")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def peak_mib(torch, device):
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    args = arguments()
    import torch

    from peers import PEERS

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = PEERS[args.method](args.arch, args.batch, args.device).to(args.device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)
    forward = torch.compile(model) if args.compile else model
    sync = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    wall, losses = [], []
    for _ in range(args.warmup + args.steps):
        sync()
        start = time.perf_counter()
        with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=args.bf16):
            loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        getattr(model, "after_step", lambda: None)()
        sync()
        wall.append(time.perf_counter() - start)
        losses.append(loss.item())
    wall = wall[args.warmup :]
    report = {
        "framework": f"torch {torch.__version__}",
        "method": args.method,
        "arch": args.arch,
        "batch": args.batch,
        "threads": args.threads,
        "device": args.device,
        "bf16": args.bf16,
        "compile": args.compile,
        "parameters": sum(p.numel() for p in trained),
        "steps": args.steps,
        "wall_s_median": statistics.median(wall),
        "wall_s_min": min(wall),
        "peak_mib": round(peak_mib(torch, args.device), 1),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
