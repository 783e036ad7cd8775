#!/bin/bash
# make run: a policy server and an agent on this machine, on loopback, with everything under ./var.
# Ctrl-C stops both and leaves nothing behind.
set -euo pipefail
mode=${1:-monitor}
case "$mode" in monitor | warn | enforce) ;; *) echo "MODE must be monitor, warn or enforce (received $mode)" >&2; exit 2 ;; esac
if [ "$mode" = enforce ] && [ "$(id -u)" != 0 ]; then
  echo "MODE=enforce changes what this machine's kernel allows, which needs root: sudo make run MODE=enforce" >&2
  exit 1
fi
port=${PORT:-8443}
var=$PWD/var
if [ -e "$var" ]; then
  echo "$var is there already: another run is going on, or one was cut off. Remove it to go on: rm -r $var" >&2
  exit 1
fi
mkdir -p "$var"
server="" agent="" watch=""
stop() {
  trap - INT TERM EXIT
  echo
  echo "== stopping"
  [ -n "$watch" ] && kill "$watch" 2>/dev/null || true
  # The agent first: it gives the machine back while its ledger is still there.
  [ -n "$agent" ] && kill "$agent" 2>/dev/null && wait "$agent" 2>/dev/null || true
  [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
  if [ -f "$var/agent/run/status.json" ] && [ "$mode" = enforce ]; then
    bin/warder --state "$var/agent" revert --leftovers || true
  fi
  rm -rf "$var"
  echo "== nothing is left behind"
}
trap stop EXIT
trap 'exit 0' INT TERM

bin/warder-server serve --data "$var/server" --listen "127.0.0.1:$port" --http --interval 30s 2>"$var/server.log" &
server=$!
url=http://127.0.0.1:$port
for _ in $(seq 100); do
  # Our own server says so in its log; another's on this port is not ours to talk to.
  grep -q 'msg=serving' "$var/server.log" && break
  kill -0 "$server" 2>/dev/null || { cat "$var/server.log" >&2; exit 1; }
  sleep 0.05
done
for _ in $(seq 100); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "$server" 2>/dev/null || { cat "$var/server.log" >&2; exit 1; }
  sleep 0.05
done
grep -q 'msg=serving' "$var/server.log" || { cat "$var/server.log" >&2; exit 1; }
token=$(bin/warder-server token create --data "$var/server" --role admin --ttl 24h)
echo "$token" >"$var/token"; chmod 600 "$var/token"

# The API is spoken with the shell alone: a fresh machine has no curl.
api() {
  local method=$1 path=$2 body=${3:-}
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf '%s /api/v1%s HTTP/1.0\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
    "$method" "$path" "$token" "${#body}" "$body" >&3
  sed '1,/^\r$/d' <&3
  exec 3>&-
}
id=$(api POST /policies '{"name":"Engineering Team Policy","description":"Security policy for engineering devices","compliance":"'"$mode"'","policy_data":{"dlp":{"clipboard_sharing":false,"screenshot_allowed":false,"print_allowed":true},"network":{"vpn_required":true,"allowed_domains":["*.company.com","github.com"]},"usb":{"allowed":false,"whitelist":[]},"storage":{"encryption_required":true,"external_storage_allowed":false}}}' |
  sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
[ -n "$id" ] || { echo "the policy could not be made" >&2; cat "$var/server.log" >&2; exit 1; }
api PUT /policies/default '{"policy_id":"'"$id"'"}' >/dev/null
bin/warder --state "$var/agent" enroll --server "$url" --token "$(bin/warder-server enrollment create --data "$var/server")" >/dev/null
bin/warder --state "$var/agent" run 2>"$var/agent.log" &
agent=$!
for _ in $(seq 100); do
  bin/warder --state "$var/agent" status >"$var/status" 2>/dev/null && break
  grep -q '  policy' "$var/status" 2>/dev/null && break
  kill -0 "$agent" 2>/dev/null || { cat "$var/agent.log" >&2; exit 1; }
  sleep 0.1
done

show() {
  bin/warder --state "$var/agent" status || true
  cat <<TEXT

  Three things to try in another terminal:
    bin/warder --state var/agent explain usb 0951:1666 --class 08
    bin/warder --state var/agent events --follow
    curl -H "Authorization: Bearer \$(cat var/token)" $url/api/v1/policies/default
  Ctrl-C stops server and agent, and leaves nothing behind.
TEXT
}
if [ -t 1 ]; then
  while kill -0 "$agent" 2>/dev/null; do
    printf '\033[H\033[2J'
    show
    sleep 2 & watch=$!
    wait "$watch" || true
  done
else
  show
  wait "$agent" || true
fi
echo "the agent ended:" >&2
tail -5 "$var/agent.log" >&2
exit 1
