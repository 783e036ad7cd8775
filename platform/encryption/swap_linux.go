package encryption

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/mountinfo"
)

// swaps returns the swaps in use.
func (l *look) swaps() ([]fact.Volume, error) {
	b, err := os.ReadFile(l.r.Proc + "/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, fmt.Errorf("the swaps cannot be read: %w", err)
	}
	var out []fact.Volume
	for i, text := range strings.Split(string(b), "\n") {
		path, kind, ok := parseSwap(text)
		if i == 0 || text == "" {
			continue
		}
		v := fact.Volume{Mount: "swap", Swap: true, External: fact.Is(false), Dev: enforce.Plain(path)}
		switch {
		case !ok || len(out) >= maxVolumes:
			v.Encrypted = fact.Unread[bool](fmt.Sprintf("line %d of the list of swaps cannot be read", i+1))
		case kind == "file":
			a := answer{chain: enforce.Plain(path)}
			if dev, err := l.r.ask.swap(path); err != nil {
				a.unknown = fmt.Sprintf("cannot determine which file system the swap file %s is on: %v", enforce.Plain(path), err)
			} else {
				a = l.file(dev, "the swap file "+enforce.Plain(path), a, 0)
			}
			v.Chain, v.Encrypted, v.Leaf = []string{a.chain}, fact.Is(a.plain == ""), a.plain
			if a.plain == "" && a.unknown != "" {
				v.Encrypted = fact.Unread[bool](a.unknown)
			}
		default:
			dir, err := l.node(path)
			if err != nil {
				v.Encrypted = fact.Unread[bool](fmt.Sprintf("cannot determine which device %s is: %v", enforce.Plain(path), err))
				break
			}
			l.judge(&v, []string{dir})
		}
		out = append(out, v)
	}
	return out, nil
}

// parseSwap reads a line of /proc/swaps (proc(5)): the path, with blanks as \040, then "file" or "partition".
func parseSwap(text string) (path, kind string, ok bool) {
	f := strings.Fields(text)
	if len(f) < 5 || f[1] != "file" && f[1] != "partition" {
		return "", "", false
	}
	if _, err := strconv.ParseUint(f[2], 10, 64); err != nil {
		return "", "", false
	}
	return mountinfo.Unescape(f[0]), f[1], true
}
