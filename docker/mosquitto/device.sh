#!/bin/sh
# Add, change or remove the password of a device or a crew, and let the broker read it at once.
#   docker compose exec mosquitto /mosquitto/config/device.sh add pr-113       prints the new password once
#   docker compose exec mosquitto /mosquitto/config/device.sh remove pr-113
set -eu
umask 077
home=${MOSQUITTO_HOME:-/mosquitto} run=${MOSQUITTO_RUN:-/run/mosquitto}
verb=${1:-} id=${2:-}
export LC_ALL=C  # a-z are these letters only
case $id in '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
  echo "device: an id must be letters, digits, '.', '-' and '_', and begin with a letter or digit, got '$id'" >&2; exit 2 ;;
esac
if [ "${#id}" -gt 64 ]; then echo "device: an id must have at most 64 characters, got ${#id}" >&2; exit 2; fi
case $id in ingest | workorders | health | monitor | crew) echo "device: '$id' is the name of a service" >&2; exit 2 ;; esac
pattern="^$(printf '%s' "$id" | sed 's/\./[.]/g'):"
case $verb in
add)
  password=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
  one=$run/one.passwd
  printf '%s:%s\n' "$id" "$password" >"$one"
  mosquitto_passwd -U "$one"
  { grep -v "$pattern" "$home/data/devices.passwd" || true; cat "$one"; } >"$run/devices.passwd"
  rm "$one"
  ;;
remove) { grep -v "$pattern" "$home/data/devices.passwd" || true; } >"$run/devices.passwd" ;;
*) echo "device: expected 'add' or 'remove', got '$verb'" >&2; exit 2 ;;
esac
cat "$run/devices.passwd" >"$home/data/devices.passwd"
rm "$run/devices.passwd"
cat "$run/services.passwd" "$home/data/devices.passwd" >"$home/data/passwords"
kill -HUP "${MOSQUITTO_PID:-1}"
if [ "$verb" = add ]; then echo "$password"; fi
