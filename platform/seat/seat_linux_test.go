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

// Only sessions of people count that have a desktop, and that are not ending.
func TestGraphical(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"2": "UID=1000\nUSER=ann\nACTIVE=1\nSTATE=active\nTYPE=wayland\nCLASS=user\n", "3": "UID=1001\nUSER=bob\nACTIVE=0\nSTATE=online\nTYPE=x11\nCLASS=user\n",
		"4": "UID=1000\nTYPE=tty\nCLASS=user\n", "5": "UID=1000\nTYPE=x11\nCLASS=user\nSTATE=closing\n", "c1": "UID=113\nTYPE=wayland\nCLASS=greeter\n",
		"6": "UID=x\nTYPE=x11\nCLASS=user\n", "a.ref": "UID=1000\nTYPE=x11\nCLASS=user\n", "7": "UID=1000\nTYPE=unspecified\nCLASS=user\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []Login{{"2", 1000, "ann", "wayland", true}, {"3", 1001, "bob", "x11", false}}
	if got := graphical(dir); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := graphical(dir + "/none"); got != nil {
		t.Errorf("without logind: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ACTIVE_UID=1000\n")
	f.Fuzz(func(_ *testing.T, in string) { parse(in) })
}

func FuzzLogin(f *testing.F) {
	f.Add("UID=1000\nUSER=ann\nTYPE=x11\nCLASS=user\n")
	f.Fuzz(func(t *testing.T, in string) {
		if l, ok := loginOf("2", in); ok && l.Type == "" {
			t.Error(l)
		}
	})
}
