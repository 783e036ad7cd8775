// Which devices can be external, by a few bits of their numbers, so that a write to the machine's own disks costs no more than a look
// here. A set that includes this before disk.h has each disk marked before it is noted; a mark is never taken back.
#pragma once

#include "kernel.h"

#define MARKS 4096

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARKS);
	__type(key, __u32);
	__type(value, __u32);
} marks SEC(".maps");

// marked is where a device is in marks. platform/media computes the same.
static inline_always __u32 *marked(__u32 dev)
{
	__u32 at = (dev ^ dev >> 20) % MARKS;

	return map_lookup(&marks, &at);
}

static inline_always void mark(__u32 dev)
{
	__u32 *is = marked(dev);

	if (is)
		*is = 1;
}

#define NOTES(dev) mark(dev)
