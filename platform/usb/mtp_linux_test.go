package usb

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// phone answers control transfers as a device with these parts would.
type phone struct {
	names map[uint8]string
	os    []byte // the string 0xee
	ids   []byte // extended compatible ids, by request 0x21
	bos   []byte
	set   []byte // OS descriptors 2.0, by request 0x22
	hang  string // what it does not answer: "name", "os", "all"
	asked int
}

func (p *phone) ask(requestType, request uint8, value, index uint16, buf []byte) (int, error) {
	p.asked++
	give := func(b []byte) (int, error) {
		if b == nil {
			return 0, unix.EPIPE
		}
		return copy(buf, b), nil
	}
	kind := "name"
	switch {
	case requestType == 0x80 && request == 6 && value == 3<<8|0xee, requestType == 0xc0, value == 0x0f<<8:
		kind = "os"
	case value == typeDevice<<8:
		kind = "device"
	}
	if p.hang == "all" || p.hang == kind {
		return 0, unix.ETIMEDOUT
	}
	switch {
	case kind == "device":
		return give(stick[:lenDevice])
	case requestType == 0xc0 && request == 0x21 && index == 4:
		return give(p.ids)
	case requestType == 0xc0 && request == 0x22 && index == 7:
		return give(p.set)
	case kind == "os" && value == 3<<8|0xee:
		return give(p.os)
	case value == 0x0f<<8:
		return give(p.bos)
	case requestType == 0x80 && request == 6 && index == 0x0409:
		if n, ok := p.names[uint8(value)]; ok {
			return give(text(n))
		}
	}
	return 0, unix.EPIPE
}

func text(s string) []byte {
	units := utf16.Encode([]rune(s))
	b := []byte{byte(2 + 2*len(units)), 3}
	for _, u := range units {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

func msft(code byte) []byte { return append(append([]byte{18, 3}, text("MSFT100")[2:]...), code, 0) }

func compatible(ids ...string) []byte {
	b := append([]byte{byte(16 + 24*len(ids)), 0, 0, 0, 0, 1, 4, 0, byte(len(ids))}, make([]byte, 7)...)
	for i, id := range ids {
		f := make([]byte, 24)
		f[0], f[1] = byte(i), 1
		copy(f[2:10], id)
		b = append(b, f...)
	}
	return b
}

func bos(code byte, length int) []byte {
	b := append([]byte{5, 0x0f, 5 + 7 + 28, 0, 2, 7, 0x10, 2, 0, 0, 0, 0}, 28, 0x10, 5, 0)
	b = append(b, os2...)
	return append(b, 0, 0, 3, 6, byte(length), 0, code, 0)
}

func set2(id string) []byte {
	b := append([]byte{10, 0, 0, 0, 0, 0, 3, 6, 30, 0}, 20, 0, 3, 0)
	f := make([]byte, 16)
	copy(f, id)
	return append(b, f...)
}

// A phone is recognised by its interface's name, or by an OS descriptor of either version; other devices are not
// mistaken for one.
func TestMTP(t *testing.T) {
	for name, c := range map[string]struct {
		phone phone
		index uint8 // of the interface's name
		want  string
	}{
		"by its name":                    {phone{names: map[uint8]string{5: "MTP"}}, 5, "yes"},
		"by a name around it":            {phone{names: map[uint8]string{5: "Nokia mtp (v2)"}}, 5, "yes"},
		"without a name, by its system":  {phone{os: msft(0x21), ids: compatible("", "MTP")}, 0, "yes"},
		"with another name":              {phone{names: map[uint8]string{5: "none"}, os: msft(0x21), ids: compatible("MTP")}, 5, "yes"},
		"a camera":                       {phone{os: msft(0x21), ids: compatible("PTP")}, 0, "yes"},
		"by the second version":          {phone{bos: bos(0x22, 30), set: set2("MTP")}, 0, "yes"},
		"a name in another language":     {phone{os: msft(0x21), ids: compatible("MTP")}, 7, "yes"},
		"a network adapter":              {phone{}, 0, "no"},
		"a named network adapter":        {phone{names: map[uint8]string{5: "WLAN"}}, 5, "no"},
		"another system's descriptor":    {phone{os: msft(0x21), ids: compatible("WINUSB")}, 0, "no"},
		"WinUSB, second version":         {phone{bos: bos(0x22, 30), set: set2("WINUSB")}, 0, "no"},
		"a code that leads nowhere":      {phone{os: msft(0x33), ids: compatible("MTP")}, 0, "no"},
		"another text at that index":     {phone{os: text("LOGITECH")}, 0, "no"},
		"hangs at the question":          {phone{hang: "os"}, 0, "no"},
		"hangs at all of it":             {phone{hang: "all"}, 0, "unknown"},
		"hangs at its name":              {phone{hang: "name"}, 5, "unknown"},
		"hangs at its name, and is one":  {phone{hang: "name", os: msft(0x21), ids: compatible("MTP")}, 5, "yes"},
		"named, and hangs at the second": {phone{names: map[uint8]string{5: "none"}, hang: "os"}, 5, "no"},
	} {
		u := fact.USB{Interfaces: []fact.Interface{{Class: 3}, {Class: 0xff, Name: c.index}, {Class: 0xff, Name: c.index, Alternate: 1}}}
		learnt := answerMTP(&u, c.phone.ask)
		for _, i := range u.Interfaces[1:] {
			got := "unknown"
			if i.MTP.OK {
				got = map[bool]string{true: "yes", false: "no"}[i.MTP.V]
			}
			if got != c.want || learnt != (c.want != "unknown") {
				t.Errorf("%s: %s (%s), want %s", name, got, i.MTP.Why, c.want)
			}
		}
		if u.Interfaces[0].MTP.OK {
			t.Errorf("%s: another class was asked", name)
		}
	}
	u := fact.USB{Interfaces: []fact.Interface{{Class: 0xff}}}
	err := errors.New("x")
	if answerMTP(&u, func(uint8, uint8, uint16, uint16, []byte) (int, error) { return 0, err }) || u.Interfaces[0].MTP.OK {
		t.Error("something is learnt of a device that cannot be asked")
	}
}

// Whatever a device answers is read within its bounds.
func FuzzOSDescriptor(f *testing.F) {
	f.Add(msft(1))
	f.Add(compatible("MTP", "WINUSB"))
	f.Add(bos(1, 30))
	f.Add(set2("MTP"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := osVendorCode(b); ok && !strings.Contains(string(b), "M\x00S\x00F\x00T") {
			t.Fatal("a code without its sign")
		}
		if (compatibleMTP(b) || os2MTP(b)) && !strings.Contains(strings.ToUpper(string(b)), "TP") {
			t.Fatal("MTP without the word")
		}
		_, _, _ = os2Capability(b)
		_, _ = decodeString(b)
	})
}
