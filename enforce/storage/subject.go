package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Subject is the subject of a question: a path. That of a device ("/dev/sdb1") stands for its disk, another one for the disk
// that it is on. With a size, it is about a file there that gets so many bytes.
type Subject struct {
	Path string  `json:"path,omitempty"`
	Size *uint64 `json:"size,omitempty"`
	// Client is a sync client, by its ID or by the name of one of its programs, instead of a path.
	Client string `json:"client,omitempty"`
}

// maxPath is the kernel's bound of a path, and maxClient one of a client's name.
const (
	maxPath   = 4096
	maxClient = 255
)

// Explain answers for the disk that a path is on, which needs a present snapshot.
func (r *Rules) Explain(subject json.RawMessage, now *fact.Machine) (section.Answer, error) {
	var in Subject
	if err := json.Unmarshal(subject, &in); err != nil {
		return section.Answer{}, fmt.Errorf("the subject cannot be read: %w", err)
	}
	if in.Client != "" {
		if len(in.Client) > maxClient {
			return section.Answer{}, fmt.Errorf("client %q must have at most %d bytes", enforce.Plain(in.Client[:maxClient]), maxClient)
		}
		return r.explainClient(in.Client), nil
	}
	if !path.IsAbs(in.Path) || len(in.Path) > maxPath {
		return section.Answer{}, fmt.Errorf("path %q must begin with / and have at most %d bytes", enforce.Plain(in.Path[:min(len(in.Path), 64)]), maxPath)
	}
	if now == nil {
		return section.Answer{}, section.ErrPresent
	}
	if why, unread := now.Unread(fact.PartMedia); unread {
		return section.Answer{}, errors.New(why)
	}
	m := find(now, path.Clean(in.Path))
	if m == nil && in.Size != nil {
		return section.Answer{Answer: section.Allow, Subject: in.Path, Reason: "it is on no external disk, and only there files are limited"}, nil
	}
	if m == nil {
		return section.Answer{Answer: section.Allow, Subject: in.Path,
			Reason: "it is on none of the machine's disks: a share of the network, memory, or a file system made of others"}, nil
	}
	a := r.ask(m)
	if in.Size != nil && a.Answer == section.Allow {
		a = r.askFile(m, *in.Size, path.Clean(in.Path))
	}
	if a.Now = state(m); len(m.Mounts) > 0 {
		a.Now += "; mounted at " + strings.Join(m.Mounts, ", ")
	}
	return a, nil
}

// state is what was read of a disk, for people.
func state(m *fact.Medium) string {
	switch {
	case !m.Refused.OK:
		return "whether the kernel refuses it cannot be read: " + m.Refused.Why
	case !m.Refused.V && m.Limited != nil && *m.Limited && m.Taken:
		return "it can be used; files that are too large are taken off it once they were written"
	case !m.Refused.V && m.Limited != nil && *m.Limited:
		return "it can be used; the kernel limits the size of files there"
	case m.Off:
		return "it is refused: its driver is taken off it"
	case m.Refused.V && m.Open:
		return "the kernel refuses it; a program may have it open since before"
	case m.Refused.V:
		return "the kernel refuses it"
	}
	return "it can be used"
}

// find returns the disk of a device's node, or the one that is mounted nearest above a path; nil if there is none.
func find(now *fact.Machine, at string) *fact.Medium {
	list := now.Media.V
	if name, ok := strings.CutPrefix(at, "/dev/"); ok {
		for i := range list {
			if slices.Contains(list[i].Parts, name) || list[i].Name == name {
				return &list[i]
			}
		}
	}
	var best *fact.Medium
	most := -1
	nearer := func(point string) bool {
		return (point == "/" || at == point || strings.HasPrefix(at, point+"/")) && len(point) > most
	}
	for i := range list {
		for _, point := range list[i].Mounts {
			if nearer(point) {
				best, most = &list[i], len(point)
			}
		}
	}
	for _, point := range now.Elsewhere {
		if nearer(point) {
			best, most = nil, len(point)
		}
	}
	return best
}

// Replay answers for the disk of an event.
func (r *Rules) Replay(facts enforce.Facts) (section.Answer, bool) {
	var client fact.Running
	if facts != "" && json.Unmarshal([]byte(facts), &client) == nil && client.App != "" {
		return r.askClient(&client), true
	}
	var w fact.Written
	if facts == "" || json.Unmarshal([]byte(facts), &w) != nil || w.Name == "" {
		return section.Answer{}, false
	}
	if w.About == fact.AboutSize {
		return r.askSize(&w, w.Bytes > 0), true
	}
	return r.ask(&w.Medium), true
}

// Present answers for each external disk of the snapshot, and for each sync client that runs.
func (r *Rules) Present() []section.Answer {
	var out []section.Answer
	for i := range r.machine.Media.V {
		if m := &r.machine.Media.V[i]; m.External.V || !m.External.OK {
			out = append(out, r.ask(m))
		}
	}
	for i := range r.machine.Clients.V {
		out = append(out, r.askClient(&r.machine.Clients.V[i]))
	}
	return out
}

// Public returns these rules without anything below enforce.
func (r *Rules) Public() section.Rules {
	c := *r
	if c.mode < enforce.Enforce {
		c.mode = enforce.Off
	}
	if c.sizeMode < enforce.Enforce {
		c.sizeMode = enforce.Off
	}
	if c.syncMode < enforce.Enforce {
		c.syncMode = enforce.Off
	}
	return &c
}

// ask explains one disk.
func (r *Rules) ask(m *fact.Medium) section.Answer {
	v := r.Judge(m)
	a := section.Answer{Answer: section.Word(v), Subject: Name(m), Group: "disk on " + m.Bus}
	a.Reason, a.Nearest = r.Reason(v, m)
	return a
}

// askFile explains one file of some size.
func (r *Rules) askFile(m *fact.Medium, size uint64, file string) section.Answer {
	a := r.askSize(&fact.Written{Medium: *m, Bytes: size}, true)
	switch {
	case a.Answer == section.Allow:
	case slices.Contains(r.files, file):
		a.Answer, a.Reason, a.Nearest = section.Allow, "an exception for this file is in force", ""
	case a.Nearest != "":
		a.Nearest += fmt.Sprintf("; for this file alone: grant an exception for %q", policy.FileSubject+file)
	}
	return a
}

// askSize explains a file of some size on a disk; or, if it is not sized, whatever would get round the limit there.
func (r *Rules) askSize(w *fact.Written, sized bool) section.Answer {
	v := r.Sizes().Judge(&w.Medium)
	a := section.Answer{Answer: section.Word(v), Subject: "files on " + Name(&w.Medium), Group: "file on disk on " + w.Bus}
	a.Reason, a.Nearest = r.Sizes().Reason(v, &w.Medium)
	if !sized {
		return a
	}
	a.Subject = fmt.Sprintf("a file of %d bytes on %s", w.Bytes, Name(&w.Medium))
	if a.Answer != section.Allow && w.Bytes <= r.most {
		a.Answer, a.Reason, a.Nearest = section.Allow, fmt.Sprintf("it is within the limit: storage.max_file_size_mb is %d (%d bytes)", r.most>>20, r.most), ""
		if w.Bytes > 0 {
			a.Nearest = fmt.Sprintf("set storage.max_file_size_mb to %d", (w.Bytes-1)>>20)
		}
	}
	return a
}
