#!/bin/sh
# drive_redis.sh SOCKET REQUESTS: have a redis-server store values, forget them all, store others, and end.

set -eu
socket=$1 requests=$2
for _ in $(seq 100); do
    redis-cli -s "$socket" ping >/dev/null 2>&1 && break
    sleep 0.1
done
benchmark="redis-benchmark -s $socket -q -r $requests"
$benchmark -n "$requests" -d 2000 -t set
redis-cli -s "$socket" flushall
$benchmark -n "$((requests / 2))" -d 500 -t set,lpush
redis-cli -s "$socket" shutdown nosave
