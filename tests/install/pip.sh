#!/usr/bin/env bash
# A newcomer with pip alone: llama.cpp is built twice, by pip without our kernels, then by `pass-edge setup` with them.
source "$(dirname "$0")/newcomer.sh"
type_in "${PYTHON:-python3}" -m venv env
type_in env/bin/pip install --quiet "$checkout"
type_in env/bin/pip install --quiet --no-deps "$model"
type_in env/bin/pass-edge doctor | tee report
grep -q "pass-edge setup" report
ask env/bin
type_in env/bin/pass-edge setup --backend cpu
type_in env/bin/pass-edge doctor | tee report
grep -q "kernels  *ours" report
ask env/bin
type_in env/bin/pass-edge setup --undo
type_in env/bin/pass-edge doctor | tee report
grep -q "pass-edge setup" report
