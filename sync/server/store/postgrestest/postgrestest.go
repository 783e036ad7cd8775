// Package postgrestest starts a real PostgreSQL for tests, in a directory and on a socket of its own, and gives each
// test an empty database. It never touches a server that runs already.
package postgrestest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Server is a running PostgreSQL.
type Server struct {
	Port int
	dir  string
	cmd  *exec.Cmd
}

var (
	once   sync.Once
	shared *Server
	failed error
)

// URL gives a test an empty database on a server that all tests of the process share. Without PostgreSQL the test is
// skipped, and with CI=true it fails.
func URL(t testing.TB) string {
	t.Helper()
	once.Do(func() { shared, failed = Start() })
	if failed != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no PostgreSQL: %v", failed)
		}
		t.Skipf("no PostgreSQL: %v", failed)
	}
	u, err := shared.Database(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Main runs a package's tests and ends the server after them; a TestMain calls it.
func Main(m *testing.M) int {
	code := m.Run()
	if shared != nil {
		shared.Stop()
	}
	return code
}

// bin finds the newest PostgreSQL's programs.
func bin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	sort.Slice(found, func(i, j int) bool { return major(found[i]) < major(found[j]) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	p, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("initdb is not installed (apt-get install postgresql)")
	}
	return filepath.Dir(p), nil
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// Start starts a server. PostgreSQL refuses to run as root: then it runs as the user postgres, which Debian's package
// creates.
func Start() (*Server, error) {
	bin, err := bin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "warder-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	data := filepath.Join(dir, "data")
	init := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "warder", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	init.Dir, init.SysProcAttr = dir, attr
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=127.0.0.1", "-p",
		strconv.Itoa(s.Port),
		"-c", "max_connections=100", "-c", "shared_buffers=256MB", "-c", "log_min_messages=fatal")
	s.cmd.Dir, s.cmd.SysProcAttr = dir, attr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if db, err := sql.Open("pgx", s.url("postgres")); err == nil {
			err = db.Ping()
			_ = db.Close()
			if err == nil {
				return s, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.Stop()
	return nil, errors.New("PostgreSQL did not come up in 10 s")
}

func (s *Server) url(database string) string {
	return fmt.Sprintf("postgres://warder@127.0.0.1:%d/%s?sslmode=disable", s.Port, database)
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(ctx context.Context) (string, error) {
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	name := "t" + strings.ToLower(rand.Text()[:12])
	_, err = db.ExecContext(ctx, "CREATE DATABASE "+name)
	return s.url(name), err
}

// Stop ends the server and removes its files.
func (s *Server) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}
