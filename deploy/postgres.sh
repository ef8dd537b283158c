#!/usr/bin/env bash
# A Postgres server of Debian's package in the foreground, for local.sh, tests and benchmarks: postgres.sh FOLDER PORT
# The data lie in FOLDER, which is made. User and database are `dagster`; the password is MEDIAFM_POSTGRES_PASSWORD.
# Postgres never runs as root: called by root, it runs as the package's user `postgres`, who must reach FOLDER.
set -euo pipefail
folder=$1 port=$2
programs=$(find /usr/lib/postgresql/*/bin -maxdepth 0 2> /dev/null | sort -V | tail -1)
[ -n "$programs" ] || { echo "Postgres is not installed: apt-get install postgresql" >&2; exit 3; }
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$folder"
    chown postgres "$folder"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups env HOME="$folder" "$BASH" "$0" "$folder" "$port"
fi
if [ ! -f "$folder/PG_VERSION" ]; then
    "$programs/initdb" --pgdata="$folder" --username=dagster --auth=scram-sha-256 --encoding=UTF8 --no-locale \
        --pwfile=<(printf %s "$MEDIAFM_POSTGRES_PASSWORD") > /dev/null
    echo 'CREATE DATABASE dagster;' | "$programs/postgres" --single -D "$folder" postgres > /dev/null
fi
exec "$programs/postgres" -D "$folder" -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories=''
