// What keeps known sync clients from being started. platform/programs has the other side, and docs/decisions/0038 says why it is
// done here.
#include "tell.h"

char LICENSE[] SEC("license") = "GPL"; // reading the kernel's memory is for GPL programs alone

enum hook { EXEC, MAP, PROTECT, HOOKS };

#include "prove.h"

#define EPERM 1
#define PROT_READ 1
#define PROT_EXEC 4
#define READ_IMPLIES_EXEC 0x0400000
#define TEXT 32 // of a name, with a zero at its end
#define HEAD 256 // of a file: what the kernel reads before it starts one

// A client, by the name that the agent has for it.
struct client {
	char id[16];
};

// What the agent says.
struct config {
	__u32 on, pad;
	__u8 version[16]; // of this object
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

// The names of programs: whole ones with the zero at their end, and beginnings without.
struct name {
	__u32 bits;
	char text[TEXT];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 512);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name);
	__type(value, struct client);
} names SEC(".maps");

// Programs by what they are, whatever they are called: how large the file is, and a sum of its first bytes.
struct print {
	__u64 size, head;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct print);
	__type(value, struct client);
} prints SEC(".maps");

// Files that are such programs, for whoever runs them without starting them (the loader, with the program as its argument). The size
// is a part of it: another file can get the number later.
struct known {
	__u64 ino, size;
	__u32 dev, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct known);
	__type(value, struct client);
} files SEC(".maps");

// One refusal.
enum { NAME = 1, COPY, LOADED };

struct refusal {
	__u32 uid, pid, why, pad;
	struct client client;
	char file[TEXT], program[16];
};
_Static_assert(sizeof(struct refusal) == 80 && __builtin_offsetof(struct refusal, file) == 32, "platform/programs reads this form");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} refusals SEC(".maps");

static inline_always int on(void)
{
	struct config *c = map_lookup(&config, &zero);

	return c && c->on;
}

// refuse tells of a refusal, and is its answer.
static inline_always int refuse(struct client *c, struct name *name, __u32 why)
{
	struct task_struct *t = current_task();
	struct refusal *r;

	if (!tells())
		return -EPERM;
	r = ring_reserve(&refusals, sizeof(*r), 0);
	if (!r)
		return -EPERM;
	r->uid = (__u32)current_uid_gid();
	r->pid = READ(t, tgid);
	r->why = why;
	r->pad = 0;
	r->client = *c;
	__builtin_memcpy(r->file, name->text, TEXT);
	read_kernel(r->program, sizeof(r->program), __builtin_preserve_access_index(&t->comm));
	ring_submit(r, 0);
	return -EPERM;
}

// called finds a client by the name of its file, as the file system has it: not by the link through which it is started.
static inline_always struct client *called(struct file *f, struct name *name)
{
	struct dentry *d = f->f_path.dentry;

	read_kernel_text(name->text, TEXT, READ(d, d_name.name));
	name->bits = 8 * TEXT;
	return map_lookup(&names, name);
}

// A program is about to be started; or what interprets it, after it.
SEC("fmod_ret/security_bprm_check")
int cloud_exec(__u64 *ctx)
{
	struct linux_binprm *b = (void *)ctx[0];
	int ret = (int)ctx[1];
	struct name name = {};
	struct print print;
	struct client *c;
	struct file *f;
	__u64 head[HEAD / 8];

	if (ret)
		return ret;
	if (proving(EXEC) || !on())
		return 0;
	f = b->file;
	c = called(f, &name);
	if (c)
		return refuse(c, &name, NAME);
	print.size = f->f_inode->i_size;
	if (read_kernel(head, sizeof(head), b->buf))
		return 0;
	print.head = 0xcbf29ce484222325;
	for (int i = 0; i < HEAD / 8; i++)
		print.head = (print.head ^ head[i]) * 0x100000001b3;
	c = map_lookup(&prints, &print);
	return c ? refuse(c, &name, COPY) : 0;
}

// run answers for a file that is mapped to be run.
static inline_always int run(struct file *f)
{
	struct name name = {};
	struct known known = {};
	struct client *c = called(f, &name);
	struct inode *i;

	if (c)
		return refuse(c, &name, LOADED);
	i = f->f_inode;
	known.ino = i->i_ino;
	known.size = i->i_size;
	known.dev = i->i_sb->s_dev;
	c = map_lookup(&files, &known);
	return c ? refuse(c, &name, LOADED) : 0;
}

// A file is mapped: a library, or a program that the loader was given.
SEC("fmod_ret/security_mmap_file")
int cloud_map(__u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	int ret = (int)ctx[3];

	if (ret)
		return ret;
	if (!(ctx[1] & PROT_EXEC)) { // what a thread may read, it may run, if it has asked for that
		struct task_struct *t = current_task();

		if (!(ctx[1] & PROT_READ) || !(READ(t, personality) & READ_IMPLIES_EXEC))
			return 0;
	}
	if (proving(MAP) || !f || !on())
		return 0;
	return run(f);
}

// What is mapped already is made to be run.
SEC("fmod_ret/security_file_mprotect")
int cloud_protect(__u64 *ctx)
{
	struct vm_area_struct *vma = (void *)ctx[0];
	int ret = (int)ctx[3];
	struct file *f;

	if (ret || !(ctx[2] & PROT_EXEC))
		return ret;
	if (proving(PROTECT) || !on())
		return 0;
	f = vma->vm_file;
	return f ? run(f) : 0;
}
