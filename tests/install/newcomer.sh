# Sourced by the scripts here: shows and times each command that a newcomer types, in an empty folder.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wheels=$(cd "$checkout" && realpath -m "${WHEELS:-build/release}")
model=$(sed -n 's/^MODEL := //p' "$checkout/Makefile")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1 XDG_CACHE_HOME="$folder/cache"

# type COMMAND…: show the command, run it, and say how long it took.
type_in() {
    echo "\$ $*"
    local from=$SECONDS
    "$@"
    echo "  ($((SECONDS - from)) s)"
}

# ask PYTHON'S FOLDER: get an answer, and fail if it has no words.
ask() {
    type_in "$1/pass-edge" generate "Name three rivers." --temp 0 -n 40 | tee answer
    grep -q "River" answer
    echo "on the disk: $(du -sh "$(dirname "$1")" | cut -f1)"
}
