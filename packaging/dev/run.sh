#!/bin/bash
# make run: a policy server and an agent on this machine, on loopback, with everything under ./var.
# Ctrl-C stops both and leaves nothing behind.
#
#   run.sh MODE              monitor, warn or enforce; enforce needs root
#   run.sh --simulate MODE   on a simulated USB bus: a stick is plugged in and judged; nothing of this machine is touched
set -euo pipefail
cd "$(dirname "$0")/../.."
simulate=""
[ "${1:-}" = --simulate ] && { simulate=1; shift; }
mode=${1:-monitor}
port=${PORT:-8443}
var=$PWD/var

# What cannot work is refused before anything is built.
case "$mode" in monitor | warn | enforce) ;; *) echo "MODE must be monitor, warn or enforce (received $mode)" >&2; exit 2 ;; esac
if [ "$mode" = enforce ] && [ -z "$simulate" ] && [ "$(id -u)" != 0 ]; then
  echo "MODE=enforce changes what this machine's kernel allows, which needs root: sudo make run MODE=enforce" >&2
  echo "To see it without that: make demo (a simulated USB bus)" >&2
  exit 1
fi
case "$port" in '' | *[!0-9]* | ??????*) port=0 ;; esac
if [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then echo "PORT must be a number from 1 to 65535 (received ${PORT:-})" >&2; exit 2; fi
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  echo "port $port is in use by another program; choose another one: make run PORT=$((port + 1000))" >&2
  exit 1
fi
# Whoever makes the directory has it, before anything is built: two runs at once must not share it.
if ! mkdir "$var" 2>/dev/null; then
  [ -e "$var" ] || { mkdir "$var" || exit 1; }
  running=""
  for pid in $(cat "$var/pids" 2>/dev/null); do
    case "$(readlink "/proc/$pid/exe" 2>/dev/null) $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" in
      "$PWD"/bin/* | *packaging/dev/run.sh*) running="$running $pid" ;;
    esac
  done
  if [ -n "$running" ]; then
    echo "another run is going on here; stop it with Ctrl-C in its terminal, or with: kill$running" >&2
  else
    echo "$var is left of a run that was cut off. Remove it to go on: rm -r $var" >&2
  fi
  exit 1
fi
server="" agent="" watch=""
echo $$ >"$var/pids"
stop() {
  # The terminal, or whoever read the output, may be gone: that must not keep anything running.
  set +e
  trap - EXIT
  trap '' INT TERM HUP PIPE
  { echo; echo "== stopping"; } 2>/dev/null || exec >/dev/null 2>&1
  [ -n "$watch" ] && kill "$watch" 2>/dev/null || true
  # The agent first: it gives the machine back while its ledger is still there.
  [ -n "$agent" ] && kill "$agent" 2>/dev/null && wait "$agent" 2>/dev/null || true
  [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
  if [ -f "$var/agent/run/status.json" ] && [ "$mode" = enforce ] && [ -z "$simulate" ]; then
    bin/warder --state "$var/agent" revert --leftovers || true
  fi
  rm -rf "$var"
  echo "== nothing is left behind"
}
trap stop EXIT
trap 'exit 0' INT TERM HUP PIPE

names=""
[ -z "$simulate" ] && [ "$(id -u)" = 0 ] && [ "$(uname -s)" = Linux ] && names=names
packaging/dev/build.sh ${simulate:+simulate}$names
if [ -n "$names" ]; then
  packaging/dev/names.sh || echo "== names could not be shown (var/names has the logs until the end)"
fi

agent_program=bin/warder
[ -n "$simulate" ] && agent_program=bin/warder-simulated
echo "== starting the server on http://127.0.0.1:$port and the agent, with everything under ./var"
bin/warder-server serve --data "$var/server" --listen "127.0.0.1:$port" --http --interval 30s 2>"$var/server.log" &
server=$!
echo "$server" >>"$var/pids"
url=http://127.0.0.1:$port
for _ in $(seq 200); do
  # Our own server says so in its log; another's on this port is not ours to talk to.
  grep -q 'msg=serving' "$var/server.log" && break
  kill -0 "$server" 2>/dev/null || { cat "$var/server.log" >&2; exit 1; }
  sleep 0.05
done
grep -q 'msg=serving' "$var/server.log" || { cat "$var/server.log" >&2; exit 1; }
admin() { bin/warder-server "$@" --data "$var/server"; }

cat >"$var/policy.json" <<JSON
{"name": "Engineering Team Policy", "description": "Security policy for engineering devices", "compliance": "$mode",
 "section_compliance": {"network": "monitor"},
 "policy_data": {
  "dlp": {"clipboard_sharing": false, "screenshot_allowed": false, "print_allowed": true},
  "network": {"vpn_required": true, "allowed_domains": ["*.company.com", "github.com"]},
  "usb": {"allowed": false, "whitelist": []},
  "storage": {"encryption_required": true, "external_storage_allowed": false}}}
JSON
admin policy apply "$var/policy.json" --default >/dev/null || { cat "$var/server.log" >&2; exit 1; }

bus() { "$PWD/bin/bus" "$1" "$var/bus" "${@:2}"; }
if [ -n "$simulate" ]; then
  bus init
  export WARDER_SIMULATED_BUS="$var/bus"
fi
bin/warder --state "$var/agent" enroll --server "$url" --token "$(admin enrollment create)" >/dev/null
"$agent_program" --state "$var/agent" run 2>"$var/agent.log" &
agent=$!
echo "$agent" >>"$var/pids"
warder() { bin/warder --state "$var/agent" "$@"; }
for _ in $(seq 300); do
  warder status >"$var/status" 2>/dev/null && break
  grep -q '^  policy' "$var/status" 2>/dev/null && break
  kill -0 "$agent" 2>/dev/null || { cat "$var/agent.log" >&2; exit 1; }
  sleep 0.1
done

# demo plugs a stick into the simulated bus and shows what agent and server say of it.
demo() {
  local label='[simulated]' began=$SECONDS
  say() { sed "s/^/$label /"; }
  run() { echo "$label \$ $*" && "$@" 2>&1 | say; echo "$label"; }
  shown() { echo "$label \$ $1"; shift; { "$@" 2>&1 || true; } | say; echo "$label"; }
  echo "$label No USB hardware takes part: the bus and the stick are files under ./var/bus, which a build of the agent"
  echo "$label for demonstrations takes for the machine's. Policy, decision, event and server are the real ones."
  echo "$label"
  echo "$label plugging in: a stick 0951:1666, serial SIMULATED-1, at port 1-1"
  bus plug 1-1 0951:1666 08 SIMULATED-1 "stick"
  for _ in $(seq 300); do
    warder events --json 2>/dev/null | grep -q SIMULATED-1 && break
    sleep 0.1
  done
  echo "$label"
  shown "warder events --last 1" warder events --last 1
  shown "warder explain usb --port 1-1" warder explain usb --port 1-1
  shown "cat sys/bus/usb/devices/1-1/authorized    # what the agent wrote, and read back" cat "$var/bus/bus/usb/devices/1-1/authorized"
  warder check-in >/dev/null 2>&1 || true
  for _ in $(seq 300); do
    admin event list --json 2>/dev/null | grep -q SIMULATED-1 && break
    sleep 0.1
  done
  shown "warder-server event list --limit 1" admin event list --limit 1
  echo "$label That took $((SECONDS - began)) s. Plug in others: bin/bus plug var/bus 1-2 046d:c52b 03 SIMULATED-2 mouse"
  echo
}

show() {
  warder status || true
  cat <<TEXT

  Three things to try in another terminal, in this directory${SUDO_USER:+ (with sudo)}:
    bin/warder --state var/agent explain usb 0951:1666 --class 08
    bin/warder --state var/agent events --follow
    bin/warder-server policy show "Engineering Team Policy" --data var/server
  The API, with examples to try: $url/docs
  Ctrl-C stops server and agent, and leaves nothing behind.
TEXT
}
[ -n "$simulate" ] && demo
if [ -t 1 ] && [ -z "$simulate" ]; then
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
