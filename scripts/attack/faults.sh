#!/bin/sh
# Lets every change of a file fail, in turn, in runs of two methods that start, resume, replace another run or are asked to
# end, with one and two checkpoints kept: kill, full disk, input/output error. Takes a quarter of an hour on an idle machine;
# FAULTS_OF=mae or bootmae tries one of them. Needs a C compiler.
exec cargo test --release --workspace --test reliability -- --ignored --nocapture "$@"
