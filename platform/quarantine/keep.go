package quarantine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/warderd/warder/platform/durable"
)

// chunk is how much is copied between two questions whether to go on.
const chunk = 1 << 20

// Keep copies an open file into the store, from its beginning. about is asked at the end for what is known of it: all but ID,
// Size, SHA256, Modified and Taken. When Keep returns without an error, the copy is whole and on the disk, and the caller removes
// the original; if it cannot, it purges the copy. undisturbed is asked again and again whether nobody else has opened the
// original.
func (s *Store) Keep(ctx context.Context, f *os.File, about func(*Item) error, undisturbed func() bool) (x Item, err error) {
	return s.put(ctx, f, about, undisturbed, false)
}

// put is Keep. data says that the file has sensitive data.
func (s *Store) put(ctx context.Context, f *os.File, about func(*Item) error, undisturbed func() bool, data bool) (x Item, err error) {
	st, err := f.Stat()
	if err != nil {
		return x, err
	}
	if !st.Mode().IsRegular() {
		return x, fmt.Errorf("%s is not a file", st.Mode().Type())
	}
	if err := s.room(st.Size(), data); err != nil {
		return x, err
	}
	x.ID, x.Taken, x.Modified = strings.ToLower(rand.Text())[:idLen], s.now().UTC(), st.ModTime().UTC()
	if y := x.Modified.Year(); y < 0 || y > 9999 { // some file systems know other years; JSON does not
		x.Modified = x.Taken
	}
	unfinished := filepath.Join(s.dir, newPrefix+x.ID)
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return x, err
	}
	done := false
	defer func() {
		if !done {
			_ = os.RemoveAll(unfinished)
		}
	}()
	out, err := os.OpenFile(filepath.Join(unfinished, fileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return x, err
	}
	x.SHA256, err = copyWhole(ctx, out, io.NewSectionReader(f, 0, st.Size()), st.Size(), undisturbed)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return x, err
	}
	x.Size, x.Data = st.Size(), data
	if err := about(&x); err != nil {
		return x, err
	}
	if data {
		x.Day = s.day()
	}
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return x, err
	}
	if err := durable.Write(filepath.Join(unfinished, recordName), b, 0o600); err != nil {
		return x, err
	}
	if err := flush(unfinished); err != nil {
		return x, err
	}
	if err := os.Rename(unfinished, filepath.Join(s.dir, x.ID)); err != nil {
		return x, err
	}
	done = true
	return x, errors.Join(flush(s.dir), flush(filepath.Dir(s.dir)))
}

// flush makes the names in a directory durable, or says why it cannot.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// tidy removes older copies of what is kept with sensitive data: the same contents, from the same place, of the same owner. Somebody was
// ended after the copy and before the file was removed where it was, and it was taken once more. The newest copy stays.
func (s *Store) tidy() error {
	list, _, err := s.List()
	if err != nil {
		return err
	}
	gone := map[int]bool{}
	for newer := len(list) - 1; newer >= 0; newer-- {
		for older := range newer {
			x, y := &list[newer], &list[older]
			if gone[newer] || gone[older] || !x.Data || !y.Data || x.SHA256 != y.SHA256 || x.Size != y.Size || x.UID != y.UID {
				continue
			}
			switch {
			case x.Path == y.Path:
				gone[older] = true
			case strings.HasPrefix(filepath.Base(x.Path), asideName) && filepath.Dir(x.Path) == filepath.Dir(y.Path):
				gone[newer] = true // the older one has its name
			}
		}
	}
	for i := range gone {
		err = errors.Join(err, s.Purge(list[i].ID))
	}
	return err
}

// asideName begins the name that a file has while it is being removed (platform/outgoing).
const asideName = ".warder-"

// room says why a file of a size cannot be kept, if it cannot. It makes the store's directory.
func (s *Store) room(size int64, data bool) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	list, damaged, err := s.List()
	if err != nil {
		return err
	}
	var all, share int64
	for _, x := range list {
		if all += x.Size; x.Data {
			share += x.Size
		}
	}
	for _, x := range damaged {
		if st, err := os.Lstat(filepath.Join(s.dir, x.ID, fileName)); err == nil {
			all += st.Size()
		}
	}
	if n := len(list) + len(damaged); n >= s.most.Items {
		return fmt.Errorf("%w: it has %d files already", ErrFull, n)
	}
	if size > s.most.Bytes-all {
		return fmt.Errorf("%w: it has %d of %d bytes already, and the file has %d", ErrFull, all, s.most.Bytes, size)
	}
	if most := s.share(); data && size > most-share {
		return fmt.Errorf("%w: it has %d of %d bytes of files with sensitive data already, and the file has %d", ErrFull, share, most, size)
	}
	if free, ok := durable.Free(s.dir); ok && free-size < s.most.Free {
		return fmt.Errorf("%w: %d bytes are free on its disk, of which %d stay free, and the file has %d", ErrFull, free, s.most.Free, size)
	}
	return nil
}

// copyWhole copies a file of a size that does not change meanwhile, and returns the SHA-256 of its contents in hex.
func copyWhole(ctx context.Context, to io.Writer, from io.Reader, size int64, goOn func() bool) (string, error) {
	sum := sha256.New()
	to = io.MultiWriter(to, sum)
	for left := size; ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if goOn != nil && !goOn() {
			return "", ErrDisturbed
		}
		n, err := io.CopyN(to, from, min(chunk, left))
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("it ended %d bytes early", left-n)
			}
			return "", err
		}
		if left -= n; left == 0 {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
	}
}
