#!/usr/bin/env python3
"""Shows that the models and tests notice what they are there for: makes the library wrong in one
place, in a copy of the source, and expects a named test to fail. docs/verification.md has the list.

usage: tests/mutants.py            all of them
       tests/mutants.py NAME...    these
       tests/mutants.py --check    only looks whether each one's text is found, exactly once
       tests/mutants.py --list     names, places and tests, as a table

A mutant whose text is not found exactly once no longer says anything: that is a failure, too. One
that does not compile proves nothing and fails as well.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MPMC, RECOVER = "src/ring/mpmc/mod.rs", "src/ring/mpmc/recover.rs"
REDELIVER = "src/ring/mpmc/redeliver.rs"
OVERWRITE, GATED = "src/ring/broadcast/overwrite.rs", "src/ring/broadcast/gated.rs"
STOPPROOF, SWEEP = "src/ring/stopproof/mod.rs", "src/ring/stopproof/recover.rs"
SPSC, STRAIGHT = "src/ring/spsc.rs", "src/ring/straight.rs"
EVENT, OPEN = "src/sync/event_count.rs", "src/object/open.rs"
WAIT, PERMITS = "src/sync/wait.rs", "src/sem/undo/memory.rs"
ARMING = "src/ring/arming.rs"


class Mutant:
    def __init__(self, name, what, file, caught_by, *changes):
        self.name, self.what, self.file = name, what, file
        self.caught_by, self.changes = caught_by, changes
        # A "model" is run under loom, a "unit" is a test of the library itself; else a test program.
        self.program, self.test = caught_by.split(" ", 1)


MUTANTS = [
    Mutant(
        "publish-relaxed", "an item's publication is not a release",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer",
        ("store(self.laps.full(position), Ordering::Release)",
         "store(self.laps.full(position), Ordering::Relaxed)")),
    Mutant(
        "free-relaxed", "freeing a cell is not a release",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer_at_one_cell",
        ("store(self.laps.next_free(position), Ordering::Release)",
         "store(self.laps.next_free(position), Ordering::Relaxed)")),
    Mutant(
        "look-relaxed", "looking at a cell is not an acquire",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer",
        ("self.memory.cell(position).load(Ordering::Acquire), position)",
         "self.memory.cell(position).load(Ordering::Relaxed), position)")),
    Mutant(
        "publish-before-payload", "a position is published before its item is written",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer",
        ("            unsafe { self.memory.write(position, items.add(i as usize * size)) };\n"
         "            self.publish(position);\n",
         "            self.publish(position);\n"
         "            unsafe { self.memory.write(position, items.add(i as usize * size)) };\n")),
    Mutant(
        "release-before-read", "a cell is freed before its item is copied out",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer_at_one_cell",
        ("                unsafe { self.memory.read(position, items.add(taken as usize * size)) };\n"
         "                self.free(position);\n",
         "                self.free(position);\n"
         "                unsafe { self.memory.read(position, items.add(taken as usize * size)) };\n")),
    Mutant(
        "intent-after-claim", "the intent is announced after the claim",
        MPMC, "model ring::mpmc::loom_models::a_killed_producer",
        ("                intent.store(Intent::new(position, run).0, Ordering::Release);\n", ""),
        ("                    Ok(_) => return Ok(Some(Run { position, count: run })),",
         "                    Ok(_) => {\n"
         "                        intent.store(Intent::new(position, run).0, Ordering::Release);\n"
         "                        return Ok(Some(Run { position, count: run }));\n"
         "                    }")),
    Mutant(
        "intent-cleared-early", "the intent is cleared before the publication",
        MPMC, "model ring::mpmc::loom_models::a_killed_producer",
        ("        for i in 0..run.count {\n            let position = run.position.wrapping_add(i);\n"
         "            // SAFETY: claimed just now; `i` is",
         "        self.memory.intent(me, End::Producer).store(Intent::NONE.0, Ordering::Release);\n"
         "        for i in 0..run.count {\n            let position = run.position.wrapping_add(i);\n"
         "            // SAFETY: claimed just now; `i` is")),
    Mutant(
        "intent-relaxed", "announcing the next position does not say that the last is finished",
        MPMC, "model ring::mpmc::loom_models::a_busy_producer_is_not_taken_for_nobody",
        ("intent.store(Intent::new(position, run).0, Ordering::Release)",
         "intent.store(Intent::new(position, run).0, Ordering::Relaxed)")),
    Mutant(
        "claim-relaxed", "the claim does not carry the intent along",
        MPMC, "model ring::mpmc::loom_models::a_killed_producer",
        ("                    Ordering::AcqRel,\n                    Ordering::Acquire,\n",
         "                    Ordering::Relaxed,\n                    Ordering::Relaxed,\n")),
    Mutant(
        "loser-keeps-intent", "who loses the race and gives up leaves its intent standing",
        MPMC, "model ring::mpmc::loom_models::a_killed_producer_at_one_cell",
        ("            if announced {\n", "            if announced && false {\n")),
    Mutant(
        "no-liveness-check", "a tombstone is put in the place of the living",
        RECOVER, "model ring::mpmc::loom_models::the_living_are_not_robbed",
        ("                if alive(index) {\n", "                if alive(index) && false {\n")),
    Mutant(
        "tombstone-frees", "a dead producer's cell is freed at once instead of skipped in order",
        RECOVER, "model ring::mpmc::loom_models::a_killed_producer",
        ("(self.laps.tombstone(position), None)", "(self.laps.next_free(position), None)")),
    Mutant(
        "resolve-stores", "recovery stores without comparing with what it had seen",
        RECOVER, "model ring::mpmc::loom_models::a_killed_mender",
        ("        if cell.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire).is_ok()\n"
         "            && let",
         "        cell.store(next, Ordering::Release);\n        if let")),
    Mutant(
        "second-taker-robbed", "a sweep takes back what another participant has taken since",
        REDELIVER, "model ring::mpmc::loom_models::redeliver::the_living_keep_what_they_have",
        ("Cell::Again(owner) if owner != index => false,", "Cell::Again(owner) if owner != index && false => false,")),
    Mutant(
        "second-taker-unnamed", "who takes an item that came back does not announce it",
        REDELIVER, "model ring::mpmc::loom_models::redeliver::a_killed_second_taker",
        ("            intent.store(Intent::new(position, 1).0, Ordering::Release);\n", "")),
    Mutant(
        "second-taker-stores", "an item that came back is taken without comparing",
        REDELIVER, "model ring::mpmc::loom_models::redeliver::a_killed_second_taker",
        ("if cell.compare_exchange(word, again, Ordering::AcqRel, Ordering::Acquire).is_ok() {",
         "if cell.swap(again, Ordering::AcqRel) != 0 {")),
    Mutant(
        "announced-once", "an item that a killed sweeper had returned is not announced by the next one",
        REDELIVER, "model ring::mpmc::loom_models::redeliver::a_killed_sweeper",
        ("            Cell::Returned => true,\n", "            Cell::Returned => false,\n")),
    Mutant(
        "settled-too-much", "a look in vain settles what was announced meanwhile, too",
        REDELIVER, "model ring::mpmc::loom_models::redeliver::a_second_death_beside_a_look_in_vain",
        ("        memory.settled().fetch_max(epoch, Ordering::AcqRel);\n",
         "        let epoch = memory.announced().load(Ordering::Acquire);\n"
         "        memory.settled().fetch_max(epoch, Ordering::AcqRel);\n")),
    Mutant(
        "end-too-early", "a stream ends while somebody has an item in hands that may come again",
        REDELIVER, "ring_redeliver the_stream_ends_when_nobody_has_anything",
        (".any(|index| index != me && self.has_in_hands(index))", ".any(|index| index != me && false)")),
    Mutant(
        "cleared-before-wake", "`armed` is cleared before anybody is woken",
        EVENT, "model sync::event_count::loom_models::a_killed_notifier_leaves_its_sleepers_to_the_next_light",
        ("        self.seq.fetch_add(2, Ordering::SeqCst);\n        if futex::wake(",
         "        let _ = self.armed.compare_exchange(armed, armed & HEAVY, Ordering::Relaxed, Ordering::Relaxed);\n"
         "        self.seq.fetch_add(2, Ordering::SeqCst);\n        if futex::wake(")),
    Mutant(
        "cleared-whatever-epoch", "a wake clears the tag of a later epoch, too",
        EVENT, "model sync::event_count::loom_models::clearing_is_by_epoch_light",
        ("            self.armed.compare_exchange(armed, armed & HEAVY, Ordering::Relaxed, Ordering::Relaxed);",
         "            self.armed.swap(armed & HEAVY, Ordering::Relaxed);")),
    Mutant(
        "no-membarrier", "a sleeper looks again without a barrier",
        EVENT, "model sync::event_count::loom_models::a_sleeper_is_woken_light",
        ("if membarrier::barrier().is_ok() {", "if membarrier::barrier().is_ok() || true {"),
        ("        if seen & HEAVY != 0 {\n            // Pairs with the fence in `serve`.",
         "        if seen & HEAVY == 0 {\n            return Ticket { epoch, longest: slice };\n        }\n"
         "        if seen & HEAVY != 0 {\n            // Pairs with the fence in `serve`.")),
    Mutant(
        "no-fence-in-arm", "a sleeper that cannot use membarrier looks again without a fence",
        EVENT, "model sync::event_count::loom_models::a_sleeper_is_woken_heavy",
        ("            fence(Ordering::SeqCst);\n            return Ticket { epoch, longest: slice };",
         "            return Ticket { epoch, longest: slice };")),
    Mutant(
        "no-fence-in-wake", "a notifier that must fence does not",
        EVENT, "model sync::event_count::loom_models::a_sleeper_is_woken_heavy",
        ("            fence(Ordering::SeqCst);\n            armed = self.armed", "            armed = self.armed")),
    Mutant(
        "wake-without-seq", "a wake does not move the futex word",
        EVENT, "model sync::event_count::loom_models::a_sleeper_is_woken_light",
        ("its lock.\n        self.seq.fetch_add(2, Ordering::SeqCst);\n", "its lock.\n")),
    Mutant(
        "no-look-after-arming", "a wait sleeps without a look after it has armed",
        WAIT, "model sync::event_count::loom_models::a_sleeper_is_woken_light",
        ("        let ticket = event.arm(SLICE);\n        if let Some(done) = attempt()? {\n"
         "            return Ok(done);\n        }\n",
         "        let ticket = event.arm(SLICE);\n")),
    Mutant(
        "deaf-wait", "a wait takes no notice of an interruption before it sleeps",
        WAIT, "unit sync::wait::tests::an_interruption_at_any_attempt_ends_the_wait",
        ("        if HEEDS {\n            interrupt::check()?;", "        if false {\n            interrupt::check()?;"),
        ("    if interrupt::take() || sleep == Wake::Interrupted {",
         "    if sleep == Wake::Interrupted {")),
    Mutant(
        "rearm-without-look", "a call that arms its descriptor does not look at the ring again",
        ARMING, "model ring::arming::loom_models::two_notifiers_and_a_waiter_light",
        ("    let found = attempt();\n", "    drop(attempt);\n    let found: Result<Option<T>> = Ok(None);\n")),
    Mutant(
        "clear-whatever-arming", "a notifier clears an arming that came after its touch",
        ARMING, "model ring::arming::loom_models::two_notifiers_and_a_waiter_light",
        ("Err(now) if now & !FLAGS == arming && now & end != 0 => seen = now,",
         "Err(now) if arming <= u32::MAX && now & end != 0 => seen = now,")),
    Mutant(
        "clear-before-touch", "a notifier clears an arming before it touches the file",
        ARMING, "model ring::arming::loom_models::a_killed_notifier_leaves_its_waiters_to_the_next_light",
        ("        if !touch() {\n            return false;\n        }\n"
         "        armed.iter().flatten().for_each(|&(word, seen)| clear(word, seen, end));\n",
         "        armed.iter().flatten().for_each(|&(word, seen)| clear(word, seen, end));\n"
         "        if !touch() {\n            return false;\n        }\n")),
    Mutant(
        "tail-relaxed", "the commit of a one-to-one ring is not a release",
        SPSC, "model ring::spsc::loom_models::one_by_one",
        ("self.control().tail.0.store(index, Ordering::Release)",
         "self.control().tail.0.store(index, Ordering::Relaxed)")),
    Mutant(
        "recent-not-reset", "what a dead producer has left beside the index is believed",
        SPSC, "model ring::spsc::loom_models::a_killed_producer_one_by_one_and_a_run",
        ("        tail.1.after.store(index.wrapping_sub(1), Ordering::Release);\n", "")),
    Mutant(
        "recent-word-relaxed", "a copy beside the index is not stored with release order",
        SPSC, "model ring::spsc::loom_models::one_by_one_with_room",
        ("recent.words[(index & 1) as usize].store(word, Ordering::Release)",
         "recent.words[(index & 1) as usize].store(word, Ordering::Relaxed)")),
    Mutant(
        "recent-no-second-look", "a copy beside the index is believed without a second look at it",
        SPSC, "model ring::spsc::loom_models::one_by_one_with_room",
        ("(tail.0.load(Ordering::Acquire) == after).then_some(word)", "Some(word)")),
    Mutant(
        "head-relaxed", "the producer's look at the head is not an acquire",
        SPSC, "model ring::spsc::loom_models::one_by_one_in_one_slot",
        ("let head = self.control().head.0.load(Ordering::Acquire);\n        let used",
         "let head = self.control().head.0.load(Ordering::Relaxed);\n        let used")),
    Mutant(
        "free-before-copy-out", "slots are given back before the items are copied out",
        SPSC, "model ring::spsc::loom_models::one_by_one",
        ("        // SAFETY: the slot is the consumer's until it is freed; the caller vouches for the buffer.\n",
         "        self.free(side, index.wrapping_add(1));\n        side.index.set(index);\n"
         "        // SAFETY: the slot is the consumer's until it is freed; the caller vouches for the buffer.\n")),
    Mutant(
        "commit-before-copy-in", "items are committed before they are copied in",
        SPSC, "model ring::spsc::loom_models::one_by_one",
        ("        // SAFETY: the slot is the producer's until the commit; the caller vouches for the item.\n",
         "        self.commit(side, index.wrapping_add(1));\n        side.index.set(index);\n"
         "        // SAFETY: the slot is the producer's until the commit; the caller vouches for the item.\n")),
    Mutant(
        "straight-push-intent-after-claim", "the straight push announces its intent after the claim",
        MPMC, "model ring::mpmc::loom_models::a_producer_killed_on_the_straight_way",
        ("            intent.store(Intent::new(position, 1).0, Ordering::Release);\n"
         "            let next = position.wrapping_add(1);\n            let claimed =\n"
         "                tail.compare_exchange",
         "            let next = position.wrapping_add(1);\n            let claimed =\n"
         "                tail.compare_exchange"),
        ("                    // SAFETY: claimed just now; the caller vouches for the item and its size.\n",
         "                    intent.store(Intent::new(position, 1).0, Ordering::Release);\n"
         "                    // SAFETY: claimed just now; the caller vouches for the item and its size.\n")),
    Mutant(
        "straight-pop-intent-after-claim", "the straight pop announces its intent after the claim",
        MPMC, "model ring::mpmc::loom_models::a_consumer_killed_on_the_straight_way",
        ("            intent.store(Intent::new(position, 1).0, Ordering::Release);\n"
         "            let next = position.wrapping_add(1);\n            let claimed =\n"
         "                head.compare_exchange",
         "            let next = position.wrapping_add(1);\n            let claimed =\n"
         "                head.compare_exchange"),
        ("                    // SAFETY: claimed just now; the caller vouches for the buffer and its size.\n",
         "                    intent.store(Intent::new(position, 1).0, Ordering::Release);\n"
         "                    // SAFETY: claimed just now; the caller vouches for the buffer and its size.\n")),
    Mutant(
        "straight-publish-before-payload", "the straight push publishes before the item is written",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer",
        ("                    // SAFETY: claimed just now; the caller vouches for the item and its size.\n",
         "                    cell.store(Laps::filled(free), Ordering::Release);\n"
         "                    // SAFETY: claimed just now; the caller vouches for the item and its size.\n"),
        ("                    // As `publish` does.\n"
         "                    cell.store(Laps::filled(free), Ordering::Release);\n", "")),
    Mutant(
        "straight-publish-relaxed", "the straight push's publication is not a release",
        MPMC, "model ring::mpmc::loom_models::two_producers_and_a_consumer",
        ("store(Laps::filled(free), Ordering::Release)", "store(Laps::filled(free), Ordering::Relaxed)")),
    Mutant(
        "straight-free-before-read", "the straight pop frees the cell before the item is copied out",
        MPMC, "model ring::mpmc::loom_models::a_consumer_killed_on_the_straight_way",
        ("                    // SAFETY: claimed just now; the caller vouches for the buffer and its size.\n",
         "                    cell.store(Laps::emptied(full), Ordering::Release);\n"
         "                    // SAFETY: claimed just now; the caller vouches for the buffer and its size.\n"),
        ("                    // As `free` does.\n"
         "                    cell.store(Laps::emptied(full), Ordering::Release);\n", "")),
    Mutant(
        "straight-free-relaxed", "the straight pop's freeing of a cell is not a release",
        MPMC, "model ring::mpmc::loom_models::a_consumer_killed_on_the_straight_way",
        ("store(Laps::emptied(full), Ordering::Release)", "store(Laps::emptied(full), Ordering::Relaxed)")),
    Mutant(
        "straight-loser-keeps-intent", "who loses the race on the straight way leaves its intent standing",
        MPMC, "model ring::mpmc::loom_models::a_killed_producer_beside_a_straight_one_at_one_cell",
        ("                    cell.store(Laps::filled(free), Ordering::Release);\n"
         "                    return true;\n                }\n"
         "                Err(now) => position = now,\n            }\n"
         "            intent.store(Intent::NONE.0, Ordering::Release);\n",
         "                    cell.store(Laps::filled(free), Ordering::Release);\n"
         "                    return true;\n                }\n"
         "                Err(now) => position = now,\n            }\n")),
    Mutant(
        "straight-after-shutdown", "a straight push does not look whether the ring was shut down",
        STRAIGHT, "ring_mpmc shutdown_drains",
        ("if !seat.push.is_free() || control.flags.0.load(Ordering::Relaxed) != 0 {",
         "let _ = control;\n        if !seat.push.is_free() {")),
    Mutant(
        "look-again-after-shutdown", "a pop that looks again does not look whether the ring was shut down",
        STRAIGHT, "ring shutdown",
        ("            || control.flags.0.load(Ordering::Acquire) != 0\n            || self.is_cut",
         "            || { let _ = control; false }\n            || self.is_cut")),
    Mutant(
        "moment-without-cancellation", "a call that waits for a moment does not look whether it was cancelled",
        STRAIGHT, "wait_cancel cancelling_a_busy_exchange",
        ("                0 if self.hot().calls.is_cancelled() => return None,\n", ""),
        ("turns == 0 || self.hot().calls.is_cancelled() || self", "turns == 0 || self")),
    Mutant(
        "empty-without-index", "a pop that polls never looks whether somebody has claimed the next position",
        MPMC, "ring_mpmc the_hole_of_a_dead_producer_is_skipped",
        ("self.memory.tail().load(Ordering::Relaxed) == head", "true")),
    Mutant(
        "word-look-relaxed", "the straight pop's look at a cell is not an acquire",
        MPMC, "model ring::mpmc::loom_models::a_producer_and_two_consumers",
        ("            if cell.load(Ordering::Acquire) != full {", "            if cell.load(Ordering::Relaxed) != full {")),
    Mutant(
        "seen-relaxed", "a consumer's look at the tail is not an acquire",
        SPSC, "model ring::spsc::loom_models::one_by_one_with_room",
        ("let tail = self.control().tail.0.load(Ordering::Acquire);\n        let there",
         "let tail = self.control().tail.0.load(Ordering::Relaxed);\n        let there")),
    Mutant(
        "word-commit-before-copy-in", "an item of eight bytes is committed before it is copied in",
        SPSC, "model ring::spsc::loom_models::one_by_one_in_one_slot",
        ("        // SAFETY: as in `push_one`; the masked index is below the capacity.\n",
         "        self.commit(side, index.wrapping_add(1));\n"
         "        // SAFETY: as in `push_one`; the masked index is below the capacity.\n")),
    Mutant(
        "word-free-before-copy-out", "the slot of an item of eight bytes is given back before the copy",
        SPSC, "model ring::spsc::loom_models::two_by_one_look",
        ("        // SAFETY: as in `pop_one`; the masked index is below the capacity.\n",
         "        self.free(side, index.wrapping_add(1));\n"
         "        // SAFETY: as in `pop_one`; the masked index is below the capacity.\n")),
    Mutant(
        "overwrite-no-fence", "a cell's item may be seen before the word that says it is being written",
        OVERWRITE, "model ring::broadcast::loom_models::overwriting::an_overtaken_copy",
        ("        fence(Ordering::Release);\n", "")),
    Mutant(
        "overwrite-no-second-look", "a copy is believed without a second look at the cell's word",
        OVERWRITE, "model ring::broadcast::loom_models::overwriting::an_overtaken_copy",
        ("                if self.is_still(at) {\n", "                if self.is_still(at) || true {\n")),
    Mutant(
        "overwrite-commit-relaxed", "the commit of an overwriting broadcast is not a release",
        OVERWRITE, "model ring::broadcast::loom_models::overwriting::a_lapped_reader",
        ("store(holds(position), Ordering::Release)", "store(holds(position), Ordering::Relaxed)")),
    Mutant(
        "overwrite-tail-first", "the tail moves before the commit",
        OVERWRITE, "model ring::broadcast::loom_models::overwriting::a_killed_producer_and_one_item_of_the_next",
        ("        self.memory.word(position).store(holds(position), Ordering::Release);\n"
         "        let next = position.wrapping_add(1);\n"
         "        self.memory.tail().store(next, Ordering::Release);\n",
         "        let next = position.wrapping_add(1);\n"
         "        self.memory.tail().store(next, Ordering::Release);\n"
         "        self.memory.word(position).store(holds(position), Ordering::Release);\n")),
    Mutant(
        "join-no-fence", "a consumer of a gated broadcast joins without a fence",
        GATED, "model ring::broadcast::loom_models::gating::joining_at_the_oldest",
        ("        // Pairs with the fence in `reclaim`: invariant 2.\n        fence(Ordering::SeqCst);\n", "")),
    Mutant(
        "reclaim-no-fence", "the producer looks at the cursors again without a fence",
        GATED, "model ring::broadcast::loom_models::gating::joining_at_the_oldest",
        ("        // Pairs with the fence in `join`: invariant 2.\n        fence(Ordering::SeqCst);\n", "")),
    Mutant(
        "reclaim-looks-once", "the producer does not look at the cursors again",
        GATED, "model ring::broadcast::loom_models::gating::joining_at_the_oldest",
        ("        let again = self.farthest(tail);\n", "        let again = slowest;\n")),
    Mutant(
        "cursor-relaxed", "giving back what was read is not a release",
        GATED, "model ring::broadcast::loom_models::gating::two_readers_of_one_cell",
        ("        self.memory.cursor(me).store(next, Ordering::Release);",
         "        self.memory.cursor(me).store(next, Ordering::Relaxed);")),
    Mutant(
        "eviction-unnoticed", "a consumer believes a copy without a look whether it was evicted",
        GATED, "model ring::broadcast::loom_models::gating::an_evicted_reader_of_one_cell",
        ("        if self.evict && self.is_evicted(me) {\n            let lost = self.join_again(me, grip);\n"
         "            // 0:",
         "        if false {\n            let lost = self.join_again(me, grip);\n            // 0:")),
    Mutant(
        "eviction-no-fence", "a consumer looks whether it was evicted without a fence after the copy",
        GATED, "model ring::broadcast::loom_models::gating::an_evicted_reader_of_one_cell",
        ("        fence(Ordering::Acquire);\n        self.memory.reader(me)", "        self.memory.reader(me)")),
    Mutant(
        "evict-plain-copy", "items of a broadcast that evicts are copied by plain accesses",
        GATED, "model ring::broadcast::loom_models::gating::an_evicted_reader_of_one_cell",
        ("        if self.evict {\n            for i in 0..room {", "        if false {\n            for i in 0..room {"),
        ("            if WORD && self.evict {\n", "            if WORD && false {\n"),
        ("self.memory.read(position.wrapping_add(i), items.add(i as usize * size));",
         "self.memory.read_run(position.wrapping_add(i), items.add(i as usize * size), 1);")),
    Mutant(
        "last-reader-no-fence", "of two consumers that free the same cell neither sees the other",
        GATED, "model ring::broadcast::loom_models::gating::the_last_of_two_readers_wakes_the_producer_heavy",
        ("        // tail is the one it sleeps at; if after, it has found this cursor itself.\n"
         "        fence(Ordering::SeqCst);\n",
         "")),
    Mutant(
        "bury-whoever", "who buries takes out the next owner of a dead one's slot, too",
        GATED, "model ring::broadcast::loom_models::gating::a_killed_reader_and_the_next_in_its_slot",
        ("self.memory.generation(me) << 2 | HERE", "HERE")),
    Mutant(
        "pop-by-store", "a consumer of a stop-proof ring takes a cell without comparing",
        STOPPROOF, "model ring::stopproof::loom_models::a_producer_and_two_consumers_with_room_for_one",
        ("                    .compare_exchange(seen, next(head), Ordering::SeqCst, Ordering::SeqCst)\n"
         "                    .is_ok();",
         "                    .swap(next(head), Ordering::SeqCst) != 0;")),
    Mutant(
        "emptied-before-pop", "a place is emptied before its item is popped",
        STOPPROOF, "model ring::stopproof::loom_models::a_killed_consumer_with_room_for_one",
        ("            let seen = self.cell(cell)?;\n", "            let seen = self.cell(cell)?;\n"
         "            self.retire(head, word);\n")),
    Mutant(
        "permit-relaxed", "replacing a semaphore's word is no release",
        PERMITS, "model sem::undo::loom_models::a_killed",
        ("(Ordering::AcqRel, Ordering::Acquire)", "(Ordering::Acquire, Ordering::Acquire)")),
    Mutant(
        "no-help", "a producer does not move a tail that somebody left behind",
        STOPPROOF, "model ring::stopproof::loom_models::a_killed_producer",
        ("                (_, Place::Holds(_) | Place::Past) => Self::step(self.memory.tail(), tail),\n"
         "                (word, Place::Behind(cell))",
         "                (_, Place::Holds(_) | Place::Past) => return Ok(false),\n"
         "                (word, Place::Behind(cell))")),
    Mutant(
        "grant-unlooked", "room is granted without a look whether the place at the tail is empty",
        STOPPROOF, "unit ring::stopproof::interleaved::two_participants_in_every_order",
        ("            if !self.has_room_before(tail)? {\n                return Ok(false);\n            }\n",
         "            if true {\n                return self.has_room_before(tail);\n            }\n")),
    Mutant(
        "full-by-head", "a ring counts as full while `head` is behind",
        STOPPROOF, "unit ring::stopproof::interleaved::two_participants_in_every_order",
        ("            Place::Past => Ok(true),\n"
         "            Place::Holds(cell) => Ok(!is_offered_at(self.cell(cell)?, oldest)),\n",
         "            Place::Past | Place::Holds(_) => Ok(false),\n")),
    Mutant(
        "room-once", "a push does not look for room again at the position that it gets",
        STOPPROOF, "unit ring::stopproof::interleaved::two_participants_in_every_order",
        ("                    if bounded && !self.has_room_before(tail)? {\n",
         "                    if bounded && false {\n")),
    Mutant(
        "cell-free-relaxed", "freeing a cell of the pool is not a release",
        STOPPROOF, "model ring::stopproof::loom_models::a_cell_is_used_again",
        ("store(FREE, Ordering::Release)", "store(FREE, Ordering::Relaxed)")),
    Mutant(
        "offered-after-place", "a cell is offered after its number is in its place",
        STOPPROOF, "model ring::stopproof::loom_models::a_killed_producer_with_room_for_one",
        ("                    self.memory.cell(cell).store(offered(tail, me), Ordering::Release);\n", ""),
        ("                        Self::step(self.memory.tail(), tail);\n                        return Ok(true);\n",
         "                        self.memory.cell(cell).store(offered(tail, me), Ordering::Release);\n"
         "                        Self::step(self.memory.tail(), tail);\n                        return Ok(true);\n")),
    Mutant(
        "sweep-queued", "a sweep frees what its dead owner had pushed",
        SWEEP, "model ring::stopproof::loom_models::a_sweep_beside_a_consumer",
        ("if owner == index && !self.is_queued(cell, low) => false", "if owner == index => false")),
    Mutant(
        "no-name-check", "an object is opened though its name leads elsewhere by now",
        OPEN, "ring_stopped_opener the_name_is_looked_at_again",
        ("if named::still_names(path, &status) { built.map(Some) } else { Ok(None) }",
         "let _ = named::still_names(path, &status);\n        built.map(Some)")),
]


def run(command, tree, program):
    environment = dict(os.environ, CARGO_TERM_COLOR="never")
    target = pathlib.Path(environment.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    environment["CARGO_TARGET_DIR"] = str(target / "mutants" / ("loom" if program == "model" else "real"))
    environment["CARGO_PROFILE_RELEASE_DEBUG"] = "false"
    environment["CARGO_INCREMENTAL"] = "0"
    environment["RUSTFLAGS"] = "--cfg loom -Awarnings" if program == "model" else "-Awarnings"
    try:
        return subprocess.run(command, cwd=tree, env=environment, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(command, 124, str(late.stdout or ""))


class NotOnce(Exception):
    pass


def changed(mutant, text):
    """The file with the mutant's changes."""
    for old, new in mutant.changes:
        if text.count(old) != 1:
            raise NotOnce(f"found {text.count(old)} times in {mutant.file}, not once: {old.strip()[:70]!r}")
        text = text.replace(old, new)
    return text


def check():
    troubles = 0
    for mutant in MUTANTS:
        try:
            changed(mutant, (ROOT / mutant.file).read_text())
        except NotOnce as trouble:
            print(f"{mutant.name}: {trouble}")
            troubles += 1
    print(f"{len(MUTANTS) - troubles} of {len(MUTANTS)} are found once")
    return 1 if troubles else 0


def caught(mutant, tree):
    """None if the mutant was caught, else what went wrong."""
    path = tree / mutant.file
    original = path.read_text()
    try:
        path.write_text(changed(mutant, original))
    except NotOnce as trouble:
        return str(trouble)
    try:
        kinds = {"model": ["--release", "--lib"], "unit": ["--lib"]}
        which = kinds.get(mutant.program, ["--test", mutant.program])
        cargo = ["cargo", "test", "--locked", *which]
        built = run([*cargo, "--no-run"], tree, mutant.program)
        if built.returncode != 0:
            return "does not compile:\n" + built.stdout[-3000:]
        tested = run([*cargo, mutant.test], tree, mutant.program)
        if tested.returncode == 124:
            return "its test does not end"
        if "running 0 tests" in tested.stdout or "\nrunning " not in tested.stdout:
            return f"no such test: {mutant.test}"
        if tested.returncode == 0:
            return f"NOT CAUGHT by {mutant.test}"
        return None
    finally:
        path.write_text(original)


def main():
    if sys.argv[1:] == ["--check"]:
        return check()
    if sys.argv[1:] == ["--list"]:
        for mutant in MUTANTS:
            inside = mutant.program in ("model", "unit")
            test = mutant.test if inside else f"tests/{mutant.program}.rs {mutant.test}"
            print(f"| `{mutant.name}` | {mutant.what} | `{mutant.file}` | `{test}` |")
        return 0
    names = sys.argv[1:] or [mutant.name for mutant in MUTANTS]
    chosen = {mutant.name: mutant for mutant in MUTANTS}
    failures = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = pathlib.Path(scratch) / "tree"
        tree.mkdir()
        for part in ["src", "tests", "include"]:
            shutil.copytree(ROOT / part, tree / part)
        for part in ["Cargo.toml", "Cargo.lock", "build.rs"]:
            shutil.copy2(ROOT / part, tree / part)
        for name in names:
            start = time.monotonic()
            trouble = caught(chosen[name], tree)
            print(f"{name}: {trouble or 'caught'} ({time.monotonic() - start:.0f} s)", flush=True)
            failures += trouble is not None
    print(f"{len(names) - failures} of {len(names)} caught")
    return 1 if failures else 0


sys.exit(main())
