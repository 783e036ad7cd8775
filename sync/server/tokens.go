package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/server/store"
)

// adminKey is one HS256 secret for administrators' tokens.
type adminKey struct {
	ID  string `json:"kid"`
	Key []byte `json:"k"`
}

// loadAdmin reads the secrets of tokens: one as 32 bytes, or after a rotation a list.
func (k *Keys) loadAdmin() ([]adminKey, error) {
	b, err := secretFile(k.file("admin.key"), random32)
	if err != nil {
		return nil, err
	}
	if len(b) == 32 {
		return []adminKey{{Key: b}}, nil
	}
	var list []adminKey
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 {
		return nil, errors.New("admin.key is neither 32 bytes nor a list of keys")
	}
	for _, a := range list {
		if len(a.Key) < 32 {
			return nil, fmt.Errorf("admin.key: key %q has less than 32 bytes", a.ID)
		}
	}
	return list, nil
}

// RotateAdmin makes a new secret for tokens. Tokens signed with the previous secret stay valid until they expire; with
// drop, only new tokens are valid.
func (k *Keys) RotateAdmin(drop bool) error {
	key, err := random32()
	if err != nil {
		return err
	}
	k.mu.RLock()
	list := []adminKey{{ID: rand.Text()[:8], Key: key}}
	if !drop {
		list = append(list, k.admin[0]) // the previous one and no older
	}
	k.mu.RUnlock()
	b, _ := json.Marshal(list)
	if err := replaceFile(k.file("admin.key"), b); err != nil {
		return err
	}
	return k.Reload()
}

// adminID identifies the secret that signs tokens.
func (k *Keys) adminID() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.admin[0].ID
}

// adminAudience refuses tokens of another system that were signed with the same secret by mistake.
const adminAudience = "warder-api"

// audience is that of the tokens for a façade: an older server, which knows no façades, refuses them.
func audience(facade string) string {
	if facade == "" {
		return adminAudience
	}
	return "warder-facade-" + facade
}

// AdminClaims are the claims of an administrator's token.
type AdminClaims struct {
	jwt.Claims
	Role string `json:"role"`
	// Facade is the vendor whose calls the token is for (facade.Vendor.Name), and it is for no other ones; "" is for this API's.
	Facade string `json:"facade,omitempty"`
}

// AdminToken makes a bearer token for a role.
func (k *Keys) AdminToken(subject, role string, ttl time.Duration, now time.Time) (string, error) {
	return k.token(subject, role, "", ttl, now)
}

func (k *Keys) token(subject, role, facade string, ttl time.Duration, now time.Time) (string, error) {
	k.mu.RLock()
	key := k.admin[0]
	k.mu.RUnlock()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if key.ID != "" {
		o = o.WithHeader(jose.HeaderKey("kid"), key.ID)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key.Key}, o)
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(AdminClaims{jwt.Claims{
		ID: rand.Text()[:16], Subject: subject, Audience: jwt.Audience{audience(facade)}, IssuedAt: jwt.NewNumericDate(now),
		Expiry: jwt.NewNumericDate(now.Add(ttl)),
	}, role, facade}).Serialize()
}

// Admin returns the subject and role of a bearer token for this API, or for a façade, and when it ends.
func (k *Keys) Admin(token, facade string, now time.Time) (subject, role string, until time.Time, err error) {
	c, err := k.AdminOf(token, now)
	switch {
	case err != nil:
		return "", "", until, err
	case c.Facade != "" && facade == "":
		return "", "", until, fmt.Errorf("the token is for the calls of %.20q alone (warder-server token create --facade)", c.Facade)
	case c.Facade != facade:
		return "", "", until, fmt.Errorf("the token is not for the calls of %q: make one with warder-server token create --facade %s", facade, facade)
	}
	return c.Subject, c.Role, c.Expiry.Time(), nil
}

// AdminOf checks a bearer token. It only accepts HS256, with an expiry.
func (k *Keys) AdminOf(token string, now time.Time) (AdminClaims, error) {
	var c AdminClaims
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return c, errors.New("the token is not one that this server signed (HS256)")
	}
	k.mu.RLock()
	list := k.admin
	k.mu.RUnlock()
	err = errors.New("no key")
	for i := 0; i < len(list) && err != nil; i++ {
		c = AdminClaims{}
		err = t.Claims(list[i].Key, &c)
	}
	if err != nil {
		return AdminClaims{}, errors.New("the token was not signed by this server, or its key was rotated away")
	}
	if c.Expiry == nil {
		return c, errors.New("the token has no expiry")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{audience(c.Facade)}, Time: now}, 0); err != nil {
		return c, fmt.Errorf("the token is not valid: %w", err)
	}
	if c.Role != "admin" && c.Role != "viewer" {
		return c, fmt.Errorf("the token's role %q is neither admin nor viewer", c.Role)
	}
	return c, nil
}

// issuedDir is where entries for the audit log wait for a running server: whoever makes a token has the keys, but
// perhaps not the database.
const issuedDir = "issued"

// issued is one token that was made.
type issued struct {
	ID      string    `json:"id"`
	Subject string    `json:"subject"`
	Role    string    `json:"role"`
	Facade  string    `json:"facade,omitempty"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Until   time.Time `json:"until"`
}

// Issue makes a token and an entry for the audit log, which a server writes as soon as it runs. Without the entry there
// is no token.
func (k *Keys) Issue(subject, role, facade, by string, ttl time.Duration, now time.Time) (string, error) {
	token, err := k.token(subject, role, facade, ttl, now)
	if err != nil {
		return "", err
	}
	c, err := k.AdminOf(token, now)
	if err != nil {
		return "", err
	}
	dir := k.file(issuedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	b, _ := json.Marshal(issued{c.ID, subject, role, facade, by, now.UTC(), now.Add(ttl).UTC()})
	path := filepath.Join(dir, c.ID+".json")
	if err := replaceFile(path, b); err != nil {
		return "", fmt.Errorf("the token cannot be noted for the audit log: %w", err)
	}
	return token, nil
}

// noteIssued writes waiting entries into the audit log.
func (k *Keys) noteIssued(ctx context.Context, s *store.Store) error {
	dir := k.file(issuedDir)
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		var x issued
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // being written
		}
		b, rerr := durable.Read(path, 4<<10)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue // another node took it
		}
		if rerr != nil {
			err = errors.Join(err, rerr) // the others first
			continue
		}
		if json.Unmarshal(b, &x) == nil && !k.isNoted(x.ID) {
			who := store.WithActor(ctx, store.Actor{By: x.By})
			detail := []string{"id " + x.ID, "role " + x.Role, "until " + x.Until.Format(time.RFC3339)}
			if x.Facade != "" {
				detail = append(detail, "for the calls of "+x.Facade)
			}
			if nerr := s.Note(who, "token.created", x.Subject, detail, x.At); nerr != nil {
				return errors.Join(err, nerr)
			}
			k.noted(x.ID) // also if the file cannot be removed
		}
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func (k *Keys) isNoted(id string) bool {
	_, is := k.issued.Load(id)
	return is
}

func (k *Keys) noted(id string) { k.issued.Store(id, true) }
