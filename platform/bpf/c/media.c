// What keeps external disks from being opened: by a mount of any kind, by a program that reads the device itself, by whatever
// rests on another device. platform/media has the other side, and docs/decisions/0036 says why it is done here.
#include "disk.h"

char LICENSE[] SEC("license") = "GPL"; // reading the kernel's memory is for GPL programs alone

// One refusal.
struct refusal {
	__u64 turn;
	__u32 dev, whole, uid, pid;
	char name[16]; // of the program, as it calls itself
};
_Static_assert(sizeof(struct refusal) == 40 && __builtin_offsetof(struct refusal, name) == 24, "platform/media reads this form");

// What the agent says.
struct config {
	__u32 closed; // the disks are refused
	__u32 own_dev; // the agent's program, which empties disks
	__u64 own_ino;
	__u8 version[16]; // of this object
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} refusals SEC(".maps");

// media_came is called for each disk and partition just before it can be opened.
SEC("fentry/bdev_add")
int media_came(__u64 *ctx)
{
	struct config *c = map_lookup(&config, &zero);

	return c ? came((void *)ctx[0], (__u32)ctx[1], c->closed) : 0;
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

// media_open is asked whenever a device is opened: by its node, by a mount, by the kernel itself for one that rests on it.
SEC("cgroup/dev")
int media_open(struct bpf_cgroup_dev_ctx *ctx)
{
	__u32 dev = ctx->major << 20 | ctx->minor;
	struct task_struct *task;
	struct config *c;
	struct disk *d;
	struct refusal *r;

	if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_BLOCK ||
	    !(ctx->access_type >> 16 & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)))
		return 1; // making a node opens nothing
	d = map_lookup(&disks, &dev);
	c = map_lookup(&config, &zero);
	if (!d || !c || !c->closed)
		return 1;
	if (exempt(d))
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
