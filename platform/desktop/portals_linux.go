package desktop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

// Portals.
const (
	portalDir = "/etc/xdg/xdg-desktop-portal"
	// anyDesktop is the file for desktops that have none of their own.
	anyDesktop = "portals.conf"
)

var (
	portalPrograms = []string{"/usr/libexec/xdg-desktop-portal", "/usr/lib/xdg-desktop-portal"}
	// portalVendors are where desktops put their preferences, which ours hide; of two with the same name the first counts.
	portalVendors = []string{"/etc/xdg-desktop-portal", "/usr/local/share/xdg-desktop-portal", "/usr/share/xdg-desktop-portal"}
)

// maxPortals bounds the files of preferences.
const maxPortals = 64

// portal is what gives programs pictures of the screen on Wayland: it does not any more.
func (s *Settings) portal() part {
	// files are ours, with their texts: one for each of the vendors', and one for any other desktop. A portal takes the first directory in
	// which there is a file for its desktop or for any, so that an administrator's for any outranks a vendor's for one.
	files := func() map[string]string {
		list := make([]map[string]string, len(portalVendors))
		names := map[string]bool{anyDesktop: true}
		for i, dir := range portalVendors {
			list[i] = map[string]string{}
			paths, _ := filepath.Glob(filepath.Join(s.at(dir), "*"+anyDesktop))
			for _, path := range paths[:min(len(paths), maxPortals)] {
				if text, ok := preferences(path); ok {
					list[i][filepath.Base(path)], names[filepath.Base(path)] = text, true
				}
			}
		}
		out := map[string]string{}
		for base := range names {
			of := ""
			for _, has := range list {
				text, is := has[base]
				if !is {
					text, is = has[anyDesktop]
				}
				if is {
					of = text
					break
				}
			}
			out[base] = withoutPortals(of)
		}
		return out
	}
	// there are the files in the directory, and which of them are ours.
	there := func() (ours, others []string) {
		list, _ := filepath.Glob(filepath.Join(s.at(portalDir), "*"+anyDesktop))
		for _, path := range list {
			if text, _, err := owned.Read(path); err == nil && strings.HasPrefix(string(text), note) {
				ours = append(ours, filepath.Base(path))
			} else {
				others = append(others, filepath.Base(path))
			}
		}
		return ours, others
	}
	return part{
		id: portal, name: "portals", how: portalDir,
		here: func() bool { return slices.ContainsFunc(portalPrograms, s.isThere) },
		taken: func(context.Context) string {
			if _, others := there(); len(others) > 0 {
				return portalDir + "/" + others[0] + " is somebody else's"
			}
			if why := s.closed(s.at(portalDir)); why != "" {
				return why
			}
			if s.readsPreferences() {
				return ""
			}
			return "this version of xdg-desktop-portal reads no preferences (1.18 does)"
		},
		read: func(context.Context) (string, error) {
			ours, _ := there()
			if len(ours) == 0 {
				return "", nil
			}
			want := files()
			for base, text := range want {
				b, _, err := owned.Read(s.at(portalDir + "/" + base))
				if err != nil {
					return "", err
				}
				if got, _, _, ok := unstamped(b); !ok || got != text || s.closed(s.at(portalDir+"/"+base)) != "" {
					return other, nil
				}
			}
			if len(ours) != len(want) {
				return other, nil
			}
			return fact.NoScreenshots, nil
		},
		write: func(context.Context) error {
			if err := owned.MakeDir(s.at(portalDir)); err != nil {
				return err
			}
			want := files()
			ours, _ := there()
			for _, base := range ours {
				if _, is := want[base]; !is {
					if err := s.drop(portalDir + "/" + base); err != nil {
						return err
					}
				}
			}
			boot0, since0 := s.stamp()
			if b, _, err := owned.Read(s.at(portalDir + "/" + anyDesktop)); err == nil {
				if old, was, at, ok := unstamped(b); ok && givesNone(old) {
					boot0, since0 = was, at // who had no other file has read this one
				}
			}
			for base, text := range want {
				boot, since := boot0, since0
				if b, _, err := owned.Read(s.at(portalDir + "/" + base)); err == nil {
					old, was, at, ok := unstamped(b)
					if ok && old == text && s.closed(s.at(portalDir+"/"+base)) == "" {
						continue
					}
					if ok && givesNone(old) { // who has read that knows what matters
						boot, since = was, at
					}
				}
				if err := durable.Write(s.at(portalDir+"/"+base), []byte(stamped(text, boot, since)), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		remove: func(context.Context) error {
			ours, _ := there()
			for _, base := range ours {
				if err := s.drop(portalDir + "/" + base); err != nil {
					return err
				}
			}
			owned.RemoveDir(s.root, s.at(portalDir))
			return nil
		},
		programs: portalPrograms,
		late: func(pid int) (bool, error) {
			ours, _ := there()
			for _, base := range ours {
				b, _, err := owned.Read(s.at(portalDir + "/" + base))
				if err != nil {
					return false, err
				}
				if _, boot, since, ok := unstamped(b); ok {
					if late, err := s.before(pid, boot, since); late || err != nil {
						return late, err
					}
				}
			}
			return false, nil
		},
		dirs: func() []string {
			out := []string{s.at(portalDir), filepath.Dir(s.at(portalDir))}
			for _, d := range portalVendors {
				out = append(out, s.at(d))
			}
			return out
		},
	}
}

// readsPreferences reports whether the portals' program is one that reads them.
func (s *Settings) readsPreferences() bool {
	for _, p := range portalPrograms {
		f, err := os.OpenFile(s.at(p), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return false
		}
		if is := fmt.Sprintln(p, st.Dev, st.Ino, st.Size, st.Mtim); is != s.program {
			b, err := io.ReadAll(io.LimitReader(f, maxProgram))
			s.program, s.reads = is, err == nil && bytes.Contains(b, []byte(anyDesktop))
		}
		return s.reads
	}
	return false
}

// maxProgram bounds what is read of a program, in bytes.
const maxProgram = 64 << 20

// preferences reads a file of preferences; false where there is none, whatever has its name. It may be a link.
func preferences(path string) (string, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", false
	}
	b, err := io.ReadAll(io.LimitReader(f, owned.MaxText/2))
	return string(b), err == nil
}
