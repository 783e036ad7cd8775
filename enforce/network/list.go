package network

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// List is a long list, ready to be searched.
type List struct {
	names *table
	above *table // the names above those of an allowed list
	lines int
}

// Len is how many names it has.
func (l *List) Len() int { return l.lines }

// bytes is its size in memory.
func (l *List) bytes() int { return l.names.bytes() + l.above.bytes() }

// maxAbove bounds the names above those of an allowed list that are kept. Beyond it, a program that validates names itself
// cannot validate those that are left.
const maxAbove = 500_000

// ReadList reads the text of a list (enforce/policy/list.go) of at most so many names that is used by a setting. It is an
// error if the text has another digest, or breaks the form of a list in any line: then nothing of it is used.
func ReadList(in io.Reader, u policy.ListUse, most int) (policy.List, error) {
	sum := sha256.New()
	text := bufio.NewReaderSize(io.TeeReader(io.LimitReader(in, policy.MaxListBytes+1), sum), 64<<10)
	var names, above builder
	var lately [1 << 12]uint64 // names above others that were added, by a part of their hash: most come again and again
	allow := u.Setting == settingAllowedLists
	var last []byte
	size, line := 0, 0
	for {
		b, err := text.ReadSlice('\n')
		if err == io.EOF && len(b) == 0 {
			break
		}
		line++
		switch {
		case err == io.EOF:
			return nil, fmt.Errorf("line %d has no end", line)
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("line %d is too long", line)
		case err != nil:
			return nil, err
		}
		if size += len(b); size > policy.MaxListBytes {
			return nil, fmt.Errorf("it is larger than %d bytes", policy.MaxListBytes)
		}
		if line > most {
			return nil, fmt.Errorf("%w, and this one has more than the %d that are left", policy.ErrTooMany, most)
		}
		b = b[:len(b)-1]
		if line > 1 && bytes.Compare(last, b) >= 0 {
			return nil, fmt.Errorf("line %d is not after the one before it", line)
		}
		last = append(last[:0], b...)
		host, flag := b, blockTree
		switch {
		case bytes.HasPrefix(b, []byte("*.")):
			host, flag = b[2:], blockBelow
		case bytes.HasPrefix(b, []byte("=")):
			host, flag = b[1:], blockExact
		}
		labels, ok := hostLabels(host)
		if !ok {
			return nil, fmt.Errorf("line %d, %q, is not a name", line, enforce.Plain(string(b[:min(len(b), 80)])))
		}
		names.put(maphash.Bytes(seed, host), flag, labels)
		// Names of one or two labels need not be kept: a question about one of them goes to a registry alone.
		for up := host; allow && labels > 3 && above.n < maxAbove; {
			up = up[bytes.IndexByte(up, '.')+1:]
			labels--
			h := maphash.Bytes(seed, up) &^ flagMask
			at := &lately[h>>52]
			if *at == h {
				break // and so are those above it
			}
			*at = h
			above.put(h, allowExact, labels)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != u.SHA256 {
		return nil, fmt.Errorf("its digest is %.12s and not %.12s", got, u.SHA256)
	}
	return &List{names: names.table(), above: above.table(), lines: line}, nil
}

// hostLabels counts the labels of a host as policy.ParseName writes it; false if it is none.
func hostLabels(host []byte) (labels int, ok bool) {
	if len(host) == 0 || len(host) > 253 {
		return 0, false
	}
	n, digits := 0, true
	for _, c := range host {
		switch {
		case c == '.':
			if n == 0 {
				return 0, false
			}
			labels, n, digits = labels+1, 0, true
			continue
		case 'a' <= c && c <= 'z' || c == '-' || c == '_':
			digits = false
		case '0' <= c && c <= '9':
		default:
			return 0, false
		}
		if n++; n > 63 {
			return 0, false
		}
	}
	return labels + 1, n > 0 && !digits
}

// longList is a list that the document names, with what there is of it.
type longList struct {
	use     policy.ListUse
	content policy.Content
	list    *List // nil: nothing
	allow   bool
}

// longLists are a document's.
func longLists(d *policy.Document) (out []longList) {
	for _, u := range d.Lists() {
		l := longList{use: u, content: d.Content(u), allow: u.Setting == settingAllowedLists}
		l.list, _ = l.content.List.(*List)
		if l.list == nil {
			l.content.SHA256 = ""
		}
		out = append(out, l)
	}
	return out
}

// shift is how a list's flags have to be read.
func (l *longList) shift() uint8 {
	if l.allow {
		return toAllow
	}
	return 0
}

// entry is the longest entry of a list that covers a host; false if none does.
func (l *longList) entry(host string) (policy.Name, bool) {
	if l.list == nil {
		return policy.Name{}, false
	}
	from, _, flag := l.list.names.match(host, blocks)
	if from < 0 {
		return policy.Name{}, false
	}
	n := policy.Name{Host: host[from:]}
	for scope, f := range flagOf {
		if f == flag {
			n.Scope = policy.Scope(scope)
		}
	}
	return n, true
}

// longest is the longest entry of all lists of one kind that covers a subject, and how specific it is.
func (r *Rules) longest(s *Subject, allow bool) (in *longList, n policy.Name, how int) {
	how = -1
	if s.Name == "" {
		return nil, n, how
	}
	for i := range r.lists.long {
		l := &r.lists.long[i]
		if e, ok := l.entry(s.Name); ok && l.allow == allow && specific(e, s) > how {
			in, n, how = l, e, specific(e, s)
		}
	}
	return in, n, how
}

// missing says what is not here of the lists of a setting; "" if all is. none: of one of them there is nothing at all.
func (r *Rules) missing(s enforce.Setting) (why string, none bool) {
	var parts []string
	for i := range r.lists.long {
		l := &r.lists.long[i]
		if l.use.Setting != s || l.list != nil && l.content.SHA256 == l.use.SHA256 {
			continue
		}
		text := fmt.Sprintf("list %q, version %s: %s", l.use.ID, l.use.Short(), l.content.Why)
		if l.list != nil {
			text += fmt.Sprintf("; version %.12s is in force meanwhile", l.content.SHA256)
		}
		parts, none = append(parts, text), none || l.list == nil
	}
	return strings.Join(parts, "; "), none
}
