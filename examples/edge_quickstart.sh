#!/usr/bin/env bash
# An origin, an edge and a pull through it, on one machine and without systemd.
#
#     examples/edge_quickstart.sh DIR     DIR is any model directory
#
# Everything goes into a temporary directory and is gone at the end. On a real site the edge is a
# service: icn-edge print-unit > /etc/systemd/system/icn-edge.service
set -eu
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
model=$1
place=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" && wait "$pid" || true; done
    rm -rf "$place"
}
trap cleanup EXIT
export HOME="$place" XDG_CONFIG_HOME="$place/config" XDG_DATA_HOME="$place/data"

# A daemon that is told port 0 takes a free one and says which on its first line: {"port": ...}
start() {
    local name=$1
    shift
    mkfifo "$place/$name.ready"
    icn-edge --store "$place/$name" --listen 127.0.0.1:0 "$@" \
        >"$place/$name.ready" 2>"$place/$name.log" &
    pids+=("$!")
    read -r line <"$place/$name.ready"
    port=$(sed 's/.*"port": *\([0-9]*\).*/\1/' <<<"$line")
    url="http://127.0.0.1:$port"
    echo "$name answers at $url"
}

start origin
origin=$url
start edge --upstream "$origin" --capacity 10GB
edge=$url

icn-publish "$model" quickstart/model --to "$origin"
icn-fetch quickstart/model --from "$edge" --trust-first-use --to "$place/pulled"
icn-fetch quickstart/model --from "$edge" --to "$place/again"   # nothing crosses the network now
diff -r --exclude='.*' "$model" "$place/pulled" && echo "pulled: bit for bit the same"
