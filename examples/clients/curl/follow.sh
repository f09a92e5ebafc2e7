#!/usr/bin/env bash
# Appends every event of a Sidecar to FOLDER/events.jsonl, one JSON object a line, and resumes after the last one there.
#
#   bash follow.sh [URL] [FOLDER]
set -uo pipefail

url=${1:-http://127.0.0.1:19999/events}
folder=${2:-events}
attempts_max=10 # in a row that bring nothing new

mkdir -p "$folder" || exit 1
events=$folder/events.jsonl
# The pipeline below outlives this script when only the script is killed, and two of them would write every event twice.
exec 9>>"$events" || exit 1
if command -v flock >/dev/null && ! flock -n 9; then
    echo "$events is being written by another process: wait for its end, or take another folder" >&2
    exit 1
fi
# A kill can cut the last line off. The event in it comes again.
if [ -n "$(tail -c 1 "$events")" ]; then
    lines=$(wc -l <"$events")
    head -n "$lines" "$events" >"$events.whole" && cat "$events.whole" >"$events" && rm "$events.whole" || exit 1
fi

# The file is the position: an event that is in it was handled.
last_id() { tail -n 1 "$events" | sed -n 's/^{"id":\([0-9]*\),.*/\1/p'; }

# Ids belong to one log. With its name, another log (a node set up again) is an error instead of a wrong history.
log_name() {
    [ -s "$folder/log" ] ||
        curl -sS --fail --head --connect-timeout 10 "${url%%\?*}" | sed -n 's/^sidecar-log: *\([^[:space:]]*\).*/\1/p' >"$folder/log"
    cat "$folder/log"
}

# Reads one connection to its end, and prints the status of the answer. --keepalive-time finds a peer that is gone.
# Of start_from and last-event-id the later one counts.
follow() {
    : >"$folder/head"
    curl -sS --no-buffer --fail-with-body --connect-timeout 10 --keepalive-time 15 --dump-header "$folder/head" \
        -H 'accept: application/x-ndjson' ${last:+-H "last-event-id: $last"} \
        --get --data start_from=0 --data "log=$log" "$url" |
        # Lines without an id are keep-alives (empty), the API version, and what must be seen: a refusal, or what was lost.
        tee >(grep -av --line-buffered -e '^{"id":' -e '^{"data":' -e '^$' >&2) | grep -a --line-buffered '^{"id":[0-9]*,' >>"$events"
    sed -n '1s/^[^ ]* \([0-9]*\).*/\1/p' "$folder/head"
}

last=$(last_id) failures=0
while [ $failures -lt $attempts_max ]; do
    log=$(log_name)
    if [ -n "$log" ]; then
        case $(follow) in
            204) exit 0 ;; # nothing is left of what was asked for, which ends with until=N
            408 | 429) ;;  # again later
            4*) exit 1 ;;  # the answer said why: asking again would not help
        esac
    fi
    before=$last last=$(last_id)
    if [ "$last" = "$before" ]; then failures=$((failures + 1)); else failures=0; fi
    pause=$((failures < 5 ? 1 << failures : 30))
    echo "the stream ended; connecting again in $pause s" >&2
    sleep "$pause"
done
echo "no event after $attempts_max attempts: is there a Sidecar at $url?" >&2
exit 1
