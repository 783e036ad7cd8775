// How many refusals are told, and the map in which that is counted: each set of programs has its own.
#pragma once

#include "kernel.h"

// The arrivals of disks so far, and how many of them did not fit; the refusals that were told in this second, and all that were not told.
struct counts {
	__u64 turns, lost, second, told, untold;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

static const __u32 zero = 0;

// How many refusals are told in a second, so that a program that tries again and again does not keep the agent busy.
#define MAX_TOLD 16

static inline_always int tells(void)
{
	struct counts *n = map_lookup(&counts, &zero);
	__u64 now = ktime() / 1000000000;

	if (!n)
		return 0;
	if (n->second != now) {
		n->second = now;
		n->told = 0;
	}
	if (__sync_fetch_and_add(&n->told, 1) < MAX_TOLD)
		return 1;
	__sync_fetch_and_add(&n->untold, 1);
	return 0;
}
