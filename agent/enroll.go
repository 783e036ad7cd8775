package agent

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// Enrollment contains what is needed to enroll.
type Enrollment struct {
	Server string
	Token  secret.Text
	CAPin  string
}

// wireEnrollment is an enrollment as root's command line sends it to the agent.
type wireEnrollment struct {
	Server string `json:"server"`
	Token  string `json:"token"`
	CAPin  string `json:"ca_pin,omitempty"`
}

// MarshalJSON includes the token in clear: it goes over the local API, to root only.
func (e Enrollment) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireEnrollment{e.Server, e.Token.Reveal(), e.CAPin})
}

// UnmarshalJSON reads it there.
func (e *Enrollment) UnmarshalJSON(b []byte) error {
	var w wireEnrollment
	err := json.Unmarshal(b, &w)
	*e = Enrollment{w.Server, secret.Text(w.Token), w.CAPin}
	return err
}

// Enroll registers this machine and returns the state to store. It stores nothing.
func Enroll(ctx context.Context, e Enrollment, proxy secret.URL, machine string) (identity.State, error) {
	key, err := protocol.NewDeviceKey()
	if err != nil {
		return identity.State{}, err
	}
	out, server, err := checkin.Enroll(ctx, checkin.Server{URL: e.Server, Proxy: proxy}, e.CAPin, e.Token.Reveal(), key,
		describe(), machine)
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) && e.CAPin == "" {
		return identity.State{},
			fmt.Errorf("%w. If that is the server's own authority, name its fingerprint: --ca-pin sha256:…, or ca_pin in enroll.toml "+
				"(on the server: warder-server enrollment create --json)", err)
	}
	if err != nil {
		return identity.State{}, err
	}
	if _, err := protocol.ParseKeys(out.PolicyKeys); err != nil {
		return identity.State{}, err
	}
	if err := plausible(out); err != nil {
		return identity.State{}, fmt.Errorf("%w: %w", checkin.ErrGarbage, err)
	}
	code, err := base64.StdEncoding.DecodeString(out.CodeSecret)
	if err != nil {
		return identity.State{}, fmt.Errorf("%w: code_secret is not base64", checkin.ErrGarbage)
	}
	private, err := key.MarshalJSON()
	if err != nil {
		return identity.State{}, err
	}
	return identity.State{Device: &identity.Device{
		DeviceID: out.DeviceID, Server: server.URL, CA: server.CA, Key: private, PolicyKeys: out.PolicyKeys,
		RecoveryKey: out.RecoveryKey, Machine: machine, Interval: out.Interval, EnrolledAt: out.ServerTime, CodeSecret: code,
		KeysAt:    out.ServerTime,
		Recovered: out.Recovery, RecoveredAt: out.ServerTime,
	}}, nil
}

// deviceName is the pattern of a device id: ids become parts of paths.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// plausible refuses an enrollment that a device could not work with: an invalid id, an impossible time, or a recovery
// counter so high that no recovery could follow.
func plausible(out protocol.EnrollResponse) error {
	if !deviceName.MatchString(out.DeviceID) {
		return fmt.Errorf("device_id must be 1 to 64 letters, digits, _ or - (received %q)",
			enforce.Plain(out.DeviceID[:min(len(out.DeviceID), 80)]))
	}
	if err := protocol.Plausible(out.ServerTime, time.Time{}, time.Time{}); err != nil {
		return err
	}
	// Recovery counters are seconds of the server's clock.
	if most := uint64(out.ServerTime.Add(24 * time.Hour).Unix()); out.Recovery > most {
		return fmt.Errorf("recovery must be at most %d (received %d)", most, out.Recovery)
	}
	return nil
}

// enroll is Enroll for a running agent.
func (a *Agent) enroll(ctx context.Context, e Enrollment) error {
	d, proxy := a.custody.device(), a.settings().Proxy
	if d != nil {
		return fmt.Errorf("this machine is enrolled with %s already; unenroll it first", d.Server)
	}
	st, err := Enroll(ctx, e, proxy, a.o.Machine)
	if err != nil {
		return err
	}
	var again error
	if err := a.call(ctx, func() {
		if a.custody.state.Device != nil {
			again = errors.New("this machine was enrolled meanwhile")
			return
		}
		a.adopt(st)
	}); err != nil {
		return err
	}
	return again
}

// adopt puts a new enrollment into use.
func (a *Agent) adopt(st identity.State) {
	if a.custody.save(st) != nil {
		return
	}
	a.contact.sent = sent{}
	a.health.set(identityDamaged, "")
	a.health.set(enrollmentFailed, "")
	a.connect()
	a.checkIn()
	a.flatten("running")
}

// watchConfig follows the configuration file, and enrolls when an enrollment file is dropped beside it.
func (a *Agent) watchConfig(ctx context.Context) error {
	dir := a.o.Paths.Config
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // configuration is no secret; the enrollment file is removed
		return err
	}
	a.applyConfig()
	a.dropped(ctx)
	return config.Watch(ctx, dir, []string{"warder.toml", "enroll.toml"}, func(name string) {
		if name == "enroll.toml" {
			a.dropped(ctx)
			return
		}
		a.applyConfig()
	})
}

// applyConfig puts a changed configuration into use, and keeps a copy of it; a file with a mistake changes nothing.
func (a *Agent) applyConfig() {
	c, err := config.Load(a.o.Paths.ConfigFile())
	if err == nil && c.Server != "" {
		_, err = checkin.CheckURL(c.Server)
	}
	if err != nil {
		a.health.set(configRefused, "the last good configuration stays in force: "+err.Error())
		a.o.Log.Warn("configuration refused", "error", err)
		return
	}
	a.health.set(configRefused, "")
	if err := config.Keep(a.o.Paths.ConfigFile(), a.o.Paths.Kept); err != nil {
		a.o.Log.Warn("the configuration cannot be remembered", "error", err)
	}
	if level, err := c.Level(); err == nil && a.o.Level != nil {
		a.o.Level.Set(level)
	}
	a.do(func() {
		a.mu.Lock()
		changed := c.Server != a.config.Server || c.Proxy != a.config.Proxy
		a.config = c
		a.mu.Unlock()
		if changed {
			a.o.Log.Info("configuration changed", "server", c.Server, "proxy", c.Proxy)
			a.connect()
			a.checkIn()
		}
	})
}

// droppedRetry is the pause before a dropped enrollment that failed is tried again; it doubles.
const droppedRetry = 30 * time.Second

// dropped enrolls with a file placed by mass deployment, and removes the file, because its token is a secret.
func (a *Agent) dropped(ctx context.Context) {
	path := a.o.Paths.EnrollmentFile()
	if _, err := os.Stat(path); err != nil {
		a.health.set(enrollmentFailed, "")
		return
	}
	e, err := config.LoadEnrollment(path)
	if err == nil {
		if a.custody.device() == nil {
			err = a.enroll(ctx, Enrollment{e.Server, e.Token, e.CAPin})
		}
	}
	if err != nil {
		a.o.Log.Warn("dropped enrollment failed", "error", err)
		a.health.set(enrollmentFailed, err.Error())
		// The network may not be up yet, or the server may be away.
		a.do(func() {
			a.clocks.enroll.Reset(min(droppedRetry<<min(a.clocks.tries, 5), 15*time.Minute))
			a.clocks.tries++
		})
		return
	}
	a.do(func() { a.clocks.tries = 0 })
	if err := os.Remove(path); err != nil {
		a.health.set(enrollmentFailed, "enrolled, and the file with its token cannot be removed: "+err.Error())
	}
}

// Unenroll gives the machine back and then erases the identity, in a running agent. The server keeps the device until
// an administrator retires it.
func (a *Agent) unenroll(ctx context.Context) error {
	var err error
	if cerr := a.call(ctx, func() {
		if a.custody.state.Device == nil {
			err = ErrNotEnrolled
			return
		}
		err = a.forget(protocol.EndedUnenrolled)
	}); cerr != nil {
		return cerr
	}
	return err
}

func encode(v any) []byte { b, _ := json.Marshal(v); return b }
