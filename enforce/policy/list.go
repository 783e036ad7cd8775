package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
)

// A list that is too long for a document is an object of its own. The document names it, and which version of it: by the
// SHA-256 of its text. The text has one name a line in the grammar of Name, in ascending order of bytes and each once, and
// every line ends with a newline.

// ListRef names one version of a list.
type ListRef struct {
	ID     string `json:"id"`
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
}

// Short is the beginning of the digest, for people.
func (r ListRef) Short() string { return r.SHA256[:min(12, len(r.SHA256))] }

// String is the reference for people and for comparing two documents.
func (r ListRef) String() string { return r.ID + "@" + r.SHA256 }

// List is the content of a list, as its section reads it.
type List interface {
	Len() int // names
}

// Content is what there is of a list that a document names.
type Content struct {
	List   List   // nil: nothing
	SHA256 string // of List: another than the document names while that version is not here
	Why    string // why it is not what the document names; "" if it is
}

// ListUse is a list that a document names, and for what.
type ListUse struct {
	ListRef
	Setting enforce.Setting
}

// Lists are all lists that the document names.
func (d *Document) Lists() (out []ListUse) {
	n := &d.Network
	for _, s := range []struct {
		name enforce.Setting
		list []ListRef
	}{{"network.allowed_lists", n.AllowedLists.V}, {"network.blocked_lists", n.BlockedLists.V}} {
		for _, r := range s.list {
			out = append(out, ListUse{r, s.name})
		}
	}
	return out
}

// WithLists returns the document with the contents of its lists.
func (d *Document) WithLists(have map[ListUse]Content) *Document {
	if len(d.Lists()) == 0 {
		return d
	}
	c := *d
	c.contents, c.derived = maps.Clone(have), &derived{all: map[string]any{}}
	return &c
}

// Content is what there is of a list.
func (d *Document) Content(u ListUse) Content {
	if c, ok := d.contents[u]; ok {
		return c
	}
	return Content{Why: "the list is not here"}
}

// ErrTooMany means that the lists of a document have too many names together.
var ErrTooMany = fmt.Errorf("the lists of a policy may have %d names together", MaxListNames)

// MaxLists bounds how many lists one setting names: each is one more to search for every name.
const MaxLists = 16

// Bounds of one list. MaxListNames also bounds the names of all lists of a document together: a device has them all in memory.
const (
	MaxListBytes = 64 << 20
	MaxListNames = 4_000_000
	maxLine      = 1024
	maxHosts     = 33 // words in one line of a hosts file
)

var (
	listID     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	listDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// readLists reads a setting that names lists.
func readLists(r reader) (out Optional[[]ListRef]) {
	in, ok := r.v.([]any)
	if !ok {
		r.fail("must be a list")
		return out
	}
	if len(in) > MaxLists {
		r.fail(fmt.Sprintf("must have at most %d entries", MaxLists))
		return out
	}
	out.V, out.Set = make([]ListRef, 0, len(in)), true
	for i, v := range in {
		e := reader{at(r.field, i), v, r.errs}
		var ref ListRef
		text := func(to *string, shape *regexp.Regexp, what string) func(reader) {
			return func(r reader) {
				if s, ok := r.v.(string); !ok || !shape.MatchString(s) {
					r.fail(what)
				} else {
					*to = s
				}
			}
		}
		had := len(*r.errs)
		if !e.object(map[string]func(reader){
			"id":     text(&ref.ID, listID, "must be the id of a list"),
			"sha256": text(&ref.SHA256, listDigest, "must be 64 lower-case hex digits"),
		}) {
			continue
		}
		switch {
		case len(*r.errs) > had:
		case ref.ID == "" || ref.SHA256 == "":
			e.fail(`must have "id" and "sha256"`)
		case slices.ContainsFunc(out.V, func(o ListRef) bool { return o.ID == ref.ID }):
			e.fail("names a list that is named before")
		default:
			out.V = append(out.V, ref)
		}
	}
	return out
}

// ListedNames reads one line of a list as administrators get them: a name in the grammar of Name, a line of a hosts file, or
// an ad blocker's "||name^". It returns nothing for an empty line and a comment.
func ListedNames(line string) ([]Name, error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' || line[0] == '!' || strings.HasPrefix(line, "[Adblock") {
		return nil, nil
	}
	if len(line) > maxLine {
		return nil, fmt.Errorf("must have at most %d bytes", maxLine)
	}
	if rest, is := strings.CutPrefix(line, "||"); is {
		name, is := strings.CutSuffix(rest, "^")
		if !is || strings.ContainsAny(name, "/*$^|") {
			return nil, errors.New(`must be "||name^" alone: other ad blocking rules are about pages, not about names`)
		}
		return one(name)
	}
	if i := strings.IndexByte(line, '#'); i > 0 && (line[i-1] == ' ' || line[i-1] == '\t') {
		line = strings.TrimSpace(line[:i])
	}
	words := strings.Fields(line)
	if len(words) > maxHosts {
		return nil, fmt.Errorf("must have at most %d names", maxHosts-1)
	}
	if len(words) == 1 {
		return one(words[0])
	}
	a, err := netip.ParseAddr(words[0])
	if err != nil {
		return nil, errors.New("must be one name, or an address and names as in a hosts file")
	}
	if usual := hostsOwn(words[1:]); usual {
		return nil, nil // what every hosts file has
	}
	if a = a.Unmap(); !a.IsUnspecified() && !a.IsLoopback() {
		return nil, errors.New("must begin with 0.0.0.0, 127.0.0.1, :: or ::1: other addresses refuse nothing")
	}
	var out []Name
	for _, w := range words[1:] {
		if hostsOwn([]string{w}) {
			continue
		}
		list, err := one(w)
		if err != nil {
			return nil, err
		}
		list[0].Scope = Exact // a hosts file is about names alone, not about what is below them
		out = append(out, list...)
	}
	return out, nil
}

// hostsOwn reports whether all names are those that hosts files have for the machine itself.
func hostsOwn(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool {
		switch n = strings.ToLower(n); n {
		case "localhost", "localhost.localdomain", "local", "broadcasthost", "localhost4", "localhost6", "0.0.0.0",
			"ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts":
			return false
		}
		return true
	})
}

// one reads a single name of a list.
func one(s string) ([]Name, error) {
	n, err := ParseName(s)
	switch {
	case err != nil:
		return nil, errors.New(`must be a domain name, "*.name" or "=name"`)
	case n.Net.IsValid():
		return nil, errors.New("is an address: a list has names alone; addresses belong in network.blocked_domains or allowed_domains")
	case n.never() != "":
		return nil, errors.New("matches nothing: no domain name ends in a number")
	}
	return []Name{n}, nil
}
