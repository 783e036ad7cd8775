package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "warder.toml")
	if c, err := Load(path); err != nil || c != (Config{}) {
		t.Errorf("absent: %+v %v", c, err)
	}
	put(t, path, "server = \"https://x\"\nproxy = \"http://p:1\"\nlog_level = \"warn\"\n")
	if c, err := Load(path); err != nil || c.Server != "https://x" || c.Proxy != "http://p:1" || c.LogLevel != "warn" {
		t.Errorf("%+v %v", c, err)
	}
	for text, want := range map[string]string{"sever = 1": `unknown setting "sever"`, "log_level = \"loud\"": `received "loud"`,
		"server = 1": "server", "= broken": "warder.toml",
		"x = \"" + strings.Repeat("y", maxFile) + "\"": "more than"} {
		put(t, path, text)
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v", text, err)
		}
	}
	for _, odd := range []string{"/dev/zero", t.TempDir()} {
		link := filepath.Join(t.TempDir(), "warder.toml")
		if err := os.Symlink(odd, link); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(link); err == nil || !strings.Contains(err.Error(), "regular file") {
			t.Errorf("%s: %v", odd, err)
		}
	}
	put(t, path, "server = \"https://x\"\n")
	if _, err := LoadEnrollment(path); err == nil {
		t.Error("an enrollment without a token passes")
	}
}

// Replacing a file, as editors do, is noticed once.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := make(chan string, 10)
	go func() { _ = Watch(ctx, dir, []string{"a.toml"}, func(n string) { seen <- n }) }()
	time.Sleep(50 * time.Millisecond)
	put(t, filepath.Join(dir, "other"), "x")
	put(t, filepath.Join(dir, "new"), "1")
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "a.toml")); err != nil {
		t.Fatal(err)
	}
	if n := <-seen; n != "a.toml" {
		t.Errorf("%q", n)
	}
	select {
	case n := <-seen:
		t.Errorf("%q again", n)
	case <-time.After(2 * settle):
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("server = \"https://x\"\nlog_level = \"info\"\n")
	f.Fuzz(func(t *testing.T, in string) {
		path := filepath.Join(t.TempDir(), "warder.toml")
		put(t, path, in)
		if c, err := Load(path); err == nil {
			if _, lerr := c.Level(); lerr != nil {
				t.Fatal(lerr)
			}
		}
	})
}
