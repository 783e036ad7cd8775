package quarantine

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/warderd/warder/platform/durable"
)

// days is the store's own count of days, because a clock can be wrong by years: it goes on by one at most each time.
type days struct {
	Count int       `json:"count"`
	At    time.Time `json:"at"` // when it went on last
}

// aDay is how far the clock has to have moved, either way, for the count to go on.
const aDay = 20 * time.Hour

// day is which day it is.
func (s *Store) day() int {
	path := filepath.Join(s.dir, daysName)
	var d days
	if b, err := durable.Read(path, maxRecord); err == nil {
		_ = json.Unmarshal(b, &d) // begun anew: files are kept for longer
	}
	now := s.now().UTC()
	if now.Sub(d.At).Abs() < aDay {
		return d.Count
	}
	d.Count, d.At = d.Count+1, now
	if b, err := json.Marshal(d); err == nil {
		_ = durable.Write(path, b, 0o600)
	}
	return d.Count
}

// Expire removes files with sensitive data that have been kept for so many days on which somebody has asked for it, and returns how
// many. A count that was lost has no file be too old.
func (s *Store) Expire(days int) (gone int, err error) {
	list, _, err := s.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	today := s.day()
	for _, x := range list {
		if !x.Data || x.Day <= 0 || today-x.Day < days {
			continue
		}
		if e := s.Purge(x.ID); e != nil {
			err = errors.Join(err, e)
			continue
		}
		gone++
	}
	return gone, err
}

// share is how many bytes files with sensitive data may have together.
func (s *Store) share() int64 {
	if size, ok := durable.Size(s.dir); ok {
		return min(dataBytes, size/dataPart)
	}
	return dataBytes
}
