#!/usr/bin/env bash
# Appends a line for each new row of event_log to FILE (id, kind, key, received; tabs between), and resumes after the last.
#
#   bash follow.sh events.db3 [FILE]                           SQLite
#   bash follow.sh postgresql://USER@HOST/DATABASE [FILE]      PostgreSQL
set -uo pipefail

database=${1:?name a SQLite file or a PostgreSQL address}
file=${2:-rows.tsv}
batch=1000      # rows
attempts_max=10 # in a row that fail

# Sidecar writes while this reads: SQLite may have to wait for a moment, PostgreSQL never does.
ask() {
    case $database in
        *://*) psql --no-psqlrc --quiet --tuples-only --no-align --field-separator $'\t' --set ON_ERROR_STOP=1 --command "$1" "$database" ;;
        *) sqlite3 -readonly -separator $'\t' -cmd '.timeout 5000' "$database" "$1" ;;
    esac
}

touch "$file" || exit 1
# A kill can cut the last line off. Its row comes again.
if [ -n "$(tail -c 1 "$file")" ]; then
    lines=$(wc -l <"$file")
    head -n "$lines" "$file" >"$file.whole" && mv "$file.whole" "$file" || exit 1
fi

failures=0
while [ $failures -lt $attempts_max ]; do
    # The file is the position. Rows get their ids in the order in which they are committed, so nothing comes before it later.
    last=$(tail -n 1 "$file" | cut -f 1)
    if ! rows=$(ask "SELECT event_log_id, event_type_name, event_key, emitted_timestamp
                     FROM event_log JOIN event_type USING (event_type_id)
                     WHERE event_log_id > ${last:-0} ORDER BY event_log_id LIMIT $batch"); then
        failures=$((failures + 1))
        sleep $((failures < 5 ? 1 << failures : 30))
        continue
    fi
    failures=0
    if [ -n "$rows" ]; then
        printf '%s\n' "$rows" >>"$file" || exit 1
    else
        sleep 1
    fi
done
echo "$attempts_max attempts failed: is the database there, and has Sidecar made its tables?" >&2
exit 1
