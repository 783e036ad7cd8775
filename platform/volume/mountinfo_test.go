package volume

import (
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	long := "99 25 0:50 / /x rw - overlay overlay rw,lowerdir=" + strings.Repeat("/a:", 64<<10)
	got, skipped, err := parseMounts(strings.NewReader(`25 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
` + long + `
nonsense
a b c d e f - ext4 s rw
1 2 8:0 / /mnt
91 25 8:0 / /mnt/my\040stick rw,relatime shared:40 master:3 - vfat /dev/sda rw,fmask=0022
92 25 0:44 /sub /data rw - btrfs /dev/sdb1 rw`))
	if err != nil || len(got) != 3 || got[1] != (mount{91, "8:0", "/mnt/my stick", "vfat", "/dev/sda"}) || got[2].fstype != "btrfs" {
		t.Errorf("%+v %v", got, err)
	}
	if skipped != 4 {
		t.Errorf("%d lines left out, want 4", skipped)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(`91 25 8:0 / /mnt/my\040stick rw - vfat /dev/sda rw`)
	f.Fuzz(func(t *testing.T, in string) {
		got, skipped, err := parseMounts(strings.NewReader(in))
		if err != nil || len(got)+skipped > strings.Count(in, "\n")+1 {
			t.Fatalf("%d mounts, %d left out, %v", len(got), skipped, err)
		}
	})
}

func TestParseMountID(t *testing.T) {
	for in, want := range map[string]int{"pos:\t0\nflags:\t02\nmnt_id:\t29\nino:\t1\n": 29, "pos:\t0\n": 0, "mnt_id:\tx\n": 0, "": 0} {
		if got, ok := parseMountID(in); got != want || ok != (want != 0) {
			t.Errorf("%q: %d %v, want %d", in, got, ok, want)
		}
	}
}

func FuzzParseMountID(f *testing.F) {
	f.Add("flags:\t02\nmnt_id:\t29\n")
	f.Fuzz(func(_ *testing.T, in string) { parseMountID(in) })
}

func TestResultSays(t *testing.T) {
	p := []Program{{PID: 7, Name: "cp"}}
	for _, c := range []struct {
		r    Result
		want string
	}{
		{Result{Clean: true}, ""},
		{Result{Clean: true, Asked: p}, "asked to end: cp (7)"},
		{Result{Cut: true, Others: p}, "everything written is on the disk, and programs that went on writing were cut off; left alone: cp (7)"},
		{Result{Forced: "15s without progress", Lost: 12}, "forced: 15s without progress; the kernel still held 12 KiB that were not written"},
		{Result{Forced: "x", Lost: -1}, "forced: x; how much was not written yet is unknown"},
	} {
		if got := c.r.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
