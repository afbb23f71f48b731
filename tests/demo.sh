#!/usr/bin/env bash
# The whole product in one run: a lattice of two hosts on this machine, edge-processor spread over both by the scheduler,
# readings in, alerts out; then one of the hosts dies in the middle of it.
# Expects lattice-ctl, lattice-host, lattice-bench and nats-server on PATH; `make demo` sees to that.
set -euo pipefail
cd "$(dirname "$0")/.."

readings=${READINGS:-1000}
rate=${RATE:-200}
region=ap-east-1
actor=${LATTICE_ACTORS:-target/wasm32-wasip2/actor}/edge_processor.wasm
folder=$(mktemp -d)
data=$folder/lattice
export XDG_CONFIG_HOME=$folder/config

bold() { if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then printf '\033[1m%s\033[0m\n' "$*"; else printf '%s\n' "$*"; fi; }
step() { echo; bold "── $*"; }
run() { bold "\$ $*"; "$@"; }
field() { python3 -c 'import json,sys; d=json.load(sys.stdin)
for k in sys.argv[1].split("."): d = d[int(k)] if k.isdigit() else d[k]
print(d)' "$1"; }
free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }

finish() {
    code=$?
    if [ -e "$data/up.json" ]; then
        step "Stop everything"
        run lattice-ctl down --data-dir "$data" --yes || code=1
    fi
    if [ $code -ne 0 ]; then
        bold "demo failed (exit $code); the logs are in $folder"
        exit $code
    fi
    rm -rf "$folder"
}
trap finish EXIT

step "Start a lattice: one nats-server, two hosts"
bold "\$ lattice-ctl up --detach --hosts 2 --label region=$region --nats-port 0"
up=$(lattice-ctl up --detach -o json --hosts 2 --label region=$region --nats-port 0 --data-dir "$data")
export LATTICE_NATS_URL
LATTICE_NATS_URL=$(field nats_url <<< "$up")
run lattice-ctl get hosts

step "Start the providers and the actor; without links it may do nothing yet"
run lattice-ctl start provider builtin://kv-nats kv
run lattice-ctl start provider builtin://messaging-nats messaging
run lattice-ctl start provider builtin://http-server http
run lattice-ctl start actor "file://$actor" edge-processor --max 10 --spread
run lattice-ctl get actors

step "Links give it a bucket, a port and the region's readings, and nothing else"
port=$(free_port)
run lattice-ctl link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --region $region --timeout 5000 --retry-count 3 --retry-delay 1000
run lattice-ctl link put edge-processor http wasmcloud:httpserver default --port "$port"
run lattice-ctl link put edge-processor messaging wasmcloud:messaging cloud-sync --subscription edge.sensor.$region --delivery jetstream
run lattice-ctl config put edge-processor temp_threshold=85.0 humidity_threshold=90.0 alert_enabled=true
run lattice-ctl get actors

step "One reading that is too hot; the alert comes back"
lattice-ctl sub "edge.alert.$region" --count 1 --timeout 20s > "$folder/alert" 2> "$folder/listening" &
listener=$!
# `sub` says on standard error that its subscription is in force.
for _ in $(seq 200); do grep -q edge.alert "$folder/listening" && break; sleep 0.05; done
run lattice-ctl pub edge.sensor.$region '{"device_id":"sensor-001","temperature":92.5,"humidity":78.3,"timestamp":1718668800,"region":"ap-east-1"}'
wait "$listener"
cat "$folder/alert"

step "$readings readings at $rate a second, each result checked"
bold "\$ lattice-bench readings --count $readings --rate $rate"
lattice-bench readings --region $region --count "$readings" --rate "$rate" --json > "$folder/summary"

step "What it remembers of one device: over HTTP, and in the bucket"
run curl --silent --show-error --fail "http://127.0.0.1:$port/devices/$region/sensor-001"
echo
run lattice-ctl kv get edge-data "$region.sensor-001"
run curl --silent --show-error --fail "http://127.0.0.1:$port/stats"
echo

# One message at a time has one owner: a rate that it can follow, so that the longest wait is the gap and no queue.
few=$((readings * 3 / 10))
step "One owner, whose effects count once, and its host dies in the middle of $few readings"
run lattice-ctl link del edge-processor wasmcloud:httpserver default
run lattice-ctl scale edge-processor --class fenced --max 1
run lattice-ctl wait actor/edge-processor --for running=1
owner=$(lattice-ctl get actors edge-processor -o json | field 0.instances.0.host_name)
victim=$(python3 -c 'import json,sys; print(next(h["process"]["pid"] for h in json.load(open(sys.argv[1]))["hosts"] if h["name"] == sys.argv[2]))' "$data/up.json" "$owner")
bold "\$ lattice-bench readings --count $few --rate $((rate / 4)) &"
lattice-bench readings --region $region --count "$few" --rate $((rate / 4)) --json > "$folder/failover" &
bench=$!
# The kill falls into the first half of them.
until lattice-ctl stream status -o json | python3 -c 'import json,sys; sys.exit(json.load(sys.stdin)["messages"] < int(sys.argv[1]))' $((readings + few / 3)); do sleep 0.1; done
run kill -9 "$victim"
wait "$bench"
run lattice-ctl events --kind dead,slot-owned,moved --since 1m
run lattice-ctl failover history
run lattice-ctl get hosts

# What the first host's process has to itself, and its share of what it shares with the second.
host=$(python3 -c 'import json,sys; print(next(h["process"]["pid"] for h in json.load(open(sys.argv[1]))["hosts"] if h["process"]))' "$data/up.json")
memory=$(awk '/^Pss:/ {printf "%.1f", $2 / 1024}' "/proc/$host/smaps_rollup")
step "Summary"
python3 - "$folder/summary" "$memory" "$folder/failover" "$owner" <<'PYTHON'
import json, sys
s = json.load(open(sys.argv[1]))
f = json.load(open(sys.argv[3]))
print(f"readings in        {s['readings']}")
print(f"results out        {s['results']}   ({s['lost']} lost, {s['doubled']} doubled, {s['wrong']} wrong)")
print(f"alerts             {s['alerts']}")
print(f"publish → result   p50 {s['p50_ms']:.2f} ms, p99 {s['p99_ms']:.2f} ms")
print(f"{sys.argv[4]} killed     {f['results']} of {f['readings']} results   ({f['lost']} lost, {f['doubled']} doubled, {f['wrong']} wrong), longest wait {f['max_ms']:.0f} ms")
print(f"memory of a host   {sys.argv[2]} MiB (PSS)")
PYTHON
