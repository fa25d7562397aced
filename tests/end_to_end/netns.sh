#!/bin/bash
# Two hosts on this machine: network namespaces joined by one cable (a veth pair). Needs root.
#   netns.sh up PREFIX      PREFIX-1 has 10.88.0.1, PREFIX-2 has 10.88.0.2
#   netns.sh down PREFIX    kills what still runs there, removes both
set -euo pipefail
prefix=$2
case $1 in
  up)
    for i in 1 2; do
      ip netns add "$prefix-$i"
      ip -n "$prefix-$i" link set lo up
    done
    ip -n "$prefix-1" link add eth0 type veth peer name eth0 netns "$prefix-2"
    for i in 1 2; do
      ip -n "$prefix-$i" addr add "10.88.0.$i/24" dev eth0
      ip -n "$prefix-$i" link set eth0 up
    done
    # The kernel reports a new cable up to a second late, and UCX takes no device before that.
    for i in 1 2; do
      for _ in $(seq 100); do
        ip -n "$prefix-$i" link show eth0 | grep -q 'state UP' && break
        sleep 0.05
      done
    done
    ;;
  down)
    for i in 1 2; do
      # Absent when `up` failed half-way.
      ip netns pids "$prefix-$i" 2>/dev/null | xargs -r kill -9 || true
      ip netns del "$prefix-$i" 2>/dev/null || true
    done
    ;;
esac
