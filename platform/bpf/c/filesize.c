// What keeps files on external disks from growing past a size. platform/media has the other side, and docs/decisions/0037 says why
// it is done here, and what each hook is for.
#include "marks.h"

#include "disk.h"

char LICENSE[] SEC("license") = "GPL"; // reading the kernel's memory is for GPL programs alone

enum hook { CAME, RESTS, WRITE, ALLOC, CLONE, ASK, CUT, OPEN, FLAGS, EXIT, HOOKS };

#include "prove.h"

// What the agent says.
struct config {
	__u32 on, pad;
	__u64 limit;	  // bytes
	__u8 version[16]; // of this object
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

// Programs that may write to a disk itself (ntfs-3g, fsck, cryptsetup; platform/media has the list): by their file.
struct program {
	__u64 ino;
	__u32 dev, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct program);
	__type(value, __u32);
} programs SEC(".maps");

// One refusal. Its path begins with a zero if there was no room; then file is its name.
enum { TOO_LARGE = 1, RAW, CORE };

struct refusal {
	__u64 turn, size;
	__u32 dev, whole, uid, pid, why, pad;
	char program[16], file[64], path[512];
};
_Static_assert(sizeof(struct refusal) == 632 && __builtin_offsetof(struct refusal, path) == 120, "platform/media reads this form");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 17);
} refusals SEC(".maps");

// What a thread is about to write to a file on an external disk, from the hook that knows how much to the one that can refuse.
struct doing {
	__u64 file;
	__u64 end;	// the size that the file would get at most; 0: it does not grow
	__u64 appended; // bytes that are counted in sums[slot] until the write is done
	__u64 grown;	// the same for a write at a position
	__u64 request;	// on whose behalf; 0 for a system call
	__u32 slot, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct doing);
} doing SEC(".maps");

// How much is being written to a file and would make it larger: several writes can be on their way at once, and each sees the size
// of before. Appends add up; writes at positions do not, but with appends. By a hash of the file: two that have the same count each
// other's, which matters only within those bytes of the limit.
#define SLOTS 4096

struct sums {
	__u64 appended, grown;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct sums);
} sums SEC(".maps");

// Which thread counts for a request (io_uring, AIO): the kernel can begin it in one and go on in another.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} requests SEC(".maps");

// External disks, partitions and what rests on them by the kernel's name: the one thing by which btrfs says where it is.
struct name {
	char text[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name);
	__type(value, __u32);
} names SEC(".maps");

// Files of file systems that pass on to others (overlay, FUSE), by inode: on which external device that one is. What is spliced into
// such a file is asked about there alone, since Linux 6.8.
struct passed {
	__u32 dev, of; // the external device; the file system of the inode, which with its number says that it is still the same
	__u64 ino;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct passed);
} passing SEC(".maps");

// Files that may have any size, by their names: steps from the file up to the root of its file system. Each leads from a state, with
// the name that is reached, to the next one; 0 is the file itself. At the root there is no name, but the disk and its turn.
struct step {
	__u64 turn;
	__u32 dev, at;
	char name[256];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 12);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct step);
	__type(value, __u32);
} excepted SEC(".maps");

#define MAX_DEPTH 32
#define ARRIVED (~0U)

#define BTRFS_SUPER_MAGIC 0x9123683e
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define FUSE_SUPER_MAGIC 0x65735546
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define FMODE_WRITE 2
#define MAY_WRITE 2
#define O_APPEND 02000
#define ATTR_SIZE 8
#define PF_DUMPCORE 0x200
#define RWF_NOAPPEND 0x20
#define MAX_STACK 65536
#define IOCB_APPEND 0x10 // and RWF_APPEND
#define FALLOC_FL_PUNCH_HOLE 0x02
#define FALLOC_FL_COLLAPSE_RANGE 0x08
#define FALLOC_FL_INSERT_RANGE 0x20
#define F_SETFL 4
#define LOOP_MAJOR 7
#define LOOP_SET_FD 0x4C00
#define LOOP_CHANGE_FD 0x4C06
#define LOOP_CONFIGURE 0x4C0A
#define EPERM 1
#define EFBIG 27

// where is the number of the device on which an inode's file system is; 0 if it is on none, or on none that is external.
static inline_always __u32 where(struct inode *i)
{
	struct super_block *sb = i->i_sb;
	struct block_device *bdev = sb->s_bdev;
	struct name name = {};
	__u32 *dev;

	if (bdev)
		return KEEP(bdev->bd_dev);
	if (sb->s_magic == OVERLAYFS_SUPER_MAGIC || sb->s_magic == FUSE_SUPER_MAGIC) {
		__u64 key = (__u64)i;
		struct passed *to = map_lookup(&passing, &key);

		return to && to->of == KEEP(sb->s_dev) && to->ino == KEEP(i->i_ino) ? KEEP(to->dev) : 0;
	}
	if (sb->s_magic != BTRFS_SUPER_MAGIC)
		return 0;
	read_kernel_text(name.text, sizeof(name.text), sb->s_id);
	dev = map_lookup(&names, &name);
	return dev ? KEEP(*dev) : 0;
}

// outside returns the external disk on which an inode's file system is, if it is on one.
static inline_always struct disk *outside(struct inode *i)
{
	__u32 dev = where(i), *is = marked(dev);

	return dev && is && *is ? map_lookup(&disks, &dev) : 0;
}

// on returns it if it is not exempt.
static inline_always struct disk *on(struct inode *i)
{
	struct disk *d = outside(i);

	return d && !exempt(d) ? d : 0;
}

// called keeps the name of a device that is external, and forgets the one of another.
static inline_always void called(struct block_device *bdev, __u32 dev)
{
	struct name name = {};

	read_kernel_text(name.text, sizeof(name.text), READ(bdev, bd_device.kobj.name));
	if (map_lookup(&disks, &dev))
		map_update(&names, &name, &dev, BPF_ANY);
	else
		map_delete(&names, &name);
}

// may_grow reports whether a file may have any size, by its entry in its directory. It is asked about what would be refused, alone.
static inline_never int may_grow(struct dentry *e, struct inode *i, __u32 dev, __u64 turn)
{
	struct step s = {};
	__u32 *next;

	if (READ(e, d_inode) != i) // the entry is another file system's (overlay)
		return 0;
	for (int n = 0; n <= MAX_DEPTH; n++) {
		struct dentry *up = READ(e, d_parent);

		__builtin_memset(s.name, 0, sizeof(s.name));
		if (up == e) {
			s.dev = dev;
			s.turn = turn;
		} else {
			read_kernel_text(s.name, sizeof(s.name), READ(e, d_name.name));
		}
		next = map_lookup(&excepted, &s);
		if (!next)
			return 0;
		if (up == e)
			return *next == ARRIVED;
		s.at = *next;
		e = up;
	}
	return 0;
}

// limit returns what the agent says; 0 while nothing is limited.
static inline_always struct config *limit(void)
{
	struct config *c = map_lookup(&config, &zero);

	return c && c->on ? c : 0;
}

// done ends what a thread has counted.
static inline_always void done(__u64 thread)
{
	struct doing *w = map_lookup(&doing, &thread);
	struct sums *n;
	__u32 slot;

	if (!w)
		return;
	if (w->appended || w->grown) {
		slot = w->slot;
		n = map_lookup(&sums, &slot);
		if (n) {
			__sync_fetch_and_add(&n->appended, -w->appended);
			__sync_fetch_and_add(&n->grown, -w->grown);
		}
	}
	map_delete(&doing, &thread);
}

// The files of two disks have the same numbers more often than not: they may not be neighbours here.
static inline_always __u32 slot_of(struct inode *i)
{
	return (__u32)((i->i_ino ^ (__u64)i->i_sb->s_dev << 32) * 0x9E3779B97F4A7C15ULL >> 32) % SLOTS;
}

// plan notes what a thread is about to do: the file would have this size at the end, or get so many bytes more. That is noted
// whether it matters or not: what is not noted is refused later, so that nothing passes that no hook has seen.
static inline_always int plan(struct file *f, struct inode *i, __u64 end, __u64 more, __u64 request)
{
	__u64 thread = pid_tgid(), size = i->i_size;
	struct doing w = {.file = (__u64)f, .request = request, .slot = slot_of(i)};
	struct sums *n;

	done(thread);
	if (request) { // the kernel can begin it in one thread and go on in another
		__u64 *other = map_lookup(&requests, &request), first;
		struct doing *same;

		if (other) {
			first = *other;
			same = map_lookup(&doing, &first);
			if (same && same->request == request)
				done(first);
		}
		map_update(&requests, &request, &thread, BPF_ANY);
	}
	n = map_lookup(&sums, &w.slot);
	if (!n)
		return 0;
	if (more) {
		w.appended = more;
		w.end = __sync_fetch_and_add(&n->appended, more) + KEEP(n->grown) + more;
		w.end += KEEP(i->i_size); // what has arrived meanwhile is counted twice, and never not at all
	} else if (end > size) {
		w.grown = end - size;
		__sync_fetch_and_add(&n->grown, w.grown);
		w.end = end + KEEP(n->appended);
	}
	if (map_update(&doing, &thread, &w, BPF_ANY)) { // then it is refused
		__sync_fetch_and_add(&n->appended, -w.appended);
		__sync_fetch_and_add(&n->grown, -w.grown);
	}
	return 0;
}

// call_flags are the flags of pwritev2, if a thread is in it; 0 in other calls.
static inline_always __u64 call_flags(struct task_struct *t)
{
	struct pt_regs *regs = task_regs(t);

	if (__builtin_preserve_field_info(((struct pt_regs___x86 *)0)->orig_ax, 2)) {
		struct pt_regs___x86 *r = (void *)regs;
		__u32 nr = (__u32)READ(r, orig_ax) & ~0x40000000;

		return nr == 328 ? READ(r, r9) : nr == 379 ? READ(r, bp) : nr == 547 ? READ(r, r8) : 0; // and of programs for 32 bits
	}
	if (__builtin_preserve_field_info(((struct pt_regs___arm *)0)->syscallno, 2)) {
		struct pt_regs___arm *r = (void *)regs;
		int nr = READ(r, syscallno);

		return nr == 287 || nr == 393 ? READ(r, regs[5]) : 0;
	}
	return 0;
}

// appends reports whether a write goes to the end of the file, wherever it says, and on behalf of which request (io_uring, AIO) it
// is: the position is a part of that, unless it is on the thread's own stack. The flags of a call pass every hook; they are read
// from the processor's registers.
static inline_always int appends(struct file *f, __u64 at, __u64 *request)
{
	struct task_struct *t = current_task_typed();
	struct kiocb *k = (void *)(at - __builtin_preserve_field_info(((struct kiocb *)0)->ki_pos, 0));
	__u64 flags;

	*request = 0;
	if (at - (__u64)t->stack >= MAX_STACK && READ(k, ki_filp) == f) {
		*request = (__u64)k;
		return !!(READ(k, ki_flags) & IOCB_APPEND);
	}
	flags = call_flags(t);
	return (f->f_flags & O_APPEND && !(flags & RWF_NOAPPEND)) || flags & IOCB_APPEND;
}

// helper reports whether the running program may write to disks themselves.
static inline_always int helper(void)
{
	struct mm_struct *mm = READ(current_task(), mm);
	struct file *f = mm ? READ(mm, exe_file) : 0;
	struct inode *i = f ? READ(f, f_inode) : 0;
	struct super_block *sb = i ? READ(i, i_sb) : 0;
	struct program p = {};

	if (!sb)
		return 0;
	p.ino = READ(i, i_ino);
	p.dev = READ(sb, s_dev);
	return map_lookup(&programs, &p) != 0;
}

// A disk or partition comes.
SEC("fentry/bdev_add")
int size_came(__u64 *ctx)
{
	if (proving(CAME))
		return 0;
	came((void *)ctx[0], (__u32)ctx[1], 1);
	called((void *)ctx[0], (__u32)ctx[1]);
	return 0;
}

// A disk gets another one that rests on it: device-mapper, md.
SEC("fentry/bd_link_disk_holder")
int size_rests(__u64 *ctx)
{
	struct block_device *bdev = (void *)ctx[0];
	struct gendisk *disk = (void *)ctx[1];
	__u32 below = bdev->bd_dev, dev = disk->part0->bd_dev;
	struct disk *d, new;

	if (proving(RESTS))
		return 0;
	d = map_lookup(&disks, &below);
	if (!d)
		return 0;
	new = *d;
	mark(dev);
	map_update(&disks, &dev, &new, BPF_ANY);
	called(disk->part0, dev);
	return 0;
}

// behind is the external disk on which a file of the running program lies, by its number there.
static inline_always struct disk *behind(__u32 fd)
{
	struct files_struct *files = current_task_typed()->files;
	struct fdtable *table = READ(files, fdt);
	struct file **list = READ(table, fd), *f = 0;
	struct super_block *sb;
	struct block_device *bdev;
	struct inode *i;
	struct name name = {};
	__u32 dev, *known;

	if (fd >= READ(table, max_fds) || read_kernel(&f, sizeof(f), list + fd) || !f)
		return 0;
	i = READ(f, f_inode);
	if ((READ(i, i_mode) & S_IFMT) == S_IFBLK) { // a disk, and no file
		dev = READ(i, i_rdev);
		return map_lookup(&disks, &dev);
	}
	sb = READ(i, i_sb);
	bdev = READ(sb, s_bdev);
	if (bdev) {
		dev = READ(bdev, bd_dev);
		return map_lookup(&disks, &dev);
	}
	if (READ(sb, s_magic) != BTRFS_SUPER_MAGIC)
		return 0;
	read_kernel_text(name.text, sizeof(name.text), __builtin_preserve_access_index(&sb->s_id));
	known = map_lookup(&names, &name);
	if (!known)
		return 0;
	dev = *known;
	return map_lookup(&disks, &dev);
}

// A file has become a disk (loop): it rests on the one on which the file is. Nothing is announced then, but by programs that happen to
// watch (Linux before 6.15).
static inline_always int loop(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	__u32 cmd = (__u32)ctx[1], fd = (__u32)ctx[2], dev;
	__u64 at = ARG(2);
	struct disk *d, new;
	struct inode *i;

	if ((cmd != LOOP_SET_FD && cmd != LOOP_CHANGE_FD && cmd != LOOP_CONFIGURE) || (int)ctx[3])
		return 0;
	if (cmd == LOOP_CONFIGURE && read_user(&fd, sizeof(fd), (void *)at))
		return 0; // the agent finds it
	dev = f->f_inode->i_rdev;
	if (dev >> 20 != LOOP_MAJOR)
		return 0;
	d = behind(fd);
	if (d) {
		new = *d;
		mark(dev);
		map_update(&disks, &dev, &new, BPF_ANY);
	} else {
		map_delete(&disks, &dev);
	}
	i = f->f_mapping->host;
	if (__builtin_preserve_field_info(((struct bdev_inode *)0)->vfs_inode, 2))
		called((void *)i - __builtin_preserve_field_info(((struct bdev_inode *)0)->vfs_inode, 0), dev);
	return 0;
}

SEC("fexit/blkdev_ioctl")
int size_loop(__u64 *ctx)
{
	return loop(ctx);
}

SEC("fexit/compat_blkdev_ioctl")
int size_loop_32(__u64 *ctx)
{
	return loop(ctx);
}

// A write of any kind: read or write, the file, where it begins, how many bytes.
SEC("fentry/rw_verify_area")
int size_write(__u64 *ctx)
{
	struct file *f = (void *)ctx[1];
	__u64 at = ctx[2], count = ctx[3], pos = 0, request;
	struct inode *i;

	if (!((__u32)ctx[0] & 1))
		return 0;
	if (proving(WRITE))
		return 0;
	i = f->f_inode;
	if ((i->i_mode & S_IFMT) != S_IFREG || !at || !outside(i))
		return 0;
	if (appends(f, at, &request))
		return plan(f, i, 0, count, request);
	read_kernel(&pos, sizeof(pos), (void *)at);
	return plan(f, i, pos + count, 0, request);
}

// Space is reserved: the file, how, from where, how much.
SEC("fentry/vfs_fallocate")
int size_alloc(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	__u64 mode = ARG(1), from = ARG(2), len = ARG(3);
	struct inode *i = f->f_inode;

	if (proving(ALLOC))
		return 0;
	if ((i->i_mode & S_IFMT) != S_IFREG || !outside(i))
		return 0;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE))
		return plan(f, i, 0, 0, 0);
	if (mode & FALLOC_FL_INSERT_RANGE)
		return plan(f, i, 0, len, 0);
	return plan(f, i, from + len, 0, 0);
}

// A part of a file becomes one of another, without being copied: from file and position to file and position, how much.
SEC("fentry/vfs_clone_file_range")
int size_clone(__u64 *ctx)
{
	struct file *from = (void *)ctx[0], *f = (void *)ctx[2];
	struct inode *i = f->f_inode;
	__u64 at = ARG(1), to = ARG(3), len = ARG(4);
	struct config *c = limit();

	if (proving(CLONE))
		return 0;
	if ((i->i_mode & S_IFMT) != S_IFREG || !outside(i))
		return 0;
	if (!len) { // up to the other's end, which can still move; that one is on the same file system, and under the same limit
		__u64 size = from->f_inode->i_size;

		if (to > at && c && size < c->limit)
			size = c->limit;
		len = size > at ? size - at : 0;
	}
	return plan(f, i, to + len, 0, 0);
}

// Parts of two files that are the same become one: nothing grows. From file and position to file and position, how much.
SEC("fentry/vfs_dedupe_file_range_one")
int size_same(__u64 *ctx)
{
	struct file *f = (void *)ctx[2];
	struct inode *i = f->f_inode;

	if (probe || (i->i_mode & S_IFMT) != S_IFREG || !outside(i))
		return 0;
	return plan(f, i, 0, 0, 0);
}

static inline_always void tell(struct file *f, struct dentry *e, struct disk *d, __u32 dev, __u64 size, __u32 why, int path)
{
	struct refusal *r;
	struct task_struct *task = current_task();

	if (!tells())
		return;
	r = ring_reserve(&refusals, sizeof(*r), 0);
	if (!r)
		return;
	r->turn = d->turn;
	r->whole = d->whole;
	r->size = size;
	r->dev = dev;
	r->uid = (__u32)current_uid_gid();
	r->pid = READ(task, tgid);
	r->why = why;
	r->pad = 0;
	r->path[0] = 0;
	read_kernel(r->program, sizeof(r->program), __builtin_preserve_access_index(&task->comm));
	read_kernel_text(r->file, sizeof(r->file), READ(e, d_name.name));
	if (path && d_path(&f->f_path, r->path, sizeof(r->path)) < 0)
		r->path[0] = 0;
	ring_submit(r, 0);
}

// raw answers for a disk itself that is written to, or opened for it.
static inline_always int raw(struct file *f, struct inode *i)
{
	__u32 dev = i->i_rdev;
	struct disk *d = map_lookup(&disks, &dev);

	if (!d || exempt(d) || !limit() || helper())
		return 0;
	tell(f, f->f_path.dentry, d, dev, 0, RAW, 1);
	return -EPERM;
}

// The answer to the hooks above: before a file is read or written, and for other reasons.
SEC("fmod_ret/security_file_permission")
int size_ask(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	int ret = (int)ctx[2];
	struct inode *i;
	struct disk *d;
	struct doing *w;
	struct config *c;
	__u64 thread, end, most;

	if (!((__u32)ctx[1] & MAY_WRITE) || ret)
		return ret;
	if (proving(ASK))
		return 0;
	i = f->f_inode;
	if ((i->i_mode & S_IFMT) == S_IFBLK) // open since before: now only what may be opened is open
		return raw(f, i);
	if ((i->i_mode & S_IFMT) != S_IFREG)
		return 0;
	d = outside(i);
	if (!d)
		return 0;
	thread = pid_tgid();
	c = limit();
	most = c ? c->limit : ~0ULL;
	if (exempt(d))
		most = ~0ULL;
	w = map_lookup(&doing, &thread);
	if (w && w->file == (__u64)f) {
		end = w->end;
		w->file = 0; // it was for this one
		if (end > most && may_grow(f->f_path.dentry, i, where(i), d->turn))
			most = ~0ULL;
		if (end > most || !(w->appended || w->grown))
			done(thread);
		if (end <= most)
			return 0;
	} else if (most == ~0ULL || may_grow(f->f_path.dentry, i, where(i), d->turn)) {
		return 0;
	} else {
		end = 0; // in a way that is not known here
	}
	tell(f, f->f_path.dentry, d, where(i), end, TOO_LARGE, 1);
	return -EFBIG;
}

// What was appended is part of the file's size now. Other ways of writing end with the thread's next one, or with the thread.
static inline_always int wrote(void)
{
	__u64 thread = pid_tgid();

	if (!probe)
		done(thread);
	return 0;
}

#define WROTE(call)                                                                                                     \
	SEC("fexit/" #call)                                                                                             \
	int size_##call(__u64 *ctx)                                                                                     \
	{                                                                                                               \
		return wrote();                                                                                         \
	}

WROTE(sys_writev)
WROTE(sys_pwritev)
WROTE(sys_pwritev2)
WROTE(sys_io_submit)
WROTE(io_write)

SEC("fexit/vfs_write")
int size_wrote(__u64 *ctx)
{
	return wrote();
}

SEC("fexit/vfs_fallocate")
int size_alloced(__u64 *ctx)
{
	return wrote();
}

SEC("tp_btf/sched_process_exit")
int size_exit(__u64 *ctx)
{
	if (proving(EXIT))
		return 0;
	done(pid_tgid());
	return 0;
}

// A file is given a size: its entry in its directory, and what is to change.
static inline_always int cut(struct dentry *e, struct iattr *a, int ret)
{
	struct inode *i;
	struct disk *d;
	struct config *c;
	struct sums *n;
	__u64 size;
	__u32 slot;

	if (ret || !(a->ia_valid & ATTR_SIZE))
		return ret;
	if (proving(CUT))
		return 0;
	i = e->d_inode;
	if ((i->i_mode & S_IFMT) != S_IFREG)
		return 0;
	d = on(i);
	c = limit();
	size = a->ia_size;
	if (!d || !c || size <= (__u64)i->i_size)
		return 0;
	slot = slot_of(i);
	n = map_lookup(&sums, &slot);
	if (n)
		size += KEEP(n->appended);
	if (size <= c->limit || may_grow(e, i, where(i), d->turn))
		return 0;
	tell(0, e, d, where(i), size, TOO_LARGE, 0);
	return -EFBIG;
}

// Since Linux 6.0.
SEC("fmod_ret/security_inode_setattr")
int size_cut(__u64 *ctx)
{
	return cut((void *)ctx[1], (void *)ctx[2], (int)ctx[3]);
}

// Before.
SEC("fmod_ret/security_inode_setattr")
int size_cut_2(__u64 *ctx)
{
	return cut((void *)ctx[0], (void *)ctx[1], (int)ctx[2]);
}

// pass notes that what is written to another file system's file goes to one on an external disk.
static inline_always void pass(struct inode *i, struct inode *outer)
{
	__u64 key = (__u64)outer;
	struct passed to = {.dev = where(i)};
	struct super_block *sb;

	if (!outer || outer == i)
		return;
	sb = READ(outer, i_sb);
	to.of = READ(sb, s_dev);
	to.ino = READ(outer, i_ino);
	map_update(&passing, &key, &to, BPF_ANY);
}

// A file is opened. An external disk itself is opened for writing by the programs that may do so, and no others: what is
// written there is in no file. And no core is dumped on one, because the kernel writes those without asking.
SEC("fmod_ret/security_file_open")
int size_open(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	int ret = (int)ctx[1];
	struct inode *i;
	struct disk *d;

	if (ret || !(f->f_mode & FMODE_WRITE))
		return ret;
	if (proving(OPEN))
		return 0;
	i = f->f_inode;
	if ((i->i_mode & S_IFMT) == S_IFBLK)
		return raw(f, i);
	if ((i->i_mode & S_IFMT) == S_IFREG && outside(i)) {
		pass(i, f->f_path.dentry->d_inode); // before Linux 6.5, the file has the path of the other file system
		if (__builtin_preserve_field_info(((struct backing_file *)0)->user_path, 2)) {
			// Which files are such ones is a flag that has moved; behind others, there is no entry of a directory.
			struct dentry *e = READ((struct backing_file *)f, user_path.dentry);

			pass(i, READ(e, d_inode));
		}
	}
	if ((i->i_mode & S_IFMT) != S_IFREG || !(current_task_typed()->flags & PF_DUMPCORE))
		return 0;
	d = on(i);
	if (!d || !limit())
		return 0;
	tell(f, f->f_path.dentry, d, where(i), 0, CORE, 1);
	return -EFBIG;
}

// Whether an open file is appended to is not changed while it is on an external disk: between our look at it and the kernel's, what
// was measured as the one could be written as the other.
SEC("fmod_ret/security_file_fcntl")
int size_flags(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	__u64 arg = ARG(2);
	int ret = (int)ctx[3];
	struct inode *i;
	struct disk *d;

	if (ret || (__u32)ctx[1] != F_SETFL)
		return ret;
	if (proving(FLAGS))
		return 0;
	i = f->f_inode;
	if (!((arg ^ f->f_flags) & O_APPEND) || (i->i_mode & S_IFMT) != S_IFREG)
		return 0;
	d = on(i);
	return d && limit() && !may_grow(f->f_path.dentry, i, where(i), d->turn) ? -EPERM : 0;
}
