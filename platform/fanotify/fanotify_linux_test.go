package fanotify

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// event is an event as the kernel would write it.
func event(fd, pid int32) []byte {
	b := make([]byte, EventSize)
	binary.NativeEndian.PutUint32(b, EventSize)
	b[4] = unix.FANOTIFY_METADATA_VERSION
	binary.NativeEndian.PutUint32(b[16:], uint32(fd))
	binary.NativeEndian.PutUint32(b[20:], uint32(pid))
	return b
}

func FuzzParse(f *testing.F) {
	f.Add(event(7, 42))
	f.Add(append(event(-1, 1), event(3, 2)...))
	if e, size, ok := Parse(event(7, 42)); !ok || size != 24 || e.Fd != 7 || e.Pid != 42 {
		f.Errorf("%+v %d %v", e, size, ok)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			_, size, ok := Parse(rest)
			if !ok {
				return
			}
			if size < EventSize || size > len(rest) {
				t.Fatalf("%d of %d", size, len(rest))
			}
			rest = rest[size:]
		}
	})
}

func FuzzParseMarks(f *testing.F) {
	const list = "pos:\t0\nflags:\t04002\nfanotify flags:0 event-flags:8000\nfanotify sdev:800011 mflags:0 mask:8 ignored_mask:0\n" +
		"fanotify ino:4f969 sdev:10300001 mflags:0 mask:20 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:69f90400\nfanotify mnt_id:12 mflags:0 mask:8\n"
	f.Add(list)
	f.Add("fanotify sdev:x mflags:0 mask:8\n")
	if got, err := parseMarks(strings.NewReader(list)); err != nil || !slices.Equal(got, []Mark{{8<<20 | 17, 0, 8}, {259<<20 | 1, 0x4f969, 0x20}}) {
		f.Errorf("%v %v", got, err)
	}
	if _, err := parseMarks(strings.NewReader("fanotify sdev:x mflags:0 mask:8\n")); err == nil {
		f.Error("nonsense is read")
	}
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseMarks(strings.NewReader(s)) })
}

// TestKernel: what the kernel writes is what is read here, and it understands the answers.
func TestKernel(t *testing.T) {
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(group)
	program := t.TempDir() + "/program"
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, program); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(program, &st); err != nil {
		t.Fatal(err)
	}
	marks, err := Marks(group)
	if err != nil || len(marks) != 1 || marks[0].Ino != st.Ino || marks[0].Mask != unix.FAN_OPEN_EXEC_PERM {
		t.Errorf("%+v %v, the file is %d", marks, err, st.Ino)
	}
	for _, allow := range []bool{false, true} {
		done := make(chan error, 1)
		// By another program: while a Go program starts one, none of its goroutines may run.
		go func() {
			out, err := exec.Command("/bin/sh", "-c", `"$0"; exit $?`, program).CombinedOutput()
			if strings.Contains(string(out), "Operation not permitted") {
				err = unix.EPERM
			}
			done <- err
		}()
		b := make([]byte, EventSize)
		n, err := unix.Read(group, b)
		e, _, ok := Parse(b[:max(n, 0)])
		if err != nil || !ok || e.Fd < 0 || e.Mask != unix.FAN_OPEN_EXEC_PERM {
			t.Fatalf("%d bytes, %+v, %v", n, e, err)
		}
		if err := Answer(group, e.Fd, allow); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(int(e.Fd))
		select {
		case err := <-done:
			if allow != (err == nil) || !allow && !errors.Is(err, unix.EPERM) {
				t.Errorf("allowed: %v; it: %v", allow, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it waits for ever")
		}
	}
}
