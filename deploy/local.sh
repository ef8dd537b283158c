#!/usr/bin/env bash
# The deployment's processes on this machine, started by the commands and the environment that the container has:
#
#     deploy/local.sh [FOLDER]      (default: data/local)
#
# Postgres (Debian's package), an S3 server (moto's, in memory, for trying), the code server over gRPC, the daemon, the
# webserver, and one that can only be looked at. A part that ends is started again, as a container is; the S3 server's end,
# with all that it held, ends them all, as Ctrl-C does. With AWS_ENDPOINT_URL or MEDIAFM_POSTGRES_URL set, that server is
# used instead. Ports: MEDIAFM_PORTS is the first of five in a row.
set -euo pipefail
# Each part gets a process group of its own: it can be ended with the runs that it started, and in its turn. Without
# this, bash would let the parts ignore SIGINT, and Dagster then ignores SIGTERM too.
set -m
project=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$project/data/local}")
first=${MEDIAFM_PORTS:-3900}
web=$first read_only=$((first + 1)) code=$((first + 2)) s3=$((first + 3)) postgres=$((first + 4))
[ -d "$project/.venv/bin" ] && PATH=$project/.venv/bin:$PATH
umask 022
mkdir -p "$folder/home"
cd "$project"

declare -A started commands
start() { # NAME COMMAND…: in the background, its output in FOLDER/NAME.log
    local name=$1
    shift
    "$@" >> "$folder/$name.log" 2>&1 &
    started[$name]=$!
    commands[$name]=$(printf '%q ' "$@")
    echo "$!" > "$folder/$name.pid"
}

# shellcheck disable=SC2329 # the trap calls it
stop() {
    trap - EXIT
    # In the order in which they need each other, so that nothing is written to a server that has gone.
    for name in daemon webserver viewer code s3 postgres; do
        local group=${started[$name]:-}
        [ -n "$group" ] || continue
        local signal=TERM
        [ "$name" = postgres ] && signal=INT # its TERM waits for every client to leave
        kill -"$signal" "$group" 2> /dev/null || true
        for _ in {1..50}; do
            kill -0 "$group" 2> /dev/null || break
            sleep 0.2
        done
        kill -KILL -- "-$group" 2> /dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT TERM

answers() { # NAME PORT: waits until the process listens there
    until (: < "/dev/tcp/127.0.0.1/$2") 2> /dev/null; do
        kill -0 "${started[$1]}" 2> /dev/null || { tail -5 "$folder/$1.log" >&2; echo "$1 did not start" >&2; exit 1; }
        sleep 0.2
    done
}

if [ -z "${MEDIAFM_POSTGRES_URL:-}" ]; then
    [ -f "$folder/password" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$folder/password")
    MEDIAFM_POSTGRES_PASSWORD=$(cat "$folder/password")
    export MEDIAFM_POSTGRES_PASSWORD
    start postgres "$project/deploy/postgres.sh" "$folder/postgres" "$postgres"
    answers postgres "$postgres"
    export MEDIAFM_POSTGRES_URL="postgresql+psycopg2://dagster:$MEDIAFM_POSTGRES_PASSWORD@127.0.0.1:$postgres/dagster"
    unset MEDIAFM_POSTGRES_PASSWORD
fi
if [ -z "${AWS_ENDPOINT_URL:-}" ]; then
    export AWS_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_ALLOW_HTTP=true AWS_ACCESS_KEY_ID=local
    export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-local}
    export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
    start s3 python -m moto.server -H 127.0.0.1 -p "$s3"
    answers s3 "$s3"
    python -c 'import boto3; boto3.client("s3").create_bucket(Bucket="mediafm")'
fi

export MEDIAFM_LANDING=${MEDIAFM_LANDING:-s3://mediafm/landing} MEDIAFM_LAKE=${MEDIAFM_LAKE:-s3://mediafm/lake}
export MEDIAFM_LOGS_BUCKET=${MEDIAFM_LOGS_BUCKET:-mediafm} MEDIAFM_CODE_HOST=127.0.0.1
export DAGSTER_HOME=$folder/home
cp deploy/dagster.yaml "$DAGSTER_HOME/dagster.yaml"
sed "s/port: 4000/port: $code/" deploy/workspace.yaml > "$folder/workspace.yaml"
dagster instance migrate > "$folder/migrate.log" 2>&1 # makes the tables, before three processes try to at once

start code dagster api grpc -h 127.0.0.1 -p "$code" -m mediafm_assets.definitions --location-name mediafm
answers code "$code"
start daemon dagster-daemon run -w "$folder/workspace.yaml"
start webserver dagster-webserver -h 127.0.0.1 -p "$web" -w "$folder/workspace.yaml"
start viewer dagster-webserver -h 127.0.0.1 -p "$read_only" -w "$folder/workspace.yaml" --read-only
answers webserver "$web"
answers viewer "$read_only"
cat << SAID
Dagster       http://127.0.0.1:$web
 to look at   http://127.0.0.1:$read_only
S3            $AWS_ENDPOINT_URL    landing zone $MEDIAFM_LANDING, lake $MEDIAFM_LAKE
Logs          $folder/*.log
Land a title from another terminal:
  AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local MEDIAFM_LANDING=$MEDIAFM_LANDING mediafm land FOLDER
SAID
while true; do
    wait -n "${started[@]}" || true
    sleep 1
    for name in "${!started[@]}"; do
        kill -0 "${started[$name]}" 2> /dev/null && continue
        echo "$name ended; see $folder/$name.log" >&2
        [ "$name" = s3 ] && exit 1
        eval "start $name ${commands[$name]}"
    done
done
