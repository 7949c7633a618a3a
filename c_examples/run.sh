#!/bin/sh
# SPDX-License-Identifier: 0BSD
#
# run.sh BIN: shows the textbook listings at work, then streams a tar of a real
# file tree through a ring, from one process to another, and compares the
# SHA-256 sums of what went in and what came out.

bin=$1
id=mdgrun$$
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"; rm -f /dev/shm/*"$id"*' EXIT
trap 'exit 130' INT TERM

# show PROGRAM ARGUMENT...: what one types, and what one gets.
show() {
    program=$1
    shift
    echo "\$ $program $*" | sed -e "s/$id\.//g" -e "s|$tmp|/tmp|g"
    "$bin/$program" "$@" 2>&1 || { echo "$program failed" && exit 1; }
}

echo "== shared memory"
show shm_producer "$id.OS"
show shm_consumer "$id.OS"
show shm_producer_textbook "$id.OS"
echo "\$ shm_consumer_textbook OS   (as printed: cannot run)"
"$bin/shm_consumer_textbook" "$id.OS" 2>&1 && echo "it ran?" && exit 1
show shm_consumer_posix "$id.OS"

echo "== bounded buffer"
echo "\$ bounded_buffer_naive 1000 1   (as printed: it hangs, and is stopped)"
"$bin/bounded_buffer_naive" 1000 1 && echo "it ended?" && exit 1
show bounded_buffer_textbook 100
show ring_producer "$id.numbers" 16
show ring_consumer "$id.numbers" 10000
show assembly_line 'x=1+2' 'y=30+12'
show ring_broadcast 1000 patient
show ring_broadcast 100000 news
show ring_evict 1000
show ring_segment "$id.calculator" 6 7
show ring_afresh "$id.runs" 3 fresh
show ring_afresh "$id.runs" 3 fresh
show wait_any_inbox 1000
show fd_ring 1000
show cond_bounded_buffer 1000

echo "== three rings and standard input, one loop"
for ring in red green blue; do
    "$bin/ring_producer" "$id.$ring" 1000 >/dev/null &
done
echo "some words" | show event_loop "$id.red" "$id.green" "$id.blue"
wait

echo "== pipes"
show pipe_greetings
show pipe_two_way 10000 hello world
echo "a letter" | "$bin/fifo_writer" "$tmp/letters" 10000 &
show fifo_reader "$tmp/letters" 10000
wait
show parallel_sum pipe

echo "== semaphores"
"$bin/sem_producer" "$id.sems" 1000 &
show sem_consumer "$id.sems" 10000
wait
show sem_task_sync "$id.synch" A
show sem_task_sync "$id.synch" B
show sem_resource_pool "$id.pool" 5 2
show parallel_sum segment

echo "== one of them dies"
show dining_philosophers 100
show readers_writers "$id.page" 3 2 100
show sem_then_mutex "$id.pool" 5 2
show ring_workers 1000
show ring_redeliver 1000
show ring_stopproof 1000
show mutex_counter "$id.count" 1000
show object_reap "/$id.left"

# A tree that this machine has, of tens of megabytes.
tree=
for candidate in /usr/lib/python3* /usr/share/doc /usr/include /usr/lib/gcc /usr/bin /usr/share; do
    [ -d "$candidate" ] || continue
    size=$(du -sm "$candidate" 2>/dev/null | cut -f 1)
    if [ "${size:-0}" -ge 20 ] && [ "$size" -le 2000 ]; then
        tree=$candidate
        break
    fi
done
[ -n "$tree" ] || { echo "found no tree of 20 to 2000 MB to stream" && exit 1; }

echo "== a tar of $tree (${size} MB) through a ring"
mkfifo "$tmp/copy"
sha256sum <"$tmp/copy" >"$tmp/in" &
start=$(date +%s%N)
{
    tar -cf - -C "$tree" . 2>/dev/null | tee "$tmp/copy" | "$bin/ring_send" "/$id.stream"
    echo $? >"$tmp/sender"
} &
"$bin/ring_receive" "/$id.stream" >"$tmp/received"
receiver=$?
wait
end=$(date +%s%N)
sha256sum <"$tmp/received" >"$tmp/out"

echo "sent      sha256 $(cut -d ' ' -f 1 "$tmp/in")"
echo "received  sha256 $(cut -d ' ' -f 1 "$tmp/out")"
echo "$(wc -c <"$tmp/received") bytes in $(((end - start) / 1000000)) ms, tar and tee included"
if [ "$(cat "$tmp/sender") $receiver" = "0 0" ] && [ -s "$tmp/received" ] &&
    cmp -s "$tmp/in" "$tmp/out"; then
    echo "equal"
else
    echo "DIFFERENT (ring_send ended with $(cat "$tmp/sender"), ring_receive with $receiver)"
    exit 1
fi
