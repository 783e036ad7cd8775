package mountinfo

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := "99 25 0:50 / /x rw - overlay overlay rw,lowerdir=" + strings.Repeat("/a:", 64<<10)
	got, skipped, err := Parse(strings.NewReader(`25 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
` + long + `
nonsense
a b c d e f - ext4 s rw
1 2 8:0 / /mnt
91 25 8:0 / /mnt/my\040stick rw,relatime shared:40 master:3 - vfat /dev/sda rw,fmask=0022
92 25 0:44 /sub /data rw - btrfs /dev/sdb1 ro,space_cache`))
	if err != nil || len(got) != 3 || got[1] != (Mount{91, "8:0", "/", "/mnt/my stick", "vfat", "/dev/sda", false}) || got[2].FS != "btrfs" || got[2].Root != "/sub" ||
		!got[2].ReadOnly {
		t.Errorf("%+v %v", got, err)
	}
	if skipped != 4 {
		t.Errorf("%d lines left out, want 4", skipped)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`91 25 8:0 / /mnt/my\040stick rw - vfat /dev/sda rw`)
	f.Fuzz(func(t *testing.T, in string) {
		got, skipped, err := Parse(strings.NewReader(in))
		if err != nil || len(got)+skipped > strings.Count(in, "\n")+1 {
			t.Fatalf("%d mounts, %d left out, %v", len(got), skipped, err)
		}
	})
}
