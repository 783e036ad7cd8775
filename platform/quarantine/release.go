package quarantine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Release gives a file back: it makes a new file at a path, whole and on the disk, with the owner, group and permissions that it
// had, and removes it from the store. Nothing is overwritten. The directories of the path may not be links, which somebody else
// could have put there. A path that ends with a slash, or is a directory, gets the file's own name in it. It returns the path.
func (s *Store) Release(ctx context.Context, id, path string) (string, error) {
	x, err := s.Find(id)
	if err != nil {
		return "", err
	}
	if path, err = target(path, x.Path); err != nil {
		return "", err
	}
	in, err := os.Open(filepath.Join(s.dir, id, fileName))
	if err != nil {
		return "", err
	}
	defer in.Close()
	err = createAt(path, func(out *os.File) error {
		sum, err := copyWhole(ctx, out, in, x.Size, nil)
		if err != nil {
			return err
		}
		if sum != x.SHA256 {
			return fmt.Errorf("file %s in the quarantine is not what it was: its SHA-256 is %s, and was %s", id, sum, x.SHA256)
		}
		return errors.Join(give(out, &x), out.Sync())
	})
	if err != nil {
		return "", err
	}
	if err := s.Purge(id); err != nil {
		return "", fmt.Errorf("%s is there, and the copy in quarantine cannot be removed: %w", path, err)
	}
	return path, nil
}

// target is the path of the new file.
func target(path, was string) (string, error) {
	if path == "" {
		return "", errors.New("the path of the new file is missing")
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(whole)
	if strings.HasSuffix(path, string(filepath.Separator)) || err == nil && st.IsDir() {
		name := filepath.Base(was)
		if name == "." || name == string(filepath.Separator) {
			return "", fmt.Errorf("the file had no name: name the new one (%s/NAME)", strings.TrimSuffix(path, "/"))
		}
		whole = filepath.Join(whole, name)
	}
	return whole, nil
}
