// Package input observes keyboards and pointers: how many are not on USB, and which USB devices carry one that works.
// It reads /proc/bus/input/devices and changes nothing. The guards in enforce/usb need it to know whom a refusal would
// lock out.
package input

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce/fact"
)

// Observer reads the kernel's list of input devices.
type Observer struct{ File string } // "/proc/bus/input/devices"

// Bus types (include/uapi/linux/input.h).
const (
	busUSB       = 0x03
	busBluetooth = 0x05
	busVirtual   = 0x06
)

// node is one input device.
type node struct {
	bus               uint64
	sysfs             string
	keyboard, pointer bool
}

// Observe counts inputs that are not on USB, and marks the USB devices that carry one. It runs after the USB devices
// were observed.
func (o Observer) Observe(_ context.Context, m *fact.Machine) error {
	f, err := os.Open(o.File)
	if err != nil {
		m.Inputs = fact.Unread[fact.Inputs](err.Error())
		return nil //nolint:nilerr // an unknown part of a snapshot is a value, not a failure
	}
	defer f.Close()
	nodes, err := parse(f)
	if err != nil {
		m.Inputs = fact.Unread[fact.Inputs](err.Error())
		return nil //nolint:nilerr // as above
	}
	var in fact.Inputs
	for _, n := range nodes {
		if n.bus == busUSB {
			mark(m, n)
			continue
		}
		// A virtual device belongs to a program; nobody types on it.
		if n.bus == busVirtual || strings.HasPrefix(n.sysfs, "/devices/virtual/") && !strings.Contains(n.sysfs, "/uhid/") {
			continue
		}
		if n.keyboard {
			in.Keyboards++
		}
		if n.pointer {
			in.Pointers++
		}
	}
	m.Inputs = fact.Is(in)
	return nil
}

// BuiltIn counts the keyboards that work before any program on the disk runs: neither on USB nor wireless.
func (o Observer) BuiltIn() (int, error) {
	f, err := os.Open(o.File)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	nodes, err := parse(f)
	n := 0
	for _, x := range nodes {
		if x.keyboard && x.bus != busUSB && x.bus != busBluetooth && x.bus != busVirtual &&
			!strings.HasPrefix(x.sysfs, "/devices/virtual/") {
			n++
		}
	}
	return n, err
}

// mark marks the USB device that carries an input.
func mark(m *fact.Machine, n node) {
	best := -1
	for i := range m.USB.V {
		// The deepest device on the path carries it; the others are hubs before it.
		if p := m.USB.V[i].Path; strings.Contains(n.sysfs, "/"+p+"/") && (best < 0 || len(p) > len(m.USB.V[best].Path)) {
			best = i
		}
	}
	if best >= 0 && !m.USB.V[best].Root {
		m.USB.V[best].Keyboard = m.USB.V[best].Keyboard || n.keyboard
		m.USB.V[best].Pointer = m.USB.V[best].Pointer || n.pointer
	}
}

// maxLine bounds a line of the list; the longest are key bitmaps of some 200 bytes.
const maxLine = 64 << 10

// parse reads the list: blocks of "X: …" lines, separated by empty lines (input_devices_seq_show in
// drivers/input/input.c).
func parse(r io.Reader) ([]node, error) {
	var out []node
	var n node
	var keys, rel, abs []uint64
	used := false
	flush := func() {
		if used {
			n.keyboard, n.pointer = roles(keys, rel, abs)
			out = append(out, n)
		}
		n, keys, rel, abs, used = node{}, nil, nil, nil, false
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		l := lines.Text()
		var err error
		switch {
		case l == "":
			flush()
		case strings.HasPrefix(l, "I: "):
			used = true
			for f := range strings.FieldsSeq(l[3:]) {
				if v, ok := strings.CutPrefix(f, "Bus="); ok {
					n.bus, err = strconv.ParseUint(v, 16, 16)
				}
			}
		case strings.HasPrefix(l, "S: Sysfs="):
			n.sysfs = l[len("S: Sysfs="):]
		case strings.HasPrefix(l, "B: KEY="):
			keys, err = bitmap(l[len("B: KEY="):])
		case strings.HasPrefix(l, "B: REL="):
			rel, err = bitmap(l[len("B: REL="):])
		case strings.HasPrefix(l, "B: ABS="):
			abs, err = bitmap(l[len("B: ABS="):])
		}
		if err != nil {
			return nil, fmt.Errorf("input list: line %q: %w", l, err)
		}
	}
	flush()
	return out, lines.Err()
}

// bitmap reads hex words, the most significant first.
func bitmap(s string) ([]uint64, error) {
	words := strings.Fields(s)
	if len(words) > 64 {
		return nil, fmt.Errorf("%d words in a bitmap", len(words))
	}
	out := make([]uint64, len(words))
	for i, w := range words {
		v, err := strconv.ParseUint(w, 16, 64)
		if err != nil {
			return nil, err
		}
		out[len(words)-1-i] = v
	}
	return out, nil
}

func has(b []uint64, bit int) bool { return bit/64 < len(b) && b[bit/64]&(1<<(bit%64)) != 0 }

// Codes of include/uapi/linux/input-event-codes.h.
const (
	keyQ, keyP   = 16, 25
	btnLeft      = 0x110
	btnTouch     = 0x14a
	relX, absX   = 0, 0
	keyEnterCode = 28
)

// roles: a keyboard has a row of letters and Enter (a power button is no keyboard); a pointer moves and has a button.
func roles(keys, rel, abs []uint64) (keyboard, pointer bool) {
	keyboard = has(keys, keyEnterCode)
	for k := keyQ; k <= keyP; k++ {
		keyboard = keyboard && has(keys, k)
	}
	pointer = has(rel, relX) && has(keys, btnLeft) || has(abs, absX) && (has(keys, btnTouch) || has(keys, btnLeft))
	return keyboard, pointer
}
