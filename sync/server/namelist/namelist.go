// Package namelist turns the long lists that administrators upload into the one form that devices read: one name a line, in
// ascending order and each once, addressed by the SHA-256 of that text and packed with zstd. What a line may be is said in
// enforce/policy (ListedNames).
package namelist

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// MaxUpload bounds what is uploaded, with comments and everything.
const MaxUpload = policy.MaxListBytes

// MaxBad bounds how many bad lines are described; all are counted.
const MaxBad = 10_000

// Bad is a line that is no name.
type Bad struct {
	Line    int    `json:"line" doc:"from 1"`
	Text    string `json:"text" doc:"its beginning"`
	Message string `json:"message"`
}

// List is a list, ready to be stored.
type List struct {
	SHA256       string // of the text
	Names, Bytes int
	Packed       []byte
	PackedDigest string // SHA-256 of Packed
	Lines        int    // that were read
	Bad          []Bad  // the first of them
	BadLines     int
}

// ErrTooLarge is the error of a list that has too many names or bytes.
var ErrTooLarge = errors.New("the list is too large")

// Read reads an upload. Bad lines are left out, and described; the caller decides whether that is good enough.
func Read(in io.Reader) (*List, error) { return read(in, policy.MaxListNames, policy.MaxListBytes) }

func read(in io.Reader, mostNames, mostBytes int) (*List, error) {
	out := &List{}
	lines := bufio.NewReaderSize(in, 64<<10)
	var text []byte // the names, one after the other; sorting moves only where they are
	type place struct{ from, to uint32 }
	var names []place
	for {
		b, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		line := b
		for errors.Is(err, bufio.ErrBufferFull) { // far too long: only its beginning is of use
			line = slices.Clone(line[:min(len(line), 200)])
			_, err = lines.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		if len(line) > 0 {
			out.Lines++
			if out.Lines == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff"))
			}
			list, problem := parse(line, long)
			if problem != nil {
				if out.BadLines++; out.BadLines <= MaxBad {
					out.Bad = append(out.Bad, Bad{out.Lines, beginning(line), problem.Error()})
				}
			}
			for _, n := range list {
				from := len(text)
				text = append(text, n.String()...)
				if len(text) > 2*mostBytes || len(names) >= 2*mostNames { // the same name may come more than once
					return nil, fmt.Errorf("%w: at most %d bytes and %d names", ErrTooLarge, mostBytes, mostNames)
				}
				names = append(names, place{uint32(from), uint32(len(text))}) //nolint:gosec // bounded above
			}
		}
		if err == io.EOF {
			break
		}
	}
	at := func(p place) []byte { return text[p.from:p.to] }
	slices.SortFunc(names, func(a, b place) int { return cmp.Compare(string(at(a)), string(at(b))) })
	names = slices.CompactFunc(names, func(a, b place) bool { return bytes.Equal(at(a), at(b)) })
	if len(names) > mostNames {
		return nil, fmt.Errorf("%w: it has %d names, and at most %d are possible", ErrTooLarge, len(names), mostNames)
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(protocol.ListWindow),
		zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(sum, z), 64<<10)
	for _, p := range names {
		_, _ = w.Write(at(p))
		_ = w.WriteByte('\n')
		out.Bytes += int(p.to-p.from) + 1
	}
	if out.Bytes > mostBytes {
		return nil, fmt.Errorf("%w: its names have %d bytes, and at most %d are possible", ErrTooLarge, out.Bytes, mostBytes)
	}
	if err := errors.Join(w.Flush(), z.Close()); err != nil {
		return nil, err
	}
	out.Names, out.SHA256, out.Packed = len(names), hex.EncodeToString(sum.Sum(nil)), packed.Bytes()
	digest := sha256.Sum256(out.Packed)
	out.PackedDigest = hex.EncodeToString(digest[:])
	return out, nil
}

func parse(line []byte, long bool) ([]policy.Name, error) {
	switch {
	case long && !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) && !bytes.HasPrefix(bytes.TrimSpace(line), []byte("!")):
		return nil, errors.New("is too long")
	case !utf8.Valid(line):
		return nil, errors.New("must be UTF-8")
	}
	return policy.ListedNames(string(line))
}

// beginning is the beginning of a line, for people.
func beginning(line []byte) string {
	s := bytes.TrimSpace(line)
	if len(s) > 80 {
		return enforce.Plain(string(bytes.ToValidUTF8(s[:80], nil))) + "…"
	}
	return enforce.Plain(string(bytes.ToValidUTF8(s, []byte("?"))))
}
