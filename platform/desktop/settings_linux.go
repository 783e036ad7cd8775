package desktop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

// isThere reports whether a file is there.
func (s *Settings) isThere(path string) bool {
	_, err := os.Stat(s.at(path))
	return err == nil
}

// same reports whether files have these texts.
func same(files map[string]string) bool {
	for path, text := range files {
		if b, absent, err := owned.Read(path); err != nil || absent || string(b) != text {
			return false
		}
	}
	return true
}

// drop removes a file of ours, and its directory if that was made for it.
func (s *Settings) drop(path string) error {
	text, _, err := owned.Read(s.at(path))
	if err != nil && !errors.Is(err, owned.ErrForeign) {
		return err
	}
	if !strings.HasPrefix(string(text), note) {
		return nil // it is not there, or somebody else's
	}
	if err := gone(durable.Remove(s.at(path))); err != nil {
		return err
	}
	owned.RemoveDir(s.root, filepath.Dir(s.at(path)))
	return nil
}

// gone is an error, unless it says that there is nothing.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// closed says why users cannot read a file or a directory; "" if they can, or if it is not there.
func (s *Settings) closed(path string) string {
	need := os.FileMode(0o004)
	for at := path; len(at) > 1 && at != filepath.Clean(s.root); at = filepath.Dir(at) {
		st, err := os.Stat(at)
		if err != nil {
			continue
		}
		if st.IsDir() {
			need = 0o001
		}
		if st.Mode()&need == 0 {
			return fmt.Sprintf("users cannot read %s (mode %s)", at, st.Mode())
		}
	}
	return ""
}
