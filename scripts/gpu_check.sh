#!/usr/bin/env bash
# Checks the CUDA path on a machine with a GPU and nothing else: no cargo, no network; ten minutes.
#
#   scripts/gpu_check.sh --tests TEST_PROGRAM --mim MIM [--goldens FOLDER]... [--torch SCRIPT] [--batch N]
#
# TEST_PROGRAM  the unit tests of mim-ops, MIM the program `mim`, both built with `--features cuda`:
#                   cargo test --release --workspace --features cuda --lib --no-run
#                   cargo build --release --features cuda
#               Packed ones (.xz, .gz) are unpacked first.
# --goldens     folders of golden cases, each compared in f32 and in bf16; mim-methods/tests/goldens is one.
# --torch       a script that times the same step in PyTorch and prints one JSON line, with the options of
#               `mim bench step`: --arch --batch --steps --device --bf16. Left out where torch is missing.
#
# CUDA 13 libraries are looked for in the folders of pip-installed packages (PyTorch brings them) and in a
# toolkit's. Prints one table at the end; the exit status is the number of parts that failed.
set -uo pipefail

tests='' mim='' torch='' batch=64
goldens=()
while [ $# -gt 0 ]; do
    case $1 in
        --tests) tests=$2 ;;
        --mim) mim=$2 ;;
        --goldens) goldens+=("$2") ;;
        --torch) torch=$2 ;;
        --batch) batch=$2 ;;
        *) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift 2
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unpacked() {
    local to=$work/$2
    case $1 in
        *.xz) xz -dc "$1" >"$to" ;;
        *.gz) gzip -dc "$1" >"$to" ;;
        *) cp "$1" "$to" ;;
    esac
    chmod +x "$to"
    printf '%s' "$to"
}

libraries() {
    python3 - <<'PY' 2>/dev/null
import glob, site, sys
found = [f for p in dict.fromkeys(sys.path + site.getsitepackages()) for f in sorted(glob.glob(p + "/nvidia/*/lib"))]
print(":".join(dict.fromkeys(found)))
PY
}
more=$(libraries)
for folder in /usr/local/cuda/lib64 /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
    if [ -d "$folder" ]; then more=${more:+$more:}$folder; fi
done
export LD_LIBRARY_PATH=${more}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

rows=()
failed=0
# part NAME SECONDS COMMAND...: runs a part, at most so long, and notes how it went with its last line.
part() {
    local name=$1 limit=$2 log=$work/log start=$SECONDS status verdict
    shift 2
    printf '\n== %s\n' "$name"
    timeout "$limit" bash -c '"$@"' part "$@" >"$log" 2>&1
    status=$?
    tail -n 40 "$log"
    verdict=ok
    if [ $status != 0 ]; then
        verdict="FAILED ($status)"
        failed=$((failed + 1))
    fi
    rows+=("$(printf '%-34s | %-12s | %4d s | %s' "$name" "$verdict" $((SECONDS - start)) "$(grep -v '^$' "$log" | tail -n 1 | cut -c1-300)")")
}

# A short run on the embedded images on both devices: losses of epochs side by side, to a few percent.
training() {
    local run
    for run in 'cpu f32' 'cuda f32' 'cuda bf16'; do
        "$mim" pretrain --epochs 3 --output-dir "$work/run ${run}" \
            --device "${run% *}" --precision "${run#* }" || return 1
    done
    python3 - "$work/run cpu f32" "$work/run cuda f32" "$work/run cuda bf16" <<'PY'
import json, sys
cpu, *cuda = ([json.loads(line)["train_loss"] for line in open(path + "/log.jsonl")] for path in sys.argv[1:])
worst = [max(abs(a - b) / abs(a) for a, b in zip(cpu, run, strict=True)) for run in cuda]
print(f"losses cpu {cpu}, cuda {cuda[0]}, in bf16 {cuda[1]}: differences {worst[0]:.1e} and {worst[1]:.1e}")
sys.exit(not (cpu and worst[0] < 5e-3 and worst[1] < 5e-2))
PY
}

# One line of a benchmark's JSON.
step() {
    "$@" >"$work/json" || return 1
    python3 - "$work/json" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))
keys = ["images_per_s", "wall_s_median", "peak_mib", "launches", "first_loss", "last_loss"]
print(", ".join(f"{key} {found[key]:.5g}" for key in keys if isinstance(found.get(key), (int, float))))
PY
}

export -f training step
export work mim

if [ -n "$tests" ]; then
    part 'ops against references' 180 "$(unpacked "$tests" tests)" --test-threads=1
fi
if [ -n "$mim" ]; then
    mim=$(unpacked "$mim" mim)
    for folder in ${goldens[@]+"${goldens[@]}"}; do
        part "parity f32: $(basename "$folder")" 120 "$mim" parity --device cuda --rtol 1e-4 "$folder"
        part "parity bf16: $(basename "$folder")" 120 "$mim" parity --device cuda --precision bf16 "$folder"
    done
    part 'training beside the CPU' 240 training
    for precision in f32 bf16; do
        part "mim bench step $precision" 120 step "$mim" bench step --device cuda --batch "$batch" --steps 10 \
            --count-launches --precision "$precision"
        half=()
        if [ "$precision" = bf16 ]; then half=(--bf16); fi
        if [ -n "$torch" ] && python3 -c 'import torch' 2>/dev/null; then
            part "PyTorch $precision" 120 step python3 "$torch" --device cuda --batch "$batch" --steps 10 \
                ${half[@]+"${half[@]}"}
        fi
    done
fi

printf '\n%-34s | %-12s | %6s | %s\n' part result time 'last line'
printf '%s\n' ${rows[@]+"${rows[@]}"}
if [ ${#rows[@]} = 0 ]; then
    echo 'nothing was checked: give --tests or --mim'
    exit 1
fi
exit "$failed"
