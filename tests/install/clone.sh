#!/usr/bin/env bash
# A newcomer with git, make and a compiler.
source "$(dirname "$0")/newcomer.sh"
type_in git clone --quiet "$checkout" pass-edge
type_in make -C pass-edge setup BACKEND=cpu
ask pass-edge/.venv/bin
