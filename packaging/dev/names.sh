#!/bin/bash
# Shows a blocked and an allowed name, with a server and an agent of its own, in network namespaces of their own: nothing of
# this machine's network is touched. It needs root, nft, ip and unshare. BIN has the programs, DIR is for its files.
#
#   names.sh              what make run shows to root
#   names.sh --inside     the same, already inside
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${BIN:-$PWD/bin} dir=${DIR:-$PWD/var/names}
if [ "${1:-}" != --inside ]; then
  for tool in nft ip unshare; do
    command -v "$tool" >/dev/null || { echo "== names are not shown: $tool is not installed"; exit 0; }
  done
  mkdir -p "$dir"
  # A process namespace, too: whatever is started ends with it.
  exec env BIN="$bin" DIR="$dir" unshare --net --mount --pid --fork --kill-child --mount-proc bash packaging/dev/names.sh --inside
fi
say() { sed 's/^/[names] /'; }
# The machine, and the network outside it: a router with a name server and two web servers.
ip link set lo up
unshare --net sleep 600 &
outside=$!
for _ in $(seq 100); do
  [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$outside/ns/net")" ] && break
  sleep 0.05
done
beyond() { nsenter --net="/proc/$outside/ns/net" "$@"; }
ip link add eth0 type veth peer name out0 netns "$outside"
ip addr add 10.77.0.2/24 dev eth0
ip link set eth0 up
beyond ip link set lo up
beyond ip addr add 10.77.0.1/24 dev out0
beyond ip link set out0 up
for a in 198.51.100.53 203.0.113.10 203.0.113.20; do beyond ip addr add $a/32 dev lo; done
ip route add default via 10.77.0.1
beyond "$bin/outside" outside 198.51.100.53 docs.example.com=203.0.113.10 www.tracker.example=203.0.113.20 2>"$dir/outside.log" &
echo "nameserver 198.51.100.53" >"$dir/resolv.conf"
mount --bind "$dir/resolv.conf" "$(readlink -f /etc/resolv.conf)"

"$bin/warder-server" serve --data "$dir/server" --listen 127.0.0.1:8443 --http --interval 30s 2>"$dir/server.log" &
for _ in $(seq 200); do
  grep -q 'msg=serving' "$dir/server.log" && break
  sleep 0.05
done
cat >"$dir/policy.json" <<JSON
{"name": "Names", "compliance": "enforce", "policy_data": {"network": {"blocked_domains": ["tracker.example"]}}}
JSON
"$bin/warder-server" policy apply "$dir/policy.json" --default --data "$dir/server" >/dev/null
"$bin/warder" --state "$dir/agent" enroll --server http://127.0.0.1:8443 \
  --token "$("$bin/warder-server" enrollment create --data "$dir/server")" >/dev/null

look() { # whatever this system asks besides DNS, such as a resolver of another namespace, is left out
  local got
  echo "\$ getent -s dns ahostsv4 $1"
  got=$(getent -s dns ahostsv4 "$1" | awk '{print $1; exit}') || true
  echo "${got:-no such name}"
}
shown() { echo "\$ $1"; shift; "$@" 2>&1 || true; }
{
  echo "A blocked and an allowed name, in a network namespace of its own. Before the agent runs:"
  look docs.example.com
  look www.tracker.example
} | say
"$bin/warder" --state "$dir/agent" run 2>"$dir/agent.log" &
for _ in $(seq 300); do
  [ -z "$(getent -s dns ahostsv4 www.tracker.example)" ] && break
  sleep 0.1
done
{
  echo
  echo "With the policy {\"network\": {\"blocked_domains\": [\"tracker.example\"]}} in enforce mode:"
  look docs.example.com
  look www.tracker.example
  echo
  shown "warder explain network www.tracker.example" "$bin/warder" --state "$dir/agent" explain network www.tracker.example
  echo
  shown "nft list chain inet warder names" nft list chain inet warder names
} | say
echo
