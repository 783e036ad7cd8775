// Package quarantine keeps files that a policy has taken out of the way, until an administrator releases or purges them. Nothing
// in it is removed by itself but files with sensitive data after their days: if there is no room, a file is not taken. It owns how files are kept, and no policy; whoever takes a
// file removes the original, once this package says that the copy is whole and on the disk.
package quarantine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/platform/durable"
)

// Item is one file that is kept.
type Item struct {
	ID       string    `json:"id"`
	Path     string    `json:"path"`     // where it was; "" if that is not known
	Place    string    `json:"place"`    // what that is on, for people: a disk
	UID      uint32    `json:"uid"`      // its owner there
	GID      uint32    `json:"gid"`      // its group there
	Mode     uint32    `json:"mode"`     // its permission bits there
	Modified time.Time `json:"modified"` // when it was last written there
	Size     int64     `json:"size"`     // in bytes
	SHA256   string    `json:"sha256"`   // of what is in it, in hex
	Taken    time.Time `json:"taken"`
	Setting  string    `json:"setting"` // of the policy, that took it
	Reason   string    `json:"reason"`  // why, for people
	// Data says that it has sensitive data: such files have a share of the room, and are kept for some days. Day is which day of the
	// store's own count it was taken on.
	Data bool `json:"data,omitempty"`
	Day  int  `json:"day,omitempty"`
}

// Bounds are how much is kept at most.
type Bounds struct {
	Bytes int64 // of all files together
	Items int
	Free  int64 // bytes that stay free on the disk that keeps them
}

// The share of files with sensitive data: so many bytes, and so much of the disk that keeps them.
const (
	dataBytes = 1 << 30
	dataPart  = 10
)

// Default are the bounds of the installed service.
var Default = Bounds{Bytes: 4 << 30, Items: 1000, Free: 1 << 30}

// Store is a directory of kept files, for root alone: for each one a directory of its identifier's name, with the file and its
// record.
type Store struct {
	dir  string
	most Bounds
	now  func() time.Time
}

// Open makes a store of a directory, which is created with the first file.
func Open(dir string, most Bounds) *Store { return &Store{dir: dir, most: most, now: time.Now} }

const (
	recordName = "record.json"
	fileName   = "file"
	newPrefix  = ".new-"  // not whole yet
	oldPrefix  = ".gone-" // being removed
	idLen      = 13
	maxRecord  = 64 << 10
	daysName   = ".days" // the count of days
)

// Errors of the store.
var (
	ErrFull      = errors.New("the quarantine has no room for it")
	ErrAbsent    = errors.New("the quarantine has no such file")
	ErrDisturbed = errors.New("another program opened it meanwhile")
)

// Damaged is an entry whose record cannot be used. Its file is kept all the same.
type Damaged struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// List returns what is kept, oldest first, and what is damaged. A store that was never used is empty.
func (s *Store) List() (list []Item, damaged []Damaged, err error) {
	d, err := os.Open(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range names {
		if !ValidID(id) {
			continue
		}
		x, err := s.read(id)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.absent(id): // removed meanwhile
		case err != nil:
			damaged = append(damaged, Damaged{id, err.Error()})
		default:
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b Item) int { return a.Taken.Compare(b.Taken) })
	slices.SortFunc(damaged, func(a, b Damaged) int { return strings.Compare(a.ID, b.ID) })
	return list, damaged, nil
}

func (s *Store) absent(id string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, id))
	return errors.Is(err, fs.ErrNotExist)
}

// read reads one record, and checks it against its file.
func (s *Store) read(id string) (Item, error) {
	b, err := durable.Read(filepath.Join(s.dir, id, recordName), maxRecord)
	if err != nil {
		return Item{}, err
	}
	x, err := parse(id, b)
	if err != nil {
		return Item{}, err
	}
	st, err := os.Lstat(filepath.Join(s.dir, id, fileName))
	if err != nil {
		return Item{}, err
	}
	if !st.Mode().IsRegular() || st.Size() != x.Size {
		return Item{}, fmt.Errorf("its file has %d bytes, and its record says %d", st.Size(), x.Size)
	}
	return x, nil
}

// parse reads a record.
func parse(id string, b []byte) (x Item, err error) {
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fmt.Errorf("its record cannot be read: %w", err)
	}
	switch {
	case x.ID != id:
		return x, fmt.Errorf("its record names %.40q", x.ID)
	case x.Size < 0:
		return x, fmt.Errorf("its record has size %d", x.Size)
	case len(x.SHA256) != 64 || strings.Trim(x.SHA256, "0123456789abcdef") != "":
		return x, fmt.Errorf("its record has sha256 %.80q", x.SHA256)
	}
	return x, nil
}

// Find returns one item.
func (s *Store) Find(id string) (Item, error) {
	if !ValidID(id) || s.absent(id) {
		return Item{}, ErrAbsent
	}
	return s.read(id)
}

// Purge removes a file for good, also one whose record is damaged.
func (s *Store) Purge(id string) error {
	if !ValidID(id) {
		return ErrAbsent
	}
	gone := filepath.Join(s.dir, oldPrefix+id)
	if err := os.Rename(filepath.Join(s.dir, id), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrAbsent
		}
		return err
	}
	return os.RemoveAll(gone)
}

// Sweep removes what an interrupted Keep or Purge has left. Only the one process that keeps files may call it, before it does.
func (s *Store) Sweep() {
	list, _ := os.ReadDir(s.dir)
	for _, e := range list {
		if strings.HasPrefix(e.Name(), newPrefix) || strings.HasPrefix(e.Name(), oldPrefix) {
			_ = os.RemoveAll(filepath.Join(s.dir, e.Name()))
		}
	}
}

// ValidID reports whether a text can be an identifier. Others name no item, and nothing outside the store.
func ValidID(id string) bool {
	return len(id) == idLen && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}
