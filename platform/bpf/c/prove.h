// How it is found out whether the kernel calls the programs: before this is included, HOOKS is how many hooks there are.
#pragma once

#include "kernel.h"

// When it is set, the programs do nothing but count that they were called by this process (platform/bpf/prove_linux.go).
volatile const __u32 probe = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

// ARG is an argument of the function at which a program runs.
#define ARG(n) KEEP(ctx[n])

static inline_always int proving(__u32 hook)
{
	if (!probe)
		return 0;
	if ((__u32)(pid_tgid() >> 32) == probe) {
		__u64 *n = map_lookup(&hits, &hook);

		if (n)
			__sync_fetch_and_add(n, 1);
	}
	return 1;
}
