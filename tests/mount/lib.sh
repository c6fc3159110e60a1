# Shared by the mount tests: cases, a scratch directory, mounting and cleaning up.
#
#   . "$(dirname "$0")/lib.sh"
#   what_is_true() { ...; }                  # commands; the case fails with the first that fails
#   run_case "a sentence that is true" what_is_true
#   finish_cases
#
# Each case prints one line: `ok SENTENCE`, `not ok SENTENCE` or `skip SENTENCE: why`.
set -uo pipefail

: "${FUSEFS:?path of the fusefs command}"
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/fusefs-test.XXXXXX")
IMAGE=$SCRATCH/image
MNT=$SCRATCH/mnt
mkdir "$MNT"
HANG=300  # seconds; what lasts longer will never end, however busy the machine is
cases_failed=0
devices=()

clean_up() {
  local dir device
  for dir in $(findmnt -rn -o TARGET | grep -F "$SCRATCH" | sort -r); do
    "$FUSEFS" umount "$dir" >/dev/null 2>&1 || umount -l "$dir" 2>/dev/null
  done
  for device in "${devices[@]:-}"; do
    case "$device" in
      /dev/loop*) losetup -d "$device" 2>/dev/null ;;
      /dev/zram*) echo "${device#/dev/zram}" >/sys/class/zram-control/hot_remove 2>/dev/null ;;
    esac
  done
  rm -rf "$SCRATCH"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# True when this machine can mount at all.
can_mount() { [[ -c /dev/fuse && -r /dev/fuse && -w /dev/fuse ]]; }

# run_case SENTENCE FUNCTION [ARGUMENT...]: a subshell, so that a case cannot disturb the next.
run_case() {
  local sentence=$1 log
  shift
  if ! can_mount; then
    if [[ "${FUSEFS_REQUIRE_MOUNT:-0}" == 1 ]]; then
      echo "not ok $sentence: /dev/fuse is required and missing"
      cases_failed=$((cases_failed + 1))
    else
      echo "skip $sentence: no /dev/fuse on this machine"
    fi
    return
  fi
  log=$SCRATCH/log
  # Not in an `if`: bash would ignore errexit in there.
  (set -eE; trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR; "$@") >"$log" 2>&1
  local status=$?
  if (( status == 0 )); then
    echo "ok $sentence"
  else
    echo "not ok $sentence"
    sed 's/^/    /' "$log" | tail -n 40
    cases_failed=$((cases_failed + 1))
    "$FUSEFS" umount "$MNT" >/dev/null 2>&1 || umount -l "$MNT" 2>/dev/null
  fi
}

finish_cases() { exit $(( cases_failed > 0 )); }

# A fresh volume of $1 (1G) on the image file, mounted on $MNT with further options $2.
fresh_mount() {
  rm -f "$IMAGE"
  "$FUSEFS" mkfs -q --size "${1:-1G}" "$IMAGE"
  "$FUSEFS" mount "$IMAGE" "$MNT" ${2:+-o "$2"}
}
remount() {
  "$FUSEFS" umount "$MNT"
  "$FUSEFS" mount "$IMAGE" "$MNT" ${1:+-o "$1"}
}
# Unmounts and expects a volume without a fault.
unmount_and_check() {
  "$FUSEFS" umount "$MNT"
  "$FUSEFS" check -n "$IMAGE"
}
# Expects the command behind $1 to fail with the errno word $1 (ENOSPC, ...) in strerror form.
expect_error() {
  local wanted=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "expected failure '$wanted' of: $*"
    return 1
  fi
  if [[ "$output" != *"$wanted"* ]]; then
    echo "expected '$wanted', got: $output"
    return 1
  fi
}
