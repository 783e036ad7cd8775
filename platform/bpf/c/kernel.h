// The parts of the kernel's types that our programs read, and the helpers they call. Only the names count: where a field is
// on the running kernel is filled in when a program is loaded (CO-RE).
#pragma once

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define inline_always inline __attribute__((always_inline))
#define inline_never __attribute__((noinline)) // with a stack of its own

// A map is described by the types of these fields (Documentation/bpf/btf.rst).
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

struct task_struct;
struct path;
struct pt_regs;

// Numbers of the helpers: include/uapi/linux/bpf.h.
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*current_uid_gid)(void) = (void *)BPF_FUNC_get_current_uid_gid;
static __u64 (*ktime)(void) = (void *)BPF_FUNC_ktime_get_ns;
static struct task_struct *(*current_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_user)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
static long (*read_kernel_text)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;
static void *(*ring_reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static __u64 (*pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static struct task_struct *(*current_task_typed)(void) = (void *)BPF_FUNC_get_current_task_btf;
static struct pt_regs *(*task_regs)(struct task_struct *) = (void *)BPF_FUNC_task_pt_regs;
static long (*d_path)(struct path *path, char *to, __u32 size) = (void *)BPF_FUNC_d_path;
static void (*ring_submit)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;

// KEEP has the compiler compute a value where it stands. It merges reads of the same offset otherwise, also of a field of the kernel's
// and of a map's value, which the kernel refuses.
#define KEEP(value)                                                                                                     \
	({                                                                                                              \
		typeof(value) v_ = (value);                                                                             \
		asm volatile("" : "+r"(v_));                                                                            \
		v_;                                                                                                     \
	})

// READ reads a field of the kernel's where it is on the running kernel; 0 if it cannot be read.
#define READ(ptr, field)                                                                                                \
	({                                                                                                              \
		typeof((ptr)->field) v_;                                                                                \
		__builtin_memset(&v_, 0, sizeof(v_));                                                                   \
		read_kernel(&v_, sizeof(v_), __builtin_preserve_access_index(&(ptr)->field));                            \
		v_;                                                                                                     \
	})

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

enum device_removable {
	DEVICE_REMOVABLE_NOT_SUPPORTED = 0,
	DEVICE_REMOVABLE_UNKNOWN,
	DEVICE_FIXED,
	DEVICE_REMOVABLE,
};

struct bus_type {
	const char *name;
};

struct kobject {
	const char *name;
};

struct device {
	struct kobject kobj;
	struct device *parent;
	struct bus_type *bus;
	enum device_removable removable;
};

struct gendisk {
	struct block_device *part0;
};

struct block_device {
	__u32 bd_dev;
	struct gendisk *bd_disk;
	struct device bd_device;
};

struct super_block {
	__u32 s_dev;
	struct block_device *s_bdev;
	unsigned long s_magic;
	char s_id[32];
};

struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_rdev;
	long long i_size;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
	struct inode *d_inode;
	struct dentry *d_parent;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_flags;
	unsigned int f_mode;
	struct address_space *f_mapping;
};

struct address_space {
	struct inode *host;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

// An inode of the kernel's own for a block device, which is at its beginning.
struct bdev_inode {
	struct block_device bdev;
	struct inode vfs_inode;
};

// A file through which another file system has this one open (since Linux 6.5).
struct backing_file {
	struct path user_path;
};

struct kiocb {
	struct file *ki_filp;
	long long ki_pos;
	int ki_flags;
};

struct iattr {
	unsigned int ia_valid;
	long long ia_size;
};

// What a system call was given, on the processors that we know.
struct pt_regs___x86 {
	unsigned long orig_ax, r8, r9, bp;
};

struct pt_regs___arm {
	__u64 regs[31];
	int syscallno;
};

struct mm_struct {
	struct file *exe_file;
};

struct vm_area_struct {
	struct file *vm_file;
};

struct linux_binprm {
	struct file *file;
	char buf[256];
};

struct task_struct {
	void *stack;
	struct mm_struct *mm;
	struct files_struct *files;
	unsigned int flags;
	unsigned int personality;
	int tgid;
	char comm[16];
};

#pragma clang attribute pop
