#!/usr/bin/env bash
# From what two edges were asked for to what they shall hold: icn-sim place, icn-edge prefetch.
#
#     examples/plan_edges.sh DIR1 DIR2     two model directories
#
# Everything goes into a temporary directory and is gone at the end. On a real site the traces lie
# where the setting `trace` says, and the command for each edge runs at night:
#     icn-edge prefetch plan.json --edge roof --url https://roof.example:4260 --rate 50Mbit --window 01:00-05:00
set -eu
[ $# = 2 ] || { echo "usage: $0 DIR1 DIR2" >&2; exit 2; }
first=$1 second=$2
place=$(mktemp -d)
declare -A pids urls
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
    rm -f "$place/$name.ready"
    mkfifo "$place/$name.ready"
    icn-edge --store "$place/$name" --listen 127.0.0.1:0 "$@" \
        >"$place/$name.ready" 2>>"$place/$name.log" &
    pids[$name]=$!
    read -r line <"$place/$name.ready"
    urls[$name]="http://127.0.0.1:$(sed 's/.*"port": *\([0-9]*\).*/\1/' <<<"$line")"
}
stop() {
    kill "${pids[$1]}" && wait "${pids[$1]}"
    unset "pids[$1]"
}

start origin
icn-publish "$first" demo/first --to "${urls[origin]}"
icn-publish "$second" demo/second --to "${urls[origin]}"

# A day at two edges, which write down what they are asked for.
for edge in roof cellar; do
    start "$edge-before" --upstream "${urls[origin]}" --trace "$place/$edge.trace"
done
icn-fetch demo/first --from "${urls[roof-before]}" --trust-first-use --to "$place/a"
icn-fetch demo/second --from "${urls[cellar-before]}" --to "$place/b"
for edge in roof cellar; do
    stop "$edge-before"
done

# One trace that names its edges: models first, then the requests in order of time.
for edge in roof cellar; do
    sed "s/\"get\":/\"edge\": \"$edge\", \"get\":/" "$place/$edge.trace"
done >"$place/all"
{ grep '^{"model"' "$place/all"; grep '^{"t"' "$place/all" | sort -s -t: -k2 -g; } >"$place/day.trace"

icn-sim place "$place/day.trace" --capacity 10GB --pin -o "$place/plan.json"
cat "$place/plan.json"

# Payload that the origin has sent so far.
sent() {
    python3 -c "import sys, urllib.request as r; print(*(l.split()[1] for l in r.urlopen(sys.argv[1])
        .read().decode().splitlines() if l.startswith('icn_sent_bytes_total')))" "${urls[origin]}/metrics"
}

# The edges of the next day begin empty; the plan fills them, and the origin has nothing to send.
for edge in roof cellar; do
    start "$edge" --upstream "${urls[origin]}" --capacity 11GB
    icn-edge prefetch "$place/plan.json" --edge "$edge" --url "${urls[$edge]}" --rate 1Gbit
done
before=$(sent)
HOME="$place/other" XDG_CONFIG_HOME="$place/other" XDG_DATA_HOME="$place/other" \
    icn-fetch demo/first --from "${urls[roof]}" --trust-first-use --to "$place/pulled"
diff -r --exclude='.*' "$first" "$place/pulled" && echo "pulled: bit for bit the same"
[ "$(sent)" = "$before" ] && echo "and the origin sent nothing for it"
icn-edge prefetch --status --url "${urls[cellar]}"
