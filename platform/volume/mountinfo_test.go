package volume

import (
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(`25 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
91 25 8:0 / /mnt/my\040stick rw,relatime shared:40 master:3 - vfat /dev/sda rw,fmask=0022
92 25 0:44 /sub /data rw - btrfs /dev/sdb1 rw
`))
	if err != nil || len(got) != 3 || got[1] != (mount{91, "8:0", "/mnt/my stick", "vfat", "/dev/sda"}) || got[2].fstype != "btrfs" {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"x", "a b c d e f - ext4 s rw", "1 2 8:0 / /mnt"} {
		if _, err := parseMounts(strings.NewReader(bad)); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(`91 25 8:0 / /mnt/my\040stick rw - vfat /dev/sda rw`)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseMounts(strings.NewReader(in))
		if err == nil && len(got) > strings.Count(in, "\n")+1 {
			t.Fatalf("%d mounts", len(got))
		}
	})
}
