package programs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/bpf"
)

// The forms of what the programs keep (platform/bpf/c/cloudsync.c).
type (
	config struct {
		On, _   uint32
		Version [16]byte
	}
	title struct { // a program's name, or the beginning of one
		Bits uint32
		Text [32]byte
	}
	id          [16]byte
	fingerprint struct{ Size, Head uint64 }
	known       struct {
		Ino, Size uint64
		Dev, _    uint32
	}
)

// Why an app was refused.
const (
	byName = 1 + iota
	asCopy
	asLoaded
)

type refusal struct {
	UID, PID, Why      uint32
	App, File, Program string
}

const refusalSize = 80

func readRefusal(b []byte) (r refusal, ok bool) {
	if len(b) < refusalSize {
		return r, false
	}
	e := binary.NativeEndian
	text := func(from, to int) string {
		s, _, _ := bytes.Cut(b[from:to], []byte{0})
		return string(s)
	}
	return refusal{UID: e.Uint32(b), PID: e.Uint32(b[4:]), Why: e.Uint32(b[8:]), App: text(16, 32), File: text(32, 64), Program: text(64, 80)}, true
}

// headSize is how much the kernel reads of a file before it starts it.
const headSize = 256

// headSum is the sum of that which the programs make.
func headSum(head *[headSize]byte) (sum uint64) {
	sum = 0xcbf29ce484222325
	for i := 0; i < headSize; i += 8 {
		sum = (sum ^ binary.NativeEndian.Uint64(head[i:])) * 0x100000001b3
	}
	return sum
}

func idOf(s string) (out id) {
	copy(out[:len(out)-1], s)
	return out
}

func (i id) String() string {
	s, _, _ := bytes.Cut(i[:], []byte{0})
	return string(s)
}

// titles are the names of an app's programs.
func titles(c *fact.App) (out []title) {
	for _, p := range c.Programs {
		var t title
		start, more := strings.CutSuffix(p, "*")
		copy(t.Text[:len(t.Text)-1], start)
		t.Bits = uint32(8 * len(start))
		if !more {
			t.Bits += 8 // and nothing after it
		}
		out = append(out, t)
	}
	return out
}

// check says what is wrong with programs that were pinned.
func (g *group) check(p *bpf.Pinned) error {
	var c config
	switch err := p.Lookup("config", uint32(0), &c); {
	case err != nil:
		return err
	case c.Version != g.set.Version():
		return &bpf.Changed{Why: "they are another version's"}
	case c.On == 0:
		return &bpf.Changed{Why: "they refuse nothing"}
	}
	return nil
}

// list returns those whose programs are refused, in the order of the table. One of which only some are is an error.
func (g *group) list(p *bpf.Pinned) ([]string, error) {
	list, err := bpf.Entries[title, id](p, "names")
	if err != nil {
		return nil, err
	}
	has := map[string]int{}
	for t, of := range list {
		c, ok := g.apps.ByID(of.String())
		if !ok || !slices.Contains(titles(c), t) {
			return nil, &bpf.Changed{Why: fmt.Sprintf("they refuse %q as a program of %q", strings.TrimRight(string(t.Text[:]), "\x00"), of)}
		}
		has[c.ID]++
	}
	var out []string
	for i := range g.apps {
		c := &g.apps[i]
		switch n := has[c.ID]; {
		case n == 0:
		case n < len(c.Programs):
			return nil, &bpf.Changed{Why: fmt.Sprintf("they refuse some programs of %s, and not all", c.ID)}
		default:
			out = append(out, c.ID)
		}
	}
	return out, nil
}

// names tells the programs which apps are refused, by their names.
func (g *group) names(p *bpf.Pinned, ids []string) error {
	list := map[title]id{}
	for _, s := range ids {
		c, ok := g.apps.ByID(s)
		if !ok || len(c.Programs) == 0 {
			return fmt.Errorf("there is no %q among %s", s, g.what)
		}
		for _, t := range titles(c) {
			list[t] = idOf(c.ID)
		}
	}
	return bpf.Become(p, "names", list)
}

// tell tells the programs of these contents and no others.
func (c contents) tell(p *bpf.Pinned) error {
	return errors.Join(bpf.Become(p, "prints", c.prints), bpf.Become(p, "files", c.files))
}

// told reports whether that is what they have been told.
func (c contents) told(p *bpf.Pinned) (bool, error) {
	prints, err := bpf.Entries[fingerprint, id](p, "prints")
	if err != nil {
		return false, err
	}
	files, err := bpf.Entries[known, id](p, "files")
	return maps.Equal(prints, c.prints) && maps.Equal(files, c.files), err
}

// Loaders make the sets of this package, in the child that does so; its arguments are those that are refused.
func Loaders() map[string]bpf.Loader {
	return map[string]bpf.Loader{clients.name: clients.load, tools.name: tools.load}
}

func (g *group) load(ids ...string) error {
	return g.set.Make(func(p, _ *bpf.Pinned, attached int) error {
		c := config{Version: g.set.Version()}
		switch attached {
		case 0:
			has, err := g.find(ids)
			if err != nil {
				has = contents{} // the agent tries again, and says so; the names count in any case
			}
			return errors.Join(p.Put("config", uint32(0), &c), g.names(p, ids), has.tell(p))
		case len(g.set.Programs):
			c.On = 1
			return p.Put("config", uint32(0), &c)
		}
		return nil
	})
}
