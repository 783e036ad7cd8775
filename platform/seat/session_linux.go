package seat

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Session names the logind session of a user's process, "" for none. It is the session whose scope the process runs in
// or, for a process of the user's service manager, the session that logind shows for the user. Only control groups that
// logind itself creates count, from the root of the tree down, because below the service manager a user can create
// groups of any name. The session has to be that user's.
func Session(uid uint32, pid int) string { return session("/proc", "/run/systemd", uid, pid) }

var (
	sessionScope = regexp.MustCompile(`^/user\.slice/user-([0-9]+)\.slice/session-([A-Za-z0-9]+)\.scope$`)
	userService  = regexp.MustCompile(`^/user\.slice/user-([0-9]+)\.slice/user@([0-9]+)\.service(/|$)`)
	sessionName  = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)
)

// session is Session, with the directories as arguments.
func session(proc, run string, uid uint32, pid int) string {
	if pid <= 0 {
		return ""
	}
	// One line for cgroup v2, "0::/path"; the kernel reports it relative to the whole machine (cgroups(7)).
	group := ""
	for line := range strings.Lines(small(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = path
		}
	}
	name, user := "", strconv.FormatUint(uint64(uid), 10)
	if m := sessionScope.FindStringSubmatch(group); m != nil && m[1] == user {
		name = m[2]
	} else if m := userService.FindStringSubmatch(group); m != nil && m[1] == user && m[2] == user {
		name = field(small(filepath.Join(run, "users", user)), "DISPLAY")
	}
	if !sessionName.MatchString(name) {
		return ""
	}
	// A greeter is nobody's session, and what is left of one that has ended says nothing any more.
	text := small(filepath.Join(run, "sessions", name))
	if field(text, "UID") != user || !strings.HasPrefix(field(text, "CLASS"), "user") || field(text, "STATE") == "closing" {
		return ""
	}
	return name
}

// small reads a small regular file; "" if it is not one.
func small(path string) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return string(b)
}

// field returns a value of a NAME=value text.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return v
		}
	}
	return ""
}
