package text

import (
	"errors"
	"io"
	"os"
)

// holes is a source that knows where there is nothing in it.
type holes interface {
	// Data is the first place from at on where there is something; io.EOF if nothing follows.
	Data(at int64) (int64, error)
}

// reader reads a source from its beginning, without what is not there.
func reader(s Source) io.Reader {
	h, has := s.(holes)
	if !has {
		return io.NewSectionReader(s, 0, s.Size())
	}
	return &sparse{s: s, h: h}
}

// sparse leaves out holes: of each there is one zero.
type sparse struct {
	s      Source
	h      holes
	at     int64
	probed bool
}

func (p *sparse) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if p.at >= p.s.Size() {
		return 0, io.EOF
	}
	if !p.probed || p.at%holeSize == 0 {
		p.probed = true
		if data, err := p.h.Data(p.at); err == io.EOF { //nolint:errorlint // as it is
			p.at = p.s.Size()
			return 0, io.EOF
		} else if err == nil && data > p.at {
			p.at = data
			b[0] = 0
			return 1, nil
		}
	}
	// Up to the next place where a hole is asked for.
	n, err := p.s.ReadAt(b[:min(int64(len(b)), holeSize-p.at%holeSize, p.s.Size()-p.at)], p.at)
	p.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// holeSize is how often holes are asked for, in bytes.
const holeSize = 1 << 20

// file is one that is open. It knows where its holes are.
type file struct {
	f    *os.File
	size int64
}

// OpenFile makes a source of an open file.
func OpenFile(f *os.File) (Source, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		if st.IsDir() {
			return nil, errors.New("it is a directory")
		}
		return nil, errors.New("it is not a file, but a device or a pipe")
	}
	return &file{f, st.Size()}, nil
}

func (f *file) ReadAt(b []byte, at int64) (int, error) { return f.f.ReadAt(b, at) }
func (f *file) Size() int64                            { return f.size }
