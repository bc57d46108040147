#!/bin/sh
# Start the broker: write the passwords of the services, switch TLS on when there are certificates, become mosquitto.
# MOSQUITTO_HOME and MOSQUITTO_RUN name other folders than the container's; MOSQUITTO_PORT another plain port (for tests).
set -eu
umask 077
home=${MOSQUITTO_HOME:-/mosquitto} run=${MOSQUITTO_RUN:-/run/mosquitto}
: "${MQTT_INGEST_PASSWORD:?is not set}" "${MQTT_WORKORDERS_PASSWORD:?is not set}"

devices=$home/data/devices.passwd    # kept by device.sh
services=$run/services.passwd
touch "$devices"
health=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '%s' "$health" >"$run/health"
{
  printf 'ingest:%s\n' "$MQTT_INGEST_PASSWORD"
  printf 'workorders:%s\n' "$MQTT_WORKORDERS_PASSWORD"
  printf 'health:%s\n' "$health"
} >"$services"
mosquitto_passwd -U "$services"
cat "$services" "$devices" >"$home/data/passwords"
unset MQTT_INGEST_PASSWORD MQTT_WORKORDERS_PASSWORD

conf=$run/mosquitto.conf
cat "$home/config/mosquitto.conf" >"$conf"
if [ -r "$home/certs/server.crt" ] && [ -r "$home/certs/server.key" ]; then
  cat "$home/config/tls.conf" >>"$conf"
  if [ -r "$home/certs/client-ca.crt" ]; then cat "$home/config/tls-client.conf" >>"$conf"; fi
else
  echo "start: no certs/server.crt and server.key, so there is no TLS listener and no device outside can connect" >&2
fi
if [ "$home" != /mosquitto ]; then sed -i "s#/mosquitto/#$home/#" "$conf"; fi
if [ -n "${MOSQUITTO_PORT:-}" ]; then sed -i "s/^listener 1883\$/listener $MOSQUITTO_PORT 127.0.0.1/" "$conf"; fi
if [ -n "${MOSQUITTO_TLS_PORT:-}" ]; then sed -i "s/^listener 8883\$/listener $MOSQUITTO_TLS_PORT 127.0.0.1/" "$conf"; fi
exec mosquitto -c "$conf"
