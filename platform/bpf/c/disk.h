// Which disks are external, and the maps in which that is kept: each set of programs has its own.
#pragma once

#include "tell.h"

#ifndef NOTES
#define NOTES(dev) // what has to be done before a disk is noted
#endif

// What is known of an external disk or a partition of one, by its device number.
struct disk {
	__u64 turn;  // counts the arrivals: another disk that gets the same number has another turn
	__u32 whole; // the disk's own number; a partition has its disk's
	__u32 fresh; // nobody can have opened it: it was refused from its arrival on
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct disk);
} disks SEC(".maps");

// Disks that may be opened nevertheless: the turn for which that was said. With the highest bit set, it was taken back.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 12);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} allowed SEC(".maps");

// How far up a disk's bus is looked for: a hub behind a dock behind a dock has some twenty.
#define MAX_PARENTS 40

static inline_always int is(const char *a, const char *b, int n)
{
	for (int i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

// external tells by where a disk hangs. platform/media/disk_linux.go asks sysfs the same questions.
static inline_always int external(struct gendisk *disk)
{
	struct block_device *part0 = READ(disk, part0);
	struct device *d = READ(part0, bd_device.parent);

	for (int i = 0; i < MAX_PARENTS && d; i++) {
		struct bus_type *bus = READ(d, bus);
		char name[12] = {};

		if (bus)
			read_kernel_text(name, sizeof(name), READ(bus, name));
		if (is(name, "usb", 4) || is(name, "firewire", 9))
			return 1;
		if (is(name, "mmc", 4))
			return READ(d, removable) != DEVICE_FIXED;
		if (is(name, "pci", 4) && READ(d, removable) == DEVICE_REMOVABLE)
			return 1;
		d = READ(d, parent);
	}
	return 0;
}

// came notes a disk or partition that is external; fresh if nobody can have opened it. It is called just before it can be opened.
static inline_always int came(struct block_device *bdev, __u32 dev, __u32 fresh)
{
	struct gendisk *disk = READ(bdev, bd_disk);
	struct block_device *part0 = READ(disk, part0);
	struct disk new = {}, *whole;
	struct counts *n = map_lookup(&counts, &zero);

	if (!n)
		return 0;
	if (part0 != bdev) {
		__u32 of = READ(part0, bd_dev);

		whole = map_lookup(&disks, &of);
		if (!whole) {
			map_delete(&disks, &dev);
			return 0;
		}
		new = *whole;
	} else if (external(disk)) {
		new.turn = __sync_fetch_and_add(&n->turns, 1) + 1;
		new.whole = dev;
		new.fresh = fresh;
	} else {
		map_delete(&disks, &dev);
		return 0;
	}
	NOTES(dev);
	if (map_update(&disks, &dev, &new, BPF_ANY))
		__sync_fetch_and_add(&n->lost, 1);
	return 0;
}

// exempt reports whether a disk is allowed in its present turn.
static inline_always int exempt(struct disk *d)
{
	__u64 *turn = map_lookup(&allowed, &d->whole);

	return turn && *turn == d->turn;
}
