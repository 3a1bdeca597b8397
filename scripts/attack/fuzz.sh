#!/usr/bin/env bash
# Runs the fuzz targets in turn, on copies of their corpora, and prints what each did: scripts/attack/fuzz.sh [SECONDS] [TARGET...]
#
# 600 seconds each by default, all targets. Needs a nightly compiler and cargo-fuzz. What is found lies in fuzz/artifacts/TARGET
# and makes the exit status 1; FUZZ_WORK keeps the grown corpora between runs (a new folder by default).
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi
work=${FUZZ_WORK:-$(mktemp -d)}
# A small file may stand for a large image, and is then allowed the memory of one.
export MIM_MAX_PIXELS=1000000
# Most readers want a file, and one in memory is written sooner.
if [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
cargo +nightly fuzz build

found=0
printf '%-12s %10s %8s %8s\n' target runs seconds findings
for target in "${targets[@]}"; do
    seeds=("fuzz/corpus/$target")
    case $target in
        image | deep_image) seeds+=(mim-core/tests/fixtures/every_format) ;;
    esac
    mkdir -p "$work/$target"
    begin=$SECONDS
    ended=0
    cargo +nightly fuzz run "$target" "$work/$target" "${seeds[@]}" -- -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=3000 -max_len=65536 -print_final_stats=1 >"$work/$target.log" 2>&1 || ended=1
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log" | tail -n 1)
    printf '%-12s %10s %8d %8d\n' "$target" "${runs:--}" $((SECONDS - begin)) "$ended"
    if [ $ended = 1 ]; then
        found=1
        printf '  see %s\n' "$work/$target.log"
    fi
done
exit $found
