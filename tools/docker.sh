#!/usr/bin/env bash
# Sees to it that a Docker daemon answers, and stops it again if it was started here.
#
#   tools/docker.sh up      0: a daemon answers; 1: none could be had, and why
#   tools/docker.sh down    stops only what `up` started for the same caller (the process that runs this script),
#                           so that two callers on one machine never stop each other's daemon
set -euo pipefail
cd "$(dirname "$0")/.."
state=.tasklease/docker
pid_file=$state/dockerd.$PPID.pid

ours() { [ -s "$pid_file" ] && [ "$(cat "/proc/$(cat "$pid_file")/comm" 2>/dev/null)" = dockerd ]; }

stop() {
  if ours; then
    local pid
    pid=$(cat "$pid_file")
    echo "docker: stopping the daemon that was started here"
    kill "$pid"
    for _ in $(seq 60); do
      [ -d "/proc/$pid" ] || break
      sleep 0.5
    done
    if [ -d "/proc/$pid" ]; then
      echo "docker: the daemon (pid $pid) did not stop within 30 s" >&2
      return 1
    fi
  fi
  rm -f "$pid_file"
}

case ${1:?usage: tools/docker.sh up|down} in
  up)
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then exit 0; fi
    if [ "$(id -u)" -ne 0 ]; then
      echo "docker: no daemon answers, and only root can start one" >&2
      exit 1
    fi
    if ! command -v dockerd >/dev/null; then
      if ! command -v apt-get >/dev/null; then
        echo "docker: not installed" >&2
        exit 1
      fi
      echo "docker: installing docker.io"
      apt-get update -qq </dev/null
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io </dev/null >/dev/null
    fi
    mkdir -p "$state"
    if ! docker info >/dev/null 2>&1; then
      echo "docker: starting a daemon"
      setsid dockerd >"$state/dockerd.log" 2>&1 </dev/null &
      echo $! >"$pid_file"
    fi
    for _ in $(seq 120); do
      if docker info >/dev/null 2>&1; then exit 0; fi
      if [ -s "$pid_file" ] && ! ours; then break; fi
      sleep 0.5
    done
    echo "docker: the daemon does not answer; its last lines:" >&2
    tail -5 "$state/dockerd.log" >&2 || true
    stop || true
    exit 1
    ;;
  down) stop ;;
  *) echo "usage: tools/docker.sh up|down" >&2; exit 2 ;;
esac
