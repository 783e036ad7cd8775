// What keeps external disks from being opened: by a mount of any kind, by a program that reads the device itself, by whatever
// rests on another device. platform/media has the other side, and docs/decisions/0036 says why it is done here.
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL"; // reading the kernel's memory is for GPL programs alone

// What is known of an external disk or a partition of one, by its device number.
struct disk {
	__u64 turn;  // counts the arrivals: another disk that gets the same number has another turn
	__u32 whole; // the disk's own number; a partition has its disk's
	__u32 fresh; // nobody can have opened it: it was refused from its arrival on
};

// One refusal.
struct refusal {
	__u64 turn;
	__u32 dev, whole, uid, pid;
	char name[16]; // of the program, as it calls itself
};

// What the agent says.
struct config {
	__u32 closed; // the disks are refused
	__u32 own_dev; // the agent's program, which empties disks
	__u64 own_ino;
	__u8 version[16]; // of this object
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

// The arrivals so far, and how many of them did not fit; the refusals that were told in this second, and all that were not told.
struct counts {
	__u64 turns, lost, second, told, untold;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} refusals SEC(".maps");

static const __u32 zero = 0;

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

// came is called for each disk and partition just before it can be opened.
SEC("fentry/bdev_add")
int media_came(__u64 *ctx)
{
	struct block_device *bdev = (void *)ctx[0];
	__u32 dev = (__u32)ctx[1];
	struct gendisk *disk = READ(bdev, bd_disk);
	struct block_device *part0 = READ(disk, part0);
	struct disk new = {}, *whole;
	struct counts *n = map_lookup(&counts, &zero);
	struct config *c = map_lookup(&config, &zero);

	if (!n || !c)
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
		new.fresh = c->closed;
	} else {
		map_delete(&disks, &dev);
		return 0;
	}
	if (map_update(&disks, &dev, &new, BPF_ANY))
		__sync_fetch_and_add(&n->lost, 1);
	return 0;
}

// ours reports whether this is the agent's own program, run by root.
static inline_always int ours(struct config *c, struct task_struct *t)
{
	struct mm_struct *mm = READ(t, mm);
	struct file *f = mm ? READ(mm, exe_file) : 0;
	struct inode *i = f ? READ(f, f_inode) : 0;
	struct super_block *sb = i ? READ(i, i_sb) : 0;

	return sb && (__u32)current_uid_gid() == 0 && c->own_ino && READ(i, i_ino) == c->own_ino && READ(sb, s_dev) == c->own_dev;
}

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

// media_open is asked whenever a device is opened: by its node, by a mount, by the kernel itself for one that rests on it.
SEC("cgroup/dev")
int media_open(struct bpf_cgroup_dev_ctx *ctx)
{
	__u32 dev = ctx->major << 20 | ctx->minor;
	struct task_struct *task;
	struct config *c;
	struct disk *d;
	__u64 *turn;
	struct refusal *r;

	if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_BLOCK ||
	    !(ctx->access_type >> 16 & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)))
		return 1; // making a node opens nothing
	d = map_lookup(&disks, &dev);
	c = map_lookup(&config, &zero);
	if (!d || !c || !c->closed)
		return 1;
	turn = map_lookup(&allowed, &d->whole);
	if (turn && *turn == d->turn)
		return 1;
	task = current_task();
	if (ours(c, task))
		return 1;
	if (!READ(task, mm) || !tells())
		return 0; // the kernel's own threads read partitions, which is nobody's news
	r = ring_reserve(&refusals, sizeof(*r), 0);
	if (r) {
		r->turn = d->turn;
		r->dev = dev;
		r->whole = d->whole;
		r->uid = (__u32)current_uid_gid();
		r->pid = READ(task, tgid); // there is a helper for this and the name, since Linux 6.1 alone
		read_kernel(r->name, sizeof(r->name), __builtin_preserve_access_index(&task->comm));
		ring_submit(r, 0);
	}
	return 0;
}
