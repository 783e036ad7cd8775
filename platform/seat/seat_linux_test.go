package seat

import (
	"os"
	"slices"
	"testing"
)

func TestActive(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"seat0": "IS_SEAT0=1\nACTIVE=c2\nACTIVE_UID=1000\nSESSIONS=c2 c1\nUIDS=1000 1001\n",
		"seat1": "ACTIVE=c3\nACTIVE_UID=1000\n", "seat2": "ACTIVE_UID=1002\n", "seat3": "CAN_GRAPHICAL=0\n", "seat4": "ACTIVE_UID=-1\n",
		"seat5": "ACTIVE_UID=root\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := active(dir); !slices.Equal(got, []uint32{1000, 1002}) {
		t.Errorf("%v", got)
	}
	if got := active(dir + "/none"); got != nil {
		t.Errorf("without logind: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ACTIVE_UID=1000\n")
	f.Fuzz(func(_ *testing.T, in string) { parse(in) })
}
