#!/bin/sh
# SPDX-License-Identifier: 0BSD
#
# check.sh BIN: runs every example in BIN, success and failure, and compares
# what it printed and how it ended with the files in golden/.
#
#   WRAP      put in front of every program, e.g. "valgrind -q --error-exitcode=99"
#   UPDATE=1  writes the golden files instead of comparing
#   ONLY=name runs only that case
#
# Every object name contains $id, so that several runs can go on at once.

bin=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")" || exit 2
id=mdgexample$$
tmp=$(mktemp -d) || exit 2

remove_leftovers() {
    for left in /dev/shm/*"$id"*; do
        [ -e "$left" ] && rm -f "$left"
    done
}
trap 'remove_leftovers; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# run PROGRAM ARGUMENT...: runs it to its end and prints how it ended.
run() {
    program=$1
    shift
    timeout 120 $WRAP "$bin/$program" "$@"
    echo "$program: exit $?"
}

# ---- shm

case_shm_greeting() {
    run shm_producer "/$id.OS"
    run shm_consumer "/$id.OS"
    run shm_consumer "/$id.OS"
}

# The posix reader knows nothing of the library, the textbook writer neither.
case_shm_plain_posix_peers() {
    run shm_producer "/$id.OS"
    run shm_consumer_posix "/$id.OS"
    run shm_producer_textbook "/$id.OS"
    run shm_consumer "/$id.OS"
}

case_shm_textbook_consumer_fails() {
    run shm_producer_textbook "/$id.OS"
    run shm_consumer_textbook "/$id.OS"
    run shm_consumer_posix "/$id.OS"
}

case_shm_too_small() {
    printf tiny >"/dev/shm/$id.tiny"
    run shm_consumer "/$id.tiny"
    rm "/dev/shm/$id.tiny"
}

case_shm_bad_name() {
    run shm_producer "/$id/inner"
    run shm_producer
}

# ---- ring

case_bounded_buffer_textbook() {
    run bounded_buffer_textbook 100
    run bounded_buffer_textbook 3
}

# As printed, without _Atomic: it never ends, and is stopped.
case_bounded_buffer_naive() {
    run bounded_buffer_naive 1000 1
}

# The consumer is started when the producer has found the ring full.
case_ring_bounded_buffer() {
    mkfifo "$tmp/said"
    run ring_producer "/$id.numbers" 1000 >"$tmp/said" 2>&1 &
    exec 3<"$tmp/said"
    read -r line <&3
    echo "$line"
    run ring_consumer "/$id.numbers" 60000
    cat <&3
    exec 3<&-
}

case_ring_nobody_produces() {
    run ring_consumer "/$id.nobody" 50
    run ring_consumer "/$id.nobody" soon
}

case_ring_producer_killed() {
    mkfifo "$tmp/said2"
    $WRAP "$bin/ring_producer" "/$id.killed" 1000 >"$tmp/said2" &
    producer=$!
    exec 3<"$tmp/said2"
    read -r line <&3
    exec 3<&-
    kill -9 $producer
    wait $producer 2>/dev/null
    run ring_consumer "/$id.killed" 60000
}

# The service is told to stop while it waits without limit; another one finds the end of the stream.
case_ring_until_sigterm() {
    mkfifo "$tmp/service"
    $WRAP "$bin/ring_until_sigterm" "/$id.service" >"$tmp/service" &
    service=$!
    exec 3<"$tmp/service"
    read -r line <&3
    echo "$line"
    kill -TERM $service
    wait $service
    echo "ring_until_sigterm: exit $?"
    cat <&3
    exec 3<&-
    run ring_producer "/$id.service" 10
    run ring_until_sigterm "/$id.service"
}

# One producer finishes at once, one waits for the loop, one is killed; the loop outlives them all.
case_event_loop() {
    run ring_producer "/$id.red" 10 >"$tmp/red" 2>&1
    mkfifo "$tmp/green" "$tmp/words"
    $WRAP "$bin/ring_producer" "/$id.green" 1000000000 >"$tmp/green" &
    killed=$!
    exec 3<"$tmp/green"
    read -r line <&3
    exec 3<&-
    kill -9 $killed
    wait $killed 2>/dev/null
    run event_loop "/$id.red" "/$id.green" "/$id.blue" <"$tmp/words" >"$tmp/loop" 2>&1 &
    exec 4>"$tmp/words"
    echo "some words" >&4
    # How many go in at once depends on how far the loop has got by then.
    run ring_producer "/$id.blue" 1000 | sed 's/; [0-9]* items went in/; some items went in/'
    echo "and more" >&4
    exec 4>&-
    wait
    cat "$tmp/red" "$tmp/loop"
    run event_loop "/$id.red"
}

case_assembly_line() {
    run assembly_line 'x=1+2' 'y=30+12' 'z=7+7'
    run assembly_line 'x=1+2' 'nonsense'
    run assembly_line
}

# The worker that dies has taken one task; the others do all the rest.
case_ring_workers() {
    run ring_workers 1000
    run ring_workers
}

case_ring_redeliver() {
    run ring_redeliver 1000
    run ring_redeliver
}

case_ring_evict() {
    run ring_evict 1000
    run ring_evict 3
}

case_ring_stopproof() {
    run ring_stopproof 1000
    run ring_stopproof
}

case_ring_segment() {
    run ring_segment "/$id.calculator" 6 7
    run ring_segment "/$id.calculator" 6 seven
}

# A run that ends in order, one that is not made anew, one that is left in the middle, and another.
case_ring_afresh() {
    run ring_afresh "/$id.runs" 3 fresh
    run ring_afresh "/$id.runs" 3 old
    run ring_afresh "/$id.runs" 2 crash
    run ring_afresh "/$id.runs" 3 fresh
    rm "/dev/shm/mdg.ring.$id.runs"
}

case_object_reap() {
    run object_reap "/$id.left"
    run object_reap
}

case_fd_ring() {
    run fd_ring 1000
    run fd_ring
}

case_wait_any_inbox() {
    run wait_any_inbox 1000
    run wait_any_inbox
}

case_ring_broadcast() {
    run ring_broadcast 1000 patient
    run ring_broadcast 100000 news
    run ring_broadcast 3
}

# ---- ring_send | ring_receive

case_ring_stream() {
    head -c 20000000 /dev/urandom >"$tmp/input"
    run ring_send "/$id.stream" <"$tmp/input" >"$tmp/sender" 2>&1 &
    timeout 120 $WRAP "$bin/ring_receive" "/$id.stream" >"$tmp/output"
    echo "ring_receive: exit $?"
    wait
    cat "$tmp/sender"
    cmp "$tmp/output" "$tmp/input" && echo "20000000 bytes arrived"
}

case_ring_stream_of_nothing() {
    run ring_send "/$id.empty" </dev/null
    run ring_receive "/$id.empty"
}

# A second sender is refused while the first lives; a killed one is noticed.
case_ring_stream_sender_killed() {
    mkfifo "$tmp/in" "$tmp/out"
    exec 4<>"$tmp/in"
    $WRAP "$bin/ring_send" "/$id.dies" <"$tmp/in" 4>&- &
    sender=$!
    run ring_receive "/$id.dies" >"$tmp/out" 2>&1 4>&- &
    exec 3<"$tmp/out"
    echo "a line" >&4
    read -r line <&3
    echo "received: $line"
    run ring_send "/$id.dies" </dev/null
    kill -9 $sender
    wait $sender 2>/dev/null
    cat <&3
    exec 3<&- 4>&-
}

case_ring_stream_receiver_killed() {
    mkfifo "$tmp/out2"
    { yes | run ring_send "/$id.gone"; } >"$tmp/sender" 2>&1 &
    $WRAP "$bin/ring_receive" "/$id.gone" >"$tmp/out2" &
    receiver=$!
    exec 3<"$tmp/out2"
    read -r line <&3
    echo "received: $line"
    kill -9 $receiver
    wait
    exec 3<&-
    cat "$tmp/sender"
}

# ---- sem

case_sem_bounded_buffer() {
    run sem_producer "/$id.sems" 1000 >"$tmp/producer" 2>&1 &
    run sem_consumer "/$id.sems" 60000
    wait
    cat "$tmp/producer"
}

case_sem_nobody_produces() {
    run sem_consumer "/$id.nobody" 50
}

# A is started when B has said that it waits.
case_sem_task_sync() {
    mkfifo "$tmp/b"
    run sem_task_sync "/$id.synch" B >"$tmp/b" 2>&1 &
    exec 3<"$tmp/b"
    read -r line <&3
    echo "$line"
    run sem_task_sync "/$id.synch" A
    cat <&3
    exec 3<&-
    run sem_task_sync "/$id.synch" C
}

case_sem_task_sync_a_first() {
    run sem_task_sync "/$id.synch" A
    run sem_task_sync "/$id.synch" B
}

case_sem_resource_pool() {
    run sem_resource_pool "/$id.pool" 5 2
    run sem_resource_pool "/$id.pool" 3 1
}

case_sem_resource_pool_left_over() {
    run sem_task_sync "/$id.pool" A
    run sem_resource_pool "/$id.pool" 5 2
    rm -f "/dev/shm/sem.$id.pool"
}

# One participant of each is killed in the middle; the others carry on.
case_dining_philosophers() {
    run dining_philosophers 100
    run dining_philosophers
}

case_readers_writers() {
    run readers_writers "/$id.page" 3 2 100
    run readers_writers "/$id.page" 1 1 10
}

case_mutex_counter() {
    run mutex_counter "/$id.count" 1000
    run mutex_counter
}

case_cond_bounded_buffer() {
    run cond_bounded_buffer 1000
    run cond_bounded_buffer
}

case_sem_then_mutex() {
    run sem_then_mutex "/$id.pool" 5 2
    run sem_then_mutex "/$id.pool" 3 1
}

# ---- pipe

case_pipe_greetings() {
    run pipe_greetings
    run pipe_greetings_textbook
}

case_pipe_two_way() {
    run pipe_two_way 60000 hello world
    run pipe_two_way 50 sulk
    run pipe_two_way 0 hello
}

case_fifo() {
    printf 'one line\nand another\n' >"$tmp/letters"
    run fifo_reader "$tmp/fifo" 60000 >"$tmp/reader" 2>&1 &
    run fifo_writer "$tmp/fifo" 60000 <"$tmp/letters"
    wait
    cat "$tmp/reader"
}

case_fifo_nobody() {
    run fifo_writer "$tmp/fifo" 50 </dev/null
    run fifo_reader "$tmp/fifo" 50
    ls "$tmp/fifo" 2>/dev/null
}

case_fifo_not_a_fifo() {
    : >"$tmp/file"
    run fifo_reader "$tmp/file" 50
}

case_parallel_sum() {
    run parallel_sum pipe
    run parallel_sum segment
    run parallel_sum
}

# ---- all of them

ok=0
failed=0
for name in $(sed -n 's/^case_\([a-z_]*\)().*/\1/p' check.sh); do
    [ -z "$ONLY" ] || [ "$ONLY" = "$name" ] || continue
    # Left out: names of this run, the library's details (it tests them itself), the shell's "Killed".
    (case_"$name") >"$tmp/raw" 2>&1
    sed -e "s/$id/ID/g" -e "s|$tmp|TMP|g" -e '/^    details: /d' -e '/Killed/d' "$tmp/raw" >"$tmp/got"
    [ -n "$UPDATE" ] && cp "$tmp/got" "golden/$name"
    if diff -u "golden/$name" "$tmp/got" >"$tmp/diff" 2>&1; then
        echo "ok $name"
        ok=$((ok + 1))
    else
        echo "FAIL $name"
        cat "$tmp/diff"
        failed=$((failed + 1))
    fi
    left=$(ls /dev/shm | grep "$id")
    if [ -n "$left" ]; then
        echo "FAIL $name left behind: $left"
        remove_leftovers
        failed=$((failed + 1))
    fi
done
echo "$ok ok, $failed failed"
[ $failed -eq 0 ]
