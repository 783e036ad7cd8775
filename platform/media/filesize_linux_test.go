package media

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/platform/bpf"
)

// What the programs keep has the same form on both sides.
func TestForms(t *testing.T) {
	for _, c := range []struct {
		set        *bpf.Set
		name       string
		key, value any
	}{
		{&bpf.Media, "disks", uint32(0), entry{}},
		{&bpf.Media, "config", uint32(0), config{}},
		{&bpf.Media, "counts", uint32(0), counts{}},
		{&bpf.FileSize, "disks", uint32(0), entry{}},
		{&bpf.FileSize, "config", uint32(0), sizeConfig{}},
		{&bpf.FileSize, "counts", uint32(0), counts{}},
		{&bpf.FileSize, "allowed", uint32(0), uint64(0)},
		{&bpf.FileSize, "names", [32]byte{}, uint32(0)},
		{&bpf.FileSize, "programs", program{}, uint32(0)},
		{&bpf.FileSize, "excepted", step{}, uint32(0)},
	} {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(c.set.Object))
		if err != nil {
			t.Fatal(err)
		}
		m := spec.Maps[c.name]
		if m == nil || int(m.KeySize) != binary.Size(c.key) || int(m.ValueSize) != binary.Size(c.value) {
			t.Errorf("%s/%s: %v; here %d and %d bytes", c.set.Name, c.name, m, binary.Size(c.key), binary.Size(c.value))
		}
	}
}

// A record of a refusal, and how its file is named: always in the same way, and not by its name.
func TestTooMuch(t *testing.T) {
	b := make([]byte, tooMuchSize)
	binary.NativeEndian.PutUint64(b, 7)
	binary.NativeEndian.PutUint64(b[8:], 11<<20)
	binary.NativeEndian.PutUint32(b[32:], tooLarge)
	copy(b[40:], "cp")
	copy(b[56:], "secret.txt")
	copy(b[120:], "/media/card/secret.txt")
	r, ok := readTooMuch(b)
	if !ok || r.Turn != 7 || r.Size != 11<<20 || r.Program != "cp" || r.File != "secret.txt" || r.Path != "/media/card/secret.txt" || r.Why != tooLarge {
		t.Fatalf("%+v %v", r, ok)
	}
	g := &LimitGuard{}
	name, other := g.file(r.path()), g.file(r.path()+"x")
	if name != g.file(r.path()) || name == other || strings.Contains(name, "secret") || !strings.HasPrefix(name, "file #") {
		t.Errorf("%s, %s", name, other)
	}
	if g.ruling.Store(&ruling{paths: true}); g.file(r.path()) != `file "/media/card/secret.txt"` {
		t.Error(g.file(r.path()))
	}
	if _, ok := readTooMuch(b[:tooMuchSize-1]); ok {
		t.Error("a short record is read")
	}
}

// A set of another version, with other maps beside, knew as well which disks may be used: an update takes nothing of that back.
func TestDecides(t *testing.T) {
	of := func(names ...string) *bpf.Pinned {
		p := &bpf.Pinned{Maps: map[string]*ebpf.Map{}}
		for _, n := range names {
			p.Maps[n] = &ebpf.Map{}
		}
		return p
	}
	for _, set := range []*bpf.Set{&bpf.Media, &bpf.FileSize} {
		for _, gone := range append(set.Maps, "one of a later version") {
			p := of(set.Maps...)
			delete(p.Maps, gone)
			if want := gone != "disks" && gone != "allowed"; decides(p) != want {
				t.Errorf("%s without map %s: %v", set.Name, gone, !want)
			}
		}
	}
	if decides(of()) {
		t.Error("nothing decides")
	}
}
