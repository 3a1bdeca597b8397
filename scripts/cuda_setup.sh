#!/usr/bin/env bash
# Gets what `cargo build --features cuda` needs onto a machine without a CUDA toolkit; no root, no GPU.
#
#   scripts/cuda_setup.sh [--nccl | --pretend] [FOLDER]      FOLDER is .cuda by default (git ignores it)
#   . FOLDER/env.sh
#
# Plain: nvcc 13.0 and the libraries that candle links, from NVIDIA's pip packages (0.7 GB to download), and
# a stand-in for the driver's library, so that programs link where there is no driver. They run where a
# driver 580 or newer and the CUDA 13 libraries are; a pip-installed PyTorch for CUDA 13 brings the latter.
# Needs python3 with pip and gcc.
#
# --nccl: NCCL too (0.2 GB more), for `--features nccl`.
#
# --pretend: nothing to download. A pretend nvcc whose outputs are empty, and a pretend device
# (mim-core/tests/pretend_cuda) on which programs run without a GPU. What is built with them must stay in a target
# folder of its own; env.sh sets one. Needs g++.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
pretend=0
nccl=()
folder=.cuda
for argument in "$@"; do
    case $argument in
        --pretend) pretend=1 ;;
        --nccl) nccl=(nvidia-nccl-cu13==2.28.9) ;;
        -*) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) folder=$argument ;;
    esac
done
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# Kernels as PTX that every GPU from Ampere on compiles when it loads them.
: "${CUDA_COMPUTE_CAP:=80}"

write_env() {
    {
        printf 'export CUDA_HOME=%q NVCC=%q\n' "$folder" "$folder/bin/nvcc"
        printf 'export PATH=%q:"$PATH"\n' "$folder/bin"
        printf 'export CUDA_COMPUTE_CAP=%q CUDARC_CUDA_VERSION=13000\n' "$CUDA_COMPUTE_CAP"
        if [ "$pretend" = 1 ]; then
            # Objects made by the pretend compiler must never meet a real build.
            printf 'export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/cuda-pretend"\n'
            printf 'export LD_LIBRARY_PATH=%q"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' "$folder/lib"
        fi
    } >"$folder/env.sh"
    printf 'now: . %s\n' "$folder/env.sh"
}

pretend_nvcc() {
    rm -rf "$folder/bin"
    mkdir -p "$folder/bin" "$folder/include" "$folder/lib"
    cat >"$folder/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
# Answers as nvcc 13.0 would and leaves empty files.
for word in "$@"; do
    case $word in
        --version) printf 'nvcc: stand-in\n-\n-\nCuda compilation tools, release 13.0, V13.0.0\n'; exit ;;
        --list-gpu-code) printf 'sm_80\nsm_90\n'; exit ;;
    esac
done
to='' in='' folder=. ptx=0
while [ $# -gt 0 ]; do
    case $1 in
        -o) to=$2; shift ;;
        --output-directory) folder=$2; shift ;;
        --ptx) ptx=1 ;;
        *.cu) in=$(basename "$1" .cu) ;;
    esac
    shift
done
if [ "$ptx" = 1 ] && [ -z "$to" ]; then to=$folder/$in.ptx; fi
case $to in
    '') ;;
    *.a) printf '!<arch>\n' >"$to" ;;
    *) : >"$to" ;;
esac
NVCC
    chmod +x "$folder/bin/nvcc"
}

# One library for all that candle links: our kernels compiled for this machine, what is pretended, and every other
# name, which ends the program that calls it.
pretend_device() {
    local tests=$root/mim-core/tests/pretend_cuda made kernel name crates
    made=$(mktemp -d "$folder/made.XXXXXX")
    for kernel in "$root"/mim-core/ops/src/gpu/kernels/*.cu; do
        printf '#include "%s"\n' "$kernel"
    done >"$made/kernels.cpp"
    mapfile -t crates < <(cd "$root" && cargo metadata --locked --format-version 1 --features cuda,nccl |
        grep -oE '"manifest_path":"[^"]*/(cudarc|candle-kernels)-[^"]*/Cargo.toml"' | cut -d'"' -f4 | xargs -n 1 dirname)
    {
        printf '#include "pretend.h"\n#define MISSING(name) '
        printf 'extern "C" __attribute__((weak)) void name() { pretend::fail("no " #name); }\n'
        grep -rhoE 'fn (cu[A-Z]|cublas|curand|nvrtc|nccl|launch_m|moe_)[A-Za-z0-9_]*' "${crates[@]/%//src}" |
            sort -u | sed 's/fn \(.*\)/MISSING(\1)/'
    } >"$made/missing.cpp"
    # Nothing is fused: a GPU fuses products and sums as its compiler likes.
    # shellcheck disable=SC2086
    g++ -std=c++17 -O3 -march=native -ffp-contract=off -Wall -Wextra -shared -fPIC ${PRETEND_CXXFLAGS:-} -I "$tests" \
        -Wl,-soname,libcuda.so.1 -o "$folder/lib/libcuda.so.1" "$tests"/*.cpp "$made"/*.cpp
    rm -rf "$made"
    for name in cublas.so.13 cublasLt.so.13 curand.so.10 nvrtc.so.13 cudart.so.13 nccl.so.2; do
        ln -sf libcuda.so.1 "$folder/lib/lib$name"
        ln -sf libcuda.so.1 "$folder/lib/lib${name%%.so.*}.so"
    done
    ln -sf libcuda.so.1 "$folder/lib/libcuda.so"
    ln -sfn lib "$folder/lib64"
}

# A libcuda.so.1 whose every function fails, with the names that cuda.h declares. Never carry it to a
# machine with a driver: it would hide the real one.
driver_stand_in() {
    local stubs=$folder/lib/stubs
    mkdir -p "$stubs"
    {
        printf 'int cuInit(unsigned flags) { (void)flags; return 100; }\n'
        {
            grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$folder/include/cuda.h"
            printf 'cuProfilerStart\ncuProfilerStop\n'
        } | sort -u | grep -vx cuInit | sed 's/.*/int &(void) { return 34; }/'
    } | gcc -x c -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so.1" -
    ln -sf libcuda.so.1 "$stubs/libcuda.so"
}

toolkit() {
    local site
    site=$(mktemp -d "$folder/site.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --target "$site" nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3 \
        nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88 "${nccl[@]}"
    for part in bin include lib nvvm; do
        rm -rf "${folder:?}/$part"
        mv "$site/nvidia/cu13/$part" "$folder/$part"
    done
    if [ ${#nccl[@]} -gt 0 ]; then
        mv "$site"/nvidia/nccl/lib/libnccl.so.* "$folder/lib/"
    fi
    rm -rf "$site"
    ln -sfn lib "$folder/lib64"
    for library in "$folder"/lib/*.so.*; do
        name=$(basename "$library")
        ln -sf "$name" "$folder/lib/${name%%.so.*}.so"
    done
    driver_stand_in
    "$folder/bin/nvcc" --version | tail -2
}

if [ "$pretend" = 1 ]; then
    pretend_nvcc
    pretend_device
else
    toolkit
fi
write_env
