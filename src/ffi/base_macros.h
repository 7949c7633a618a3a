/*
 * Timeouts in larger units: MDG_SECONDS(2), MDG_MILLISECONDS(500), MDG_SECONDS(0.5). They compute in
 * 64 bits, or as floating-point numbers. Without them, `seconds * 1000000000` with an int overflows from
 * 3 on, without a warning of the compiler, and is most likely negative then: no time limit.
 * A result below one nanosecond is MDG_NOWAIT, a negative one MDG_FOREVER.
 */
#define MDG_SECONDS(x) ((int64_t)((x) * (int64_t)1000000000))
#define MDG_MILLISECONDS(x) ((int64_t)((x) * (int64_t)1000000))
#define MDG_MICROSECONDS(x) ((int64_t)((x) * (int64_t)1000))
