package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/admin"
	"github.com/warderd/warder/sync/server"
)

// packagedData is the data directory of an installed server: commands on its machine need no flags.
const packagedData = "/var/lib/warder-server"

// ownTokenLife is how long a token is valid that a command makes for itself.
const ownTokenLife = 5 * time.Minute

// target says which server an administrator's command uses, and with which token.
type target struct {
	server, data, ca, tokenFile string
}

const targetHelp = `On the server's own machine no token is needed: it is enough that you can read the server's data directory.
From elsewhere, use --server (or WARDER_SERVER) and WARDER_TOKEN or --token-file; if the server has its own authority,
also --ca (or WARDER_CA) with a file that contains the authority's certificate.`

// targetFlags adds the flags by which a command finds the server.
func (a *app) targetFlags(c *cobra.Command) *cobra.Command {
	f := c.Flags()
	f.StringVar(&a.to.server, "server", "", "URL of the server (default $WARDER_SERVER, or the server on this machine)")
	f.StringVar(&a.to.data, "data", "", "data directory of the server on this machine (default $WARDER_DATA, or "+packagedData+")")
	f.StringVar(&a.to.ca, "ca", "", "PEM file of the authority that the server's certificate is of (default $WARDER_CA, or the system's)")
	f.StringVar(&a.to.tokenFile, "token-file", "", "file with the token, - for standard input (default $WARDER_TOKEN)")
	c.Long = strings.TrimSpace(c.Long + "\n\n" + targetHelp)
	return c
}

// first returns the first text that is not empty.
func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// client connects to the server that the flags name. role is what the command needs: viewer or admin.
func (a *app) client(cmd *cobra.Command, role string) (*admin.Client, error) {
	to := admin.Server{URL: first(a.to.server, os.Getenv("WARDER_SERVER")), Token: os.Getenv("WARDER_TOKEN")}
	if path := a.to.tokenFile; path != "" {
		b, err := readInput(cmd, path, 16<<10)
		if err != nil {
			return nil, fmt.Errorf("cannot read the token: %w", err)
		}
		to.Token = strings.TrimSpace(string(b))
	}
	if path := first(a.to.ca, os.Getenv("WARDER_CA")); path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the authority's certificate: %w", err)
		}
		to.CA = string(b)
	}
	if to.URL != "" && to.Token == "" {
		// Never use a token made here: it would go to whoever the address names.
		return nil, &cli.Failure{Err: errors.New("there is no token for " + to.URL), Code: "no_token", Exit: cli.ExitUsage,
			Hint: "set WARDER_TOKEN, or name a file with --token-file; on the server's own machine leave --server and WARDER_SERVER out"}
	}
	data := first(a.to.data, os.Getenv("WARDER_DATA"), packagedData)
	if to.URL == "" {
		if err := fromData(data, role, &to); err != nil {
			// No server was named and none is installed here: say how to name one.
			var known *cli.Failure
			if a.to.data == "" && !errors.As(err, &known) {
				return nil, &cli.Failure{Err: err, Code: "no_server", Exit: cli.ExitUsage,
					Hint: "name the server: --data DIR on its own machine, or --server URL with a token in WARDER_TOKEN"}
			}
			return nil, err
		}
	}
	return admin.New(to)
}

// fromData fills in what a server's data directory says: its address, its certificate authority, and a token.
func fromData(dir, role string, to *admin.Server) error {
	now := time.Now()
	if err := become(dir); err != nil {
		return err
	}
	url, ca, err := server.Local(dir, now)
	if errors.Is(err, fs.ErrPermission) {
		return unreadable(dir)
	}
	if err != nil {
		return err
	}
	to.URL, to.CA = url, first(to.CA, ca)
	if to.Token != "" {
		return nil
	}
	keys, err := existing(dir)
	if err != nil {
		return err
	}
	// The token is neither stored nor shown. The audit log records what is done with it under this name.
	to.Token, err = keys.AdminToken(caller+" (on the server)", role, ownTokenLife, now)
	return err
}

// caller is who runs this command, before it becomes the server's user.
var caller = me()

// become changes root into the user who owns the data directory, for the rest of this process. Whatever that user has
// put there (a link, a pipe) must not make root write, give away or read files of its own.
func become(dir string) error {
	if err := server.Become(dir); err != nil {
		return fmt.Errorf("cannot act as the user of %s: %w", dir, err)
	}
	return nil
}

// me is the user of this process; under sudo, the user who called sudo.
func me() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" && by != name {
		return by + " as " + name
	}
	return name
}
