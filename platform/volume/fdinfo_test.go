package volume

import "testing"

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
		{Result{Cut: true, Others: p},
			"everything written is on the disk, and programs that went on writing were cut off; left alone: cp (7)"},
		{Result{Forced: "15s without progress", Lost: 12},
			"forced: 15s without progress; the kernel still had 12 KiB that were not written"},
		{Result{Forced: "x", Lost: -1}, "forced: x; how much was not written yet is unknown"},
	} {
		if got := c.r.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
