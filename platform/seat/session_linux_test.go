package seat

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSession(t *testing.T) {
	dir := t.TempDir()
	put := func(path, text string) {
		path = filepath.Join(dir, path)
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("run/sessions/3", "UID=1000\nACTIVE=1\nCLASS=user\n")
	put("run/sessions/c1", "UID=1001\nCLASS=user-early\n")
	put("run/sessions/5", "UID=1000\nCLASS=user\n")
	put("run/sessions/c7", "UID=1000\nCLASS=greeter\n")
	put("run/sessions/8", "UID=1000\nCLASS=user\nSTATE=closing\n")
	put("run/users/1000", "NAME=ann\nDISPLAY=3\n")
	put("run/users/1001", "NAME=bob\nDISPLAY=../../x\n")
	for pid, group := range map[string]string{
		"10": "0::/user.slice/user-1000.slice/session-3.scope\n",
		"11": "0::/user.slice/user-1000.slice/user@1000.service/app.slice/warder.service\n",
		"21": "0::/user.slice/user-1000.slice/session-c7.scope\n", "22": "0::/user.slice/user-1000.slice/session-8.scope\n",
		"12": "0::/system.slice/cron.service\n", "13": "0::/user.slice/user-1001.slice/session-c1.scope\n",
		"14": "12:pids:/x\n0::/user.slice/user-1000.slice/session-3.scope\n",
		"15": "0::/user.slice/user-1001.slice/user@1001.service/x\n", "16": "0::/x/session-9.scope\n",
		"17": "0::/user.slice/user-1000.slice/session-3.scope/made-by-hand\n",
		"18": "0::/user.slice/user-1000.slice/user@1000.service/app.slice/session-5.scope\n",
		"19": "0::/system.slice/foo.service/user@1000.service/x\n",
		"20": "0::/user.slice/user-1000.slice/user@1000.service/user@1001.service/x\n",
	} {
		put("proc/"+pid+"/cgroup", group)
	}
	for _, c := range []struct {
		uid  uint32
		pid  int
		want string
	}{{1000, 10, "3"}, {1000, 11, "3"}, {1000, 12, ""}, {1000, 21, ""}, {1000, 22, ""}, {1001, 13, "c1"}, {1000, 14, "3"}, {1001, 15, ""}, {1000, 16, ""}, {1001, 10, ""},
		{1001, 11, ""}, {1000, 17, ""}, {1000, 18, "3"}, {1000, 19, ""}, {1001, 20, ""}, {1000, 99, ""}, {1000, 0, ""}, {1000, -1, ""}} {
		if got := session(dir+"/proc", dir+"/run", c.uid, c.pid); got != c.want {
			t.Errorf("user %d, process %d: %q, want %q", c.uid, c.pid, got, c.want)
		}
	}
}
