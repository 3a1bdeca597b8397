#!/bin/bash
# Closes standard output or standard error of every command, fills them, or lets their readers go.
#
#     scripts/attack/streams.sh target/release/mim [--tries N] [--quick]
#
# A run must finish its training whatever happens to them, results that cannot be printed are an error, and a reader that goes wants no more.
# --tries repeats all of it; --quick takes the commands that need no run.
set -u
mim=$(realpath "${1:?usage: $0 MIM [--tries N] [--quick]}") || exit 2
[ -x "$mim" ] || { echo "error: $1 is no program; build one with cargo build --release" >&2; exit 2; }
shift
tries=1 quick=
while [ $# -gt 0 ]; do
    case $1 in
        --tries) tries=${2:?--tries needs a number}; shift 2 ;;
        --quick) quick=yes; shift ;;
        *) echo "error: unknown option $1" >&2; exit 2 ;;
    esac
done
export CUDA_VISIBLE_DEVICES= RAYON_NUM_THREADS=1
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2

sizes=(--set 'encoder={ image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }'
    --set 'decoder={ embed_dim = 8, depth = 1, num_heads = 2 }' --batch-size 250 --threads 1 --epochs 2
    --set eval.linear.max_iter=5 --set eval.linear.max_train=100)
if ! "$mim" pretrain "${sizes[@]}" --output-dir run >out.txt 2>err.txt; then
    cat err.txt >&2
    exit 2
fi
# Commands that print results; the number says whether they read a run.
commands=('0 methods' '0 parts' '0 zoo' '0 doctor' '0 pretrain --print-config' '0 completions bash' '0 man' '0 bench step --help'
    '1 info run' '1 info --verify run' '1 eval knn --checkpoint run --threads 1' '1 eval linear --checkpoint run --threads 1'
    '1 compare run' '1 features --checkpoint run --output f.npy' '1 export --checkpoint run --output model'
    '1 visualize --checkpoint run --output v.png' '1 report run')
count=0 found=0
printf '%-46s %-22s %s\n' command stream result

# finding COMMAND STREAM RESULT WRONG
row() {
    count=$((count + 1))
    local mark=
    if [ -n "$4" ]; then
        found=$((found + 1)) mark="  FINDING: $4"
    fi
    printf '%-46s %-22s %s%s\n' "$1" "$2" "$3" "$mark"
}

# Runs a command with a stream that fails; sets `status`, and `err` to what it said.
with() {
    local stream=$1
    shift
    : >err.txt
    case $stream in
        'stdout full') timeout 60 "$mim" "$@" >/dev/full 2>err.txt; status=$? ;;
        'stdout closed') timeout 60 "$mim" "$@" >&- 2>err.txt; status=$? ;;
        'stdout gone') { timeout 60 "$mim" "$@" 2>err.txt; echo $? >status.txt; } | true; status=$(cat status.txt) ;;
        'stderr full') timeout 60 "$mim" "$@" >out.txt 2>/dev/full; status=$? ;;
        'stderr closed') timeout 60 "$mim" "$@" >out.txt 2>&-; status=$? ;;
        'stderr gone') { timeout 60 "$mim" "$@" 2>&1 >out.txt; echo $? >status.txt; } | true; status=$(cat status.txt) ;;
        'both gone') { timeout 60 "$mim" "$@" 2>&1; echo $? >status.txt; } | true; status=$(cat status.txt) ;;
        'stdin closed') timeout 60 "$mim" "$@" <&- >out.txt 2>err.txt; status=$? ;;
    esac
    wrong=
    if grep -q 'panicked\|internal error' err.txt; then
        wrong="a panic: $(head -c 200 err.txt)"
    elif [ "$status" -ge 124 ]; then
        wrong="it hangs, or a signal ended it"
    fi
}

streams=('stdout full' 'stdout closed' 'stdout gone' 'stderr full' 'stderr closed' 'stderr gone' 'both gone' 'stdin closed')
for ((try = 0; try < tries; try++)); do
    for entry in "${commands[@]}"; do
        [ -n "$quick" ] && [ "${entry%% *}" = 1 ] && continue
        read -ra words <<<"${entry#* }"
        # What it prints with streams that work: a command that prints no results has none to lose.
        rm -rf model f.npy f.csv v.png
        timeout 60 "$mim" "${words[@]}" >usual.txt 2>/dev/null
        for stream in "${streams[@]}"; do
            rm -rf model f.npy f.csv v.png
            with "$stream" "${words[@]}"
            if [ -z "$wrong" ]; then
                case $stream in
                    # Help is printed by the parser of the command line.
                    'stdout full') [ -s usual.txt ] && [[ $entry != *--help ]] &&
                        { [ "$status" = 1 ] && grep -q 'error: cannot write to standard output' err.txt || wrong='results are lost without an error'; } ;;
                    # The system may give the number of a closed stream to another file.
                    'stdout closed') ;;
                    *) [ "$status" = 0 ] || wrong="exit $status: $(tail -n 1 err.txt)" ;;
                esac
            fi
            row "${words[*]}" "$stream" "exit $status" "$wrong"
        done
    done
    for stream in "${streams[@]}"; do
        rm -rf again
        with "$stream" pretrain "${sizes[@]}" --output-dir again
        if [ -z "$wrong" ]; then
            cmp -s run/checkpoints/step-8/student.safetensors again/checkpoints/step-8/student.safetensors || wrong='it does not finish its training'
            [ -f again/summary.json ] || wrong='it does not finish its evaluation'
        fi
        row pretrain "$stream" "exit $status" "$wrong"
    done
done
echo "$count tries, $found findings"
[ "$found" = 0 ]
